//! Which promises hold for any bytes? One function per fuzz target.
//!
//! `tests/fuzz/fuzz_targets/` holds the thin wrappers for cargo-fuzz, `tests/fuzz/corpus/` a small named corpus each,
//! which `tests/tests/fuzz_corpus.rs` replays as an ordinary test.
#![expect(clippy::missing_panics_doc, reason = "a target panics when a promise is broken")]

use std::io::{self, Cursor, Read};
use std::sync::OnceLock;

use prost::Message;
use sluice_api::{flow_filter, packet_filter, v1, validate_spec};
use sluice_capture::{CaptureReader, MAX_FRAME_BYTES};
use sluice_core::classify::{
    Classifier, ClassifierConfig, FragmentTable, FragmentTableConfig, Input as Packets, Program, VerdictId,
};
use sluice_core::decap::TunnelInfo;
use sluice_core::dedup::{Fingerprinter, KeyProfile, MAX_KEY_BYTES};
use sluice_core::encap::{finish_checksum, segment};
use sluice_core::neighbor::{Input, NeighborConfig, NeighborState, NeighborTable, PortAddresses};
use sluice_core::wire::{self, L3, checksum};
use sluice_model::spec::{
    Diagnostics, GroupSpec, Loaded, PolicySetSpec, check_against, parse_boot, parse_policy,
};
use sluice_model::{
    DecapKind, DecapKinds, DecapMode, DecapSettings, Destination, Generation, PolicySet, PortId,
};

use sluice_ovsdb::Session;

use crate::{dedup_model, nest};

/// A fuzz target: its name, that of its corpus folder, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const ALL: &[Target] = &[
    ("af_packet_block", af_packet_block),
    ("af_packet_link", af_packet_link),
    ("api", api),
    ("capture", capture),
    ("classify", classify),
    ("decap", decap),
    ("dedup", dedup),
    ("neighbor", neighbor),
    ("ovsdb", ovsdb),
    ("policy", policy),
    ("segment", segment),
    ("store", store),
    ("wire", wire),
];

/// What a database of Open vSwitch sends: however it is cut, it means the same, and what it names is in order.
pub fn ovsdb(data: &[u8]) {
    let read = |size: usize| {
        let (mut session, mut reply) = (Session::default(), Vec::new());
        let mut pieces = data.chunks(size);
        let failed = pieces.any(|piece| session.receive(piece, &mut reply).is_err());
        (session.inventory(), reply, failed, session.is_told())
    };
    let whole = read(data.len().max(1));
    for size in [1, 7, 64] {
        assert_eq!(read(size), whole, "in pieces of {size}");
    }
    let (inventory, ..) = whole;
    assert!(inventory.interfaces.is_sorted_by_key(|interface| &interface.name));
    let guests = inventory.guests();
    for name in guests.names() {
        assert!(!name.name().chars().any(char::is_control), "{name:?}");
        assert!(guests.get(name).is_some_and(|set| set.guests.is_empty()), "names of names");
    }
}

/// A frame and a variation of one byte, after four bytes that say what counts and what is varied: both have the same
/// fingerprint exactly if the slow model's keys are the same, and however the frame is scattered over segments.
pub fn dedup(data: &[u8]) {
    let Some((&[flags, payload, at, change], frame)) = data.split_first_chunk::<4>() else { return };
    let flag = |bit: u8| flags >> bit & 1 == 1;
    let profile = KeyProfile {
        macs: flag(0),
        vlan: flag(1),
        ttl: flag(2),
        tos: flag(3),
        l4_checksum: flag(4),
        payload_bytes: u16::from(payload) << (flags >> 5 & 3),
    };
    let mut varied = frame.to_vec();
    if let Some(byte) = varied.get_mut(usize::from(at)) {
        *byte ^= change;
    }
    let fingerprinter = Fingerprinter::new(profile, 7);
    let Ok(wire_len) = u32::try_from(frame.len() + usize::from(flags >> 7)) else { return };
    let mut scratch = [0; MAX_KEY_BYTES];
    let mut both = |frame: &[u8], inner: bool| {
        let mut headers = wire::parse(frame);
        if inner {
            headers = wire::parse_innermost(frame, &headers, 8);
        }
        let whole = fingerprinter.fingerprint(frame, &headers, wire_len);
        for cut in [0, 1, 7, 64] {
            let (first, rest) = frame.split_at(frame.len().min(usize::from(headers.header_end) + cut));
            let (second, third) = rest.split_at(rest.len() / 2);
            let pieces = [first, second, &[], third];
            let scattered =
                fingerprinter.fingerprint_segments(pieces.into_iter(), &headers, wire_len, &mut scratch);
            assert_eq!(scattered, whole, "cut {cut} bytes after the headers");
        }
        (whole, dedup_model::key(&profile, frame, &headers, wire_len))
    };
    for inner in [false, true] {
        let (one, one_key) = both(frame, inner);
        let (other, other_key) = both(&varied, inner);
        assert_eq!(one == other, one_key == other_key, "{profile:?}");
    }
}

