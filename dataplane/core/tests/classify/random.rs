//! Random policies, random packets: classifier and reference agree, whatever the memory.

use proptest::prelude::*;
use sluice_core::classify::{
    Classifier, ClassifierConfig, Input, Origins, Program, Subject, VerdictId, explain,
};
use sluice_core::verdict::{ActionSet, Keep};
use sluice_core::wire::{self, Parsed};
use sluice_model::spec::parse_policy;
use sluice_model::{Generation, HeaderView, Policy, PolicySet, PortId, Tap};

use crate::generate::{self, Dice, PORTS, TAPS};
use crate::packet::{self, Built};
use crate::reference::{self, Copy, Facts, Kept, Outcome, Place};

/// Frames that a batch holds.
const BATCH: usize = 64;
/// A classifier that forgets nearly everything at once.
const TINY: ClassifierConfig = ClassifierConfig { cache_entries: 1, sets: 1 };

/// Packets ready to classify, each with what it really holds.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    frames: Vec<Vec<u8>>,
    outer: Vec<Parsed>,
    inner: Vec<Parsed>,
    wire_len: Vec<u32>,
    ingress: Vec<PortId>,
    taps: Vec<u16>,
    pub facts: Vec<Facts>,
}

impl Packets {
    pub fn push(&mut self, built: Built, length: u32, ingress: usize, tap: usize) {
        self.frames.push(built.frame);
        self.outer.push(built.parsed_outer);
        self.inner.push(built.parsed_inner);
        self.wire_len.push(length);
        self.ingress.push(PortId(ingress as u16));
        let (tap, number) = TAPS[tap];
        self.taps.push(number);
        let (ingress, tap) = (PORTS[ingress].to_owned(), tap.to_owned());
        self.facts.push(Facts { outer: built.outer, inner: built.inner, length, ingress, tap });
    }

    /// As many random packets.
    pub fn random(dice: &mut Dice, count: usize) -> Self {
        let mut packets = Self::default();
        for _ in 0..count {
            let mut built = packet::build(&generate::layer(dice, true));
            // What the fragment table does for a later fragment whose first one was seen.
            let protocol = built.outer.protocol.unwrap_or(0);
            if built.outer.fragment == Place::Later && matches!(protocol, 6 | 17 | 132) && dice.one_in(2) {
                let (src, dst, flags) = (80, 1024, if protocol == 6 { 0x12 } else { 0 });
                for fields in [&mut built.outer, &mut built.inner] {
                    fields.ports = Some((src, dst));
                    fields.tcp_flags = (protocol == 6).then_some(flags);
                }
                for parsed in [&mut built.parsed_outer, &mut built.parsed_inner] {
                    (parsed.src_port, parsed.dst_port) = (src, dst);
                    (parsed.tcp_flags, parsed.has_ports) = (flags, true);
                }
            }
            packets.push(built, generate::length(dice), dice.below(PORTS.len()), dice.below(TAPS.len()));
        }
        packets
    }

    /// A packet as `policy` reads it.
    fn subject(&self, index: usize, policy: &Policy) -> Subject<'_> {
        let headers = match policy.headers {
            HeaderView::Outer => &self.outer,
            HeaderView::Inner => &self.inner,
        };
        Subject {
            frame: &self.frames[index],
            headers: &headers[index],
            wire_len: self.wire_len[index],
            ingress: self.ingress[index],
            tap: self.taps[index],
        }
    }

    /// Classifies all packets in batches of varying size, and hands each verdict to `check`.
    pub fn classify(
        &self,
        program: &Program,
        classifier: &mut Classifier,
        mut check: impl FnMut(usize, &ActionSet<'_>),
    ) {
        let frames: Vec<&[u8]> = self.frames.iter().map(Vec::as_slice).collect();
        let mut start = 0;
        let mut size = 1;
        while start < frames.len() {
            let range = start..frames.len().min(start + size);
            let mut verdicts = [VerdictId::NONE; BATCH];
            let input = Input {
                frames: &frames[range.clone()],
                outer: &self.outer[range.clone()],
                inner: if program.needs_inner() { &self.inner[range.clone()] } else { &[] },
                wire_len: &self.wire_len[range.clone()],
                ingress: &self.ingress[range.clone()],
                taps: &self.taps[range.clone()],
            };
            classifier.classify(program, &input, &mut verdicts[..range.len()]);
            for (index, id) in range.clone().zip(verdicts) {
                check(index, &classifier.action_set(id));
            }
            start = range.end;
            size = if size == BATCH { 1 } else { (size * 2 + 1).min(BATCH) };
        }
    }
}

