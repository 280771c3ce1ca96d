//! The flows that are in the tables of all workers now.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::TryLockError;
use std::time::{Duration, Instant};

use sluice_core::flow::FlowSnapshot;
use sluice_model::Network;

use super::Engine;
use crate::flow_read::{FlowPage, PageQueues};

/// How long a worker may take for one page.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often to look whether one is there.
const ROUND: Duration = Duration::from_micros(200);

/// Why the tables could not be read to their ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowReadError {
    /// There are no tables.
    #[error("flows are not metered: set `enabled = true` in [flow] and restart the daemon")]
    NotMetered,
    /// Somebody else reads.
    #[error("the tables of flows are being read for somebody else; ask again")]
    Busy,
    /// Who asked does not want to know any more.
    #[error("the tables of flows were not read to their ends in time")]
    Cancelled,
    /// A worker does not answer; it has ended, or is stuck.
    #[error("worker {worker} did not hand over its flows within {} s", PATIENCE.as_secs())]
    Worker {
        /// Its number.
        worker: usize,
    },
}

/// A flow by its ends, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSelector {
    /// Both addresses.
    pub addresses: [IpAddr; 2],
    /// The ports beside them; `None` = any.
    pub ports: [Option<u16>; 2],
    /// IP protocol; `None` = any.
    pub protocol: Option<u8>,
    /// The tap; `None` = any.
    pub tap: Option<u16>,
}

impl FlowSelector {
    /// Whether `flow` is such a flow: `Some(true)` if the first address is that of its client.
    #[must_use]
    pub fn fits(&self, flow: &FlowSnapshot) -> Option<bool> {
        if self.protocol.is_some_and(|protocol| protocol != flow.protocol)
            || self.tap.is_some_and(|tap| tap != flow.tap)
        {
            return None;
        }
        let fits = |from: usize| {
            [0, 1].into_iter().all(|end| {
                let (own, wanted) = (end ^ from, end);
                let port = flow.ports.map(|ports| ports[own]);
                address(flow.network, &flow.addresses[own]) == Some(self.addresses[wanted])
                    && (self.ports[wanted].is_none() || port == self.ports[wanted])
            })
        };
        if fits(0) {
            Some(true)
        } else if fits(1) {
            Some(false)
        } else {
            None
        }
    }
}

/// An address as records keep it; `None` without IP.
#[must_use]
pub fn address(network: Network, bytes: &[u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = *bytes;
    match network {
        Network::Ipv4 => Some(IpAddr::from([a, b, c, d])),
        Network::Ipv6 => Some(IpAddr::from(*bytes)),
        Network::None => None,
    }
}

impl Engine {
    /// Hands every flow in the tables to `take`, with the number of its worker, until that breaks off. The tables are
    /// read in passing, a part at a time: what is told is not of one moment. To be called from a thread that may wait,
    /// for seconds where tables are large and packets few; `goes_on` is asked meanwhile. One at a time: nobody waits for
    /// another reader.
    ///
    /// # Errors
    /// When flows are not metered, somebody else reads, `goes_on` says no, or a worker does not answer.
    pub fn read_flows(
        &self,
        goes_on: impl Fn() -> bool,
        mut take: impl FnMut(usize, &FlowSnapshot) -> ControlFlow<()>,
    ) -> Result<(), FlowReadError> {
        if self.flows().is_empty() {
            return Err(FlowReadError::NotMetered);
        }
        let mut last_request = match self.flow_requests.try_lock() {
            Ok(last) => last,
            Err(TryLockError::Poisoned(last)) => last.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(FlowReadError::Busy),
        };
        *last_request += 1;
        let request = *last_request;
        let mut open: Vec<(usize, &PageQueues)> =
            self.queues.iter().map(|queues| &queues.pages).enumerate().collect();
        for (_, queues) in &open {
            // What a request before this one has left behind.
            drop((queues.wanted.pop(), queues.filled.pop()));
            drop(queues.wanted.push(FlowPage::new(request)));
        }
        let mut deadline = Instant::now() + PATIENCE;
        while !open.is_empty() {
            let mut found = false;
            let mut broken = false;
            open.retain(|&(worker, queues)| {
                let Some(mut page) = queues.filled.pop() else { return true };
                if page.request != request {
                    return true;
                }
                found = true;
                broken = broken || page.flows.iter().any(|flow| take(worker, flow).is_break());
                if broken || page.is_last {
                    return false;
                }
                page.clear();
                drop(queues.wanted.push(page));
                true
            });
            if broken {
                return Ok(());
            }
            if !goes_on() {
                return Err(FlowReadError::Cancelled);
            }
            if found {
                deadline = Instant::now() + PATIENCE;
            } else if Instant::now() >= deadline {
                let worker = open.first().map_or(0, |&(worker, _)| worker);
                return Err(FlowReadError::Worker { worker });
            } else {
                std::thread::sleep(ROUND);
            }
        }
        Ok(())
    }

    /// The flow in the tables that fits, the one with the latest packet if there are several, and the number of its
    /// worker. To be called from a thread that may wait.
    ///
    /// # Errors
    /// As [`Engine::read_flows`].
    pub fn find_flow(
        &self,
        goes_on: impl Fn() -> bool,
        wanted: &FlowSelector,
    ) -> Result<Option<(usize, FlowSnapshot)>, FlowReadError> {
        let mut latest: Option<(usize, FlowSnapshot)> = None;
        self.read_flows(goes_on, |worker, flow| {
            let is_later = latest.as_ref().is_none_or(|(_, known)| known.latest_ns < flow.latest_ns);
            if is_later && wanted.fits(flow).is_some() {
                latest = Some((worker, *flow));
            }
            ControlFlow::Continue(())
        })?;
        Ok(latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_found_from_either_end() {
        let mut addresses = [[0; 16]; 2];
        addresses[0][..4].copy_from_slice(&[10, 0, 0, 1]);
        addresses[1][..4].copy_from_slice(&[10, 0, 0, 2]);
        let flow = FlowSnapshot {
            network: Network::Ipv4,
            addresses,
            ports: Some([40_000, 443]),
            protocol: 6,
            tap: 3,
            ..FlowSnapshot::default()
        };
        let selector = |ends: [&str; 2], ports| FlowSelector {
            addresses: ends.map(|end| end.parse().unwrap()),
            ports,
            protocol: Some(6),
            tap: None,
        };
        let (client, server) = ("10.0.0.1", "10.0.0.2");
        let wanted = selector([client, server], [None, Some(443)]);
        assert_eq!(wanted.fits(&flow), Some(true));
        assert_eq!(selector([server, client], [Some(443), None]).fits(&flow), Some(false));
        assert_eq!(selector([server, client], [None, Some(443)]).fits(&flow), None);
        assert_eq!(FlowSelector { tap: Some(1), ..wanted }.fits(&flow), None);
        assert_eq!(FlowSelector { protocol: Some(17), ..wanted }.fits(&flow), None);
        assert_eq!(FlowSelector { protocol: None, ..wanted }.fits(&flow), Some(true));
        assert_eq!(selector(["::1", server], [None; 2]).fits(&flow), None);
    }
}
