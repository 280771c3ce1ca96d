//! How is `sluiced replay` run, and what did it say?

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// The daemon: env `SLUICED`, else the newer of the release and the debug build, else one that is built now.
///
/// # Panics
/// When it cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("sluiced", "SLUICED"))
}

/// The command line `sluice`: env `SLUICE`, else as [`binary`].
///
/// # Panics
/// When it cannot be built.
pub fn cli() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("sluice", "SLUICE"))
}

fn built(package: &str, variable: &str) -> PathBuf {
    if let Some(binary) = env::var_os(variable) {
        return PathBuf::from(binary);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let [release, debug] = ["release", "debug"].map(|profile| target.join(profile).join(package));
    let age = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    if let Some(found) =
        [&release, &debug].into_iter().max_by_key(|path| age(path)).filter(|path| path.is_file())
    {
        return found.clone();
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).args(["build", "-q", "-p", package]).current_dir(root).status();
    assert!(built.is_ok_and(|status| status.success()), "cargo build -p {package}");
    debug
}

/// What a replay left behind.
#[derive(Debug)]
pub struct Replayed {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The folder of the outputs.
    pub out: PathBuf,
}

/// Runs `sluiced replay --json` with the policies of `policy`; the outputs are in `dir/out`.
///
/// # Panics
/// When it does not start.
pub fn replay<P: AsRef<Path>>(dir: &Path, policy: &str, inputs: &[P]) -> Replayed {
    run(dir, policy, inputs, &["--json"])
}

/// The same with arguments of one's own.
///
/// # Panics
/// When it does not start.
pub fn run<P: AsRef<Path>>(dir: &Path, policy: &str, inputs: &[P], arguments: &[&str]) -> Replayed {
    let policy_file = dir.join("policy.toml");
    fs::write(&policy_file, policy).expect("the policy file");
    let out = dir.join("out");
    let mut command = Command::new(binary());
    command.arg("replay").arg("--policy").arg(&policy_file).arg("--out").arg(&out).args(arguments);
    for input in inputs {
        command.arg("--in").arg(input.as_ref());
    }
    command_output(&mut command, out)
}

/// Runs the daemon with just these arguments.
///
/// # Panics
/// When it does not start.
pub fn plain<A: AsRef<OsStr>>(arguments: &[A]) -> Replayed {
    command_output(Command::new(binary()).args(arguments), PathBuf::new())
}

fn command_output(command: &mut Command, out: PathBuf) -> Replayed {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Replayed {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        out,
    }
}

impl Replayed {
    /// The report, after checking that the run succeeded.
    ///
    /// # Panics
    /// When it did not.
    pub fn report(&self) -> Report {
        assert_eq!(self.code, Some(0), "exit code; stderr: {}", self.stderr);
        self.report_whatever_the_code()
    }

    /// The report.
    ///
    /// # Panics
    /// When stdout is not one JSON object with all fields that are promised, or its numbers contradict each other.
    pub fn report_whatever_the_code(&self) -> Report {
        let json = serde_json::from_str(&self.stdout);
        let report = Report(json.unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr)));
        report.check();
        report
    }

    /// The bytes of the output of a destination.
    ///
    /// # Panics
    /// When there is none.
    pub fn output(&self, destination: &str) -> Vec<u8> {
        let path = self.out.join(format!("{destination}.pcap"));
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

/// The JSON object of a replay.
#[derive(Clone, Debug)]
pub struct Report(pub Value);

/// Policies in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyCounts {
    /// Packets that matched.
    pub matched_packets: u64,
    /// Their bytes.
    pub matched_bytes: u64,
    /// Copies that were sent for it.
    pub sent_packets: u64,
}

impl Report {
    /// A number at the top.
    ///
    /// # Panics
    /// When it is missing.
    pub fn number(&self, name: &str) -> u64 {
        number(&self.0, name)
    }

    /// A count of flow metering.
    ///
    /// # Panics
    /// When it is missing.
    pub fn number_in_flow(&self, name: &str) -> u64 {
        number(&self.0["flow"], name)
    }

    /// Drops by reason.
    ///
    /// # Panics
    /// When they are missing.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let drops = self.0["drops"].as_object().expect("drops");
        drops.iter().map(|(reason, count)| (reason.clone(), count.as_u64().expect("a number"))).collect()
    }

    /// The counts of a policy.
    ///
    /// # Panics
    /// When they are missing.
    pub fn policy(&self, name: &str) -> PolicyCounts {
        let policy = named(&self.0["policies"], name);
        PolicyCounts {
            matched_packets: number(policy, "matched_packets"),
            matched_bytes: number(policy, "matched_bytes"),
            sent_packets: number(policy, "sent_packets"),
        }
    }

    /// Packets and bytes of a destination.
    ///
    /// # Panics
    /// When they are missing.
    pub fn destination(&self, name: &str) -> (u64, u64) {
        let destination = named(&self.0["destinations"], name);
        (number(destination, "packets"), number(destination, "bytes"))
    }

    /// What must hold for every replay: rx + replicas = tx + drops + held, nothing held at the end, and the sum over the
    /// destinations is what was sent.
    fn check(&self) {
        let drops: u64 = self.drops().values().sum();
        let left = self.number("rx_packets") + self.number("replicas");
        let right = self.number("tx_packets") + drops + self.number("held");
        assert_eq!(left, right, "rx + replicas = tx + drops + held: {}", self.0);
        assert_eq!(self.number("held"), 0, "held at the end: {}", self.0);
        assert_eq!(self.number("lost_before_rx"), 0, "files lose nothing: {}", self.0);
        assert!(self.number("rx_bytes") > 0 || self.number("rx_packets") < 10, "{}", self.0);
        let destinations = self.0["destinations"].as_array().expect("destinations");
        let sent: u64 = destinations.iter().map(|destination| number(destination, "packets")).sum();
        assert_eq!(sent, self.number("tx_packets"), "sent to the destinations: {}", self.0);
    }
}

fn number(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or_else(|| panic!("{name} in {object}"))
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let list = list.as_array().expect("a list");
    list.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("{name} in {list:?}"))
}
