//! How does the clock step for one process alone? By libfaketime, which answers instead of the kernel's CLOCK_REALTIME.
//!
//! The clock of the machine stays as it is: other things run on it, and no namespace of the kernel has a CLOCK_REALTIME of
//! its own. What the kernel stamps itself, the frames of `af_packet`, keeps the true time; it is the broker's own clock
//! that steps. `sluice_clock_steps_total` says whether the step reached it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian's package `libfaketime` has the library for programs with threads, below a folder of /usr/lib.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The clock of a process, ahead of the true one by some seconds.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
    /// Seconds that it is ahead; may be negative.
    pub ahead_s: f64,
}

impl Clock {
    /// A clock that is right, with its file in `folder`. Without the library says so and gives `None`; with `CI=true` it
    /// panics.
    pub fn new(folder: &Path) -> Option<Self> {
        let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let Some(library) = folders.map(|entry| entry.path().join(LIBRARY)).find(|path| path.is_file())
        else {
            let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
            assert!(!ci, "clock steps: install libfaketime");
            crate::left_out("clock steps: install libfaketime");
            return None;
        };
        let mut clock = Self { library, file: folder.join("clock"), ahead_s: 0.0 };
        clock.step(0.0);
        Some(clock)
    }

    /// Steps, at once.
    pub fn step(&mut self, seconds: f64) {
        self.ahead_s += seconds;
        // In one go: it may be read at any moment.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{:+.3}\n", self.ahead_s)).unwrap();
        fs::rename(next, &self.file).unwrap();
    }

    /// What has a process live by this clock: words of `env` in front of its program.
    pub fn apply(&self, command: &mut Command) {
        command.arg(format!("LD_PRELOAD={}", self.library.display()));
        command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()));
        // The monotonic clock never steps, and files have the kernel's times. A killed process would leave its shared
        // memory behind.
        command.args(["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"]);
        command.args(["NO_FAKE_STAT=1", "FAKETIME_DISABLE_SHM=1"]);
    }
}
