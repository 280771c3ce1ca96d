//! How is the daemon at a moment? Its metrics, and what the kernel says of its process.

use std::collections::BTreeMap;
use std::fs;

use crate::netns::Namespace;
use crate::prometheus::get;

/// Where the daemon's metrics are, in its own namespace.
pub const METRICS: &str = "127.0.0.1:9464";

/// A sample of the text format: name, labels, value.
type Sample<'t> = (&'t str, BTreeMap<&'t str, &'t str>, f64);

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Packets received, copies after the first, sent, and neither sent nor dropped yet.
    pub rx: u64,
    /// Copies of a packet after its first.
    pub replicas: u64,
    /// Packets sent.
    pub tx: u64,
    /// Packets between stages.
    pub held: u64,
    /// Drops by reason.
    pub drops: BTreeMap<String, u64>,
    /// Of these, copies for each destination.
    pub destination_drops: BTreeMap<String, BTreeMap<String, u64>>,
    /// Copies sent to each destination.
    pub sent: BTreeMap<String, u64>,
    /// Packets lost before a worker saw them.
    pub lost_before_rx: u64,
    /// The daemon's own check of the account.
    pub imbalance: u64,
    /// Packet buffers in use.
    pub mbufs: u64,
    /// The state, by name.
    pub state: String,
    /// Exceptions raised, by code.
    pub exceptions: BTreeMap<String, u64>,
    /// How often the clock was found to have stepped.
    pub clock_steps: u64,
    /// Rows in whole Parquet files, and rows lost.
    pub rows_written: u64,
    /// Rows that could not be written.
    pub rows_lost: u64,
    /// Whether rows are written now.
    pub rows_go: bool,
    /// Resident memory, by the kernel.
    pub rss_kb: u64,
    /// Open descriptors, by the kernel.
    pub fds: u64,
    /// Threads, by the kernel.
    pub threads: u64,
}

impl Look {
    /// Looks at the daemon with this process number. `None` = it does not answer: it is not there, or not yet, or not
    /// any more.
    #[must_use]
    pub fn at(broker: &Namespace, pid: u32) -> Option<Self> {
        let asked = broker.inside(|| get(METRICS.parse().unwrap(), "/metrics", "").ok());
        let (status, _, text) = asked.join().unwrap()?;
        if status != 200 {
            return None;
        }
        let mut look = Self::parse(&text)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        (look.rss_kb, look.threads) = (of("VmRSS:")?, of("Threads:")?);
        look.fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        Some(look)
    }

    /// Reads metrics; `None` when those of the account are not there (yet).
    fn parse(text: &str) -> Option<Self> {
        let mut look = Self { rows_go: true, ..Self::default() };
        let mut account = 0;
        for (name, labels, value) in text.lines().filter_map(sample) {
            let count = count(value);
            let label = |name: &str| labels.get(name).map_or_else(String::new, |value| (*value).to_owned());
            match name {
                "sluice_rx_packets_total" => (look.rx, account) = (count, account + 1),
                "sluice_replica_packets_total" => (look.replicas, account) = (count, account + 1),
                "sluice_tx_packets_total" => (look.tx, account) = (count, account + 1),
                "sluice_held_packets" => (look.held, account) = (count, account + 1),
                "sluice_dropped_packets_total" => {
                    look.drops.insert(label("reason"), count);
                }
                "sluice_destination_dropped_packets_total" => {
                    look.destination_drops
                        .entry(label("destination"))
                        .or_default()
                        .insert(label("reason"), count);
                }
                "sluice_destination_sent_packets_total" => {
                    look.sent.insert(label("destination"), count);
                }
                "sluice_lost_before_rx_packets_total" => look.lost_before_rx = count,
                "sluice_imbalance_packets" => look.imbalance = count,
                "sluice_taken_mbufs" => look.mbufs = count,
                "sluice_state" if count == 1 => look.state = label("state"),
                "sluice_exceptions" if count > 0 => {
                    look.exceptions.insert(label("code"), count);
                }
                "sluice_clock_steps_total" => look.clock_steps = count,
                "sluice_parquet_written_records_total" => look.rows_written += count,
                "sluice_parquet_lost_records_total" => look.rows_lost += count,
                "sluice_parquet_writing" => look.rows_go = count == 1,
                _ => {}
            }
        }
        (account == 4).then_some(look)
    }

    /// All drops.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }

    /// What does not add up; `None` = every packet is in the account.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let (left, right) = (self.rx + self.replicas, self.tx + self.dropped() + self.held);
        (left != right || self.imbalance != 0).then(|| {
            format!(
                "rx + replicas = {left}, tx + drops + held = {right}, imbalance {}: {self:?}",
                self.imbalance
            )
        })
    }

    /// Copies of the packets of the senders that were on their way to the tool and did not leave, as the daemon says:
    /// what was dropped, without copies for files, and without what is none of ours.
    #[must_use]
    pub fn told_lost(&self) -> u64 {
        let files = self.destination_drops.get("file").map_or(0, |drops| drops.values().sum());
        let others = ["no_policy", "not_capture_port"].iter().filter_map(|reason| self.drops.get(*reason));
        self.lost_before_rx + self.dropped() - files - others.sum::<u64>()
    }
}

/// Takes a line of metrics apart. No label has a quote or a comma in its value here.
fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = name.split_once('{') else { return Some((name, BTreeMap::new(), value)) };
    let labels = labels.strip_suffix('}')?.split(',').filter_map(|label| label.split_once('='));
    Some((name, labels.map(|(name, value)| (name, value.trim_matches('"'))).collect(), value))
}

/// A count; whatever is no count is made one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, and not below zero")]
fn count(value: f64) -> u64 {
    value.abs().round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_and_added_up() {
        let text = "# TYPE sluice_rx_packets counter\nsluice_rx_packets_total 10\nsluice_replica_packets_total 5\n\
                    sluice_tx_packets_total 9\nsluice_held_packets 1\nsluice_imbalance_packets 0\n\
                    sluice_dropped_packets_total{reason=\"tx_full\",intentional=\"false\"} 2\n\
                    sluice_dropped_packets_total{reason=\"file_write\",intentional=\"false\"} 2\n\
                    sluice_dropped_packets_total{reason=\"no_policy\",intentional=\"true\"} 1\n\
                    sluice_destination_dropped_packets_total{destination=\"file\",reason=\"file_write\"} 2\n\
                    sluice_destination_sent_packets_total{destination=\"tool\"} 7\nsluice_lost_before_rx_packets_total 3\n\
                    sluice_state{state=\"running\"} 0\nsluice_state{state=\"exception\"} 1\n\
                    sluice_exceptions{code=\"port_down\"} 2\nsluice_exceptions{code=\"disk_low\"} 0\n";
        let mut look = Look::parse(text).unwrap();
        assert_eq!((look.fault(), look.told_lost(), look.sent["tool"]), (None, 5, 7));
        assert_eq!(
            (look.state.as_str(), look.exceptions["port_down"], look.exceptions.len()),
            ("exception", 2, 1)
        );
        look.held = 0;
        assert!(look.fault().is_some());
        assert!(Look::parse("process_threads 3\n").is_none());
    }
}