/// A verdict in the words of the reference; streams must name the destination and tag of their copy.
pub fn outcome(program: &Program, set: &ActionSet<'_>) -> Outcome {
    let kept = |bytes: u32| match bytes {
        Keep::WHOLE => Kept::Whole,
        Keep::UNASKED => Kept::NotAsked,
        bytes => Kept::Bytes(u16::try_from(bytes).unwrap()),
    };
    let copies = set.copies.iter().map(|copy| {
        assert_eq!(program.streams()[copy.stream.index()], (copy.destination, copy.tag));
        Copy {
            destination: copy.destination,
            tag: copy.tag,
            egress: copy.egress,
            outer: kept(copy.keep.outer),
            inner: kept(copy.keep.inner),
            sharers: set.sharers_of(copy).iter().map(|id| id.0).collect(),
        }
    });
    Outcome {
        excluded: set.excluded,
        matched: set.matched.iter().map(|id| id.0).collect(),
        copies: copies.collect(),
    }
}

/// The taps that have names.
fn taps() -> Vec<Tap> {
    let named = TAPS.iter().filter(|(name, _)| !name.is_empty());
    named.map(|&(name, number)| Tap { name: name.to_owned(), number, vlan: None, side: None }).collect()
}

/// Compiles for the ingress ports and taps of these tests.
pub fn compile(policies: &PolicySet) -> Program {
    let ports = PORTS.map(str::to_owned);
    Program::compile_for(policies, &Origins { ports: &ports, taps: &taps() }, Generation(1)).0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn agrees_with_the_reference(seed: u64, policies in 0..24_usize, packets in 1..200_usize) {
        let mut dice = Dice::new(seed);
        let policies = generate::policies(&mut dice, policies);
        let packets = Packets::random(&mut dice, packets);
        let expected: Vec<Outcome> =
            packets.facts.iter().map(|facts| reference::outcome(&policies, facts)).collect();
        let program = compile(&policies);
        for config in [ClassifierConfig { cache_entries: 512, sets: 64 }, TINY] {
            let mut classifier = Classifier::new(&program, config);
            // The second time from the cache, where it was not forgotten.
            for _ in 0..2 {
                packets.classify(&program, &mut classifier, |index, set| {
                    assert_eq!(outcome(&program, set), expected[index], "{:?}", packets.facts[index]);
                });
            }
        }
    }
}

proptest! {
    #[test]
    fn reasons_agree_with_the_reference(seed: u64) {
        let mut dice = Dice::new(seed);
        let policies = generate::policies(&mut dice, 12);
        let packets = Packets::random(&mut dice, 50);
        let (ports, taps) = (PORTS.map(str::to_owned), taps());
        let origins = Origins { ports: &ports, taps: &taps };
        for (index, facts) in packets.facts.iter().enumerate() {
            for policy in policies.policies() {
                let reasons = explain(policy, &packets.subject(index, policy), &origins);
                let (egress, ingress) = reference::readings(policy, facts);
                assert_eq!(reasons.matches(), egress || ingress, "{policy:?} {facts:?} {reasons:?}");
                if reasons.matches() {
                    assert_eq!((reasons.egress, reasons.ingress), (egress, ingress), "{policy:?} {facts:?}");
                }
                for mismatch in &reasons.mismatches {
                    assert!(!mismatch.field.is_empty() && !mismatch.found.to_string().is_empty());
                }
            }
        }
    }
}

#[test]
fn reasons_name_the_field_and_what_was_found() {
    let text = "[[destination]]\nname = \"d\"\ntype = \"pcap\"\nfile = \"d\"\n[[policy]]\nname = \"p\"\nto = [\"d\"]\n\
        collect = { addresses = [\"10.0.0.0/8\", \"02:00:00:00:00:09\"], ports = \"80\" }\nvlan = \"7\"\ntcp_flags = \"syn\"\n\
        ethertype = \"0x86dd\"\nfragment = \"fragments\"\nlength = \"100-\"\ntaps = [\"core\"]";
    let text = text.replace("100-", "100-200");
    let policies = parse_policy("reasons.toml", &text).unwrap_or_else(|errors| panic!("{errors}")).value;
    // 192.0.2.1:443 > 10.1.2.3:40000, TCP, ACK and PSH.
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    frame.extend([192, 0, 2, 1, 10, 1, 2, 3, 1, 187, 0x9c, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18]);
    frame.extend([0; 6]);
    let headers = wire::parse(&frame);
    let subject = Subject { frame: &frame, headers: &headers, wire_len: 60, ingress: PortId(0), tap: 9 };
    let reasons = explain(&policies.policies()[0], &subject, &Origins::default());
    let told: Vec<String> = reasons.mismatches.iter().map(|m| format!("{}: {}", m.field, m.found)).collect();
    // By its destination only the port is wrong; by its source the address would be, too.
    let expected = [
        "collect.ports: 40000",
        "ethertype: 0x0800",
        "vlan: none",
        "fragment: whole",
        "taps: tap number 9",
        "tcp_flags: psh ack",
        "length: 60",
    ];
    assert_eq!(told, expected);
    assert!(!reasons.matches() && !reasons.egress && !reasons.ingress);
}

