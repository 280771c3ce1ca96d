//! Taking tunnels off received packets, and what is remembered of them.

mod tunnel_info;

pub use tunnel_info::TunnelInfo;
