//! What each worker and distributor did, as a table for people and as JSON for scripts.

use serde_json::{Value, json};
use sluice_engine::latency::Percentiles;
use sluice_engine::runtime::ThreadReport;

use crate::report;

/// One row per thread.
pub(crate) fn table(threads: &[ThreadReport]) -> String {
    let mut table = report::numbers(&[
        "thread",
        "received",
        "sent",
        "dropped",
        "sleeps",
        "delay p50 ns",
        "p99",
        "max",
        "batch p50",
        "p99",
    ]);
    for thread in threads {
        let ledger = &thread.ledger;
        let latency = thread.latency.unwrap_or_default();
        let counts = [
            ledger.rx_packets,
            ledger.tx_packets + ledger.to_workers,
            ledger.drops.total(),
            thread.sleeps,
            latency.delay_ns.p50,
            latency.delay_ns.p99,
            latency.delay_ns.max,
            latency.batch_pkts.p50,
            latency.batch_pkts.p99,
        ];
        table.add_row(report::row(&thread.name, &counts));
    }
    table.to_string()
}

/// An array with an object per thread.
pub(crate) fn json(threads: &[ThreadReport]) -> Value {
    let thread = |thread: &ThreadReport| {
        let ledger = &thread.ledger;
        json!({
            "name": thread.name,
            "rx_packets": ledger.rx_packets,
            "from_distributors": ledger.from_distributors,
            "tx_packets": ledger.tx_packets,
            "to_workers": ledger.to_workers,
            "drops": report::drops_json(&ledger.drops),
            "sleeps": thread.sleeps,
            "idle_polls": thread.idle_polls,
            "delay_ns": thread.latency.map(|latency| percentiles(&latency.delay_ns)),
            "batch_packets": thread.latency.map(|latency| percentiles(&latency.batch_pkts)),
        })
    };
    threads.iter().map(thread).collect()
}

fn percentiles(values: &Percentiles) -> Value {
    json!({
        "samples": values.samples,
        "p50": values.p50,
        "p90": values.p90,
        "p99": values.p99,
        "p999": values.p999,
        "max": values.max,
    })
}
