//! Does the Debian package do on a fresh Debian 12 what it shall: install, start, copy, upgrade with policies in force, go?
//!
//! The root is made by debootstrap; `scripts/package.sh` makes the package before.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sluice_tests::netns::{Lab, run, wait_for};
use sluice_tests::tap::{TOOL, Tap};

/// What the unit gives the daemon.
const CAPABILITIES: &str = "-all,+net_admin,+net_raw,+ipc_lock";

const PORTS: &str = sluice_tests::tap::PORTS;

fn policy(vni: u32) -> String {
    format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{}\"\n\
         [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\ntag = {vni}\nto = [\"tool\"]\n",
        TOOL[0]
    )
}

/// The package, or why there is none; a failure with `CI=true`.
fn package() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/package");
    let files = fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let found = files.filter(|path| path.extension().is_some_and(|end| end == "deb")).max();
    let tools = Command::new("debootstrap").arg("--version").output().is_ok();
    if let Some(found) = found.filter(|_| tools) {
        return Some(found);
    }
    let why = "needs debootstrap and a package (scripts/package.sh makes it)";
    assert!(!env::var("CI").is_ok_and(|ci| ci == "true"), "{why}");
    sluice_tests::left_out(why);
    None
}

/// A Debian 12 of its own.
struct Root {
    path: PathBuf,
}

impl Root {
    fn new(path: PathBuf) -> Self {
        let made = Command::new("debootstrap").args(["--variant=minbase", "bookworm"]).arg(&path).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        // What is mounted is unmounted from here on, whatever happens.
        let root = Self { path };
        let path = &root.path;
        for (kind, folder) in [("proc", "proc"), ("sysfs", "sys"), ("tmpfs", "dev"), ("tmpfs", "run")] {
            run(&format!("mount -t {kind} sluice-test {}", path.join(folder).display()));
        }
        // Not the kernel's own, which are the machine's.
        for (device, number) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
            run(&format!("mknod -m 666 {} c 1 {number}", path.join("dev").join(device).display()));
        }
        // No init runs here: packages must not start anything.
        fs::write(path.join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n").unwrap();
        run(&format!("chmod 755 {}", path.join("usr/sbin/policy-rc.d").display()));
        fs::copy("/etc/resolv.conf", path.join("etc/resolv.conf")).unwrap();
        root
    }

    /// A program inside.
    fn output(&self, line: &str) -> Output {
        let mut words = line.split(' ');
        let mut command = Command::new("chroot");
        command.arg(&self.path).args(&mut words).stdin(Stdio::null());
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").output().unwrap()
    }

    /// The same; it must succeed.
    fn run(&self, line: &str) -> String {
        let output = self.output(line);
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(output.status.success(), "{line}: {stdout}{stderr}");
        stdout.into_owned()
    }

    /// All files and folders but those of the kernel, of packages and their tools.
    fn files(&self) -> BTreeSet<String> {
        let found = self.run(
            "find / -xdev ( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/lib/dpkg \
             -o -path /var/cache -o -path /var/log -o -path /var/lib/apt -o -name *.cache ) -prune -o -print",
        );
        found.lines().map(str::to_owned).collect()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for folder in ["run", "dev", "sys", "proc"] {
            drop(Command::new("umount").arg("-l").arg(self.path.join(folder)).status());
        }
    }
}

/// The daemon, started as its unit does, with somebody in the place of systemd.
struct Service<'l> {
    root: &'l Root,
    child: Child,
    socket: UnixDatagram,
}

impl<'l> Service<'l> {
    fn start(root: &'l Root, tap: &Tap) -> Self {
        let notify = root.path.join("run/notify");
        drop(fs::remove_file(&notify));
        let socket = UnixDatagram::bind(&notify).unwrap();
        // As long as systemd waits: all memory is taken at the start, and a busy machine has to find it.
        socket.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        run(&format!("chmod 777 {}", notify.display()));
        root.run("install -d -o sluice -g sluice -m 0750 /run/sluice");
        let mut command = tap.broker.command("chroot");
        command.arg(&root.path).args(["setpriv", "--reuid=sluice", "--regid=sluice", "--init-groups"]);
        for set in ["inh-caps", "ambient-caps", "bounding-set"] {
            command.arg(format!("--{set}={CAPABILITIES}"));
        }
        command.args(["--no-new-privs", "/usr/sbin/sluiced", "run", "--config", "/etc/sluice/sluiced.toml"]);
        command.env("NOTIFY_SOCKET", "/run/notify").env_remove("RUST_LOG");
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let service = Self { root, child, socket };
        assert!(service.told("READY=1"), "it is not ready");
        service
    }

