//! Made-up switches, and what would be done to them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::cell::RefCell;

use serde_json::{Value, json};
use sluice_host::Tools;
use sluice_host::ovs::{
    OvsError, OvsErrorKind, Select, Snapshot, Step, Switch, Wish, attach, detach, quoted,
};

/// An `ovs-vsctl` that prints this and keeps what it was asked.
struct Vsctl {
    answer: Result<String, String>,
    asked: RefCell<Vec<Vec<String>>>,
}

impl Vsctl {
    fn new(answer: Result<String, String>) -> Self {
        Self { answer, asked: RefCell::default() }
    }
}

impl Tools for Vsctl {
    fn run(&self, command: &[&str]) -> Result<String, String> {
        self.asked.borrow_mut().push(command.iter().map(|&word| word.to_owned()).collect());
        self.answer.clone()
    }
}

/// The tables of a switch; rows are given as `ovs-vsctl` prints them.
#[derive(Clone)]
struct Tables {
    root: Value,
    bridges: Vec<Value>,
    ports: Vec<Value>,
    interfaces: Vec<Value>,
    mirrors: Vec<Value>,
}

fn uuid(number: u32) -> Value {
    json!(["uuid", format!("00000000-0000-4000-8000-{number:012}")])
}

fn set(values: &[Value]) -> Value {
    json!(["set", values])
}

fn none() -> Value {
    set(&[])
}

fn map(pairs: &[(&str, &str)]) -> Value {
    json!(["map", pairs])
}

fn mark() -> Value {
    map(&[("other", "x"), ("sluice", "mirror")])
}

impl Tables {
    /// br0 with ports a and b, and kernel bridge br1 with port k.
    fn plain() -> Self {
        let port = |number: u32, name: &str| json!([uuid(number), name, uuid(number + 100), map(&[])]);
        let interface = |number: u32, name: &str| {
            json!([uuid(number + 100), name, "", map(&[]), none(), none(), "up", number])
        };
        Self {
            root: json!([
                map(&[("dpdk-init", "true")]),
                true,
                set(&[json!("dpdk"), json!("dpdkvhostuserclient")])
            ]),
            bridges: vec![
                json!(["br0", "netdev", set(&[uuid(1), uuid(2), uuid(3)]), none()]),
                json!(["br1", "", uuid(4), none()]),
            ],
            ports: vec![port(1, "br0"), port(2, "a"), port(3, "b"), port(4, "k")],
            interfaces: vec![interface(1, "br0"), interface(2, "a"), interface(3, "b"), interface(4, "k")],
            mirrors: vec![],
        }
    }

    /// The same with what attach makes.
    fn attached() -> Self {
        let mut tables = Self::plain();
        tables.bridges[0] = json!(["br0", "netdev", set(&[uuid(1), uuid(2), uuid(3), uuid(9)]), uuid(20)]);
        tables.ports.push(json!([uuid(9), "sluice-br0", uuid(109), mark()]));
        tables.interfaces.push(json!([
            uuid(109),
            "sluice-br0",
            "dpdkvhostuserclient",
            map(&[("vhost-server-path", "/run/sluice/mirror.sock")]),
            9000,
            none(),
            "up",
            7
        ]));
        let statistics = json!(["map", [["tx_bytes", 100], ["tx_packets", 3]]]);
        tables.mirrors.push(json!([
            uuid(20),
            "sluice-br0",
            true,
            none(),
            none(),
            uuid(9),
            statistics,
            mark()
        ]));
        tables
    }

    fn print(&self) -> String {
        let table = |rows: &[Value], headings: &str| {
            let headings: Vec<_> = headings.split(',').collect();
            json!({ "data": rows, "headings": headings }).to_string() + "\n"
        };
        [
            table(std::slice::from_ref(&self.root), "other_config,dpdk_initialized,iface_types"),
            table(&self.bridges, "name,datapath_type,ports,mirrors"),
            table(&self.ports, "_uuid,name,interfaces,external_ids"),
            table(&self.interfaces, "_uuid,name,type,options,mtu_request,error,link_state,ofport"),
            table(
                &self.mirrors,
                "_uuid,name,select_all,select_src_port,select_dst_port,output_port,statistics,external_ids",
            ),
        ]
        .concat()
    }

    fn look(&self) -> Snapshot {
        Switch::new(&Vsctl::new(Ok(self.print())), None).look().unwrap()
    }
}

fn wish() -> Wish {
    Wish {
        bridge: "br0".into(),
        port: "sluice-br0".into(),
        mirror: "sluice-br0".into(),
        socket: "/run/sluice/mirror.sock".into(),
        mtu: 9000,
        select: Select::All,
    }
}

fn line(step: Step) -> String {
    let Step::Transaction(words) = step else { unreachable!("nothing to do") };
    quoted(&words)
}

