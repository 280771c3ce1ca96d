//! The whole pipeline over capture files: no hugepages, no rights, no network.
//!
//! The reader, the worker and the file writer take turns on one thread, batch by batch, so that nothing is ever lost
//! for lack of room.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dpdk::{Eal, EalConfig, EalError, Hugepages, Mempool, MempoolConfig, MempoolError, SocketId, Tsc};
use sluice_capture::{CaptureError, CaptureReader, Progress};
use sluice_core::classify::{FragmentTable, FragmentTableConfig, Origins, Program};
use sluice_core::encap::EncapError;
use sluice_core::flow::TapPort;
use sluice_core::flow::{MeterConfig, Sink};
use sluice_model::{
    BreakerSettings, DecapSettings, DedupSettings, Destination, DestinationKind, FlowSettings, Generation,
    MacAddr, MirrorSettings, PolicySet, PortId, RateLimit,
};

use crate::batch::{BATCH, RxInfo};
use crate::control_queues::ControlQueues;
use crate::counters::{DestinationTotals, PolicyTotals, destination_totals, policy_totals};
use crate::deployment::{Deployment, DeploymentParts};
use crate::files::{self, FileError, FileSink};
use crate::ledger::Account;
use crate::machine::Machine;
use crate::output::{BreakerReport, Egress, Output, TunnelEnds};
use crate::port_pairs::{PairTotals, PortPairs};
use crate::replay_breaker::ReplayBreaker;
use crate::runtime::{DedupPlan, FlowPlan, StartError, tables_fit};
use crate::sequence::Sequences;
use crate::stage::balance::{Balance, SharedGroups};
use crate::stage::decap::Decap;
use crate::stage::dedup::Dedup;
use crate::stage::ends::PortEnds;
use crate::stage::flow::{FlowStage, FlowTotals, meter_config};
use crate::stage::guard::LoopGuard;
use crate::stage::limit::{Limits, SharedLimits};
use crate::stage::mirror::Mirror;
use crate::tap_rows::{TapRows, TapTotals};
use crate::tunnels::{TunnelTotals, tunnel_totals};
use crate::worker::{Worker, WorkerParts};

/// Documentation addresses (RFC 5737, RFC 3849, RFC 9542) for destinations that name none.
const LOCAL_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const LOCAL_MAC: MacAddr = MacAddr([0, 0, 0x5e, 0, 0x53, 1]);
const SECOND_NS: u64 = 1_000_000_000;
const NEXT_HOP_MAC: MacAddr = MacAddr([0, 0, 0x5e, 0, 0x53, 2]);
/// MTU of destinations that name none: the largest IP packet.
const DEFAULT_MTU: u16 = u16::MAX;

/// Frames up to this length go into small mbufs, longer ones into large ones.
const SMALL_ROOM: u16 = 2048;
const SMALL_MBUFS: u32 = 1023;
/// The most that a data room can be: 65,535 bytes with the headroom.
const LARGE_ROOM: u16 = u16::MAX - 128;
/// A batch of frames over the large room takes two each.
const LARGE_MBUFS: u32 = 191;
/// Room for the largest tunnel header and a tag.
const HEADER_ROOM: u16 = 256;
/// Header mbufs: at least, and at most.
const HEADER_MBUFS: (usize, usize) = (16_383, 262_143);
/// Entries of the queue to the file writer, unless one packet alone needs more.
const QUEUE_ENTRIES: usize = 524_288;
/// Records that one batch may give rise to: two for each packet, and those of the sweep.
const RING_RECORDS: usize = 1024;
/// Bytes of an mbuf besides its data room: structure, headroom, mempool header.
const MBUF_OVERHEAD: u64 = 384;

