//! What of a flow goes to the metrics, and under which key?

use sluice_model::{CloseType, MetricsKey, Throughput};

use super::entry::flag;
use super::key::FlowKey;
use super::meter::FlowMeter;
use super::metrics::MetricsDelta;
use super::table::Slot;

const SECOND_NS: u64 = 1_000_000_000;

impl FlowMeter {
    /// Gives the metrics what the flow did since they were last told, as of the second of `time_ns`.
    pub(super) fn tell_metrics(&mut self, slot: Slot, time_ns: u64) {
        let client = self.client(slot);
        let key = self.metrics_key(slot, client);
        let Some(metrics) = &mut self.metrics else { return };
        let entry = &mut self.entries[slot.index()];
        let cold = &mut self.cold[slot.index()];
        let delays = std::mem::take(&mut entry.counts.delays);
        let mut delta = MetricsDelta {
            delays,
            // Seldom there, and large.
            perf: entry.tcp.take_measured().then(|| std::mem::take(&mut cold.perf)),
            new_flow: cold.head.metrics_client.is_none(),
            ..MetricsDelta::default()
        };
        for (number, (side, sent)) in delta.sides.iter_mut().zip(&entry.counts.sent).enumerate() {
            let sent = cold.throughput(number, sent);
            let told = std::mem::replace(&mut cold.told[number], sent);
            *side = Throughput {
                packets: sent.packets - told.packets,
                bytes: sent.bytes - told.bytes,
                l3_bytes: sent.l3_bytes - told.l3_bytes,
                l4_bytes: sent.l4_bytes - told.l4_bytes,
            };
        }
        if delta == MetricsDelta::default() {
            return;
        }
        if let Some(perf) = &delta.perf {
            cold.perf_told.merge(perf);
            cold.head.has_perf_told = true;
        }
        cold.delays_told.merge(delays);
        cold.head.metrics_client.get_or_insert(client);
        metrics.add_at(&mut cold.head.metrics_place, &key, second(time_ns), &delta);
    }

    /// Tells the metrics that the flow ended at `time_ns`, under the key that they know it by.
    pub(super) fn tell_end(&mut self, slot: Slot, close_type: CloseType, time_ns: u64) {
        let client = self.cold[slot.index()].head.metrics_client.unwrap_or(self.client(slot));
        let key = self.metrics_key(slot, client);
        if let Some(metrics) = &mut self.metrics {
            let delta = MetricsDelta { closed: Some(close_type), ..MetricsDelta::default() };
            metrics.add(&key, second(time_ns), &delta);
        }
    }

    /// Which end of the key is the client.
    fn client(&self, slot: Slot) -> u8 {
        u8::from(self.entries[slot.index()].hot.flags & flag::CLIENT_IS_SECOND != 0)
    }

    /// The key of the metrics when end `client` of the flow's key is the client.
    fn metrics_key(&self, slot: Slot, client: u8) -> MetricsKey {
        let key = FlowKey::decode(&self.entries[slot.index()].hot.words, &self.long[slot.index()]);
        let client = usize::from(client);
        MetricsKey {
            addresses: [key.addresses[client], key.addresses[client ^ 1]],
            network: key.network,
            protocol: key.protocol,
            server_port: key.ports.map(|ports| ports[client ^ 1]),
            tap: key.tap,
            tap_side: self.config.side(key.tap, self.cold[slot.index()].head.port),
        }
    }
}

/// The second since the epoch.
pub(super) fn second(time_ns: u64) -> u32 {
    u32::try_from(time_ns / SECOND_NS).unwrap_or(u32::MAX)
}
