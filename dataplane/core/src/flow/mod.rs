//! Flows: one lookup per packet, and what is kept of each conversation.

mod key;
mod table;
pub mod tcp;

pub use key::{FlowKey, KeyedPacket, VlanKey, vlan_id};
pub use table::{Index, Keys, Slot, prefetch_entry};
