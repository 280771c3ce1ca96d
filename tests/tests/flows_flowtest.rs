//! Do flow records agree with the annotations of the FlowTest project: keys, packets, IP bytes of both directions?

#![allow(clippy::unwrap_used, reason = "a damaged reference should stop the test")]

use std::collections::BTreeMap;
use std::fs;

use sluice_tests::captures;
use sluice_tests::flows::{self, Differences, Key};

/// What differs, with the reasons of docs/flow-records.md: the number of annotated flows.
const DIFFERENCES: [(&str, usize); 1] = [
    // Captured in the middle of UDP flows: the end with the lower port is the server, not whoever was seen first.
    ("ovpn.yml", 2),
];

/// The `flows:` of an annotation, as fields of text.
fn annotated(yaml: &str) -> Vec<BTreeMap<String, String>> {
    let mut flows: Vec<BTreeMap<String, String>> = Vec::new();
    for line in yaml.lines().skip_while(|line| *line != "flows:").skip(1) {
        let field = match line.strip_prefix("  - ").or_else(|| line.strip_prefix("- ")) {
            Some(first) => {
                flows.push(BTreeMap::new());
                Some(first)
            }
            None => line.strip_prefix("    ").or_else(|| line.strip_prefix("  ")),
        };
        let field =
            field.filter(|field| !field.starts_with([' ', '-'])).and_then(|field| field.split_once(": "));
        if let (Some((name, value)), Some(flow)) = (field, flows.last_mut()) {
            flow.insert(name.to_owned(), value.trim().trim_matches(['\'', '"']).to_owned());
        }
    }
    flows
}

#[test]
fn all_annotations_agree() {
    let Some(folder) = captures::folder() else { return };
    let folder = folder.join("FlowTest");
    let annotations: Vec<_> = captures::files(&folder.join("testing/validation"))
        .into_iter()
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
        })
        .collect();
    let inputs: Vec<_> = annotations
        .iter()
        .map(|(_, text)| {
            let name = text.lines().find_map(|line| line.strip_prefix("pcap: ")).unwrap();
            (folder.join("pcap").join(name.trim()), &["--decap", "strip"][..])
        })
        .collect();
    let mut differences = Differences::default();
    let mut compared = 0;
    for ((name, text), found) in annotations.iter().zip(flows::replay_all(&inputs)) {
        let found = found.unwrap();
        // Annotations that tell flows apart by what is in the payload are added up.
        let mut expected: BTreeMap<Key, [[u64; 2]; 2]> = BTreeMap::new();
        for flow in annotated(text) {
            let number = |field: &str| flow.get(field).map_or(0, |value| value.parse::<u64>().unwrap());
            let port = |field: &str| u16::try_from(number(field)).unwrap();
            let key = Key::new(
                (&flow["src_ip"], port("src_port")),
                (&flow["dst_ip"], port("dst_port")),
                u8::try_from(number("protocol")).unwrap(),
            );
            let (key, turned) =
                if expected.contains_key(&key.reversed()) { (key.reversed(), 1) } else { (key, 0) };
            let sum = expected.entry(key).or_default();
            sum[0][turned] += number("packets");
            sum[0][1 - turned] += number("packets@rev");
            sum[1][turned] += number("bytes");
            sum[1][1 - turned] += number("bytes@rev");
            compared += 1;
        }
        assert!(!expected.is_empty(), "{name}");
        for (key, [packets, ip_bytes]) in expected {
            let totals = found
                .iter()
                .find(|(own, _)| {
                    let without_ports = key.ends[0].1 == 0 && key.ends[1].1 == 0;
                    let same = |a: &Key, b: &Key| {
                        a.protocol == b.protocol
                            && (0..2).all(|end| {
                                a.ends[end].0 == b.ends[end].0
                                    && (without_ports || a.ends[end].1 == b.ends[end].1)
                            })
                    };
                    same(own, &key) || same(own, &key.reversed())
                })
                .map(|(own, _)| (own.ends[0].0 == key.ends[0].0, flows::totals(&found, *own).unwrap()));
            let Some((same_client, [own_packets, own_bytes, _])) = totals else {
                panic!("{name}: {key:?} is missing in {:?}", found.keys());
            };
            let turned = usize::from(!same_client);
            let own_packets = [own_packets[turned], own_packets[1 - turned]];
            let own_bytes = [own_bytes[turned], own_bytes[1 - turned]];
            assert_eq!(own_packets, packets, "{name}: {key:?}");
            for side in 0..2 {
                let framed = flows::is_framed(own_bytes[side], ip_bytes[side], packets[side]);
                assert!(framed, "{name}: {key:?}: {own_bytes:?} against {ip_bytes:?}");
            }
            if !same_client {
                differences.add(name, format!("{key:?} is turned round"));
            }
        }
    }
    assert_eq!(compared, 46, "annotated flows");
    differences.expect(&DIFFERENCES);
}
