//! Ports that a vhost-user switch (OVS-DPDK) connects to: how are they told to DPDK, and who is the peer until the switch
//! comes?
//!
//! DPDK's virtio-user driver as a server (guide "Virtio_user as Exception Path" and `vhost_user.c` of 22.11) waits inside
//! EAL until somebody connects, learns from that peer what can be agreed on, and takes later peers as they come and go.
//! A daemon must start without its switch, so that a stand-in of ours is the first peer. It agrees to what every switch
//! on DPDK can do, moves no packet, and leaves when the port is started.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dpdk::Port;
use sluice_model::{BootConfig, PortSpec};

use super::StartError;
use super::start::spawn;

/// Largest packets taken, unless the boot config says otherwise: what mirrors of jumbo frames have.
pub(super) const MTU: u16 = 9000;
/// Names of the devices begin so; the driver is found by it.
const DEVICE: &str = "net_virtio_user_sluice";
/// Time that DPDK's interrupt thread needs to notice that a peer left, generously.
const SETTLE: Duration = Duration::from_millis(20);

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VhostError {
    /// The folder is not there.
    #[error("the folder of {} is not there: make it (install -d -m 755 {})", .socket.display(), .folder.display())]
    NoFolder {
        /// The socket.
        socket: PathBuf,
        /// Where it should be.
        folder: PathBuf,
    },
    /// Another process listens there.
    #[error("another process listens on {}: end it, or use another path", .0.display())]
    InUse(PathBuf),
    /// It is a file of another kind.
    #[error("{} is there already, and is no socket", .0.display())]
    NoSocket(PathBuf),
    /// The socket that an earlier process left cannot be removed.
    #[error("{}, which an earlier process left, cannot be removed: {source}", .socket.display())]
    Stale {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The vhost ports of a boot config while the engine starts.
#[derive(Debug, Default)]
pub(super) struct VhostPorts {
    /// The devices.
    pub(super) devargs: Vec<String>,
    stand_ins: Vec<StandIn>,
}

impl VhostPorts {
    /// Makes the paths of all sockets free and lets the stand-ins wait for the driver.
    pub(super) fn prepare(boot: &BootConfig, descriptors: u16) -> Result<Self, StartError> {
        let mut all = Self::default();
        for (index, port) in boot.ports.iter().enumerate() {
            let PortSpec::Vhost(socket) = &port.spec else { continue };
            free(socket).map_err(|source| StartError::Vhost { name: port.name.clone(), source })?;
            all.devargs.push(devargs(index, socket, descriptors));
            all.stand_ins.push(StandIn::start(socket)?);
        }
        Ok(all)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.stand_ins.is_empty()
    }

    /// What EAL must be told besides. The switch maps our memory, which must be in few pieces (8 at most); ordinary pages
    /// are in one piece anyway.
    pub(super) fn eal_args(&self, hugepages: bool) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        // Each look at the link of a port without peer is an error to the driver; we tell of links ourselves.
        let mut args = vec!["--log-level=pmd.net.virtio.driver:critical".to_owned()];
        args.extend(hugepages.then(|| "--single-file-segments".to_owned()));
        args
    }

    /// The ports are started: the stand-ins make room for the switch.
    pub(super) fn leave(self) {
        drop(self);
    }
}

/// The device of port `index`.
pub(super) fn device(index: usize) -> String {
    format!("{DEVICE}{index}")
}

fn devargs(index: usize, socket: &Path, descriptors: u16) -> String {
    let size = descriptors.clamp(64, 1 << 14).next_power_of_two();
    // The order of descriptors is kept by some peers only, and is settled with the first one.
    format!("{},path={},server=1,queue_size={size},in_order=0", device(index), socket.display())
}

/// Waits until the driver is done with a peer that left just now: closing the port under its hands would abort the
/// process (22.11).
pub(super) fn settle(port: &Port) {
    if port.name().starts_with(DEVICE) {
        let _link = port.link();
        std::thread::sleep(SETTLE);
    }
}

/// Removes what an earlier process left.
fn free(socket: &Path) -> Result<(), VhostError> {
    let folder = socket.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(VhostError::NoFolder { socket: socket.to_owned(), folder: folder.to_owned() });
    }
    let Ok(file) = std::fs::symlink_metadata(socket) else { return Ok(()) };
    if !file.file_type().is_socket() {
        return Err(VhostError::NoSocket(socket.to_owned()));
    }
    if UnixStream::connect(socket).is_ok() {
        return Err(VhostError::InUse(socket.to_owned()));
    }
    std::fs::remove_file(socket).map_err(|source| VhostError::Stale { socket: socket.to_owned(), source })
}

/// A peer that agrees and does nothing.
#[derive(Debug)]
struct StandIn {
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    ended: bool,
    connection: Option<UnixStream>,
}

