//! Do packets have the time at which the NIC says that they came, where it says so, and another one where it lies?

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_tests::daemon::{Daemon, binary};
use sluice_tests::netns::{Lab, Namespace, run, wait_for};
use sluice_tests::sluiced::cli;
use sluice_tests::stamping_nic;
use sluice_tests::tcpdump::tshark;

const FRAMES: usize = 4_000;
/// What the library says that frames took from the wire until they were polled.
const ON_THE_WAY_NS: i64 = 3_000_000;
const POLICY: &str = "[[destination]]\nname = \"file\"\ntype = \"pcap\"\nfile = \"copies.pcap\"\n\
                      [[policy]]\nname = \"all\"\nto = [\"file\"]\n";

fn boot(timestamps: &str, lcores: &str) -> String {
    format!(
        "[worker]\nlcores = {lcores}\n[api]\nsocket = \"api.sock\"\n\
         [[port]]\nname = \"tap0\"\nspec = \"net_af_packet0,iface=in0\"\nrole = \"capture\"\nrx_timestamps = \"{timestamps}\"\n"
    )
}

/// What is wrong with the stamp of a frame, as the library reads it: one in four has something.
fn fault(number: usize) -> u8 {
    if number % 4 == 3 { u8::try_from(number / 4 % 4).unwrap() + 1 } else { 0 }
}

