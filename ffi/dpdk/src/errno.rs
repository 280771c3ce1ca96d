//! What a number that DPDK gave back as an error means.

use std::ffi::CStr;
use std::fmt;

/// An error number of DPDK or the system, always positive.
///
/// Errors of this crate name the numbers they know as variants of their own; this carries the rest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// From the return value of a DPDK call, negative or positive.
    pub(crate) fn from_ret(ret: i32) -> Self {
        Self(ret.saturating_abs())
    }

    /// `rte_errno` of the calling thread.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local variable; no conditions.
        Self::from_ret(unsafe { dpdk_sys::sluice_rte_errno() })
    }

    /// The number, as in `errno.h`.
    #[must_use]
    pub const fn code(self) -> i32 {
        self.0
    }

    fn text(self) -> String {
        // SAFETY: rte_strerror returns a static or thread-local string for any number.
        let text = unsafe { dpdk_sys::rte_strerror(self.0) };
        if text.is_null() {
            return "unknown error".to_owned();
        }
        // SAFETY: not null, NUL-terminated, and valid until this thread calls rte_strerror again.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (errno {})", self.text(), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {})", self.0, self.text())
    }
}
