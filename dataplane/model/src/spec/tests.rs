//! Does reading hold for all texts: no panic, places inside the text, and what was written is what is read?

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::{DestinationKind, PolicySet, RangeSet};

/// Pieces of policy files, right and wrong.
const PIECES: &[&str] = &[
    "[[policy]]\n",
    "[[destination]]\n",
    "[[group]]\n",
    "[policy]\n",
    "[[port]]\n",
    "[eal]\n",
    "name = ",
    "\"a\"",
    "\"b\"",
    "\n",
    "type = \"vxlan\"\n",
    "type = \"erspan2\"\n",
    "type = \"pcap\"\n",
    "remote = \"192.0.2.1\"\n",
    "file = \"x\"\n",
    "collect = ",
    "peer = ",
    "{ ",
    " }",
    "addresses = ",
    "[",
    "]",
    "\"10.0.0.0/8\"",
    "\"@a\"",
    "\"10.0.0.9-10.0.0.1\"",
    ", ",
    "ports = ",
    "80",
    "\"80,90-85\"",
    "to = [\"a\"]\n",
    "tag = ",
    "5000\n",
    "-1",
    "0x1f",
    "1e3",
    "true",
    "\"",
    "'''",
    "\"\"\"",
    "protocol = \"tcp\"\n",
    "tcp_flags = \"syn,!ack\"\n",
    "mtu = 60\n",
    "\u{e4}",
    "\u{1f980}",
    "\\",
    "#",
    "=",
    ".",
    "action = \"drop\"\n",
    "spec = \"af_packet:eth0\"\n",
    "role = \"both\"\n",
    "policy = \"p\"\n",
    "\r\n",
    "\0",
];

fn any_text() -> impl Strategy<Value = String> {
    let pieces = proptest::collection::vec(proptest::sample::select(PIECES), 0..40).prop_map(|p| p.concat());
    prop_oneof![3 => pieces, 1 => any::<String>()]
}

/// What holds for the findings of any text.
fn check_findings(text: &str, findings: &[Diagnostic]) {
    let lines = text.split('\n').count();
    for d in findings {
        assert!((1..=lines).contains(&(d.line as usize)), "{d} of {lines} lines");
        assert!(d.column >= 1 && !d.reason.is_empty(), "{d}");
        assert!(!d.to_string().contains(|c: char| c.is_control()), "{:?}", d.to_string());
        assert!(d.render().contains(&d.reason));
    }
    assert!(findings.is_sorted_by_key(|d| (d.line, d.column)));
}

fn check<T>(text: &str, result: Result<Loaded<T>, Diagnostics>) -> Option<T> {
    match result {
        Ok(loaded) => {
            check_findings(text, &loaded.warnings);
            assert!(loaded.warnings.iter().all(|d| d.severity == Severity::Warning));
            Some(loaded.value)
        }
        Err(diagnostics) => {
            check_findings(text, &diagnostics.0);
            assert!(diagnostics.errors() > 0);
            None
        }
    }
}

/// Words for any field, right and wrong.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "",
        "a",
        "b",
        "c",
        "@a",
        "@b",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.0.0.9-10.0.0.1",
        "10.0.0.1-10.2.0.0",
        "::/0",
        "02:00:00:00:00:01",
        "80",
        "90-80",
        "70-90",
        "80,443",
        "0x50",
        "tcp",
        "tpc",
        "udp",
        "syn",
        "!ack",
        "inner",
        "outer",
        "later",
        "drop",
        "copy",
        "vxlan",
        "erspan2",
        "erspan3",
        "port",
        "pcap",
        "group",
        "reference",
        "fragment",
        "on",
        "auto",
        "192.0.2.1",
        "2001:db8::1",
        "224.0.0.1",
        "\u{1f980}",
        "\"\n",
        " ",
    ];
    proptest::sample::select(words.to_vec()).prop_map(str::to_owned)
}

fn word_list(most: usize) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![3 => Just(Vec::new()), 2 => proptest::collection::vec(word(), 1..most)]
}

fn sometimes<T: std::fmt::Debug + Clone>(
    strategy: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.3, strategy)
}

fn number() -> impl Strategy<Value = Option<u32>> {
    sometimes(prop_oneof![0..100_u32, Just(1_500), Just(0xffff), any::<u32>()])
}

