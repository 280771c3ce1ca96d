//! Numbers of DPDK that must not be mixed up with others.

use std::fmt;

/// A logical core of DPDK: the index of a thread's caches in the mempools, not the number of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct LcoreId(pub u32);

impl LcoreId {
    /// The lcore id of the calling thread; `None` for a thread that is not registered.
    #[must_use]
    pub fn current() -> Option<Self> {
        // SAFETY: reads a thread-local variable; no conditions.
        let id = unsafe { dpdk_sys::sluice_lcore_id() };
        (id < dpdk_sys::SLUICE_MAX_LCORE).then_some(Self(id))
    }
}

impl fmt::Display for LcoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A NUMA node ("socket" in DPDK), or any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct SocketId(i32);

impl SocketId {
    /// Memory may come from any node.
    pub const ANY: Self = Self(-1);

    /// The node of this number.
    #[must_use]
    pub fn new(node: u16) -> Self {
        Self(i32::from(node))
    }

    /// From DPDK's own number, where every negative one means "any".
    pub(crate) fn from_raw(raw: i32) -> Self {
        if raw < 0 { Self::ANY } else { Self(raw) }
    }

    /// DPDK's own number: -1 for any.
    pub(crate) fn raw(self) -> i32 {
        self.0
    }
}

impl Default for SocketId {
    fn default() -> Self {
        Self::ANY
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 { f.write_str("any") } else { self.0.fmt(f) }
    }
}
