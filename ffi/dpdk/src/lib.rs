//! Safe owners over DPDK: EAL, mempools, mbufs, bursts, ports, queues, rings, lcores and the TSC.
//!
//! All unsafe code that deals with DPDK is here; what this crate gives out can be used from
//! `forbid(unsafe_code)` crates. The rules it rests on:
//!
//! - [`Eal`] is started once in a process. Every owner holds a handle of it, so it outlives them all.
//! - An [`Mbuf`] has one owner and is not `Clone`. Giving it to a queue or a ring consumes it; what was refused
//!   stays owned. Copies of a packet are made by name: [`Mbuf::share`] (by reference count) or
//!   [`Mempool::copy_from`].
//! - Bytes that several mbufs see are read-only for all of them until one is left.
//! - An [`RxQueue`], [`TxQueue`] or ring end belongs to one thread at a time and moves between threads.
//! - Memory of a [`Mempool`] is given back only after proof that every mbuf is back in it, so an mbuf that
//!   outlives all handles is a leak and never a dangling pointer.
//!
//! ```no_run
//! use dpdk::{Burst, Eal, EalConfig, Mempool, MempoolConfig, Port, PortConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let eal = Eal::init(&EalConfig { vdevs: vec!["net_null0".into()], ..EalConfig::default() })?;
//! let pool = Mempool::new(&eal, &MempoolConfig { name: "rx".into(), ..MempoolConfig::default() })?;
//! let port = Port::by_name(&eal, "net_null0")?;
//! let (port, mut rx, mut tx) = port.configure(&PortConfig::new(pool))?;
//! let mut burst = Burst::new();
//! rx[0].rx_burst(&mut burst);
//! tx[0].tx_burst(&mut burst);
//! println!("{:?}", port.stats()?);
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

mod burst;
mod eal;
mod errno;
mod ids;
mod lcore;
mod mbuf;
mod mbuf_chain;
mod mbuf_meta;
mod mempool;
mod port;
mod port_error;
mod queue;
mod ring;
mod segment;
mod slots;
mod tsc;
mod wait;

pub use burst::{BURST_CAPACITY, Burst, Drain};
pub use eal::{Eal, EalConfig, EalError, Hugepages, LogLevel, dpdk_version};
pub use errno::Errno;
pub use ids::{LcoreId, SocketId};
pub use lcore::{
    CpuSet, LcoreError, LcoreGuard, LcoreThread, current_affinity, pin_current_thread, set_affinity,
};
pub use mbuf::{HEADROOM, Mbuf};
pub use mbuf_chain::{ChainError, SegmentSlices};
pub use mbuf_meta::{Note, RxChecksum, RxTimestampField, RxVlan};
pub use mempool::{Mempool, MempoolConfig, MempoolError};
pub use port::{
    Link, MAX_XSTATS, MacAddress, Port, PortCapabilities, PortConfig, PortInfo, PortStats, RssHash, RssState,
};
pub use port_error::{PortError, PortStep};
pub use queue::{RxQueue, TxQueue};
pub use ring::{Ring, RingConsumer, RingError, RingMultiProducer, RingProducer};
pub use slots::Slots;
pub use tsc::Tsc;
pub use wait::{MAX_WAIT_FDS, RxWaiter, set_timer_slack};