/// Any bytes as a request of the API; the first byte says as which. What can be decoded is encoded again to the same,
/// and a policy set is either refused with paths into the message, or says the same as plain values, as a message, and
/// as the text of a policy file.
pub fn api(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    match kind {
        0 => api_policy_set(bytes),
        1 => {
            let group = GroupSpec { name: "g".to_owned(), addresses: vec!["10.0.0.0/8".to_owned()] };
            if let Some(filter) = decoded::<v1::PacketFilter>(bytes) {
                paths(packet_filter(&filter, std::slice::from_ref(&group)));
            }
            if let Some(filter) = decoded::<v1::FlowFilter>(bytes) {
                let found =
                    flow_filter(&filter, &[group]).map(|value| Loaded { value, warnings: Vec::new() });
                paths(found);
            }
        }
        _ => {
            let _ = decoded::<v1::ApplyPolicySetRequest>(bytes);
            let _ = decoded::<v1::DryRunRequest>(bytes);
            let _ = decoded::<v1::GetPolicySetRequest>(bytes);
            let _ = decoded::<v1::GetRequest>(bytes);
            let _ = decoded::<v1::ListRequest>(bytes);
            let _ = decoded::<v1::PutPolicyRequest>(bytes);
            let _ = decoded::<v1::PutGroupRequest>(bytes);
            let _ = decoded::<v1::PutDestinationRequest>(bytes);
            let _ = decoded::<v1::DeleteRequest>(bytes);
            let _ = decoded::<v1::RollbackRequest>(bytes);
            let _ = decoded::<v1::DiffGenerationsRequest>(bytes);
            let _ = decoded::<v1::ExplainRequest>(bytes);
            let _ = decoded::<v1::ListGenerationsRequest>(bytes);
            let _ = decoded::<v1::GetGenerationRequest>(bytes);
            let _ = decoded::<v1::GetStatusRequest>(bytes);
            let _ = decoded::<v1::ListPortsRequest>(bytes);
            let _ = decoded::<v1::ListGuestsRequest>(bytes);
            let _ = decoded::<v1::ListWorkersRequest>(bytes);
            let _ = decoded::<v1::StartRequest>(bytes);
            let _ = decoded::<v1::StopRequest>(bytes);
            let _ = decoded::<v1::GetCountersRequest>(bytes);
            let _ = decoded::<v1::WatchStatusRequest>(bytes);
            let _ = decoded::<v1::WatchCountersRequest>(bytes);
            let _ = decoded::<v1::ListFlowsRequest>(bytes);
            let _ = decoded::<v1::ListTopTalkersRequest>(bytes);
            let _ = decoded::<v1::CaptureRequest>(bytes);
            // What a client reads from a server that may be anybody.
            let _ = decoded::<v1::Counters>(bytes);
            let _ = decoded::<v1::ExplainResponse>(bytes);
        }
    }
}

fn api_policy_set(bytes: &[u8]) {
    let Some(set) = decoded::<v1::PolicySet>(bytes) else { return };
    let Some((spec, policies)) = paths(validate_spec(&set)) else { return };
    let Ok(message) = v1::PolicySet::try_from(&spec) else { unreachable!("validated words have numbers") };
    assert_eq!(PolicySetSpec::from(&message), spec, "a message says the same");
    let Ok(text) = spec.to_toml() else { unreachable!("plain values can be written") };
    let Ok(read) = parse_policy("p", &text) else { unreachable!("and are read again: {text}") };
    assert_eq!(read.value, policies, "the text of a file says the same");
}

