//! Made-up machines, and what the doctor says of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use sluice_host::doctor::{Case, Finding, Level, examine, mend};
use sluice_host::{Machine, Tools};
use sluice_model::spec::{parse_boot, parse_policy};
use sluice_model::{BootConfig, PolicySet};

const CONFIG: &str = "/etc/sluice/sluiced.toml";
/// What the doctor asks `sluiced check`.
const PLAN: &str = "sh -c PATH=$PATH:/usr/sbin:/usr/local/sbin sluiced check --config \"$0\" 2>/dev/null || : \
    /etc/sluice/sluiced.toml";

#[derive(Default)]
struct Commands {
    answers: HashMap<&'static str, &'static str>,
    run: RefCell<Vec<String>>,
}

impl Tools for Commands {
    fn run(&self, command: &[&str]) -> Result<String, String> {
        let command = command.join(" ");
        self.run.borrow_mut().push(command.clone());
        self.answers.get(&*command).map(|answer| (*answer).to_owned()).ok_or_else(|| format!("{command}: no"))
    }
}

fn file(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

const ETHTOOL_K: &str = "Features for eth0:\ntcp-segmentation-offload: on\n\ttx-tcp-segmentation: on\n\
    generic-segmentation-offload: off\ngeneric-receive-offload: on\nlarge-receive-offload: off [fixed]\n\
    rx-gro-hw: on [fixed]\n";
const ETHTOOL_G: &str = "Ring parameters for eth0:\nPre-set maximums:\nRX:\t\t4096\nRX Mini:\tn/a\nTX:\t\t4096\n\
    Current hardware settings:\nRX:\t\t256\nTX:\t\t256\n";

/// A server of two sockets, well set up but for its interface.
fn server(root: &Path) -> Commands {
    file(root, "proc/self/status", "Name:\tsluice\nCapEff:\t000001ffffffffff\n");
    file(root, "proc/self/cgroup", "0::/system.slice/sluiced.service\n");
    file(root, "proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n");
    file(root, "sys/fs/cgroup/system.slice/sluiced.service/memory.max", "2147483648\n");
    file(root, "sys/fs/cgroup/system.slice/sluiced.service/cpu.max", "250000 100000\n");
    file(
        root,
        "proc/self/limits",
        "Max locked memory         8388608              8388608              bytes\n",
    );
    file(
        root,
        "proc/meminfo",
        "MemTotal: 65536000 kB\nMemAvailable:   32768000 kB\nHugePages_Total:     512\nHugePages_Free:      512\n\
         Hugepagesize:       2048 kB\n",
    );
    file(root, "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu tsc constant_tsc nonstop_tsc\n");
    file(root, "proc/sys/kernel/osrelease", "6.1.0-25-amd64\n");
    file(root, "sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
    file(root, "sys/devices/system/cpu/online", "0-7\n");
    file(root, "sys/devices/system/cpu/isolated", "2-3\n");
    for cpu in 0..8 {
        let folder = format!("sys/devices/system/cpu/cpu{cpu}");
        file(root, &format!("{folder}/cpufreq/scaling_governor"), "performance\n");
        file(
            root,
            &format!("{folder}/topology/thread_siblings_list"),
            &format!("{},{}\n", cpu % 4, cpu % 4 + 4),
        );
    }
    file(root, "sys/devices/system/node/node0/cpulist", "0,2,4,6\n");
    file(root, "sys/devices/system/node/node1/cpulist", "1,3,5,7\n");
    for (interface, state, carrier, node) in [("eth0", "up", "1", "0"), ("eth1", "up", "1", "-1")] {
        let folder = format!("sys/class/net/{interface}");
        file(root, &format!("{folder}/operstate"), state);
        file(root, &format!("{folder}/carrier"), carrier);
        file(root, &format!("{folder}/mtu"), "1500");
        file(root, &format!("{folder}/device/numa_node"), node);
        symlink("../../bus/pci/drivers/ice", root.join(&folder).join("device/driver")).unwrap();
    }
    let answers = [
        ("ethtool -i eth0", "driver: ice\nversion: 6.1\nfirmware-version: 4.40 0x8001c7d4\n"),
        ("ethtool -k eth0", ETHTOOL_K),
        ("ethtool -g eth0", ETHTOOL_G),
        ("timedatectl show -p NTPSynchronized --value", "yes\n"),
        (
            PLAN,
            "workers: 1 on CPUs [1]\nmemory: 190 MB for DPDK, in hugepages\nNOT OK: see the errors above\n",
        ),
        ("sluiced --version", "sluiced 0.1.0\n"),
        ("ovs-vsctl --version", "ovs-vsctl (Open vSwitch) 3.1.0\nDB Schema 8.3.1\n"),
    ];
    Commands { answers: answers.into(), ..Commands::default() }
}

fn boot(root: &Path, rest: &str) -> BootConfig {
    let folder = root.display();
    let text = format!(
        "policy = \"policy.toml\"\n[[port]]\nname = \"tap\"\nspec = \"af_packet:eth0\"\nrole = \"capture\"\n\
         [[port]]\nname = \"out\"\nspec = \"af_packet:eth1\"\nrole = \"output\"\naddresses = [\"192.0.2.1/24\"]\n\
         [store]\nfolder = \"{folder}/kept\"\n{rest}"
    );
    parse_boot("sluiced.toml", &text).unwrap_or_else(|errors| panic!("{errors}")).value
}

/// The usual case: a boot config in its usual place.
fn case<'a>(boot: &'a BootConfig, policies: Option<&'a PolicySet>) -> Case<'a> {
    Case { config: Some(Path::new(CONFIG)), boot: Some(boot), policies }
}

/// A daemon that runs with this boot config.
fn daemon(root: &Path, process: u32, config: &str, status: &str) {
    file(root, &format!("proc/{process}/comm"), "sluiced\n");
    file(root, &format!("proc/{process}/cmdline"), &format!("/usr/sbin/sluiced\0run\0--config\0{config}\0"));
    file(root, &format!("proc/{process}/status"), status);
}

fn policies(oversize: &str) -> PolicySet {
    let text = format!(
        "[[destination]]\nname = \"ids\"\ntype = \"vxlan\"\nremote = \"192.0.2.9\"\noversize = \"{oversize}\"\n\
         [[policy]]\nname = \"all\"\nto = [\"ids\"]\n"
    );
    parse_policy("policy.toml", &text).unwrap_or_else(|errors| panic!("{errors}")).value
}

/// What was found of a check: subject, level, text.
fn found<'f>(findings: &'f [Finding], check: &str) -> Vec<(&'f str, Level, &'f str)> {
    let of = findings.iter().filter(|finding| finding.check == check);
    of.map(|finding| (&*finding.subject, finding.level, &*finding.text)).collect()
}

fn command<'f>(findings: &'f [Finding], check: &str) -> Option<(&'f str, bool)> {
    let finding = findings.iter().find(|finding| finding.check == check && finding.level > Level::Ok)?;
    finding.remedy.as_ref().map(|remedy| (&*remedy.command, remedy.safe))
}

