//! How mbufs go from one thread to another without a lock.

use std::cell::Cell;
use std::ffi::CString;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys::rte_ring;

use crate::Errno;
use crate::burst::Burst;
use crate::eal::Eal;

/// DPDK's limit on the name of a ring (`RTE_RING_NAMESIZE` without the NUL, in 22.11).
const MAX_NAME: usize = 28;
/// DPDK's limit on the size of a ring (`RTE_RING_SZ_MASK`).
const MAX_SIZE: u32 = 0x7fff_ffff;

/// Why there is no ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The name cannot be used.
    #[error("ring name {0:?} must be 1 to 28 bytes long, without NUL")]
    BadName(String),
    /// Two rings of one name.
    #[error("there is a ring {0:?} already; names are unique in a process")]
    NameTaken(String),
    /// The size is out of range.
    #[error("ring {name:?}: size {size} is outside 1 to 2,147,483,646")]
    BadSize {
        /// The ring.
        name: String,
        /// Asked for.
        size: u32,
    },
    /// Not enough memory.
    #[error("ring {name:?}: no memory for {size} places; give EAL more memory, or make the ring smaller")]
    NoMemory {
        /// The ring.
        name: String,
        /// Asked for.
        size: u32,
    },
    /// DPDK refused with another error.
    #[error("ring {name:?} could not be made: {errno}")]
    Other {
        /// The ring.
        name: String,
        /// What DPDK said.
        errno: Errno,
    },
}

/// Makes rings of mbufs.
#[derive(Debug)]
pub struct Ring;

impl Ring {
    /// A ring for one producer and one consumer, with exactly `size` places.
    pub fn spsc(eal: &Eal, name: &str, size: u32) -> Result<(RingProducer, RingConsumer), RingError> {
        let inner = Inner::new(eal, name, size, false)?;
        Ok((
            RingProducer { inner: Arc::clone(&inner), not_sync: PhantomData },
            RingConsumer { inner, not_sync: PhantomData },
        ))
    }

    /// A ring for several producers and one consumer, with exactly `size` places.
    pub fn mpsc(eal: &Eal, name: &str, size: u32) -> Result<(RingMultiProducer, RingConsumer), RingError> {
        let inner = Inner::new(eal, name, size, true)?;
        Ok((RingMultiProducer(Arc::clone(&inner)), RingConsumer { inner, not_sync: PhantomData }))
    }
}

/// Freed, with what is inside, when both ends are gone.
struct Inner {
    ring: NonNull<rte_ring>,
    name: String,
    size: u32,
    eal: Eal,
}

// SAFETY: an rte_ring may be used by several threads as its flags say; the ends see to that.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Inner {
    fn new(eal: &Eal, name: &str, size: u32, multi_producer: bool) -> Result<Arc<Self>, RingError> {
        let name = name.to_owned();
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(RingError::BadName(name));
        }
        if size == 0 || size >= MAX_SIZE {
            return Err(RingError::BadSize { name, size });
        }
        let Ok(c_name) = CString::new(name.as_str()) else { return Err(RingError::BadName(name)) };
        let ring = eal.control(|| {
            // SAFETY: EAL is up; the name is NUL-terminated.
            let ring =
                unsafe { dpdk_sys::sluice_ring_create(c_name.as_ptr(), size, i32::from(multi_producer)) };
            NonNull::new(ring).ok_or_else(Errno::last)
        });
        match ring {
            Ok(ring) => Ok(Arc::new(Self { ring, name, size, eal: eal.clone() })),
            Err(errno) => Err(match errno.code() {
                libc::EEXIST => RingError::NameTaken(name),
                libc::ENOMEM | libc::ENOSPC => RingError::NoMemory { name, size },
                libc::EINVAL => RingError::BadSize { name, size },
                _ => RingError::Other { name, errno },
            }),
        }
    }

    #[inline]
    fn enqueue(&self, burst: &mut Burst) -> usize {
        burst.consume_prefix(|slots, n| {
            // SAFETY: the ring is alive; the n mbufs are ours, and those accepted become the ring's.
            unsafe { dpdk_sys::sluice_ring_enqueue(self.ring.as_ptr(), slots, n) as usize }
        })
    }

    #[inline]
    fn dequeue(&self, burst: &mut Burst) -> usize {
        burst.append_with(|slots, n| {
            // SAFETY: the ring is alive and holds owned mbufs only; `slots` has room for n pointers.
            unsafe { dpdk_sys::sluice_ring_dequeue(self.ring.as_ptr(), slots, u32::from(n)) as usize }
        })
    }

    fn len(&self) -> u32 {
        // SAFETY: the ring is alive.
        unsafe { dpdk_sys::sluice_ring_count(self.ring.as_ptr()) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut burst = Burst::new();
        while self.dequeue(&mut burst) != 0 {
            burst.free_all();
        }
        self.eal.control(|| {
            // SAFETY: both ends are gone and the ring is empty.
            unsafe { dpdk_sys::rte_ring_free(self.ring.as_ptr()) };
        });
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}

/// The end that puts mbufs in. Moves into one thread.
///
/// ```
/// fn send<T: Send>() {}
/// send::<dpdk::RingProducer>();
/// send::<dpdk::RingConsumer>();
/// ```
/// ```compile_fail,E0277
/// fn sync<T: Sync>() {}
/// sync::<dpdk::RingProducer>();
/// ```
#[derive(Debug)]
pub struct RingProducer {
    inner: Arc<Inner>,
    not_sync: PhantomData<Cell<()>>,
}

/// An end that puts mbufs in beside others like it: clone it for each thread.
#[derive(Clone, Debug)]
pub struct RingMultiProducer(Arc<Inner>);

/// The end that takes mbufs out. Moves into one thread.
///
/// ```compile_fail,E0277
/// fn sync<T: Sync>() {}
/// sync::<dpdk::RingConsumer>();
/// ```
#[derive(Debug)]
pub struct RingConsumer {
    inner: Arc<Inner>,
    not_sync: PhantomData<Cell<()>>,
}

impl RingProducer {
    /// Puts in as many as there is room for; returns how many. Exactly those leave the burst; the rest stays
    /// in it, in order.
    #[inline]
    pub fn enqueue_burst(&mut self, burst: &mut Burst) -> usize {
        self.inner.enqueue(burst)
    }

    /// Mbufs inside; a snapshot.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.inner.len()
    }

    /// Whether none is inside; a snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Places.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.inner.size
    }
}

impl RingMultiProducer {
    /// As [`RingProducer::enqueue_burst`]; may be called from several threads at once.
    #[inline]
    pub fn enqueue_burst(&self, burst: &mut Burst) -> usize {
        self.0.enqueue(burst)
    }

    /// Mbufs inside; a snapshot.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.len()
    }

    /// Whether none is inside; a snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl RingConsumer {
    /// Takes out as many as there are, as far as the burst has room, behind those it has; returns how many.
    #[inline]
    pub fn dequeue_burst(&mut self, burst: &mut Burst) -> usize {
        self.inner.dequeue(burst)
    }

    /// Mbufs inside; a snapshot.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.inner.len()
    }

    /// Whether none is inside; a snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