/// The message in some bytes, if there is one; it can be sent on.
fn decoded<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let again = message.encode_to_vec();
    assert_eq!(M::decode(again.as_slice()).as_ref(), Ok(&message), "a message is what it was");
    Some(message)
}

/// What holds for the findings of any message.
fn paths<T>(result: Result<Loaded<T>, Diagnostics>) -> Option<T> {
    let (value, findings) = match result {
        Ok(loaded) => (Some(loaded.value), loaded.warnings),
        Err(diagnostics) => {
            assert!(diagnostics.errors() > 0, "a refusal has a reason");
            (None, diagnostics.0)
        }
    };
    for finding in sluice_api::findings(&findings) {
        assert!(!finding.reason.is_empty() && !finding.reason.contains(char::is_control), "{finding:?}");
        let path = |c: char| c.is_ascii_alphanumeric() || "_.[]".contains(c);
        assert!(finding.field.chars().all(path), "a path: {finding:?}");
    }
    value
}

/// A block of a kernel interface's receive ring, without its descriptor.
pub fn af_packet_block(data: &[u8]) {
    sluice_af_packet::fuzz::ring_block(&mut data.to_vec());
}

/// A datagram from the routing netlink socket.
pub fn af_packet_link(data: &[u8]) {
    sluice_af_packet::fuzz::link_messages(data);
}

/// Reads any bytes as a capture file, whole and in small pieces: the same frames and the same end, all frames within
/// their bounds, nothing after an error.
pub fn capture(data: &[u8]) {
    let (mut whole, mut pieces) = (Seen::default(), Seen::default());
    whole.read(Box::new(Cursor::new(data.to_vec())));
    pieces.read(Box::new(Pieces(Cursor::new(data.to_vec()))));
    assert_eq!(whole, pieces, "how the bytes arrive makes no difference");
}

/// Any bytes as a frame whose tunnels are taken off; the first byte holds the settings. What is left is part of the frame,
/// what is said of it is what the parser says, and no more comes off than was asked for.
pub fn decap(data: &[u8]) {
    let Some((&first, frame)) = data.split_first() else { return };
    let kinds = if first & 0x80 == 0 {
        DecapKinds::ALL
    } else {
        DecapKinds::NONE.with(DecapKind::ALL[usize::from(first >> 4 & 7)])
    };
    let settings =
        DecapSettings { mode: DecapMode::Strip, kinds, depth: 1 + (first & 7), ..DecapSettings::default() };
    let outer = wire::parse(frame);
    let (mut view, mut tunnel, mut numbered) = (outer, TunnelInfo::NONE, 0);
    let (mut straight_view, mut straight_tunnel) = (outer, TunnelInfo::NONE);
    let straight = sluice_core::decap::straight(frame, settings, &mut straight_view, &mut straight_tunnel);
    let found = sluice_core::decap::unwrap(frame, settings, &mut view, &mut tunnel, &mut |_| numbered += 1);
    assert!(found.depth <= settings.depth && numbered <= settings.depth, "no deeper than asked for");
    let (mut direct_view, mut direct_tunnel) = (outer, TunnelInfo::NONE);
    if let Some(direct) = sluice_core::decap::direct(frame, settings, &mut direct_view, &mut direct_tunnel) {
        let place = (found.depth, found.header, found.start, found.end);
        assert_eq!(place, (1, None, direct.start, direct.end), "nor is the direct way");
        assert_eq!((direct_view, direct_tunnel), (view, tunnel), "nor is the direct way");
    }
    match straight {
        Some(straight) => {
            let place = (found.depth, found.header, found.start, found.end);
            assert_eq!(place, (1, None, straight.start, straight.end), "the straight way is no other");
            assert_eq!((straight_view, straight_tunnel), (view, tunnel), "the straight way is no other");
        }
        None => assert_eq!((straight_view, straight_tunnel), (outer, TunnelInfo::NONE), "nothing changed"),
    }
    let (mut own_view, mut own_tunnel) = (outer, TunnelInfo::NONE);
    let own = [(outer.l3, outer.dst_addr)];
    let ends = sluice_core::decap::Ends::Own(&own);
    let at_end =
        sluice_core::decap::unwrap_at(frame, settings, ends, &mut own_view, &mut own_tunnel, &mut |_| ());
    assert!(at_end.depth <= found.depth, "no more comes off than without a choice of ends");
    assert_eq!(own_tunnel.own, at_end.depth > 0, "what came off was sent to us");
    if found.depth == 0 {
        assert_eq!((view, tunnel), (outer, TunnelInfo::NONE), "nothing changed");
        return;
    }
    assert!(sluice_core::decap::is_candidate(&outer), "such frames are looked at");
    assert_eq!(tunnel.depth, found.depth);
    let left = nest::take_off(frame, &found);
    assert!(left.len() < frame.len(), "something came off");
    assert_eq!(view, wire::parse(&left), "the headers are those of what is left");
    found.look_through(&mut view);
    assert_eq!(view.check(frame.len()), Ok(()), "the headers lie in the frame");
}

