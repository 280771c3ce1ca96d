//! How many packets does deduplication remember, what does that take, and how sure are its verdicts?

use sluice_core::dedup::{MIN_ENTRIES, fingerprint_bits, table_bytes};
use sluice_model::{BootConfig, DedupMode, DedupSettings, PortSpec};

use crate::machine::Machine;

/// Entries where nothing else is said and memory is plenty: 20 Mpps for 50 ms.
const ENTRIES: u32 = 1 << 20;
/// Of the machine's memory, the share that the tables of all workers together may take by default.
const MEMORY_SHARE: u64 = 16;
/// Virtual devices of DPDK over kernel interfaces or guests, which pass on unfinished checksums.
const UNFINISHED: [&str; 5] = ["net_af_packet", "net_af_xdp", "net_tap", "net_vhost", "net_virtio_user"];

/// What deduplication takes and promises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DedupPlan {
    /// Fingerprints that each worker remembers.
    pub entries: u32,
    /// Bytes of each worker's table.
    pub bytes: usize,
    /// Bits of a fingerprint.
    pub bits: u32,
    /// Packets per second and worker that the table holds for the whole window.
    pub packets_per_s: u64,
}

impl DedupPlan {
    /// The plan for `workers` workers on a machine with `memory` bytes.
    #[must_use]
    pub fn new(settings: &DedupSettings, workers: usize, memory: u64) -> Self {
        let affordable = || {
            let bytes = memory / MEMORY_SHARE / (workers.max(1) as u64);
            let each = table_bytes(ENTRIES) as u64 / u64::from(ENTRIES);
            u32::try_from(bytes / each).unwrap_or(u32::MAX).min(ENTRIES)
        };
        let entries = settings.entries.unwrap_or_else(affordable).max(MIN_ENTRIES);
        let packets_per_s = u64::from(entries) * 1_000_000_000 / settings.window_ns.max(1);
        Self { entries, bytes: table_bytes(entries), bits: fingerprint_bits(entries), packets_per_s }
    }

    /// The plan for `workers` workers on `machine`; `None` when deduplication is off.
    #[must_use]
    pub fn of(settings: &DedupSettings, workers: usize, machine: &Machine) -> Option<Self> {
        (settings.mode != DedupMode::Off).then(|| Self::new(settings, workers, machine.memory_bytes))
    }

    /// The probability that a packet is taken for a duplicate and is none, when the table is as full as it may be: each
    /// packet is compared with all of the window, and each comparison errs once in 2^bits.
    #[must_use]
    pub fn false_duplicate(&self) -> f64 {
        f64::from(self.entries) * 2_f64.powi(-i32::try_from(self.bits).unwrap_or(64))
    }

    /// Hours from one false duplicate of a worker to the next, on average, at the highest rate that the table holds.
    #[must_use]
    pub fn hours_between_false_duplicates(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let packets_per_hour = self.packets_per_s as f64 * 3600.0;
        1.0 / (self.false_duplicate() * packets_per_hour)
    }
}

/// Whether the L4 checksums of all captured packets can be relied on: no kernel interface captures.
#[must_use]
pub fn finished_checksums(boot: &BootConfig) -> bool {
    boot.ports.iter().filter(|port| port.role.captures()).all(|port| match &port.spec {
        PortSpec::AfPacket(_) | PortSpec::Vhost(_) => false,
        PortSpec::Devargs(devargs) => !UNFINISHED.iter().any(|device| devargs.starts_with(device)),
        PortSpec::Pci(_) | PortSpec::Pcap(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_follow_memory_and_workers() {
        let settings = DedupSettings { mode: DedupMode::Drop, ..DedupSettings::default() };
        let plan = DedupPlan::new(&settings, 2, 64 << 30);
        assert_eq!((plan.entries, plan.bytes, plan.bits), (ENTRIES, 64 << 20, 64));
        // 2^20 in 50 ms.
        assert_eq!(plan.packets_per_s, 20_971_520);
        // 2^20 x 2^-64.
        assert!((plan.false_duplicate() / 2_f64.powi(-44) - 1.0).abs() < 1e-9);
        // 2^44 packets at that rate are 233 hours.
        assert!((plan.hours_between_false_duplicates() - 233.0).abs() < 0.1);
        assert_eq!(DedupPlan::new(&settings, 1, 512 << 20).entries, 1 << 19);
        assert_eq!(DedupPlan::new(&settings, 64, 320 << 20).entries, MIN_ENTRIES);
        let settings = DedupSettings { entries: Some(5_000_000), window_ns: 10_000_000_000, ..settings };
        let plan = DedupPlan::new(&settings, 64, 0);
        assert_eq!((plan.entries, plan.packets_per_s), (5_000_000, 500_000));
    }

    #[test]
    fn kernel_interfaces_leave_checksums_unfinished() {
        let finished = |spec: &str| {
            let text =
                format!("policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"{spec}\"\nrole = \"capture\"\n");
            finished_checksums(&sluice_model::spec::parse_boot("boot.toml", &text).unwrap().value)
        };
        assert!(finished("0000:01:00.0") && finished("net_memif0") && finished("pcap:a.pcap"));
        assert!(
            !finished("af_packet:eth0") && !finished("net_tap0,iface=t") && !finished("net_vhost0,iface=s")
        );
    }
}
