//! Does a dry run count on live traffic what its policies would match, and leave the traffic alone?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::path::Path;
use std::time::Duration;

use sluice_api::v1;
use sluice_api::v1::dry_run_response::Step;
use sluice_api::v1::policy_service_client::PolicyServiceClient;
use sluice_tests::api;
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::tap::{TOOL, Tap};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

const BOOT: &str = concat!(
    sluice_tests::tap_ports!(),
    r#"
[flow]

[api]
socket = "api.sock"
"#
);
/// Bytes of an Ethernet, an IPv4 and a UDP header.
const HEADERS: u64 = 42;

fn policy(rest: &str) -> String {
    format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{}\"\n\
         [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\ntag = 7\nto = [\"tool\"]\n{rest}",
        TOOL[0]
    )
}

const TRIED: &str = r#"
[[policy]]
name = "short"
protocol = "udp"
payload = 10
tag = 8
to = ["tool"]
[[policy]]
name = "large"
length = "1000-9000"
headers = "inner"
tag = 9
to = ["tool"]
[[policy]]
name = "nothing"
collect = { addresses = ["203.0.113.0/24"] }
to = ["tool"]
[[policy]]
name = "off"
enabled = false
to = ["tool"]
"#;

async fn connect(socket: &Path) -> PolicyServiceClient<Channel> {
    PolicyServiceClient::new(api::channel(socket).await)
}

fn request(text: &str, live_ms: u32, interval_ms: u32) -> v1::DryRunRequest {
    v1::DryRunRequest { set: Some(api::policy_set(text)), live_ms, interval_ms }
}

async fn next(stream: &mut Streaming<v1::DryRunResponse>) -> Option<Step> {
    stream.message().await.unwrap().map(|response| response.step.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn live_traffic_is_counted_and_left_alone() {
    let Some(mut lab) = Lab::new("dryrun") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    tap.vxlan(7, TOOL[0]);
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy(""));
    daemon.wait_log("the API is served");
    daemon.wait_resolved(1);
    let mut client = connect(&lab.dir().join("api.sock")).await;

    let mut stream = client.dry_run(request(&policy(TRIED), 3_000, 100)).await.unwrap().into_inner();
    let Some(Step::Plan(plan)) = next(&mut stream).await else { panic!("the plan comes first") };
    assert!(plan.valid && plan.generation == 1 && plan.diff.unwrap().changes.len() == 4);
    // One at a time.
    let busy = client.dry_run(request(&policy(TRIED), 1_000, 0)).await.unwrap_err();
    assert_eq!(busy.code(), Code::ResourceExhausted);
    let Some(Step::Counts(first)) = next(&mut stream).await else { panic!("counts come then") };
    assert!(!first.last && first.sampling == 1, "{first:?}");
    tap.flood(300, 200);
    tap.flood(200, 1_200);
    let mut last = first;
    while let Some(Step::Counts(counts)) = next(&mut stream).await {
        assert!(counts.packets >= last.packets && counts.elapsed_ms > last.elapsed_ms);
        last = counts;
    }
    assert!(last.last && last.elapsed_ms >= 3_000, "{last:?}");
    let row = |name: &str| {
        let row = last.policies.iter().find(|row| row.name == name).unwrap();
        (row.packets, row.bytes)
    };
    let names: Vec<&str> = last.policies.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["udp", "short", "large", "nothing"]);
    // Neighbours speak, too; UDP is what we send.
    let bytes = 300 * (200 + HEADERS) + 200 * (1_200 + HEADERS);
    assert_eq!((row("udp"), row("short")), ((500, bytes), (500, bytes)));
    assert_eq!((row("large"), row("nothing")), ((200, 200 * (1_200 + HEADERS)), (0, 0)));
    assert_eq!(last.packets - last.unmatched_packets, 500);
    let tool = &last.destinations[0];
    // Tag 7 and 9 whole, tag 8 cut after 10 bytes of payload.
    let copied = bytes + 200 * (1_200 + HEADERS) + 500 * (10 + HEADERS);
    assert_eq!((tool.name.as_str(), tool.copies, tool.bytes), ("tool", 1_200, copied));

    // Another one may come now; when its client goes, it ends.
    let mut stream = client.dry_run(request(&policy(TRIED), 60_000, 100)).await.unwrap().into_inner();
    assert!(matches!(next(&mut stream).await, Some(Step::Plan(_))));
    drop(stream);
    let again = async {
        loop {
            match client.dry_run(request(&policy(TRIED), 100, 0)).await {
                Ok(stream) => break stream.into_inner(),
                Err(busy) => assert_eq!(busy.code(), Code::ResourceExhausted),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut stream = tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
    assert!(matches!(next(&mut stream).await, Some(Step::Plan(_))));
    let Some(Step::Counts(counts)) = next(&mut stream).await else { panic!("counts at the end") };
    assert!(counts.last && counts.policies[0].packets == 0, "{counts:?}");
    assert!(next(&mut stream).await.is_none());

    // What is wrong, or asks for no counts, has a plan alone; what cannot be is refused.
    for (text, live_ms) in
        [(policy("").replace("remote", "port = \"tap0\"\nremote"), 1_000), (policy(TRIED), 0)]
    {
        let mut stream = client.dry_run(request(&text, live_ms, 0)).await.unwrap().into_inner();
        let Some(Step::Plan(plan)) = next(&mut stream).await else { panic!("a plan") };
        assert_eq!(plan.valid, live_ms == 0, "{plan:?}");
        assert!(next(&mut stream).await.is_none());
    }
    for (live_ms, interval_ms) in [(60_001, 0), (1_000, 99), (1_000, 60_001)] {
        let refused = client.dry_run(request(&policy(TRIED), live_ms, interval_ms)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }

    // The policies in force decided alone.
    let enough = || (tap.tool.counters("vx7").rx_packets >= 500).then_some(());
    wait_for("the copies", Duration::from_secs(5), enough);
    let summary = daemon.stop();
    assert_eq!((summary.get("policy", "udp", 0), summary.copies("tool")), (500, 500));
    assert_eq!(tap.tool.counters("vx7").rx_packets, 500);
}
