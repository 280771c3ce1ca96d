//! Why did a thread not answer? What the kernel says that it did meanwhile (proc_pid_stat(5), sched-stats.rst).

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

/// The name of a worker's thread.
pub(super) fn worker_thread(worker: usize) -> String {
    format!("sluice-worker{worker}")
}

/// A thread of ours at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ThreadTimes {
    folder: PathBuf,
    at: Instant,
    /// Nanoseconds that it ran, and that it waited for its CPU, since it began.
    ran_ns: u64,
    waited_ns: u64,
}

/// What a thread did between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadDoings {
    ran_ms: u64,
    waited_ms: u64,
    state: String,
}

impl ThreadTimes {
    /// The thread of this name now; `None` = there is none, or the kernel does not tell.
    pub(super) fn of(name: &str) -> Option<Self> {
        let threads = std::fs::read_dir("/proc/self/task").ok()?;
        let mut folders = threads.flatten().map(|thread| thread.path());
        // The kernel keeps 15 bytes.
        let name = name.get(..15).unwrap_or(name);
        let is_it = |folder: &PathBuf| {
            std::fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        Self::read(folders.find(is_it)?)
    }

    fn read(folder: PathBuf) -> Option<Self> {
        let text = std::fs::read_to_string(folder.join("schedstat")).ok()?;
        let mut numbers = text.split_ascii_whitespace().map(|number| number.parse().ok());
        Some(Self { folder, at: Instant::now(), ran_ns: numbers.next()??, waited_ns: numbers.next()?? })
    }

    /// What it did since then.
    pub(super) fn until_now(&self) -> Option<ThreadDoings> {
        let now = Self::read(self.folder.clone())?;
        let stat = std::fs::read_to_string(self.folder.join("stat")).ok()?;
        // The name before may hold anything but ends with the last parenthesis.
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        let waits_in = std::fs::read_to_string(self.folder.join("wchan")).unwrap_or_default();
        let place = Some(waits_in.trim()).filter(|place| !place.is_empty() && *place != "0");
        let ran_ms = now.ran_ns.saturating_sub(self.ran_ns) / 1_000_000;
        let counted_ms = now.waited_ns.saturating_sub(self.waited_ns) / 1_000_000;
        // A wait is counted when it is over: who is ready and never ran waits still.
        let passed_ms = u64::try_from(now.at.duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        Some(ThreadDoings {
            ran_ms,
            waited_ms: if state == 'R' && ran_ms == 0 { passed_ms } else { counted_ms },
            state: place.map_or_else(|| state.to_string(), |place| format!("{state} in {place}")),
        })
    }
}

impl fmt::Display for ThreadDoings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ran_ms, waited_ms, state } = self;
        write!(f, "it ran for {ran_ms} ms, waited for its CPU for {waited_ms} ms and is in state {state}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_works_and_who_sleeps_is_told() {
        let (end, ends) = channel::<()>();
        let sleeper = std::thread::Builder::new().name("times-sleeper-with-a-long-name".to_owned());
        let sleeper = sleeper.spawn(move || ends.recv().is_err()).unwrap();
        let worker = std::thread::Builder::new().name("times-worker".to_owned());
        let worker = worker.spawn(|| {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(600) {
                std::hint::spin_loop();
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        let [asleep, works] =
            ["times-sleeper-with-a-long-name", "times-worker"].map(|name| ThreadTimes::of(name).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        let asleep = asleep.until_now().unwrap();
        assert!(asleep.ran_ms == 0 && asleep.state.starts_with('S'), "{asleep}");
        let works = works.until_now().unwrap();
        assert!(works.ran_ms + works.waited_ms > 200 && works.state.starts_with('R'), "{works}");
        drop(end);
        assert!(sleeper.join().unwrap());
        worker.unwrap().join().unwrap();
        assert_eq!(ThreadTimes::of("times-worker"), None);
    }
}
