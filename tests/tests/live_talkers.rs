//! Are the flows that a running daemon lists those of a replay, and its talkers those of tshark?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sluice_api::v1;
use sluice_api::v1::flow_service_client::FlowServiceClient;
use sluice_capture::CaptureReader;
use sluice_tests::captures;
use sluice_tests::daemon::Daemon;
use sluice_tests::feed::Feed;
use sluice_tests::flows::{self, Flows, Key};
use sluice_tests::netns::Lab;
use sluice_tests::pcap_file::{Builder, ETHERNET, Record};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// The first of so many packets, all within one second, so that no flow ends by being silent.
const PACKETS: usize = 20_000;

const POLICY: &str = "[[destination]]\nname = \"all\"\ntype = \"pcap\"\nfile = \"all.pcap\"\n\
                      [[policy]]\nname = \"none\"\nethertype = [0xffff]\nto = [\"all\"]\n";

async fn list(
    client: &mut FlowServiceClient<Channel>,
    filter: v1::FlowFilter,
    limit: u32,
    order: v1::FlowOrder,
) -> v1::ListFlowsResponse {
    let request = v1::ListFlowsRequest { filter: Some(filter), limit, order: order.into() };
    client.list_flows(request).await.unwrap().into_inner()
}

fn key(flow: &v1::Flow) -> Key {
    let port = |port: Option<u32>| u16::try_from(port.unwrap_or(0)).unwrap();
    Key::new(
        (&flow.client, port(flow.client_port)),
        (&flow.server, port(flow.server_port)),
        u8::try_from(flow.protocol).unwrap(),
    )
}

