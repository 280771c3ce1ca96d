//! Which CPU a thread runs on, and whether it has caches in the mempools.

use std::io;
use std::marker::PhantomData;
use std::mem;

use crate::eal::Eal;
use crate::{Errno, LcoreId};

/// Why a thread could not be pinned or registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LcoreError {
    /// The thread has an lcore id already.
    #[error("this thread is registered already, as lcore {0}")]
    AlreadyRegistered(LcoreId),
    /// All lcore ids are taken.
    #[error("no lcore id is free: at most {max} threads can be registered; run fewer workers")]
    NoneFree {
        /// The limit that DPDK was built with.
        max: u32,
    },
    /// Registering is not possible beside secondary processes.
    #[error("threads cannot be registered when DPDK secondary processes are attached; end them first")]
    Multiprocess,
    /// The CPU is not there, or the process may not use it.
    #[error("CPU {cpu} cannot be used: it does not exist, is offline, or lies outside the process's cpuset")]
    NoSuchCpu {
        /// The number asked for.
        cpu: u16,
    },
    /// The set of CPUs is empty or outside what the process may use.
    #[error("none of the CPUs asked for can be used by this process")]
    EmptySet,
    /// The system refused.
    #[error("the CPU affinity of the thread cannot be read or set: {0}")]
    Affinity(#[source] io::Error),
    /// DPDK refused with another error.
    #[error("the thread cannot be registered with DPDK: {0}")]
    Other(Errno),
}

/// A set of CPUs that a thread may run on.
#[derive(Clone, Copy)]
pub struct CpuSet(libc::cpu_set_t);

impl CpuSet {
    /// No CPU.
    #[must_use]
    pub fn empty() -> Self {
        // SAFETY: cpu_set_t is an array of integers, for which all-zero is a value.
        Self(unsafe { mem::zeroed() })
    }

    /// Adds a CPU; false when its number is beyond what the set can hold.
    pub fn insert(&mut self, cpu: u16) -> bool {
        if usize::from(cpu) >= Self::capacity() {
            return false;
        }
        // SAFETY: the index is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(usize::from(cpu), &mut self.0) };
        true
    }

    /// Whether the CPU is in the set.
    #[must_use]
    pub fn contains(&self, cpu: u16) -> bool {
        // SAFETY: the index is below CPU_SETSIZE.
        usize::from(cpu) < Self::capacity() && unsafe { libc::CPU_ISSET(usize::from(cpu), &self.0) }
    }

    /// The CPUs of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=u16::MAX).take(Self::capacity()).filter(|&cpu| self.contains(cpu))
    }

    fn capacity() -> usize {
        mem::size_of::<libc::cpu_set_t>() * 8
    }
}

impl FromIterator<u16> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u16>>(cpus: I) -> Self {
        let mut set = Self::empty();
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

impl PartialEq for CpuSet {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for CpuSet {}

impl std::fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The CPUs that the calling thread may run on.
pub fn current_affinity() -> Result<CpuSet, LcoreError> {
    let mut set = CpuSet::empty();
    // SAFETY: 0 is the calling thread; the pointer is to a set of the size given.
    let ret = unsafe { libc::sched_getaffinity(0, mem::size_of::<libc::cpu_set_t>(), &raw mut set.0) };
    if ret == 0 { Ok(set) } else { Err(LcoreError::Affinity(io::Error::last_os_error())) }
}

/// Sets the CPUs that the calling thread may run on.
pub fn set_affinity(set: &CpuSet) -> Result<(), LcoreError> {
    // SAFETY: 0 is the calling thread; the pointer is to a set of the size given.
    let ret = unsafe { libc::sched_setaffinity(0, mem::size_of::<libc::cpu_set_t>(), &raw const set.0) };
    if ret == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(if error.raw_os_error() == Some(libc::EINVAL) {
        LcoreError::EmptySet
    } else {
        LcoreError::Affinity(error)
    })
}

/// Pins the calling thread to one CPU.
pub fn pin_current_thread(cpu: u16) -> Result<(), LcoreError> {
    let mut set = CpuSet::empty();
    if !set.insert(cpu) {
        return Err(LcoreError::NoSuchCpu { cpu });
    }
    set_affinity(&set).map_err(|error| match error {
        LcoreError::EmptySet => LcoreError::NoSuchCpu { cpu },
        other => other,
    })
}

/// Registration of ordinary threads as lcores.
#[derive(Debug)]
pub struct LcoreThread;

impl LcoreThread {
    /// Gives the calling thread an lcore id, and with it a cache of its own in every mempool that has caches.
    ///
    /// Threads work without it, but then every allocation and free goes to the shared ring of the pool.
    pub fn register(eal: &Eal) -> Result<LcoreGuard, LcoreError> {
        if let Some(id) = LcoreId::current() {
            return Err(LcoreError::AlreadyRegistered(id));
        }
        eal.lcore_registered(|| {
            // SAFETY: EAL is up (the handle proves it) and the thread has no lcore id.
            let ret = unsafe { dpdk_sys::rte_thread_register() };
            if ret == 0 {
                return Ok(());
            }
            let errno = Errno::last();
            Err(match errno.code() {
                libc::ENOMEM => LcoreError::NoneFree { max: dpdk_sys::SLUICE_MAX_LCORE },
                libc::EINVAL => LcoreError::Multiprocess,
                _ => LcoreError::Other(errno),
            })
        })?;
        Ok(LcoreGuard { eal: eal.clone(), not_send: PhantomData })
    }
}

/// The lcore id of the thread that made it; dropping it gives the id back.
#[derive(Debug)]
#[must_use = "dropping the guard unregisters the thread"]
pub struct LcoreGuard {
    eal: Eal,
    /// The id belongs to the thread.
    not_send: PhantomData<*const ()>,
}

impl LcoreGuard {
    /// The lcore id of this thread.
    #[must_use]
    pub fn id(&self) -> LcoreId {
        // The guard cannot leave its thread, and the id stays until it is dropped.
        LcoreId::current().unwrap_or(LcoreId(u32::MAX))
    }
}

impl Drop for LcoreGuard {
    fn drop(&mut self) {
        self.eal.lcore_unregistered(|| {
            // SAFETY: the guard does not leave its thread, which register() registered.
            unsafe { dpdk_sys::rte_thread_unregister() };
        });
    }
}
