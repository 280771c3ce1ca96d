//! What does the `[flow]` section of a boot config say?

use std::path::Path;

use super::boot_file::narrow;
use super::destinations::non_empty;
use super::document::Fields;
use super::source::Report;
use crate::{FlowSettings, FlowTimeouts};

/// The most flows of one worker.
const MAX_FLOWS: u64 = 1 << 26;
/// The longest timeout: a day.
const MAX_TIMEOUT_S: u64 = 86_400;

/// The section; flows are metered when it is there, unless it says `enabled = false`.
pub(super) fn flow_settings(mut fields: Fields<'_>, folder: &Path, report: &Report<'_>) -> FlowSettings {
    let defaults = FlowSettings::default();
    let enabled = fields.boolean("enabled").is_none_or(|at| at.value);
    let flows = fields.integer("flows", 64..=MAX_FLOWS, "flows (of each worker)");
    let vlan_in_key = fields.boolean("vlan_in_key").map_or(defaults.vlan_in_key, |at| at.value);
    let metrics = fields.boolean("metrics").map_or(defaults.metrics, |at| at.value);
    let vtap_id = fields.integer("vtap_id", 1..=u64::from(u16::MAX), "a vtap_id");
    let timeouts = fields.table("timeouts", "{ established = 300 }").map(timeouts);
    let mut file = |key| {
        non_empty(&mut fields, key, "the path of a file of JSON lines", report).map(|file| folder.join(file))
    };
    let (jsonl, metrics_jsonl) = (file("jsonl"), file("metrics_jsonl"));
    if let Some(place) = fields.place_of("metrics_jsonl") {
        if !metrics {
            let hint = Some("leave out metrics = false, or this".to_owned());
            report.error(&place, fields.field("metrics_jsonl"), "metrics are off", hint);
        } else if metrics_jsonl == jsonl {
            let hint = Some("give each its own file".to_owned());
            report.error(&place, fields.field("metrics_jsonl"), "the file of the flow records, too", hint);
        }
    }
    fields.finish();
    FlowSettings {
        enabled,
        flows: narrow(flows),
        vlan_in_key,
        metrics,
        timeouts: timeouts.unwrap_or_default(),
        vtap_id: narrow(vtap_id).unwrap_or(defaults.vtap_id),
        jsonl,
        metrics_jsonl,
    }
}

fn timeouts(mut fields: Fields<'_>) -> FlowTimeouts {
    let defaults = FlowTimeouts::default();
    let mut seconds = |key, default| {
        narrow(fields.integer(key, 1..=MAX_TIMEOUT_S, "a timeout (seconds)")).unwrap_or(default)
    };
    let timeouts = FlowTimeouts {
        opening_s: seconds("opening", defaults.opening_s),
        established_s: seconds("established", defaults.established_s),
        closing_s: seconds("closing", defaults.closing_s),
        reset_s: seconds("reset", defaults.reset_s),
        one_way_s: seconds("one_way", defaults.one_way_s),
        other_s: seconds("other", defaults.other_s),
    };
    fields.finish();
    timeouts
}
