//! Whether this machine has the instructions that the program was compiled for.

/// The instructions of the baseline that the processor lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFeatures(Vec<&'static str>);

impl MissingFeatures {
    /// Their names, as in `/proc/cpuinfo`.
    #[must_use]
    pub fn names(&self) -> &[&'static str] {
        &self.0
    }
}

impl std::fmt::Display for MissingFeatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "this processor (or the model that the hypervisor shows) lacks {}, which the program is compiled for \
             (x86-64-v3: Intel Haswell, AMD Zen, or later); in a virtual machine choose the CPU model \"host\", \
             else compile for this machine (RUSTFLAGS=\"-C target-cpu=native\")",
            self.0.join(", ")
        )
    }
}

impl std::error::Error for MissingFeatures {}

/// Checks that the processor has what the program was compiled for: x86-64-v3 on x86-64 when the program was
/// compiled with it, nothing elsewhere. Call it before anything else.
pub fn cpu_baseline() -> Result<(), MissingFeatures> {
    let missing = missing();
    if missing.is_empty() { Ok(()) } else { Err(MissingFeatures(missing)) }
}

#[cfg(target_arch = "x86_64")]
fn missing() -> Vec<&'static str> {
    // `is_x86_feature_detected!` is constant true for what the compiler was told to assume: ask the CPU.
    cpuid::missing(cfg!(target_feature = "avx2"))
}

#[cfg(not(target_arch = "x86_64"))]
fn missing() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(target_arch = "x86_64")]
mod cpuid {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    /// What one bit of a register says.
    struct Bit {
        name: &'static str,
        register: u32,
        position: u32,
    }

    fn absent(bits: &[Bit], missing: &mut Vec<&'static str>) {
        missing.extend(bits.iter().filter(|b| b.register & (1 << b.position) == 0).map(|b| b.name));
    }

    /// The parts of x86-64-v3 (System V psABI, table 3.1) that are absent; none when not `wanted`.
    pub(super) fn missing(wanted: bool) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if !wanted {
            return missing;
        }
        let highest = __cpuid(0).eax;
        let one = __cpuid(1);
        let seven = if highest >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
        let extended = if __cpuid(0x8000_0000).eax >= 0x8000_0001 { __cpuid(0x8000_0001).ecx } else { 0 };
        let bit = |name, register, position| Bit { name, register, position };
        absent(
            &[
                bit("ssse3", one.ecx, 9),
                bit("fma", one.ecx, 12),
                bit("cx16", one.ecx, 13),
                bit("sse4_1", one.ecx, 19),
                bit("sse4_2", one.ecx, 20),
                bit("movbe", one.ecx, 22),
                bit("popcnt", one.ecx, 23),
                bit("osxsave", one.ecx, 27),
                bit("avx", one.ecx, 28),
                bit("f16c", one.ecx, 29),
                bit("bmi1", seven, 3),
                bit("avx2", seven, 5),
                bit("bmi2", seven, 8),
                bit("abm", extended, 5),
            ],
            &mut missing,
        );
        if one.ecx & (1 << 27) != 0 && !os_saves_ymm() {
            missing.push("avx (not enabled by the operating system)");
        }
        missing
    }

    fn os_saves_ymm() -> bool {
        #[target_feature(enable = "xsave")]
        fn xcr0() -> u64 {
            // SAFETY: the function has the feature, and its caller has checked that the system enabled it.
            unsafe { _xgetbv(0) }
        }
        // SAFETY: the caller has seen OSXSAVE, so XGETBV is there.
        let xcr0 = unsafe { xcr0() };
        xcr0 & 0b110 == 0b110
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_that_runs_the_tests_has_the_baseline() {
        assert_eq!(cpu_baseline(), Ok(()));
    }

    #[test]
    fn the_message_names_what_is_missing() {
        let text = MissingFeatures(vec!["avx2", "bmi2"]).to_string();
        assert!(text.contains("avx2, bmi2"), "{text}");
    }
}
