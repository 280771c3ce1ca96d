//! Does a bridge of a real OVS-DPDK, mirrored to Sluice, reach a tool once and whole, through restarts of either side, and
//! is the switch afterwards as it was before?

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_tests::captures;
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, Namespace, wait_for};
use sluice_tests::ovs::{Ovs, Pages};
use sluice_tests::sluiced::cli;
use sluice_tests::tcpdump::{Frame, Tcpdump, assert_same, dissected, dissected_in_vxlan, read, write};
use sluice_tests::traffic;

/// Frames that only ask whether the way is open.
const PROBE: [u8; 2] = [0x88, 0xb6];
const BRIDGE: &str = "br0";

/// Two guests on a bridge, a broker in the same namespace, and a tool.
struct Host {
    // Ends before its namespace and folder go.
    ovs: Ovs,
    lab: Lab,
    switch: Namespace,
    guests: [Namespace; 2],
    tool: Namespace,
    _alone: MutexGuard<'static, ()>,
}

/// Hugepages are the machine's: one switch at a time.
static ONE: Mutex<()> = Mutex::new(());

/// The guests' interfaces; their other ends are the ports of the bridge.
const GUESTS: [(&str, &str, &str); 2] = [("g0", "p0", "10.9.0.1"), ("g1", "p1", "10.9.0.2")];

impl Host {
    fn new(test: &str) -> Option<Self> {
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lab = Lab::new(test)?;
        let [switch, first, second, tool] =
            ["switch", "first", "second", "tool"].map(|tag| lab.namespace(tag));
        let ovs = Ovs::start(&lab, &switch)?;
        ovs.vsctl(&["add-br", BRIDGE, "--", "set", "Bridge", BRIDGE, "datapath_type=netdev"]);
        let guests = [first, second];
        for (guest, (device, port, address)) in guests.iter().zip(GUESTS) {
            guest.veth(device, &switch, port, 9000);
            guest.offloads(device, false);
            switch.offloads(port, false);
            guest.address(device, &[&format!("{address}/24")]);
            ovs.vsctl(&["add-port", BRIDGE, port]);
        }
        for (here, there) in [(0, 1), (1, 0)] {
            let mac = guests[there].mac(GUESTS[there].0);
            guests[here].ip(format!(
                "neigh add {} lladdr {mac} dev {} nud permanent",
                GUESTS[there].2, GUESTS[here].0
            ));
        }
        switch.veth("out0", &tool, "in0", 9100);
        switch.offloads("out0", false);
        tool.offloads("in0", false);
        tool.address("in0", &["192.0.2.10/24"]);
        tool.ip("link add name vx7 type vxlan id 7 local 192.0.2.10 dstport 4789 nolearning");
        tool.silent("vx7");
        tool.run("ethtool -K vx7 gro off");
        tool.ip("link set dev vx7 mtu 9000 up");
        Some(Self { ovs, lab, switch, guests, tool, _alone: alone })
    }

    fn socket(&self) -> String {
        self.lab.dir().join("mirror.sock").display().to_string()
    }

    /// A daemon that sends all that comes by the mirror to the tool.
    fn daemon(&self) -> Daemon {
        let boot = format!(
            "[[port]]\nname = \"mirror\"\nspec = \"vhost:{}\"\nrole = \"capture\"\n\
             [[port]]\nname = \"out0\"\nspec = \"af_packet:out0\"\nrole = \"output\"\naddresses = [\"192.0.2.1/24\"]\n\
             [worker]\nrx_descriptors = 4096\n[memory]\nmbufs = 16383\n",
            self.socket()
        );
        let policy = "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"192.0.2.10\"\n\
                      [[policy]]\nname = \"all\"\ntag = 7\nto = [\"tool\"]\n";
        let daemon = Daemon::start(&self.lab, &self.switch, &boot, policy);
        daemon.wait_resolved(1);
        daemon
    }

