//! How much memory does a message with a policy set take once it is decoded? Asked before that is done: an empty policy
//! is two bytes of a message, and hundreds of memory.

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::methods::Method;

/// The most that a message with a policy set may take besides its own bytes: policies with a few addresses each, as many
/// as [`MAX_POLICY_SET_BYTES`](crate::MAX_POLICY_SET_BYTES) has room for, stay below.
pub const MAX_DECODED_BYTES: usize = 512 << 20;

/// What a value takes that has its own length, a text mostly: what points to it, and the least that an allocator gives.
const VALUE: usize = 56;
/// What a policy, a destination or a group takes without its values.
const OBJECT: usize = 512;

/// What the fields of a message are. Only what is a message for sure is looked into: the bytes of a text may be read as
/// anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A request, and the number of its field that holds a set.
    WithSet(u32),
    /// A request whose first field is a group.
    WithGroup,
    /// A policy set.
    Set,
    /// A policy.
    Policy,
    /// A destination, a group, a side of a policy: texts and numbers.
    Plain,
}

impl Kind {
    fn of_request(method: &Method) -> Self {
        match method.path.rsplit('/').next() {
            Some("Explain") => Self::WithSet(5),
            Some("PutGroup") => Self::WithGroup,
            _ => Self::WithSet(1),
        }
    }

    /// What a field in it is, if that has fields.
    fn child(self, field: u32) -> Option<Self> {
        match (self, field) {
            (Self::WithSet(set), field) if set == field => Some(Self::Set),
            (Self::Set, 4) => Some(Self::Policy),
            (Self::WithGroup, 1) | (Self::Set | Self::Policy, 2 | 3) => Some(Self::Plain),
            _ => None,
        }
    }
}

/// An estimate, from above, of the bytes that the request of a [large](Method::large) method takes when it is decoded,
/// besides those of its texts. `message`: its bytes, without the prefix of gRPC. Where these are damaged, of what comes
/// before: the decoder refuses them. With a Protobuf group in it, which no client of proto3 sends, it is more than there
/// can be.
#[must_use]
pub fn decoded_bytes(method: &Method, message: &[u8]) -> usize {
    weigh(message, Kind::of_request(method))
}