/// Any plain values, most of them wrong.
fn any_spec() -> impl Strategy<Value = PolicySetSpec> {
    let side = || (word_list(4), word_list(3)).prop_map(|(addresses, ports)| SideSpec { addresses, ports });
    let lists =
        (word_list(3), word_list(3), word_list(3), word_list(3), word_list(3), word_list(3), word_list(3));
    let choices = (sometimes(word()), sometimes(word()), sometimes(word()));
    let copies = (number(), number(), word_list(3), sometimes(any::<bool>()), (word_list(3), word_list(3)));
    let policy = (word(), side(), side(), lists, choices, copies).prop_map(
        |(name, collect, peer, lists, (headers, fragment, action), (payload, tag, to, enabled, places))| {
            let (protocol, vlan, vlan_inner, tunnel_id, ethertype, tcp_flags, length) = lists;
            let (ingress, taps) = places;
            PolicySpec {
                name,
                collect,
                peer,
                protocol,
                vlan,
                vlan_inner,
                tunnel_id,
                headers,
                ethertype,
                tcp_flags,
                length,
                fragment,
                ingress,
                taps,
                action,
                payload,
                tag,
                to,
                enabled,
            }
        },
    );
    let group = (word(), word_list(5)).prop_map(|(name, addresses)| GroupSpec { name, addresses });
    let texts =
        (sometimes(word()), sometimes(word()), sometimes(word()), sometimes(word()), sometimes(word()));
    let choices =
        (sometimes(word()), sometimes(word()), sometimes(word()), sometimes(word()), sometimes(word()));
    let numbers = (number(), number(), number(), number(), number());
    let rest = (sometimes(any::<bool>()), sometimes(word()), word_list(4), word_list(4));
    let destination = (word(), texts, choices, numbers, rest).prop_map(
        |(name, texts, choices, numbers, (inner_vlan, vlan_from, members, weights))| {
            let (remote, local, mac, port, file) = texts;
            let (kind, marking, udp_checksum, oversize, hash) = choices;
            let (udp_port, mtu, rate_mbps, rate_pps, burst_ms) = numbers;
            DestinationSpec {
                name,
                kind,
                remote,
                local,
                mac,
                port,
                marking,
                udp_port,
                udp_checksum,
                mtu,
                oversize,
                inner_vlan,
                vlan_from,
                file,
                rate_mbps,
                rate_pps,
                burst_ms,
                members,
                weights,
                hash,
            }
        },
    );
    let many = |most| 0..most;
    (
        proptest::collection::vec(destination, many(4)),
        proptest::collection::vec(group, many(3)),
        proptest::collection::vec(policy, many(4)),
    )
        .prop_map(|(destinations, groups, policies)| PolicySetSpec { destinations, groups, policies })
}

/// A reason without lines and paths, which a text and plain values have for the same thing.
fn without_places(reason: &str) -> String {
    let place = |word: &str| {
        let word = word.trim_start_matches('(');
        ["policies[", "groups[", "destinations["].iter().any(|list| word.starts_with(list))
    };
    let mut words = Vec::new();
    let mut rest = reason.split(' ');
    while let Some(word) = rest.next() {
        if word.trim_start_matches('(') == "line" {
            rest.next();
            words.push("PLACE");
        } else {
            words.push(if place(word) { "PLACE" } else { word });
        }
    }
    words.join(" ")
}

/// A list of disjoint ranges, as a set and as text.
fn ranges(max: u32) -> impl Strategy<Value = Vec<(u32, u32)>> {
    proptest::collection::btree_set(0..=max, 1..8).prop_map(|numbers| {
        let numbers: Vec<u32> = numbers.into_iter().collect();
        numbers.chunks(2).map(|pair| (pair[0], pair[pair.len() - 1])).collect()
    })
}

fn list(ranges: &[(u32, u32)]) -> String {
    let one = |&(low, high): &(u32, u32)| if low == high { low.to_string() } else { format!("{low}-{high}") };
    ranges.iter().map(one).collect::<Vec<_>>().join(",")
}

