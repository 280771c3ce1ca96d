//! For how long did a thread really have a CPU? From the scheduler's own account.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Where the kernel keeps the account of one thread.
#[derive(Clone, Debug)]
pub struct ThreadTime(PathBuf);

impl ThreadTime {
    /// The calling thread.
    #[must_use]
    pub fn current() -> Self {
        Self("/proc/thread-self/schedstat".into())
    }

    /// Thread `tid` of process `pid`.
    #[must_use]
    pub fn of(pid: u32, tid: u32) -> Self {
        Self(format!("/proc/{pid}/task/{tid}/schedstat").into())
    }

    /// Nanoseconds on a CPU since the thread began. Up to date for the calling thread; of others up to a scheduler
    /// tick (4 ms) old.
    pub fn run_ns(&self) -> Result<u64> {
        // Passing through the scheduler brings the account up to date.
        std::thread::yield_now();
        let path = self.0.display();
        let text = std::fs::read_to_string(&self.0).with_context(|| format!("{path} cannot be read"))?;
        let first = text.split_whitespace().next().with_context(|| format!("{path} is empty"))?;
        first.parse().with_context(|| format!("{path}: \"{first}\" is no number"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn sleeping_is_not_running() {
        let time = ThreadTime::current();
        let before = time.run_ns().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let slept = time.run_ns().unwrap();
        assert!(slept - before < 40_000_000, "{}", slept - before);
        let start = Instant::now();
        while time.run_ns().unwrap() - slept < 20_000_000 {
            assert!(start.elapsed() < Duration::from_secs(20), "work is not counted");
        }
    }
}
