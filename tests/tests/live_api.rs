//! Is a running daemon steered by its API: policies that change, are refused, are rolled back and outlive `kill -9`?

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use sluice_api::v1;
use sluice_api::v1::counter_service_client::CounterServiceClient;
use sluice_api::v1::history_service_client::HistoryServiceClient;
use sluice_api::v1::policy_service_client::PolicyServiceClient;
use sluice_api::v1::status_service_client::StatusServiceClient;
use sluice_tests::api::{self, policy_set};
use sluice_tests::daemon::{Daemon, binary};
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::tap::{TOOL, Tap};
use tonic::Code;
use tonic::transport::Channel;

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
         [[policy]]\nname = \"udp\"\ncollect = {{ addresses = [\"@lab\"] }}\nprotocol = \"udp\"\ntag = {tag}\nto = [\"tool\"]\n",
        TOOL[0]
    )
}

struct Client {
    policies: PolicyServiceClient<Channel>,
    history: HistoryServiceClient<Channel>,
    status: StatusServiceClient<Channel>,
    counters: CounterServiceClient<Channel>,
}

impl Client {
    async fn connect(socket: &Path) -> Self {
        let channel = api::channel(socket).await;
        Self {
            policies: PolicyServiceClient::new(channel.clone()),
            history: HistoryServiceClient::new(channel.clone()),
            status: StatusServiceClient::new(channel.clone()),
            counters: CounterServiceClient::new(channel),
        }
    }

    async fn apply(&mut self, text: &str) -> v1::ChangeResponse {
        let request = v1::ApplyPolicySetRequest { set: Some(policy_set(text)), ..Default::default() };
        self.policies.apply_policy_set(request).await.unwrap().into_inner()
    }

    async fn tags(&mut self) -> Vec<u32> {
        let set = self.policies.get_policy_set(v1::GetPolicySetRequest {}).await.unwrap().into_inner().set;
        set.unwrap().policies.iter().map(|policy| policy.tag.unwrap_or(0)).collect()
    }
}