    /// `sluice ovs` with these words where Sluice runs, so that it sees the connections of its socket.
    fn inside(&self, line: &str) -> Output {
        let mut command = self.switch.command(cli());
        command.arg("ovs").args(line.split_whitespace()).args(["--db", &self.ovs.db()]);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// `sluice ovs` with these words; it must end with `code`. Gives what it prints, and what it says besides.
    fn sluice(&self, line: &str, code: i32) -> (String, String) {
        let mut command = Command::new(cli());
        command.arg("ovs").args(line.split_whitespace()).args(["--db", &self.ovs.db()]);
        let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(status.code(), Some(code), "{line}: {stdout}{stderr}");
        (stdout, stderr)
    }

    fn attach(&self, more: &str, code: i32) -> (String, String) {
        self.sluice(&format!("attach {BRIDGE} --socket {} {more}", self.socket()), code)
    }

    fn status(&self) -> Value {
        let (text, _) = self.sluice(&format!("status {BRIDGE} --json"), 0);
        serde_json::from_str::<Value>(&text).unwrap()["attached"][0].clone()
    }

    /// Waits until what a guest sends reaches the tool: OVS tries once a second to connect, and then
    /// takes its memory, which a virtual machine may have to be given first.
    fn wait_open(&self) {
        let probe = probe();
        let before = self.arrived();
        wait_for("the way to be open", Duration::from_secs(60), || {
            send(&self.guests[0], GUESTS[0].0, std::slice::from_ref(&probe));
            std::thread::sleep(Duration::from_millis(50));
            (self.arrived() > before).then_some(())
        });
        // The other probes are still on their way.
        let mut last = (self.arrived(), Instant::now());
        while last.1.elapsed() < Duration::from_millis(500) {
            std::thread::sleep(Duration::from_millis(50));
            if self.arrived() != last.0 {
                last = (self.arrived(), Instant::now());
            }
        }
    }

    fn arrived(&self) -> u64 {
        self.tool.counters("vx7").rx_packets
    }

    /// Sends frames from both guests, each from its own; exactly these come to the tool. A few at a time: the switch has
    /// little room for what waits in front of it, and is busy with itself for seconds now and then.
    fn replay(&self, what: &str, frames: &[Frame]) {
        let at_tool = Tcpdump::start(&self.lab, &self.tool, "vx7");
        let at_link = Tcpdump::start(&self.lab, &self.tool, "in0");
        let mut expected = self.arrived();
        for part in frames.chunks(20) {
            // A sender is on one side of the switch.
            let side = |frame: &&Frame| frame.data[11].is_multiple_of(2);
            let (first, second): (Vec<_>, Vec<_>) = part.iter().partition(side);
            for (guest, (device, _, _), frames) in
                [(&self.guests[0], GUESTS[0], first), (&self.guests[1], GUESTS[1], second)]
            {
                send(guest, device, &frames.into_iter().cloned().collect::<Vec<_>>());
            }
            expected += u64::try_from(part.len()).unwrap();
            let end = Instant::now() + Duration::from_secs(20);
            while self.arrived() < expected && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
            if self.arrived() < expected {
                eprintln!("{what}: {} frames are missing so far", expected - self.arrived());
                break;
            }
        }
        assert_same(what, &known(&at_tool.stop()), frames);
        let copies = at_link.file().to_owned();
        at_link.stop();
        self.dissect(what, &copies, frames);
    }

    /// How tshark reads the copies on the tool's link: a tunnel around what it reads in the frames that were sent.
    fn dissect(&self, what: &str, copies: &Path, frames: &[Frame]) {
        let sent = self.lab.dir().join("sent.pcap");
        write(&sent, frames);
        let filter = "udp.dstport == 4789 && !(eth.type == 0x88b6)";
        let read = dissected_in_vxlan(copies, filter, ["192.0.2.1", "192.0.2.10"], 7);
        assert_eq!(read, dissected(&sent), "{what}");
    }

    /// A transfer between the guests: what the switch handed from one to the other is what comes to the tool.
    fn iperf(&self, what: &str, line: &str) {
        let at_tool = Tcpdump::start(&self.lab, &self.tool, "vx7");
        let at_guests = [0, 1].map(|guest| Tcpdump::start(&self.lab, &self.guests[guest], GUESTS[guest].0));
        let mut server = self.guests[1].command("iperf3");
        server.args(["-s", "-1", "-B", GUESTS[1].2]).stdout(Stdio::null());
        let mut server = Ended(server.spawn().unwrap());
        wait_for("iperf3", Duration::from_secs(10), || {
            self.guests[1].run("ss -Hltn").contains(":5201").then_some(())
        });
        self.guests[0].run(&format!("iperf3 -c {} {line}", GUESTS[1].2));
        server.0.wait().unwrap();
        // Frames may be lost in front of the switch: only those that it took are mirrored. Each guest sees what it sends,
        // too.
        let mut seen = Vec::new();
        for ((guest, (device, _, _)), at_guest) in self.guests.iter().zip(GUESTS).zip(at_guests) {
            let own = guest.mac(device);
            let sender = |frame: &Frame| {
                let parts: Vec<_> = frame.data[6..12].iter().map(|byte| format!("{byte:02x}")).collect();
                parts.join(":")
            };
            seen.extend(known(&at_guest.stop()).into_iter().filter(|frame| sender(frame) != own));
        }
        assert!(seen.len() > 300, "{} frames", seen.len());
        assert_same(what, &known(&at_tool.stop()), &seen);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // OVS updates what it tells every 5 s.
        std::thread::sleep(Duration::from_secs(6));
        for (namespace, device) in
            [(&self.switch, "p0"), (&self.switch, "p1"), (&self.switch, "out0"), (&self.tool, "vx7")]
        {
            eprintln!("{device}: {:?}", namespace.counters(device));
        }
        for table in ["Mirror", "Interface"] {
            eprintln!("{}", self.ovs.configure(&format!("--columns=name,statistics list {table}")));
        }
    }
}

/// What the daemon says of the link to the switch.
const DOWN: &str = "link down";
const UP: &str = "link up";

/// How often the daemon said something.
fn times(daemon: &Daemon, text: &str) -> usize {
    daemon.log().matches(text).count()
}

/// A child that is killed when dropped.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn probe() -> Frame {
    let mut data = vec![0x02, 0, 0, 0, 0, 0xfe, 0x02, 0, 0, 0, 0, 0xfc];
    data.extend(PROBE);
    data.extend([0; 46]);
    Frame { wire_len: 60, data }
}

