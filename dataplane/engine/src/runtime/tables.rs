//! Do the tables that all workers ask for fit the machine?

use sluice_model::BootConfig;

use super::{DedupPlan, FlowPlan, StartError};
use crate::machine::Machine;

/// Whether the tables of `workers` workers leave a quarter of the memory to everything else.
///
/// # Errors
/// [`StartError::Tables`] when they do not: taken anyway, they would end in the hands of the kernel's OOM killer.
pub fn tables_fit(boot: &BootConfig, workers: usize, machine: &Machine) -> Result<(), StartError> {
    let dedup = DedupPlan::of(&boot.dedup, workers, machine).map_or(0, |plan| plan.bytes as u64);
    let flow = FlowPlan::of(&boot.flow, workers, machine).map_or(0, |plan| plan.bytes());
    let wanted = (dedup + flow).saturating_mul(workers as u64);
    if wanted <= machine.memory_bytes / 4 * 3 {
        return Ok(());
    }
    Err(StartError::Tables {
        workers,
        flow_mb: flow / 1_000_000,
        dedup_mb: dedup / 1_000_000,
        memory_mb: machine.memory_bytes / 1_000_000,
    })
}