/// Policies that look at every field, through both views.
const POLICIES: &str = r#"
    [[destination]]
    name = "a"
    type = "vxlan"
    remote = "192.0.2.10"
    [[destination]]
    name = "b"
    type = "pcap"
    file = "b.pcap"
    [[policy]]
    name = "ends"
    collect = { addresses = ["10.0.0.0/9", "2001:db8::/33", "02:00:00:00:00:01"], ports = "0-1023" }
    peer = { addresses = ["10.64.0.0/10", "192.0.2.0/25", "2001:db8::/48", "02:00:00:00:00:02"], ports = "80-65535" }
    payload = 30
    to = ["a", "b"]
    [[policy]]
    name = "fields"
    protocol = "6,17,44-60"
    vlan = "0-2047"
    vlan_inner = "0-2047"
    ethertype = "0,0x0800,0x86dd"
    length = "0-100"
    fragment = "whole"
    to = ["a"]
    [[policy]]
    name = "flags"
    tcp_flags = "syn,!ack"
    fragment = "fragments"
    to = ["a"]
    tag = 7
    [[policy]]
    name = "inside"
    headers = "inner"
    collect = { addresses = ["10.0.0.0/8", "2001:db8::/32", "02:00:00:00:00:01"], ports = "80" }
    tunnel_id = "0-99,0x1000-0xffffff"
    payload = 0
    to = ["a"]
    [[policy]]
    name = "inside-later"
    headers = "inner"
    fragment = "later"
    ethertype = "0"
    to = ["b"]
    [[policy]]
    name = "out"
    collect = { ports = "873" }
    length = "64-1500"
    action = "drop"
"#;

/// Gives verdicts to frames, each with its length (two bytes in network byte order) before it: a memory of one verdict
/// and one of many say the same, and a verdict is consistent.
pub fn classify(data: &[u8]) {
    static PROGRAM: OnceLock<(Program, usize)> = OnceLock::new();
    let (program, policies) = PROGRAM.get_or_init(|| {
        let policies = parse_policy("fuzz", POLICIES).map(|loaded| loaded.value).unwrap_or_default();
        (Program::compile(&policies, &["tap".to_owned()], Generation(1)).0, policies.policies().len())
    });
    assert!(program.needs_inner(), "the policies are valid");
    let mut frames: Vec<&[u8]> = Vec::new();
    let mut rest = data;
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let frame = after.get(..u16::from_be_bytes(*len).into()).unwrap_or(after);
        rest = &after[frame.len()..];
        frames.push(frame);
    }
    let mut fragments = FragmentTable::new(&FragmentTableConfig { datagrams: 8, life_ns: 20 });
    let mut classifiers = [(1024, 256), (1, 1)]
        .map(|(cache_entries, sets)| Classifier::new(program, ClassifierConfig { cache_entries, sets }));
    for (batch, now) in frames.chunks(64).zip((1..).step_by(64)) {
        let mut outer: Vec<_> = batch.iter().map(|frame| wire::parse(frame)).collect();
        let mut inner: Vec<_> =
            batch.iter().zip(&outer).map(|(frame, outer)| wire::parse_innermost(frame, outer, 4)).collect();
        for views in [&mut outer, &mut inner] {
            for ((parsed, frame), now) in views.iter_mut().zip(batch).zip(now..) {
                fragments.resolve(parsed, frame, now);
            }
        }
        let wire_len: Vec<u32> =
            batch.iter().map(|frame| frame.len().try_into().unwrap_or(u32::MAX)).collect();
        let packets = Packets {
            frames: batch,
            outer: &outer,
            inner: &inner,
            wire_len: &wire_len,
            ingress: &[PortId(0); 64][..batch.len()],
            taps: &[1; 64][..batch.len()],
        };
        let [many, one] = classifiers.each_mut().map(|classifier| {
            let mut verdicts = [VerdictId::NONE; 64];
            classifier.classify(program, &packets, &mut verdicts[..batch.len()]);
            verdicts
        });
        for (many, one) in many.into_iter().zip(one).take(batch.len()) {
            let (many, one) = (classifiers[0].action_set(many), classifiers[1].action_set(one));
            assert_eq!((many.excluded, many.matched, many.copies), (one.excluded, one.matched, one.copies));
            assert!(many.matched.is_sorted() && many.matched.iter().all(|id| id.index() < *policies));
            assert!(!many.excluded || (many.copies.is_empty() && !many.matched.is_empty()));
            assert!(many.copies.is_sorted_by(|a, b| (a.destination, a.tag) < (b.destination, b.tag)));
            let sharers = || many.copies.iter().flat_map(|copy| many.sharers_of(copy));
            assert!(sharers().all(|policy| many.matched.contains(policy)));
            assert!(many.copies.iter().all(|copy| copy.sharers > 0));
        }
    }
}

