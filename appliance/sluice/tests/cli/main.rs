//! What does `sluice` print, and how does it end, against a server with recorded answers?
//!
//! `UPDATE_GOLDEN=1 cargo test -p sluice` writes the expected output anew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]
#![allow(missing_docs, reason = "a test")]

mod mock;
mod terminal;
mod tls;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use mock::{IN_FORCE, Mock};
use serde_json::Value;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Whether a terminal would show the text and do nothing else.
fn harmless(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !(c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)))
}

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name}; UPDATE_GOLDEN=1 writes it anew");
}

#[test]
fn tables_are_for_people() {
    let mock = Mock::start();
    mock.file("new.toml", IN_FORCE.replace("tag = 7", "tag = 8"));
    for (name, arguments) in [
        ("status", "status"),
        ("ports", "ports"),
        ("ports-device", "ports --device"),
        ("workers", "workers"),
        ("guests", "guests"),
        ("guests-1", "guests vm:web-1"),
        ("counters", "counters"),
        ("drops", "drops --all"),
        ("counters-names", "counters worker0 web"),
        ("flows", "flows --from 10.0.0.0/8 --limit 100"),
        ("talkers", "talkers"),
        ("history", "history"),
        ("history-6", "history 6"),
        ("policy-list", "policy list"),
        ("policy-get", "policy get web"),
        ("group-list", "group list"),
        ("group-get", "group get clients"),
        ("destination-list", "destination list"),
        ("destination-get", "destination get ids"),
        ("explain", "explain --src 10.0.0.1 --dst 10.0.0.2 --sport 40000 --dport 80 --vlan 7"),
        ("diff", "diff -f new.toml"),
        ("apply", "apply -f new.toml --expect-generation 7"),
        ("dry-run", "apply -f new.toml --dry-run --live 10s"),
        ("rollback", "rollback 5"),
        ("delete", "policy delete web"),
        ("stop", "stop --comment maintenance"),
        ("start", "start"),
    ] {
        let output = mock.run(&arguments.split(' ').collect::<Vec<_>>());
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "{arguments}");
        let text = stdout(&output);
        assert!(harmless(&text), "{arguments}: {text:?}");
        golden(&format!("{name}.txt"), &text);
    }
}

