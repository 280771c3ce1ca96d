//! Is the network behind an output port in use by others, so that plain copies must not go there?
//!
//! A tool says next to nothing, and to nobody in particular. Where frames between others come in, copies would go to
//! the machines whose addresses they carry, and come back as traffic.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sluice_model::{FeedGuard, MacAddr};

use crate::batch::Batch;

/// So many frames between others within [`WINDOW_NS`] are no accident: a switch that forgot an address, say.
const FOREIGN_LIMIT: u64 = 16;
/// The time that they are counted over.
const WINDOW_NS: u64 = 1_000_000_000;
/// Where copies go on, it is told no more often than this.
const TELL_NS: u64 = 60_000_000_000;

/// Frames of others on an output port (workers: count, control: judges, workers: ask).
#[derive(Debug)]
pub struct FeedWatch {
    guard: FeedGuard,
    /// Frames between others, since the start.
    foreign: AtomicU64,
    stopped: AtomicBool,
}

/// A [`FeedWatch`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedReport {
    /// Frames between others that came in.
    pub foreign: u64,
    /// Whether plain copies are stopped for it.
    pub stopped: bool,
}

impl FeedWatch {
    /// A port where nothing came in yet.
    #[must_use]
    pub fn new(guard: FeedGuard) -> Self {
        Self { guard, foreign: AtomicU64::new(0), stopped: AtomicBool::new(false) }
    }

    /// Counts what is neither for `mac`, nor for a group, nor for its own sender, as the keep-alives of switches are.
    #[inline]
    pub fn look(&self, mac: MacAddr, batch: &Batch) {
        let live = batch.live_places();
        let foreign = live
            .filter(|&place| batch.mbufs[place].as_ref().is_some_and(|mbuf| is_foreign(mbuf.data(), mac)));
        let foreign = foreign.count();
        if foreign > 0 {
            self.foreign.fetch_add(foreign as u64, Ordering::Relaxed);
        }
    }

    /// Whether plain copies are stopped.
    #[inline]
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Both.
    #[must_use]
    pub fn report(&self) -> FeedReport {
        FeedReport { foreign: self.foreign.load(Ordering::Relaxed), stopped: self.is_stopped() }
    }
}

/// The control thread's side of a [`FeedWatch`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FeedJudge {
    /// When the window began, and what had come in by then.
    window: Option<(u64, u64)>,
    /// When it was told that the network is in use.
    told_ns: Option<u64>,
}

/// What a look at a port brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing new.
    Unchanged,
    /// The network is in use, and copies were stopped for it just now.
    Stopped,
    /// It is in use, and copies go on, as the config says. Told once a minute.
    InUse,
}

impl FeedJudge {
    /// Looks at the port at `now_ns`; `up`: its link is up. A link that goes down lets copies go again when it returns: the
    /// cable may lead elsewhere by then.
    pub fn look(&mut self, watch: &FeedWatch, up: bool, now_ns: u64) -> Judgement {
        let foreign = watch.foreign.load(Ordering::Relaxed);
        if !up {
            *self = Self::default();
            watch.stopped.store(false, Ordering::Relaxed);
            return Judgement::Unchanged;
        }
        let (begin_ns, before) = *self.window.get_or_insert((now_ns, foreign));
        let in_use = foreign - before >= FOREIGN_LIMIT;
        if in_use || now_ns.saturating_sub(begin_ns) >= WINDOW_NS {
            self.window = Some((now_ns, foreign));
        }
        match watch.guard {
            FeedGuard::Stop if in_use && !watch.stopped.swap(true, Ordering::Relaxed) => Judgement::Stopped,
            FeedGuard::Count
                if in_use && self.told_ns.is_none_or(|told| now_ns.saturating_sub(told) >= TELL_NS) =>
            {
                self.told_ns = Some(now_ns);
                Judgement::InUse
            }
            _ => Judgement::Unchanged,
        }
    }
}

