//! What does the `[flow]` section of a boot config say?

use std::path::Path;

use super::boot_file::narrow;
use super::destinations::non_empty;
use super::document::Fields;
use super::source::Report;
use crate::{ColumnProfile, DelayLimits, FlowSettings, FlowTimeouts, ParquetOutput};

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
    let metrics_rows = fields.integer("metrics_rows", 1_024..=1 << 22, "metrics_rows (of each worker)");
    let record_ring = fields.integer("record_ring", 64..=1 << 20, "a record_ring (records of each worker)");
    let vtap_id = fields.integer("vtap_id", 1..=u64::from(u16::MAX), "a vtap_id");
    let timeouts = fields.table("timeouts", "{ established = 300 }").map(timeouts);
    let limits = fields.table("delay_limits", "{ response = 60 }").map(delay_limits);
    let mut file = |key| {
        non_empty(&mut fields, key, "the path of a file of JSON lines", report).map(|file| folder.join(file))
    };
    let (jsonl, metrics_jsonl) = (file("jsonl"), file("metrics_jsonl"));
    if let Some(place) = fields.place_of("metrics_jsonl") {
        if !metrics {
            let hint = Some("leave out metrics = false, or this".to_owned());
            report.error(&place, fields.field("metrics_jsonl"), "metrics are off", hint);
        } else if metrics_jsonl.is_some() && metrics_jsonl == jsonl {
            let hint = Some("give each its own file".to_owned());
            report.error(&place, fields.field("metrics_jsonl"), "the file of the flow records, too", hint);
        }
    }
    let parquet = fields
        .table("parquet", "{ folder = \"records\" }")
        .and_then(|fields| parquet_output(fields, folder, report));
    fields.finish();
    FlowSettings {
        enabled,
        flows: narrow(flows),
        vlan_in_key,
        metrics,
        metrics_rows: narrow(metrics_rows),
        record_ring: narrow(record_ring),
        timeouts: timeouts.unwrap_or_default(),
        delay_limits: limits.unwrap_or_default(),
        vtap_id: narrow(vtap_id).unwrap_or(defaults.vtap_id),
        jsonl,
        metrics_jsonl,
        parquet,
    }
}

fn parquet_output(mut fields: Fields<'_>, base: &Path, report: &Report<'_>) -> Option<ParquetOutput> {
    let folder = non_empty(&mut fields, "folder", "the path of a folder", report);
    if folder.is_none() && fields.place_of("folder").is_none() {
        fields.missing("folder", "say where the files go: folder = \"records\"");
    }
    let columns = fields.choice("columns", &ColumnProfile::NAMES).map(|at| at.value).unwrap_or_default();
    let mut number = |key, range, what| narrow(fields.integer(key, range, what));
    let output = ParquetOutput {
        folder: base.join(folder?),
        columns,
        flush_s: number("flush", 1..=3600, "a flush interval (seconds)"),
        keep_hours: number("keep_hours", 1..=1 << 20, "keep_hours"),
        keep_gb: number("keep_gb", 1..=1 << 20, "keep_gb (gigabytes)"),
        reserve_mb: number("reserve_mb", 0..=1 << 24, "reserve_mb (megabytes)"),
        records_per_second: number("records_per_second", 100..=1_000_000, "records_per_second"),
        row_group: number("row_group", 1_024..=1 << 20, "a row_group (records)"),
        counters_s: number("counters", 0..=3600, "the interval of counters (seconds, 0 = none)"),
    };
    fields.finish();
    Some(output)
}

fn delay_limits(mut fields: Fields<'_>) -> DelayLimits {
    let defaults = DelayLimits::default();
    let mut nanoseconds = |key, default| {
        let seconds = fields.integer(key, 1..=MAX_TIMEOUT_S, "a limit (seconds)");
        seconds.map_or(default, |at| at.value * 1_000_000_000)
    };
    let limits = DelayLimits {
        handshake_ns: nanoseconds("handshake", defaults.handshake_ns),
        ack_ns: nanoseconds("ack", defaults.ack_ns),
        response_ns: nanoseconds("response", defaults.response_ns),
    };
    fields.finish();
    limits
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse_boot;

    const PORT: &str = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";

    fn parse(section: &str) -> FlowSettings {
        parse_boot("boot.toml", &format!("{PORT}{section}")).unwrap().value.flow
    }

    #[test]
    fn everything_has_a_default() {
        assert_eq!(parse("[flow]"), FlowSettings { enabled: true, ..FlowSettings::default() });
    }

    #[test]
    fn timeouts_and_limits_can_be_set_one_by_one() {
        let settings =
            parse("[flow]\ntimeouts = { closing = 7 }\ndelay_limits = { handshake = 1, response = 60 }\n");
        assert_eq!(settings.timeouts, FlowTimeouts { closing_s: 7, ..FlowTimeouts::default() });
        let limits = DelayLimits {
            handshake_ns: 1_000_000_000,
            response_ns: 60_000_000_000,
            ..DelayLimits::default()
        };
        assert_eq!(settings.delay_limits, limits);
    }

    #[test]
    fn a_file_of_metrics_is_wrong_for_one_reason() {
        for (lines, told) in [
            ("metrics_jsonl = \"\"", "empty"),
            ("metrics_jsonl = 7", "an integer"),
            ("jsonl = \"a\"\nmetrics_jsonl = \"a\"", "give each its own"),
            ("metrics = false\nmetrics_jsonl = \"a\"", "metrics are off"),
        ] {
            let errors = parse_boot("boot.toml", &format!("{PORT}[flow]\n{lines}\n")).unwrap_err();
            assert_eq!(errors.0.len(), 1, "{errors}");
            assert!(errors.0[0].to_string().contains(told), "{errors}");
        }
    }

    #[test]
    fn parquet_files_have_a_folder() {
        let settings = parse(
            "[flow.parquet]\nfolder = \"records\"\ncolumns = \"basic\"\nkeep_hours = 24\ncounters = 1\n",
        );
        let output = settings.parquet.unwrap();
        assert_eq!(output.counters_s, Some(1));
        assert_eq!((output.columns, output.keep_hours), (ColumnProfile::Basic, Some(24)));
        assert_eq!((output.folder.as_path(), output.flush_s), (Path::new("records"), None));
        for (section, wanted) in [
            ("[flow.parquet]\n", "folder"),
            ("[flow.parquet]\nfolder = \"\"\n", "folder"),
            ("[flow.parquet]\nfolder = \"r\"\ncolumns = \"most\"\n", "columns"),
            ("[flow.parquet]\nfolder = \"r\"\nflush = 0\n", "flush"),
            ("[flow.parquet]\nfolder = \"r\"\nrecords_per_second = 99\n", "records_per_second"),
            ("[flow.parquet]\nfolder = \"r\"\nrecords_per_second = 1000001\n", "records_per_second"),
            ("[flow.parquet]\nfolder = \"r\"\ncounters = 3601\n", "counters"),
            ("[flow.parquet]\nfolder = \"r\"\nkeep = 1\n", "keep"),
        ] {
            let errors = parse_boot("boot.toml", &format!("{PORT}{section}")).unwrap_err();
            assert!(errors.0[0].to_string().contains(wanted), "{section}: {}", errors.0[0]);
        }
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for limits in ["{ ack = 0 }", "{ ack = 100_000 }", "{ acks = 1 }", "7"] {
            let file = format!("{PORT}[flow]\ndelay_limits = {limits}\n");
            let errors = parse_boot("boot.toml", &file).unwrap_err();
            assert!(errors.0[0].to_string().contains("boot.toml:7"), "{limits}: {}", errors.0[0]);
        }
    }
}
