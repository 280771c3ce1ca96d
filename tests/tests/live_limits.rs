//! Do the limits of the boot config change in a running daemon, is all else refused by name, and is each limit that is
//! reached told?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sluice_af_packet::{AfPacketConfig, TxConfig};
use sluice_api::v1;
use sluice_api::v1::status_service_client::StatusServiceClient;
use sluice_tests::api;
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, Namespace, wait_for};
use sluice_tests::tap::{PORTS, TOOL, Tap};

const PATIENCE: Duration = Duration::from_secs(20);
const REST: &str = "[api]\nsocket = \"api.sock\"\n[eal]\nhugepages = \"never\"\n[memory]\nmbufs = 8191\n";

fn policy() -> String {
    format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{}\"\n\
         [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\ntag = 7\nto = [\"tool\"]\n",
        TOOL[0]
    )
}

/// Waits for a status; every one on the way balances.
async fn wait(lab: &Lab, what: &str, wanted: impl Fn(&v1::Status) -> bool) -> v1::Status {
    let mut client = StatusServiceClient::new(api::channel(&lab.dir().join("api.sock")).await);
    let end = Instant::now() + PATIENCE;
    loop {
        let now = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        assert!(now.account.unwrap().balanced, "{now:?}");
        if wanted(&now) {
            return now;
        }
        assert!(Instant::now() < end, "timed out waiting for {what}: {now:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn raised(status: &v1::Status, code: &str, subject: &str) -> bool {
    status.exceptions.iter().any(|own| own.code == code && own.subject == subject)
}

/// Sends about 30 Mbit/s for so long, beside the daemon.
fn fill(from: &Namespace, device: &str, time: Duration) {
    let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
    let send = move || {
        let (_port, _, tx) = sluice_af_packet::open(&config).unwrap();
        let mut tx = tx.unwrap();
        // To nobody, of an EtherType for experiments (IEEE Std 802, 0x88b5).
        let mut frame = vec![0; 1_000];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5]);
        let begin = Instant::now();
        while begin.elapsed() < time {
            for _ in 0..40 {
                tx.tx_frames(&[&[&frame]], |_, why| panic!("{why:?}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    from.inside(send).join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_the_daemon_runs() {
    let Some(mut lab) = Lab::new("limits") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    let _sink = tap.sink();
    let boot = |more: &str| format!("{more}\n{PORTS}{REST}[protection]\ninterval = \"100ms\"\n");
    let daemon = Daemon::start(&lab, &tap.broker, &boot(""), &policy());
    daemon.wait_resolved(1);
    daemon.wait_log("the API is served");
    let mut taken = 0;
    let mut reload = |text: &str| {
        let path = lab.dir().join("boot.toml");
        std::fs::write(path, format!("policy = \"policy.toml\"\n{text}")).unwrap();
        daemon.signal(Signal::HUP);
        taken += 1;
        daemon.wait_log_times("changes of the boot config are in force", taken);
    };
    let copies = |packets: u64| {
        let enough = || (tap.tool.counters("vx7").rx_packets >= packets).then_some(());
        wait_for("the copies", Duration::from_secs(5), enough);
    };
    tap.flood(2_000, 200);
    copies(2_000);

    // A rate of all destinations together.
    reload(&boot("[limit]\nrate_pps = 100\n"));
    tap.flood(2_000, 200);
    wait(&lab, "distribution_limit", |now| raised(now, "distribution_limit", "tool")).await;
    let socket = lab.dir().join("api.sock");
    let limited = api::drops(&socket, "rate_limit").await;
    assert!(limited > 1_500, "{limited}");

    // Another one, in its place; what needs a restart is named.
    let third = "[[port]]\nname = \"third\"\nspec = \"pcap:third.pcap\"\nrole = \"capture\"\n";
    reload(&boot(&format!("loop_guard = false\n[limit]\nrate_mbps = 900\n{third}")));
    daemon.wait_log("need a restart");
    assert!(daemon.log().contains(r#"refused="loop_guard""#), "{}", daemon.log());
    daemon.wait_log("a capture file is read from the start: restart the daemon for it");
    tap.flood(500, 200);
    assert_eq!(api::drops(&socket, "rate_limit").await, limited, "the rate is far away");
    wait(&lab, "the end of distribution_limit", |now| now.exceptions.is_empty()).await;

    // Packets that come in.
    reload(&boot("").replace("interval", "capture_kpps = 1\ninterval"));
    tap.flood(2_000, 200);
    wait(&lab, "capture_limit", |now| raised(now, "capture_limit", "")).await;
    reload(&boot(""));
    let captured = api::drops(&socket, "capture_limit").await;
    assert!(captured > 0);

    // The breaker of the output: others fill the link.
    reload(&boot(
        "[limit]\nrate_mbps = 1\nburst_ms = 10000\n[breaker]\nthreshold_mbps = 5\ninterval = \"100ms\"\n",
    ));
    fill(&tap.broker, "out0", Duration::from_millis(600));
    wait(&lab, "breaker_open", |now| raised(now, "breaker_open", "out0")).await;
    tap.flood(20, 200);
    let end = Instant::now() + PATIENCE;
    while api::drops(&socket, "breaker").await == 0 {
        assert!(Instant::now() < end, "no copy was dropped");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It closes by itself after five quiet intervals.
    wait(&lab, "the breaker to close", |now| !raised(now, "breaker_open", "out0")).await;
    tap.flood(20, 200);
    fill(&tap.broker, "out0", Duration::from_millis(600));
    wait(&lab, "breaker_open again", |now| raised(now, "breaker_open", "out0")).await;
    // Switched off, it is closed at once.
    reload(&boot(""));
    let (by_breaker, before) = (api::drops(&socket, "breaker").await, tap.tool.counters("vx7").rx_packets);
    tap.flood(50, 200);
    copies(before + 50);
    assert_eq!(api::drops(&socket, "breaker").await, by_breaker);

    // A config with an error changes nothing, and is no end.
    std::fs::write(lab.dir().join("boot.toml"), "policy = 7\n[limit]\nrate_pps = 1\n").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_log("the boot config has errors");
    tap.flood(200, 200);
    copies(before + 250);
    let generation = wait(&lab, "a status", |_| true).await.generation;
    assert_eq!(generation, 1, "limits are no generation of policies");

    let summary = daemon.stop();
    assert_eq!(summary.dropped("rate_limit"), limited);
    assert_eq!(summary.dropped("capture_limit"), captured);
    let drops = limited + summary.dropped("breaker");
    assert_eq!(summary.get("policy", "udp", 0), summary.copies("tool") + drops, "{}", summary.text);
}