/// While sets are exchanged whose policies have other numbers, each row has the counts of its own policy.
#[tokio::test(flavor = "multi_thread")]
async fn counters_keep_to_their_names_while_sets_change() {
    let Some(mut lab) = Lab::new("apinames") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let socket = lab.dir().join("api.sock");
    let set = |names: [&str; 2]| {
        let destination = |name: &str| {
            format!("[[destination]]\nname = \"to-{name}\"\ntype = \"vxlan\"\nremote = \"{}\"\n", TOOL[0])
        };
        let policy = |name: &str| {
            format!("[[policy]]\nname = \"{name}\"\nprotocol = \"{name}\"\nto = [\"to-{name}\"]\n")
        };
        names.map(destination).concat() + &names.map(policy).concat()
    };
    let sets = [set(["udp", "sctp"]), set(["sctp", "udp"])];
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &sets[0]);
    daemon.wait_log("the API is served");
    daemon.wait_resolved(1);
    let mut client = Client::connect(&socket).await;
    tap.flood(100, 100);
    let mut reader = Client::connect(&socket).await;
    let mut changes = tokio::spawn(async move {
        for change in 1..=100 {
            assert!(client.apply(&sets[change % 2]).await.applied);
        }
    });
    let mut reads = 0;
    let parts = vec![v1::CounterPart::Policies.into(), v1::CounterPart::Destinations.into()];
    while !changes.is_finished() {
        let request = v1::GetCountersRequest { parts: parts.clone(), ..Default::default() };
        let counters = reader.counters.get_counters(request).await.unwrap().into_inner();
        let policies = counters.policies.iter().map(|row| (&*row.policy, row.matched_packets));
        let destinations = counters.destinations.iter().map(|row| (&*row.destination, row.packets));
        let mut rows: Vec<_> = policies.chain(destinations).collect();
        rows.sort_unstable();
        assert_eq!(
            rows,
            [("sctp", 0), ("to-sctp", 0), ("to-udp", 100), ("udp", 100)],
            "generation {}",
            counters.generation
        );
        reads += 1;
        // Requests are limited to a thousand a second.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (&mut changes).await.unwrap();
    assert!(reads >= 100, "{reads} reads");
    assert_eq!(daemon.stop().copies("to-udp"), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_steered_by_the_api() {
    let Some(mut lab) = Lab::new("api") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    for vni in [7, 8, 9] {
        tap.vxlan(vni, TOOL[0]);
    }
    let _sink = tap.sink();
    let socket = lab.dir().join("api.sock");
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy(7));
    daemon.wait_log("the API is served");
    daemon.wait_resolved(1);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let mut client = Client::connect(&socket).await;

    // How it is.
    let status = client.status.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.generation, status.policies, status.destinations, status.ports), (1, 1, 1, 2));
    assert!(status.account.unwrap().balanced && status.memory_bytes > 1 << 20 && status.started_at_ns > 0);
    let ports = client.status.list_ports(v1::ListPortsRequest {}).await.unwrap().into_inner().ports;
    assert_eq!(ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["tap0", "out0"]);
    assert!(ports[1].sends && !ports[1].captures && ports[1].up && ports[1].addresses == ["192.0.2.1/24"]);
    assert_eq!(ports[1].mac, tap.broker.mac("out0"));
    let [hop] = &ports[1].neighbors[..] else { panic!("{:?}", ports[1].neighbors) };
    assert_eq!((&*hop.address, &hop.mac, &*hop.state), (TOOL[0], &tap.tool.mac("in0"), "resolved"));
    // veth says that it has 10 Gbit/s.
    assert_eq!((ports[1].speed_mbps, ports[1].breaker.is_none()), (10_000, true));

    // Another set is in force when the answer comes.
    tap.flood(100, 200);
    let response = client.apply(&policy(8)).await;
    assert!(response.applied && response.generation == 2, "{response:?}");
    let diff = response.diff.unwrap().changes;
    assert_eq!((diff.len(), diff[0].name.as_str(), diff[0].fields[0].field.as_str()), (1, "udp", "tag"));
    assert_eq!((diff[0].fields[0].before.as_str(), diff[0].fields[0].after.as_str()), ("7", "8"));
    tap.flood(50, 200);
    let received = |vni: u32, packets| {
        let device = format!("vx{vni}");
        let enough = || (tap.tool.counters(&device).rx_packets >= packets).then_some(());
        wait_for("the copies", Duration::from_secs(5), enough);
        assert_eq!(tap.tool.counters(&device).rx_packets, packets);
    };
    received(7, 100);
    received(8, 50);

    // What is wrong changes nothing, and is told with its path.
    let mut wrong = policy_set(&policy(9));
    wrong.policies[0].to.push("nobody".to_owned());
    wrong.policies[0].vlan.push("9-5".to_owned());
    let request = v1::ApplyPolicySetRequest { set: Some(wrong), ..Default::default() };
    let response = client.policies.apply_policy_set(request).await.unwrap().into_inner();
    assert!(!response.applied && response.generation == 2);
    let fields: Vec<_> = response.findings.iter().map(|finding| finding.field.as_str()).collect();
    assert_eq!(fields, ["policies[0].to[1]", "policies[0].vlan[0]"]);
    // Nor does what fits no port.
    let lost = policy(9).replace("remote", "port = \"tap0\"\nremote");
    let response = client.apply(&lost).await;
    assert!(!response.applied && response.generation == 2 && !response.findings.is_empty(), "{response:?}");
    // Nor a file outside of the folder for clients, of which there is none.
    let elsewhere = "[[destination]]\nname = \"f\"\ntype = \"pcap\"\nfile = \"/no/such/folder/f.pcap\"\n\
                     [[policy]]\nname = \"f\"\nto = [\"f\"]\n";
    let response = client.apply(elsewhere).await;
    assert!(!response.applied && response.findings[0].field == "destinations[0].file", "{response:?}");
    let old = v1::ApplyPolicySetRequest {
        set: Some(policy_set(&policy(9))),
        expected_generation: Some(1),
        ..Default::default()
    };
    let refused = client.policies.apply_policy_set(old).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    let dry = v1::DryRunRequest { set: Some(policy_set(&policy(9))), ..Default::default() };
    let mut plan = client.policies.dry_run(dry).await.unwrap().into_inner();
    let Some(v1::dry_run_response::Step::Plan(plan)) = plan.message().await.unwrap().unwrap().step else {
        panic!("no plan")
    };
    assert!(plan.valid && plan.diff.unwrap().changes.len() == 1 && plan.compiled.is_some());
    assert_eq!(client.tags().await, [8], "none of it is in force");

    // One by one.
    let get = |name: &str| v1::GetRequest { name: name.to_owned() };
    let mut udp = client.policies.get_policy(get("udp")).await.unwrap().into_inner();
    udp.tag = Some(9);
    let put = v1::PutPolicyRequest { policy: Some(udp), comment: "nine".to_owned(), ..Default::default() };
    assert!(client.policies.put_policy(put).await.unwrap().into_inner().applied);
    tap.flood(30, 200);
    received(9, 30);
    let delete = v1::DeleteRequest { name: "tool".to_owned(), ..Default::default() };
    let response = client.policies.delete_destination(delete).await.unwrap().into_inner();
    assert!(!response.applied && response.findings[0].field == "policies[0].to[0]", "{response:?}");
    let missing = client.policies.get_group(get("nobody")).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let groups = client.policies.list_groups(v1::ListRequest::default()).await.unwrap().into_inner();
    assert_eq!((groups.groups.len(), groups.groups[0].name.as_str()), (1, "lab"));

    // What was counted goes on under its name.
    let request = v1::GetCountersRequest { names: vec!["udp".to_owned()], ..Default::default() };
    let counters = client.counters.get_counters(request).await.unwrap().into_inner();
    assert_eq!(counters.policies.len(), 1);
    let udp = &counters.policies[0];
    assert_eq!((udp.matched_packets, udp.sent_packets), (180, 180));
    let watch = v1::WatchCountersRequest { interval_ms: 100, ..Default::default() };
    let mut stream = client.counters.watch_counters(watch).await.unwrap().into_inner();
    for _ in 0..3 {
        let counters = stream.message().await.unwrap().unwrap();
        assert!(counters.totals.unwrap().account.unwrap().balanced);
    }

    // Back, and on.
    let back =
        v1::RollbackRequest { generation: Some(1), comment: "seven again".to_owned(), ..Default::default() };
    let response = client.history.rollback(back).await.unwrap().into_inner();
    assert!(response.applied, "{response:?}");
    assert_eq!(client.tags().await, [7]);
    let generations = client.history.list_generations(v1::ListGenerationsRequest::default()).await.unwrap();
    let generations = generations.into_inner().generations;
    assert!(generations.is_sorted_by(|a, b| a.generation > b.generation));
    let newest = &generations[0];
    assert!(newest.in_force && newest.rolled_back_to == Some(1) && newest.comment == "seven again");
    assert_eq!(newest.applied_by, "uid 0");
    assert_eq!(
        generations.iter().map(v1::Generation::origin).collect::<Vec<_>>(),
        [v1::Origin::Rollback, v1::Origin::Put, v1::Origin::Apply, v1::Origin::Boot,]
    );
    let second = client.history.get_generation(v1::GetGenerationRequest { generation: 2 }).await.unwrap();
    let second = second.into_inner();
    assert_eq!(second.set.unwrap(), policy_set(&policy(8)));
    let change = &second.diff.unwrap().changes[0];
    assert_eq!((change.name.as_str(), change.fields[0].after.as_str()), ("udp", "8"));
    let never = v1::RollbackRequest { generation: Some(99), ..Default::default() };
    assert_eq!(client.history.rollback(never).await.unwrap_err().code(), Code::NotFound);

    // Nobody else may.
    let mut stranger = tap.broker.command("setpriv");
    stranger.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", "test", "-w"]).arg(&socket);
    assert!(!stranger.status().unwrap().success(), "the socket is writable for everybody");
    // Nor may a second daemon take the store or the socket.
    let second =
        tap.broker.command(binary()).args(["run", "--config"]).arg(lab.dir().join("boot.toml")).output();
    let second = String::from_utf8(second.unwrap().stderr).unwrap();
    assert!(second.contains("kept"), "{second}");

    // Killed, it comes back with what was in force, whatever the file says.
    let generation = newest.generation;
    let response = client.apply(&policy(9)).await;
    assert!(response.applied && response.generation > generation);
    daemon.signal(Signal::KILL);
    drop(daemon);
    let daemon = Daemon::start(&lab, &tap.broker, BOOT, &policy(8));
    daemon.wait_log("the API is served");
    let mut client = Client::connect(&socket).await;
    assert_eq!(client.tags().await, [9]);
    let status = client.status.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.generation, response.generation);
    // SIGHUP, for a port say, leaves it so; a file that is written anew is put in force.
    daemon.signal(Signal::HUP);
    daemon.wait_log("what is in force stays");
    assert_eq!(client.tags().await, [9]);
    std::fs::write(lab.dir().join("policy.toml"), policy(8)).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_log("policies in force");
    assert_eq!(client.tags().await, [8]);
    daemon.wait_resolved(1);
    tap.flood(20, 200);
    received(8, 70);
    let summary = daemon.stop();
    assert_eq!(summary.copies("tool"), 20);
    assert!(!socket.exists(), "the socket goes with the daemon");
}
