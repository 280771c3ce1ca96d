//! Does a running daemon say truly what becomes of a packet? Real packets are held to tshark's dissection.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::path::Path;
use std::time::Duration;

use sluice_api::v1;
use sluice_api::v1::explain_request::Packet;
use sluice_api::v1::explain_service_client::ExplainServiceClient;
use sluice_api::v1::status_service_client::StatusServiceClient;
use sluice_tests::api;
use sluice_tests::captures;
use sluice_tests::daemon::Daemon;
use sluice_tests::netns::Lab;
use sluice_tests::tap::{CLIENT, SERVER, TOOL, Tap};
use sluice_tests::tshark::Tshark;
use tonic::Code;
use tonic::transport::Channel;

fn boot(decap: &str) -> String {
    format!(
        "[[port]]\nname = \"tap0\"\nspec = \"af_packet:tap0\"\nrole = \"capture\"\n{decap}\n\
         [[port]]\nname = \"out0\"\nspec = \"af_packet:out0\"\nrole = \"output\"\naddresses = [\"192.0.2.1/24\"]\n\
         [api]\nsocket = \"api.sock\"\n"
    )
}

fn policies() -> String {
    format!(
        r#"
[[destination]]
name = "tool"
type = "vxlan"
remote = "{}"
[[destination]]
name = "gone"
type = "vxlan"
remote = "192.0.2.99"
[[destination]]
name = "pair"
type = "group"
members = ["tool", "gone"]
[[policy]]
name = "web"
collect = {{ addresses = ["10.1.0.0/16"], ports = "80,443" }}
protocol = "tcp"
payload = 32
tag = 7
to = ["tool"]
[[policy]]
name = "web-too"
collect = {{ addresses = ["10.1.0.0/16"] }}
payload = 64
tag = 7
to = ["tool"]
[[policy]]
name = "spread"
collect = {{ addresses = ["10.2.0.0/16"] }}
to = ["pair", "gone"]
[[policy]]
name = "off"
enabled = false
to = ["tool"]
[[policy]]
name = "not-backups"
peer = {{ addresses = ["10.9.9.9"] }}
action = "drop"
[[policy]]
name = "tunnelled"
headers = "inner"
tunnel_id = "1-16777215"
to = ["tool"]
[[policy]]
name = "tagged"
vlan = "0-4095"
to = ["tool"]
"#,
        TOOL[0]
    )
}

struct Client(ExplainServiceClient<Channel>);

impl Client {
    async fn connect(socket: &Path) -> Self {
        Self(ExplainServiceClient::new(api::channel(socket).await))
    }

    async fn ask(&mut self, packet: Packet) -> v1::ExplainResponse {
        let request = v1::ExplainRequest { packet: Some(packet), ..Default::default() };
        self.0.explain(request).await.unwrap().into_inner()
    }

    async fn refused(&mut self, request: v1::ExplainRequest) -> (Code, String) {
        let status = self.0.explain(request).await.unwrap_err();
        (status.code(), status.message().to_owned())
    }
}

fn packet(src: &str, src_port: u32, dst: &str, dst_port: u32) -> v1::PacketDescription {
    v1::PacketDescription {
        src: src.to_owned(),
        dst: dst.to_owned(),
        src_port: Some(src_port),
        dst_port: Some(dst_port),
        ..Default::default()
    }
}

fn matching(response: &v1::ExplainResponse) -> Vec<&str> {
    response.policies.iter().filter(|p| p.matches).map(|p| p.policy.as_str()).collect()
}

