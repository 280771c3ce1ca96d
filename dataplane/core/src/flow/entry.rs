//! What is kept of a flow: two lines that every packet touches, one more for TCP (and UDP), and what is seldom needed.

use sluice_model::{MacAddr, PortId, TcpPerf, Throughput};

use super::lengths::Lengths;
use super::metrics::KeyPlace;
use super::tcp::{Delays, FlowState, Handshake, TcpTracker};
use crate::decap::TunnelInfo;

/// Bits of [`Hot::flags`].
pub(super) mod flag {
    /// The entry is in use.
    pub(crate) const LIVE: u8 = 1;
    /// The client is the second end of the key.
    pub(crate) const CLIENT_IS_SECOND: u8 = 2;
    /// The first end sent something.
    pub(crate) const FIRST_SENT: u8 = 4;
    /// The second end sent something.
    pub(crate) const SECOND_SENT: u8 = 8;
    /// A SYN told the direction.
    pub(crate) const SYN_SEEN: u8 = 16;
    /// A SYN-ACK told the direction.
    pub(crate) const SYN_ACK_SEEN: u8 = 32;
    /// There were packets since the last record.
    pub(crate) const INTERVAL_OPEN: u8 = 64;
}

/// What a lookup reads and every packet writes: one line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Hot {
    pub(super) words: [u64; 3],
    /// The cached verdicts, of packets from the first and from the second end.
    pub(super) verdicts: [u32; 2],
    /// Which verdicts these are; another stamp makes them worthless.
    pub(super) stamp: u32,
    pub(super) state: FlowState,
    pub(super) flags: u8,
    /// TCP flags that each side sent in the current interval, client first.
    pub(super) tcp_flags: [u8; 2],
    /// The time of the latest packet.
    pub(super) last_ns: u64,
    /// A packet from then on belongs to another second (without metrics: minute); 0 = none came since it was over.
    pub(super) period_end_ns: u64,
    pub(super) hash: u64,
}

const _: () = assert!(size_of::<Hot>() == 64);

/// What one side sent in the current interval, but for what was put into [`Cold::spilled`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Sent {
    packets: u32,
    bytes: u32,
    l3_bytes: u32,
    l4_bytes: u32,
}

impl Sent {
    /// Counts a packet; `false`, with nothing counted, when there is no room for it.
    #[inline(always)]
    pub(super) fn add(&mut self, lengths: &Lengths) -> bool {
        let (packets, a) = self.packets.overflowing_add(1);
        let (bytes, b) = self.bytes.overflowing_add(lengths.frame);
        let (l3_bytes, c) = self.l3_bytes.overflowing_add(lengths.l3);
        let (l4_bytes, d) = self.l4_bytes.overflowing_add(lengths.l4);
        if a | b | c | d {
            return false;
        }
        *self = Self { packets, bytes, l3_bytes, l4_bytes };
        true
    }
}

/// What both sides sent, client first, and how long they took: one line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Counts {
    pub(super) sent: [Sent; 2],
    pub(super) delays: Delays,
}

const _: () = assert!(size_of::<Counts>() == 64);

/// The lines of a flow that packets touch.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) hot: Hot,
    pub(super) counts: Counts,
    pub(super) tcp: TcpTracker,
}

const _: () = assert!(size_of::<Entry>() == 192);

/// What is written when a flow begins, when a period ends, and when there is something to measure. What of it is not in
/// the first line is as in [`Cold::default`] while there is no flow: who ends one sees to that.
#[derive(Clone, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Cold {
    pub(super) head: Head,
    /// What of the current interval the metrics were told.
    pub(super) told: [Throughput; 2],
    /// What was sent before the current interval.
    pub(super) before: [Before; 2],
    /// Duplicates in the current interval.
    pub(super) duplicates: [u64; 2],
    /// The delays of the current interval that the metrics were told.
    pub(super) delays_told: Delays,
    pub(super) handshake: Handshake,
    /// The latest tunnel of each direction, client first.
    pub(super) tunnels: [Option<TunnelInfo>; 2],
    /// What of the current interval did not fit into [`Counts::sent`].
    pub(super) spilled: [Throughput; 2],
    /// Measured in the current interval, since the metrics were told; see [`TcpTracker::take_measured`].
    pub(super) perf: TcpPerf,
    /// Measured in the current interval before that.
    pub(super) perf_told: TcpPerf,
}

/// The first line of [`Cold`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Head {
    pub(super) flow_id: u64,
    pub(super) first_ns: u64,
    /// When the current interval (of the record) began.
    pub(super) interval_start_ns: u64,
    /// When it ends.
    pub(super) interval_end_ns: u64,
    /// Client first.
    pub(super) macs: [MacAddr; 2],
    pub(super) ethertype: u16,
    pub(super) vlan: u16,
    pub(super) port: PortId,
    /// Whether no record was emitted yet.
    pub(super) is_new: bool,
    /// The score of the server when the direction was decided.
    pub(super) direction_score: u8,
    /// The end of the key that was the client when the metrics were first told of the flow.
    pub(super) metrics_client: Option<u8>,
    /// Whether there is anything in [`Cold::spilled`].
    pub(super) is_spilled: bool,
    /// Where the metrics found the flow's key.
    pub(super) metrics_place: KeyPlace,
    /// Whether there is anything in [`Cold::perf_told`].
    pub(super) has_perf_told: bool,
}

const _: () = assert!(size_of::<Head>() == 64);

impl Cold {
    /// Makes room in `sent`, of `side`.
    #[cold]
    pub(super) fn spill(&mut self, side: usize, sent: &mut Sent) {
        self.spilled[side & 1] = self.throughput(side, sent);
        self.head.is_spilled = true;
        *sent = Sent::default();
    }

    /// What `side` sent in the current interval, of which `sent` is the latest.
    pub(super) fn throughput(&self, side: usize, sent: &Sent) -> Throughput {
        let none = Throughput::default();
        let spilled = if self.head.is_spilled { &self.spilled[side & 1] } else { &none };
        Throughput {
            packets: spilled.packets + u64::from(sent.packets),
            bytes: spilled.bytes + u64::from(sent.bytes),
            l3_bytes: spilled.l3_bytes + u64::from(sent.l3_bytes),
            l4_bytes: spilled.l4_bytes + u64::from(sent.l4_bytes),
        }
    }
}

/// Totals of one side before the current interval.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) tcp_flags: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_beyond_what_an_entry_holds() {
        let (mut cold, mut sent) = (Cold::default(), Sent::default());
        let lengths = Lengths { frame: u32::MAX, l3: 1 << 31, l4: 3 };
        let packets = 5;
        for _ in 0..packets {
            if !sent.add(&lengths) {
                cold.spill(1, &mut sent);
                assert!(sent.add(&lengths), "there is room now");
            }
        }
        let total = Throughput {
            packets,
            bytes: packets * u64::from(u32::MAX),
            l3_bytes: packets << 31,
            l4_bytes: packets * 3,
        };
        assert_eq!(cold.throughput(1, &sent), total);
    }
}
