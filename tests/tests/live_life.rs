//! Does the life cycle hold on a running daemon: stop and start, across restarts; exceptions that come and go; limits that
//! protect; what systemd is told?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sluice_api::v1;
use sluice_api::v1::status_service_client::StatusServiceClient;
use sluice_tests::api;
use sluice_tests::daemon::{Daemon, binary};
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::tap::{TOOL, Tap};
use sluice_tests::tcpdump::tshark;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(20);

fn boot(more: &str) -> String {
    format!(
        "[[port]]\nname = \"tap0\"\nspec = \"af_packet:tap0\"\nrole = \"capture\"\n\
         [[port]]\nname = \"out0\"\nspec = \"af_packet:out0\"\nrole = \"output\"\naddresses = [\"192.0.2.1/24\"]\n\
         [api]\nsocket = \"api.sock\"\n{more}\n"
    )
}

fn policy() -> String {
    format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{}\"\n\
         [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\ntag = 7\nto = [\"tool\"]\n",
        TOOL[0]
    )
}

type Client = StatusServiceClient<Channel>;

async fn connect(lab: &Lab, daemon: &Daemon) -> Client {
    daemon.wait_log("the API is served");
    StatusServiceClient::new(api::channel(&lab.dir().join("api.sock")).await)
}

async fn status(client: &mut Client) -> v1::Status {
    client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner()
}