/// What came out of a capture file: a sum over all frames, and the error at the end.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    frames: u64,
    sum: u64,
    error: Option<String>,
}

impl Seen {
    /// Reads to the end, at most 100,000 frames: a few bytes of zstd can unfold to many more.
    fn read(&mut self, source: Box<dyn Read + Send>) {
        let mut reader = match CaptureReader::from_reader("input", source) {
            Ok(reader) => reader,
            Err(error) => return self.error = Some(error.to_string()),
        };
        while self.frames < 100_000 {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.data.len() <= MAX_FRAME_BYTES, "frames are bounded");
                    assert!(frame.wire_len as usize >= frame.data.len(), "a capture never adds bytes");
                    let fields = [frame.timestamp_ns, frame.wire_len.into(), frame.interface.into()];
                    for value in fields.into_iter().chain(frame.data.iter().map(|byte| u64::from(*byte))) {
                        self.sum = self.sum.wrapping_mul(31).wrapping_add(value);
                    }
                    self.frames += 1;
                }
                Ok(None) => break,
                Err(error) => {
                    self.error = Some(error.to_string());
                    assert!(matches!(reader.next_frame(), Ok(None)), "nothing comes after an error");
                }
            }
        }
        assert_eq!(reader.packets(), self.frames, "frames are counted");
    }
}

/// Hands out seven bytes at a time.
struct Pieces(Cursor<Vec<u8>>);

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = out.len().min(7);
        self.0.read(&mut out[..len])
    }
}

