//! Flows: one lookup per packet, and what is kept of each conversation.

mod direction;
mod entry;
mod key;
mod lengths;
mod meter;
pub mod metrics;
mod orient;
mod report;
mod second;
mod snapshot;
mod table;
pub mod tcp;

pub use key::{FlowKey, KeyedPacket, VlanKey, vlan_id};
pub(crate) use key::{arp_addresses, ethernet_addresses};
pub use lengths::Lengths;
pub use meter::{FlowMeter, FlowRef, MeterConfig, MeterCounts, Packet, Sink, TapPort};
pub use snapshot::FlowSnapshot;
pub use table::{Index, Keys, Slot};
