//! Parts of the soak: a broker under traffic and changing policies to which bad things happen, and what was seen of it.
//!
//! ```text
//!            pa ---- va [tap0]  broker  [out0] out0 ---- in0 [tbr] tool: kernel VXLAN, tcpdump
//!   senders  pb ---- vb [tap1]          small disk: capture file, Parquet files, store of policies
//!            g0 ---- p0 OVS-DPDK mirror ---- [mirror] vhost-user
//! ```
//!
//! Everything is judged by what others saw: the sender's numbers, the tool's kernel, tcpdump, `/proc`.

pub mod churn;
pub mod clock;
pub mod fault;
pub mod leak;
pub mod look;
pub mod network;
pub mod report;
pub mod sender;
pub mod tags;
pub mod watch;
pub mod witness;

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in microseconds since the epoch: the clock of the kernel's time stamps.
#[must_use]
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_micros()).expect("a clock before the year 500,000")
}