/// What to replay.
#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// The policies.
    pub policies: PolicySet,
    /// Capture files, one after the other; each is an ingress port named by its file name without extensions.
    pub inputs: Vec<PathBuf>,
    /// The folder of the output files; made if missing.
    pub out_dir: PathBuf,
    /// Drop copies of our own that are found in the captures.
    pub loop_guard: bool,
    /// What is done with tunnels and VLAN tags, by input; inputs beyond the last one as by default: nothing.
    pub decap: Vec<DecapSettings>,
    /// Own addresses, where tunnels end, by input; what comes after the last input is of other ports, to whose addresses
    /// nobody takes a packet for a copy of ours either.
    pub ends: PortEnds,
    /// How flows are metered; `None` = not at all.
    pub flow: Option<FlowSettings>,
    /// Where the inputs stand, by input; inputs beyond the last one as by default.
    pub taps: Vec<TapPort>,
    /// The taps that have names, and how frames are marked with them.
    pub mirror: MirrorSettings,
    /// How duplicates are recognised; the checksums in captures are taken for finished ones.
    pub dedup: DedupSettings,
    /// How much may leave for all destinations together, in captured time.
    pub limit: Option<RateLimit>,
    /// When distribution stops, in captured time: all files together stand for one interface.
    pub breaker: Option<BreakerSettings>,
}

