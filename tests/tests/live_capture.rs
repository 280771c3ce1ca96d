//! Do live captures show what comes and what leaves, byte for byte, and does traffic never wait for who looks at it?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sluice_api::v1;
use sluice_api::v1::capture_service_client::CaptureServiceClient;
use sluice_api::v1::counter_service_client::CounterServiceClient;
use sluice_api::v1::policy_service_client::PolicyServiceClient;
use sluice_capture::CaptureReader;
use sluice_tests::api::{channel, policy_set};
use sluice_tests::captures;
use sluice_tests::daemon::Daemon;
use sluice_tests::feed::Feed;
use sluice_tests::netns::Lab;
use sluice_tests::pcap_file::{Builder, ETHERNET, Record};
use sluice_tests::tap::{TOOL, Tap};
use sluice_tests::traffic::{self, End};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

/// What comes while nobody reads: more than fits into all that waits for the reader.
const PACKETS: u64 = 80_000;

fn boot(feed: &Feed) -> String {
    format!(
        "[[port]]\nname = \"file0\"\nspec = \"{}\"\nrole = \"capture\"\n\
         [[port]]\nname = \"out0\"\nspec = \"af_packet:out0\"\nrole = \"output\"\naddresses = [\"192.0.2.1/24\"]\n\
         [api]\nsocket = \"api.sock\"\n",
        feed.spec()
    )
}

/// Web traffic goes to the tool, that of one port to two destinations.
fn policies() -> String {
    format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{tool}\"\n\
         [[destination]]\nname = \"file\"\ntype = \"pcap\"\nfile = \"copies.pcap\"\n\
         [[policy]]\nname = \"tls\"\nprotocol = \"tcp\"\npeer = {{ ports = 443 }}\ntag = 443\nto = [\"tool\"]\n\
         [[policy]]\nname = \"dns\"\npeer = {{ ports = 53 }}\ntag = 53\nto = [\"tool\", \"file\"]\n",
        tool = TOOL[0]
    )
}

/// A stream that was read to its end.
#[derive(Debug, Default)]
struct Captured {
    pcapng: Vec<u8>,
    packets: u64,
    lost: u64,
    end: i32,
}

async fn read(mut stream: Streaming<v1::CaptureChunk>, captured: &mut Captured) {
    while let Some(chunk) = stream.message().await.unwrap() {
        captured.pcapng.extend(&chunk.pcapng);
        captured.packets += chunk.packets;
        captured.lost = chunk.lost;
        captured.end = chunk.end;
    }
}

async fn read_all(stream: Streaming<v1::CaptureChunk>) -> Captured {
    let mut captured = Captured::default();
    tokio::time::timeout(Duration::from_secs(60), read(stream, &mut captured)).await.unwrap();
    captured
}

/// Begins a capture; its first message is there, so all workers capture.
async fn begin(
    client: &mut CaptureServiceClient<Channel>,
    request: v1::CaptureRequest,
) -> Streaming<v1::CaptureChunk> {
    client.capture(request).await.unwrap().into_inner()
}

type Packet = (u64, u32, Vec<u8>);

fn packets(file: &[u8]) -> Vec<Packet> {
    let mut reader =
        CaptureReader::from_reader("packets", Box::new(std::io::Cursor::new(file.to_vec()))).unwrap();
    let mut packets = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        packets.push((frame.timestamp_ns, frame.wire_len, frame.data.to_vec()));
    }
    packets
}

