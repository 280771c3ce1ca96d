//! Why a packet or a copy ended without being sent: the one list, used by counters, CLI and metrics.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, intentional: $intentional:literal;)+) => {
        /// The reason that ended a packet or a copy. Every packet that is not sent has exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant,)+];

            /// How many reasons there are.
            pub const COUNT: usize = [$($name,)+].len();

            /// The name in JSON, metrics and the CLI: lower snake case, never changed once released.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What the reason means to an operator, in one sentence.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }

            /// Whether an operator asked for this (a policy, a guard, an MTU setting), rather than a lack of something.
            #[must_use]
            pub const fn intentional(self) -> bool {
                match self {
                    $(Self::$variant => $intentional,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// A policy with `action = "drop"` matched the packet.
    Excluded = "excluded", intentional: true;
    /// The packet was received within the deduplication window before, and `mode = "drop"`.
    Duplicate = "duplicate", intentional: true;
    /// The packet is one of our own copies, seen again on a capture port.
    LoopGuard = "loop_guard", intentional: true;
    /// No policy asked for a copy of the packet.
    NoPolicy = "no_policy", intentional: true;
    /// The packet arrived on a port that only sends, and was not for us.
    NotCapturePort = "not_capture_port", intentional: true;
    /// The packet arrived on a port that is the end of tunnels, and no tunnel was taken off it.
    NotTunnelled = "not_tunnelled", intentional: true;
    /// The copy exceeds the MTU of its destination, whose setting is `oversize = "drop"`.
    Oversize = "oversize", intentional: true;
    /// The copy exceeds the rate limit of its destination, or that of all destinations together.
    RateLimit = "rate_limit", intentional: true;
    /// The distribution breaker is open: the output interface carries more than its threshold.
    Breaker = "breaker", intentional: true;
    /// The output port carries traffic of others, as a production network does: plain copies do not leave by it.
    FeedGuard = "feed_guard", intentional: true;
    /// The packet exceeds the rate at which packets are taken in (`capture_kpps`).
    CaptureLimit = "capture_limit", intentional: true;
    /// Somebody stopped the appliance: nothing is copied until it is started again.
    Stopped = "stopped", intentional: true;
    /// The daemon needs more processor time or memory than it may, and drops packets until the load falls.
    Protection = "protection", intentional: false;
    /// The ring from the distributor to the worker is full.
    DistributorFull = "distributor_full", intentional: false;
    /// No mbuf was free for the header of a copy, a fragment or a segment.
    MbufAlloc = "mbuf_alloc", intentional: false;
    /// The next hop of the destination is not resolved (yet), or it has no output port.
    NextHopUnresolved = "next_hop_unresolved", intentional: false;
    /// The output port is down or gone.
    PortDown = "port_down", intentional: false;
    /// The queue to the thread that writes capture files is full.
    FileQueueFull = "file_queue_full", intentional: false;
    /// A capture file could not be written (a full disk, say).
    FileWrite = "file_write", intentional: false;
    /// The transmit queue of the output port is full.
    TxFull = "tx_full", intentional: false;
    /// The output port takes only frames of one segment, and this one does not fit in one mbuf.
    TxMultiSegment = "tx_multi_segment", intentional: false;
    /// The output port cannot carry the frame: too long for it, or shorter than an Ethernet header.
    TxRefused = "tx_refused", intentional: false;
}

/// One counter per [`DropReason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCounts(pub [u64; DropReason::COUNT]);

impl Default for DropCounts {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl DropCounts {
    /// The count of one reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Adds `packets` to one reason.
    #[inline]
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        self.0[reason as usize] += packets;
    }

    /// The sum over all reasons.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Each reason with its count, zero counts included.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }

    /// Adds the counts of `other`, reason by reason.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_helped() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
        assert!(DropReason::ALL.iter().all(|r| r.help().ends_with('.') && !r.help().starts_with(' ')));
        assert!(DropReason::ALL.iter().enumerate().all(|(i, r)| *r as usize == i));
    }
}
