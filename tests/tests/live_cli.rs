//! Does `sluice` steer and watch a running daemon?

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::pcap_file::{Builder, ETHERNET, Record};
use sluice_tests::sluiced::cli;
use sluice_tests::tap::{CLIENT, SERVER, TOOL, Tap};
use sluice_tests::tcpdump::tshark;

const BOOT: &str = concat!(
    sluice_tests::tap_ports!(),
    r#"
[flow]

[api]
socket = "api.sock"

[store]
folder = "kept"
"#
);

fn policy(tag: u32) -> String {
    format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{}\"\n\
         [[group]]\nname = \"lab\"\naddresses = [\"10.1.0.0/16\"]\n\
         [[policy]]\nname = \"udp\"\ncollect = {{ addresses = [\"@lab\"] }}\nprotocol = \"udp\"\ntag = {tag}\nto = [\"tool\"]\n\
         [[policy]]\nname = \"web\"\npeer = {{ ports = \"80,443\" }}\nprotocol = \"tcp\"\nto = [\"tool\"]\n",
        TOOL[0]
    )
}

/// `sluice` in the folder of the daemon.
struct Sluice<'l> {
    folder: &'l Path,
}

impl Sluice<'_> {
    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(cli());
        let server = format!("unix:{}", self.folder.join("api.sock").display());
        command.args(arguments.split(' ')).env("SLUICE_SERVER", server).current_dir(self.folder);
        command
    }

    /// What it prints; it must end with `code`, and say `told` on stderr.
    fn run(&self, arguments: &str, code: i32, told: &str) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(status.code(), Some(code), "sluice {arguments}: {stdout}{stderr}");
        assert!(stderr.contains(told), "sluice {arguments}: {stderr}");
        assert!(!(told.is_empty() && code == 0) || stderr.is_empty(), "sluice {arguments}: {stderr}");
        stdout
    }

    fn text(&self, arguments: &str) -> String {
        self.run(arguments, 0, "")
    }

    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.text(&format!("{arguments} --json"))).unwrap()
    }
}

