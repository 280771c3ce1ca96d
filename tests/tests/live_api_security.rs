//! Does the API keep out who must not get in, and does traffic flow on meanwhile? The clients are curl and openssl.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use prost::Message;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use sluice_api::v1;
use sluice_tests::api::policy_set;
use sluice_tests::daemon::{Daemon, binary};
use sluice_tests::netns::{Lab, wait_for};
use sluice_tests::pki::{Authority, has};
use sluice_tests::sluiced::cli;
use sluice_tests::tap::{TOOL, Tap};

const PORTS: &str = concat!(
    sluice_tests::tap_ports!(),
    r#"
[metrics]
listen = "127.0.0.1:9464"
"#
);

const TLS: &str = r#"
[api]
socket = "api.sock"
listen = "127.0.0.1:9465"
cert = "pki/server.pem"
key = "pki/server.key"
client_ca = "pki/ca.pem"
client_crl = "pki/crl.pem"
pcap_folder = "pcap"
request_timeout_s = 3
handshake_timeout_s = 2

[[api.client]]
name = "alice"
role = "operator"

[[api.client]]
name = "eve"
role = "operator"

[[api.client]]
name = "wall"
role = "viewer"

[[api.token]]
name = "ci"
role = "operator"
file = "ci.token"
"#;

const PLAIN: &str = r#"
[api]
socket = "api.sock"
listen = "127.0.0.1:9465"
anonymous = "viewer"
requests_per_s = 5

[[api.token]]
name = "ci"
role = "operator"
file = "ci.token"
"#;

const ADDRESS: &str = "127.0.0.1:9465";
const TOKEN: &str = "3e2f1c0b9a8d7e6f5c4b3a291807f6e5";
/// Codes of gRPC.
const OK: u32 = 0;
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAUTHENTICATED: u32 = 16;
/// How curl ends when it gives a stream up.
const BROKEN_STREAM: i32 = 92;

fn policy(tag: u32, more: &str) -> String {
    format!(
        "[[destination]]\nname = \"tool\"\ntype = \"vxlan\"\nremote = \"{}\"\n{more}\
         [[policy]]\nname = \"udp\"\nprotocol = \"udp\"\ntag = {tag}\nto = [\"tool\"]\n",
        TOOL[0]
    )
}

/// A message as gRPC sends it.
fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    frame.extend(bytes);
    frame
}

fn apply(text: &str) -> Vec<u8> {
    let set = Some(policy_set(text));
    framed(&v1::ApplyPolicySetRequest { set, ..Default::default() })
}

/// What a client got: how curl ended, the code of gRPC, and the body.
#[derive(Debug)]
struct Answer {
    exit: i32,
    code: Option<u32>,
    body: Vec<u8>,
    text: String,
}

impl Answer {
    fn message<M: Message + Default>(&self) -> M {
        assert_eq!(self.code, Some(OK), "{}", self.text);
        M::decode(&self.body[5..]).unwrap()
    }
}

struct Clients<'a> {
    tap: &'a Tap,
    dir: &'a Path,
}

