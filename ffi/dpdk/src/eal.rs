//! How DPDK's environment (EAL) is started, what depends on it, and when it ends.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io::Write as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk_sys::rte_mempool;

use crate::lcore::{LcoreError, current_affinity, set_affinity};
use crate::{Errno, mempool};

/// Where the memory of mbufs comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Ordinary pages: works without root, and several processes at once. Only software drivers.
    #[default]
    Never,
    /// Hugepages, which must have been reserved.
    Use,
}

/// The least severe messages of DPDK that go to stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// Errors and warnings.
    #[default]
    Warning,
    /// And normal but significant conditions.
    Notice,
    /// And information.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// How to start EAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EalConfig {
    /// Where memory comes from.
    pub hugepages: Hugepages,
    /// Megabytes to take at start; 0 = DPDK's choice (64 MB without hugepages, on demand with them).
    /// Without hugepages this is all there will be.
    pub memory_mb: u32,
    /// Virtual devices, as devargs: `net_null0`, `net_pcap0,rx_pcap=in.pcap`.
    pub vdevs: Vec<String>,
    /// PCI devices to probe, with devargs: `0000:01:00.0`. None = no PCI device at all.
    pub pci_allow: Vec<String>,
    /// The CPU of the main lcore; `None` = the first that the calling thread may use.
    pub main_lcore: Option<u16>,
    /// CPUs that workers will be pinned to. They are ordinary threads (see [`LcoreThread`](crate::LcoreThread)):
    /// EAL starts none for them, and only checks that the process may use them.
    pub lcores: Vec<u16>,
    /// A name that keeps the shared files of several DPDK processes apart; only used with hugepages.
    /// `None` = no shared files.
    pub file_prefix: Option<String>,
    /// More arguments for EAL, as in DPDK's "EAL parameters".
    pub extra_args: Vec<String>,
    /// Messages of DPDK.
    pub log_level: LogLevel,
}

/// Why EAL did not start, or a device could not be attached or detached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EalError {
    /// EAL starts once in a process.
    #[error(
        "EAL was started already in this process (or its start failed); it starts once, use a new process"
    )]
    AlreadyInitialized,
    /// An argument has a NUL byte in it.
    #[error("the argument {0:?} holds a NUL byte")]
    NulByte(String),
    /// A CPU cannot be used.
    #[error("CPU {cpu} cannot be used: this process may use {allowed}")]
    CpuNotAllowed {
        /// The CPU asked for.
        cpu: u16,
        /// What the process may use.
        allowed: String,
    },
    /// No access.
    #[error(
        "EAL may not start ({args}): permission denied; run as root, or without hugepages and PCI devices"
    )]
    PermissionDenied {
        /// The arguments.
        args: String,
    },
    /// An argument was not understood.
    #[error("EAL does not understand its arguments ({args}); its message on stderr says which one")]
    InvalidArguments {
        /// The arguments.
        args: String,
    },
    /// No memory, or no hugepages.
    #[error(
        "EAL got no memory ({memory_mb} MB asked, {args}); reserve hugepages (sysctl vm.nr_hugepages), free \
         those that another process holds, ask for less, or run without hugepages"
    )]
    NoMemory {
        /// Megabytes asked for, 0 = default.
        memory_mb: u32,
        /// The arguments.
        args: String,
    },
    /// The bus or the devices could not be probed.
    #[error(
        "EAL could not probe its devices ({args}); is the driver's plug-in installed, and is the device bound to \
         it?"
    )]
    NoDevice {
        /// The arguments.
        args: String,
    },
    /// EAL refused with another error.
    #[error("EAL did not start ({args}): {errno}; its messages are on stderr")]
    Other {
        /// The arguments.
        args: String,
        /// What DPDK said.
        errno: Errno,
    },
    /// A device of this name is there already.
    #[error("device {0} is attached already")]
    DeviceExists(String),
    /// There is no such device.
    #[error("there is no device {0}; is its driver's plug-in installed?")]
    NoSuchDevice(String),
    /// A device that a [`Port`](crate::Port) or its queues still use.
    #[error("device {0} is in use: drop its port and queues first")]
    DeviceInUse(String),
    /// The device could not be attached.
    #[error("device {devargs} could not be attached: {errno}; the driver's message is on stderr")]
    Attach {
        /// As given.
        devargs: String,
        /// What DPDK said.
        errno: Errno,
    },
    /// The device could not be detached.
    #[error("device {name} could not be detached: {errno}")]
    Detach {
        /// Its name.
        name: String,
        /// What DPDK said.
        errno: Errno,
    },
    /// The CPU affinity of the calling thread could not be kept.
    #[error("the CPU affinity of the starting thread could not be kept: {0}")]
    Affinity(#[source] LcoreError),
}

