//! What does the `[protection]` section of a boot config say?

use super::document::Fields;
use super::durations::duration;
use super::source::Report;
use crate::{CgroupMode, ProtectionSettings};

/// The section. Zero means no limit.
pub(super) fn protection_settings(mut fields: Fields<'_>, report: &Report<'_>) -> ProtectionSettings {
    let default = ProtectionSettings::default();
    let mut limit = |key, most: u32, unit: &str, default: Option<u32>| {
        let given = fields.integer(key, 0..=most.into(), unit);
        given.map_or(default, |at| u32::try_from(at.value).ok().filter(|&limit| limit > 0))
    };
    let settings = ProtectionSettings {
        cpu_millicores: limit(
            "cpu_millicores",
            ProtectionSettings::MAX_CPU_MILLICORES,
            "cpu_millicores (1000 = a core, 0 = no limit)",
            default.cpu_millicores,
        ),
        memory_mb: limit(
            "memory_mb",
            ProtectionSettings::MAX_MEMORY_MB,
            "memory_mb (MiB, 0 = no limit)",
            default.memory_mb,
        ),
        capture_kpps: limit(
            "capture_kpps",
            ProtectionSettings::MAX_CAPTURE_KPPS,
            "capture_kpps (thousands of packets/s, 0 = no limit)",
            default.capture_kpps,
        ),
        threads: limit("threads", 1 << 20, "threads (0 = no limit)", default.threads),
        free_disk_mb: limit(
            "free_disk_mb",
            1 << 30,
            "free_disk_mb (MiB, 0 = no check)",
            default.free_disk_mb,
        ),
        free_memory_mb: limit(
            "free_memory_mb",
            ProtectionSettings::MAX_MEMORY_MB,
            "free_memory_mb (MiB, 0 = no check)",
            default.free_memory_mb,
        ),
        ..default
    };
    let cgroup = fields.choice("cgroup", &[("auto", CgroupMode::Auto), ("off", CgroupMode::Off)]);
    let intervals = ProtectionSettings::MIN_INTERVAL_NS..=ProtectionSettings::MAX_INTERVAL_NS;
    let interval_ns =
        duration(&mut fields, "interval", intervals, "1s", report).unwrap_or(default.interval_ns);
    fields.finish();
    ProtectionSettings { cgroup: cgroup.map_or(default.cgroup, |at| at.value), interval_ns, ..settings }
}

#[cfg(test)]
mod tests {
    use crate::spec::parse_boot;
    use crate::{
        BootConfig, CgroupMode, ColumnProfile, LogLevel, LogSettings, ParquetOutput, ProtectionSettings,
    };

    const PORT: &str = "policy = \"p\"\n[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"capture\"\n";

    fn parse(section: &str) -> Result<BootConfig, String> {
        let loaded = parse_boot("boot.toml", &format!("{PORT}{section}"));
        loaded.map(|loaded| loaded.value).map_err(|errors| errors.to_string())
    }

    #[test]
    fn all_of_it() {
        let text = "[protection]\ncpu_millicores = 1500\nmemory_mb = 768\ncapture_kpps = 200\nthreads = 0\n\
                    free_disk_mb = 1000\nfree_memory_mb = 0\ncgroup = \"off\"\ninterval = \"200ms\"\n";
        let expected = ProtectionSettings {
            cpu_millicores: Some(1500),
            memory_mb: Some(768),
            capture_kpps: Some(200),
            threads: None,
            free_disk_mb: Some(1000),
            free_memory_mb: None,
            cgroup: CgroupMode::Off,
            interval_ns: 200_000_000,
        };
        assert_eq!(parse(text).unwrap().protection, expected);
        assert_eq!(parse("[protection]\n").unwrap().protection, ProtectionSettings::default());
    }

    #[test]
    fn mistakes_are_told() {
        for (line, told) in [
            ("cpu = 1", "cpu_millicores"),
            ("cpu_millicores = -1", "1000 = a core"),
            ("memory_mb = 1.5", "integer"),
            ("cgroup = \"v2\"", "auto, off"),
            ("interval = \"1ms\"", "interval"),
        ] {
            let errors = parse(&format!("[protection]\n{line}\n")).unwrap_err();
            assert!(errors.contains("boot.toml:7") && errors.contains(told), "{line}: {errors}");
        }
    }

    /// The factory values of requirements.md section 2.8 that apply; docs/config.md says so of each option.
    #[test]
    fn an_empty_config_has_the_defaults_of_the_requirements() {
        let boot = parse("").unwrap();
        // PRT-10: a dedicated collector ignores the group's limits of CPU, memory, capture and distribution.
        let ProtectionSettings { cpu_millicores, memory_mb, capture_kpps, .. } = boot.protection;
        assert_eq!((cpu_millicores, memory_mb, capture_kpps, boot.limit), (None, None, None, None));
        // COL-3: less than 100 MB on the disk is an exception.
        assert_eq!(boot.protection.free_disk_mb, Some(100));
        // Breaker threshold 0 (off), monitor interval 10 s.
        assert_eq!(boot.breaker, None);
        let breaker = "[limit]\nrate_mbps = 1000\n[breaker]\nthreshold_mbps = 2001\n";
        assert_eq!(parse(breaker).unwrap().breaker.unwrap().interval_ns, 10_000_000_000);
        // Log send rate 300 lines/s, log level INFO.
        assert_eq!(boot.log.lines_per_second, Some(300));
        assert_eq!((boot.log, boot.log_level), (LogSettings::default(), LogLevel::Info));
        // Traffic filter empty, capture length whole frames, decapsulation none.
        assert_eq!(boot.ports[0].snaplen_bytes, None);
        assert!(boot.decap.is_off() && boot.ports[0].decap.is_off());
        // Flow-log rate 10,000/s.
        let parquet = "[flow.parquet]\nfolder = \"f\"\n";
        let output: ParquetOutput = parse(parquet).unwrap().flow.parquet.unwrap();
        // None: what the files have by themselves, which is that.
        assert_eq!((output.records_per_second, output.columns), (None, ColumnProfile::Full));
        // Inner extra header none, MTU of Ethernet, packets whole: of a destination.
        let policies = crate::spec::parse_policy(
            "p",
            "[[destination]]\nname = \"d\"\ntype = \"vxlan\"\nremote = \"192.0.2.1\"\n\
             [[policy]]\nname = \"p\"\nto = [\"d\"]\n",
        );
        let policies = policies.unwrap().value;
        assert!(!policies.destinations()[0].inner_vlan && policies.destinations()[0].mtu.is_none());
        assert_eq!(policies.policies()[0].payload, None);
    }
}
