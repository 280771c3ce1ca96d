//! Values under their declared names, and the collector that hands them to the encoder.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::declare::{Kind, Metric};

/// The value of one sample.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Int(u64),
    Signed(i64),
    Float(f64),
    Histogram { sum: f64, count: u64, buckets: Vec<(f64, u64)> },
}

/// One line, or of a histogram some.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: Value,
}

/// The samples of one scrape, by family.
#[derive(Clone, Debug, Default)]
pub(super) struct Families(Vec<(Metric, Vec<Sample>)>);

impl Families {
    /// Adds a sample; `labels` are the values of the declared ones. Those of a family come one after the other.
    pub(super) fn add(&mut self, metric: Metric, labels: &[&str], value: Value) {
        debug_assert_eq!(metric.labels().len(), labels.len(), "{metric:?}");
        let labels = metric.labels().iter().copied().zip(labels.iter().map(|&value| value.to_owned()));
        let sample = Sample { labels: labels.collect(), value };
        match self.0.last_mut() {
            Some((last, samples)) if *last == metric => samples.push(sample),
            _ => {
                debug_assert!(
                    self.0.iter().all(|(earlier, _)| *earlier != metric),
                    "{metric:?} in two places"
                );
                self.0.push((metric, vec![sample]));
            }
        }
    }

    /// Adds a whole number without labels.
    pub(super) fn int(&mut self, metric: Metric, value: u64) {
        self.add(metric, &[], Value::Int(value));
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        for (metric, samples) in &self.0 {
            let unit = metric.unit().map(unit);
            let end = metric.unit().map_or(0, |unit| unit.len() + 1);
            let family = metric.family();
            let stem = family.get(..family.len() - end).unwrap_or(family);
            let kind = match metric.kind() {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
                Kind::Info => MetricType::Info,
            };
            let mut family = encoder.encode_descriptor(stem, metric.help(), unit.as_ref(), kind)?;
            for Sample { labels, value } in samples {
                if labels.is_empty() || metric.kind() == Kind::Info {
                    sample(&mut family, metric.kind(), labels, value)?;
                } else {
                    sample(&mut family.encode_family(labels)?, metric.kind(), labels, value)?;
                }
            }
        }
        Ok(())
    }
}

/// The declared unit in the encoder's words.
fn unit(name: &'static str) -> Unit {
    match name {
        "bytes" => Unit::Bytes,
        "seconds" => Unit::Seconds,
        other => Unit::Other(other.to_owned()),
    }
}

fn sample(
    encoder: &mut MetricEncoder<'_>,
    kind: Kind,
    labels: &Vec<(&'static str, String)>,
    value: &Value,
) -> std::fmt::Result {
    match (kind, value) {
        (Kind::Info, _) => encoder.encode_info(labels),
        (Kind::Counter, Value::Int(value)) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        (Kind::Counter, Value::Float(value)) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        (_, Value::Int(value)) => encoder.encode_gauge(value),
        (_, Value::Signed(value)) => encoder.encode_gauge(value),
        (_, Value::Float(value)) => encoder.encode_gauge(value),
        (_, Value::Histogram { sum, count, buckets }) => {
            encoder.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
        }
    }
}
