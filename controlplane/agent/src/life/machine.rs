//! What does the kernel tell of this process and its machine?

use std::collections::HashMap;
use std::path::Path;

/// Names of threads that move packets begin with one of these.
const PACKET_THREADS: [&str; 2] = ["sluice-worker", "sluice-distr"];
/// Nanoseconds of a tick in `/proc/PID/stat` (USER_HZ is 100 on all platforms that we run on).
const TICK_NS: u64 = 10_000_000;

/// This process at one moment; 0 where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// Resident memory and hugepages, bytes.
    pub(crate) memory_bytes: u64,
    /// Threads.
    pub(crate) threads: u64,
}

impl Process {
    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let memory_bytes = (number("VmRSS:") + number("HugetlbPages:")).saturating_mul(1024);
        Self { memory_bytes, threads: number("Threads:") }
    }
}

/// Memory that can be had without swapping (`MemAvailable`), bytes; `None` where the kernel does not tell.
pub(crate) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes.saturating_mul(1024))
}

/// Bytes that may still be written in the folder, or in the nearest one above it that is there.
pub(crate) fn free_disk(folder: &Path) -> Option<u64> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let found = rustix::fs::statvfs(there).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// How long the threads ran that move no packets.
#[derive(Debug, Default)]
pub(crate) struct OtherThreads {
    /// What each had run when it was last seen, nanoseconds.
    seen: HashMap<String, u64>,
    total_ns: u64,
}

impl OtherThreads {
    /// Nanoseconds since the first call, threads included that have ended since.
    pub(crate) fn ran_ns(&mut self) -> u64 {
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return self.total_ns };
        let first = self.seen.is_empty();
        let mut now = HashMap::new();
        for task in tasks.flatten() {
            let Some(ran_ns) = other_thread(&task.path()) else { continue };
            let name = task.file_name().to_string_lossy().into_owned();
            let before = self.seen.get(&name).copied().unwrap_or(0);
            if !first {
                self.total_ns += ran_ns.saturating_sub(before);
            }
            now.insert(name, ran_ns);
        }
        self.seen = now;
        self.total_ns
    }
}

/// How long the thread of this folder ran; `None` if it moves packets, or is gone.
fn other_thread(task: &Path) -> Option<u64> {
    let read = |file: &str| std::fs::read_to_string(task.join(file)).ok();
    let name = read("comm")?;
    if PACKET_THREADS.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let exact = read("schedstat").and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    exact.or_else(|| {
        // proc(5): utime and stime are fields 14 and 15; the name before them may hold anything.
        let stat = read("stat")?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        Some(ticks * TICK_NS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn the_kernel_tells() {
        let process = Process::read();
        assert!(process.memory_bytes > 1 << 20 && process.threads >= 2, "{process:?}");
        assert!(available_memory().unwrap() > 1 << 20);
        let free = free_disk(Path::new("/")).unwrap();
        assert!(free > 0 && free_disk(Path::new("/no/such/folder")).is_some());
        assert!(free_disk(Path::new("")).is_some());
    }

    #[test]
    fn threads_that_move_packets_do_not_count() {
        let spin = |name: &str| {
            let body = || {
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_millis(200) {
                    std::hint::spin_loop();
                }
            };
            std::thread::Builder::new().name(name.to_owned()).spawn(body).unwrap()
        };
        let mut others = OtherThreads::default();
        others.ran_ns();
        let begin = others.ran_ns();
        let worker = spin("sluice-worker99");
        std::thread::sleep(Duration::from_millis(100));
        let idle = others.ran_ns() - begin;
        worker.join().unwrap();
        let other = spin("sluice-api");
        std::thread::sleep(Duration::from_millis(100));
        let busy = others.ran_ns();
        other.join().unwrap();
        // Other tests run beside this one: only the lower bound is sure.
        assert!(busy - begin > idle, "{begin} {idle} {busy}");
        assert!(others.ran_ns() >= busy, "it never falls");
    }
}