/// Waits for a status; every one on the way balances.
async fn wait(client: &mut Client, what: &str, wanted: impl Fn(&v1::Status) -> bool) -> v1::Status {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = status(client).await;
        assert!(now.account.unwrap().balanced, "{now:?}");
        if wanted(&now) {
            return now;
        }
        assert!(Instant::now() < end, "timed out waiting for {what}: {now:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn exceptions(status: &v1::Status) -> Vec<(&str, &str)> {
    status.exceptions.iter().map(|own| (own.code.as_str(), own.subject.as_str())).collect()
}

fn copies(tap: &Tap, packets: u64) {
    let enough = || (tap.tool.counters("vx7").rx_packets >= packets).then_some(());
    wait_for("the copies", Duration::from_secs(5), enough);
    assert_eq!(tap.tool.counters("vx7").rx_packets, packets);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_holds_until_the_start_and_across_restarts() {
    let Some(mut lab) = Lab::new("life-stop") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    let _sink = tap.sink();
    let config = boot("[store]\nfolder = \"kept\"\n[protection]\ninterval = \"100ms\"\n");
    let daemon = Daemon::start(&lab, &tap.broker, &config, &policy());
    daemon.wait_resolved(1);
    let mut client = connect(&lab, &daemon).await;
    wait(&mut client, "running", |now| now.state() == v1::State::Running).await;
    tap.flood(50, 200);
    copies(&tap, 50);

    let long = v1::StopRequest { comment: "x".repeat(1_001) };
    assert_eq!(client.stop(long).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let watch = v1::WatchStatusRequest { interval_ms: 3_600_000 };
    let mut watched = client.watch_status(watch).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().state(), v1::State::Running);
    let stopped =
        client.stop(v1::StopRequest { comment: "moving racks".to_owned() }).await.unwrap().into_inner();
    assert_eq!(stopped.state(), v1::State::Stopped);
    assert!(stopped.state_since_ns > stopped.started_at_ns);
    let told = tokio::time::timeout(PATIENCE, watched.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(told.state(), v1::State::Stopped, "a watcher hears of it at once");
    tap.flood(40, 200);
    wait(&mut client, "drops", |now| now.account.unwrap().drops >= 40).await;
    copies(&tap, 50);
    let summary = daemon.stop();
    assert_eq!((summary.copies("tool"), summary.dropped("stopped")), (50, 40), "{}", summary.text);

    // It begins as it ended, before the first packet, and so does one that was killed.
    for _ in 0..2 {
        let daemon = Daemon::start(&lab, &tap.broker, &config, &policy());
        let mut client = connect(&lab, &daemon).await;
        assert_eq!(status(&mut client).await.state(), v1::State::Stopped);
        tap.flood(10, 200);
        wait(&mut client, "drops", |now| now.account.unwrap().drops >= 10).await;
        copies(&tap, 50);
        daemon.signal(Signal::KILL);
    }
    let daemon = Daemon::start(&lab, &tap.broker, &config, &policy());
    daemon.wait_resolved(1);
    let mut client = connect(&lab, &daemon).await;
    let started = client.start(v1::StartRequest { comment: "done".to_owned() }).await.unwrap().into_inner();
    assert_eq!(started.state(), v1::State::SelfCheck);
    wait(&mut client, "running", |now| now.state() == v1::State::Running).await;
    tap.flood(30, 200);
    copies(&tap, 80);
    assert_eq!(daemon.stop().copies("tool"), 30);
    assert!(!lab.dir().join("kept/stopped").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn exceptions_come_and_go() {
    let Some(mut lab) = Lab::new("life-exceptions") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    let _sink = tap.sink();
    let disk = lab.small_disk(90 << 10);
    let more = format!(
        "[store]\nfolder = \"{}\"\n[protection]\ninterval = \"100ms\"\ncapture_kpps = 1\n",
        disk.display()
    );
    let daemon = Daemon::start(&lab, &tap.broker, &boot(&more), &policy());
    let mut client = connect(&lab, &daemon).await;
    daemon.wait_resolved(1);
    // Less than 100 MB in all: from the start on.
    let disk = disk.display().to_string();
    let now = wait(&mut client, "disk_low", |now| exceptions(now) == [("disk_low", &*disk)]).await;
    assert_eq!(now.state(), v1::State::Exception);
    assert!(now.exceptions[0].text.contains("free_disk_mb") && now.exceptions[0].since_ns > 0);
    assert!(daemon.log().contains("exception raised"));
    // What can go on does.
    tap.flood(5, 200);
    copies(&tap, 5);

    tap.broker.ip("link set dev out0 down");
    wait(&mut client, "port_down", |now| exceptions(now).contains(&("port_down", "out0"))).await;
    tap.broker.ip("link set dev out0 up");
    wait(&mut client, "the link", |now| exceptions(now) == [("disk_low", &*disk)]).await;
    daemon.wait_log("exception cleared");

    // 1,000 packets/s and 10 at once.
    tap.flood(2_000, 200);
    let now =
        wait(&mut client, "capture_limit", |now| exceptions(now).contains(&("capture_limit", ""))).await;
    assert!(now.account.unwrap().drops > 0);
    wait(&mut client, "its end", |now| exceptions(now) == [("disk_low", &*disk)]).await;
    let summary = daemon.stop();
    assert!(summary.dropped("capture_limit") > 0, "{}", summary.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_file_goes_on_when_there_is_room_again() {
    let Some(mut lab) = Lab::new("life-file") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let disk = lab.small_disk(1 << 10);
    let (file, filler) = (disk.join("copies.pcap"), disk.join("filler"));
    let policy = format!(
        "[[destination]]\nname = \"file\"\ntype = \"pcap\"\nfile = \"{}\"\n\
         [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\nto = [\"file\"]\n",
        file.display()
    );
    let config = boot("[protection]\ninterval = \"100ms\"\nfree_disk_mb = 0\n");
    let daemon = Daemon::start(&lab, &tap.broker, &config, &policy);
    let mut client = connect(&lab, &daemon).await;
    tap.flood(100, 1000);
    std::fs::write(&filler, vec![0; 700 << 10]).unwrap();
    tap.flood(500, 1000);
    let subject = file.display().to_string();
    let failed = |now: &v1::Status| exceptions(now).contains(&("file_failed", &*subject));
    let now = wait(&mut client, "file_failed", failed).await;
    assert!(now.exceptions[0].text.contains("No space left"), "{now:?}");
    daemon.wait_log("capture file failed");
    // It is tried again while there is no room, and told once.
    tap.flood(20, 1000);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    tap.flood(20, 1000);
    std::fs::remove_file(&filler).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    tap.flood(50, 1000);
    wait(&mut client, "the end of file_failed", |now| now.exceptions.is_empty()).await;
    tap.flood(50, 1000);
    assert_eq!(daemon.log().matches("capture file failed").count(), 1, "{}", daemon.log());
    assert!(daemon.log().contains("the capture file goes on"), "{}", daemon.log());
    let summary = daemon.stop();
    let written = tshark(&file, "udp", &["frame.len"], &[]).len() as u64;
    assert_eq!(written, summary.copies("file"), "{}", summary.text);
    assert!(written >= 200 && summary.dropped("file_write") >= 40, "{}", summary.text);
    assert_eq!(written + summary.dropped("file_write"), 740, "{}", summary.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn load_above_the_limit_is_dropped_until_it_falls() {
    let Some(mut lab) = Lab::new("life-protection") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    let _sink = tap.sink();
    // What it takes without traffic depends on machine and build.
    let daemon = Daemon::start(&lab, &tap.broker, &boot("[protection]\ninterval = \"200ms\"\n"), &policy());
    let mut client = connect(&lab, &daemon).await;
    let mut idle = 0;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        idle = status(&mut client).await.cpu_millicores.max(idle);
    }
    daemon.stop();
    let limit = 20 + 2 * idle;
    let more = format!("[protection]\ninterval = \"200ms\"\ncpu_millicores = {limit}\ncgroup = \"off\"\n");
    let daemon = Daemon::start(&lab, &tap.broker, &boot(&more), &policy());
    daemon.wait_resolved(1);
    let mut client = connect(&lab, &daemon).await;
    wait(&mut client, "running", |now| now.state() == v1::State::Running).await;
    let flooding = Instant::now();
    let mut seen = false;
    while !seen && flooding.elapsed() < PATIENCE {
        tap.flood(3_000, 100);
        seen = status(&mut client).await.state() == v1::State::Protection;
    }
    assert!(seen, "{:?}", status(&mut client).await);
    assert_eq!(status(&mut client).await.cpu_limit_millicores, limit);
    tap.flood(500, 100);
    wait(&mut client, "the load to fall", |now| now.state() == v1::State::Running).await;
    let before = tap.tool.counters("vx7").rx_packets;
    tap.flood(5, 100);
    copies(&tap, before + 5);
    let summary = daemon.stop();
    assert!(summary.dropped("protection") > 0, "{}", summary.text);
}

#[test]
fn systemd_is_told() {
    let Some(mut lab) = Lab::new("life-notify") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let path = lab.dir().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut heard: Vec<String> = Vec::new();
    let mut hear = |wanted: &str| {
        let end = Instant::now() + PATIENCE;
        let from = heard.len();
        while !heard[from..].iter().any(|message| message.starts_with(wanted)) {
            assert!(Instant::now() < end, "no {wanted}: {heard:?}");
            let mut bytes = [0; 512];
            if let Ok(len) = socket.recv(&mut bytes) {
                heard.push(String::from_utf8_lossy(&bytes[..len]).into_owned());
            }
        }
        heard.last().unwrap().clone()
    };
    let mut command = tap.broker.command("env");
    command.arg(format!("NOTIFY_SOCKET={}", path.display())).arg("WATCHDOG_USEC=1000000").arg(binary());
    let config = boot("[log]\nformat = \"json\"\n");
    let mut daemon = Daemon::spawn(command, lab.dir(), &config, &policy());
    hear("READY=1");
    // Whatever the state was at that moment, the last word is what it is now.
    assert_eq!(hear("STATUS="), "STATUS=running");
    for _ in 0..3 {
        hear("WATCHDOG=1");
    }
    // Held, it is silent: systemd would end it.
    daemon.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(300));
    while socket.recv(&mut [0; 512]).is_ok() {}
    daemon.signal(Signal::CONT);
    daemon.signal(Signal::HUP);
    assert!(hear("RELOADING=1").contains("\nMONOTONIC_USEC="));
    hear("READY=1");
    assert_eq!(hear("STATUS="), "STATUS=running");
    daemon.signal(Signal::INT);
    hear("STOPPING=1");
    let (end, _) = daemon.wait();
    assert!(end.success(), "{}", daemon.log());
    let line = daemon.log().lines().find(|line| line.contains("running;")).unwrap().to_owned();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["ports"]), (&"info".into(), &2.into()));
}

/// A group of the test in the hierarchy of version 1 of a controller; gone when dropped.
struct Group(std::path::PathBuf);

impl Group {
    fn new(controller: &str) -> std::io::Result<Self> {
        let path =
            Path::new("/sys/fs/cgroup").join(controller).join(format!("sluice-test-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(std::fs::remove_dir(&self.0));
    }
}

#[test]
fn the_kernel_holds_it_to_its_limits_in_a_group_of_its_own() {
    let Some(mut lab) = Lab::new("life-cgroup") else { return };
    let made = ["cpu", "memory"].map(Group::new);
    let [Ok(cpu), Ok(memory)] = made else {
        // Version 2 alone, or read-only: nothing that a test could make groups of.
        let here = Path::new("/sys/fs/cgroup/cpu/cgroup.procs").exists();
        assert!(
            !here || std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "no control groups can be made"
        );
        sluice_tests::left_out("life-cgroup: no control groups of version 1 can be made here");
        return;
    };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    let _sink = tap.sink();
    // The daemon finds itself in the groups of the test. `ip netns exec` would hide them behind a /sys of its own.
    let mut command = Command::new("sh");
    let script = format!(
        "echo $$ > {}/cgroup.procs && echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"",
        cpu.0.display(),
        memory.0.display()
    );
    command.arg("-c").arg(script).arg(binary());
    let config = boot("[protection]\ncpu_millicores = 1500\nmemory_mb = 1024\n");
    let dir = lab.dir().to_owned();
    let daemon = tap.broker.inside(move || Daemon::spawn(command, &dir, &config, &policy())).join().unwrap();
    daemon.wait_log("running;");
    daemon.wait_resolved(1);
    let own = |group: &Group| group.0.join(format!("sluice-{}", daemon.pid()));
    let read = |group: &Group, file: &str| std::fs::read_to_string(own(group).join(file)).unwrap();
    assert_eq!(read(&cpu, "cpu.cfs_quota_us").trim(), "150000");
    assert_eq!(read(&memory, "memory.limit_in_bytes").trim(), (1024_u64 << 20).to_string());
    for group in [&cpu, &memory] {
        assert_eq!(read(group, "cgroup.procs").trim(), daemon.pid().to_string());
    }
    tap.flood(20, 200);
    copies(&tap, 20);
    let places = [own(&cpu), own(&memory)];
    assert_eq!(daemon.stop().copies("tool"), 20);
    assert!(places.iter().all(|place| !place.exists()), "nothing stays behind");
}
