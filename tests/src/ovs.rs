//! A real OVS-DPDK of a test's own: its database and its switch, in a namespace and a folder, started, killed and looked
//! at; the service of the package is not touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::netns::{Lab, Namespace, wait_for};

/// The switch of Debian's openvswitch-switch-dpdk.
const SWITCH: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const FREE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
/// Hugepages of 2 MB that OVS takes its memory from: a pool of its own for a port of
/// 9,000 bytes is 100 of them. Without `per-port-memory` OVS would try larger ones first, for as many seconds..
const WANTED: u64 = 160;
/// Columns that ovs-vswitchd writes, by table: they tell of the moment, not of the configuration.
const VOLATILE: [(&str, &[&str]); 5] = [
    (
        "Open_vSwitch",
        &[
            "cur_cfg",
            "statistics",
            "datapaths",
            "datapath_types",
            "dpdk_initialized",
            "dpdk_version",
            "iface_types",
            "db_version",
            "ovs_version",
        ],
    ),
    ("Bridge", &["datapath_id", "datapath_version", "rstp_status", "status"]),
    ("Port", &["bond_active_slave", "rstp_statistics", "rstp_status", "statistics", "status"]),
    (
        "Interface",
        &[
            "admin_state",
            "bfd_status",
            "duplex",
            "error",
            "ifindex",
            "link_resets",
            "link_speed",
            "link_state",
            "mac_in_use",
            "mtu",
            "ofport",
            "statistics",
            "status",
        ],
    ),
    ("Mirror", &["statistics"]),
];

/// Another number of hugepages of the machine, until this is dropped.
#[derive(Debug)]
pub struct Pages {
    before: u64,
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl Pages {
    /// Reserves what is wanted beside what is in use; `None` = the machine has no such memory in one piece.
    fn reserve() -> Option<Self> {
        let before = number(PAGES)?;
        let free = || number(FREE_PAGES);
        let pages = Self { before };
        for _ in 0..5 {
            let free = free()?;
            if free >= WANTED {
                return Some(pages);
            }
            std::fs::write(PAGES, (number(PAGES)? + WANTED - free).to_string()).ok()?;
        }
        (free()? >= WANTED).then_some(pages)
    }

    /// Leaves none free.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn exhaust() -> Self {
        let before = number(PAGES).expect("hugepages");
        let free = number(FREE_PAGES).expect("hugepages");
        std::fs::write(PAGES, (before - free).to_string()).expect("hugepages");
        Self { before }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // Memory in one piece may take the kernel a while to find again.
        for _ in 0..20 {
            drop(std::fs::write(PAGES, self.before.to_string()));
            if number(PAGES) == Some(self.before) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("{:?} of {} hugepages are back", number(PAGES), self.before);
    }
}

/// A running database and switch; both are ended, and the hugepages given back, when this is dropped.
#[derive(Debug)]
pub struct Ovs {
    // Dropped in this order: the switch, its database, its memory.
    switch: Option<Running>,
    database: Database,
    _pages: Pages,
    namespace: Namespace,
    dir: PathBuf,
}

/// A running ovsdb-server with the database of a switch, which need not run; ended when this is dropped.
#[derive(Debug)]
pub struct Database {
    server: Option<Running>,
    dir: PathBuf,
}

impl Database {
    /// Makes a database in a folder of the lab, and starts the server. Where that is not installed, it says so and gives
    /// `None`; with `CI=true` it panics instead.
    pub fn start(lab: &Lab) -> Option<Self> {
        if !Path::new(SCHEMA).is_file() {
            return missing("install openvswitch-switch-dpdk");
        }
        let dir = lab.dir().join("ovs");
        std::fs::create_dir(&dir).unwrap();
        let created = Command::new("ovsdb-tool").arg("create").arg(dir.join("conf.db")).arg(SCHEMA).status();
        assert!(created.unwrap().success());
        let mut database = Self { server: None, dir };
        database.revive();
        database.configure("init");
        Some(database)
    }

    /// How `--db` names it.
    #[must_use]
    pub fn db(&self) -> String {
        format!("unix:{}", self.dir.join("db.sock").display())
    }

    /// Kills the server, without a word.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Starts the server, with what is in the database.
    pub fn revive(&mut self) {
        let socket = self.dir.join("db.sock");
        drop(std::fs::remove_file(&socket));
        let mut server = Command::new("ovsdb-server");
        server.arg(self.dir.join("conf.db")).arg(format!("--remote=punix:{}", socket.display()));
        server.arg(format!("--unixctl={}", self.dir.join("db.ctl").display()));
        self.server = Some(background(&mut server, &self.dir, "database"));
        wait_for("the database", Duration::from_secs(10), || socket.exists().then_some(()));
    }

    /// `ovs-vsctl` with these words, split at blanks; does not wait for the switch.
    pub fn configure(&self, line: &str) -> String {
        let words: Vec<_> = std::iter::once("--no-wait").chain(line.split_whitespace()).collect();
        self.vsctl(&words)
    }

