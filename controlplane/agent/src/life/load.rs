//! How much of the machine does the daemon use, and is it too much?
//!
//! A core that polls takes all of its time whatever comes: what counts of it are the cycles that it spends on packets.
//! All other threads count with the time that they ran. While packets are dropped for protection they cost next to
//! nothing; so what they would cost is worked out from what they cost before, or the load would seem to fall at once.

/// Load at and above this part of a limit is too much, percent.
const ENTER_PERCENT: u64 = 95;
/// Below this part it has fallen, percent.
const LEAVE_PERCENT: u64 = 80;
/// After so many intervals in a row.
const LEAVE_INTERVALS: u32 = 3;
/// Packets in an interval that tell what one costs.
const TELLING_PACKETS: u64 = 1_000;

/// What was counted since the start of the process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    /// When, nanoseconds of a clock that does not run backwards.
    pub(crate) at_ns: u64,
    /// Time that threads which move packets spent on them, nanoseconds.
    pub(crate) busy_ns: u64,
    /// Time that all other threads ran, nanoseconds.
    pub(crate) other_ns: u64,
    /// Packets received.
    pub(crate) packets: u64,
}

/// Processor time over the last interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuLoad {
    /// What was used, thousandths of a core.
    pub(crate) used_millicores: u64,
    /// What would have been used if all packets had been let in.
    pub(crate) wanted_millicores: u64,
}

/// Works out the load of each interval.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuMeter {
    last: Option<Counted>,
    /// What a packet costs, in thousandths of a nanosecond.
    packet_cost: u64,
}

impl CpuMeter {
    /// The load since the last call; `gated` = packets were dropped at the gate.
    pub(crate) fn measure(&mut self, now: Counted, gated: bool) -> CpuLoad {
        let Some(last) = self.last.replace(now) else { return CpuLoad::default() };
        let elapsed_ns = now.at_ns.saturating_sub(last.at_ns).max(1);
        let busy_ns = now.busy_ns.saturating_sub(last.busy_ns);
        let other_ns = now.other_ns.saturating_sub(last.other_ns);
        let packets = now.packets.saturating_sub(last.packets);
        if !gated && packets >= TELLING_PACKETS {
            self.packet_cost = busy_ns.saturating_mul(1_000) / packets;
        }
        let millicores = |ns: u64| ns.saturating_mul(1_000) / elapsed_ns;
        let whole_ns =
            if gated { (packets.saturating_mul(self.packet_cost) / 1_000).max(busy_ns) } else { busy_ns };
        CpuLoad {
            used_millicores: millicores(busy_ns + other_ns),
            wanted_millicores: millicores(whole_ns.saturating_add(other_ns)),
        }
    }
}

/// Whether load is too much: soon when it is, later when it is no more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overload {
    over: bool,
    calm: u32,
}

impl Overload {
    /// Takes in the load of an interval, each use beside its limit; says whether it is too much.
    pub(crate) fn update(&mut self, uses: &[(u64, u64)]) -> bool {
        let reaches = |percent: u64| {
            let reached =
                |&(used, limit): &(u64, u64)| used.saturating_mul(100) >= limit.saturating_mul(percent);
            uses.iter().any(reached)
        };
        if reaches(ENTER_PERCENT) {
            (self.over, self.calm) = (true, 0);
        } else if reaches(LEAVE_PERCENT) {
            self.calm = 0;
        } else {
            self.calm += 1;
            self.over &= self.calm < LEAVE_INTERVALS;
        }
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn load_is_what_packets_cost_and_what_the_others_ran() {
        let mut meter = CpuMeter::default();
        let mut now = Counted { at_ns: 5 * S, busy_ns: 77, other_ns: 88, packets: 99 };
        assert_eq!(meter.measure(now, false), CpuLoad::default(), "nothing to compare with");
        // 2 s: 1.5 s of packets, 0.1 s of the rest; a million packets at 1,500 ns.
        now = Counted { at_ns: 7 * S, busy_ns: 77 + 3 * S / 2, other_ns: 88 + S / 10, packets: 1_000_099 };
        assert_eq!(meter.measure(now, false), CpuLoad { used_millicores: 800, wanted_millicores: 800 });
        // At the gate they cost 100 ns, but would cost what they did.
        now = Counted { at_ns: 8 * S, busy_ns: now.busy_ns + S / 20, packets: now.packets + 500_000, ..now };
        assert_eq!(meter.measure(now, true), CpuLoad { used_millicores: 50, wanted_millicores: 750 });
        // A few packets say nothing about the price.
        now = Counted { at_ns: 9 * S, busy_ns: now.busy_ns + S / 10, packets: now.packets + 10, ..now };
        assert_eq!(meter.measure(now, false).used_millicores, 100);
        now = Counted { at_ns: 10 * S, packets: now.packets + 100_000, ..now };
        assert_eq!(meter.measure(now, true), CpuLoad { used_millicores: 0, wanted_millicores: 150 });
    }

    #[test]
    fn protection_begins_at_once_and_ends_when_it_was_calm_for_a_while() {
        let mut overload = Overload::default();
        let mut states = Vec::new();
        for used in [94, 95, 10, 10, 80, 79, 79, 200, 79, 79, 79, 94, 100] {
            states.push(u8::from(overload.update(&[(used, 100), (0, 100)])));
        }
        assert_eq!(states, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1]);
        assert!(!Overload::default().update(&[]), "without limits nothing is too much");
        assert!(Overload::default().update(&[(0, 100), (96, 100)]), "one is enough");
    }
}