impl Clients<'_> {
    /// Calls a method by curl; `how` are its options.
    fn call(&self, how: &[&str], method: &str, request: &[u8]) -> Answer {
        let [input, output, headers] = ["request", "answer", "headers"].map(|name| self.dir.join(name));
        std::fs::write(&input, request).unwrap();
        for old in [&output, &headers] {
            drop(std::fs::remove_file(old));
        }
        let plain = how.contains(&"--http2-prior-knowledge");
        let scheme = if plain { "http" } else { "https" };
        let result = self
            .tap
            .broker
            .command("curl")
            .args(["-sS", "--max-time", "15", "-H", "content-type: application/grpc", "-H", "te: trailers"])
            .args(how)
            .arg("--data-binary")
            .arg(format!("@{}", input.display()))
            .arg("-D")
            .arg(&headers)
            .arg("-o")
            .arg(&output)
            .arg(format!("{scheme}://{ADDRESS}/sluice.v1.{method}"))
            .output()
            .unwrap();
        let text =
            std::fs::read_to_string(&headers).unwrap_or_default() + &String::from_utf8_lossy(&result.stderr);
        let code = text.lines().rev().find_map(|line| line.strip_prefix("grpc-status: "));
        Answer {
            exit: result.status.code().unwrap(),
            code: code.and_then(|code| code.trim().parse().ok()),
            body: std::fs::read(&output).unwrap_or_default(),
            text,
        }
    }

    /// Options of curl for a client with a certificate of an authority.
    fn tls(&self, authority: &str, name: &str) -> Vec<String> {
        let file = |folder: &str, name: &str| self.dir.join(folder).join(name).display().to_string();
        let mut how = vec!["--cacert".to_owned(), file("pki", "ca.pem")];
        if !name.is_empty() {
            how.extend(["--cert".to_owned(), file(authority, &format!("{name}.pem"))]);
            how.extend(["--key".to_owned(), file(authority, &format!("{name}.key"))]);
        }
        how
    }

    fn as_client(&self, name: &str, method: &str, request: &[u8]) -> Answer {
        let how = self.tls("pki", name);
        self.call(&how.iter().map(String::as_str).collect::<Vec<_>>(), method, request)
    }

    fn with_token(&self, name: &str, token: &str, method: &str, request: &[u8]) -> Answer {
        let mut how = self.tls("pki", name);
        how.extend(["-H".to_owned(), format!("authorization: Bearer {token}")]);
        self.call(&how.iter().map(String::as_str).collect::<Vec<_>>(), method, request)
    }

    fn shell(&self, line: &str) -> Output {
        let mut command: Command = self.tap.broker.command("sh");
        command.args(["-c", line]).current_dir(self.dir).output().unwrap()
    }

    /// How often something was refused, as the metrics say.
    fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!("sluice_api_refusals_total{{reason=\"{reason}\"}}"))
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.shell("curl -sS http://127.0.0.1:9464/metrics").stdout;
        let text = String::from_utf8(text).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Waits until something was refused so often.
    fn wait_refused(&self, reason: &str, times: u64) {
        wait_for(reason, Duration::from_secs(10), || (self.refused(reason) >= times).then_some(()));
        assert_eq!(self.refused(reason), times, "{reason}");
    }
}

fn token(dir: &Path, text: &str) {
    std::fs::write(dir.join("ci.token"), text).unwrap();
    let made = Command::new("chmod").arg("600").arg(dir.join("ci.token")).status().unwrap();
    assert!(made.success());
}

