//! Do the tables and pools that a configuration asks for fit the machine?
//!
//! Memory that is granted and not there ends in the hands of the kernel's OOM killer, or in a fault inside DPDK; so this
//! is decided before anything is taken.

use sluice_af_packet::RxConfig;
use sluice_model::{BootConfig, DedupSettings, FlowSettings, PortSpec};

use super::{CorePlan, DedupPlan, FlowPlan, MemoryPlan, StartError};
use crate::machine::Machine;

/// What the daemon takes besides pools, tables and rings: the program and its libraries, threads, policies.
const REST_BYTES: u64 = 64 << 20;
/// The part of `memory_mb` that may be taken at the start, percent: below it protection ends.
const LIMIT_PERCENT: u64 = 80;

/// Whether what is taken at the start leaves room below the limit that the daemon has of its own.
pub(super) fn limit_fits(boot: &BootConfig, plan: &MemoryPlan, tables: u64) -> Result<(), StartError> {
    let Some(limit_mb) = boot.protection.memory_mb else { return Ok(()) };
    let ring =
        |kib: Option<u32>| kib.map_or(RxConfig::default().ring_bytes as u64, |kib| u64::from(kib) << 10);
    let captures = boot.ports.iter().filter(|port| port.role.captures());
    let kernel = captures.filter(|port| matches!(port.spec, PortSpec::AfPacket(_)));
    let rings: u64 = kernel.map(|port| ring(port.ring_kib)).sum();
    let takes = plan.bytes() + tables + rings + REST_BYTES;
    if takes * 100 <= (u64::from(limit_mb) << 20) * LIMIT_PERCENT {
        return Ok(());
    }
    let mb = |bytes: u64| bytes >> 20;
    Err(StartError::MemoryLimit {
        limit_mb,
        takes_mb: mb(takes),
        pools_mb: mb(plan.bytes()),
        tables_mb: mb(tables),
        rings_mb: mb(rings),
        rest_mb: mb(REST_BYTES),
        least_mb: mb(takes * 100 / LIMIT_PERCENT) + 1,
    })
}

/// Whether the tables of all workers leave a quarter of the memory to everything else, and whether the pools fit beside
/// them where they lie in ordinary pages. Hugepages were set aside before, and are checked for being free.
///
/// # Errors
/// [`StartError::Tables`] or [`StartError::Pools`] when they do not, [`StartError::MemoryLimit`] when they exceed the limit
/// of the daemon, [`StartError::Hugepages`] when too few are free.
pub fn memory_fits(boot: &BootConfig, cores: &CorePlan, machine: &Machine) -> Result<(), StartError> {
    let workers = cores.workers.len();
    let plan = MemoryPlan::new(boot, cores, machine);
    limit_fits(
        boot,
        &plan,
        table_bytes(boot.flow.enabled.then_some(&boot.flow), &boot.dedup, workers, machine),
    )?;
    let tables = tables_fit(boot.flow.enabled.then_some(&boot.flow), &boot.dedup, workers, machine)?;
    let in_hugepages = plan.use_hugepages(boot.eal.hugepages)?;
    let pools = plan.bytes().max(u64::from(boot.eal.memory_mb.unwrap_or(0)) << 20);
    if in_hugepages || pools.saturating_add(tables) <= machine.memory_bytes {
        return Ok(());
    }
    Err(StartError::Pools {
        pools_mb: pools / 1_000_000,
        tables_mb: tables / 1_000_000,
        memory_mb: machine.memory_bytes / 1_000_000,
    })
}

/// Whether the tables of `workers` workers leave a quarter of the memory to everything else; gives their bytes. `flow` is
/// `None` when flows are not metered.
///
/// # Errors
/// [`StartError::Tables`] when they do not.
pub fn tables_fit(
    flow: Option<&FlowSettings>,
    dedup: &DedupSettings,
    workers: usize,
    machine: &Machine,
) -> Result<u64, StartError> {
    let [flow, dedup] = each(flow, dedup, workers, machine);
    let wanted = (dedup + flow).saturating_mul(workers as u64);
    if wanted <= machine.memory_bytes / 4 * 3 {
        return Ok(wanted);
    }
    Err(StartError::Tables {
        workers,
        flow_mb: flow / 1_000_000,
        dedup_mb: dedup / 1_000_000,
        memory_mb: machine.memory_bytes / 1_000_000,
    })
}