/// Packets and IP bytes between two addresses, the lower one first, by tshark: of the outermost IP header.
fn conversations(file: &std::path::Path) -> BTreeMap<[IpAddr; 2], [u64; 2]> {
    let fields = ["frame.len", "ip.src", "ip.dst", "ip.len", "ipv6.src", "ipv6.dst", "ipv6.plen"];
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-T", "fields", "-E", "occurrence=f"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success());
    let mut found: BTreeMap<[IpAddr; 2], [u64; 2]> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let is_ipv6 = fields[1].is_empty();
        let ends = if is_ipv6 { [fields[4], fields[5]] } else { [fields[1], fields[2]] };
        let Ok(mut ends) = ends.iter().map(|end| end.parse::<IpAddr>()).collect::<Result<Vec<_>, _>>() else {
            continue;
        };
        ends.sort_unstable();
        let bytes: u64 =
            if is_ipv6 { 40 + fields[6].parse::<u64>().unwrap() } else { fields[3].parse().unwrap() };
        let sums = found.entry([ends[0], ends[1]]).or_default();
        sums[0] += 1;
        sums[1] += bytes + 14;
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_and_talkers_are_those_of_other_tools() {
    let (Some(folder), Some(mut lab)) = (captures::folder(), Lab::new("flows")) else { return };
    let broker = lab.namespace("broker");

    // The packets of a capture, as if they came within the second before now, and nothing else than IP without tags.
    let mut reader = CaptureReader::open(&folder.join("mix-open/mix-open.pcap.gz")).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut file = Builder::new(ETHERNET);
    while let Some(frame) = reader.next_frame().unwrap() {
        if file.records() == PACKETS {
            break;
        }
        let is_ip = matches!(frame.data.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        if is_ip {
            let timestamp_ns = now * 1_000_000_000 + file.records() as u64 * 1000;
            file.push(Record { timestamp_ns, wire_len: frame.wire_len, data: frame.data });
        }
    }
    let path = lab.dir().join("now.pcap");
    file.save(&path);
    let expected: Flows = flows::replay(&path, &[]).unwrap();

    let feed = Feed::new(lab.dir(), &file.bytes()[..24]);
    let boot = format!(
        "[[port]]\nname = \"file0\"\nspec = \"{}\"\nrole = \"capture\"\ntap = 5\n\
         [flow]\n[flow.timeouts]\none_way = 600\nestablished = 600\nopening = 600\nclosing = 600\nreset = 600\nother = 600\n\
         [api]\nsocket = \"api.sock\"\n",
        feed.spec()
    );
    let daemon = Daemon::start(&lab, &broker, &boot, POLICY);
    daemon.wait_log("the API is served");
    let endpoint = Endpoint::from_shared(format!("unix://{}", lab.dir().join("api.sock").display())).unwrap();
    let mut client = FlowServiceClient::new(endpoint.connect().await.unwrap());
    let none = list(&mut client, v1::FlowFilter::default(), 0, v1::FlowOrder::Bytes).await;
    assert_eq!((none.flows.len(), none.matched, none.examined), (0, 0, 0));
    feed.send(&file.bytes()[24..]);
    feed.end();
    tokio::time::sleep(Duration::from_secs(3)).await;

    // Every flow in the table is one of the replay; what is not there any more ended by itself.
    let all = list(&mut client, v1::FlowFilter::default(), 10_000, v1::FlowOrder::None).await;
    assert_eq!((all.flows.len() as u64, all.matched), (all.examined, all.examined));
    assert!(all.flows.len() > 500, "{}", all.flows.len());
    let (mut left, mut turned) = (expected.clone(), 0);
    for flow in all.flows.iter().filter(|flow| !flow.client.is_empty()) {
        assert_eq!((flow.tap, flow.port.as_str(), flow.worker.as_str()), (5, "file0", "worker0"));
        let key = key(flow);
        let sent = [[flow.client_packets, flow.server_packets], [flow.client_bytes, flow.server_bytes]];
        // Who the client is may be seen otherwise when a record is made.
        let ways = [(key, sent), (key.reversed(), sent.map(|[client, server]| [server, client]))];
        let found = ways.iter().find_map(|(key, sent)| {
            let place = left.get(key)?.iter().position(|other| [other.packets, other.bytes] == *sent)?;
            Some((*key, place))
        });
        let (found, place) = found.unwrap_or_else(|| panic!("{flow:?} is in no replay"));
        turned += usize::from(found != key);
        left.get_mut(&found).unwrap().remove(place);
    }
    assert!(turned * 20 < all.flows.len(), "{turned} of {}", all.flows.len());
    // Of TCP, those that ended gave their entries back.
    let ended: Vec<_> = left.iter().filter(|(_, flows)| !flows.is_empty()).collect();
    assert!(ended.iter().all(|(key, _)| key.protocol == 6), "{:?}", ended.first());
    assert!(ended.len() < expected.len() / 2, "{} of {}", ended.len(), expected.len());

    // Filters hold for each, and together they find all of them.
    let sum = |flow: &v1::Flow| flow.client_bytes + flow.server_bytes;
    let tcp = v1::FlowFilter { protocol: vec!["tcp".to_owned()], ..Default::default() };
    let some = list(&mut client, tcp, 7, v1::FlowOrder::Bytes).await;
    let mut bytes: Vec<u64> = all.flows.iter().filter(|flow| flow.protocol == 6).map(sum).collect();
    bytes.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(some.matched, bytes.len() as u64);
    assert_eq!(some.flows.iter().map(sum).collect::<Vec<_>>(), bytes[..7]);
    let largest = &some.flows[0];
    let one = v1::FlowFilter {
        addresses: vec![largest.server.clone()],
        clients: vec![largest.client.clone()],
        ports: vec![largest.client_port.unwrap().to_string()],
        server_ports: vec![largest.server_port.unwrap().to_string()],
        tap: Some(5),
        min_bytes: sum(largest),
        ..Default::default()
    };
    let one = list(&mut client, one, 0, v1::FlowOrder::Latest).await;
    assert_eq!((one.matched, &one.flows[0]), (1, largest));
    let elsewhere = v1::FlowFilter { tap: Some(1), ..Default::default() };
    assert_eq!(list(&mut client, elsewhere, 0, v1::FlowOrder::Newest).await.matched, 0);
    for (filter, limit) in [
        (v1::FlowFilter { ports: vec!["9-8".to_owned()], ..Default::default() }, 0),
        (v1::FlowFilter::default(), 10_001),
    ] {
        let request = v1::ListFlowsRequest { filter: Some(filter), limit, order: 0 };
        assert_eq!(client.list_flows(request).await.unwrap_err().code(), Code::InvalidArgument);
    }

    // Talkers, once their second is over.
    let request = |key: v1::TalkerKey| v1::ListTopTalkersRequest {
        key: key.into(),
        order: v1::TalkerOrder::Bytes.into(),
        limit: 1000,
        seconds: 60,
        ..Default::default()
    };
    let mut pairs = v1::ListTopTalkersResponse::default();
    let packets = |talker: &v1::Talker| talker.client_packets + talker.server_packets;
    for _ in 0..30 {
        pairs = client.list_top_talkers(request(v1::TalkerKey::Pair)).await.unwrap().into_inner();
        if packets(pairs.total.as_ref().unwrap()) == PACKETS as u64 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(packets(pairs.total.as_ref().unwrap()), PACKETS as u64);
    let mut expected = conversations(&path);
    assert!(expected.len() < 1000 && pairs.talkers.len() >= expected.len());
    let mut found: BTreeMap<[IpAddr; 2], [u64; 2]> = BTreeMap::new();
    for talker in &pairs.talkers {
        let mut ends: [IpAddr; 2] = [talker.client.parse().unwrap(), talker.server.parse().unwrap()];
        ends.sort_unstable();
        let sums = found.entry(ends).or_default();
        sums[0] += packets(talker);
        sums[1] += talker.client_bytes + talker.server_bytes;
    }
    // Some packets say other lengths than they have; of these only packets are compared.
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let differ = expected.iter().filter(|(ends, sums)| found[*ends] != **sums).count();
    assert!(differ * 100 <= expected.len(), "{differ} of {}", expected.len());
    expected.retain(|ends, sums| found[ends][0] != sums[0]);
    assert!(expected.is_empty(), "{expected:?}");

    let services = client.list_top_talkers(request(v1::TalkerKey::Service)).await.unwrap().into_inner();
    assert_eq!(services.total, pairs.total);
    let by_bytes = |talker: &v1::Talker| talker.client_bytes + talker.server_bytes;
    assert!(services.talkers.is_sorted_by(|a, b| by_bytes(a) >= by_bytes(b)));
    let busiest = &services.talkers[0];
    assert!(busiest.client.is_empty() && busiest.protocol.is_some());
    let new_flows: u64 = services.talkers.iter().map(|talker| talker.new_flows).sum();
    assert_eq!(new_flows, services.total.unwrap().new_flows);
    let ports = v1::FlowFilter { ports: vec!["80".to_owned()], ..Default::default() };
    let refused = v1::ListTopTalkersRequest { filter: Some(ports), ..request(v1::TalkerKey::Pair) };
    assert_eq!(client.list_top_talkers(refused).await.unwrap_err().code(), Code::InvalidArgument);
    drop(client);
    assert_eq!(daemon.stop().rx(), PACKETS as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_metering_there_are_no_flows() {
    let Some(mut lab) = Lab::new("noflows") else { return };
    let broker = lab.namespace("broker");
    let feed = Feed::new(lab.dir(), Builder::new(ETHERNET).bytes());
    let boot = format!(
        "[[port]]\nname = \"file0\"\nspec = \"{}\"\nrole = \"capture\"\n[flow]\nenabled = false\n\
         [api]\nsocket = \"api.sock\"\n",
        feed.spec()
    );
    let daemon = Daemon::start(&lab, &broker, &boot, POLICY);
    daemon.wait_log("the API is served");
    let endpoint = Endpoint::from_shared(format!("unix://{}", lab.dir().join("api.sock").display())).unwrap();
    let mut client = FlowServiceClient::new(endpoint.connect().await.unwrap());
    let flows = client.list_flows(v1::ListFlowsRequest::default()).await.unwrap_err();
    assert_eq!(flows.code(), Code::FailedPrecondition, "{flows}");
    let talkers = client.list_top_talkers(v1::ListTopTalkersRequest::default()).await.unwrap_err();
    assert_eq!(talkers.code(), Code::FailedPrecondition, "{talkers}");
    feed.end();
    drop(client);
    daemon.stop();
}
