//! Can the ports spread packets over the workers themselves? The self-test of receive-side scaling.
//!
//! It asks the driver for its key, its kinds of hash and its table, works out by the Toeplitz hash where the packets of
//! sample conversations would go, and compares: both directions, whole packets, first and later fragments, must be on
//! one queue, and all ports must agree. What a NIC cannot do (look into tunnels) is refused before anything is opened.

use std::net::{Ipv4Addr, Ipv6Addr};

use dpdk::{PortInfo, RssState};
use sluice_core::spread::toeplitz;
use sluice_model::SpreadBy;

/// Drivers whose hash by addresses leaves TCP and UDP out, as each kind of packet has an input of its own (22.11).
const BY_PACKET_KIND: [&str; 1] = ["net_i40e"];
/// Sample conversations.
const SAMPLES: u16 = 512;
/// A queue must get at least this share of its equal part of the samples.
const LEAST_SHARE: usize = 4;

/// What the workers need of the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpreadNeed {
    /// How many workers there are.
    pub workers: usize,
    /// What has to stay together.
    pub by: SpreadBy,
    /// Whether innermost headers decide.
    pub innermost: bool,
}

/// Why packets do not go straight from the ports to the workers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RssRefusal {
    /// Tunnels are taken off, looked through or matched inside.
    #[error("tunnels are opened, and a NIC spreads by outer headers")]
    Innermost,
    /// A kernel interface or a capture file.
    #[error("{0} is no DPDK device: it has one receive queue")]
    OneQueue(String),
    /// Fewer queues than workers.
    #[error("{driver} has {max} receive queues for {workers} workers")]
    TooFewQueues {
        /// The driver.
        driver: String,
        /// What it offers.
        max: u16,
        /// What is needed.
        workers: usize,
    },
    /// The driver has no RSS.
    #[error("{0} does not spread packets over its queues")]
    NoRss(String),
    /// The driver cannot hash TCP and UDP by addresses alone.
    #[error("{0} hashes TCP and UDP by their ports only, which separates fragments from their flow")]
    PortsOnly(String),
    /// Fragments would be separated from whole packets.
    #[error("the hash includes ports, which separates fragments from their flow")]
    FragmentsApart,
    /// The key cannot be read back.
    #[error("the driver does not tell its hash key")]
    KeyUnknown,
    /// The table cannot be read back.
    #[error("the driver does not tell its table of queues")]
    TableUnknown,
    /// The two directions of a flow go to different queues.
    #[error("its hash key is not symmetric: the directions of a flow would separate")]
    Asymmetric,
    /// A queue gets (nearly) nothing.
    #[error("queue {queue} would get {packets} of {samples} sample conversations")]
    Lopsided {
        /// The queue.
        queue: usize,
        /// What it gets.
        packets: usize,
        /// Of so many.
        samples: usize,
    },
    /// Two ports put the same flow on different queues.
    #[error("it does not put flows on the same queues as port \"{0}\"")]
    Disagrees(String),
}

/// What can be said before the port is configured.
///
/// # Errors
/// Why the port cannot spread as needed.
pub fn before(driver: &str, info: &PortInfo, need: &SpreadNeed) -> Result<(), RssRefusal> {
    let driver = driver.to_owned();
    if usize::from(info.max_rx_queues) < need.workers {
        return Err(RssRefusal::TooFewQueues { driver, max: info.max_rx_queues, workers: need.workers });
    }
    if !info.rss {
        return Err(RssRefusal::NoRss(driver));
    }
    if need.by == SpreadBy::Addresses && BY_PACKET_KIND.contains(&driver.as_str()) {
        return Err(RssRefusal::PortsOnly(driver));
    }
    Ok(())
}

/// Where a configured port puts the sample conversations: the queue of each.
///
/// # Errors
/// Why the port does not spread as needed.
pub fn test(state: &RssState, need: &SpreadNeed) -> Result<Vec<u16>, RssRefusal> {
    if !state.addresses && !state.ports {
        return Err(RssRefusal::NoRss("the driver".to_owned()));
    }
    if state.key.len() < 36 {
        // Shorter than two IPv6 addresses and two ports: nothing that Toeplitz could be worked out with.
        return Err(RssRefusal::KeyUnknown);
    }
    if state.table.is_empty() {
        return Err(RssRefusal::TableUnknown);
    }
    let queue = |input: &[u8]| {
        let place = toeplitz(&state.key, input) as usize % state.table.len();
        state.table.get(place).copied().unwrap_or(0)
    };
    let mut queues = Vec::with_capacity(usize::from(SAMPLES));
    for sample in 0..SAMPLES {
        let conversation = Conversation::new(sample);
        let (there, back) = (conversation.clone(), conversation.reversed());
        let [whole, whole_back] = [&there, &back].map(|packet| queue(&packet.input(state.ports)));
        // Later fragments have no ports, and a NIC hashes the first one as it hashes them.
        let [fragment, fragment_back] = [&there, &back].map(|packet| queue(&packet.input(false)));
        if whole != whole_back || fragment != fragment_back {
            return Err(RssRefusal::Asymmetric);
        }
        if need.by == SpreadBy::Addresses && whole != fragment {
            return Err(RssRefusal::FragmentsApart);
        }
        queues.push(whole);
    }
    let samples = queues.len();
    for worker in 0..need.workers {
        let packets = queues.iter().filter(|&&queue| usize::from(queue) == worker).count();
        if packets * need.workers * LEAST_SHARE < samples {
            return Err(RssRefusal::Lopsided { queue: worker, packets, samples });
        }
    }
    Ok(queues)
}

