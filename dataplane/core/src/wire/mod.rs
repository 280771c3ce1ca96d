//! How far can a frame be understood? One file per protocol, array-backed views, no panic on any bytes.
//!
//! [`parse`] gives the outermost headers through L4 and says which tunnel follows; [`parse_innermost`] goes on from there.
//! The contract, once for all:
//!
//! - **Bounds are the captured bytes.** No length field makes the parser read or point outside of them: all offsets of
//!   [`Parsed`] are at most the captured length and at most 65,535, and `l2_offset <= l3_offset <= l4_offset` (when not
//!   0) `<= header_end <= inner_offset` (when not 0, in an outer view).
//! - **It stops at the last good layer**, keeps what it read so far, and says why in [`Parsed::stop`]. Unknown types
//!   and reserved bits are no errors.
//! - **Length fields are believed only when they say that a header is not there**: an IPv4 total length (0 excepted)
//!   below the header length, or an IP payload length below the smallest L4 header, is [`Stop::Malformed`], because what
//!   follows is Ethernet padding. UDP lengths and anything larger than the capture do not disturb.
//! - **A header that the capture cuts** counts as header as far as it goes, once its fixed IP header was there; the
//!   ports are read when their four bytes are there. `l4_offset` of a TCP header cut before its flags is 0.
//! - **All loops are bounded**: 8 VLAN tags, 16 MPLS labels, 16 IPv6 extension headers, 16 GRE source routes, 8 GTP-U
//!   extension headers, `depth_limit` tunnels. Beyond that: [`Stop::Unknown`].
//!
//! The views of the protocol files are for whoever needs a field that [`Parsed`] does not hold, or writes headers: each
//! gives the lengths, the offsets of its fields, and a view over a byte array.

pub mod arp;
pub(crate) mod bytes;
pub mod checksum;
pub mod erspan;
pub mod ethernet;
pub mod geneve;
pub mod gre;
pub mod gtpu;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod llc;
pub mod mpls;
mod parse;
#[cfg(test)]
mod parse_tests;
mod parsed;
pub mod sctp;
pub mod tcp;
mod tunnel;
pub mod udp;
pub mod vlan;
pub mod vxlan;

pub(crate) use parse::parse_plain_into;
pub use parse::{MAX_FRAME_LEN, parse, parse_headless_into, parse_innermost, parse_into};
pub use parsed::{Fragment, L3, Parsed, Stop, TunnelHeader};
pub(crate) use tunnel::{Inner, announced_version, carried, is_tunnel_port};
