//! Does a policy that names a virtual machine or a port follow it, as a real database of Open vSwitch tells of it, with no
//! packet lost and through a restart of the database?

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::ovs::Database;
use sluice_tests::sluiced::{cli, plain};
use sluice_tests::tap::{SERVER, TOOL, Tap};

/// Nobody's address.
const OTHER: &str = "52:54:00:00:00:99";
/// How soon policies follow.
const SOON: Duration = Duration::from_secs(5);

/// Tag 7: a machine; 8: everything, to see what there was; 9: a port that is not there at first; 10: a machine in a group.
fn policy() -> String {
    format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{}\"\n\
         [[group]]\nname = \"web\"\naddresses = [\"vm:nobody\", \"vm:web-1\"]\n\
         [[policy]]\nname = \"vm\"\ncollect = {{ addresses = [\"vm:web-1\"] }}\nprotocol = \"udp\"\ntag = 7\nto = [\"tool\"]\n\
         [[policy]]\nname = \"all\"\nprotocol = \"udp\"\ntag = 8\nto = [\"tool\"]\n\
         [[policy]]\nname = \"port\"\npeer = {{ addresses = [\"port:vnet7\"] }}\nprotocol = \"udp\"\ntag = 9\nto = [\"tool\"]\n\
         [[policy]]\nname = \"group\"\ncollect = {{ addresses = [\"@web\"] }}\nprotocol = \"udp\"\ntag = 10\nto = [\"tool\"]\n",
        TOOL[0]
    )
}

const BOOT: &str = "[[port]]\nname = \"tap0\"\nspec = \"af_packet:tap0\"\nrole = \"capture\"\n\
                    [[port]]\nname = \"out0\"\nspec = \"af_packet:out0\"\nrole = \"output\"\n\
                    addresses = [\"192.0.2.1/24\"]\n[flow]\n[api]\nsocket = \"api.sock\"\n\
                    [ovs]\ndatabase = \"unix:ovs/db.sock\"\n";

struct Host {
    // Ends before its namespaces and folder go.
    database: Database,
    lab: Lab,
    tap: Tap,
}

impl Host {
    /// `sluice` with these words; it must end with `code`. Gives what it prints, and what it says besides.
    fn sluice(&self, line: &str, code: i32) -> (String, String) {
        let mut command = Command::new(cli());
        command.args(["--server", &format!("unix:{}", self.lab.dir().join("api.sock").display())]);
        command.args(line.split_whitespace()).current_dir(self.lab.dir());
        let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(status.code(), Some(code), "{line}: {stdout}{stderr}");
        (stdout, stderr)
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.sluice(&format!("{line} --json"), 0).0).unwrap()
    }

    fn ovs(&self) -> Value {
        self.json("status")["ovs"].clone()
    }

    /// Copies with a tag that reached the tool.
    fn copies(&self, tag: u32) -> u64 {
        self.tap.tool.counters(&format!("vx{tag}")).rx_packets
    }

    /// Sends so many packets; says how many copies of each tag they made. What is copied whatever its addresses arrives
    /// last, or nearly.
    fn flood(&self, packets: u32) -> [u64; 4] {
        let tags = [7, 8, 9, 10];
        let before = tags.map(|tag| self.copies(tag));
        self.tap.flood(packets, 200);
        wait_for("the copies", Duration::from_secs(10), || {
            (self.copies(8) >= before[1] + u64::from(packets)).then_some(())
        });
        std::thread::sleep(Duration::from_millis(100));
        let mut copies = tags.map(|tag| self.copies(tag));
        copies.iter_mut().zip(before).for_each(|(now, before)| *now -= before);
        copies
    }

    /// Has the database say something, and waits until packets get exactly these copies; it must be soon.
    fn follows(&self, what: &str, line: &str, expected: [u64; 4]) {
        let begin = Instant::now();
        self.database.configure(line);
        while self.flood(1) != expected {
            assert!(begin.elapsed() < SOON + Duration::from_secs(8), "{what}: never");
        }
        let took = begin.elapsed();
        eprintln!("{what}: {} ms", took.as_millis());
        assert!(took < SOON, "{what}: {took:?}");
        assert_eq!(self.flood(50), expected.map(|copies| copies * 50), "{what}");
    }
}