/// Whether a frame is one between others.
#[inline]
fn is_foreign(frame: &[u8], mac: MacAddr) -> bool {
    let Some((dst, rest)) = frame.split_first_chunk::<6>() else { return false };
    dst[0] & 1 == 0 && *dst != mac.0 && rest.first_chunk() != Some(dst)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_model::spec::parse_policy;

    use super::*;
    use crate::output::{BreakerCell, Egress, Output};

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    #[test]
    fn only_frames_between_others_count() {
        let frame = |dst: [u8; 6], src: [u8; 6]| [&dst[..], &src[..], &[0x08, 0x00]].concat();
        let (a, b) = ([2, 0, 0, 0, 0, 0xa], [2, 0, 0, 0, 0, 0xb]);
        for (bytes, foreign) in [
            (frame(a, b), true),
            (frame(a, MAC.0), true),
            (frame(MAC.0, a), false),
            (frame(a, a), false),
            (frame([0xff; 6], a), false),
            (frame([0x33, 0x33, 0, 0, 0, 1], a), false),
            (frame([1, 0x80, 0xc2, 0, 0, 0xe], a), false),
            (a.to_vec(), true),
            (a[..5].to_vec(), false),
            (Vec::new(), false),
        ] {
            assert_eq!(is_foreign(&bytes, MAC), foreign, "{bytes:02x?}");
        }
    }

    #[test]
    fn many_at_once_stop_copies_until_the_link_was_down() {
        const MS: u64 = 1_000_000;
        let (watch, mut judge) = (FeedWatch::new(FeedGuard::Stop), FeedJudge::default());
        let came = |frames| {
            watch.foreign.fetch_add(frames, Ordering::Relaxed);
        };
        assert_eq!(judge.look(&watch, true, 0), Judgement::Unchanged);
        // Fifteen in each second, for a while.
        for second in 0..20 {
            came(15);
            assert_eq!(judge.look(&watch, true, (second * 1000 + 500) * MS), Judgement::Unchanged);
            assert_eq!(judge.look(&watch, true, (second * 1000 + 1000) * MS), Judgement::Unchanged);
        }
        came(16);
        assert_eq!(judge.look(&watch, true, 20_100 * MS), Judgement::Stopped);
        came(100);
        assert_eq!(judge.look(&watch, true, 20_200 * MS), Judgement::Unchanged);
        assert_eq!(judge.look(&watch, true, 99_000 * MS), Judgement::Unchanged);
        assert_eq!(watch.report(), FeedReport { foreign: 416, stopped: true });
        assert_eq!(judge.look(&watch, false, 99_100 * MS), Judgement::Unchanged);
        assert!(!watch.is_stopped());
        // What had come before does not count again.
        assert_eq!(judge.look(&watch, true, 99_200 * MS), Judgement::Unchanged);
        came(16);
        assert_eq!(judge.look(&watch, true, 99_300 * MS), Judgement::Stopped);
    }

    #[test]
    fn a_group_leaves_a_port_that_is_stopped() {
        let text = "[[destination]]\nname = \"tool\"\ntype = \"port\"\nport = \"out0\"\n";
        let policies = parse_policy("p", text).unwrap().value;
        let watch = Arc::new(FeedWatch::new(FeedGuard::Stop));
        let mut output = Output::plain(&policies.destinations()[0], 1500, Egress::Port(0));
        output.feed = Some(Arc::clone(&watch));
        let breaker = Arc::new(BreakerCell::default());
        output.breaker = Some(Arc::clone(&breaker));
        for (stopped, open) in [(false, false), (true, false), (true, true), (false, true)] {
            watch.stopped.store(stopped, Ordering::Relaxed);
            breaker.set(open, 0);
            output.refresh(true);
            assert_eq!(output.is_away(), stopped);
        }
    }

    #[test]
    fn counting_stops_nothing_and_tells_once_a_minute() {
        const MS: u64 = 1_000_000;
        let (watch, mut judge) = (FeedWatch::new(FeedGuard::Count), FeedJudge::default());
        judge.look(&watch, true, 0);
        // Twenty looks a second, and traffic all the time.
        let told = (1..=20 * 150).filter(|look| {
            watch.foreign.fetch_add(40, Ordering::Relaxed);
            judge.look(&watch, true, look * 50 * MS) == Judgement::InUse
        });
        assert_eq!(told.collect::<Vec<_>>(), [1, 1201, 2401]);
        assert!(!watch.is_stopped());
        // Another cable is another network.
        judge.look(&watch, false, 150_050 * MS);
        judge.look(&watch, true, 150_100 * MS);
        watch.foreign.fetch_add(40, Ordering::Relaxed);
        assert_eq!(judge.look(&watch, true, 150_150 * MS), Judgement::InUse);
    }
}