#[test]
fn who_has_no_role_is_refused_and_traffic_flows_on() {
    if !has("openssl") || !has("curl") {
        return;
    }
    let Some(mut lab) = Lab::new("api-sec") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    for vni in [7, 8, 9] {
        tap.vxlan(vni, TOOL[0]);
    }
    let _sink = tap.sink();
    let dir = lab.dir().to_owned();
    let authority = Authority::new(&dir.join("pki"), "Sluice CA");
    authority.server();
    for name in ["alice", "wall", "eve", "mallory"] {
        authority.client(name, 30);
    }
    authority.client("old", -1);
    authority.revoke(None);
    let other = Authority::new(&dir.join("other"), "Sluice CA");
    other.client("alice", 30);
    token(&dir, TOKEN);
    std::fs::create_dir(dir.join("pcap")).unwrap();
    let daemon = Daemon::start(&lab, &tap.broker, &format!("{PORTS}{TLS}"), &policy(7, ""));
    daemon.wait_log("the API is served on TCP");
    daemon.wait_resolved(1);
    let clients = Clients { tap: &tap, dir: &dir };
    let mut sent = 0;
    let mut flood = |packets: u32| {
        tap.flood(packets, 200);
        sent += u64::from(packets);
    };
    let status = framed(&v1::GetStatusRequest {});
    let get = "StatusService/GetStatus";
    let put = "PolicyService/ApplyPolicySet";

    // Roles: by certificate, by token.
    flood(100);
    let answer: v1::Status = clients.as_client("wall", get, &status).message();
    assert_eq!((answer.generation, answer.policies), (1, 1));
    let refused = clients.as_client("wall", put, &apply(&policy(9, "")));
    assert_eq!(refused.code, Some(PERMISSION_DENIED), "{refused:?}");
    let answer: v1::ChangeResponse = clients.as_client("alice", put, &apply(&policy(8, ""))).message();
    assert!(answer.applied && answer.generation == 2, "{answer:?}");
    flood(50);
    let refused = clients.as_client("mallory", get, &status);
    assert_eq!(refused.code, Some(PERMISSION_DENIED), "{refused:?}");
    clients.wait_refused("role", 2);
    let answer: v1::ChangeResponse =
        clients.with_token("mallory", TOKEN, put, &apply(&policy(7, ""))).message();
    assert!(answer.applied, "{answer:?}");
    let refused = clients.with_token("alice", "0123456789abcdef0123", put, &apply(&policy(9, "")));
    assert_eq!(refused.code, Some(UNAUTHENTICATED), "{refused:?}");
    clients.wait_refused("wrong_token", 1);
    let list = framed(&v1::ListGenerationsRequest::default());
    let answer: v1::ListGenerationsResponse =
        clients.as_client("wall", "HistoryService/ListGenerations", &list).message();
    let by: Vec<_> = answer.generations.iter().map(|g| g.applied_by.as_str()).collect();
    assert_eq!(by, ["token ci", "certificate alice", "boot"]);

    // Certificates that are none of ours: TLS fails.
    flood(50);
    for (folder, name, reason) in [
        ("pki", "", "no_certificate"),
        ("other", "alice", "untrusted_certificate"),
        ("pki", "old", "expired_certificate"),
        // A server's certificate is no client's.
        ("pki", "server", "untrusted_certificate"),
    ] {
        let before = clients.refused(reason);
        let how = clients.tls(folder, name);
        let refused = clients.call(&how.iter().map(String::as_str).collect::<Vec<_>>(), get, &status);
        assert!(refused.exit != 0 && refused.code.is_none(), "{name}: {refused:?}");
        clients.wait_refused(reason, before + 1);
    }
    // Old protocols and plain text.
    let before = clients.refused("no_tls");
    let old = clients
        .shell(&format!("openssl s_client -connect {ADDRESS} -tls1_1 -cipher ALL:@SECLEVEL=0 </dev/null"));
    assert!(!old.status.success(), "{}", String::from_utf8_lossy(&old.stdout));
    clients.wait_refused("no_tls", before + 1);
    let plain = clients.call(&["--http2-prior-knowledge"], get, &status);
    assert!(plain.exit != 0, "{plain:?}");
    clients.wait_refused("no_tls", before + 2);
    let new = clients.shell(&format!(
        "openssl s_client -connect {ADDRESS} -alpn h2 -CAfile pki/ca.pem -cert pki/wall.pem -key pki/wall.key </dev/null"
    ));
    let new = String::from_utf8_lossy(&new.stdout).into_owned();
    assert!(new.contains("TLSv1.3") && new.contains("ALPN protocol: h2"), "{new}");

    // Requests that are too large, too slow, or none.
    flood(50);
    let huge = [&[0, 0, 0x50, 0, 0][..], &vec![0; 5 << 20]].concat();
    // curl 7.88 takes the answer that comes before the end of its request for a broken stream.
    let refused = clients.as_client("alice", get, &huge);
    assert!(refused.code == Some(RESOURCE_EXHAUSTED) || refused.exit == BROKEN_STREAM, "{refused:?}");
    let announced = [&[0, 0xff, 0xff, 0xff, 0xff][..], b"x"].concat();
    let refused = clients.as_client("alice", put, &announced);
    assert!(refused.code == Some(RESOURCE_EXHAUSTED) || refused.exit == BROKEN_STREAM, "{refused:?}");
    clients.wait_refused("size", 2);
    for nonsense in [&[0, 0, 0, 0, 2, 0xff, 0xff][..], &[0, 0, 0, 0, 9, 1], &[7, 0, 0, 0, 0]] {
        let refused = clients.as_client("wall", "PolicyService/GetPolicy", nonsense);
        assert!(refused.code.is_some_and(|code| code != OK), "{refused:?}");
    }
    let refused = clients.as_client("wall", "PolicyService/GetPolicy", &[0, 0, 0, 0, 2, 0xff, 0xff]);
    assert_eq!(refused.code, Some(INTERNAL), "{refused:?}");
    wait_for("malformed", Duration::from_secs(5), || (clients.refused("malformed") >= 2).then_some(()));
    let refused = clients.as_client("alice", "PolicyService/DropEverything", &status);
    assert_eq!(refused.code, Some(UNIMPLEMENTED), "{refused:?}");
    clients.wait_refused("method", 1);
    let certificate = "--cacert pki/ca.pem --cert pki/alice.pem --key pki/alice.key";
    let slow = clients.shell(&format!(
        "(printf '\\0\\0\\0\\0\\144'; sleep 6) | curl -sS --max-time 12 -D slow -o slow.body {certificate} -X POST -T . \
         -H 'content-type: application/grpc' https://{ADDRESS}/sluice.v1.{put}"
    ));
    let headers = std::fs::read_to_string(dir.join("slow")).unwrap_or_default();
    assert!(headers.contains(&format!("grpc-status: {DEADLINE_EXCEEDED}")), "{headers} {slow:?}");
    clients.wait_refused("slow", 1);

    // Those who hold connections: silent, byte by byte, and with garbage inside TLS.
    flood(50);
    let before = clients.refused("slow_handshake");
    let begun = Instant::now();
    tap.broker
        .inside(|| {
            let mut stream = TcpStream::connect(ADDRESS).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
            for byte in hello.iter().chain(&[0; 200]) {
                let gone = stream.write_all(&[*byte]).is_err();
                if gone || matches!(stream.read(&mut [0; 64]), Ok(0)) {
                    return;
                }
            }
            panic!("a handshake byte by byte was not cut");
        })
        .join()
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    clients.wait_refused("slow_handshake", before + 1);
    let s_client = format!(
        "openssl s_client -quiet -connect {ADDRESS} -alpn h2 -CAfile pki/ca.pem -cert pki/wall.pem -key pki/wall.key"
    );
    let begun = Instant::now();
    clients.shell(&format!("sleep 4 | timeout 8 {s_client}; true"));
    clients.wait_refused("slow_handshake", before + 2);
    eprintln!("a silent HTTP/2 client was there for {:?}", begun.elapsed());
    let before = clients.refused("protocol");
    clients.shell(&format!(
        "(printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'; sleep 1) | timeout 10 {s_client}"
    ));
    clients.wait_refused("protocol", before + 1);

    // Files: only in the folder.
    let pcap = |file: &str| format!("[[destination]]\nname = \"disk\"\ntype = \"pcap\"\nfile = \"{file}\"\n");
    for file in ["/etc/cron.d/x", "../policy.toml", "pcap/../../x"] {
        let answer: v1::ChangeResponse =
            clients.as_client("alice", put, &apply(&policy(8, &pcap(file)))).message();
        assert!(!answer.applied && answer.findings[0].field == "destinations[1].file", "{answer:?}");
    }
    let with_file = policy(8, &pcap("a.pcap")).replace("to = [\"tool\"]", "to = [\"tool\", \"disk\"]");
    let answer: v1::ChangeResponse = clients.as_client("alice", put, &apply(&with_file)).message();
    assert!(answer.applied, "{answer:?}");
    flood(20);
    let written = dir.join("pcap/a.pcap");
    wait_for("the file", Duration::from_secs(5), || written.exists().then_some(()));
    let answer: v1::ChangeResponse = clients.as_client("alice", put, &apply(&policy(7, ""))).message();
    assert!(answer.applied, "{answer:?}");

    // `sluice` over TLS: each with their role.
    let sluice = |name: &str, server: &str, arguments: &[&str]| {
        let mut command = tap.broker.command(cli());
        command.args(["--server", server, "--ca", "pki/ca.pem"]).args(arguments).current_dir(&dir);
        command.args(["--cert", &format!("pki/{name}.pem"), "--key", &format!("pki/{name}.key")]);
        let output = command.output().unwrap();
        let [told, wrong] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), told, wrong)
    };
    let server = format!("https://{ADDRESS}");
    std::fs::write(dir.join("other.toml"), policy(7, "").replace("tag = 7", "tag = 8")).unwrap();
    let (code, told, _) = sluice("wall", &server, &["status"]);
    assert!(code == Some(0) && told.contains("balanced"), "{told}");
    let (code, _, wrong) = sluice("wall", &server, &["apply", "-f", "other.toml"]);
    assert!(code == Some(4) && wrong.contains("certificate wall is viewer"), "{wrong}");
    let (code, told, wrong) = sluice("alice", &server, &["apply", "-f", "other.toml"]);
    assert!(code == Some(0) && told.contains("is in force"), "{told}{wrong}");
    let (code, told, _) = sluice("wall", &server, &["history"]);
    assert!(code == Some(0) && told.contains("certificate alice"), "{told}");
    let (code, told, wrong) = sluice("alice", &server, &["rollback"]);
    assert!(code == Some(0), "{told}{wrong}");
    let (code, _, wrong) = sluice("wall", &server.replace("127.0.0.1", "localhost"), &["status"]);
    assert!(code == Some(3) && wrong.contains("--server-name"), "{wrong}");

    // A token that is changed and a certificate that is revoked count from SIGHUP on.
    assert_eq!(clients.as_client("eve", get, &status).code, Some(OK));
    token(&dir, "another-token-of-32-characters-x\n");
    authority.revoke(Some("eve"));
    daemon.signal(Signal::HUP);
    daemon.wait_log("certificates and tokens of the API are read anew");
    let refused = clients.with_token("wall", TOKEN, get, &status);
    assert_eq!(refused.code, Some(UNAUTHENTICATED), "{refused:?}");
    let answer = clients.with_token("wall", "another-token-of-32-characters-x", get, &status);
    assert_eq!(answer.code, Some(OK), "{answer:?}");
    let refused = clients.as_client("eve", get, &status);
    assert!(refused.exit != 0, "{refused:?}");
    clients.wait_refused("revoked_certificate", 1);
    // What cannot be read leaves things as they are.
    std::fs::write(dir.join("pki/server.key"), "none").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_log("stay as they were");
    assert_eq!(clients.as_client("wall", get, &status).code, Some(OK));

    let log = daemon.log();
    for reason in
        ["no_certificate", "expired_certificate", "role", "size", "slow", "slow_handshake", "malformed"]
    {
        assert!(log.contains(&format!("reason=\"{reason}\"")), "{reason} is not in the log");
    }
    assert!(!log.contains(TOKEN), "a secret in the log");
    flood(30);
    let copies = || [7, 8, 9].map(|vni| tap.tool.counters(&format!("vx{vni}")).rx_packets);
    wait_for("the copies", Duration::from_secs(5), || (copies().iter().sum::<u64>() >= sent).then_some(()));
    let summary = daemon.stop();
    assert_eq!((copies().iter().sum::<u64>(), copies()[2]), (sent, 0), "{:?}", copies());
    assert_eq!(summary.copies("tool"), sent);
    assert_eq!(summary.total("lost before rx"), 0);
    assert!(summary.text.contains("the API refused because of"), "{}", summary.text);
}