/// Sends a packet each millisecond until it is told to stop.
fn stream(tap: &Tap, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    let stop = Arc::clone(stop);
    tap.client.inside(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            while socket.send_to(&[0x77; 300], (SERVER[0], 9)).is_err() {
                std::thread::sleep(Duration::from_micros(100));
            }
            sent += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        sent
    })
}

#[test]
fn policies_follow_a_machine() {
    let Some(mut lab) = Lab::new("machines of Open vSwitch") else { return };
    let Some(database) = Database::start(&lab) else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    for vni in [7, 8, 9, 10] {
        tap.vxlan(vni, TOOL[0]);
    }
    let _sink = tap.sink();
    let mac = tap.client.mac("c0");
    // As libvirt does it (virnetdevopenvswitch.c), with a name for people beside.
    database.configure(&format!(
        "add-br br-int -- add-port br-int vnet0 -- set Interface vnet0 external-ids:attached-mac=\"{OTHER}\" \
         external-ids:iface-id=d28a71c4-dea4-4c2f-b163-54527837ea2c external-ids:iface-status=active \
         external-ids:vm-id=5a5db485-a120-b65e-13ef-d4455915c68e external-ids:vm-name=web-1"
    ));
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy());
    let mut host = Host { database, lab, tap };
    daemon.wait_log("the API is served");
    daemon.wait_resolved(1);

    // What is known, and what is not.
    let guests = host.json("guests");
    let vnet0 =
        guests["interfaces"].as_array().unwrap().iter().find(|own| own["interface"] == "vnet0").unwrap();
    assert_eq!((&vnet0["macs"][0], &vnet0["bridge"]), (&Value::from(OTHER), &Value::from("br-int")));
    assert_eq!(vnet0["used_as"], serde_json::json!(["vm:web-1"]));
    daemon.wait_log("name=port:vnet7");
    let ovs = host.ovs();
    assert_eq!(ovs["silent_names"], serde_json::json!(["vm:nobody", "port:vnet7"]));
    assert!(ovs["connected"].as_bool().unwrap() && ovs["error"] == "", "{ovs}");
    assert_eq!(host.flood(20), [0, 20, 0, 0], "names of others, and of nobody, match nothing");

    // It changes its address, under traffic.
    let stop = Arc::new(AtomicBool::new(false));
    let (before, streaming) = (host.copies(8), stream(&host.tap, &stop));
    let begin = Instant::now();
    host.database.configure(&format!("set Interface vnet0 external-ids:attached-mac=\"{mac}\""));
    wait_for("the copies to follow", SOON, || (host.copies(7) > 0).then_some(()));
    eprintln!("another address, under traffic: {} ms", begin.elapsed().as_millis());
    std::thread::sleep(Duration::from_millis(1500));
    stop.store(true, Ordering::Relaxed);
    let sent = streaming.join().unwrap();
    wait_for("all packets", Duration::from_secs(5), || (host.copies(8) - before == sent).then_some(()));
    assert!(host.copies(7) > 100 && host.copies(7) < sent, "{} of {sent}", host.copies(7));
    assert_eq!(host.flood(50), [50, 50, 0, 50]);
    let told =
        host.json(&format!("explain --src 10.1.0.1 --dst {} --sport 1 --dport 9 --protocol udp", SERVER[0]));
    let wanted = told["policies"].as_array().unwrap().iter().find(|policy| policy["policy"] == "vm").unwrap();
    assert_eq!(wanted["mismatches"][0]["wanted"], format!("vm:web-1 ({mac})"));

    // Its flows are found by its name, though only its MAC address is told; what cannot be answered is refused.
    let named = host.json("flows --from vm:web-1");
    assert!(named["matched"].as_u64().unwrap() >= 1, "{named}");
    assert_eq!(named["flows"][0]["client_mac"], Value::from(&*mac), "{named}");
    assert_eq!(
        host.json("flows --to vm:web-1")["matched"],
        host.json(&format!("flows --to {OTHER}"))["matched"]
    );
    for (line, told) in [
        ("flows --address vm:web-9", "\"vm:web-9\" stands for no address now"),
        ("capture --host vm:web-9 --write x.pcapng", "\"vm:web-9\" stands for no address now"),
        ("talkers --address vm:web-1", "vm:web-1 is known by its MAC address only"),
        ("talkers --address 10.0.0.1,vm:web-1", "vm:web-1 is known by its MAC address only"),
        ("talkers --to 10.0.0.1,02:00:00:00:00:01", "02:00:00:00:00:01 is known by its MAC address only"),
    ] {
        let (_, told_now) = host.sluice(line, 2);
        assert!(told_now.contains(told), "{line}: {told_now}");
    }

    // It moves to another port: nothing changes for it, and a policy of that port wakes up.
    let moved = format!(
        "del-port vnet0 -- add-port br-int vnet7 -- set Interface vnet7 external-ids:attached-mac=\"{mac}\" \
         external-ids:vm-name=web-1"
    );
    host.follows("another port", &moved, [1, 1, 1, 1]);
    assert_eq!(host.ovs()["silent_names"], serde_json::json!(["vm:nobody"]));
    host.follows("not in use", "set Interface vnet7 external-ids:iface-status=inactive", [0, 1, 0, 0]);
    host.follows("in use again", "remove Interface vnet7 external-ids iface-status", [1, 1, 1, 1]);

    // Another limit of the boot config leaves the names as they are.
    let boot = host.lab.dir().join("boot.toml");
    let text = std::fs::read_to_string(&boot).unwrap();
    std::fs::write(&boot, format!("{text}\n[limit]\nrate_mbps = 900\n")).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_log("changes of the boot config are in force");
    assert_eq!(host.flood(50), [50, 50, 50, 50]);

    // The database is killed: what it told last counts.
    host.database.kill();
    wait_for("the loss to be seen", SOON, || (host.ovs()["connected"] == false).then_some(()));
    assert_eq!(host.flood(50), [50, 50, 50, 50]);
    daemon.wait_log("code=\"ovs_database\"");
    host.database.revive();
    wait_for("the database again", Duration::from_secs(10), || {
        (host.ovs()["connected"] == true).then_some(())
    });
    assert_eq!(host.flood(50), [50, 50, 50, 50]);
    let away = format!("set Interface vnet7 external-ids:attached-mac=\"{OTHER}\"");
    host.follows("another address after a restart of the database", &away, [0, 1, 0, 0]);
    let ovs = host.ovs();
    assert_eq!((&ovs["connects"], &ovs["failed"]), (&Value::from(2), &Value::from(0)));
    assert!(ovs["applied"].as_u64().unwrap() >= 5, "{ovs}");

    // Nobody has asked for other policies.
    let history = host.json("history");
    assert_eq!(history["generations"].as_array().unwrap().len(), 1, "{history}");
    // Who asks for some is told what their names stand for.
    let next = policy().replace("port:vnet7", "vm:web-2");
    std::fs::write(host.lab.dir().join("next.toml"), next).unwrap();
    let (text, more) = host.sluice("apply -f next.toml --dry-run", 0);
    let text = text + &more;
    assert!(text.contains("no virtual machine \"web-2\" now"), "{text}");
    host.sluice("apply -f next.toml", 0);
    daemon.wait_log("name=vm:web-2");
    let named = format!("set Interface vnet7 external-ids:vm-name=web-2 external-ids:attached-mac=\"{mac}\"");
    host.follows("a machine with a policy that is new", &named, [0, 1, 1, 0]);
    let generation = host.json("status")["generation"].clone();
    assert_eq!(generation, 2);

    let summary = daemon.stop();
    assert_eq!(summary.drops(), summary.dropped("no_policy"), "{}", summary.text);
}

#[test]
fn names_without_a_database_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let boot = "policy = \"policy.toml\"\n[[port]]\nname = \"tap0\"\nspec = \"af_packet:lo\"\nrole = \"both\"\n\
                addresses = [\"192.0.2.1/24\"]\n[api]\nenabled = false\n";
    std::fs::write(folder.path().join("policy.toml"), policy()).unwrap();
    let config: PathBuf = folder.path().join("boot.toml");
    let check = |text: &str| {
        std::fs::write(&config, text).unwrap();
        plain(&["check".as_ref(), "--config".as_ref(), config.as_os_str()])
    };
    let refused = check(boot);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let told = "\"vm:web-1\" is learned from Open vSwitch, and the boot config names no database of it; add [ovs] with \
                database = \"unix:/var/run/openvswitch/db.sock\" to the boot config";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);
    let taken = check(&format!("{boot}[ovs]\ndatabase = \"unix:/nowhere/db.sock\"\n"));
    assert_eq!(taken.code, Some(0), "{}", taken.stderr);
}
