//! What does a core do when nothing comes? It polls on for a while, then sleeps, for a bounded time.
//!
//! How it is woken depends on its sources: kernel interfaces and drivers with receive interrupts by a file descriptor,
//! workers behind distributors by a [`Doorbell`]. A source that can wake nobody is looked at again after at most
//! `max_sleep`. Under load nothing of this is reached, and no system call is made.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use dpdk::{MAX_WAIT_FDS, RxWaiter};

use crate::port::Source;

/// Polls that bring nothing before the first sleep.
const SPINS: u32 = 256;
/// The first sleep of a row; each is twice as long as the one before.
const FIRST_NAP: Duration = Duration::from_micros(10);
/// The longest sleep where all sources wake: control frames and ports that only send wait so long.
const LONG: Duration = Duration::from_millis(4);
/// The longest sleep otherwise, unless the boot config says.
pub const DEFAULT_MAX_SLEEP: Duration = Duration::from_micros(250);

/// Whether and how long a core may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleSettings {
    /// Sleep when nothing comes; otherwise poll without a pause.
    pub adaptive: bool,
    /// The longest sleep that nothing can end, and so the most that sleeping adds to the delay of a packet.
    pub max_sleep: Duration,
}

impl IdleSettings {
    /// Poll without a pause.
    pub const ALWAYS: Self = Self { adaptive: false, max_sleep: DEFAULT_MAX_SLEEP };
}

/// Wakes a worker that sleeps beside its rings.
///
/// Whoever puts packets in a ring calls [`Doorbell::ring`] afterwards; the worker says that it is asleep and looks at
/// its rings once more before it sleeps. One of both sees the other, as each writes before it reads (Dekker).
#[derive(Debug, Default)]
pub struct Doorbell {
    /// Worker: set before sleeping; ringer: cleared.
    asleep: AtomicBool,
    /// The worker's thread, once it runs.
    thread: OnceLock<Thread>,
}

impl Doorbell {
    /// Wakes the worker if it sleeps.
    #[inline]
    pub fn ring(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// To be called once between the last packet and the first [`Doorbell::ring`] of a batch.
    #[inline]
    pub fn order() {
        fence(Ordering::SeqCst);
    }

    #[cold]
    fn wake(&self) {
        if self.asleep.swap(false, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Sleeps until the bell rings or `timeout` is over; not at all when something is `pending`.
    fn sleep(&self, timeout: Duration, pending: impl FnOnce() -> bool) {
        self.thread.get_or_init(std::thread::current);
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !pending() {
            std::thread::park_timeout(timeout);
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}

/// The rest of one core.
#[derive(Debug)]
pub(crate) struct Idle {
    settings: IdleSettings,
    /// Polls in a row that brought nothing.
    empty: u32,
    nap: Duration,
    doorbell: Arc<Doorbell>,
    /// Interrupts of the DPDK queues that have them.
    waiter: Option<RxWaiter>,
    /// Whether every source that captures ends the sleep.
    all_wake: bool,
}

/// What the core did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Polls on.
    None,
    /// Slept for a short time.
    Nap,
    /// Slept for so long that other work may wait.
    Long,
}

impl Idle {
    pub(crate) fn new(settings: IdleSettings, sources: &[Source]) -> Self {
        let mut idle = Self {
            settings,
            empty: 0,
            nap: FIRST_NAP,
            doorbell: Arc::default(),
            waiter: None,
            all_wake: false,
        };
        idle.watch(sources);
        idle
    }

    /// From now on these sources end the sleep. Calls the system where the core may sleep, as sleeping does.
    pub(crate) fn watch(&mut self, sources: &[Source]) {
        if !self.settings.adaptive {
            return;
        }
        // The one before holds the ports that it waited for.
        self.waiter = None;
        let mut waiter = RxWaiter::new().ok();
        // Not `all`: each one has to be added.
        let silent =
            sources.iter().filter(|source| !source.add_to(waiter.as_mut()) && source.capture).count();
        self.all_wake = silent == 0;
        self.waiter = waiter;
    }

    /// What wakes this core when packets are in its rings.
    pub(crate) fn doorbell(&self) -> Arc<Doorbell> {
        Arc::clone(&self.doorbell)
    }

    /// Packets came.
    #[inline]
    pub(crate) fn busy(&mut self) {
        self.empty = 0;
    }

    /// Nothing came.
    #[inline]
    pub(crate) fn rest(&mut self, sources: &mut [Source]) -> Rest {
        if !self.settings.adaptive {
            return Rest::None;
        }
        self.empty = self.empty.saturating_add(1);
        if self.empty <= SPINS {
            self.nap = FIRST_NAP.min(self.settings.max_sleep);
            spin_loop();
            return Rest::None;
        }
        self.sleep(sources)
    }

    #[cold]
    fn sleep(&mut self, sources: &mut [Source]) -> Rest {
        let timeout = if self.all_wake { LONG } else { self.nap };
        self.nap = (self.nap * 2).min(self.settings.max_sleep);
        let begin = Instant::now();
        if sources.iter().any(Source::is_ring) {
            self.doorbell.sleep(timeout, || sources.iter().any(Source::holds_packets));
        } else if let Some(waiter) = &mut self.waiter {
            if sources.iter_mut().any(Source::is_pending) {
                return Rest::None;
            }
            let fds: ArrayVec<_, MAX_WAIT_FDS> =
                sources.iter().filter_map(Source::fd).take(MAX_WAIT_FDS).collect();
            // A packet that came before its interrupt was on is seen by the poll after a nap at most.
            waiter.wait(&fds, timeout, || false);
            // An interface that is down or gone ends every wait at once: that must not become polling.
            if begin.elapsed() < self.settings.max_sleep && self.empty > 2 * SPINS {
                std::thread::sleep(self.settings.max_sleep);
            }
        } else {
            std::thread::sleep(timeout);
        }
        if timeout == LONG { Rest::Long } else { Rest::Nap }
    }
}