/// The two ends of a sample conversation.
#[derive(Clone, Debug)]
struct Conversation {
    src: Vec<u8>,
    dst: Vec<u8>,
    ports: [u16; 2],
}

impl Conversation {
    /// One of many: IPv4 and IPv6, near and far addresses, TCP or UDP ports.
    fn new(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        let spread = number.wrapping_mul(0x9e35);
        let [far_high, far_low] = spread.to_be_bytes();
        let (src, dst) = if number.is_multiple_of(2) {
            let src = Ipv4Addr::new(10, 0, high, low).octets().to_vec();
            (src, Ipv4Addr::new(198, 18, far_high, far_low).octets().to_vec())
        } else {
            let src = Ipv6Addr::new(0x2001, 0xdb8, 0, number, 0, 0, 0, spread).octets().to_vec();
            (src, Ipv6Addr::new(0x2001, 0xdb8, 1, 0, spread, 0, 0, 0x35).octets().to_vec())
        };
        Self { src, dst, ports: [spread | 0x8000, 443] }
    }

    fn reversed(&self) -> Self {
        let [src_port, dst_port] = self.ports;
        Self { src: self.dst.clone(), dst: self.src.clone(), ports: [dst_port, src_port] }
    }

    /// What is hashed: addresses, then ports (Microsoft, "RSS Hashing Types").
    fn input(&self, with_ports: bool) -> Vec<u8> {
        let mut input = [&self.src[..], &self.dst[..]].concat();
        if with_ports {
            self.ports.iter().for_each(|port| input.extend(port.to_be_bytes()));
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::spread::{MICROSOFT_KEY, SYMMETRIC_KEY};

    const NEED: SpreadNeed = SpreadNeed { workers: 4, by: SpreadBy::Addresses, innermost: false };
    const BY_PORTS: SpreadNeed = SpreadNeed { by: SpreadBy::Ports, ..NEED };

    fn state(key: &[u8], ports: bool, queues: u16, table: u16) -> RssState {
        RssState {
            addresses: true,
            ports,
            key: key.to_vec(),
            table: (0..table).map(|place| place % queues).collect(),
        }
    }

    #[test]
    fn a_symmetric_key_over_addresses_passes() {
        let queues = test(&state(&SYMMETRIC_KEY, false, 4, 128), &NEED).unwrap();
        assert_eq!(queues.len(), 512);
        // Keys of 52 bytes are as good, and ports of another table size agree when both are powers of two.
        let long: Vec<u8> = SYMMETRIC_KEY.iter().cycle().take(52).copied().collect();
        assert_eq!(test(&state(&long, false, 4, 512), &NEED).unwrap(), queues);
        // Three queues in tables of different sizes do not.
        let three = SpreadNeed { workers: 3, ..NEED };
        let [a, b] = [128, 512].map(|table| test(&state(&SYMMETRIC_KEY, false, 3, table), &three).unwrap());
        assert_ne!(a, b);
    }

    #[test]
    fn ports_separate_fragments() {
        let with_ports = state(&SYMMETRIC_KEY, true, 4, 128);
        assert_eq!(test(&with_ports, &NEED), Err(RssRefusal::FragmentsApart));
        assert!(test(&with_ports, &BY_PORTS).is_ok());
    }

    #[test]
    fn an_ordinary_key_separates_directions() {
        for ports in [false, true] {
            let asymmetric = state(&MICROSOFT_KEY, ports, 4, 128);
            assert_eq!(test(&asymmetric, &BY_PORTS), Err(RssRefusal::Asymmetric));
        }
    }

    #[test]
    fn what_is_not_told_is_not_trusted() {
        let told = state(&SYMMETRIC_KEY, false, 4, 128);
        assert_eq!(test(&RssState { key: vec![], ..told.clone() }, &NEED), Err(RssRefusal::KeyUnknown));
        assert_eq!(test(&RssState { table: vec![], ..told.clone() }, &NEED), Err(RssRefusal::TableUnknown));
        let off = RssState { addresses: false, ..told };
        assert!(matches!(test(&off, &NEED), Err(RssRefusal::NoRss(_))));
    }

    #[test]
    fn every_worker_must_get_its_part() {
        let one_idle = state(&SYMMETRIC_KEY, false, 3, 128);
        assert!(matches!(test(&one_idle, &NEED), Err(RssRefusal::Lopsided { queue: 3, packets: 0, .. })));
    }

    #[test]
    fn what_a_driver_lacks_is_known_before() {
        let info = PortInfo {
            max_rx_frame_len: 9000,
            min_mtu: 68,
            max_mtu: 9000,
            max_rx_queues: 16,
            max_tx_queues: 16,
            tx_multi_segs: true,
            tx_udp_checksum: true,
            rx_timestamps: false,
            rss: true,
            socket: dpdk::SocketId::ANY,
            if_index: 0,
        };
        assert_eq!(before("net_ixgbe", &info, &NEED), Ok(()));
        let few = PortInfo { max_rx_queues: 2, ..info.clone() };
        assert!(matches!(before("net_tap", &few, &NEED), Err(RssRefusal::TooFewQueues { max: 2, .. })));
        let none = PortInfo { rss: false, ..info.clone() };
        assert!(matches!(before("net_ring", &none, &NEED), Err(RssRefusal::NoRss(_))));
        assert!(matches!(before("net_i40e", &info, &NEED), Err(RssRefusal::PortsOnly(_))));
        assert!(before("net_i40e", &info, &BY_PORTS).is_ok());
    }
}