/// A dialogue with a port that owns 192.0.2.1 and 2001:db8::1 at 02:00:00:00:00:01 and looks for 192.0.2.2 and
/// 2001:db8::2: records of a delay in milliseconds and a frame length (16 bits each, network byte order) and the frame.
///
/// Only wanted neighbours are learned, only with addresses that stations have; there is at most one answer, of bounded
/// length; the workers' filter and the table agree; and after a minute of silence nobody is believed to be there.
pub fn neighbor(data: &[u8]) {
    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    let addresses = PortAddresses {
        mac: "02:00:00:00:00:01".parse().unwrap_or_default(),
        ipv4: vec![([192, 0, 2, 1].into(), 24)],
        ipv6: vec![([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), 64)],
        ..PortAddresses::default()
    };
    let wanted = [[192, 0, 2, 2].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into()];
    let mut table = NeighborTable::new(addresses, NeighborConfig::default());
    let filter = table.filter();
    let (mut now_ns, mut sent) = (0, Vec::new());
    for next_hop in wanted {
        assert!(table.want(next_hop, now_ns));
    }
    let mut rest = data;
    while let Some((&[ms_high, ms_low, len_high, len_low], tail)) = rest.split_first_chunk() {
        now_ns += u64::from(u16::from_be_bytes([ms_high, ms_low])) * 1_000_000;
        let len = usize::from(u16::from_be_bytes([len_high, len_low])).min(tail.len());
        let (frame, tail) = tail.split_at(len);
        rest = tail;
        let ours = table.input(frame, now_ns, &mut sent) == Input::Consumed;
        assert_eq!(ours, filter.matches(frame), "the filter agrees");
        assert!(sent.len() <= usize::from(ours), "at most one answer, and only to what is ours");
        table.poll(now_ns, &mut sent);
        assert!(sent.len() <= 5, "an answer, two announcements, two requests");
        for frame in sent.drain(..) {
            assert!((60..=1_514).contains(&frame.len()) && frame[6..12] == OWN, "a frame of this port");
            assert!(!filter.matches(&frame), "own frames are not for the port");
        }
        for (next_hop, state) in table.iter() {
            assert!(wanted.contains(&next_hop), "only wanted neighbours");
            if let NeighborState::Resolved { mac, .. } = state {
                assert!(mac.0[0] & 1 == 0 && mac.0 != [0; 6] && mac.0 != OWN, "the address of a station");
            }
        }
    }
    for _ in 0..60 {
        now_ns += 1_000_000_000;
        table.poll(now_ns, &mut sent);
    }
    assert!(
        table.iter().all(|(_, state)| matches!(state, NeighborState::Failed { .. })),
        "silence is noticed"
    );
}

/// Reads any bytes as a policy file and as a boot config: either a value, or errors with places inside the text; what
/// is shown on a terminal holds no control characters.
pub fn policy(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let policies = spec(&text, parse_policy("policy.toml", &text));
    let boot = spec(&text, parse_boot("boot.toml", &text));
    for policy in policies.iter().flat_map(PolicySet::policies) {
        let name = policy.name.as_bytes();
        assert!((1..=63).contains(&name.len()) && name.is_ascii(), "names are well formed");
        let known = policies.as_ref().map_or(0, |set| set.destinations().len());
        assert!(policy.to.iter().all(|id| id.index() < known), "destinations are there");
    }
    for group in policies.iter().flat_map(PolicySet::destinations).filter_map(Destination::group) {
        let known = policies.as_ref().map_or(&[][..], PolicySet::destinations);
        let mut members: Vec<_> = group.members.iter().map(|member| member.destination.index()).collect();
        assert!((1..=64).contains(&members.len()), "groups have members");
        let plain = |index: &usize| known.get(*index).is_some_and(|member| member.group().is_none());
        assert!(members.iter().all(plain), "members are there, and no groups");
        members.sort_unstable();
        assert!(members.is_sorted_by(|a, b| a < b), "no member is named twice");
    }
    if let Some(breaker) = boot.as_ref().and_then(|boot| boot.breaker) {
        let (threshold, limit) = (u64::from(breaker.threshold_mbps), u64::from(breaker.limit_mbps));
        assert!(threshold > 2 * limit, "a breaker's threshold exceeds twice the limit");
    }
    if let (Some(policies), Some(boot)) = (policies, boot) {
        drop(check_against(&policies, &boot));
    }
}

/// What holds for the findings of any text.
fn spec<T>(text: &str, result: Result<Loaded<T>, Diagnostics>) -> Option<T> {
    let lines = text.split('\n').count();
    let (value, findings) = match result {
        Ok(loaded) => (Some(loaded.value), loaded.warnings),
        Err(diagnostics) => {
            assert!(diagnostics.errors() > 0, "a refusal has a reason");
            (None, diagnostics.0)
        }
    };
    for finding in findings {
        assert!(finding.line as usize <= lines, "{finding} of {lines} lines");
        assert!(!finding.to_string().contains(char::is_control), "{finding:?}");
        assert!(!finding.render().contains(|c: char| c.is_control() && c != '\n'), "{finding:?}");
    }
    value
}

