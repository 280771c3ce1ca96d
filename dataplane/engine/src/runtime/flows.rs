//! The flow stages of the workers, as the boot config asks for them.

use sluice_core::classify::Program;
use sluice_core::flow::TapPort;
use sluice_model::BootConfig;

use crate::stage::flow::{FlowStage, meter_config};

/// Flows of one worker unless the boot config says: about 250 MB.
const DEFAULT_FLOWS: u32 = 262_144;
/// Records that wait for being drained, per worker.
const RECORDS: usize = 16_384;

/// The stage of worker `index`; `None` when flows are not metered.
pub(super) fn stage(boot: &BootConfig, program: &Program, index: usize) -> Option<FlowStage> {
    let taps: Vec<_> = boot.ports.iter().map(|port| TapPort { tap: port.tap, side: port.tap_side }).collect();
    let worker = u8::try_from(index).unwrap_or(u8::MAX);
    boot.flow
        .enabled
        .then(|| FlowStage::new(meter_config(&boot.flow, &taps, DEFAULT_FLOWS, worker), RECORDS, program))
}