/// A handle of EAL, cheap to clone. EAL ends when the last one goes, and with it every owner made from it.
#[derive(Clone, Debug)]
pub struct Eal(Arc<EalInner>);

#[derive(Debug)]
struct EalInner {
    iova_contig: bool,
    memory_mb: u32,
    /// Held during every control call that DPDK does not make safe against others.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Threads that have an lcore id, and so perhaps mbufs in a cache only they may touch.
    registered: u32,
    /// Pools without handle whose mbufs are not all back.
    retired: Vec<PoolPtr>,
    /// Port ids that a `Port` or its queues own.
    ports: BTreeSet<u16>,
}

/// A pool that no handle refers to any more.
#[derive(Debug)]
pub(crate) struct PoolPtr(pub(crate) NonNull<rte_mempool>);

// SAFETY: pools may be used from all threads; what this one is used for (reclaim) is done under the state lock.
unsafe impl Send for PoolPtr {}

static STARTED: AtomicBool = AtomicBool::new(false);

/// Where direct mbufs keep the lowest `data_off` at which a live view of them starts.
static SHARE_LOW_OFFSET: AtomicI32 = AtomicI32::new(0);

/// Offset of the dynamic field with the low-water mark; set before the first mbuf exists.
#[inline]
pub(crate) fn share_low_offset() -> i32 {
    SHARE_LOW_OFFSET.load(Ordering::Relaxed)
}

/// Where mbufs keep the note that travels with them over a ring.
static NOTE_OFFSET: AtomicI32 = AtomicI32::new(0);

/// Offset of the dynamic field with the note; set before the first mbuf exists.
#[inline]
pub(crate) fn note_offset() -> i32 {
    NOTE_OFFSET.load(Ordering::Relaxed)
}

/// The version of the DPDK library in use: "DPDK 22.11.11".
#[must_use]
pub fn dpdk_version() -> &'static str {
    // SAFETY: returns a NUL-terminated string; no conditions.
    let version = unsafe { dpdk_sys::rte_version() };
    // SAFETY: the string is static: rte_version formats it once into a static buffer.
    unsafe { CStr::from_ptr(version) }.to_str().unwrap_or("DPDK")
}

impl Eal {
    /// Starts EAL. Once in a process: a second call is an error, also after the first failed or ended.
    ///
    /// The CPU affinity of the calling thread, which EAL changes, is restored.
    pub fn init(config: &EalConfig) -> Result<Self, EalError> {
        let affinity = current_affinity().map_err(EalError::Affinity)?;
        for cpu in config.main_lcore.iter().chain(&config.lcores) {
            if !affinity.contains(*cpu) {
                return Err(EalError::CpuNotAllowed { cpu: *cpu, allowed: format!("{affinity:?}") });
            }
        }
        let main_cpu = config.main_lcore.or_else(|| affinity.iter().next()).unwrap_or(0);
        let args = arguments(config, main_cpu);
        let shown = args.join(" ");
        let mut owned = Vec::with_capacity(args.len());
        for arg in args {
            owned.push(CString::new(arg).map_err(|error| {
                EalError::NulByte(String::from_utf8_lossy(&error.into_vec()).into_owned())
            })?);
        }
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(EalError::AlreadyInitialized);
        }