/// Why a replay could not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A capture cannot be opened, or is damaged; the text names it and says where.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The output folder cannot be made.
    #[error("{path}: cannot make the output folder: {source}", path = .path.display())]
    OutDir {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// An output file cannot be made or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An output file would overwrite an input.
    #[error("{path}: the output would overwrite an input; choose another --out", path = .path.display())]
    Overwrite {
        /// The file.
        path: PathBuf,
    },
    /// The tables are larger than the machine.
    #[error(transparent)]
    Tables(#[from] StartError),
    /// DPDK does not start.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// No memory for packets.
    #[error(transparent)]
    Mempool(#[from] MempoolError),
    /// A destination's tunnel cannot be built.
    #[error("destination \"{name}\": {source}")]
    Encap {
        /// The destination.
        name: String,
        /// Why.
        #[source]
        source: EncapError,
    },
}

/// What a replay did.
#[derive(Debug)]
pub struct ReplayReport {
    /// The whole account.
    pub account: Account,
    /// The numbered tunnels that came in, where tunnels are taken off.
    pub tunnels: Vec<TunnelTotals>,
    /// Packets of numbered tunnels that were not counted because there were too many tunnels.
    pub tunnels_full: u64,
    /// By policy number.
    pub policies: Vec<PolicyTotals>,
    /// By destination number.
    pub destinations: Vec<DestinationTotals>,
    /// The output files, by destination number; groups have none.
    pub files: Vec<Option<PathBuf>>,
    /// What the breaker came to, where there is one.
    pub breaker: Option<BreakerReport>,
    /// Duplicates by the inputs (as ingress ports) of both copies.
    pub dedup_pairs: Vec<PairTotals>,
    /// What came from each tap that has a name, and from the others; empty when none has.
    pub taps: Vec<TapTotals>,
    /// What flow metering did; `None` = flows were not metered.
    pub flow: Option<FlowTotals>,
    /// Mbufs not given back at the end: always 0.
    pub mbufs_in_use: u32,
    /// Captures that were damaged and files that failed; what was whole before was processed.
    pub errors: Vec<ReplayError>,
}

/// Replays `config`; `progress` is called now and then with the input's number and how far it is; flow records and
/// rows of metrics go to `sink`. At the end of the input time runs on until every flow has timed out.
///
/// # Errors
/// What kept the replay from starting. What went wrong on the way is in the report.
pub fn replay(
    config: &ReplayConfig,
    mut progress: impl FnMut(usize, Progress),
    sink: &mut impl Sink,
) -> Result<ReplayReport, ReplayError> {
    let machine = Machine::detect();
    tables_fit(config.flow.as_ref(), &config.dedup, 1, &machine)?;
    let mut readers = Vec::with_capacity(config.inputs.len());
    for path in &config.inputs {
        readers.push(CaptureReader::open(path)?);
    }
    let files = output_files(config);
    make_output_folder(config, &files)?;
    let mut session = Session::new(config, &files, &machine)?;
    let mut errors = Vec::new();
    for (index, mut reader) in readers.into_iter().enumerate() {
        let port = PortId(u16::try_from(index).unwrap_or(u16::MAX));
        let result = session.run(&mut reader, port, |at| progress(index, at), sink);
        errors.extend(result.err().map(ReplayError::Capture));
    }
    session.worker.fold();
    session.worker.finish_flows(sink);
    session.sink.flush();
    errors.extend(session.sink.take_errors().into_iter().map(ReplayError::File));
    Ok(session.report(files, errors))
}

/// The file of each destination, by destination number; groups have none.
#[must_use]
pub fn output_files(config: &ReplayConfig) -> Vec<Option<PathBuf>> {
    let name = |destination: &Destination| {
        let file = || config.out_dir.join(format!("{}.pcap", destination.name));
        destination.group().is_none().then(file)
    };
    config.policies.destinations().iter().map(name).collect()
}

/// Makes the output folder; no file in it may be one of the inputs.
fn make_output_folder(config: &ReplayConfig, files: &[Option<PathBuf>]) -> Result<(), ReplayError> {
    let dir = &config.out_dir;
    std::fs::create_dir_all(dir).map_err(|source| ReplayError::OutDir { path: dir.clone(), source })?;
    let inputs: Vec<_> = config.inputs.iter().filter_map(|path| file_identity(path)).collect();
    match files.iter().flatten().find(|file| file_identity(file).is_some_and(|file| inputs.contains(&file))) {
        Some(file) => Err(ReplayError::Overwrite { path: file.clone() }),
        None => Ok(()),
    }
}

/// Device and inode: the same for all names and links of a file; `None` when there is no file.
fn file_identity(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|found| (found.dev(), found.ino()))
}

/// The name of an input as an ingress port.
#[must_use]
pub fn port_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

struct Session {
    worker: Worker,
    sink: FileSink,
    tables: Arc<crate::counters::Tables>,
    small: Mempool,
    large: Mempool,
    headers: Mempool,
    batch: usize,
    breaker: Option<ReplayBreaker>,
    /// The latest second of captured time.
    second: u64,
    /// The names of the taps.
    taps: Vec<String>,
}

impl Session {
    fn new(config: &ReplayConfig, files: &[Option<PathBuf>], machine: &Machine) -> Result<Self, ReplayError> {
        let policies = &config.policies;
        let ports: Vec<_> = config.inputs.iter().map(|path| port_name(path)).collect();
        let origins = Origins { ports: &ports, taps: &config.mirror.taps };
        let (program, _report) = Program::compile_for(policies, &origins, Generation(1));
        let program = Arc::new(program);
        let mut outputs = policies.destinations().iter().map(replay_output).collect::<Result<Vec<_>, _>>()?;
        let breaker = config.breaker.map(ReplayBreaker::new);
        for output in &mut outputs {
            output.breaker = breaker.as_ref().map(ReplayBreaker::cell);
        }

        // Every packet may give rise to one copy per stream, each in so many pieces of at most three mbufs.
        let pieces = outputs.iter().map(most_pieces).max().unwrap_or(1);
        let per_packet = 3 * pieces * program.streams().len().max(1);
        let header_mbufs = (per_packet * BATCH).clamp(HEADER_MBUFS.0, HEADER_MBUFS.1);
        // Each piece also takes a place in the queue to the writer, and so do the policies that share a copy.
        let copies = policies.policies().iter().map(|policy| policy.to.len()).sum();
        let entries = files::queue_entries(pieces * program.streams().len().max(1), copies);
        let batch = (header_mbufs / per_packet).min(QUEUE_ENTRIES / entries).clamp(1, BATCH);

        let header_mbufs = u32::try_from(header_mbufs).unwrap_or(u32::MAX);
        let pools = [(SMALL_MBUFS, SMALL_ROOM), (LARGE_MBUFS, LARGE_ROOM), (header_mbufs, HEADER_ROOM)];
        let bytes: u64 =
            pools.iter().map(|&(n, room)| u64::from(n) * (u64::from(room) + MBUF_OVERHEAD)).sum();
        let eal = Eal::init(&EalConfig {
            hugepages: Hugepages::Never,
            memory_mb: u32::try_from(bytes * 5 / 4 / 1_000_000 + 32).unwrap_or(u32::MAX),
            ..EalConfig::default()
        })?;
        let pool = |name: &str, mbufs, data_room| {
            let config =
                MempoolConfig { name: name.to_owned(), mbufs, cache: 0, data_room, socket: SocketId::ANY };
            Mempool::new(&eal, &config)
        };
        let small = pool("small", pools[0].0, pools[0].1)?;
        let large = pool("large", pools[1].0, pools[1].1)?;
        let headers = pool("headers", pools[2].0, pools[2].1)?;

        let mut sink = FileSink::create(files, policies.policies().len())?;
        let producer = sink.producer(entries * batch);
        let tables = Arc::new(crate::counters::Tables::new(policies.policies().len(), outputs.len()));
        let decap = Decap::new(&config.decap).map(|stage| stage.with_ends(config.ends.clone()));
        let flow = config.flow.as_ref().map(|flow| {
            let flows = FlowPlan::new(flow, 1, machine.memory_bytes).flows;
            let meter = meter_config(flow, &config.taps, flows, 0);
            let meter = MeterConfig { tap_sides: config.mirror.sides(), ..meter };
            FlowStage::new(meter, RING_RECORDS, &program)
        });
        let deployment = DeploymentParts {
            outputs,
            sequences: Sequences::new(Sequences::streams(program.streams().len())),
            limits: SharedLimits::new(policies, config.limit.as_ref(), 1)
                .map(|limits| Limits::in_captured_time(&limits)),
            balance: SharedGroups::new(policies).map(|groups| Balance::new(&groups, Arc::clone(&program))),
            program,
            guard: if config.loop_guard {
                LoopGuard::new(policies, &[]).with_ends(config.ends.all())
            } else {
                LoopGuard::disabled()
            },
            files: Some(producer),
            tables: Arc::clone(&tables),
        };
        let worker = Worker::new(WorkerParts {
            deployment: Deployment::new(deployment, decap.is_some()),
            sources: Vec::new(),
            ports: Vec::new(),
            decap,
            flow,
            fragments: FragmentTable::new(&FragmentTableConfig::default()),
            headers: headers.clone(),
            dedup: DedupPlan::of(&config.dedup, 1, machine)
                .and_then(|plan| Dedup::new(&config.dedup, plan.entries, config.inputs.len(), true)),
            control: ControlQueues::new(1),
        });
        let taps: Vec<_> = config.taps.iter().map(|port| port.tap).collect();
        let worker = worker.with_mirror(Mirror::new(&config.mirror, &taps));
        Ok(Self {
            worker,
            sink,
            tables,
            small,
            large,
            headers,
            batch,
            breaker,
            second: 0,
            taps: config.mirror.taps.iter().map(|tap| tap.name.clone()).collect(),
        })
    }

    /// Takes one capture through the pipeline, up to its end or its first damage.
    fn run(
        &mut self,
        reader: &mut CaptureReader,
        port: PortId,
        mut progress: impl FnMut(Progress),
        sink: &mut impl Sink,
    ) -> Result<(), CaptureError> {
        let mut result = Ok(());
        let mut more = true;
        while more {
            let start = Tsc::now();
            while self.worker.batch_mut().len < self.batch {
                match reader.next_frame() {
                    Ok(Some(frame)) => {
                        let over = self.breaker.as_mut().is_some_and(|b| b.is_over(frame.timestamp_ns));
                        if over {
                            step(&mut self.worker, &mut self.sink, start, sink);
                            self.end_intervals();
                        }
                        let second = frame.timestamp_ns / SECOND_NS;
                        if second > self.second && self.worker.flow().is_some() {
                            // The seconds of metrics and silent flows do not wait for a whole batch.
                            step(&mut self.worker, &mut self.sink, start, sink);
                            self.worker.run_flows_to(frame.timestamp_ns, sink);
                            self.second = second;
                        }
                        let pool =
                            if frame.data.len() <= SMALL_ROOM.into() { &self.small } else { &self.large };
                        let info = RxInfo {
                            wire_len: frame.wire_len,
                            timestamp_ns: frame.timestamp_ns,
                            gso_size: 0,
                        };
                        let mbuf = pool.copy_from(frame.data);
                        debug_assert!(mbuf.is_some(), "the pools hold a whole batch");
                        if let Some(mbuf) = mbuf {
                            drop(self.worker.batch_mut().push(mbuf, info, port));
                        }
                    }
                    Ok(None) => more = false,
                    Err(error) => {
                        result = Err(error);
                        more = false;
                    }
                }
                if !more {
                    break;
                }
            }
            step(&mut self.worker, &mut self.sink, start, sink);
            progress(reader.progress());
        }
        result
    }

    /// Lets the breaker look at what was sent by now.
    fn end_intervals(&mut self) {
        let Some(breaker) = &mut self.breaker else { return };
        self.sink.flush();
        breaker.end_intervals(self.sink.ledger().snapshot().tx_bytes);
        self.worker.refresh_outputs();
    }

    fn report(self, files: Vec<Option<PathBuf>>, errors: Vec<ReplayError>) -> ReplayReport {
        let written = self.sink.ledger().snapshot();
        let account = Account::new(&written, [self.worker.ledger().snapshot()], 0);
        let sink_tables = self.sink.tables();
        let pairs = self.worker.dedup_pairs();
        let rows = self.worker.tap_rows();
        let tables = [&*self.tables, &*sink_tables];
        let tunnels = self.worker.tunnels();
        let (tunnels, tunnels_full) = tunnel_totals(&tunnels.iter().map(Arc::as_ref).collect::<Vec<_>>());
        ReplayReport {
            account,
            tunnels,
            tunnels_full,
            flow: self.worker.flow().map(|flow| FlowTotals::new([&*flow.stats()])),
            policies: policy_totals(&tables),
            destinations: destination_totals(&tables),
            files,
            breaker: self.breaker.as_ref().map(|breaker| breaker.cell().report()),
            dedup_pairs: PortPairs::totals(pairs.as_deref().as_slice()),
            taps: TapRows::totals(rows.as_deref().as_slice(), self.taps.iter().map(String::as_str)),
            mbufs_in_use: self.small.in_use() + self.large.in_use() + self.headers.in_use(),
            errors,
        }
    }
}

/// Takes what is in the batch all the way, to the files.
fn step(worker: &mut Worker, sink: &mut FileSink, start: Tsc, records: &mut impl Sink) {
    worker.process(start);
    sink.drain();
    if let Some(flow) = worker.flow() {
        flow.rings().drain(records);
    }
}

/// A destination that ends in a file, with documentation addresses where it names none.
fn replay_output(destination: &Destination) -> Result<Output, ReplayError> {
    let mtu = destination.mtu.unwrap_or(DEFAULT_MTU);
    let tunnel = match &destination.kind {
        DestinationKind::Tunnel(tunnel) => tunnel,
        DestinationKind::Group(_) => return Ok(Output::group(destination)),
        DestinationKind::Port { .. } | DestinationKind::Pcap { .. } => {
            return Ok(Output::plain(destination, mtu, Egress::File));
        }
    };
    let local = tunnel.local.unwrap_or(match tunnel.remote {
        IpAddr::V4(_) => LOCAL_V4.into(),
        IpAddr::V6(_) => LOCAL_V6.into(),
    });
    let ends = TunnelEnds { local, local_mac: LOCAL_MAC, next_hop_mac: tunnel.mac.unwrap_or(NEXT_HOP_MAC) };
    Output::tunnel(destination, tunnel, ends, mtu, Egress::File)
        .map_err(|source| ReplayError::Encap { name: destination.name.clone(), source })
}

/// The most pieces that one copy to `output` can be cut into.
fn most_pieces(output: &Output) -> usize {
    match output.oversize {
        sluice_model::Oversize::Fragment | sluice_model::Oversize::Segment => {
            65_535 / (output.frame_room().saturating_sub(128).max(64) as usize) + 2
        }
        sluice_model::Oversize::Truncate | sluice_model::Oversize::Drop => 1,
    }
}