/// Bytes of the tables of all workers.
pub(super) fn table_bytes(
    flow: Option<&FlowSettings>,
    dedup: &DedupSettings,
    workers: usize,
    machine: &Machine,
) -> u64 {
    each(flow, dedup, workers, machine).iter().sum::<u64>().saturating_mul(workers as u64)
}

/// Bytes of a worker's flow tables and fingerprints.
fn each(flow: Option<&FlowSettings>, dedup: &DedupSettings, workers: usize, machine: &Machine) -> [u64; 2] {
    let dedup = DedupPlan::of(dedup, workers, machine).map_or(0, |plan| plan.bytes as u64);
    let flow = flow.map_or(0, |flow| FlowPlan::new(flow, workers, machine.memory_bytes).bytes());
    [flow, dedup]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits_with(text: &str, eal: &str, memory_mb: u64) -> Result<(), StartError> {
        let port = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"both\"\n";
        let text = format!("{port}{text}\n[eal]\nhugepages = \"never\"\n{eal}");
        let boot = sluice_model::spec::parse_boot("boot.toml", &text).unwrap().value;
        let machine = Machine {
            cpus: vec![0, 1],
            nodes: vec![0, 0],
            cpu_quota_milli: None,
            memory_bytes: memory_mb << 20,
            memory_limited: false,
        };
        memory_fits(&boot, &CorePlan::new(&boot, &machine), &machine)
    }

    fn fits(text: &str, memory_mb: u64) -> Result<(), StartError> {
        fits_with(text, "", memory_mb)
    }

    #[test]
    fn what_the_machine_does_not_have_is_refused() {
        assert!(fits("", 1024).is_ok());
        assert!(fits("[flow]\n[dedup]\n", 1024).is_ok(), "defaults follow the memory");
        assert!(matches!(fits("[flow]\nflows = 67108864\n", 32_768), Err(StartError::Tables { .. })));
        assert!(matches!(fits("[dedup]\nentries = 268435456\n", 16_384), Err(StartError::Tables { .. })));
        assert!(matches!(fits("[memory]\nmbufs = 16777216\n", 32_768), Err(StartError::Pools { .. })));
        assert!(fits("[memory]\nmbufs = 16777216\n", 131_072).is_ok());
        // Each fits alone.
        let both = "[memory]\nmbufs = 4194304\n[flow]\nflows = 8388608\n";
        assert!(matches!(fits(both, 20_000), Err(StartError::Pools { .. })));
    }

    #[test]
    fn a_limit_that_is_reached_at_the_start_is_refused() {
        let limited = |limit_mb: u32, text: &str| {
            let port =
                "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"af_packet:eth0\"\nrole = \"capture\"\n";
            let text =
                format!("{port}{text}\n[eal]\nhugepages = \"never\"\n[protection]\nmemory_mb = {limit_mb}\n");
            let boot = sluice_model::spec::parse_boot("boot.toml", &text).unwrap().value;
            let machine = Machine {
                cpus: vec![0, 1],
                nodes: vec![0, 0],
                cpu_quota_milli: None,
                memory_bytes: 8 << 30,
                memory_limited: false,
            };
            let machine = machine.limited(&boot.protection);
            memory_fits(&boot, &CorePlan::new(&boot, &machine), &machine)
        };
        let Err(error @ StartError::MemoryLimit { least_mb, .. }) = limited(100, "") else {
            panic!("refused")
        };
        assert!(error.to_string().contains("[protection] memory_mb = 100 is too little"), "{error}");
        let least_mb = u32::try_from(least_mb).unwrap();
        assert!((130..300).contains(&least_mb), "{least_mb}");
        assert!(limited(1024, "").is_ok() && limited(1024, "[flow]\n[dedup]\n").is_ok());
        assert!(matches!(limited(300, "[flow]\nflows = 1048576\n"), Err(StartError::MemoryLimit { .. })));
    }

    #[test]
    fn what_dpdk_is_to_be_given_is_refused_too() {
        let given = |memory_mb| fits_with("", "memory_mb = 1048576\n", memory_mb);
        assert!(matches!(given(32_768), Err(StartError::Pools { .. })));
        assert!(given(2 << 20).is_ok());
    }
}
