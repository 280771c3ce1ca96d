//! The flow stages of the workers: how large are their tables, and what is in them?

use sluice_core::classify::Program;
use sluice_core::flow::{MeterConfig, TapPort};
use sluice_model::{BootConfig, FlowRecord, FlowSettings, MetricsRecord};

use super::share;
use crate::machine::Machine;
use crate::recent::RecentMetrics;
use crate::stage::flow::{FlowStage, meter_config, metrics_config};

/// Flows of one worker where nothing else is said and memory is plenty.
const FLOWS: u32 = 262_144;
/// The fewest, unless the boot config says.
const MIN_FLOWS: u32 = 8192;
/// Of the machine's memory, the share that the tables of all workers together may take by default.
const MEMORY_SHARE: u64 = 8;
/// Records that wait for being drained, per worker, and rows of metrics.
const RECORDS: u32 = 16_384;

/// What metering flows takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPlan {
    /// Flows of each worker.
    pub flows: u32,
    /// Bytes of each worker's flow tables.
    pub flow_bytes: u64,
    /// Bytes of each worker's metrics, with the latest minute for who asks; 0 = there are none.
    pub metrics_bytes: u64,
    /// Bytes of each worker's rings of records.
    pub ring_bytes: u64,
}

impl FlowPlan {
    /// The plan for `workers` workers on a machine with `memory` bytes.
    #[must_use]
    pub fn new(settings: &FlowSettings, workers: usize, memory: u64) -> Self {
        let metrics = settings.metrics.then(|| metrics_config(settings));
        let metrics_bytes =
            metrics.map_or(0, |metrics| metrics.bytes() + RecentMetrics::most_bytes(metrics.rows));
        let records = settings.record_ring.unwrap_or(RECORDS);
        let ring_bytes = u64::from(records) * (size_of::<FlowRecord>() + size_of::<MetricsRecord>()) as u64;
        let affordable = || {
            let share = memory / MEMORY_SHARE / (workers.max(1) as u64);
            let bytes = share.saturating_sub(metrics_bytes + ring_bytes);
            let flows = bytes * u64::from(FLOWS) / MeterConfig::bytes(FLOWS, None);
            u32::try_from(flows).unwrap_or(u32::MAX).clamp(MIN_FLOWS, FLOWS)
        };
        let flows = settings.flows.unwrap_or_else(affordable);
        Self { flows, flow_bytes: MeterConfig::bytes(flows, None), metrics_bytes, ring_bytes }
    }

    /// The plan for `workers` workers on `machine`; `None` when flows are not metered.
    #[must_use]
    pub fn of(settings: &FlowSettings, workers: usize, machine: &Machine) -> Option<Self> {
        settings.enabled.then(|| Self::new(settings, workers, machine.memory_bytes))
    }

    /// Bytes of each worker.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.flow_bytes + self.metrics_bytes + self.ring_bytes
    }
}

/// The stage of worker `index`, with room for so many more ports; `None` when flows are not metered.
pub(super) fn stage(
    boot: &BootConfig,
    plan: Option<&FlowPlan>,
    program: &Program,
    index: usize,
    spare: usize,
) -> Option<FlowStage> {
    let taps = boot.ports.iter().map(share::tap).chain(std::iter::repeat_n(TapPort::default(), spare));
    let taps: Vec<_> = taps.collect();
    let worker = u8::try_from(index).unwrap_or(u8::MAX);
    let records = boot.flow.record_ring.unwrap_or(RECORDS) as usize;
    plan.map(|plan| {
        let config = meter_config(&boot.flow, &taps, plan.flows, worker);
        FlowStage::new(MeterConfig { tap_sides: boot.mirror.sides(), ..config }, records, program)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_follow_memory_and_workers() {
        let settings = FlowSettings::default();
        let flows = |settings: &FlowSettings, workers, memory| FlowPlan::new(settings, workers, memory).flows;
        assert_eq!(flows(&settings, 2, 64 << 30), FLOWS);
        let small = FlowPlan::new(&settings, 1, 2 << 30);
        assert!(small.flows < FLOWS && small.bytes().abs_diff(256 << 20) < 8 << 20, "{small:?}");
        assert_eq!(flows(&settings, 64, 1 << 30), MIN_FLOWS);
        let less = FlowSettings { metrics_rows: Some(8192), record_ring: Some(2048), ..settings.clone() };
        let (less, more) = (FlowPlan::new(&less, 1, 64 << 30), FlowPlan::new(&settings, 1, 64 << 30));
        assert_eq!((less.metrics_bytes * 8, less.ring_bytes * 8), (more.metrics_bytes, more.ring_bytes));
        let settings = FlowSettings { flows: Some(64), metrics: false, ..settings };
        let plan = FlowPlan::new(&settings, 1, 0);
        assert_eq!((plan.flows, plan.metrics_bytes), (64, 0));
    }
}
