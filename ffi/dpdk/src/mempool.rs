//! Where mbufs come from, how many there are, and when their memory may be given back.

use std::ffi::CString;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use dpdk_sys::{rte_mempool, sluice_mbuf};

use crate::burst::Burst;
use crate::eal::{Eal, PoolPtr};
use crate::mbuf::{HEADROOM, Mbuf};
use crate::{Errno, SocketId};

/// DPDK's limit on the objects in a lcore's cache (`RTE_MEMPOOL_CACHE_MAX_SIZE`).
const MAX_CACHE: u32 = 512;
/// DPDK's limit on the name of a pool (`RTE_MEMPOOL_NAMESIZE` without the NUL, in 22.11).
const MAX_NAME: usize = 25;

/// How to make a [`Mempool`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MempoolConfig {
    /// Unique in the process, at most 25 bytes.
    pub name: String,
    /// How many mbufs. One less than a power of two wastes least.
    pub mbufs: u32,
    /// Mbufs that each registered thread may keep to itself: at most 512 and two thirds of `mbufs`; 0 = none.
    pub cache: u32,
    /// Bytes of packet that an mbuf holds, without the headroom of [`HEADROOM`] bytes.
    pub data_room: u16,
    /// The NUMA node of the memory.
    pub socket: SocketId,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self { name: "mbufs".to_owned(), mbufs: 8191, cache: 256, data_room: 2048, socket: SocketId::ANY }
    }
}

/// Why there is no pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MempoolError {
    /// The name cannot be used.
    #[error("mempool name {0:?} must be 1 to 25 bytes long, without NUL")]
    BadName(String),
    /// Two pools of one name.
    #[error("there is a mempool {0:?} already; names are unique in a process")]
    NameTaken(String),
    /// No mbufs asked for.
    #[error("mempool {0:?}: 0 mbufs asked for")]
    Empty(String),
    /// The cache is too large.
    #[error("mempool {name:?}: a cache of {cache} mbufs is too large: at most 512 and two thirds of {mbufs}")]
    CacheTooLarge {
        /// The pool.
        name: String,
        /// Cache asked for.
        cache: u32,
        /// Mbufs asked for.
        mbufs: u32,
    },
    /// The data room is too large.
    #[error(
        "mempool {name:?}: a data room of {data_room} bytes leaves no space for the headroom of {HEADROOM}"
    )]
    DataRoomTooLarge {
        /// The pool.
        name: String,
        /// Asked for.
        data_room: u16,
    },
    /// Not enough memory.
    #[error(
        "mempool {name:?}: {mbufs} mbufs need about {need_mb} MB, which EAL does not have ({have_mb} MB asked at \
         start; 0 = default, 64 MB without hugepages): give EAL more memory (-m, hugepages), or ask for fewer \
         or smaller mbufs"
    )]
    NoMemory {
        /// The pool.
        name: String,
        /// Mbufs asked for.
        mbufs: u32,
        /// Megabytes needed.
        need_mb: u64,
        /// Megabytes EAL was started with, 0 = default.
        have_mb: u32,
    },
    /// DPDK refused the arguments.
    #[error("mempool {0:?}: DPDK refuses the arguments; is the NUMA node there?")]
    InvalidArguments(String),
    /// The driver of pools is missing.
    #[error("mempool {0:?}: the pool driver is missing; is librte_mempool_ring among DPDK's plug-ins?")]
    NoDriver(String),
    /// DPDK refused with another error.
    #[error("mempool {name:?} could not be made: {errno}")]
    Other {
        /// The pool.
        name: String,
        /// What DPDK said.
        errno: Errno,
    },
}

/// A pool of mbufs; a handle that is cheap to clone and may be used from every thread.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let eal = dpdk::Eal::init(&dpdk::EalConfig::default())?;
/// let pool = dpdk::Mempool::new(&eal, &dpdk::MempoolConfig::default())?;
/// let packet = pool.copy_from(b"some bytes").ok_or("no mbuf")?;
/// assert_eq!(pool.in_use(), 1);
/// drop(packet);
/// assert_eq!(pool.in_use(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Mempool(Arc<Inner>);

struct Inner {
    pool: NonNull<rte_mempool>,
    name: String,
    data_room: u16,
    eal: Eal,
}

// SAFETY: rte_mempool is made for concurrent use (ring_mp_mc, caches by lcore id); the rest is read only.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        self.eal.retire_pool(PoolPtr(self.pool));
    }
}