/// Cuts a frame into TCP segments, and finishes a checksum at any place.
///
/// The first eight bytes are, in network byte order, the longest segment, the MSS (0 = unknown), and the start and
/// offset of the unfinished checksum; the frame follows. Segments must fit, carry the payload in order and have right
/// checksums.
pub fn segment(data: &[u8]) {
    let Some((parameters, frame)) = data.split_first_chunk::<8>() else { return };
    let mut words = parameters.as_chunks::<2>().0.iter().map(|word| u16::from_be_bytes(*word));
    let mut word = || words.next().unwrap_or_default();
    let (max_frame_len, mss, csum_start, csum_offset) = (word(), word(), word(), word());

    let mut finished = frame.to_vec();
    let inside = usize::from(csum_start) + usize::from(csum_offset) + 2 <= frame.len();
    assert_eq!(finish_checksum(&mut finished, csum_start, csum_offset), inside);

    let parsed = wire::parse(frame);
    let Ok(cap_len) = u32::try_from(frame.len()) else { return };
    let max_frame_len = usize::from(max_frame_len);
    let mss = (mss > 0).then_some(mss);
    let Some(plan) = segment::plan(frame, &parsed, cap_len, max_frame_len, mss) else { return };
    let mut next = u32::from(parsed.header_end);
    for index in 0..plan.count() {
        let Some(range) = plan.payload(index) else { unreachable!("the plan has {} segments", plan.count()) };
        assert_eq!(range.start, next, "segments follow one another");
        next = range.end;
        let payload = &frame[range.start as usize..range.end as usize];
        assert!(!payload.is_empty() && plan.header_len() + payload.len() <= max_frame_len, "segments fit");
        if index >= 8 && index + 1 < plan.count() {
            continue; // the same over and over
        }
        let mut segment = vec![0xa5; plan.header_len()];
        assert!(plan.write_headers(index, &mut segment, frame, checksum::sum(payload, 0)));
        segment.extend(payload);
        assert_eq!(tcp_sum(&segment, &parsed), 0xffff, "the TCP checksum is right");
    }
    assert!(next <= cap_len, "no segment reads past the frame");
}

/// The sum over pseudo-header and TCP segment, as its receiver takes it.
fn tcp_sum(segment: &[u8], parsed: &wire::Parsed) -> u16 {
    let ip = &segment[usize::from(parsed.l3_offset)..];
    let tcp = &segment[usize::from(parsed.l4_offset)..];
    let addresses = if parsed.l3 == L3::Ipv6 { &ip[8..40] } else { &ip[12..20] };
    checksum::fold(checksum::sum(tcp, checksum::sum(addresses, 6 + tcp.len() as u64)))
}

/// Reads any bytes as a generation of the store, as they are and with a checksum that fits: what is read is written so that
/// it is read again.
pub fn store(data: &[u8]) {
    let cut = data.iter().rposition(|&byte| byte == b'#').and_then(|at| data.get(..at.saturating_sub(1)));
    for bytes in
        [data.to_vec(), sluice_store::seal(data.to_vec()), sluice_store::seal(cut.unwrap_or(data).to_vec())]
    {
        let Ok(stored) = sluice_store::decode(&bytes) else { continue };
        let again = sluice_store::encode(&stored).expect("everything can be written");
        assert_eq!(sluice_store::decode(&again).expect("what is written can be read"), stored);
        assert_eq!(stored.summary.changes, stored.changes.map(|changes| changes.len()));
    }
}

/// Parses any bytes as a frame, whole and with the last byte cut off: both views keep the promises of their fields, at
/// every depth.
pub fn wire(data: &[u8]) {
    let shorter = data.split_last().map_or(data, |(_, shorter)| shorter);
    for frame in [data, shorter] {
        let outer = wire::parse(frame);
        assert_eq!(outer.check(frame.len()), Ok(()), "outer view {outer:?}");
        assert_eq!(outer.l2_offset, 0, "the outer view starts with the frame");
        let tag = (outer.vlan_count > 0).then_some(outer.vlan_tci);
        assert_eq!(wire::vlan::outermost(frame), tag, "a mark is the outermost tag");
        for depth_limit in [0, 1, 2, 16, u8::MAX] {
            let inner = wire::parse_innermost(frame, &outer, depth_limit);
            assert_eq!(inner.check(frame.len()), Ok(()), "inner view {inner:?}");
            assert!(depth_limit > 0 || inner == outer, "depth 0 is the outer view");
        }
    }
}
