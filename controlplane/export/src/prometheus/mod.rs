//! Metrics for Prometheus: declared once, read at the moment of a scrape, served over HTTP.
//!
//! [`Metric`] declares every name with its meaning; a [`Snapshot`] is plain data; a [`MetricsServer`] asks a [`Source`]
//! for one at each scrape and answers in text format 0.0.4, or OpenMetrics for those who ask.

mod declare;
pub mod docs;
mod family;
mod http_counts;
mod process;
mod server;
mod snapshot;
mod text;
mod view;

pub use declare::{Kind, Metric};
pub use server::{Health, MAX_CONNECTIONS, MetricsServer, ServeError, Source};
pub use snapshot::Snapshot;
pub use text::Format;
pub use view::{
    ApiView, Breaker, Counts, DedupPair, Destination, EngineView, Flow, Histogram, LifeView, OvsView, Policy,
    Port, Stage, Tap, Thread, Tunnels,
};