#[test]
fn json_is_for_scripts() {
    let mock = Mock::start();
    mock.file("new.toml", IN_FORCE.replace("tag = 7", "tag = 8"));
    let json = |arguments: &str| -> Value {
        let output = mock.run(&arguments.split(' ').chain(["--json"]).collect::<Vec<_>>());
        assert_eq!(code(&output), 0, "{arguments}: {}", stderr(&output));
        let text = stdout(&output);
        assert!(harmless(&text), "{arguments}");
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(json("status")["state"], "STATE_EXCEPTION");
    assert_eq!(json("status")["exceptions"][0]["subject"], mock::HOSTILE);
    assert_eq!(json("status")["account"]["rx_packets"], 1_000);
    assert_eq!(json("ports")["ports"][1]["breaker"]["opened"], 2);
    assert_eq!(json("guests vnet2")["interfaces"][0]["vms"][0], "db");
    assert_eq!(json("workers")["workers"][0]["counters"]["delay_ns"]["p99"], 15_600);
    assert_eq!(json("counters")["policies"][1]["policy"], "web");
    assert_eq!(json("drops")["totals"]["drops"]["tx_full"], 10);
    assert_eq!(json("flows")["flows"][0]["server_port"], 443);
    assert_eq!(json("talkers")["talkers"][0]["client"], "10.0.0.1");
    assert_eq!(json("history")["generations"][0]["rolled_back_to"], 5);
    assert_eq!(json("history 6")["diff"]["changes"][0]["type"], "CHANGE_TYPE_CHANGED");
    let policies = json("policy list");
    assert_eq!(policies["policies"].as_array().unwrap().len(), 2, "both pages");
    assert_eq!(json("policy get web")["tag"], 7);
    assert_eq!(json("group list")["groups"][0]["name"], "clients");
    assert_eq!(json("destination list")["destinations"][0]["rate_mbps"], 800);
    assert_eq!(json("explain --src 10.0.0.1 --dst 10.0.0.2")["outcome"], "OUTCOME_COPIED");
    assert_eq!(json("diff -f new.toml")["changes"][0]["fields"][0]["after"], "8");
    assert_eq!(json("apply -f new.toml")["generation"], 8);
    assert_eq!(json("rollback")["applied"], true);
    assert_eq!(json("apply -f new.toml --dry-run")["plan"]["valid"], true);
}

#[test]
fn the_doctor_looks_at_what_is_in_force() {
    let mock = Mock::start();
    let ports = "[[port]]\nname = \"a\"\nspec = \"net_null0\"\nrole = \"both\"\n";
    mock.file("file.toml", IN_FORCE.replace("\"ids\"", "\"other\""));
    let look = |server: Option<&str>, rest: &str| {
        mock.file(
            "sluiced.toml",
            format!("policy = \"file.toml\"\n[eal]\nhugepages = \"never\"\n{rest}{ports}"),
        );
        let mut command = mock.command(&["doctor", "--config", "sluiced.toml", "--json"]);
        command.env_remove("SLUICE_SERVER");
        if let Some(server) = server {
            command.env("SLUICE_SERVER", server);
        }
        let told: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        let of = |check: &str| {
            let findings = told["findings"].as_array().unwrap().iter();
            findings.filter(|finding| finding["check"] == check).cloned().collect::<Vec<_>>()
        };
        (of("policies"), of("mtu"))
    };
    // By the socket that the boot config names; an address of another machine has no say.
    let socket = "[api]\nsocket = \"s\"\n";
    for (server, rest) in [
        (None, socket),
        (Some("https://192.0.2.1:9"), socket),
        (Some(mock.server()), "[api]\nsocket = \"elsewhere\"\n"),
    ] {
        let (policies, ways) = look(server, rest);
        let looked_at = [&policies[0]["level"], &policies[0]["text"]];
        assert_eq!(looked_at, ["ok", "those in force are looked at: generation 7"]);
        assert_eq!(ways[0]["subject"], "ids");
    }
    mock.leave();
    std::fs::remove_file(mock.folder().join("s")).unwrap();
    for (store, level) in [("", "ok"), ("[store]\nfolder = \"kept\"\n", "note")] {
        let (policies, ways) = look(None, &format!("{socket}{store}"));
        assert_eq!(policies[0]["level"], level);
        let text = policies[0]["text"].as_str().unwrap();
        assert!(text.contains("no socket") && text.contains("file.toml is looked at"), "{text}");
        assert_eq!(ways[0]["subject"], "other");
    }
}

#[test]
fn exit_codes_mean_something() {
    let mock = Mock::start();
    mock.file("same.toml", IN_FORCE);
    mock.file("new.toml", IN_FORCE.replace("tag = 7", "tag = 8"));
    mock.file("bad.toml", IN_FORCE.replace("80,443", "443-80"));
    mock.file("x.pcap", b"no capture");
    for (arguments, expected, told) in [
        (
            "apply -f new.toml --comment refused",
            1,
            "error: destinations[0].port: no port \"tool7\"; did you mean",
        ),
        ("apply -f bad.toml", 1, "error: policy \"web\": peer.ports: reversed range 443-80"),
        ("apply -f missing.toml", 1, "missing.toml"),
        ("apply", 2, "--file"),
        ("apply -f new.toml --live 10s", 2, "--dry-run"),
        ("apply -f new.toml --dry-run --live 2m", 2, "at most 60s"),
        ("apply -f new.toml --comment forbidden", 4, "operator may do all"),
        ("apply -f new.toml --expect-generation 6", 6, "generation 7 is in force"),
        ("policy delete nothing", 5, "no policy \"nothing\""),
        ("policy get none", 5, "no policy \"none\"\\u{9b}31m"),
        ("rollback 1", 5, "not kept any more"),
        ("guests vm:vnet0", 5, "has nothing called vm:vnet0"),
        ("flows --protocol bad", 2, "protocol[0]: \"bad\" is no protocol"),
        ("explain --capture x.pcap --packet 3", 2, "packet 3 of 10 bytes cannot be read"),
        ("counters web nothing", 5, "has the name \"nothing\""),
        ("explain --flow --src 10.0.0.1 --dst 10.0.0.2", 5, "no such flow"),
        ("explain --capture x.pcap", 2, "--packet"),
        ("diff -f new.toml --exit-code", 7, ""),
        ("diff -f same.toml --exit-code", 0, ""),
        ("capture -w new.toml", 1, "--force"),
        ("capture -w y.pcapng --snaplen 13", 2, "out of range"),
        ("status --server unix:/nowhere/s", 3, "is sluiced running, with its API on?"),
        ("status --server http://example.com:1", 2, "without TLS only this machine"),
        ("status --server http://127.0.0.1:1", 3, "cannot connect to http://127.0.0.1:1"),
        ("status --server https://127.0.0.1:1", 2, "--ca FILE"),
    ] {
        let output = mock.run(&arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(code(&output), expected, "{arguments}: {}{}", stdout(&output), stderr(&output));
        assert!(stderr(&output).contains(told), "{arguments}: {}", stderr(&output));
        assert!(harmless(&stderr(&output)), "{arguments}");
    }
}

#[test]
fn errors_of_files_have_their_lines() {
    let mock = Mock::start();
    mock.file("bad.toml", IN_FORCE.replace("80,443", "443-80"));
    let output = mock.run(&["apply", "-f", "bad.toml"]);
    assert!(stderr(&output).contains("--> bad.toml:20:"), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing was sent"));

    // A single policy is checked together with what is in force: names of that are known, lines are those of the file.
    mock.file(
        "one.toml",
        "[[policy]]\nname = \"web\"\npeer = { addresses = [\"@clients\"] }\nto = [\"ids\"]\n",
    );
    let output = mock.run(&["policy", "put", "-f", "one.toml"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    mock.file("one.toml", "[[policy]]\nname = \"web\"\nto = [\"idz\"]\n");
    let output = mock.run(&["policy", "put", "-f", "one.toml"]);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("no destination \"idz\"; did you mean")
            || stderr(&output).contains("\"ids\"?")
    );
    assert!(stderr(&output).contains("--> one.toml:3:"), "{}", stderr(&output));
    mock.file("two.toml", IN_FORCE);
    let output = mock.run(&["policy", "put", "-f", "two.toml"]);
    assert!(code(&output) == 1 && stderr(&output).contains("[[policy]] only"), "{}", stderr(&output));
}

#[test]
fn a_reader_that_goes_is_no_panic() {
    let mock = Mock::start();
    for arguments in
        [&["flows", "--limit", "1000000"][..], &["flows", "--limit", "1000000", "--json"], &["man"]]
    {
        let mut child =
            mock.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 10]).unwrap();
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    }
}

#[test]
fn captures_go_to_files_and_pipes() {
    let mock = Mock::start();
    let output = mock.run(&["capture", "-w", "-"]);
    assert_eq!(output.stdout, b"sectionpackets");
    assert_eq!(
        stderr(&output),
        "4 packets, 14 B, 1 left out as this reader was too slow; the number of packets was reached\n"
    );
    assert_eq!(code(&mock.run(&["capture", "-w", "a.pcapng", "-c", "4"])), 0);
    assert_eq!(mock.read("a.pcapng"), b"sectionpackets");
}

/// Waits until something is so.
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn captures_end_with_their_reader_and_their_daemon() {
    let mock = Mock::start();
    let start = |snaplen: &str| {
        mock.command(&["capture", "--snaplen", snaplen])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut read = [0; 7];
    // The reader goes while nothing comes, and while more comes than it takes.
    for snaplen in ["14", "16"] {
        let mut child = start(snaplen);
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut read).unwrap();
        drop(stdout);
        wait_for("the end", || child.try_wait().unwrap().is_some());
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stderr(&output).ends_with("; the reader has gone\n"), "{}", stderr(&output));
    }
    // Ctrl-C is heard while nothing comes, and what came is there.
    let mut child = start("14");
    child.stdout.as_mut().unwrap().read_exact(&mut read).unwrap();
    assert_eq!(&read, b"section");
    assert!(Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (code(&output), stderr(&output).as_str()),
        (0, "2 packets, 7 B, 1 left out as this reader was too slow; interrupted\n")
    );
    // A reader that does not read does not hold it: the second Ctrl-C ends it whatever is not written.
    let mut child = start("16");
    child.stdout.as_mut().unwrap().read_exact(&mut read).unwrap();
    wait_for("the end", || {
        Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
        child.try_wait().unwrap().is_some()
    });
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    // A daemon that goes is an error, and what it sent is there.
    let output = mock.run(&["capture", "--snaplen", "15", "-w", "early.pcapng"]);
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("the daemon ended the capture early"), "{}", stderr(&output));
    assert_eq!(mock.read("early.pcapng"), b"section");
}