impl StandIn {
    fn start(socket: &Path) -> Result<Self, StartError> {
        let state = Arc::new(Mutex::new(State::default()));
        let (socket, shared) = (socket.to_owned(), Arc::clone(&state));
        let thread = spawn("sluice-vhost", move || {
            if let Some(connection) = connect(&socket, &shared) {
                // The driver closes the connection, or we do: both are its end.
                let _end = agree(connection);
            }
        })?;
        Ok(Self { state, thread: Some(thread) })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let connection = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.ended = true;
            state.connection.take()
        };
        if let Some(connection) = connection {
            // It may have ended by itself.
            let _ended = connection.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Connects as soon as the driver listens; `None` = it is not wanted any more.
fn connect(socket: &Path, state: &Mutex<State>) -> Option<UnixStream> {
    loop {
        {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.ended {
                return None;
            }
            if let Ok(connection) = UnixStream::connect(socket) {
                state.connection = Some(connection.try_clone().ok()?);
                return Some(connection);
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Messages of the driver that want an answer (QEMU's "Vhost-user Protocol").
const GET_FEATURES: u32 = 1;
const GET_VRING_BASE: u32 = 11;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
/// Version 1, and that this is an answer.
const REPLY: u32 = 0b101;
const NEED_REPLY: u32 = 0b1000;
/// `VIRTIO_NET_F_MRG_RXBUF`, `VHOST_USER_F_PROTOCOL_FEATURES`, `VIRTIO_F_VERSION_1`: packets in several buffers. All else
/// that a switch may offer is for packets that we send, or leaves checksums and segmentation to us.
const FEATURES: u64 = 1 << 15 | 1 << 30 | 1 << 32;
/// The longest message: the memory table with 8 regions.
const LONGEST: u32 = 8 + 8 * 32;

/// Answers until the connection ends. The files that come along (memory, doorbells) are dropped by the kernel, since
/// nobody asks for them.
fn agree(mut connection: UnixStream) -> io::Result<()> {
    loop {
        let [mut request, mut flags, mut size] = [[0; 4]; 3];
        let mut header = [0; 12];
        connection.read_exact(&mut header)?;
        for (word, bytes) in [&mut request, &mut flags, &mut size].into_iter().zip(header.chunks_exact(4)) {
            word.copy_from_slice(bytes);
        }
        let [request, flags, size] = [request, flags, size].map(u32::from_ne_bytes);
        let mut payload = [0; LONGEST as usize];
        let Some(payload) = payload.get_mut(..size as usize) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        connection.read_exact(payload)?;
        let number = match request {
            GET_FEATURES => FEATURES,
            GET_QUEUE_NUM => 1,
            // The index of the ring, then its base: 0.
            GET_VRING_BASE => payload.first_chunk::<4>().map_or(0, |index| u32::from_ne_bytes(*index).into()),
            GET_PROTOCOL_FEATURES => 0,
            _ if flags & NEED_REPLY != 0 => 0,
            _ => continue,
        };
        let mut reply = Vec::with_capacity(20);
        for word in [request, REPLY, 8] {
            reply.extend(word.to_ne_bytes());
        }
        // Little end first, as the index wants it: vhost-user over hosts of this byte order only.
        reply.extend(number.to_le_bytes());
        connection.write_all(&reply)?;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_what_an_earlier_process_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("m.sock");
        free(&socket).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        assert!(matches!(free(&socket), Err(VhostError::InUse(_))));
        drop(listener);
        free(&socket).unwrap();
        assert!(!socket.exists());
        std::fs::write(&socket, "text").unwrap();
        assert!(matches!(free(&socket), Err(VhostError::NoSocket(_))));
        assert!(socket.exists());
        let lost = free(&folder.path().join("not/there")).unwrap_err().to_string();
        assert!(lost.contains("install -d"), "{lost}");
    }

    #[test]
    fn a_queue_has_a_size_that_virtio_knows() {
        for (descriptors, size) in [(1, 64), (1000, 1024), (1024, 1024), (u16::MAX, 1 << 14)] {
            let text = devargs(2, Path::new("/run/m"), descriptors);
            let wanted = format!("net_virtio_user_sluice2,path=/run/m,server=1,queue_size={size},in_order=0");
            assert_eq!(text, wanted);
        }
    }

    #[test]
    fn the_stand_in_answers_and_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("m.sock");
        let early = StandIn::start(&socket).unwrap();
        drop(early);
        let stand_in = StandIn::start(&socket).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let (mut driver, _) = listener.accept().unwrap();
        let mut ask = |request: u32, flags: u32, payload: &[u8], answer: bool| {
            let mut message = Vec::new();
            for word in [request, 1 | flags, u32::try_from(payload.len()).unwrap()] {
                message.extend(word.to_ne_bytes());
            }
            message.extend(payload);
            driver.write_all(&message).unwrap();
            let mut reply = [0; 20];
            if answer {
                driver.read_exact(&mut reply).unwrap();
                assert_eq!(reply[..4], request.to_ne_bytes());
                assert_eq!(reply[4..8], 5_u32.to_ne_bytes());
                assert_eq!(reply[8..12], 8_u32.to_ne_bytes());
            }
            u64::from_le_bytes(reply[12..].try_into().unwrap())
        };
        ask(3, 0, &[], false);
        assert_eq!(ask(GET_FEATURES, 0, &[], true), 0x1_4000_8000);
        assert_eq!(ask(GET_PROTOCOL_FEATURES, 0, &[], true), 0);
        ask(5, 0, &[0; 8 + 8 * 32], false);
        assert_eq!(ask(5, NEED_REPLY, &[0; 40], true), 0);
        assert_eq!(ask(GET_VRING_BASE, 0, &[1, 0, 0, 0, 9, 0, 0, 0], true), 1);
        drop(stand_in);
        assert_eq!(driver.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn garbage_ends_the_stand_in() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[0xff; 64]).unwrap();
        assert_eq!(agree(ours).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