#[test]
fn one_transaction_makes_a_marked_port_and_a_marked_mirror() {
    let snapshot = Tables::plain().look();
    assert_eq!(
        line(attach(&snapshot, &wish()).unwrap()),
        "-- add-port br0 sluice-br0 -- set Interface sluice-br0 type=dpdkvhostuserclient \
         options:vhost-server-path=/run/sluice/mirror.sock mtu_request=9000 -- set Port sluice-br0 \
         external_ids:sluice=mirror -- --id=@output get Port sluice-br0 -- --id=@mirror create Mirror name=sluice-br0 \
         output_port=@output external_ids:sluice=mirror select_all=true -- add Bridge br0 mirrors @mirror"
    );
    let two = Wish { select: Select::Ports(vec!["a".into(), "b".into()]), ..wish() };
    let text = line(attach(&snapshot, &two).unwrap());
    assert!(text.contains("-- --id=@port0 get Port a -- --id=@port1 get Port b -- --id=@mirror"), "{text}");
    assert!(text.contains("select_src_port=@port0,@port1 select_dst_port=@port0,@port1 --"), "{text}");
    assert!(snapshot.attached().is_empty());
}

#[test]
fn what_is_there_already_is_found_by_its_mark() {
    let snapshot = Tables::attached().look();
    let all = snapshot.attached();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].bridge.as_str(), all[0].mirrored_packets, all[0].connected), ("br0", Some(3), true));
    assert_eq!(attach(&snapshot, &wish()), Ok(Step::Nothing(all[0].clone())));
    assert_eq!(
        quoted(&detach(&snapshot, "br0").unwrap()),
        "-- remove Bridge br0 mirrors 00000000-0000-4000-8000-000000000020 -- del-port br0 sluice-br0"
    );
    for (other, what) in [
        (Wish { mtu: 1500, ..wish() }, "the MTU 9000"),
        (Wish { socket: "/run/x".into(), ..wish() }, "the socket /run/sluice/mirror.sock"),
        (Wish { port: "p".into(), ..wish() }, "the port sluice-br0"),
        (Wish { mirror: "m".into(), ..wish() }, "the mirror sluice-br0"),
        (Wish { select: Select::Ports(vec!["a".into()]), ..wish() }, "all ports selected"),
    ] {
        let error = attach(&snapshot, &other).unwrap_err();
        assert!(error.to_string().ends_with(what), "{error}");
        assert!(error.help().unwrap().contains("sluice ovs detach br0"));
    }
}

#[test]
fn what_was_taken_apart_is_told_and_taken_away() {
    let mut half = Tables::attached();
    half.mirrors.clear();
    half.bridges[0][3] = none();
    let snapshot = half.look();
    assert_eq!(attach(&snapshot, &wish()), Err(OvsError::Incomplete("br0".into())));
    assert_eq!(quoted(&detach(&snapshot, "br0").unwrap()), "-- del-port br0 sluice-br0");
    let mut other = Tables::attached();
    other.ports.pop();
    other.interfaces.pop();
    other.mirrors[0][5] = none();
    let snapshot = other.look();
    assert!(!snapshot.attached()[0].is_whole());
    assert!(
        quoted(&detach(&snapshot, "br0").unwrap()).ends_with("mirrors 00000000-0000-4000-8000-000000000020")
    );
    assert_eq!(detach(&Tables::plain().look(), "br0"), Err(OvsError::NotAttached("br0".into())));
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let refused = |tables: &Tables, wish: &Wish| attach(&tables.look(), wish).unwrap_err();
    let mut unmarked = Tables::attached();
    unmarked.ports[4][3] = map(&[("sluice", "other")]);
    unmarked.mirrors[0][7] = map(&[]);
    assert_eq!(refused(&unmarked, &wish()), OvsError::PortTaken("sluice-br0".into()));
    assert_eq!(detach(&unmarked.look(), "br0"), Err(OvsError::NotAttached("br0".into())));
    let mirror = OvsError::MirrorTaken { bridge: "br0".into(), mirror: "sluice-br0".into() };
    assert_eq!(refused(&unmarked, &Wish { port: "p".into(), ..wish() }), mirror);
    let other = Wish { port: "p".into(), mirror: "m".into(), ..wish() };
    assert!(matches!(refused(&unmarked, &other), OvsError::SocketTaken { .. }));
    // The name of a bridge is that of a port.
    assert_eq!(
        refused(&Tables::plain(), &Wish { port: "k".into(), ..wish() }),
        OvsError::PortTaken("k".into())
    );

    let mut foreign = Tables::attached();
    foreign.mirrors.push(json!([uuid(21), "span", false, uuid(2), none(), uuid(9), map(&[]), map(&[])]));
    foreign.bridges[0][3] = set(&[uuid(20), uuid(21)]);
    let error = OvsError::Foreign { mirror: "span".into(), port: "sluice-br0".into() };
    assert_eq!(refused(&foreign, &wish()), error);
    assert_eq!(detach(&foreign.look(), "br0"), Err(error));
}