#[test]
fn a_thousand_connections_keep_nobody_out() {
    const CONNECTIONS: usize = 1_000;
    if !has("openssl") || !has("curl") {
        return;
    }
    let Some(mut lab) = Lab::new("api-crowd") else { return };
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let _sink = tap.sink();
    let dir = lab.dir().to_owned();
    let authority = Authority::new(&dir.join("pki"), "Sluice CA");
    authority.server();
    authority.client("alice", 30);
    authority.revoke(None);
    token(&dir, TOKEN);
    std::fs::create_dir(dir.join("pcap")).unwrap();
    let daemon = Daemon::start(&lab, &tap.broker, &format!("{PORTS}{TLS}"), &policy(7, ""));
    daemon.wait_log("the API is served on TCP");
    daemon.wait_resolved(1);
    let clients = Clients { tap: &tap, dir: &dir };
    let status = framed(&v1::GetStatusRequest {});
    let crowd = tap.broker.inside(|| {
        let mut held: Vec<TcpStream> = Vec::new();
        for number in 0..CONNECTIONS {
            let Ok(mut stream) = TcpStream::connect(ADDRESS) else { continue };
            let said: [&[u8]; 3] = [b"", &[0x16, 3, 1, 2, 0, 1], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
            drop(stream.write_all(said[number % 3]));
            held.push(stream);
        }
        held
    });
    let mut sent = 0;
    while !crowd.is_finished() {
        tap.flood(200, 100);
        sent += 200;
    }
    let held = crowd.join().unwrap();
    // From another address, as these share the rate of theirs.
    let mut how = clients.tls("pki", "alice");
    how.extend(["--interface".to_owned(), "127.0.0.9".to_owned()]);
    let begun = Instant::now();
    let answer =
        clients.call(&how.iter().map(String::as_str).collect::<Vec<_>>(), "StatusService/GetStatus", &status);
    assert_eq!(answer.code, Some(OK), "{answer:?}");
    eprintln!("{} connections are held; another one took {:?}", held.len(), begun.elapsed());
    let refused = clients.refused("connection_rate") + clients.refused("connections");
    assert!(refused > 500, "{refused} of {CONNECTIONS}");

    // The socket has places of its own, and no more than it has.
    let sockets: Vec<_> = (0..100).map(|_| UnixStream::connect(dir.join("api.sock")).unwrap()).collect();
    wait_for("the socket to refuse", Duration::from_secs(5), || {
        (clients.refused("connections") + clients.refused("connection_rate") >= refused + 36).then_some(())
    });
    assert!(clients.metric("sluice_api_connections{transport=\"unix\"}") <= 64);
    drop((held, sockets));
    wait_for("the places to be free", Duration::from_secs(10), || {
        (clients.metric("sluice_api_connections{transport=\"unix\"}") == 0).then_some(())
    });
    // The log tells of it, and is not flooded.
    daemon.wait_log("left_out=");
    let lines = daemon.log().lines().filter(|line| line.contains("the API refused")).count();
    assert!(lines < 200, "{lines} lines");
    let summary = daemon.stop();
    assert_eq!(summary.copies("tool"), sent);
    assert_eq!(summary.total("lost before rx"), 0);
}

#[test]
fn plain_tcp_stays_on_loopback() {
    if !has("curl") {
        return;
    }
    let Some(mut lab) = Lab::new("api-plain") else { return };
    let tap = Tap::new(&mut lab, 1500, 1600, false);
    let dir = lab.dir().to_owned();
    token(&dir, TOKEN);
    let open = PLAIN.replace(ADDRESS, "0.0.0.0:9465");
    std::fs::write(dir.join("boot.toml"), format!("policy = \"policy.toml\"\n{PORTS}{open}")).unwrap();
    std::fs::write(dir.join("policy.toml"), policy(7, "")).unwrap();
    let check =
        Command::new(binary()).args(["check", "--config"]).arg(dir.join("boot.toml")).output().unwrap();
    let told = String::from_utf8(check.stderr).unwrap();
    assert!(!check.status.success() && told.contains("0.0.0.0:9465 is not loopback"), "{told}");

    let daemon = Daemon::start(&lab, &tap.broker, &format!("{PORTS}{PLAIN}"), &policy(7, ""));
    daemon.wait_log("the API is served on TCP");
    let clients = Clients { tap: &tap, dir: &dir };
    let status = framed(&v1::GetStatusRequest {});
    let plain = "--http2-prior-knowledge";
    assert_eq!(clients.call(&[plain], "StatusService/GetStatus", &status).code, Some(OK));
    let set = apply(&policy(8, ""));
    let refused = clients.call(&[plain], "PolicyService/ApplyPolicySet", &set);
    assert_eq!(refused.code, Some(PERMISSION_DENIED), "{refused:?}");
    let header = format!("authorization: Bearer {TOKEN}");
    let answer = clients.call(&[plain, "-H", &header], "PolicyService/ApplyPolicySet", &set);
    assert!(answer.message::<v1::ChangeResponse>().applied, "{answer:?}");
    // More than 5 in a second.
    let output = clients.shell(&format!(
        "for i in $(seq 60); do curl -sS {plain} -D - -o answer -H 'content-type: application/grpc' \
         --data-binary @request http://{ADDRESS}/sluice.v1.StatusService/GetStatus; done | \
         grep -ac 'grpc-status: {RESOURCE_EXHAUSTED}'"
    ));
    let refused: u64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(refused > 10, "{refused} of 60");
    clients.wait_refused("rate", refused);
    daemon.stop();
}