#[test]
fn a_server_is_looked_at() {
    let root = tempfile::tempdir().unwrap();
    let commands = server(root.path());
    let boot = boot(root.path(), "[worker]\nlcores = [2, 3, 6]\npolling = \"always\"\n");
    let policies = policies("truncate");
    let machine = Machine::new(root.path(), &commands);
    let findings = examine(&machine, &case(&boot, Some(&policies)));

    assert_eq!(found(&findings, "rights"), [("", Level::Ok, "this user may open ports")]);
    assert_eq!(
        found(&findings, "port"),
        [
            ("tap", Level::Ok, "eth0: driver ice, firmware 4.40 0x8001c7d4"),
            ("out", Level::Ok, "eth1: driver ice"),
        ]
    );
    // What is fixed cannot be switched off.
    assert_eq!(command(&findings, "offloads"), Some(("ethtool -K eth0 gro off tso off", true)));
    assert_eq!(command(&findings, "descriptors"), Some(("ethtool -G eth0 rx 4096", false)));
    assert_eq!(found(&findings, "isolation")[0].2, "the kernel runs other programs on CPUs 6, too");
    assert_eq!(found(&findings, "isolation")[0].1, Level::Warning);
    assert_eq!(found(&findings, "siblings")[0].2, "CPUs 2,6 are threads of one core");
    assert_eq!(found(&findings, "numa"), [("tap", Level::Warning, "at node 0; CPUs 3 of workers are not")]);
    assert_eq!(found(&findings, "governor"), [("", Level::Ok, "CPUs run at full speed")]);
    assert_eq!(
        found(&findings, "hugepages"),
        [("", Level::Ok, "512 of 512 are free; sluiced check plans with 190 needs 95")]
    );
    assert_eq!(
        found(&findings, "cgroup")[0].2,
        "the control group of this process allows 2048 MB of memory and 2.50 CPUs; the daemon plans with that"
    );
    // RFC 7348 and 768: 20 + 8 + 8 bytes before a frame of 14 + 4 + 1,500.
    let ids = found(&findings, "mtu")[0];
    assert_eq!(ids, ("ids", Level::Warning, "the largest copies have 1554 bytes, port out carries 1500"));
    // Copies are cut to what the port carries, and so much has to arrive.
    let unseen = findings.iter().rfind(|finding| finding.check == "mtu").unwrap();
    assert_eq!((&*unseen.subject, unseen.level), ("192.0.2.9", Level::Note));
    assert_eq!(unseen.remedy.as_ref().unwrap().command, "ping -M do -c 3 -s 1472 192.0.2.9");
    let mend = Some(("ip link set dev eth1 mtu 1554   # and on all switches on the way", false));
    assert_eq!(command(&findings, "mtu"), mend);
    assert!(found(&findings, "disk").iter().all(|(folder, ..)| folder.ends_with("/kept")));
    assert!(found(&findings, "clock").iter().all(|(_, level, _)| *level == Level::Ok));
    assert_eq!(found(&findings, "versions")[2].2, "ovs-vsctl (Open vSwitch) 3.1.0");
    assert!(found(&findings, "locked_memory").is_empty(), "no port needs it");
    let silent = findings.iter().filter(|finding| finding.level >= Level::Warning);
    assert!(silent.into_iter().all(|finding| !finding.cost.is_empty()), "{findings:?}");
}