/// The packets of a file that fit a BPF filter, by tcpdump.
fn by_tcpdump(file: &Path, filter: &str) -> Vec<Packet> {
    let output = Command::new("tcpdump").arg("-r").arg(file).args(["-w", "-", filter]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    packets(&output.stdout)
}

fn tshark(folder: &Path, pcapng: &[u8], arguments: &str) -> String {
    let file = folder.join("sent.pcapng");
    std::fs::write(&file, pcapng).unwrap();
    let output = Command::new("tshark").arg("-r").arg(file).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ports(ports: &str) -> v1::Side {
    v1::Side { ports: vec![ports.to_owned()], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn captures_show_what_comes_and_what_leaves() {
    let (Some(folder), Some(mut lab)) = (captures::folder(), Lab::new("capture")) else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let file = lab.dir().join("mix.pcap");
    let unpacked = Command::new("gzip").arg("-dc").arg(folder.join("mix-open/mix-open.pcap.gz")).output();
    let original = unpacked.unwrap().stdout;
    std::fs::write(&file, &original).unwrap();
    let feed = Feed::new(lab.dir(), &original[..24]);
    let daemon = Daemon::start(&lab, &tap.broker, &boot(&feed), &policies());
    daemon.wait_log("the API is served");
    daemon.wait_resolved(1);
    let mut client = CaptureServiceClient::new(channel(&lab.dir().join("api.sock")).await);

    // What cannot be captured is refused, with all that is wrong.
    let wrong = v1::CaptureRequest {
        filter: Some(v1::PacketFilter { peer: Some(ports("90-80")), ..Default::default() }),
        ports: vec!["file1".to_owned()],
        policies: vec!["tls".to_owned()],
        snaplen: 13,
        max_bytes: 40,
        ..Default::default()
    };
    let refused = client.capture(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for part in [
        "filter: error: peer.ports[0]: reversed range 90-80",
        "ports[0]: ",
        "policies: ",
        "snaplen: ",
        "max_bytes: ",
    ] {
        assert!(refused.message().contains(part), "{part} in {refused}");
    }

    let tls =
        v1::PacketFilter { protocol: vec!["tcp".to_owned()], peer: Some(ports("443")), ..Default::default() };
    let received = v1::CaptureRequest { filter: Some(tls.clone()), ..Default::default() };
    let received = begin(&mut client, v1::CaptureRequest { max_duration_ms: 12_000, ..received }).await;
    let sent = v1::CaptureRequest {
        point: v1::CapturePoint::Sent.into(),
        filter: Some(tls),
        policies: vec!["tls".to_owned()],
        max_duration_ms: 12_000,
        ..Default::default()
    };
    let sent = begin(&mut client, sent).await;
    let dns = v1::CaptureRequest {
        point: v1::CapturePoint::Sent.into(),
        policies: vec!["dns".to_owned()],
        destinations: vec!["file".to_owned()],
        snaplen: 60,
        max_duration_ms: 12_000,
        ..Default::default()
    };
    let dns = begin(&mut client, dns).await;
    let few = v1::CaptureRequest { max_packets: 10, sampling: 100, ..Default::default() };
    let few = begin(&mut client, few).await;
    let fifth = client.capture(v1::CaptureRequest::default()).await.unwrap_err();
    assert_eq!(fifth.code(), Code::ResourceExhausted, "{fifth}");

    let all = tokio::spawn(async move {
        tokio::join!(read_all(received), read_all(sent), read_all(dns), read_all(few))
    });
    feed.send(&original[24..]);
    let (received, sent, dns, few) = all.await.unwrap();

    // Received: the packets of the file that tcpdump finds, with their times, lengths and bytes.
    let expected =
        by_tcpdump(&file, "tcp port 443 or (vlan and tcp port 443) or (vlan and vlan and tcp port 443)");
    assert!(expected.len() > 5000);
    assert_eq!((received.lost, received.packets), (0, expected.len() as u64));
    assert_eq!(received.end, i32::from(v1::CaptureEnd::Duration));
    assert!(packets(&received.pcapng) == expected, "the packets of tcpdump");
    let interfaces = tshark(
        lab.dir(),
        &received.pcapng,
        "-T fields -e frame.interface_name -e frame.packet_flags_direction -c 1",
    );
    assert_eq!(interfaces.trim(), "file0\t0x00000001");

    // Sent: each of them in VXLAN, to the tool.
    let fields = "-T fields -e frame.interface_name -e ip.dst -e udp.dstport -e vxlan.vni -E occurrence=f";
    let lines = tshark(lab.dir(), &sent.pcapng, fields);
    assert_eq!((sent.lost, sent.packets), (0, expected.len() as u64));
    assert_eq!(lines.lines().count(), expected.len());
    let line = format!("out0\t{}\t4789\t443", TOOL[0]);
    assert!(lines.lines().all(|found| found == line), "{line:?}: {:?}", lines.lines().next());
    let inner: Vec<Vec<u8>> =
        packets(&sent.pcapng).into_iter().map(|(_, _, data)| data[50..].to_vec()).collect();
    assert!(inner.iter().eq(expected.iter().map(|(_, _, data)| data)), "what is inside is what came");
    let comment = tshark(lab.dir(), &sent.pcapng, "-T fields -e frame.comment -c 1");
    assert_eq!(comment.trim(), "destination tool, policy tls");

    // To a file: as they were, cut.
    let expected = by_tcpdump(&file, "udp port 53 or tcp port 53");
    let found = packets(&dns.pcapng);
    let names = tshark(lab.dir(), &dns.pcapng, "-T fields -e frame.interface_name");
    assert!(names.lines().all(|name| name == "(files)") && names.lines().count() == found.len());
    // tcpdump does not follow fragments and tags.
    for packet in &expected {
        let cut = packet.2.get(..60).unwrap_or(&packet.2);
        assert!(found.iter().any(|(time, _, data)| *time == packet.0 && data == cut), "{packet:?}");
    }

    // One in a hundred, ten in all.
    let found = packets(&few.pcapng);
    assert_eq!((few.packets, few.end), (10, i32::from(v1::CaptureEnd::Packets)));
    let every: Vec<Packet> = packets(&original).into_iter().step_by(100).take(10).collect();
    assert!(found == every, "every hundredth packet");

    // The daemon stops: the reader is told.
    let last = begin(&mut client, v1::CaptureRequest::default()).await;
    let last = tokio::spawn(read_all(last));
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(client);
    feed.end();
    let ended = tokio::task::spawn_blocking(move || daemon.stop());
    let last = last.await.unwrap();
    assert_eq!((last.end, last.packets), (i32::from(v1::CaptureEnd::Shutdown), 0));
    assert!(packets(&last.pcapng).is_empty());
    let summary = ended.await.unwrap();
    assert_eq!(summary.port("file0")[0], 110_629);
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_does_not_wait_for_a_reader() {
    let Some(mut lab) = Lab::new("capture-slow") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let mut file = Builder::new(ETHERNET);
    let (client, server) =
        (End::new("10.0.0.1".parse().unwrap(), 40_000), End::new("10.0.0.2".parse().unwrap(), 9));
    let frame = traffic::udp(&client, &server, &[], &[7; 1400]);
    for number in 0..PACKETS {
        file.push(Record {
            timestamp_ns: 1_700_000_000_000_000_000 + number * 1000,
            wire_len: u32::try_from(frame.len()).unwrap(),
            data: &frame,
        });
    }
    let file = file.bytes().to_vec();
    let feed = Feed::new(lab.dir(), &file[..24]);
    let daemon = Daemon::start(&lab, &tap.broker, &boot(&feed), &policies());
    daemon.wait_log("the API is served");
    let socket = lab.dir().join("api.sock");
    let mut client = CaptureServiceClient::new(channel(&socket).await);
    // Nobody reads it.
    let mut stalled = begin(&mut client, v1::CaptureRequest::default()).await;
    // These are gone before anything comes: their places are free at once.
    for _ in 0..8 {
        drop(begin(&mut client, v1::CaptureRequest::default()).await);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    feed.send(&file[24..]);
    feed.end();
    let mut counters = CounterServiceClient::new(channel(&socket).await);
    let mut received = 0;
    for _ in 0..300 {
        let totals = counters.get_counters(v1::GetCountersRequest::default()).await.unwrap().into_inner();
        let account = totals.totals.unwrap().account.unwrap();
        assert!(account.balanced);
        received = account.rx_packets;
        if received >= PACKETS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(received >= PACKETS, "all of them passed while nobody read");
    // What was kept for the reader is whole; the rest was counted.
    let mut captured = Captured::default();
    while captured.packets + captured.lost < PACKETS {
        let chunk = tokio::time::timeout(Duration::from_secs(20), stalled.message()).await.unwrap();
        let chunk = chunk.unwrap().unwrap();
        captured.pcapng.extend(&chunk.pcapng);
        captured.packets += chunk.packets;
        captured.lost = chunk.lost;
    }
    assert_eq!(captured.packets + captured.lost, PACKETS);
    assert!(captured.lost > 0 && captured.packets > 1000, "{} lost", captured.lost);
    let found = packets(&captured.pcapng);
    assert_eq!(found.len() as u64, captured.packets);
    assert!(found.iter().all(|(_, _, data)| *data == frame));
    drop(stalled);
    drop(client);
    let summary = daemon.stop();
    assert_eq!(summary.port("file0")[0], PACKETS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_follows_names_when_policies_change() {
    let Some(mut lab) = Lab::new("capture-names") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let frame = |port: u16, number: u8| {
        let client = End::new("10.0.0.1".parse().unwrap(), 40_000);
        let server = End::new("10.0.0.2".parse().unwrap(), port);
        traffic::udp(&client, &server, &[], &[number; 20])
    };
    let mut file = Builder::new(ETHERNET);
    for (number, port) in [53, 80, 53, 80].into_iter().flat_map(|port| (0..10).map(move |n| (n, port))) {
        let data = frame(port, number);
        let timestamp_ns = 1_700_000_000_000_000_000 + file.records() as u64;
        file.push(Record { timestamp_ns, wire_len: u32::try_from(data.len()).unwrap(), data: &data });
    }
    let half = 24 + (file.bytes().len() - 24) / 2;
    let feed = Feed::new(lab.dir(), &file.bytes()[..24]);
    // The client adds a file below.
    std::fs::create_dir(lab.dir().join("pcap")).unwrap();
    let boot = format!("{}pcap_folder = \"pcap\"\n", boot(&feed));
    let daemon = Daemon::start(&lab, &tap.broker, &boot, &policies());
    daemon.wait_log("the API is served");
    daemon.wait_resolved(1);
    let channel = channel(&lab.dir().join("api.sock")).await;
    let mut client = CaptureServiceClient::new(channel.clone());
    let request = v1::CaptureRequest {
        point: v1::CapturePoint::Sent.into(),
        policies: vec!["dns".to_owned()],
        max_packets: 40,
        max_duration_ms: 15_000,
        ..Default::default()
    };
    let captured = tokio::spawn(read_all(begin(&mut client, request).await));
    feed.send(&file.bytes()[24..half]);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // All numbers change: one more policy and one more destination come first.
    let more = format!(
        "[[destination]]\nname = \"another\"\ntype = \"pcap\"\nfile = \"another.pcap\"\n{}",
        policies().replace(
            "[[policy]]\nname = \"tls\"",
            "[[policy]]\nname = \"web\"\npeer = { ports = 80 }\nto = [\"another\"]\n[[policy]]\nname = \"tls\""
        )
    );
    let apply = v1::ApplyPolicySetRequest { set: Some(policy_set(&more)), ..Default::default() };
    let applied = PolicyServiceClient::new(channel).apply_policy_set(apply).await.unwrap().into_inner();
    assert!(applied.applied, "{applied:?}");
    feed.send(&file.bytes()[half..]);
    feed.end();
    let captured = captured.await.unwrap();
    assert_eq!((captured.packets, captured.end), (40, i32::from(v1::CaptureEnd::Packets)));
    let comments = tshark(lab.dir(), &captured.pcapng, "-T fields -e frame.comment");
    for destination in ["tool", "file"] {
        let comment = format!("destination {destination}, policy dns");
        assert_eq!(comments.lines().filter(|line| *line == comment).count(), 20, "{comments}");
    }
    drop(client);
    daemon.stop();
}