/// Sends over several seconds, so that the clock is compared in between, and wraps around.
fn send(from: &Namespace, frames: usize, fault: impl Fn(usize) -> u8 + Send + 'static) {
    let config = AfPacketConfig { interface: "out0".to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let send = move || {
        let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
        let mut tx = tx.unwrap();
        for number in 0..frames {
            let mut frame = vec![0x02, 0, 0, 0, 0, 0x0b, 0x02, 0, 0, 0, 0, 0x0a, 0x88, 0xb5];
            frame.resize(80, 0);
            frame[22] = fault(number);
            frame[23..27].copy_from_slice(&u32::try_from(number).unwrap().to_be_bytes());
            assert_eq!(tx.tx_frames(&[&[&frame]], |_, _| ()), 1, "the kernel takes it");
            std::thread::sleep(Duration::from_micros(700));
        }
    };
    from.inside(send).join().unwrap();
}

struct Rig {
    lab: Lab,
    outside: Namespace,
    broker: Namespace,
    library: PathBuf,
}

impl Rig {
    fn new(test: &str) -> Option<Self> {
        let mut lab = Lab::new(test)?;
        let [outside, broker] = ["outside", "broker"].map(|tag| lab.namespace(tag));
        outside.veth("out0", &broker, "in0", 1500);
        let library = stamping_nic::compile(lab.dir());
        Some(Self { lab, outside, broker, library })
    }

    /// The command of a daemon whose NIC stamps in this way.
    fn command(&self, kind: Option<&str>) -> Command {
        let mut command = self.broker.command("env");
        command.arg(format!("LD_PRELOAD={}", self.library.display()));
        command.args(kind.map(|kind| format!("STAMPING_NIC={kind}"))).arg(binary());
        command
    }

    fn start(&self, kind: Option<&str>, boot: &str) -> Daemon {
        Daemon::spawn(self.command(kind), self.lab.dir(), boot, POLICY)
    }

    /// The port, as the command line shows it.
    fn port(&self) -> Value {
        let server = format!("unix:{}", self.lab.dir().join("api.sock").display());
        let shown = run(&format!("{} ports --json --server {server}", cli().display()));
        serde_json::from_str::<Value>(&shown).unwrap()["ports"][0].clone()
    }

    /// By how much the times in the file of copies are off the moment that the library wrote into each frame,
    /// nanoseconds, with what is wrong with its stamp; in the order of the file.
    fn errors(&self) -> Vec<(u8, i64)> {
        let file = self.lab.dir().join("copies.pcap");
        let line = |line: &String| {
            let (time, data) = line.split_once('\t').unwrap();
            let (seconds, fraction) = time.split_once('.').unwrap();
            let time_ns: i64 = format!("{seconds}{fraction:0<9}").parse().unwrap();
            let byte = |at: usize| u8::from_str_radix(&data[2 * at..2 * at + 2], 16).unwrap();
            let moment = i64::from_le_bytes(std::array::from_fn(byte));
            (byte(8), time_ns - moment)
        };
        tshark(&file, "eth.type == 0x88b5", &["frame.time_epoch", "data.data"], &[])
            .iter()
            .map(line)
            .collect()
    }
}

/// The value below which so many of a thousand are.
fn quantile(values: &mut [i64], per_mille: usize) -> i64 {
    values.sort_unstable();
    values[(values.len() - 1) * per_mille / 1000]
}

fn check(test: &str, kind: Option<&str>, timestamps: &str, lcores: &str) {
    let Some(rig) = Rig::new(test) else { return };
    let daemon = rig.start(kind, &boot(timestamps, lcores));
    daemon.wait_log("the API is served");
    send(&rig.outside, FRAMES, fault);
    let faults = (0..FRAMES).filter(|number| fault(*number) != 0).count();
    let counted = |what: &str| rig.port()["counters"][what].as_u64().unwrap();
    let is_there = || (counted("rx_packets") >= FRAMES as u64).then_some(());
    wait_for("the frames", Duration::from_secs(10), is_there);
    let unstamped = wait_for("those without a stamp", Duration::from_secs(2), || {
        let unstamped = counted("rx_unstamped");
        (unstamped >= faults as u64).then_some(unstamped)
    });
    // What the kernel says of itself on the link has no stamp either; and a thread that waits for its core may do so
    // between the two clocks that the library reads.
    assert!(unstamped < faults as u64 + FRAMES as u64 / 20, "{unstamped}, not {faults}");
    assert_eq!(rig.port()["rx_timestamps"], "hardware");
    daemon.stop();

    let errors = rig.errors();
    assert_eq!(errors.len(), FRAMES);
    let (stamped, other): (Vec<_>, Vec<_>) = errors.into_iter().partition(|(fault, _)| *fault == 0);
    assert_eq!(other.len(), faults);
    let mut stamped: Vec<i64> = stamped.into_iter().map(|(_, error)| error).collect();
    let [low, middle, high] = [50, 500, 950].map(|per_mille| quantile(&mut stamped, per_mille));
    println!("{test}: {low}, {middle}, {high} ns off at 5, 50, 95 %");
    assert!(low > -500_000 && middle.abs() < 300_000 && high < 500_000, "{low}, {middle}, {high} ns off");
    // Without a stamp it is the time of the batch.
    let mut late: Vec<i64> = other.into_iter().map(|(_, error)| error).collect();
    let [low, middle] = [50, 500].map(|per_mille| quantile(&mut late, per_mille));
    assert!(low > ON_THE_WAY_NS - 700_000 && middle < ON_THE_WAY_NS + 5_000_000, "{low}, {middle} ns late");
}

#[test]
fn ticks_of_a_nic_become_times() {
    check("ticks", None, "hardware", "[0]");
}

#[test]
fn a_clock_for_ptp_serves_as_well_and_distributors_pass_times_on() {
    check("ptp", Some("ptp"), "auto", "[0, 1]");
}

#[test]
fn what_is_asked_for_and_not_there_is_refused_by_name() {
    let Some(rig) = Rig::new("no stamps") else { return };
    let hardware = boot("hardware", "[0]");
    let refused = |command: Command| {
        let mut daemon = Daemon::spawn(command, rig.lab.dir(), &hardware, POLICY);
        let (status, _) = daemon.wait();
        (status.code(), daemon.log())
    };
    let (code, log) = refused(rig.broker.command(binary()));
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("port \"tap0\": rx_timestamps = \"hardware\", and the driver net_af_packet has none"),
        "{log}"
    );
    assert!(log.contains("does not stamp what it receives"), "{log}");
    let (code, log) = refused(rig.command(Some("still")));
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("the clock of the device stands still"), "{log}");

    // Where it need not be there, its absence is told.
    let daemon = Daemon::start(&rig.lab, &rig.broker, &boot("auto", "[0]"), POLICY);
    daemon.wait_log("no hardware time stamps");
    daemon.wait_log("the API is served");
    assert_eq!(rig.port()["rx_timestamps"], "software");
    daemon.stop();
}

#[test]
fn a_driver_that_stamps_by_another_clock_is_told_of() {
    let Some(rig) = Rig::new("another clock") else { return };
    let daemon = rig.start(None, &boot("hardware", "[0]"));
    daemon.wait_log("the API is served");
    send(&rig.outside, 100, |_| 2);
    daemon.wait_log("most packets have no believable time stamp of the NIC");
    send(&rig.outside, 2_500, |_| 0);
    daemon.wait_log("packets have believable time stamps of the NIC again");
    daemon.stop();
}
