//! What time it is, in cycles of the time stamp counter.

use crate::Eal;

/// A reading of the time stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Tsc(pub u64);

impl Tsc {
    /// The counter now. Not serialising: neighbouring instructions may move across it.
    #[inline]
    #[must_use]
    pub fn now() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: every x86-64 processor has rdtsc, and Linux leaves it open to user code.
            Self(unsafe { core::arch::x86_64::_rdtsc() })
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            // SAFETY: reads the generic timer; no conditions.
            Self(unsafe { dpdk_sys::sluice_rdtsc() })
        }
    }

    /// Cycles in a second, as EAL measured them at start: rounded to 10 MHz where the processor does not tell (22.11), so
    /// not for clocks.
    #[must_use]
    pub fn hz(_eal: &Eal) -> u64 {
        // SAFETY: reads a variable that EAL's start has set; the handle proves that it has been started.
        unsafe { dpdk_sys::rte_get_tsc_hz() }
    }

    /// Cycles since an earlier reading; 0 when `earlier` is later.
    #[inline]
    #[must_use]
    pub fn cycles_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