#[test]
fn a_daemon_is_steered_and_watched_from_the_command_line() {
    let Some(mut lab) = Lab::new("cli") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy(7));
    daemon.wait_log("the API is served");
    daemon.wait_resolved(1);
    let sluice = Sluice { folder: lab.dir() };
    let file = |name: &str, text: &str| std::fs::write(lab.dir().join(name), text).unwrap();

    // How it is.
    let status = sluice.json("status");
    assert_eq!(
        (&status["generation"], &status["ports"], &status["policies"]),
        (&1.into(), &2.into(), &2.into())
    );
    let text = sluice.text("status");
    assert!(text.contains("generation 1 since 2") && text.contains("2 of 2 up"), "{text}");
    let ports = sluice.json("ports");
    assert_eq!(ports["ports"][1]["mac"], tap.broker.mac("out0"));
    assert!(sluice.text("ports").contains("192.0.2.1/24"));
    assert!(sluice.text("workers").contains("worker0"));

    // A file in force, and what that changes.
    file("new.toml", &policy(8));
    assert!(sluice.run("diff -f new.toml --exit-code", 7, "").contains("    tag = 7 -> 8"));
    assert!(sluice.text("apply -f new.toml --dry-run").contains("0 added, 0 removed, 1 changed"));
    tap.flood(100, 200);
    let applied = sluice.json("apply -f new.toml --comment eight");
    assert_eq!((&applied["applied"], &applied["generation"]), (&true.into(), &2.into()));
    assert!(sluice.text("diff -f new.toml --exit-code").contains("no difference to generation 2"));
    assert!(sluice.text("apply -f new.toml").contains("no change: generation 2 is in force"));
    sluice.run("apply -f new.toml --expect-generation 1", 6, "changed in between");
    tap.flood(50, 200);
    let counted = || {
        let counters = sluice.json("counters udp");
        (counters["policies"][0]["matched_packets"] == 150).then_some(counters)
    };
    let counters = wait_for("the counters", Duration::from_secs(5), counted);
    assert_eq!(counters["policies"][0]["sent_packets"], 150);
    assert!(sluice.text("drops --all").contains("balanced"));
    let named = sluice.json("counters tap0 tool");
    assert_eq!(named["ports"][0]["port"], "tap0");
    assert_eq!(named["destinations"][0]["destination"], "tool");
    assert_eq!((named.get("totals"), named["policies"].as_array().unwrap().len()), (None, 0));
    assert!(sluice.text("counters tap0").contains("lost before rx"));
    sluice.run("counters tap0 nobody", 5, "has the name \"nobody\"");

    // One by one; what the daemon refuses is told, and changes nothing.
    file("dns.toml", "[[policy]]\nname = \"dns\"\npeer = { ports = 53 }\ntag = 9\nto = [\"tool\"]\n");
    assert!(sluice.text("policy put -f dns.toml --comment dns").contains("+ policy dns"));
    assert!(sluice.text("policy list d").contains("1 policy of generation 3"));
    assert_eq!(sluice.text("policy get dns"), {
        let told = sluice.json("policy get dns");
        assert_eq!(told["tag"], 9);
        "[[policy]]\nname = \"dns\"\ntag = 9\nto = [\"tool\"]\n\n[policy.peer]\nports = [\"53\"]\n"
    });
    assert!(sluice.text("group list").contains("10.1.0.0/16"));
    assert!(sluice.text("destination get tool").contains(TOOL[0]));
    sluice.run("destination delete tool", 1, "not applied: the set is not valid; generation 3 is in force");
    sluice.run("group get nobody", 5, "not found");
    assert!(sluice.text("policy delete dns").contains("- policy dns"));

    // Back.
    assert!(sluice.text("rollback 1 --comment back").contains("tag = 8 -> 7"));
    let history = sluice.json("history");
    assert_eq!(
        (&history["generations"][0]["comment"], &history["generations"][0]["rolled_back_to"]),
        (&"back".into(), &1.into())
    );
    assert!(sluice.text("history 2").contains("eight"));
    sluice.run("rollback 99", 5, "not found");

    // Why: described, captured, live.
    let why = format!("explain --src {} --dst {} --protocol udp --sport 5 --dport 9", CLIENT[0], SERVER[0]);
    let told = sluice.json(&why);
    assert_eq!(told["outcome"], "OUTCOME_COPIED");
    assert_eq!((&told["copies"][0]["destination"], &told["copies"][0]["tag"]), (&"tool".into(), &7.into()));
    let text = sluice.text(&why);
    assert!(text.contains("protocol is 17, wanted") || text.contains("protocol is udp, wanted"), "{text}");
    let frame = sluice_tests::traffic::udp(
        &sluice_tests::traffic::End::new(CLIENT[0].parse().unwrap(), 1_000),
        &sluice_tests::traffic::End::new(SERVER[0].parse().unwrap(), 9),
        &[],
        b"captured",
    );
    let mut capture = Builder::new(ETHERNET);
    capture.push(Record { timestamp_ns: 1, wire_len: u32::try_from(frame.len()).unwrap(), data: &frame });
    capture.save(&lab.dir().join("one.pcap"));
    assert_eq!(sluice.json("explain --capture one.pcap --packet 1")["copies"][0]["destination"], "tool");
    sluice.run("explain --capture one.pcap --packet 2", 2, "sluice: error");
    tap.flood(10, 200);
    let live = format!("explain --flow --src {} --dst {} --protocol udp", CLIENT[0], SERVER[0]);
    assert_eq!(sluice.json(&live)["outcome"], "OUTCOME_COPIED");
    sluice.run("explain --flow --src 10.9.9.9 --dst 10.9.9.8 --protocol udp", 5, "not found");

    // What would be matched, of traffic that passes.
    let mut trial = sluice.command("apply -f new.toml --dry-run --live 3s --json");
    let mut trial = trial.stdout(Stdio::piped()).spawn().unwrap();
    // The plan comes when counting has begun.
    let mut steps = serde_json::Deserializer::from_reader(trial.stdout.take().unwrap()).into_iter::<Value>();
    let plan = steps.next().unwrap().unwrap();
    assert_eq!(plan["plan"]["valid"], true, "{plan}");
    tap.flood(40, 200);
    let steps: Vec<Value> = steps.map(Result::unwrap).collect();
    assert!(trial.wait().unwrap().success());
    let last = &steps.last().unwrap()["counts"];
    assert_eq!((&last["last"], &last["policies"][0]["packets"]), (&true.into(), &40.into()), "{steps:?}");
    assert_eq!(sluice.json("status")["generation"], history["generations"][0]["generation"]);

    // Who talks, and what passes: tshark reads as many packets as were asked for.
    let flows = sluice.json("flows --protocol udp");
    assert_eq!(
        (&flows["flows"][0]["client"], &flows["flows"][0]["server"]),
        (&CLIENT[0].into(), &SERVER[0].into())
    );
    // A second's rows come when it is over.
    wait_for("the talkers", Duration::from_secs(10), || {
        sluice.text("talkers --by client --seconds 60").contains(CLIENT[0]).then_some(())
    });
    let mut capture = sluice.command("capture -w live.pcapng --protocol udp -c 20 --time 20s");
    let capture = std::thread::spawn(move || capture.output().unwrap());
    wait_for("the file", Duration::from_secs(10), || lab.dir().join("live.pcapng").exists().then_some(()));
    tap.flood(30, 200);
    let output = capture.join().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(
        told.starts_with("20 packets, ") && told.ends_with("; the number of packets was reached\n"),
        "{told}"
    );
    let captured = tshark(&lab.dir().join("live.pcapng"), "udp.dstport == 9", &["ip.src", "udp.length"], &[]);
    assert_eq!(captured, vec![format!("{}\t208", CLIENT[0]); 20]);
    sluice.run("capture -w live.pcapng", 1, "--force");

    // A picture of it all.
    let picture = sluice.text("top --once -i 200ms");
    for part in ["sluiced", "tap0", "out0", "worker0", "udp", "tool", "account balanced"] {
        assert!(picture.contains(part), "{part}: {picture}");
    }

    // Somebody without rights; nobody there.
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    // The build folder may be root's alone.
    let copy = lab.dir().join("sluice");
    std::fs::copy(cli(), &copy).unwrap();
    assert!(Command::new("chmod").args(["755"]).args([lab.dir(), &copy]).status().unwrap().success());
    let output = stranger
        .arg(&copy)
        .args(["status", "--server"])
        .arg(format!("unix:{}", lab.dir().join("api.sock").display()))
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(told.contains("no right to open") && told.contains("group"), "{told}");
    daemon.signal(Signal::KILL);
    drop(daemon);
    sluice.run("status", 3, "nobody listens");
}