    /// Whether systemd is told this, sooner or later.
    fn told(&self, wanted: &str) -> bool {
        let mut message = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut message) {
            if String::from_utf8_lossy(&message[..length]).lines().any(|line| line == wanted) {
                return true;
            }
        }
        false
    }

    /// As `systemctl stop` does.
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.told("STOPPING=1"));
        let status = wait_for("the end", Duration::from_secs(20), || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        assert!(!self.root.path.join("run/sluice/sluiced.sock").exists());
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}

/// What `sluice doctor` finds beside the daemon, whose interfaces only a `/sys` of its namespace has; and whether the
/// machine is fit.
fn doctor(root: &Root, tap: &Tap, options: &str) -> (Vec<Value>, bool) {
    const LINE: &str = "mount -t sysfs sluice-test \"$0/sys\" && exec chroot \"$0\" sluice doctor --json $1";
    let mut command = tap.broker.command("unshare");
    command.args(["-m", "sh", "-c", LINE]).arg(&root.path).arg(options);
    let output = command.env_remove("SLUICE_SERVER").output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (told["findings"].as_array().unwrap().clone(), output.status.success())
}

/// Subjects, levels and texts of a check.
fn of<'f>(findings: &'f [Value], check: &str) -> Vec<(&'f str, &'f str, &'f str)> {
    let of = findings.iter().filter(|finding| finding["check"] == check);
    of.map(|finding| {
        let text = |field: &str| finding[field].as_str().unwrap();
        (text("subject"), text("level"), text("text"))
    })
    .collect()
}

/// The same without texts.
fn levels<'f>(findings: &'f [Value], check: &str) -> Vec<(&'f str, &'f str)> {
    of(findings, check).into_iter().map(|(subject, level, _)| (subject, level)).collect()
}

/// What doctor has to find while the daemon runs, with a policy in force that no file has.
fn look_with_doctor(root: &Root, tap: &Tap, config: &Path) {
    let (findings, fit) = doctor(root, tap, "");
    let errors: Vec<_> = findings.iter().filter(|finding| finding["level"] == "error").collect();
    assert!(fit && errors.is_empty(), "{errors:?}");
    assert_eq!(levels(&findings, "config"), []);
    assert_eq!(levels(&findings, "port"), [("tap0", "ok"), ("out0", "ok")]);
    assert_eq!(levels(&findings, "rights"), [("CAP_SYS_NICE", "note")]);
    let policies = of(&findings, "policies");
    assert!(policies[0].1 == "ok" && policies[0].2.starts_with("those in force"), "{policies:?}");
    // 1,500 bytes with a VLAN tag and an Ethernet header, and VXLAN, UDP and IPv4, on a link of 1,600.
    assert_eq!(levels(&findings, "mtu"), [("tool", "ok"), (TOOL[0], "note")]);
    let way = findings.iter().find(|finding| finding["subject"] == TOOL[0]).unwrap();
    assert_eq!(way["remedy"]["command"], format!("ping -M do -c 3 -s {} {}", 1554 - 28, TOOL[0]));
    assert_eq!(of(&findings, "hugepages"), [("", "ok", "the boot config wants none")]);
    let folders: Vec<_> = levels(&findings, "disk").into_iter().map(|(folder, _)| folder).collect();
    assert_eq!(folders, ["pcap", "records", "store"].map(|name| format!("/var/lib/sluice/{name}")));
    assert!(levels(&findings, "versions").contains(&("sluiced", "ok")));

    // How many hugepages are needed, sluiced alone knows.
    let auto = fs::read_to_string(config).unwrap().replace("hugepages = \"never\"", "hugepages = \"auto\"");
    fs::write(root.path.join("root/auto.toml"), auto).unwrap();
    let (findings, _) = doctor(root, tap, "--config=/root/auto.toml");
    let plan = root.run("/usr/sbin/sluiced check --config /root/auto.toml");
    let plan = plan.lines().find_map(|line| line.strip_prefix("memory: ")?.split_once(" MB for DPDK"));
    let (mb, _) = plan.unwrap();
    let hugepages = of(&findings, "hugepages");
    assert!(hugepages[0].2.contains(&format!("sluiced check plans with {mb} needs ")), "{hugepages:?}");
}