#[test]
fn a_switch_that_cannot_do_it_is_told_of() {
    let refused = |tables: &Tables, wish: &Wish| attach(&tables.look(), wish).unwrap_err();
    let plain = Tables::plain();
    let error = refused(&plain, &Wish { bridge: "br9".into(), ..wish() });
    assert_eq!(error.to_string(), "there is no bridge br9; there is br0, br1");
    assert_eq!(error.kind(), OvsErrorKind::NotFound);
    let error = refused(&plain, &Wish { bridge: "br1".into(), ..wish() });
    assert!(error.to_string().contains("the datapath \"system\""), "{error}");
    let error = refused(&plain, &Wish { select: Select::Ports(vec!["k".into()]), ..wish() });
    assert_eq!(error.to_string(), "bridge br0 has no port k");
    for (place, value, wanted) in
        [(0, map(&[]), false), (1, json!(false), true), (2, set(&[json!("system")]), true)]
    {
        let mut tables = plain.clone();
        tables.root[place] = value;
        assert_eq!(refused(&tables, &wish()), OvsError::NoDpdk { wanted });
    }
    for bad in [
        Wish { port: "--".into(), ..wish() },
        Wish { port: "@output".into(), ..wish() },
        Wish { bridge: String::new(), ..wish() },
        Wish { mirror: "a b".into(), ..wish() },
        Wish { mirror: "a;reboot".into(), ..wish() },
        Wish { socket: "mirror.sock".into(), ..wish() },
        Wish { socket: "/run/a,b".into(), ..wish() },
        Wish { socket: format!("/{}", "a".repeat(107)), ..wish() },
        Wish { mtu: 100, ..wish() },
        Wish { mtu: 9703, ..wish() },
        Wish { select: Select::Ports(vec!["-x".into()]), ..wish() },
    ] {
        assert_eq!(refused(&plain, &bad).kind(), OvsErrorKind::Usage, "{bad:?}");
    }
}

#[test]
fn what_ovs_vsctl_complains_of_is_understood() {
    for (told, kind, help) in [
        ("ovs-vsctl: No such file or directory (os error 2)", OvsErrorKind::Unreachable, "apt-get install"),
        (
            "ovs-vsctl: ovs-vsctl: unix:/nope: database connection failed (No such file or directory)",
            OvsErrorKind::Unreachable,
            "ovsdb-server",
        ),
        (
            "ovs-vsctl: ovs-vsctl: unix:/run/db.sock: database connection failed (Permission denied)",
            OvsErrorKind::NotAllowed,
            "root",
        ),
        (
            "ovs-vsctl: 2026-11-21T18:00:00Z|00002|fatal_signal|WARN|terminating with signal 14 (Alarm clock)",
            OvsErrorKind::Unreachable,
            "log",
        ),
        ("ovs-vsctl: ovs-vsctl: cannot create a port named a", OvsErrorKind::Failed, ""),
    ] {
        let vsctl = Vsctl::new(Err(told.to_owned()));
        let error = Switch::new(&vsctl, Some("unix:/x")).look().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.help().unwrap_or_default().contains(help), "{error}");
        assert!(!error.to_string().contains("ovs-vsctl: "), "{error}");
        let asked = vsctl.asked.borrow();
        assert_eq!(asked[0][..4], ["ovs-vsctl", "--timeout=10", "--no-wait", "--db=unix:/x"]);
    }
}

#[test]
fn a_command_is_quoted_for_a_shell() {
    let words = ["ovs-vsctl", "a=b,@c", "it's", "", "$(reboot)", "a\"b"].map(str::to_owned);
    let line = quoted(&words);
    let shell = std::process::Command::new("sh")
        .args(["-c", &format!("for word in {line}; do printf '%s\\n' \"$word\"; done")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(shell.stdout).unwrap(), words.join("\n") + "\n");
}

#[test]
fn hostile_output_is_refused_or_read_but_never_believed() {
    let whole = Tables::attached().print();
    let look = |text: String| Switch::new(&Vsctl::new(Ok(text)), None).look();
    let mut states = 0_u64;
    let mut random = move || {
        states = states.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(states >> 33).unwrap()
    };
    for text in ["", "{}", "[]", "null", "{\"data\":[[]],\"headings\":[\"name\"]}", "\u{1b}[2J", "{{{{"] {
        assert!(matches!(look(text.to_owned()), Err(OvsError::Garbled(_))), "{text}");
    }
    let deep = "[".repeat(100_000);
    assert!(look(deep).is_err());
    let tokens = ["\"set\"", "\"map\"", "\"uuid\"", "null", "[]", "-1", "9e99", "true", "\"x\"", "{}", ","];
    let mut read = 0;
    for _ in 0..20_000 {
        let mut bytes = whole.clone().into_bytes();
        for _ in 0..=random() % 3 {
            let place = random() % bytes.len();
            match random() % 3 {
                0 => bytes[place] = u8::try_from(random() % 128).unwrap(),
                1 => bytes.truncate(place.max(1)),
                _ => {
                    let token = tokens[random() % tokens.len()];
                    let end = (place + random() % 12).min(bytes.len());
                    bytes.splice(place..end, token.bytes());
                }
            }
        }
        if let Ok(snapshot) = look(String::from_utf8_lossy(&bytes).into_owned()) {
            read += 1;
            drop(snapshot.attached());
            drop(attach(&snapshot, &wish()));
            // What is taken away is named by the user and marked as ours.
            if let Ok(words) = detach(&snapshot, "br0") {
                assert!(words.len() >= 4, "{words:?}");
            }
        }
    }
    assert!(read > 100, "{read}");
}