#[test]
fn whoever_answers_is_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let answers: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0; 64],
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\xff\xff\xff\xff",
    ];
    for answer in answers {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                // The client may have gone by then.
                drop(stream.write_all(answer));
            });
            let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
                .args(["status", "--timeout", "5s"])
                .env("SLUICE_SERVER", format!("unix:{}", path.display()))
                .output()
                .unwrap();
            assert!([1, 3].contains(&code(&output)), "{answer:?}: {}", stderr(&output));
            assert!(stderr(&output).starts_with("sluice: error: ") && harmless(&stderr(&output)));
        });
    }
    // Nobody answers.
    let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["status", "--timeout", "200ms"])
        .env("SLUICE_SERVER", format!("unix:{}", path.display()))
        .output()
        .unwrap();
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert!(stderr(&output).contains("--timeout"), "{}", stderr(&output));
}

#[test]
fn one_picture_of_top_needs_no_terminal() {
    let mock = Mock::start();
    let output = mock.run(&["top", "--once"]);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    assert!(harmless(&stdout(&output)));
    golden("top.txt", &stdout(&output));
    for (arguments, told) in
        [(&["top"][..], "--once"), (&["top", "--json"], "for people"), (&["top", "-i", "1ms"], "100ms")]
    {
        let output = mock.run(arguments);
        assert!(code(&output) == 2 && stderr(&output).contains(told), "{}", stderr(&output));
    }
}

#[test]
fn colours_only_where_they_are_wanted() {
    let mock = Mock::start();
    let painted = |output: Output| stdout(&output).contains("\u{1b}[31mexception\u{1b}[0m");
    assert!(!painted(mock.run(&["status"])));
    assert!(painted(mock.run(&["status", "--color", "always"])));
    assert!(!painted(mock.command(&["status", "--color", "auto"]).env("NO_COLOR", "1").output().unwrap()));
}

#[test]
fn completions_and_manual_pages_need_no_daemon() {
    let run =
        |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(code(&output) == 0 && stdout(&output).contains("rollback"), "{shell}");
    }
    assert!(stdout(&run(&["man"])).contains(".TH sluice"));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(code(&run(&["man", folder.path().to_str().unwrap()])), 0);
    assert!(folder.path().join("sluice-apply.1").exists());
}

#[test]
fn a_socket_without_a_server_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .arg("status")
        .env("SLUICE_SERVER", format!("unix:{}", path.display()))
        .output()
        .unwrap();
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("nobody listens"), "{}", stderr(&output));
}