#[test]
fn the_package_installs_runs_upgrades_and_goes() {
    let Some(package) = package() else { return };
    let Some(mut lab) = Lab::new("package") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    for vni in [7, 8] {
        tap.vxlan(vni, TOOL[0]);
    }
    let root = Root::new(lab.dir().join("root"));
    root.run("apt-get update -qq");
    root.run("apt-get install -y -qq --no-install-recommends systemd");
    let before = root.files();

    // As it comes, the daemon says what it lacks; with ports named it starts, without being root.
    fs::copy(&package, root.path.join("sluice.deb")).unwrap();
    root.run("apt-get install -y -qq ./sluice.deb");
    for unit in ["sluiced.service", "sluice-hugepages.service"] {
        let verified =
            root.output(&format!("systemd-analyze verify --man=no /usr/lib/systemd/system/{unit}"));
        let told = String::from_utf8_lossy(&verified.stderr);
        let own: Vec<_> = told.lines().filter(|line| line.contains("sluice")).collect();
        assert!(own.is_empty(), "{own:?}");
    }
    for (program, section, command) in [("sluiced", 8, "replay"), ("sluice", 1, "rollback")] {
        let man = format!("/usr/share/man/man{section}/{program}");
        let page = root.run(&format!("zcat {man}.{section}.gz"));
        assert!(page.contains(&format!(".TH {program} {section}")), "{page}");
        root.run(&format!("test -s {man}-{command}.{section}.gz"));
        for file in [
            format!("bash-completion/completions/{program}"),
            format!("zsh/vendor-completions/_{program}"),
            format!("fish/vendor_completions.d/{program}.fish"),
        ] {
            assert!(root.run(&format!("cat /usr/share/{file}")).contains(command), "{file}");
        }
    }
    // What is in the binaries is told, and under which terms.
    for binary in ["sluiced", "sluice"] {
        let file = format!("/usr/share/doc/sluice/licences/{binary}");
        let bill: Value = serde_json::from_str(&root.run(&format!("cat {file}.spdx.json"))).unwrap();
        let terms = root.run(&format!("zcat {file}.txt.gz"));
        let foreign = ["proptest", "windows-sys"];
        let listed = |name: &str| bill["packages"].as_array().unwrap().iter().any(|own| own["name"] == name);
        assert!(!foreign.iter().any(|name| listed(name)), "{binary}: what is not in it");
        for name in [binary, "clap", "tokio"] {
            assert!(listed(name) && terms.contains(&format!("\n  {name} ")), "{binary}: {name}");
        }
    }
    let terms = root.run("zcat /usr/share/doc/sluice/licences/sluiced.txt.gz");
    assert!(terms.contains("Notice of arrow-array") && terms.contains("The Apache Software Foundation"));
    root.run("test -s /usr/share/doc/sluice/licences/rust-standard-library.html");
    let check = "/usr/sbin/sluiced check --config /etc/sluice/sluiced.toml";
    let bare = root.output(check);
    assert!(String::from_utf8_lossy(&bare.stderr).contains("no port captures"), "{bare:?}");
    // Doctor says so, too; rights are those that the unit gives, which leave out one that is not needed.
    let (findings, fit) = doctor(&root, &tap, "");
    let told = of(&findings, "config");
    assert!(!fit && told.len() == 1 && told[0].1 == "error", "{told:?}");
    assert!(told[0].2.contains("no port captures"), "{told:?}");
    assert_eq!(levels(&findings, "rights"), [("CAP_SYS_NICE", "note")]);
    let config = root.path.join("etc/sluice/sluiced.toml");
    let text = fs::read_to_string(&config).unwrap();
    // What is commented out in the files is what works.
    let examples = text
        .replace("# [flow]", "[flow]\nflows = 65536")
        .replace("# [flow", "[flow")
        .replace("# folder", "folder");
    fs::write(&config, format!("{examples}\n[memory]\nmbufs = 8191\n[eal]\nhugepages = \"never\"\n{PORTS}"))
        .unwrap();
    root.run(check);
    let service = Service::start(&root, &tap);

    // A policy is pushed, traffic is seen.
    fs::write(root.path.join("root/policy.toml"), policy(7)).unwrap();
    root.run("sluice apply -f /root/policy.toml --comment first");
    let copies = |vni: u32| tap.tool.counters(&format!("vx{vni}")).rx_packets;
    let flood = |vni: u32| {
        let before = copies(vni);
        tap.flood(100, 100);
        wait_for("the copies", Duration::from_secs(5), || (copies(vni) >= before + 100).then_some(()));
    };
    wait_for("the tool to be known", Duration::from_secs(10), || {
        root.run("sluice ports --json").contains("\"resolved\"").then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    flood(7);
    assert!(root.run("sluice status").contains("running"));
    look_with_doctor(&root, &tap, &config);

    // The next version comes while it runs; what was applied is in force when it starts anew.
    let next = lab.dir().join("next");
    run(&format!("dpkg-deb -R {} {}", package.display(), next.display()));
    let control = fs::read_to_string(next.join("DEBIAN/control")).unwrap();
    let control: Vec<_> = control
        .lines()
        .map(|line| if line.starts_with("Version:") { "Version: 999.0.0-1" } else { line })
        .collect();
    fs::write(next.join("DEBIAN/control"), control.join("\n") + "\n").unwrap();
    run(&format!("dpkg-deb -Zgzip -z1 -b {} {}", next.display(), root.path.join("next.deb").display()));
    root.run("apt-get install -y -qq ./next.deb");
    assert!(root.run("dpkg-query -W sluice").contains("999.0.0-1"));
    flood(7);
    service.stop();
    let service = Service::start(&root, &tap);
    wait_for("the policies", Duration::from_secs(5), || {
        root.run("sluice policy list").contains("udp").then_some(())
    });
    assert!(root.run("sluice history").contains("first"));
    std::thread::sleep(Duration::from_secs(1));
    flood(7);
    fs::write(root.path.join("root/policy.toml"), policy(8)).unwrap();
    root.run("sluice apply -f /root/policy.toml");
    std::thread::sleep(Duration::from_millis(300));
    flood(8);
    service.stop();
    let records = root.run("find /var/lib/sluice/records -name *.parquet");
    assert!(!records.is_empty());

    // Removed, it leaves config and data; purged, nothing.
    let brought = root.run("dpkg -L sluice");
    root.run("apt-get remove -y -qq sluice");
    let left = root.files();
    let is_own = |path: &String| {
        ["/etc/sluice", "/etc/default/sluice", "/var/lib/sluice"].iter().any(|own| path.starts_with(own))
    };
    let is_file = |path: &&str| root.path.join(path.trim_start_matches('/')).is_file();
    let stays: Vec<_> = brought.lines().filter(|path| !is_own(&(*path).to_owned())).filter(is_file).collect();
    assert!(stays.is_empty(), "{stays:?}");
    let named = |path: &&String| path.contains("sluice") && path.as_str() != "/sluice.deb" && !is_own(path);
    let others: Vec<_> = left.iter().filter(named).filter(|path| !before.contains(*path)).collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(left.iter().any(|path| path == "/etc/sluice/sluiced.toml"), "{left:?}");
    root.run("apt-get purge -y -qq sluice");
    let left: Vec<_> = root.files().into_iter().filter(is_own).collect();
    assert!(left.is_empty(), "{left:?}");
}