proptest! {
    #[test]
    fn no_text_panics(text in any_text()) {
        let policies = check(&text, parse_policy("policy.toml", &text)).unwrap_or_default();
        if let Some(boot) = check(&text, parse_boot("boot.toml", &text)) {
            drop(check_against(&policies, &boot));
        }
    }

    #[test]
    fn plain_values_say_what_the_text_says(text in any_text()) {
        let Ok(set) = parse_policy("policy.toml", &text) else { return Ok(()) };
        let (spec, same) = parse_policy_spec("policy.toml", &text).unwrap().value;
        prop_assert_eq!(&same, &set.value);
        prop_assert_eq!(&spec.validate().unwrap().value, &set.value);
        let written = spec.to_toml().unwrap();
        prop_assert_eq!(&parse_policy_spec("policy.toml", &written).unwrap().value.0, &spec, "{}", written);
    }

    #[test]
    fn plain_values_have_the_findings_of_their_text(spec in any_spec()) {
        let findings = |result: Result<Loaded<PolicySet>, Diagnostics>| {
            let (value, list) = match result {
                Ok(loaded) => (Some(loaded.value), loaded.warnings),
                Err(diagnostics) => (None, diagnostics.0),
            };
            let told = |d: &Diagnostic| (d.severity, without_places(&d.reason), d.suggestion.clone());
            let mut told: Vec<_> = list.iter().map(told).collect();
            told.sort();
            (value, told, list)
        };
        let (value, told, list) = findings(spec.validate());
        let text = spec.to_toml().unwrap();
        let (value_of_text, told_of_text, _) = findings(parse_policy("policy.toml", &text));
        prop_assert_eq!(told, told_of_text, "{}", text);
        prop_assert_eq!(value, value_of_text);
        for finding in list {
            prop_assert!(finding.file.is_empty() && finding.line == 0, "{finding}");
            let list = finding.field.split(['[', '.']).next().unwrap_or_default();
            prop_assert!(["destinations", "groups", "policies"].contains(&list), "{finding}");
        }
    }

    #[test]
    fn what_is_written_is_read(
        ports in ranges(0xffff),
        vlans in ranges(0xfff),
        protocols in ranges(0xff),
        tunnels in ranges(u32::MAX),
        (network, prefix) in (any::<u32>(), 0..=32_u32),
        hosts in proptest::collection::btree_set(any::<u128>(), 1..5),
        (payload, tag) in (proptest::option::of(any::<u16>()), 0..=0xff_ffff_u32),
    ) {
        let network = if prefix == 0 { 0 } else { network & (u32::MAX << (32 - prefix)) };
        let hosts_text: Vec<String> =
            hosts.iter().map(|&host| format!("\"{}\"", std::net::Ipv6Addr::from(host))).collect();
        let mut text = format!(
            "[[destination]]\nname = \"d\"\ntype = \"vxlan\"\nremote = \"192.0.2.1\"\n\
             [[group]]\nname = \"g\"\naddresses = [{}]\n\
             [[policy]]\nname = \"p\"\ncollect.addresses = [\"{}/{prefix}\", \"@g\"]\ncollect.ports = \"{}\"\n\
             vlan = \"{}\"\nprotocol = \"{}\"\ntunnel_id = \"{}\"\ntag = {tag}\nto = [\"d\"]\n",
            hosts_text.join(", "), std::net::Ipv4Addr::from(network), list(&ports), list(&vlans), list(&protocols),
            list(&tunnels),
        );
        if let Some(payload) = payload {
            writeln!(text, "payload = {payload}").unwrap();
        }
        let set: PolicySet = check(&text, parse_policy("p", &text)).expect("a valid file");
        let policy = &set.policies()[0];
        let narrow = |list: &[(u32, u32)]| RangeSet::new(list.iter().map(|&(a, b)| a as u16..=b as u16));
        prop_assert_eq!(policy.collect.ports.as_ref(), Some(&narrow(&ports)));
        prop_assert_eq!(policy.vlan.as_ref(), Some(&narrow(&vlans)));
        let protocols = RangeSet::new(protocols.iter().map(|&(a, b)| a as u8..=b as u8));
        prop_assert_eq!(policy.protocol.as_ref(), Some(&protocols));
        prop_assert_eq!(policy.tunnel_id.as_ref(), Some(&RangeSet::new(tunnels.iter().map(|&(a, b)| a..=b))));
        let sets = &policy.collect.addresses;
        let last = u64::from(network) + (1_u64 << (32 - prefix)) - 1;
        prop_assert_eq!(&sets[0].ipv4, &RangeSet::new([network..=u32::try_from(last).unwrap()]));
        prop_assert_eq!(&sets[1].ipv6, &RangeSet::new(hosts.iter().map(|&host| host..=host)));
        prop_assert_eq!((policy.payload, policy.tag.get()), (payload, tag));
    }
}