#[test]
fn what_is_missing_is_told_with_what_mends_it() {
    let root = tempfile::tempdir().unwrap();
    let mut commands = server(root.path());
    file(root.path(), "proc/self/status", "CapEff:\t0000000000000000\n");
    file(root.path(), "proc/cpuinfo", "flags\t\t: fpu tsc\n");
    file(root.path(), "proc/sys/kernel/osrelease", "4.19.0-27-amd64\n");
    file(root.path(), "sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
    file(root.path(), "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n");
    file(
        root.path(),
        "proc/meminfo",
        "MemAvailable:   9000000 kB\nHugePages_Total:     100\nHugePages_Free:      40\nHugepagesize:       2048 kB\n",
    );
    fs::remove_dir_all(root.path().join("sys/class/net/eth0")).unwrap();
    file(root.path(), "sys/class/net/eth1/operstate", "down");
    fs::remove_file(root.path().join("sys/class/net/eth1/carrier")).unwrap();
    fs::create_dir_all(root.path().join("sys/bus/pci/devices/0000:01:00.0")).unwrap();
    symlink("../../drivers/ice", root.path().join("sys/bus/pci/devices/0000:01:00.0/driver")).unwrap();
    commands.answers.insert("timedatectl show -p NTPSynchronized --value", "no\n");
    let rest = "[eal]\nhugepages = \"require\"\nmemory_mb = 512\n[worker]\nlcores = [1, 9]\n\
        [[port]]\nname = \"nic\"\nspec = \"0000:01:00.0\"\nrole = \"capture\"\n\
        [[port]]\nname = \"file\"\nspec = \"pcap:/nowhere/there.pcap\"\nrole = \"capture\"\n";
    let boot = boot(root.path(), rest);
    let machine = Machine::new(root.path(), &commands);
    let findings = examine(&machine, &case(&boot, Some(&policies("segment"))));

    let rights: Vec<&str> = found(&findings, "rights").iter().map(|(name, ..)| *name).collect();
    assert_eq!(rights, ["CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_IPC_LOCK", "CAP_SYS_NICE"]);
    let ports: Vec<_> = found(&findings, "port").iter().map(|(name, level, _)| (*name, *level)).collect();
    let errors =
        [("tap", Level::Error), ("out", Level::Warning), ("nic", Level::Error), ("file", Level::Error)];
    assert_eq!(ports, errors);
    assert_eq!(found(&findings, "iommu")[0].1, Level::Error);
    assert_eq!(found(&findings, "locked_memory")[0].1, Level::Warning);
    assert_eq!(found(&findings, "rss")[0].1, Level::Note);
    let missing = ("", Level::Error, "the boot config names 9, which are not online");
    assert_eq!(found(&findings, "cpus")[0], missing);
    assert_eq!(found(&findings, "governor")[0].2, "CPUs 1 save power");
    assert_eq!(
        found(&findings, "hugepages")[0],
        ("", Level::Error, "40 of 100 are free; memory_mb = 512 needs 256")
    );
    // 60 are in use, 256 more are needed.
    assert_eq!(command(&findings, "hugepages"), Some(("sysctl -w vm.nr_hugepages=316", true)));
    assert_eq!(found(&findings, "mtu")[0].1, Level::Note, "as the operator wants it");
    let clock: Vec<_> = found(&findings, "clock").iter().map(|(name, level, _)| (*name, *level)).collect();
    let bent = [("tsc", Level::Warning), ("source", Level::Warning), ("synchronization", Level::Warning)];
    assert_eq!(clock, bent);
    assert_eq!(found(&findings, "versions")[0].1, Level::Warning);

    // Only what is safe is done, each once, and what went wrong is told.
    commands.run.borrow_mut().clear();
    let done = mend(&machine, &findings);
    let run: Vec<String> = commands.run.borrow().clone();
    let expected = [
        "sh -c ip link set dev eth1 up",
        "sh -c for cpu in 1; do echo performance > /sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_governor; done",
        "sh -c sysctl -w vm.nr_hugepages=316",
    ];
    assert_eq!(run, expected);
    assert!(done.iter().all(|(remedy, result)| remedy.safe && result.is_err()));
}

/// `/proc/meminfo` with so many hugepages, and so many of them free.
fn hugepages(root: &Path, total: u32, free: u32, available_kb: u32) {
    let text = format!(
        "MemAvailable: {available_kb} kB\nHugePages_Total: {total}\nHugePages_Free: {free}\nHugepagesize: 2048 kB\n"
    );
    file(root, "proc/meminfo", &text);
}

#[test]
fn little_memory_is_not_taken_for_hugepages_unasked() {
    let root = tempfile::tempdir().unwrap();
    let commands = server(root.path());
    let boot = boot(root.path(), "");
    hugepages(root.path(), 0, 0, 900_000);
    let findings = examine(&Machine::new(root.path(), &commands), &case(&boot, None));
    assert_eq!(found(&findings, "hugepages")[0].1, Level::Warning);
    assert_eq!(command(&findings, "hugepages"), Some(("sysctl -w vm.nr_hugepages=95", false)));
}

#[test]
fn hugepages_that_the_daemon_holds_are_not_missing() {
    let root = tempfile::tempdir().unwrap();
    let commands = server(root.path());
    let boot = boot(root.path(), "");
    let look = |config: Option<&Path>, boot: Option<&BootConfig>| {
        let case = Case { config, boot, policies: None };
        let findings = examine(&Machine::new(root.path(), &commands), &case);
        let (_, level, text) = found(&findings, "hugepages")[0];
        (level, text.to_owned(), command(&findings, "hugepages").map(|(text, safe)| (text.to_owned(), safe)))
    };
    let config = Some(Path::new(CONFIG));
    // Sized by what `sluiced check` says, and all in use.
    hugepages(root.path(), 95, 0, 32_000_000);
    daemon(root.path(), 7, CONFIG, "HugetlbPages:\t  194560 kB\n");
    let text = "0 of 95 are free, sluiced (process 7) holds 95";
    let known = format!("{text}; sluiced check plans with 190 needs 95");
    assert_eq!(look(config, Some(&boot)), (Level::Ok, known, None));
    assert_eq!(look(None, None), (Level::Ok, text.to_owned(), None));
    // Another daemon's are not for this one.
    daemon(root.path(), 7, "/elsewhere/sluiced.toml", "HugetlbPages:\t  194560 kB\n");
    let (level, _, remedy) = look(config, Some(&boot));
    assert_eq!((level, remedy), (Level::Warning, Some(("sysctl -w vm.nr_hugepages=190".to_owned(), true))));
    // It was started before there were any.
    hugepages(root.path(), 100, 100, 32_000_000);
    daemon(root.path(), 7, CONFIG, "HugetlbPages:\t       0 kB\n");
    let (level, text, remedy) = look(config, Some(&boot));
    assert!(level == Level::Note && text.ends_with("a restart of the daemon takes them"), "{text}");
    assert_eq!(remedy.unwrap().0, "systemctl restart sluiced");
}

#[test]
fn hugepages_are_enough_when_the_plan_says_so() {
    let root = tempfile::tempdir().unwrap();
    let mut commands = server(root.path());
    let boot = boot(root.path(), "");
    hugepages(root.path(), 94, 94, 32_000_000);
    let findings = examine(&Machine::new(root.path(), &commands), &case(&boot, None));
    let text = "94 of 94 are free; sluiced check plans with 190 needs 95";
    assert_eq!(found(&findings, "hugepages")[0], ("", Level::Warning, text));
    assert_eq!(command(&findings, "hugepages"), Some(("sysctl -w vm.nr_hugepages=95", true)));
    // Without a plan it is not said that they are as they should be, and none are taken on a guess.
    commands.answers.remove(PLAN);
    for (free, level) in [(94, Level::Note), (0, Level::Warning)] {
        hugepages(root.path(), 94, free, 32_000_000);
        let findings = examine(&Machine::new(root.path(), &commands), &case(&boot, None));
        assert_eq!(found(&findings, "hugepages")[0].1, level);
        let (remedy, safe) = command(&findings, "hugepages").unwrap();
        assert!(remedy.starts_with("sluiced check --config FILE") && !safe, "{remedy}");
    }
}

#[test]
fn disks_are_held_against_what_the_boot_config_keeps_free() {
    let root = tempfile::tempdir().unwrap();
    let commands = server(root.path());
    fs::create_dir_all(root.path().join("records")).unwrap();
    let look = |rest: &str| {
        let folders = "[api]\npcap_folder = \"/captures\"\n[flow]\n[flow.parquet]\nfolder = \"/records\"\n";
        let boot = boot(root.path(), &format!("{folders}{rest}"));
        let findings = examine(&Machine::new(root.path(), &commands), &case(&boot, None));
        let of = |folder: &str| {
            let found = found(&findings, "disk");
            let (_, level, text) = found.into_iter().find(|(subject, ..)| *subject == folder).unwrap();
            (level, text.to_owned())
        };
        (of("/captures"), of("/records"))
    };
    let (captures, records) = look("reserve_mb = 16777216\n[protection]\nfree_disk_mb = 0\n");
    assert!(captures.0 < Level::Error && !captures.1.contains("free_disk_mb"), "{captures:?}");
    assert!(records.0 == Level::Error && records.1.contains("reserve_mb = 16777216"), "{records:?}");
    let (captures, records) = look("reserve_mb = 0\n[protection]\nfree_disk_mb = 1000000000\n");
    for (level, text) in [captures, records] {
        assert!(level == Level::Warning && text.contains("less than free_disk_mb = 1000000000"), "{text}");
    }
}

#[test]
fn the_way_to_an_iommu_is_that_of_the_cpu() {
    let root = tempfile::tempdir().unwrap();
    let commands = server(root.path());
    fs::create_dir_all(root.path().join("sys/bus/pci/devices/0000:01:00.0")).unwrap();
    let nic = "[[port]]\nname = \"nic\"\nspec = \"0000:01:00.0\"\nrole = \"capture\"\n";
    let boot = boot(root.path(), nic);
    for (vendor, first, option) in [
        ("vendor_id\t: GenuineIntel", "VT-d", Some("intel_iommu=on iommu=pt ")),
        ("vendor_id\t: AuthenticAMD", "AMD-Vi", Some("&iommu=pt ")),
        ("CPU implementer\t: 0x41", "SMMU", None),
    ] {
        file(root.path(), "proc/cpuinfo", &format!("processor\t: 0\n{vendor}\n"));
        let findings = examine(&Machine::new(root.path(), &commands), &case(&boot, None));
        let (_, level, text) = found(&findings, "iommu")[0];
        assert!(level == Level::Error && text.contains(first), "{text}");
        let (command, safe) = command(&findings, "iommu").unwrap();
        assert!(!safe && option.is_none_or(|option| command.contains(option)), "{command}");
        assert_eq!(command.contains("intel_iommu"), first == "VT-d");
    }
}

#[test]
fn nics_for_dpdk_are_asked_for_what_can_be_known() {
    let root = tempfile::tempdir().unwrap();
    let mut commands = server(root.path());
    let folder = "sys/bus/pci/devices/0000:01:00.0";
    file(root.path(), &format!("{folder}/vendor"), "0x15b3\n");
    file(root.path(), &format!("{folder}/device"), "0x1017\n");
    file(root.path(), &format!("{folder}/net/ens1/mtu"), "1500\n");
    symlink("../../drivers/mlx5_core", root.path().join(folder).join("driver")).unwrap();
    commands.answers.insert("ethtool -i ens1", "driver: mlx5_core\nfirmware-version: 16.35.2000\n");
    let nic = "[[port]]\nname = \"nic\"\nspec = \"0000:01:00.0\"\nrole = \"capture\"\n";
    let look = |rest: &str| {
        let boot = boot(root.path(), &format!("{rest}{nic}"));
        examine(&Machine::new(root.path(), &commands), &case(&boot, None))
    };
    let findings = look("");
    let text = "0000:01:00.0 (15b3:1017) is shared with the kernel's mlx5_core, firmware 16.35.2000";
    assert_eq!(found(&findings, "port")[2], ("nic", Level::Ok, text));
    // Without lcores the daemon takes seven of these eight CPUs.
    assert_eq!(found(&findings, "rss")[0].1, Level::Note);
    assert!(found(&look("[worker]\nlcores = [1]\n"), "rss").is_empty());
    file(root.path(), "sys/devices/system/cpu/online", "0-2\n");
    assert!(found(&look(""), "rss").is_empty(), "one worker");

    fs::remove_file(root.path().join(folder).join("driver")).unwrap();
    symlink("../../drivers/vfio-pci", root.path().join(folder).join("driver")).unwrap();
    let findings = look("");
    assert_eq!(found(&findings, "firmware")[0].1, Level::Note);
    let (command, safe) = command(&findings, "firmware").unwrap();
    assert!(
        !safe && command.ends_with("ethtool -i \"$(ls /sys/bus/pci/devices/0000:01:00.0/net)\""),
        "{command}"
    );
}

#[test]
fn limits_of_all_control_groups_above_count() {
    let root = tempfile::tempdir().unwrap();
    let commands = server(root.path());
    let boot = boot(root.path(), "");
    let look = || {
        let findings = examine(&Machine::new(root.path(), &commands), &case(&boot, None));
        found(&findings, "cgroup")[0].2.to_owned()
    };
    file(root.path(), "sys/fs/cgroup/system.slice/memory.max", "1073741824\n");
    file(root.path(), "sys/fs/cgroup/system.slice/cpu.max", "max 100000\n");
    let text = "the control group of this process allows 1024 MB of memory and 2.50 CPUs; the daemon plans with that";
    assert_eq!(look(), text);
    // The daemon's count, not those of a login.
    daemon(root.path(), 7, CONFIG, "CapEff:\t0\n");
    file(root.path(), "proc/7/cgroup", "0::/system.slice\n");
    let text =
        "the control group of sluiced (process 7) allows 1024 MB of memory; the daemon plans with that";
    assert_eq!(look(), text);
    // In a container the path is the host's.
    file(root.path(), "proc/7/cgroup", "0::/docker/4f2a\n");
    file(root.path(), "sys/fs/cgroup/memory.max", "134217728\n");
    assert!(look().contains("allows 128 MB of memory;"), "{}", look());
    // Version 1.
    file(root.path(), "proc/self/mounts", "c /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n");
    file(root.path(), "proc/7/cgroup", "4:cpu,cpuacct:/a/b\n5:memory:/\n0::/\n");
    file(root.path(), "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "-1\n");
    file(root.path(), "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "50000\n");
    file(root.path(), "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
    assert!(look().contains("allows 0.50 CPUs;"), "{}", look());
}

#[test]
fn rights_are_those_of_the_daemon() {
    let root = tempfile::tempdir().unwrap();
    let mut commands = server(root.path());
    file(root.path(), "proc/self/status", "CapEff:\t0000000000000000\n");
    fs::create_dir_all(root.path().join("sys/bus/pci/devices/0000:01:00.0")).unwrap();
    let nic = "[[port]]\nname = \"nic\"\nspec = \"0000:01:00.0\"\nrole = \"capture\"\n";
    let boot = boot(root.path(), nic);
    let look = |commands: &Commands| {
        let findings = examine(&Machine::new(root.path(), commands), &case(&boot, None));
        let rights = found(&findings, "rights");
        let rights: Vec<_> = rights.iter().map(|(name, level, _)| ((*name).to_owned(), *level)).collect();
        (rights, found(&findings, "locked_memory").len())
    };
    let lacks = |name: &str| (name.to_owned(), Level::Error);
    let nice = ("CAP_SYS_NICE".to_owned(), Level::Note);
    let all = [lacks("CAP_NET_RAW"), lacks("CAP_NET_ADMIN"), lacks("CAP_IPC_LOCK"), nice.clone()];
    assert_eq!(look(&commands), (all.to_vec(), 1), "who asks would run it");
    let getcap = "sh -c PATH=$PATH:/usr/sbin:/sbin getcap \"$(command -v sluiced)\"";
    commands.answers.insert(getcap, "/usr/sbin/sluiced cap_net_admin,cap_ipc_lock,cap_net_raw=ep\n");
    assert_eq!(look(&commands), (vec![nice.clone()], 1), "the file brings them");
    commands.answers.remove(getcap);

    // As the package has it, then as its example for vfio has it.
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/systemd/");
    let unit = |name: &str| fs::read_to_string(format!("{unit}{name}")).unwrap();
    file(root.path(), "usr/lib/systemd/system/sluiced.service", &unit("sluiced.service"));
    assert_eq!(look(&commands), (vec![nice.clone()], 0));
    let drop_in = "etc/systemd/system/sluiced.service.d/vfio.conf";
    file(root.path(), drop_in, &unit("vfio.conf"));
    assert_eq!(look(&commands), (vec![nice.clone()], 0));
    file(root.path(), drop_in, "[Service]\nCapabilityBoundingSet=\nCapabilityBoundingSet=CAP_NET_RAW\n");
    assert_eq!(look(&commands).0, [lacks("CAP_NET_ADMIN"), lacks("CAP_IPC_LOCK"), nice.clone()]);

    // Whatever the unit says, one that runs has what it has.
    daemon(root.path(), 7, CONFIG, "CapEff:\t0000000000007000\n");
    file(
        root.path(),
        "proc/7/limits",
        "Max locked memory         unlimited            unlimited            bytes\n",
    );
    assert_eq!(look(&commands), (vec![nice], 0));
}

#[test]
fn a_switch_sends_packets_up_to_its_own_mtu() {
    let root = tempfile::tempdir().unwrap();
    let commands = server(root.path());
    file(root.path(), "sys/class/net/eth1/mtu", "9054");
    let switch = "[[port]]\nname = \"ovs\"\nspec = \"vhost:/run/m.sock\"\nrole = \"capture\"\n";
    for (mtu, told) in [
        ("", (Level::Ok, "port out carries 9054 bytes, the largest copies have 9054")),
        ("mtu = 9216\n", (Level::Warning, "the largest copies have 9270 bytes, port out carries 9054")),
    ] {
        let boot = boot(root.path(), &format!("{switch}{mtu}"));
        let findings =
            examine(&Machine::new(root.path(), &commands), &case(&boot, Some(&policies("truncate"))));
        let [ids, (_, level, _)] = found(&findings, "mtu")[..] else { panic!("{findings:?}") };
        assert_eq!((ids.1, ids.2, level), (told.0, told.1, Level::Note));
        let last = findings.iter().rfind(|finding| finding.check == "mtu").unwrap();
        assert_eq!(last.remedy.as_ref().unwrap().command, "ping -M do -c 3 -s 9026 192.0.2.9");
    }
}

#[test]
fn a_machine_that_tells_nothing_is_no_reason_to_fail() {
    let root = tempfile::tempdir().unwrap();
    let boot = boot(root.path(), "");
    let commands = Commands::default();
    let machine = Machine::new(root.path(), &commands);
    for boot in [None, Some(&boot)] {
        let findings =
            examine(&machine, &Case { boot, policies: Some(&policies("drop")), ..Case::default() });
        assert!(findings.len() > 5);
    }
    // And whatever its files say.
    for text in ["", "\0\u{fffd}", "99999999999999999999", "-1", "a:b:c\n0::/../../..\n", "max 0"] {
        for path in ["proc/self/status", "proc/self/cgroup", "proc/meminfo", "sys/devices/system/cpu/online"]
        {
            file(root.path(), path, text);
        }
        drop(examine(&machine, &case(&boot, None)));
    }
}