        // EAL keeps pointers into its arguments: they live as long as the process, once.
        let mut argv: Vec<*mut c_char> = owned.into_iter().map(CString::into_raw).collect();
        let argc = c_int::try_from(argv.len()).unwrap_or(c_int::MAX);
        // SAFETY: argc strings that are never freed; called once in the process, as STARTED has shown.
        let ret = unsafe { dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) };
        let errno = Errno::last();
        let restored = set_affinity(&affinity);
        if ret < 0 {
            return Err(init_error(errno, shown, config.memory_mb));
        }
        // SAFETY: EAL is up and this is the thread that started it. It becomes an ordinary thread that may
        // register like the others, so that no thread without a guard owns a cache.
        unsafe { dpdk_sys::sluice_eal_release_main_thread() };
        // SAFETY: EAL is up; the name is a NUL-terminated string.
        let low = unsafe { dpdk_sys::sluice_dynfield_u16(c"sluice_share_low".as_ptr()) };
        // SAFETY: as above.
        let note = unsafe { dpdk_sys::sluice_dynfield_note(c"sluice_note".as_ptr()) };
        let eal = Self(Arc::new(EalInner {
            iova_contig: config.hugepages == Hugepages::Use || !config.pci_allow.is_empty(),
            memory_mb: config.memory_mb,
            state: Mutex::new(State::default()),
        }));
        if low < 0 || note < 0 {
            return Err(EalError::Other { args: shown, errno: Errno::from_ret(low.min(note)) });
        }
        SHARE_LOW_OFFSET.store(low, Ordering::SeqCst);
        NOTE_OFFSET.store(note, Ordering::SeqCst);
        restored.map_err(EalError::Affinity)?;
        Ok(eal)
    }

    /// Adds a device while running: devargs such as `net_tap0,iface=tap0` or a PCI address.
    pub fn attach(&self, devargs: &str) -> Result<(), EalError> {
        let nul = |_| EalError::NulByte(devargs.to_owned());
        let text = CString::new(devargs).map_err(nul)?;
        let name = CString::new(devargs.split(',').next().unwrap_or_default()).map_err(nul)?;
        let _state = self.state();
        // DPDK does not tell a device that is there already from success.
        if port_of(&name).is_some() {
            return Err(EalError::DeviceExists(devargs.to_owned()));
        }
        // SAFETY: EAL is up; the string is NUL-terminated; the lock keeps other control calls away.
        let probe = || unsafe { dpdk_sys::rte_dev_probe(text.as_ptr()) };
        let mut ret = probe();
        if ret == 0 && port_of(&name).is_none() {
            // A virtual device whose port was closed is still on its bus: take it off, and once more. Devices
            // whose ports have other names are no virtual ones, and not found here.
            // SAFETY: as above; no port of the device exists.
            if unsafe { dpdk_sys::sluice_dev_remove(name.as_ptr()) } == 0 {
                ret = probe();
            }
        }
        match -ret {
            0 => Ok(()),
            libc::EEXIST => Err(EalError::DeviceExists(devargs.to_owned())),
            libc::ENODEV | libc::ENOENT => Err(EalError::NoSuchDevice(devargs.to_owned())),
            _ => Err(EalError::Attach { devargs: devargs.to_owned(), errno: Errno::from_ret(ret) }),
        }
    }

    /// Removes a device by its name. Refused while a [`Port`](crate::Port) or one of its queues uses it.
    pub fn detach(&self, name: &str) -> Result<(), EalError> {
        let text = CString::new(name).map_err(|_| EalError::NulByte(name.to_owned()))?;
        let state = self.state();
        if port_of(&text).is_some_and(|port| state.ports.contains(&port)) {
            return Err(EalError::DeviceInUse(name.to_owned()));
        }
        // SAFETY: as above; no owner of the port exists, so no queue of it is polled.
        let ret = unsafe { dpdk_sys::sluice_dev_remove(text.as_ptr()) };
        match -ret {
            0 => Ok(()),
            libc::ENODEV | libc::ENOENT | libc::EINVAL => Err(EalError::NoSuchDevice(name.to_owned())),
            _ => Err(EalError::Detach { name: name.to_owned(), errno: Errno::from_ret(ret) }),
        }
    }

    /// Whether mbufs must lie in memory that devices can address.
    pub(crate) fn iova_contig(&self) -> bool {
        self.0.iova_contig
    }

    /// Megabytes asked for at start, 0 = default; for advice in errors.
    pub(crate) fn memory_mb(&self) -> u32 {
        self.0.memory_mb
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a control call that must not run beside others.
    pub(crate) fn control<T>(&self, call: impl FnOnce() -> T) -> T {
        let _state = self.state();
        call()
    }

    /// Takes ownership of a port id; false when it has an owner.
    pub(crate) fn claim_port(&self, port: u16) -> bool {
        self.state().ports.insert(port)
    }

    /// Closes a port by `close` and gives up its ownership.
    pub(crate) fn release_port(&self, port: u16, close: impl FnOnce()) {
        let mut state = self.state();
        close();
        state.ports.remove(&port);
    }

    /// Counts a thread that `register` gives an lcore id to.
    pub(crate) fn lcore_registered(
        &self,
        register: impl FnOnce() -> Result<(), LcoreError>,
    ) -> Result<(), LcoreError> {
        let mut state = self.state();
        register()?;
        state.registered += 1;
        Ok(())
    }

    /// Counts a thread whose lcore id `unregister` takes away.
    pub(crate) fn lcore_unregistered(&self, unregister: impl FnOnce()) {
        let mut state = self.state();
        unregister();
        state.registered -= 1;
        state.reclaim();
    }

    /// Takes over a pool whose last handle is gone. Its memory is given back once every mbuf is back.
    pub(crate) fn retire_pool(&self, pool: PoolPtr) {
        let mut state = self.state();
        state.retired.push(pool);
        state.reclaim();
    }
}

