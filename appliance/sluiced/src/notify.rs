//! What is systemd told? Readiness, state, reloads, the end, and that the daemon is alive (sd_notify(3)).
//!
//! Nothing is sent unless `NOTIFY_SOCKET` names a socket, which every message goes to as one datagram. A message that is
//! lost is lost: systemd acts on what does not come.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sluice_agent::{Round, State};

/// How long the main thread may be silent while the watchdog is petted: longer than any policies take to be put in force.
const PATIENCE: Duration = Duration::from_secs(15);

/// The connection to systemd, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notify(Option<Arc<Connection>>);

#[derive(Debug)]
struct Connection {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The watchdog ends the daemon when it hears nothing for so long.
    watchdog: Option<Duration>,
    /// When the main thread was last seen.
    seen: Mutex<Instant>,
    /// Something else than the state was told: the next round tells it again, which may have changed in between.
    stale: AtomicBool,
}

impl Notify {
    /// As the environment says. What is wrong with it is told, and nothing is sent then.
    pub(crate) fn from_env() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let variable = |name| std::env::var(name).ok();
        let watchdog = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        Self::connect(&name, watchdog).unwrap_or_else(|error| {
            tracing::warn!(socket = ?name, %error, "systemd is told nothing");
            Self::default()
        })
    }

    /// A path, or the name of an abstract socket after an `@`.
    fn connect(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // Nobody has to read it for the daemon to go on.
        socket.set_nonblocking(true)?;
        let seen = Mutex::new(Instant::now());
        Ok(Self(Some(Arc::new(Connection {
            socket,
            address,
            watchdog,
            seen,
            stale: AtomicBool::new(false),
        }))))
    }

    fn send(&self, message: &str) {
        let Some(connection) = &self.0 else { return };
        if let Err(error) = connection.socket.send_to_addr(message.as_bytes(), &connection.address) {
            tracing::debug!(%error, "systemd was not told");
        }
    }

    /// The daemon runs in this state: the first policies are in force.
    pub(crate) fn ready(&self, state: State, exceptions: usize) {
        self.send(&format!("READY=1\nSTATUS={}", status(state, exceptions)));
        self.0.iter().for_each(|connection| connection.stale.store(true, Ordering::Release));
    }

    /// It reads its policies anew; [`Notify::ready`] ends that.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=reading the policies anew"));
    }

    /// It ends.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping: what was received goes out first");
    }

    /// The main thread is alive.
    pub(crate) fn beat(&self) {
        if let Some(connection) = &self.0 {
            *connection.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }

    /// What is to be done in each round of the thread that looks after the state: tell the state when it changed, and pet
    /// the watchdog at half of its time, but only while everything moves.
    pub(crate) fn rounds(&self) -> impl FnMut(Round) + Send + 'static {
        let notify = self.clone();
        let mut told = None;
        let mut petted: Option<Instant> = None;
        let mut stuck = false;
        move |round| {
            let Some(connection) = &notify.0 else { return };
            let state = (round.state, round.exceptions);
            let stale = connection.stale.swap(false, Ordering::Acquire);
            if told.replace(state) != Some(state) || stale {
                notify.send(&format!("STATUS={}", status(round.state, round.exceptions)));
            }
            let Some(watchdog) = connection.watchdog else { return };
            let silent = connection.seen.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            let now_stuck = round.stalled > watchdog / 2 || silent > PATIENCE.max(watchdog / 2);
            if now_stuck && !stuck {
                let (workers_ms, main_ms) = (round.stalled.as_millis(), silent.as_millis());
                tracing::error!(
                    workers_ms,
                    main_ms,
                    "a thread makes no progress: the watchdog is not petted"
                );
            }
            stuck = now_stuck;
            // A quarter early: rounds take their time.
            if !stuck && petted.is_none_or(|last| last.elapsed() >= watchdog * 3 / 8) {
                petted = Some(Instant::now());
                notify.send("WATCHDOG=1");
            }
        }
    }
}

/// A state in words for `systemctl status`.
fn status(state: State, exceptions: usize) -> String {
    let wrong = match exceptions {
        0 => String::new(),
        1 => "; 1 exception".to_owned(),
        more => format!("; {more} exceptions"),
    };
    let state = match state {
        State::SelfCheck => "self-check",
        State::Running | State::Exception => "running",
        State::Protection => "protection: packets are dropped until the load falls",
        State::Stopped => "stopped: nothing is copied until it is started",
    };
    format!("{state}{wrong}")
}

/// The time of the watchdog, if it watches this process.
fn watchdog(usec: Option<String>, of: Option<String>, pid: u32) -> Option<Duration> {
    let ours = of.is_none_or(|of| of.parse() == Ok(pid));
    let usec = usec?.parse::<u64>().ok().filter(|&usec| usec > 0 && ours)?;
    Some(Duration::from_micros(usec))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "test code")]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let len = socket.recv(&mut bytes).unwrap_or(0);
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    #[test]
    fn it_speaks_to_paths_and_abstract_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("sluice-notify-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, name) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            let notify = Notify::connect(&name, None).unwrap();
            notify.ready(State::Running, 0);
            assert_eq!(receive(&socket), "READY=1\nSTATUS=running");
            notify.reloading();
            let message = receive(&socket);
            let usec = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().split('\n').next();
            assert!(usec.unwrap().parse::<u64>().unwrap() > 0, "{message}");
            notify.stopping();
            assert!(receive(&socket).starts_with("STOPPING=1\n"));
        }
        Notify::default().ready(State::Stopped, 0);
    }

    #[test]
    fn the_watchdog_is_petted_while_everything_moves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let watchdog = Duration::from_millis(80);
        let notify = Notify::connect(path.as_os_str(), Some(watchdog)).unwrap();
        let mut rounds = notify.rounds();
        let round = |stalled_ms| Round {
            stalled: Duration::from_millis(stalled_ms),
            state: State::Running,
            exceptions: 0,
        };
        rounds(round(0));
        assert_eq!(receive(&socket), "STATUS=running");
        assert_eq!(receive(&socket), "WATCHDOG=1");
        rounds(round(10));
        assert_eq!(receive(&socket), "", "too early, and then 50 ms have gone");
        rounds(round(41));
        assert_eq!(receive(&socket), "", "a worker stands still");
        rounds(round(0));
        assert_eq!(receive(&socket), "WATCHDOG=1", "it moves again");
        rounds(Round { state: State::Protection, exceptions: 2, ..round(41) });
        let told = "STATUS=protection: packets are dropped until the load falls; 2 exceptions";
        assert_eq!(receive(&socket), told);
        assert_eq!(receive(&socket), "");
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(watchdog(text("2000000"), None, 7), Some(Duration::from_secs(2)));
        assert_eq!(watchdog(text("2000000"), text("7"), 7), Some(Duration::from_secs(2)));
        assert_eq!(watchdog(text("2000000"), text("8"), 7), None);
        assert_eq!(watchdog(text("0"), None, 7), None);
        assert_eq!(watchdog(text("soon"), None, 7), None);
        assert_eq!(watchdog(None, None, 7), None);
    }
}