fn reasons<'r>(response: &'r v1::ExplainResponse, policy: &str) -> Vec<[&'r str; 3]> {
    let policy = response.policies.iter().find(|p| p.policy == policy).unwrap();
    policy.mismatches.iter().map(|m| [&*m.field, &*m.wanted, &*m.found]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_described_packet_is_explained() {
    let Some(mut lab) = Lab::new("explain") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let daemon = Daemon::start(&lab, &tap.broker, &boot(""), &policies());
    daemon.wait_log("the API is served");
    let mut client = Client::connect(&lab.dir().join("api.sock")).await;
    let described = |d: v1::PacketDescription| Packet::Description(d);

    // Two policies share a copy, which keeps the most that either asks for: 54 bytes of headers and 64 of payload.
    let request = v1::PacketDescription { length: 1_000, ..packet("10.1.2.3", 443, "203.0.113.9", 40_000) };
    let mut response = v1::ExplainResponse::default();
    for _ in 0..50 {
        response = client.ask(described(request.clone())).await;
        if response.copies[0].dropped_as.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!((response.outcome(), response.generation), (v1::Outcome::Copied, Some(1)));
    assert_eq!(matching(&response), ["web", "web-too"]);
    let [copy] = &response.copies[..] else { panic!("{:?}", response.copies) };
    assert_eq!((copy.destination.as_str(), copy.tag, copy.egress), ("tool", 7, true));
    assert_eq!((copy.payload, copy.length, copy.port.as_str()), (Some(64), 118, "out0"));
    assert_eq!((copy.next_hop.as_str(), &copy.next_hop_mac), (TOOL[0], &tap.tool.mac("in0")));
    assert_eq!((&copy.policies[..], copy.dropped_as.as_str()), (&["web".into(), "web-too".into()][..], ""));
    let off = response.policies.iter().find(|p| p.policy == "off").unwrap();
    assert!(!off.enabled && !off.matches);
    assert_eq!(response.policies.len(), 7);

    // Why not: the nearer of both readings.
    let response = client.ask(described(packet("203.0.113.9", 53, "10.1.2.3", 40_000))).await;
    assert_eq!(reasons(&response, "web"), [["collect.ports", "80, 443", "40000"]]);
    assert_eq!(reasons(&response, "tagged"), [["vlan", "0-4095", "none"]]);
    assert_eq!(reasons(&response, "tunnelled"), [["tunnel_id", "1-16777215", "none"]]);
    assert!(!response.copies[0].egress);

    // A group gives it to the member that is there; the other one's next hop never answers.
    let response = client.ask(described(packet("10.2.0.1", 1, "203.0.113.9", 2))).await;
    let copies: Vec<_> =
        response.copies.iter().map(|c| [&*c.destination, &*c.member, &*c.dropped_as]).collect();
    assert_eq!(copies, [["gone", "", "next_hop_unresolved"], ["pair", "tool", ""]]);

    // Taken out, whatever else matches; nothing matches.
    let response = client.ask(described(packet("10.1.2.3", 443, "10.9.9.9", 2))).await;
    assert_eq!((response.outcome(), response.copies.len()), (v1::Outcome::Excluded, 0));
    assert_eq!(matching(&response), ["web", "web-too", "not-backups"]);
    let response = client.ask(described(packet("198.51.100.1", 1, "198.51.100.2", 2))).await;
    assert_eq!(response.outcome(), v1::Outcome::NoPolicy);

    // Inside a tunnel, with tags.
    let inside = v1::PacketDescription {
        vni: Some(77),
        vlan: vec![100, 200],
        ..packet("10.1.2.3", 80, "203.0.113.9", 2)
    };
    let response = client.ask(described(inside)).await;
    let views: Vec<_> = response.headers.iter().map(|h| (&*h.view, &*h.tunnel, h.tunnel_id)).collect();
    assert_eq!(views, [("outer", "vxlan", Some(77)), ("inner", "", None)]);
    assert_eq!(
        (response.headers[1].vlan.as_slice(), &*response.headers[1].src),
        (&[100, 200][..], "10.1.2.3")
    );
    assert_eq!(matching(&response), ["tunnelled"]);

    // A port that is for copies only; one of our own copies.
    let request = v1::ExplainRequest {
        packet: Some(described(packet("10.1.2.3", 443, "203.0.113.9", 2))),
        ingress: "out0".to_owned(),
        ..Default::default()
    };
    let response = client.0.explain(request).await.unwrap().into_inner();
    assert_eq!(response.outcome(), v1::Outcome::NotCapturePort);
    let own = packet("192.0.2.1", 50_000, TOOL[0], 4789);
    let response = client.ask(described(v1::PacketDescription { protocol: "udp".to_owned(), ..own })).await;
    assert_eq!(response.outcome(), v1::Outcome::LoopGuard);

    // Another set, with its own mistakes.
    let set = api::policy_set(&policies().replace("10.2.0.0/16", "10.3.0.0/16"));
    let mut request = v1::ExplainRequest {
        packet: Some(described(packet("10.3.0.1", 1, "203.0.113.9", 2))),
        set: Some(set),
        max_policies: 2,
        ..Default::default()
    };
    let response = client.0.explain(request.clone()).await.unwrap().into_inner();
    assert_eq!((matching(&response), response.generation), (vec!["spread"], None));
    assert_eq!((response.policies.len(), response.policies_left_out), (2, 5));
    assert_eq!(response.copies[1].dropped_as, "", "the next hop of the policies in force is known");
    request.set.as_mut().unwrap().policies[0].to = vec!["nobody".to_owned()];
    let response = client.0.explain(request).await.unwrap().into_inner();
    assert_eq!(response.findings[0].field, "policies[0].to[0]");
    assert!(response.policies.is_empty());

    // What cannot be understood.
    let (code, told) = client.refused(v1::ExplainRequest::default()).await;
    assert_eq!(
        (code, told.as_str()),
        (Code::InvalidArgument, "packet: missing; describe one, or send one of a capture file")
    );
    for (file, number, told) in [(&b"nothing"[..], 1, "captured.file"), (b"", 0, "packets count from 1")] {
        let captured = v1::CapturedPacket { file: file.to_vec(), packet: number };
        let packet = Some(Packet::Captured(captured));
        let (code, message) = client.refused(v1::ExplainRequest { packet, ..Default::default() }).await;
        assert!(code == Code::InvalidArgument && message.contains(told), "{message}");
    }

    let summary = daemon.stop();
    assert_eq!(summary.rx() + summary.tx(), 0, "nothing of it was traffic");
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_packets_are_what_tshark_says() {
    let Some(captures) = captures::folder() else { return };
    let Some(mut lab) = Lab::new("explaincap") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let daemon = Daemon::start(&lab, &tap.broker, &boot(""), &policies());
    daemon.wait_log("the API is served");
    let mut client = Client::connect(&lab.dir().join("api.sock")).await;
    let tshark = Tshark::with_protocols(&["eth", "vlan", "ip", "ipv6", "tcp", "udp", "vxlan", "icmp"]);
    let mut asked = 0;
    for name in
        ["vxlan.pcap", "802.1Q_tunneling.pcap", "ICMP_across_dot1q.pcap", "dns_tcp.pcap", "tls10.pcap"]
    {
        let path = captures.join("FlowTest/pcap").join(name);
        let file = std::fs::read(&path).unwrap();
        let fields =
            ["eth.src", "vlan.id", "ip.src", "ip.dst", "ip.proto", "tcp.srcport", "udp.srcport", "vxlan.vni"];
        let mut rows: Vec<Vec<String>> = Vec::new();
        tshark
            .fields(&path, &fields, |_, row| rows.push(row.iter().map(|&value| value.to_owned()).collect()));
        for (number, row) in (1..).zip(rows) {
            let captured = v1::CapturedPacket { file: file.clone(), packet: number };
            let response = client.ask(Packet::Captured(captured)).await;
            let all = |place: usize| row[place].split(',').filter(|value| !value.is_empty());
            let told = format!("{name} {number}: {row:?} {response:?}");
            let (first, last) = (&response.headers[0], response.headers.last().unwrap());
            assert_eq!(Some(&*first.src_mac), all(0).next(), "{told}");
            assert_eq!((Some(&*first.src), Some(&*last.src)), (all(2).next(), all(2).next_back()), "{told}");
            assert_eq!((Some(&*first.dst), Some(&*last.dst)), (all(3).next(), all(3).next_back()), "{told}");
            let protocols: Vec<u32> = response.headers.iter().filter_map(|h| h.protocol).collect();
            assert_eq!(protocols, all(4).map(|p| p.parse().unwrap()).collect::<Vec<u32>>(), "{told}");
            let ports: Vec<u32> = response.headers.iter().filter_map(|h| h.src_port).collect();
            let mut expected: Vec<u32> = all(6).chain(all(5)).map(|p| p.parse().unwrap()).collect();
            expected.truncate(ports.len());
            assert_eq!(ports, expected, "{told}");
            let vlans: Vec<u32> = response.headers.iter().flat_map(|h| h.vlan.clone()).collect();
            assert_eq!(vlans, all(1).map(|id| id.parse().unwrap()).collect::<Vec<u32>>(), "{told}");
            assert_eq!(first.tunnel_id, all(7).next().map(|vni| vni.parse().unwrap()), "{told}");
            // And so the policies.
            assert_eq!(matching(&response).contains(&"tagged"), !first.vlan.is_empty(), "{told}");
            assert_eq!(
                matching(&response).contains(&"tunnelled"),
                all(7).next().is_some_and(|v| v != "0"),
                "{told}"
            );
            asked += 1;
        }
        let beyond = v1::CapturedPacket { file, packet: 1_000_000 };
        let packet = Some(Packet::Captured(beyond));
        let (code, _) = client.refused(v1::ExplainRequest { packet, ..Default::default() }).await;
        assert_eq!(code, Code::InvalidArgument);
    }
    assert!(asked > 50, "{asked} packets");
    let summary = daemon.stop();
    assert_eq!(summary.rx() + summary.tx(), 0, "nothing of it was traffic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_flow_is_explained() {
    let Some(mut lab) = Lab::new("explainflow") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let daemon = Daemon::start(&lab, &tap.broker, &format!("{}[flow]\n", boot("")), &policies());
    daemon.wait_log("the API is served");
    let mut client = Client::connect(&lab.dir().join("api.sock")).await;
    tap.flood(10, 100);
    let selector = |dst_port: u32| v1::FlowSelector {
        src: CLIENT[0].to_owned(),
        dst: SERVER[0].to_owned(),
        protocol: "udp".to_owned(),
        dst_port: Some(dst_port),
        ..Default::default()
    };
    let response = client.ask(Packet::Flow(selector(9))).await;
    let headers = &response.headers[0];
    assert_eq!((&*headers.src, &*headers.dst, headers.dst_port), (CLIENT[0], SERVER[0], Some(9)));
    assert_eq!(headers.src_mac, tap.client.mac("c0"), "as it was on the wire");
    assert_eq!((matching(&response), response.generation), (vec!["web-too"], Some(1)));
    assert!(response.copies[0].egress);
    // From its other end.
    let turned = v1::FlowSelector {
        src: SERVER[0].to_owned(),
        dst: CLIENT[0].to_owned(),
        src_port: Some(9),
        dst_port: None,
        ..selector(9)
    };
    let response = client.ask(Packet::Flow(turned)).await;
    assert_eq!((&*response.headers[0].src, response.headers[0].src_port), (SERVER[0], Some(9)));
    let refused = |flow| v1::ExplainRequest { packet: Some(Packet::Flow(flow)), ..Default::default() };
    assert_eq!(client.refused(refused(selector(10))).await.0, Code::NotFound);
    let wrong = v1::FlowSelector { tap: Some(70_000), ..selector(9) };
    assert_eq!(
        client.refused(refused(wrong)).await,
        (Code::InvalidArgument, "flow.tap: 0 to 65535".to_owned())
    );
    // Ports and addresses are enough.
    let any = v1::FlowSelector { protocol: String::new(), ..selector(9) };
    let response = client.ask(Packet::Flow(any.clone())).await;
    assert_eq!((response.copies.len(), &*response.headers[0].dst), (1, SERVER[0]));
    assert_ne!(response.copies[0].dropped_as, "stopped");
    // Nothing is copied by a daemon that was stopped.
    let mut life = StatusServiceClient::new(api::channel(&lab.dir().join("api.sock")).await);
    life.stop(v1::StopRequest::default()).await.unwrap();
    assert_eq!(client.ask(Packet::Flow(any)).await.copies[0].dropped_as, "stopped");
    life.start(v1::StartRequest::default()).await.unwrap();
    let summary = daemon.stop();
    assert_eq!(summary.get("policy", "web-too", 0), 10);
}
