//! Why the engine does not start.

use std::io;

use dpdk::{EalError, MempoolError, PortError, RingError};
use sluice_af_packet::AfPacketError;
use sluice_capture::CaptureError;
use sluice_core::encap::EncapError;

use super::VhostError;
use crate::files::FileError;

/// What kept the engine from starting, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// DPDK does not start.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// No memory for packets.
    #[error(transparent)]
    Mempool(#[from] MempoolError),
    /// The daemon would take more than it may from the start.
    #[error(
        "[protection] memory_mb = {limit_mb} is too little: the daemon takes about {takes_mb} MB at the start (pools \
         {pools_mb}, tables {tables_mb}, rings of kernel interfaces {rings_mb}, the rest {rest_mb}) and would never leave \
         protection; write memory_mb = {least_mb} or more, or take less: profile = \"small\", fewer ports, smaller \
         `mbufs` in [memory], `flows` in [flow], `entries` in [dedup], `ring_kb` in [[port]]"
    )]
    MemoryLimit {
        /// The limit, MiB.
        limit_mb: u32,
        /// What it takes, MiB.
        takes_mb: u64,
        /// Of that, the pools.
        pools_mb: u64,
        /// The tables of all workers.
        tables_mb: u64,
        /// What kernel interfaces receive into.
        rings_mb: u64,
        /// Program, threads and everything else.
        rest_mb: u64,
        /// A limit that would do, MiB.
        least_mb: u64,
    },
    /// The tables of the workers are larger than the machine.
    #[error(
        "the tables of {workers} workers need {flow_mb} MB for flows and {dedup_mb} MB for deduplication each, and the \
         machine (or control group) has {memory_mb} MB in all, a quarter of which is for everything else; set smaller \
         `flows` in [flow] or `entries` in [dedup], or have fewer workers"
    )]
    Tables {
        /// How many workers.
        workers: usize,
        /// Of each worker's flow tables, MB.
        flow_mb: u64,
        /// Of each worker's fingerprints, MB.
        dedup_mb: u64,
        /// Of the machine, MB.
        memory_mb: u64,
    },
    /// The pools, or what DPDK is to be given, are larger than the machine.
    #[error(
        "DPDK is to have {pools_mb} MB in ordinary pages, beside {tables_mb} MB of tables, and the machine (or control \
         group) has {memory_mb} MB in all; set smaller `mbufs` or `data_room` in [memory], or a smaller `memory_mb` in \
         [eal]: without them, pools are as large as ports, queues and workers need"
    )]
    Pools {
        /// Of the pools, or as configured, MB.
        pools_mb: u64,
        /// Of all workers' tables, MB.
        tables_mb: u64,
        /// Of the machine, MB.
        memory_mb: u64,
    },
    /// The plan has no pool: a fault of ours.
    #[error("the memory plan has no pool")]
    NoPool,
    /// No ring between a distributor and a worker.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A DPDK port cannot be used.
    #[error("port \"{name}\": {source}")]
    Port {
        /// The port.
        name: String,
        /// Why.
        #[source]
        source: PortError,
    },
    /// A kernel interface cannot be used.
    #[error("port \"{name}\": {source}")]
    AfPacket {
        /// The port.
        name: String,
        /// Why.
        #[source]
        source: AfPacketError,
    },
    /// A capture file cannot be read.
    #[error("port \"{name}\": {source}")]
    Capture {
        /// The port.
        name: String,
        /// Why.
        #[source]
        source: CaptureError,
    },
    /// The socket for a switch cannot be served.
    #[error("port \"{name}\": {source}")]
    Vhost {
        /// The port.
        name: String,
        /// Why.
        #[source]
        source: VhostError,
    },
    /// DPDK's AF_XDP driver cannot take frames of several buffers.
    #[error(
        "port \"{name}\": net_af_xdp takes no frames over an MTU of 1500; use spec = \"af_packet:IFACE\" for jumbo frames"
    )]
    JumboAfXdp {
        /// The port.
        name: String,
    },
    /// There are no time stamps of the NIC.
    #[error(
        "port \"{name}\": rx_timestamps = \"hardware\", and the driver {driver} has none that can be used: {lack}; write \
         \"auto\" or \"software\", or use a NIC whose driver has them"
    )]
    NoTimestamps {
        /// The port.
        name: String,
        /// Its driver.
        driver: String,
        /// What it lacks.
        lack: String,
    },
    /// The receive side of a kernel interface would see what the other workers send.
    #[error(
        "port \"{name}\": role \"both\" on a kernel interface needs a single worker; name one CPU in lcores"
    )]
    BothWays {
        /// The port.
        name: String,
    },
    /// A capture file was given as a way out.
    #[error("port \"{name}\": a capture file only receives; write files with a destination of type \"pcap\"")]
    FileOutput {
        /// The port.
        name: String,
    },
    /// An output file cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// A destination names a port that is not there, or does not send.
    #[error("destination \"{destination}\": port \"{port}\" is not an output port of the boot config")]
    NoSuchPort {
        /// The destination.
        destination: String,
        /// What it names.
        port: String,
    },
    /// A tunnel has no source address.
    #[error(
        "destination \"{destination}\": no source address: give the output port an address of the same family as \
         {remote}, or set `local` and `mac`"
    )]
    NoLocalAddress {
        /// The destination.
        destination: String,
        /// Its remote address.
        remote: std::net::IpAddr,
    },
    /// A tunnel cannot be built.
    #[error("destination \"{destination}\": {source}")]
    Encap {
        /// The destination.
        destination: String,
        /// Why.
        #[source]
        source: EncapError,
    },
    /// Too few hugepages.
    #[error(
        "hugepages are required, but only {free_mb} MB of the {wanted_mb} MB needed are free; reserve them with \
         `sysctl vm.nr_hugepages={pages}`, or set hugepages = \"auto\""
    )]
    Hugepages {
        /// Free memory in hugepages.
        free_mb: u64,
        /// What the pools need.
        wanted_mb: u64,
        /// Pages of 2 MB that would do.
        pages: u64,
    },
    /// A thread cannot be made.
    #[error("cannot start the thread {name}: {source}")]
    Thread {
        /// Its name.
        name: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}
