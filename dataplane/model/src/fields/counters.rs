//! The columns of counters.

use super::{Field, FieldValue, fields, micros, number, optional};
use crate::CounterRecord;

/// The columns of counters, in their order: one row for each counter and interval.
pub const COUNTER_FIELDS: &[Field<CounterRecord>] = fields![CounterRecord:
    "time" Time "us" "end of the interval" "" |r| micros(r.time_ns);
    "interval" U32 "ms" "how long it lasted" "" |r| number(r.interval_ms);
    "scope" Text "" "what it counts for: `appliance`, `port`, `worker`, `policy`, `destination`, `drop`, `table`" "" |r| FieldValue::Name(r.scope.name());
    "name" Text "" "which of them, as configured; empty = all" "" |r| FieldValue::Text(&r.name);
    "metric" Text "" "what is counted; with `drop` the reason; `device.` and a name: what the driver of a port counts" "" |r| FieldValue::Text(&r.metric);
    "value" U64 "" "what was added in the interval; of a gauge its reading at the end" "" |r| number(r.value);
    "total" U64 "" "all since the start" "a gauge" |r| optional(r.total);
];