impl Mempool {
    /// Makes a pool.
    pub fn new(eal: &Eal, config: &MempoolConfig) -> Result<Self, MempoolError> {
        let name = config.name.clone();
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(MempoolError::BadName(name));
        }
        if config.mbufs == 0 {
            return Err(MempoolError::Empty(name));
        }
        if config.cache > MAX_CACHE || u64::from(config.cache) * 3 > u64::from(config.mbufs) * 2 {
            return Err(MempoolError::CacheTooLarge { name, cache: config.cache, mbufs: config.mbufs });
        }
        let Some(room) = config.data_room.checked_add(HEADROOM) else {
            return Err(MempoolError::DataRoomTooLarge { name, data_room: config.data_room });
        };
        let Ok(c_name) = CString::new(name.as_str()) else { return Err(MempoolError::BadName(name)) };
        let pool = eal.control(|| {
            // SAFETY: EAL is up; the name is NUL-terminated; the lock keeps other control calls away.
            let pool = unsafe {
                dpdk_sys::sluice_pool_create(
                    c_name.as_ptr(),
                    config.mbufs,
                    config.cache,
                    room,
                    config.socket.raw(),
                    i32::from(eal.iova_contig()),
                )
            };
            NonNull::new(pool).ok_or_else(Errno::last)
        });
        let pool = pool.map_err(|errno| match errno.code() {
            libc::EEXIST => MempoolError::NameTaken(name.clone()),
            libc::ENOMEM | libc::ENOBUFS => MempoolError::NoMemory {
                name: name.clone(),
                mbufs: config.mbufs,
                need_mb: need_mb(config.mbufs, room),
                have_mb: eal.memory_mb(),
            },
            libc::EINVAL => MempoolError::InvalidArguments(name.clone()),
            libc::ENOENT | libc::ENOSYS => MempoolError::NoDriver(name.clone()),
            _ => MempoolError::Other { name: name.clone(), errno },
        })?;
        Ok(Self(Arc::new(Inner { pool, name, data_room: config.data_room, eal: eal.clone() })))
    }

    /// An empty mbuf with full headroom; `None` when the pool is exhausted.
    #[inline]
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool is alive as long as this handle.
        let mbuf = unsafe { dpdk_sys::sluice_mbuf_alloc(self.raw()) };
        // SAFETY: a fresh mbuf has no other owner.
        NonNull::new(mbuf).map(|mbuf| unsafe { Mbuf::from_raw(mbuf) })
    }

    /// Appends `n` empty mbufs to the burst; all or none. False when the pool has fewer or the burst no room.
    #[inline]
    pub fn alloc_burst(&self, n: usize, burst: &mut Burst) -> bool {
        burst.fill_from(n, |slots, n| {
            // SAFETY: the pool is alive and `slots` has room for n pointers.
            unsafe { dpdk_sys::sluice_mbuf_alloc_bulk(self.raw(), slots, n) == 0 }
        })
    }

    /// A packet with these bytes, in as many segments as it takes; `None`, and nothing taken, when the pool
    /// is exhausted.
    #[inline]
    #[must_use]
    pub fn copy_from(&self, bytes: &[u8]) -> Option<Mbuf> {
        let mut head = self.alloc()?;
        if bytes.len() <= usize::from(self.0.data_room) {
            head.fill_fresh(bytes);
            return Some(head);
        }
        self.copy_segments(head, bytes)
    }

    #[cold]
    fn copy_segments(&self, mut head: Mbuf, bytes: &[u8]) -> Option<Mbuf> {
        let room = usize::from(self.0.data_room).max(1);
        let mut parts = bytes.chunks(room);
        if self.0.data_room == 0 {
            return None;
        }
        head.fill_fresh(parts.next().unwrap_or_default());
        let mut last = head.seg();
        for part in parts {
            let mut segment = self.alloc()?;
            segment.fill_fresh(part);
            last = head.link_after(last, segment).ok()?;
        }
        Some(head)
    }

    /// How many mbufs the pool has.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        // SAFETY: the pool is alive as long as this handle.
        unsafe { dpdk_sys::sluice_pool_size(self.raw()) }
    }

    /// How many mbufs are out of the pool: owned by the program, or inside ports and rings. Mbufs in the
    /// caches of threads count as in the pool. A snapshot that walks the caches: not for the packet path.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool is alive as long as this handle.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.raw()) }
    }

    /// Bytes of packet that a fresh mbuf holds, without the headroom.
    #[must_use]
    pub fn data_room(&self) -> u16 {
        self.0.data_room
    }

    /// The name it was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn raw(&self) -> *mut rte_mempool {
        self.0.pool.as_ptr()
    }
}

impl fmt::Debug for Mempool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mempool")
            .field("name", &self.0.name)
            .field("capacity", &self.capacity())
            .field("in_use", &self.in_use())
            .field("data_room", &self.0.data_room)
            .finish_non_exhaustive()
    }
}

/// What `mbufs` of `room` bytes with headroom take, in megabytes, rounded up.
fn need_mb(mbufs: u32, room: u16) -> u64 {
    // Header and trailer of a mempool object, rounded to cache lines.
    let object = (std::mem::size_of::<sluice_mbuf>() as u64 + u64::from(room) + 64).next_multiple_of(64) + 64;
    (u64::from(mbufs) * object).div_ceil(1 << 20)
}

/// Frees the pool when all its mbufs are back in it; true when freed.
///
/// # Safety
///
/// No handle to the pool exists and no thread has an lcore id. A thread without one may still free its mbufs:
/// it puts them straight into the pool's ring, and only mbufs whose enqueue is complete can be taken out here.
pub(crate) unsafe fn reclaim(pool: NonNull<rte_mempool>) -> bool {
    // SAFETY: the pool is alive until this function frees it.
    let size = unsafe { dpdk_sys::sluice_pool_size(pool.as_ptr()) };
    let mut scratch = vec![ptr::null_mut(); size as usize];
    // SAFETY: as this function demands, and the scratch has room for all.
    unsafe { dpdk_sys::sluice_pool_reclaim(pool.as_ptr(), scratch.as_mut_ptr()) == 1 }
}
