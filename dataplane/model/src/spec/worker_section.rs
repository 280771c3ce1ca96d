//! What does `[worker]` in a boot config say?

use crate::{DistributorMode, Polling, RangeSet, SpreadBy, WorkerSettings};

use super::document::Fields;
use super::ranges::{self, Kind};
use super::source::Report;

/// The largest burst: the capacity of a batch.
const MAX_BURST: u64 = 64;

/// CPU numbers.
const LCORES: Kind = Kind { what: "CPUs", min: 0, max: 1023, names: &[] };

pub(super) fn worker_settings(mut fields: Fields<'_>, report: &Report<'_>) -> WorkerSettings {
    let lcores = cpus(&mut fields, "lcores", report);
    let distributor = fields.choice(
        "distributor",
        &[
            ("auto", DistributorMode::Auto),
            ("always", DistributorMode::Always),
            ("never", DistributorMode::Never),
        ],
    );
    let distributor_lcores = cpus(&mut fields, "distributor_lcores", report);
    let spread = fields.choice("spread", &[("addresses", SpreadBy::Addresses), ("ports", SpreadBy::Ports)]);
    let ring_size = fields.integer("ring_size", 64..=1 << 20, "a ring_size (packets)");
    let rx_descriptors = fields.integer("rx_descriptors", 64..=1 << 15, "rx_descriptors");
    let tx_descriptors = fields.integer("tx_descriptors", 64..=1 << 15, "tx_descriptors");
    let burst = fields.integer("burst", 1..=MAX_BURST, "a burst (packets)");
    let polling = fields.choice("polling", &[("adaptive", Polling::Adaptive), ("always", Polling::Always)]);
    let max_sleep = fields.integer("max_sleep_us", 1..=10_000, "max_sleep_us (microseconds)");
    let distributor = distributor.map(|at| at.value).unwrap_or_default();
    if let Some(place) = fields.place_of("distributor_lcores") {
        let field = fields.field("distributor_lcores");
        let shared = distributor_lcores.iter().find(|cpu| lcores.contains(cpu));
        if distributor == DistributorMode::Never {
            report.warning(&place, &*field, "distributor = \"never\": no CPU distributes", None);
        } else if let Some(cpu) = shared {
            let reason = format!("CPU {cpu} has a worker, too: each slows the other");
            report.warning(&place, &*field, reason, "give each a CPU of its own".to_owned());
        }
    }
    if let (Some(place), Some(Polling::Always)) =
        (fields.place_of("max_sleep_us"), polling.as_ref().map(|at| at.value))
    {
        let field = fields.field("max_sleep_us");
        report.warning(&place, field, "polling = \"always\": nothing sleeps", None);
    }
    fields.finish();
    WorkerSettings {
        lcores,
        distributor,
        distributor_lcores,
        spread: spread.map(|at| at.value).unwrap_or_default(),
        ring_size: ring_size.and_then(|at| u32::try_from(at.value).ok()),
        rx_descriptors: rx_descriptors.and_then(|at| u16::try_from(at.value).ok()),
        tx_descriptors: tx_descriptors.and_then(|at| u16::try_from(at.value).ok()),
        burst_pkts: burst.and_then(|at| u16::try_from(at.value).ok()),
        polling: polling.map(|at| at.value).unwrap_or_default(),
        max_sleep_us: max_sleep.and_then(|at| u32::try_from(at.value).ok()),
    }
}

/// CPU numbers, ascending.
fn cpus(fields: &mut Fields<'_>, key: &'static str, report: &Report<'_>) -> Vec<u16> {
    let set: Option<RangeSet<u16>> = fields
        .words(key, "[1]")
        .and_then(|words| ranges::range_set(&words.value, &LCORES, &fields.field(key), report));
    set.iter().flat_map(RangeSet::iter).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse_boot;

    fn parse(worker: &str) -> (WorkerSettings, Vec<String>) {
        let port = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";
        let loaded = parse_boot("boot.toml", &format!("{port}[worker]\n{worker}")).unwrap();
        (loaded.value.worker, loaded.warnings.iter().map(|warning| warning.reason.clone()).collect())
    }

    #[test]
    fn everything_has_a_default() {
        assert_eq!(parse(""), (WorkerSettings::default(), vec![]));
    }

    #[test]
    fn everything_can_be_set() {
        let (settings, warnings) = parse(
            "lcores = [\"1-3\"]\ndistributor = \"always\"\ndistributor_lcores = [0]\nspread = \"ports\"\n\
             ring_size = 1000\nrx_descriptors = 512\ntx_descriptors = 256\nburst = 32\npolling = \"adaptive\"\n\
             max_sleep_us = 50\n",
        );
        let expected = WorkerSettings {
            lcores: vec![1, 2, 3],
            distributor: DistributorMode::Always,
            distributor_lcores: vec![0],
            spread: SpreadBy::Ports,
            ring_size: Some(1000),
            rx_descriptors: Some(512),
            tx_descriptors: Some(256),
            burst_pkts: Some(32),
            polling: Polling::Adaptive,
            max_sleep_us: Some(50),
        };
        assert_eq!((settings, warnings), (expected, vec![]));
    }

    #[test]
    fn settings_that_contradict_each_other_are_told() {
        let (_, warnings) = parse("lcores = [0, 1]\ndistributor_lcores = [1]");
        assert_eq!(warnings, ["CPU 1 has a worker, too: each slows the other"]);
        let (_, warnings) = parse("distributor = \"never\"\ndistributor_lcores = [1]");
        assert_eq!(warnings, ["distributor = \"never\": no CPU distributes"]);
        let (_, warnings) = parse("polling = \"always\"\nmax_sleep_us = 5");
        assert_eq!(warnings, ["polling = \"always\": nothing sleeps"]);
    }
}
