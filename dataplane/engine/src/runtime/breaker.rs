//! Does an output interface carry too much? Measured by the control thread, once per interval.

use std::sync::Arc;

use sluice_core::limit::Breaker;
use sluice_model::{BreakerSettings, PortConfig, PortId, PortSpec};

use super::port_state::PortState;
use super::ports::interface_below;
use crate::output::BreakerCell;

/// The breakers of all output ports.
#[derive(Debug, Default)]
pub(super) struct PortBreakers {
    ports: Vec<PortBreaker>,
    settings: Option<BreakerSettings>,
    /// When the interval began; `None` before the first.
    begin_ns: Option<u64>,
}

#[derive(Debug)]
struct PortBreaker {
    id: PortId,
    state: Arc<PortState>,
    cell: Arc<BreakerCell>,
    /// `None` = nobody asked for it.
    breaker: Option<Breaker>,
    /// The kernel interface that the port is, if it is one.
    interface: Option<String>,
    /// Bytes sent when the interval began, where the device told.
    sent_bytes: Option<u64>,
}

impl PortBreakers {
    /// Breakers with these settings for ports to come; `None` = off.
    pub(super) fn new(settings: Option<BreakerSettings>) -> Self {
        Self { ports: Vec::new(), settings, begin_ns: None }
    }

    /// Looks after a port, too, whose breaker is closed; nothing happens if it does not send.
    pub(super) fn watch(&mut self, id: PortId, setup: &PortConfig, state: &Arc<PortState>) {
        let Some(cell) = state.breaker() else { return };
        cell.set_off(self.settings.is_none());
        self.ports.push(PortBreaker {
            id,
            state: Arc::clone(state),
            cell,
            breaker: self.settings.map(Breaker::new),
            interface: interface(&setup.spec).map(str::to_owned),
            sent_bytes: None,
        });
    }

    /// Does not look after this port any more.
    pub(super) fn forget(&mut self, id: PortId) {
        self.ports.retain(|port| port.id != id);
    }

    /// Begins anew with these settings, all closed; `None` = off.
    pub(super) fn change(&mut self, settings: Option<BreakerSettings>) {
        self.settings = settings;
        self.begin_ns = None;
        for port in &mut self.ports {
            port.breaker = settings.map(Breaker::new);
            port.sent_bytes = None;
            port.cell.set_off(settings.is_none());
        }
    }

    /// Ends the interval if it is over.
    pub(super) fn poll(&mut self, now_ns: u64) {
        let Some(BreakerSettings { interval_ns, .. }) = self.settings else { return };
        let elapsed_ns = self.begin_ns.map(|begin| now_ns.saturating_sub(begin));
        if elapsed_ns.is_some_and(|elapsed| elapsed < interval_ns) || self.ports.is_empty() {
            return;
        }
        self.begin_ns = Some(now_ns);
        for port in &mut self.ports {
            let sent = port.state.sent_bytes(port.interface.as_deref());
            // Less than before: the interface is another one by now, and has counted from zero.
            let bytes = sent.zip(port.sent_bytes).and_then(|(now, before)| now.checked_sub(before));
            port.sent_bytes = sent;
            if let (Some(bytes), Some(elapsed_ns)) = (bytes, elapsed_ns) {
                port.end_interval(bytes, elapsed_ns);
            }
        }
    }
}

impl PortBreaker {
    fn end_interval(&mut self, bytes: u64, elapsed_ns: u64) {
        let name = self.state.name();
        let Some(breaker) = &mut self.breaker else { return };
        let open = breaker.end_interval(bytes, elapsed_ns);
        let rate_bps = u128::from(bytes) * 8_000_000_000 / u128::from(elapsed_ns.max(1));
        let rate_bps = u64::try_from(rate_bps).unwrap_or(u64::MAX);
        if self.cell.set(open, rate_bps) {
            if open {
                tracing::warn!(
                    port = name,
                    rate_mbps = rate_bps / 1_000_000,
                    "breaker open: the interface carries too much; copies to it are dropped as breaker"
                );
            } else {
                tracing::info!(port = name, rate_mbps = rate_bps / 1_000_000, "breaker closed");
            }
        }
    }
}

/// The kernel interface behind a device, whose counters the kernel keeps.
fn interface(spec: &PortSpec) -> Option<&str> {
    match spec {
        PortSpec::AfPacket(interface) => Some(interface),
        spec => interface_below(spec),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_counts_for_its_interfaces() {
        let interface = |text: &str| super::interface(&text.parse().unwrap()).map(str::to_owned);
        assert_eq!(interface("af_packet:eth0.5").as_deref(), Some("eth0.5"));
        assert_eq!(interface("net_af_xdp0,iface=eth1,queue_count=2").as_deref(), Some("eth1"));
        assert_eq!(interface("net_null0"), None);
        assert_eq!(interface("0000:01:00.0"), None);
    }
}