/// Without the probes.
fn known(frames: &[Frame]) -> Vec<Frame> {
    frames.iter().filter(|frame| frame.data[12..14] != PROBE).cloned().collect()
}

/// Sends frames by a kernel interface, at a pace that two busy cores can bear.
fn send(from: &Namespace, device: &str, frames: &[Frame]) {
    let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let frames = frames.to_vec();
    let send = move || {
        let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
        let mut tx = tx.unwrap();
        for (number, frame) in frames.iter().enumerate() {
            let end = Instant::now() + Duration::from_secs(2);
            while tx.tx_frames(&[&[&frame.data]], |_, why| panic!("{why:?}")) == 0 {
                assert!(Instant::now() < end, "the kernel takes no frame");
            }
            if number % 20 == 19 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    };
    from.inside(send).join().unwrap();
}

/// Captures of all kinds of frames: one made up with tags, IPv6 and a jumbo frame, and real ones where there are any.
fn capture() -> Vec<Frame> {
    let mut frames: Vec<_> = traffic::sample()
        .into_iter()
        .map(|(_, data)| Frame { wire_len: u32::try_from(data.len()).unwrap(), data })
        .collect();
    if let Some(folder) = captures::folder() {
        let real = captures::files(&folder.join("FlowTest/pcap"));
        let real = real.iter().filter(|path| path.extension().is_some_and(|kind| kind == "pcap"));
        let whole = |frame: &Frame| {
            (14..=9000).contains(&frame.data.len()) && frame.wire_len as usize == frame.data.len()
        };
        frames.extend(known(&real.flat_map(|path| read(path)).filter(whole).collect::<Vec<_>>()));
        frames.truncate(3000);
    }
    frames
}

#[test]
fn a_mirrored_bridge_reaches_the_tool_once_and_is_left_as_it_was() {
    let Some(mut host) = Host::new("OVS-DPDK") else { return };
    let before = host.ovs.configuration();
    let all = capture();
    let frames: Vec<_> = all.iter().step_by(3).cloned().collect();

    // A dry run only tells.
    let (line, need) = host.attach("--dry-run", 0);
    assert!(line.starts_with("ovs-vsctl --timeout=10 --no-wait --db=unix:"), "{line}");
    assert!(need.contains("100 hugepages of 2048 kB; "), "{need}");
    assert_eq!(host.ovs.configuration(), before);

    // Sluice needs no switch to start.
    let daemon = host.daemon();
    let (text, need) = host.attach("", 0);
    assert!(text.contains("attached br0: port sluice-br0, mirror sluice-br0 of all ports"), "{text}");
    assert!(need.contains(" are free"), "{need}");
    let attached = host.ovs.configuration();
    assert_ne!(attached, before);
    let (text, _) = host.attach("", 0);
    assert!(text.starts_with("attached already"), "{text}");
    host.attach("--mtu 1500", 1);
    assert_eq!(host.ovs.configuration(), attached, "attach twice is harmless");
    host.wait_open();
    host.iperf("iperf3 over TCP", "-t 1 -b 20M -w 64K");
    host.iperf("iperf3 over UDP", "-u -t 1 -b 10M -l 1400");
    host.replay("a capture", &all);

    // The switch is killed and comes back.
    let (downs, ups) = (times(&daemon, DOWN), times(&daemon, UP));
    host.ovs.kill();
    daemon.wait_log_times(DOWN, downs + 1);
    host.ovs.revive();
    daemon.wait_log_times(UP, ups + 1);
    host.wait_open();
    host.replay("a capture after a restart of OVS", &frames);
    host.iperf("iperf3 after a restart of OVS", "-t 1 -b 20M -w 64K");

    // Sluice ends and comes back.
    let summary = daemon.stop();
    assert_eq!(summary.rx(), summary.tx(), "{}", summary.text);
    assert!(!Path::new(&host.socket()).exists());
    let mut daemon = host.daemon();
    host.wait_open();
    host.replay("a capture after a restart of Sluice", &frames);

    // Sluice is killed and comes back.
    daemon.signal(Signal::KILL);
    assert!(!daemon.wait().0.success());
    assert!(Path::new(&host.socket()).exists());
    let mut daemon = host.daemon();
    host.wait_open();
    host.replay("a capture after Sluice was killed", &frames);
    wait_for("OVS to tell", Duration::from_secs(10), || {
        host.status()["connected"].as_bool().filter(|&up| up)
    });
    assert_eq!(host.ovs.configuration(), attached, "neither side touched it");

    // Away, with Sluice running.
    let downs = times(&daemon, DOWN);
    host.sluice(&format!("detach {BRIDGE}"), 0);
    assert_eq!(host.ovs.configuration(), before);
    host.sluice(&format!("detach {BRIDGE}"), 5);
    daemon.wait_log_times(DOWN, downs + 1);
    let before_frames = host.arrived();
    for (guest, (device, _, _)) in host.guests.iter().zip(GUESTS) {
        send(guest, device, &frames);
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(host.arrived(), before_frames, "nothing is mirrored any more");

    // And away, when Sluice is dead; the switch comes back without.
    host.attach("--select p0", 0);
    let status = host.status();
    assert_eq!((&status["select"][0], &status["select_all"]), (&Value::from("p0"), &Value::from(false)));
    host.wait_open();
    daemon.signal(Signal::KILL);
    daemon.wait();
    host.sluice(&format!("detach {BRIDGE}"), 0);
    assert_eq!(host.ovs.configuration(), before);
    host.ovs.kill();
    host.ovs.revive();
    assert_eq!(host.ovs.configuration(), before);

    // A switch that finds no memory says so nowhere but in its log; we see what it does not do.
    // It is up when it has made the port.
    host.attach("", 0);
    let none_left = Pages::exhaust();
    let daemon = host.daemon();
    let warning = wait_for("the state of a switch without memory", Duration::from_secs(30), || {
        let Output { stdout, stderr, .. } = host.inside(&format!("status {BRIDGE}"));
        let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8(text).unwrap());
        stdout.contains("not served by OVS").then_some(stderr)
    });
    assert!(warning.contains("warning: br0: OVS is connected") && warning.contains("hugepages"), "{warning}");
    drop(none_left);
    host.sluice(&format!("detach {BRIDGE}"), 0);
    host.attach("", 0);
    host.wait_open();
    wait_for("the switch to serve it", Duration::from_secs(10), || {
        String::from_utf8(host.inside(&format!("status {BRIDGE}")).stdout)
            .unwrap()
            .contains(" connected ")
            .then_some(())
    });
    daemon.stop();
    host.sluice(&format!("detach {BRIDGE}"), 0);
}

#[test]
fn what_cannot_be_attached_is_refused() {
    let Some(host) = Host::new("refusals of OVS-DPDK") else { return };
    let (_, told) = host.sluice("attach br9", 5);
    assert!(told.contains("there is no bridge br9; there is br0"), "{told}");
    let before = host.ovs.configuration();
    let (_, told) = host.attach("--port p0", 1);
    assert!(told.contains("there is a port p0 already, which is not Sluice's"), "{told}");
    host.attach("--select p7", 5);
    host.attach("--mtu 70", 2);
    host.sluice("status br0", 5);
    assert_eq!(host.ovs.configuration(), before);
    // Somebody else uses our port: neither attach nor detach may touch that.
    host.attach("", 0);
    host.ovs.configure(
        "-- --id=@out get Port sluice-br0 -- --id=@in get Port p0 -- --id=@m create Mirror name=span \
         select_src_port=@in output_port=@out -- add Bridge br0 mirrors @m",
    );
    let shared = host.ovs.configuration();
    let (_, told) = host.sluice("detach br0", 1);
    assert!(told.contains("mirror span, which is not Sluice's, outputs to port sluice-br0"), "{told}");
    host.attach("", 1);
    assert_eq!(host.ovs.configuration(), shared);
    host.ovs.configure("-- --id=@m get Mirror span -- remove Bridge br0 mirrors @m");
    host.sluice("detach br0", 0);
    assert_eq!(host.ovs.configuration(), before);
}