/// A file of `n` policies in which every tenth address set is a group of its own.
fn large(n: u32) -> String {
    let mut text = String::from("[[destination]]\nname = \"d\"\ntype = \"vxlan\"\nremote = \"192.0.2.1\"\n");
    for i in 0..n / 10 {
        write!(text, "[[group]]\nname = \"g{i}\"\naddresses = [\"10.{}.{}.0/24\"]\n", i >> 8, i & 0xff)
            .unwrap();
    }
    for i in 0..n {
        write!(
            text,
            "[[policy]]\nname = \"p{i}\"\ncollect = {{ addresses = [\"@g{}\"] }}\npeer = {{ ports = {} }}\n\
             protocol = \"tcp\"\ntag = {i}\nto = [\"d\"]\n",
            i % (n / 10),
            i % 65_536,
        )
        .unwrap();
    }
    text
}

#[test]
fn ten_thousand_policies_share_their_groups() {
    let loaded = parse_policy("p", &large(10_000)).unwrap();
    assert_eq!(loaded.warnings, []);
    let set = loaded.value;
    assert_eq!(set.policies().len(), 10_000);
    let first = |i: usize| &set.policies()[i].collect.addresses[0];
    assert!(std::sync::Arc::ptr_eq(first(0), first(1_000)));
    assert!(!std::sync::Arc::ptr_eq(first(0), first(1)));
}

#[test]
fn limits_are_refused() {
    let policy = "[[policy]]\nname = \"x\"\n".repeat(MAX_POLICIES + 1);
    let errors = parse_policy("p", &policy).unwrap_err();
    assert!(errors.0.iter().any(|d| d.reason.starts_with("more than 10000 findings")));
    let destinations = (0..=MAX_DESTINATIONS)
        .map(|i| format!("[[destination]]\nname = \"d{i}\"\ntype = \"vxlan\"\nremote = \"192.0.2.1\"\n"))
        .collect::<Vec<_>>()
        .concat();
    let errors = parse_policy("p", &destinations).unwrap_err();
    assert_eq!(errors.0[0].reason, "1025 destinations are more than the 1024 that are possible");
}

#[test]
fn deep_groups_do_not_exhaust_the_stack() {
    let chain = |order: &mut dyn Iterator<Item = u32>| -> String {
        order
            .map(|i| format!("[[group]]\nname = \"g{i}\"\naddresses = [\"10.0.0.1\", \"@g{}\"]\n", i + 1))
            .collect::<Vec<_>>()
            .concat()
    };
    for text in [chain(&mut (0..10_000)), chain(&mut (0..10_000).rev())] {
        let text = text + "[[group]]\nname = \"g10000\"\naddresses = [\"10.0.0.1\"]\n";
        let errors = parse_policy("p", &text).unwrap_err();
        assert!(errors.0.iter().any(|d| d.reason.contains("nested deeper than 16")), "{}", errors.0[0]);
    }
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let folder = std::env::temp_dir().join(format!("sluice-spec-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let missing = load_policy(&folder.join("none.toml")).unwrap_err();
    assert!(missing.to_string().ends_with("; check the path"), "{missing}");
    assert!(load_policy(&folder).is_err(), "a folder is no file");
    let latin1 = folder.join("latin1.toml");
    std::fs::write(&latin1, b"# gr\xfcn\n").unwrap();
    assert!(load_boot(&latin1).unwrap_err().to_string().contains("no UTF-8"));
    let good = folder.join("good.toml");
    std::fs::write(
        &good,
        "[[destination]]\nname = \"d\"\ntype = \"pcap\"\nfile = \"f\"\n[[policy]]\nname = \"p\"\nto = [\"d\"]\n",
    )
    .unwrap();
    let set = load_policy(&good).unwrap().value;
    assert!(matches!(set.destinations()[0].kind, DestinationKind::Pcap { .. }));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_terminal_shows_the_place() {
    let text = "[[policy]]\nname = \"web\"\nprotocol = \"tpc\"\naction = \"drop\"\n";
    let errors = parse_policy("policy.toml", text).unwrap_err();
    assert_eq!(
        errors.render(),
        "error: policy \"web\": protocol: \"tpc\" is no number and no range\n \
         --> policy.toml:3:13\n  |\n3 | protocol = \"tpc\"\n  |             ^^^\n  = help: did you mean \"tcp\"?"
    );
}
