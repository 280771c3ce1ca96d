//! One JSON object per line on stderr: `time`, `level`, `target`, `message` and the fields of the event.

use std::fmt::Debug;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The layer.
#[derive(Debug)]
pub(super) struct Json;

impl<S: Subscriber> Layer<S> for Json {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = line(event, u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        // When nobody reads it, there is nobody to tell.
        drop(writeln!(std::io::stderr().lock(), "{line}"));
    }
}

/// The object; `time_ns` is since 1970 (UTC).
fn line(event: &Event<'_>, time_ns: u64) -> Value {
    let mut fields = Fields(Map::new());
    fields.0.insert("time_ns".to_owned(), time_ns.into());
    fields.0.insert("level".to_owned(), event.metadata().level().as_str().to_ascii_lowercase().into());
    fields.0.insert("target".to_owned(), event.metadata().target().into());
    event.record(&mut fields);
    Value::Object(fields.0)
}

/// The message and the fields of an event.
pub(super) fn fields(event: &Event<'_>) -> Map<String, Value> {
    let mut fields = Fields(Map::new());
    event.record(&mut fields);
    fields.0
}

struct Fields(Map<String, Value>);

impl Fields {
    /// A field that has the name of one of ours gets another one.
    fn insert(&mut self, field: &Field, value: Value) {
        let name = field.name();
        let name = if self.0.contains_key(name) { format!("{name}_") } else { name.to_owned() };
        self.0.insert(name, value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.insert(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "test code")]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    struct Keep(Arc<Mutex<Vec<Value>>>);

    impl<S: Subscriber> Layer<S> for Keep {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            self.0.lock().unwrap().push(line(event, 5));
        }
    }

    #[test]
    fn fields_keep_their_types() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Keep(Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, || {
            let error = "a \"b\"\n";
            tracing::warn!(target: "t", packets = 3_u64, rate = 0.5, up = true, %error, level = "own", "it\u{7f}s");
        });
        let expected = serde_json::json!({
            "time_ns": 5, "level": "warn", "target": "t", "message": "it\u{7f}s",
            "packets": 3, "rate": 0.5, "up": true, "error": "a \"b\"\n", "level_": "own",
        });
        assert_eq!(*lines.lock().unwrap(), [expected]);
    }
}
