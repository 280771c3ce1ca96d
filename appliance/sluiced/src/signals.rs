//! What do signals ask of the daemon?
//!
//! SIGINT and SIGTERM ask for an orderly end, SIGHUP to read the policies anew. The kernel sends SIGHUP, too, when the
//! terminal of the daemon goes away: then it asks for an end, unless the daemon was started not to mind, as by `nohup`.

use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Signals so close to the first are no second one: `timeout` and shells signal a process and its group, which is the
/// same process again.
const SAME_GESTURE: Duration = Duration::from_millis(100);
/// Exit code of a run that a second signal ended at once: as a shell reports SIGINT.
const ENDED_AT_ONCE: i32 = 130;
/// How often to look whether a terminal goes away, and the time between two looks.
const TERMINAL_LOOKS: u32 = 20;
const TERMINAL_ROUND: Duration = Duration::from_millis(25);

/// What was asked for so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The engine runs: there is something to drain (main: w, signals: r).
    started: AtomicBool,
    /// The first signal came (signals: w, main: r).
    stop: AtomicBool,
    /// The policies shall be read anew (both: w).
    reload: AtomicBool,
}

impl Signals {
    /// Starts the thread that waits for signals. The first that asks for an end asks for an orderly one, the second ends
    /// the process; so does the first before the engine runs, as some drivers wait for their peer while they start.
    pub(crate) fn watch() -> io::Result<Self> {
        let ignored = is_ignored(SIGHUP);
        let had_terminal = has_terminal();
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let asked = Self::default();
        let state = Arc::clone(&asked.0);
        let watch = move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                if signal == SIGHUP && !(had_terminal && loses_terminal()) {
                    state.reload.store(true, Ordering::Relaxed);
                    continue;
                }
                let same_gesture = first.is_some_and(|at| signal == SIGHUP || at.elapsed() < SAME_GESTURE);
                if same_gesture || signal == SIGHUP && ignored {
                    continue;
                }
                if first.is_some() || !state.started.load(Ordering::Relaxed) {
                    signal_hook::low_level::exit(ENDED_AT_ONCE);
                }
                first = Some(Instant::now());
                state.stop.store(true, Ordering::Relaxed);
            }
        };
        std::thread::Builder::new().name("sluice-signals".to_owned()).spawn(watch)?;
        Ok(asked)
    }

    /// From now on there is something to end in order.
    pub(crate) fn started(&self) {
        self.0.started.store(true, Ordering::Relaxed);
    }

    /// Whether the run shall end.
    pub(crate) fn stop(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }

    /// Whether the policies shall be read anew; said once for each time that it was asked for.
    pub(crate) fn take_reload(&self) -> bool {
        self.0.reload.swap(false, Ordering::Relaxed)
    }
}

/// Whether the terminal goes away: the kernel may send the signal before it takes the terminal.
fn loses_terminal() -> bool {
    for _ in 0..TERMINAL_LOOKS {
        if !has_terminal() {
            return true;
        }
        std::thread::sleep(TERMINAL_ROUND);
    }
    false
}

/// Whether the process has a terminal that it could lose.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether whoever started this process had a signal ignored, as `nohup` does.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
