//! What time is it in a replay? Captured times, made to run forward only.

/// Steps back beyond this are another capture that begins earlier; within it, packets out of order. Nanoseconds.
const ANOTHER_CAPTURE_NS: u64 = 1_000_000_000;

/// A clock driven by captured times. It stands still while they go back, and goes on with them.
#[derive(Clone, Copy, Debug, Default)]
pub struct VirtualClock {
    now_ns: u64,
    /// The captured time that `now_ns` stands for; `None` before the first.
    last_ns: Option<u64>,
}

impl VirtualClock {
    /// The time at a packet captured at `timestamp_ns`: nanoseconds since the first packet, time between captures left
    /// out where the next one begins earlier.
    #[inline]
    pub fn advance(&mut self, timestamp_ns: u64) -> u64 {
        let last = *self.last_ns.get_or_insert(timestamp_ns);
        if timestamp_ns >= last {
            self.now_ns = self.now_ns.saturating_add(timestamp_ns - last);
            self.last_ns = Some(timestamp_ns);
        } else if last - timestamp_ns > ANOTHER_CAPTURE_NS {
            self.last_ns = Some(timestamp_ns);
        }
        self.now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_forward_only() {
        let mut clock = VirtualClock::default();
        let s = 1_000_000_000_u64;
        for (timestamp, now) in [
            (1_700_000_000 * s, 0),
            (1_700_000_001 * s, s),
            (1_700_000_001 * s - 5, s),
            (1_700_000_001 * s + 5, s + 5),
            // Another capture, from years before.
            (1_600_000_000 * s, s + 5),
            (1_600_000_002 * s, 3 * s + 5),
        ] {
            assert_eq!(clock.advance(timestamp), now, "{timestamp}");
        }
    }
}
