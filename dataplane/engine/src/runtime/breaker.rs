//! Does an output interface carry too much? Measured by the control thread, once per interval.

use std::sync::Arc;

use sluice_core::limit::Breaker;
use sluice_model::{BootConfig, BreakerSettings, PortSpec};

use super::ports::PortState;
use crate::output::BreakerCell;

/// The breakers of all output ports.
#[derive(Debug, Default)]
pub(super) struct PortBreakers {
    /// By port number; `None` for ports that do not send.
    ports: Vec<Option<PortBreaker>>,
    interval_ns: u64,
    /// When the interval began; `None` before the first.
    begin_ns: Option<u64>,
}

#[derive(Debug)]
struct PortBreaker {
    /// `None` = nobody asked for it.
    breaker: Option<Breaker>,
    cell: Arc<BreakerCell>,
    /// The kernel interface that the port is, if it is one.
    interface: Option<String>,
    /// Bytes sent when the interval began, where the device told.
    sent_bytes: Option<u64>,
}

impl PortBreakers {
    /// A closed breaker for every port that sends; off, unless the boot config asks for it.
    pub(super) fn new(boot: &BootConfig) -> Self {
        let breaker = |spec: &PortSpec| PortBreaker {
            breaker: None,
            cell: Arc::default(),
            interface: interface(spec).map(str::to_owned),
            sent_bytes: None,
        };
        let ports = boot.ports.iter().map(|port| port.role.sends().then(|| breaker(&port.spec))).collect();
        let mut breakers = Self { ports, interval_ns: 0, begin_ns: None };
        breakers.change(boot.breaker);
        breakers
    }

    /// Begins anew with these settings, all closed; `None` = off.
    pub(super) fn change(&mut self, settings: Option<BreakerSettings>) {
        self.interval_ns = settings.map_or(0, |settings| settings.interval_ns);
        self.begin_ns = None;
        for port in self.ports.iter_mut().flatten() {
            port.breaker = settings.map(Breaker::new);
            port.sent_bytes = None;
            port.cell.set_off(settings.is_none());
        }
    }

    /// The state of a port's breaker, if it has one.
    pub(super) fn cell(&self, port: usize) -> Option<Arc<BreakerCell>> {
        Some(Arc::clone(&self.ports.get(port)?.as_ref()?.cell))
    }

    /// The states by port number, for every port where there are breakers at all.
    pub(super) fn cells(&self) -> Vec<Option<Arc<BreakerCell>>> {
        (0..self.ports.len()).map(|port| self.cell(port)).collect()
    }

    /// Ends the interval if it is over.
    pub(super) fn poll(&mut self, now_ns: u64, states: &[Arc<PortState>]) {
        if self.interval_ns == 0 {
            return;
        }
        let elapsed_ns = self.begin_ns.map(|begin| now_ns.saturating_sub(begin));
        if elapsed_ns.is_some_and(|elapsed| elapsed < self.interval_ns) || self.ports.is_empty() {
            return;
        }
        self.begin_ns = Some(now_ns);
        for (port, state) in self.ports.iter_mut().zip(states) {
            let Some(port) = port else { continue };
            let sent = state.sent_bytes(port.interface.as_deref());
            // Less than before: the interface is another one by now, and has counted from zero.
            let bytes = sent.zip(port.sent_bytes).and_then(|(now, before)| now.checked_sub(before));
            port.sent_bytes = sent;
            if let (Some(bytes), Some(elapsed_ns)) = (bytes, elapsed_ns) {
                port.end_interval(bytes, elapsed_ns, state.name());
            }
        }
    }
}

impl PortBreaker {
    fn end_interval(&mut self, bytes: u64, elapsed_ns: u64, name: &str) {
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
        PortSpec::Devargs(args) if args.starts_with("net_af_") => {
            args.split(',').find_map(|arg| arg.strip_prefix("iface="))
        }
        PortSpec::Devargs(_) | PortSpec::Pci(_) | PortSpec::Pcap(_) | PortSpec::Vhost(_) => None,
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