impl State {
    /// Frees the retired pools whose mbufs are all back. A thread with an lcore id may be in the middle of
    /// putting an mbuf into its cache, which cannot be seen from outside: then they wait.
    fn reclaim(&mut self) {
        if self.registered == 0 {
            // SAFETY: no handle to the pool exists (it is retired), so none allocates from it, and no thread
            // has an lcore id: register() takes the lock that we hold.
            self.retired.retain(|pool| !unsafe { mempool::reclaim(pool.0) });
        }
    }
}

impl Drop for EalInner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // No handle is left, so no guard, no pool, no port and no ring either.
        state.reclaim();
        if state.retired.is_empty() {
            // SAFETY: EAL was started, all owners are gone, and no mbuf is outside its pool.
            let ret = unsafe { dpdk_sys::rte_eal_cleanup() };
            if ret < 0 {
                complain(format_args!("dpdk: EAL did not end cleanly: {}", Errno::from_ret(ret)));
            }
        } else {
            complain(format_args!(
                "dpdk: EAL is left up: mbufs of {} pool(s) are still owned somewhere (a leak in the program)",
                state.retired.len()
            ));
        }
    }
}

/// A line on stderr; with `eprintln!`, a closed stderr would be a panic.
fn complain(text: std::fmt::Arguments<'_>) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// The port of this name; EAL is up, as the callers' handles prove.
fn port_of(name: &CStr) -> Option<u16> {
    let mut port = 0;
    // SAFETY: EAL is up; the string is NUL-terminated and the port number is written to a local.
    let ret = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut port) };
    (ret == 0).then_some(port)
}

fn arguments(config: &EalConfig, main_cpu: u16) -> Vec<String> {
    let mut args = vec!["sluice".to_owned()];
    let mut add = |parts: &[&str]| args.extend(parts.iter().map(|&part| part.to_owned()));
    add(&[&format!("--lcores=0@{main_cpu}"), &format!("--log-level={}", config.log_level.as_str())]);
    add(&["--no-telemetry"]);
    match config.hugepages {
        Hugepages::Never => add(&["--no-huge", "--no-shconf"]),
        Hugepages::Use => match &config.file_prefix {
            Some(prefix) => add(&[&format!("--file-prefix={prefix}")]),
            None => add(&["--in-memory"]),
        },
    }
    if config.memory_mb != 0 {
        add(&["-m", &config.memory_mb.to_string()]);
    }
    if config.pci_allow.is_empty() {
        add(&["--no-pci"]);
        if config.hugepages == Hugepages::Never {
            add(&["--iova-mode=va"]);
        }
    }
    for device in &config.pci_allow {
        add(&["-a", device]);
    }
    for device in &config.vdevs {
        add(&[&format!("--vdev={device}")]);
    }
    args.extend(config.extra_args.iter().cloned());
    args
}

fn init_error(errno: Errno, args: String, memory_mb: u32) -> EalError {
    match errno.code() {
        libc::EACCES | libc::EPERM => EalError::PermissionDenied { args },
        libc::EALREADY => EalError::AlreadyInitialized,
        libc::EINVAL => EalError::InvalidArguments { args },
        libc::ENOMEM => EalError::NoMemory { memory_mb, args },
        libc::ENODEV | libc::ENOTSUP => EalError::NoDevice { args },
        _ => EalError::Other { args, errno },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_hugepages_nothing_is_shared_or_probed() {
        let config = EalConfig { memory_mb: 32, vdevs: vec!["net_null0".into()], ..EalConfig::default() };
        let args = arguments(&config, 1).join(" ");
        assert_eq!(
            args,
            "sluice --lcores=0@1 --log-level=warning --no-telemetry --no-huge --no-shconf -m 32 --no-pci \
             --iova-mode=va --vdev=net_null0"
        );
    }

    #[test]
    fn a_pci_device_is_allowed_by_name() {
        let config = EalConfig {
            hugepages: Hugepages::Use,
            pci_allow: vec!["0000:01:00.0".into()],
            file_prefix: Some("a".into()),
            ..EalConfig::default()
        };
        let args = arguments(&config, 0).join(" ");
        assert!(args.contains("--file-prefix=a -a 0000:01:00.0"), "{args}");
        assert!(!args.contains("--no-pci"), "{args}");
    }
}