fn weigh(mut message: &[u8], kind: Kind) -> usize {
    let mut bytes = 0_usize;
    while let Ok((field, wire)) = decode_key(&mut message) {
        let skipped = match wire {
            WireType::Varint => decode_varint(&mut message).map(|_| 0).ok(),
            WireType::SixtyFourBit => Some(8),
            WireType::ThirtyTwoBit => Some(4),
            WireType::LengthDelimited => decode_varint(&mut message).ok(),
            // Proto3 has none; a decoder would skip it and go on with what stands behind it.
            WireType::StartGroup | WireType::EndGroup => return usize::MAX,
        };
        let split = skipped.and_then(|length| message.split_at_checked(usize::try_from(length).ok()?));
        let Some((value, rest)) = split else { return bytes };
        message = rest;
        if wire == WireType::LengthDelimited {
            bytes = bytes.saturating_add(if kind == Kind::Set { OBJECT } else { VALUE });
            if let Some(child) = kind.child(field) {
                bytes = bytes.saturating_add(weigh(value, child));
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::methods;
    use crate::v1;

    /// What the request of this method weighs.
    fn weight(method: &str, request: &impl Message) -> (usize, usize) {
        let bytes = request.encode_to_vec();
        (bytes.len(), of(method, &bytes))
    }

    fn of(method: &str, bytes: &[u8]) -> usize {
        let method = methods::ALL.iter().find(|known| known.path.ends_with(&format!("/{method}"))).unwrap();
        assert!(method.large);
        decoded_bytes(method, bytes)
    }

    #[test]
    fn what_is_small_on_the_wire_and_large_in_memory_is_found() {
        // 4 MiB of empty policies, and of empty texts at every place that takes many.
        let empty = || vec![String::new(); 2 << 20];
        let policies = vec![v1::Policy::default(); 2 << 20];
        assert!(size_of::<v1::Policy>() <= OBJECT && size_of::<v1::Destination>() <= OBJECT);
        let sides = v1::Policy {
            peer: Some(v1::Side { addresses: empty(), ports: empty() }),
            to: empty(),
            ..Default::default()
        };
        let sets = [
            (v1::PolicySet { policies, ..Default::default() }, (2 << 20) * size_of::<v1::Policy>()),
            (v1::PolicySet { policies: vec![sides], ..Default::default() }, (6 << 20) * size_of::<String>()),
        ];
        for (set, least) in sets {
            let set = Some(set);
            let explain = weight("Explain", &v1::ExplainRequest { set: set.clone(), ..Default::default() });
            let dry_run = weight("DryRun", &v1::DryRunRequest { set: set.clone(), ..Default::default() });
            let apply = v1::ApplyPolicySetRequest { set, ..Default::default() };
            for (bytes, decoded) in [explain, dry_run, weight("ApplyPolicySet", &apply)] {
                assert!(bytes < 15 << 20 && decoded >= least, "{bytes} bytes, {decoded}");
            }
        }
        let group = v1::Group { name: "g".into(), addresses: empty() };
        let put = v1::PutGroupRequest { group: Some(group), ..Default::default() };
        assert!(weight("PutGroup", &put).1 >= (2 << 20) * size_of::<String>());
    }

    #[test]
    fn a_group_hides_nothing_that_stands_behind_it() {
        let policies = vec![v1::Policy::default(); 9];
        let set = Some(v1::PolicySet { policies, ..Default::default() });
        let hidden = v1::ExplainRequest { set, ..Default::default() }.encode_to_vec();
        // Field 1000, begin and end of a group, which prost skips.
        for group in [[0xc3, 0x3e, 0xc4, 0x3e].as_slice(), &[0xc4, 0x3e]] {
            assert_eq!(of("Explain", &[group, &hidden].concat()), usize::MAX);
        }
    }

    #[test]
    fn texts_and_packets_are_not_looked_into() {
        // As keys of fields, `3` and `4` are groups.
        let text = "34.0.0.0/8".to_owned();
        let texts = || vec![text.clone(); 100];
        let side = || Some(v1::Side { addresses: texts(), ports: texts() });
        let policy = v1::Policy { name: text.clone(), collect: side(), to: texts(), ..Default::default() };
        let destination =
            v1::Destination { name: text.clone(), remote: Some(text.clone()), ..Default::default() };
        let group = v1::Group { name: text.clone(), addresses: texts() };
        let set = v1::PolicySet {
            policies: vec![policy],
            destinations: vec![destination],
            groups: vec![group.clone()],
            ..Default::default()
        };
        let apply = v1::ApplyPolicySetRequest { set: Some(set), comment: text.clone(), ..Default::default() };
        let put = v1::PutGroupRequest { group: Some(group), comment: text, ..Default::default() };
        let captured = v1::CapturedPacket { file: vec![0x33; 9999], packet: 1 };
        let packet = Some(v1::explain_request::Packet::Captured(captured));
        let explain = v1::ExplainRequest { packet, ..Default::default() };
        for (bytes, decoded) in
            [weight("ApplyPolicySet", &apply), weight("PutGroup", &put), weight("Explain", &explain)]
        {
            assert!(decoded < bytes * 10, "{bytes} bytes, {decoded}");
        }
    }

    #[test]
    fn the_largest_set_that_is_useful_passes() {
        let side = |number: usize| v1::Side {
            addresses: vec![format!("2001:db8:{:x}::/64", number & 0xffff); 8],
            ports: vec!["443".into(), "8000-8999".into()],
        };
        let policy = |number: usize| v1::Policy {
            name: format!("policy-{number}"),
            collect: Some(side(number)),
            peer: Some(side(number)),
            protocol: vec!["tcp".into()],
            to: vec!["tool-1".into(), "tool-2".into()],
            ..Default::default()
        };
        let policies = (0..65_536).map(policy).collect();
        let set = Some(v1::PolicySet { policies, ..Default::default() });
        let (bytes, decoded) =
            weight("ApplyPolicySet", &v1::ApplyPolicySetRequest { set, ..Default::default() });
        assert!(bytes < crate::MAX_POLICY_SET_BYTES && decoded < MAX_DECODED_BYTES, "{bytes} {decoded}");
    }

    proptest! {
        #[test]
        fn damaged_messages_are_weighed_as_far_as_they_go(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let decoded = of("Explain", &bytes);
            prop_assert!(decoded <= bytes.len() * OBJECT || decoded == usize::MAX);
        }
    }
}