    /// `ovs-vsctl` with these arguments; it must succeed. Gives what it prints.
    pub fn vsctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("ovs-vsctl");
        command.arg(format!("--db={}", self.db())).arg("--timeout=20").args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

fn missing<T>(what: &str) -> Option<T> {
    let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!ci, "OVS-DPDK: {what}");
    crate::left_out(format_args!("OVS-DPDK: {what}"));
    None
}

/// A process that is killed when dropped.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Ovs {
    /// Starts them, the switch inside `namespace`, with nothing configured but DPDK. Where they are not installed, or
    /// there is too little memory, it says so and gives `None`; with `CI=true` it panics instead.
    pub fn start(lab: &Lab, namespace: &Namespace) -> Option<Self> {
        if !Path::new(SWITCH).is_file() || !Path::new(SCHEMA).is_file() {
            return missing("install openvswitch-switch-dpdk");
        }
        let Some(pages) = Pages::reserve() else {
            return missing(&format!("no {WANTED} hugepages of 2 MB can be had"));
        };
        let database = Database::start(lab)?;
        let dir = database.dir.clone();
        let mut ovs = Self { switch: None, database, _pages: pages, namespace: namespace.clone(), dir };
        let last = std::thread::available_parallelism().map_or(0, |cpus| cpus.get().min(32) - 1);
        ovs.configure(&format!(
            "set Open_vSwitch . other_config:dpdk-init=true other_config:dpdk-socket-mem=32 \
             other_config:pmd-cpu-mask={:x} other_config:per-port-memory=true",
            1_u32 << last
        ));
        // No device of the machine, and no file that outlives the process.
        ovs.vsctl(&[
            "--no-wait",
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-extra=\"--no-pci --in-memory\"",
        ]);
        ovs.revive();
        Some(ovs)
    }

    /// How `--db` names the database.
    #[must_use]
    pub fn db(&self) -> String {
        self.database.db()
    }

    /// Kills the switch, without a word.
    pub fn kill(&mut self) {
        self.switch = None;
    }

    /// Ends the switch as its service would.
    pub fn stop(&mut self) {
        let Some(mut switch) = self.switch.take() else { return };
        let mut ask = Command::new("ovs-appctl");
        ask.arg("-t").arg(self.dir.join("switch.ctl")).arg("exit").stdin(Stdio::null()).stdout(Stdio::null());
        assert!(ask.status().unwrap().success(), "ovs-appctl exit");
        wait_for("the switch to end", Duration::from_secs(20), || switch.0.try_wait().unwrap());
    }

    /// Starts the switch and waits until it has done what is configured.
    pub fn revive(&mut self) {
        let mut command = self.namespace.command(SWITCH);
        command.arg(self.db()).arg(format!("--unixctl={}", self.dir.join("switch.ctl").display()));
        command.arg("-vconsole:info");
        self.switch = Some(background(&mut command, &self.dir, "switch"));
        let running = || {
            let mut ask = Command::new("ovs-appctl");
            ask.arg("-t").arg(self.dir.join("switch.ctl")).args(["bond/list"]);
            ask.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success()).then_some(())
        };
        wait_for("the switch", Duration::from_secs(20), running);
    }

    /// See [`Database::configure`].
    pub fn configure(&self, line: &str) -> String {
        self.database.configure(line)
    }

    /// See [`Database::vsctl`].
    pub fn vsctl(&self, arguments: &[&str]) -> String {
        self.database.vsctl(arguments)
    }

    /// All that is configured, by table: rows of columns, with their UUIDs, without what tells of the moment.
    #[must_use]
    pub fn configuration(&self) -> BTreeMap<String, Vec<BTreeMap<String, String>>> {
        let mut command = Command::new("ovsdb-client");
        command.args(["dump", "--format=json"]).arg(self.db()).arg("Open_vSwitch").stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let mut all = BTreeMap::new();
        for table in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            let table = table.unwrap();
            let name = table["caption"].as_str().unwrap().trim_end_matches(" table").to_owned();
            let volatile =
                VOLATILE.iter().find(|(table, _)| *table == name).map_or(&[][..], |(_, columns)| columns);
            let headings: Vec<_> =
                table["headings"].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect();
            let row = |row: &Value| -> BTreeMap<String, String> {
                let pairs = headings.iter().zip(row.as_array().unwrap());
                let kept = pairs.filter(|(heading, _)| !volatile.contains(heading));
                kept.map(|(heading, value)| ((*heading).to_owned(), value.to_string())).collect()
            };
            let mut rows: Vec<_> = table["data"].as_array().unwrap().iter().map(row).collect();
            rows.sort();
            all.insert(name, rows);
        }
        assert!(all.contains_key("Bridge") && all.contains_key("Mirror"), "{text}");
        all
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.join("switch.log")).unwrap_or_default();
            let lines = log.lines().filter(|line| !line.contains("VHOST_CONFIG"));
            let last: Vec<_> = lines.rev().take(60).collect();
            eprintln!("--- end of the log of ovs-vswitchd:");
            last.into_iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Starts a program whose words go into a file.
fn background(command: &mut Command, dir: &Path, name: &str) -> Running {
    let log =
        std::fs::File::options().create(true).append(true).open(dir.join(format!("{name}.log"))).unwrap();
    // Nothing of it goes into the folders of the package.
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, dir);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Running(command.spawn().unwrap())
}