#[test]
fn the_random_cases_are_worth_comparing() {
    let (mut nothing, mut excluded, mut shared, mut total) = (0, 0, 0, 0);
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let policies = generate::policies(&mut dice, 12);
        for facts in &Packets::random(&mut dice, 50).facts {
            let outcome = reference::outcome(&policies, facts);
            total += 1;
            nothing += usize::from(outcome.matched.is_empty());
            excluded += usize::from(outcome.excluded);
            shared += usize::from(outcome.copies.iter().any(|copy| copy.sharers.len() > 1));
        }
    }
    for (what, count) in [("nothing", nothing), ("excluded", excluded), ("shared", shared)] {
        assert!(count > total / 50 && count < total * 9 / 10, "{what}: {count} of {total}");
    }
}

#[test]
fn labels_below_a_tunnel_are_no_ethernet_header() {
    // GRE that carries four MPLS labels and an IPv4 packet: where a frame would have its addresses there are labels.
    let mut built = packet::build(&generate::layer(&mut Dice::new(1), false));
    let labels = [[2, 0, 0, 64], [0, 0, 0x10, 64], [2, 0, 0, 64], [0, 0, 0x21, 64]].concat();
    let inner = [&[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0][..], &[10, 0, 0, 1, 10, 0, 0, 2]].concat();
    let payload = [&[0, 0, 0x88, 0x47][..], &labels, &inner].concat();
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 47, 0, 0];
    frame.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend(payload);
    built.parsed_outer = wire::parse(&frame);
    built.parsed_inner = wire::parse_innermost(&frame, &built.parsed_outer, 1);
    assert!(built.parsed_inner.l3_offset >= built.parsed_inner.l2_offset + 14, "room for an Ethernet header");
    built.frame = frame;
    let text = "[[destination]]\nname = \"d\"\ntype = \"pcap\"\nfile = \"d\"\n[[policy]]\nname = \"p\"\nto = [\"d\"]\n\
        headers = \"inner\"\npeer = { addresses = [\"02:00:00:40:00:00\", \"10:40:02:00:00:40\"] }";
    let policies = parse_policy("labels.toml", text).unwrap_or_else(|errors| panic!("{errors}")).value;
    let program = compile(&policies);
    let mut packets = Packets::default();
    packets.push(built, 64, 0, 0);
    let mut classifier = Classifier::new(&program, TINY);
    packets.classify(&program, &mut classifier, |_, set| assert!(set.matched.is_empty()));
}

#[test]
fn a_full_memory_is_counted_and_forgotten() {
    let mut dice = Dice::new(7);
    let policies = generate::policies(&mut dice, 60);
    let program = compile(&policies);
    let packets = Packets::random(&mut dice, 5_000);
    let mut classifier = Classifier::new(&program, TINY);
    packets.classify(&program, &mut classifier, |index, set| {
        assert_eq!(outcome(&program, set), reference::outcome(&policies, &packets.facts[index]));
    });
    let counts = classifier.counts();
    assert!(counts.resets > 0, "{counts:?}");
    assert_eq!(counts.hits + counts.misses, 5_000);
}

#[test]
fn nothing_is_allocated_after_the_start() {
    let mut dice = Dice::new(11);
    for policies in [0, 1, 40, 400] {
        let policies = generate::policies(&mut dice, policies);
        let program = compile(&policies);
        let packets = Packets::random(&mut dice, 64);
        let frames: Vec<&[u8]> = packets.frames.iter().map(Vec::as_slice).collect();
        let inner = if program.needs_inner() { packets.inner.as_slice() } else { &[] };
        let (outer, wire_len) = (&packets.outer, &packets.wire_len);
        let (ingress, taps) = (&packets.ingress, &packets.taps);
        let input = Input { frames: &frames, outer, inner, wire_len, ingress, taps };
        for config in [ClassifierConfig::default(), TINY] {
            let mut classifier = Classifier::new(&program, config);
            let allocated = allocation_counter::measure(|| {
                let mut verdicts = [VerdictId::NONE; BATCH];
                for _ in 0..10 {
                    classifier.classify(&program, &input, &mut verdicts);
                    assert!(verdicts.iter().any(|id| classifier.action_set(*id).sharers.len() < 1_000_000));
                }
            });
            assert_eq!(allocated.count_total, 0);
        }
    }
}
