//! Do the tables and pools that a configuration asks for fit the machine?
//!
//! Memory that is granted and not there ends in the hands of the kernel's OOM killer, or in a fault inside DPDK; so this
//! is decided before anything is taken.

use sluice_model::{BootConfig, DedupSettings, FlowSettings};

use super::{CorePlan, DedupPlan, FlowPlan, MemoryPlan, StartError};
use crate::machine::Machine;

/// Whether the tables of all workers leave a quarter of the memory to everything else, and whether the pools fit beside
/// them where they lie in ordinary pages. Hugepages were set aside before, and are checked for being free.
///
/// # Errors
/// [`StartError::Tables`] or [`StartError::Pools`] when they do not, [`StartError::Hugepages`] when too few are free.
pub fn memory_fits(boot: &BootConfig, cores: &CorePlan, machine: &Machine) -> Result<(), StartError> {
    let workers = cores.workers.len();
    let tables = tables_fit(boot.flow.enabled.then_some(&boot.flow), &boot.dedup, workers, machine)?;
    let plan = MemoryPlan::new(boot, cores, machine);
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
    let dedup = DedupPlan::of(dedup, workers, machine).map_or(0, |plan| plan.bytes as u64);
    let flow = flow.map_or(0, |flow| FlowPlan::new(flow, workers, machine.memory_bytes).bytes());
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
    fn what_dpdk_is_to_be_given_is_refused_too() {
        let given = |memory_mb| fits_with("", "memory_mb = 1048576\n", memory_mb);
        assert!(matches!(given(32_768), Err(StartError::Pools { .. })));
        assert!(given(2 << 20).is_ok());
    }
}
