//! How much memory does a message with a policy set take once it is decoded? Asked before that is done: an empty policy
//! is two bytes of a message, and hundreds of memory.

use prost::encoding::{WireType, decode_key, decode_varint};

/// The most that a message with a policy set may take besides its own bytes: policies with a few addresses each, as many
/// as [`MAX_POLICY_SET_BYTES`](crate::MAX_POLICY_SET_BYTES) has room for, stay below.
pub const MAX_DECODED_BYTES: usize = 512 << 20;

/// What a value takes that has its own length, a text mostly: what points to it, and the least that an allocator gives.
const VALUE: usize = 56;
/// What a policy, a destination or a group takes without its values.
const OBJECT: usize = 512;

/// What the fields of a message are.
#[derive(Clone, Copy)]
enum Kind {
    /// A request: each field that has a length may be a set.
    Request,
    /// A policy set, or one policy, destination or group: each field that has a length may be such an object.
    Set,
    /// A policy, destination or group.
    Object,
    /// Something in it: the sides of a policy.
    Part,
}

impl Kind {
    /// What a field in it is, if that has fields.
    fn child(self, field: u32) -> Option<Self> {
        match (self, field) {
            (Self::Request, _) => Some(Self::Set),
            (Self::Set, _) => Some(Self::Object),
            // `collect` and `peer` of a policy; elsewhere they are texts, which are no messages for long.
            (Self::Object, 2 | 3) => Some(Self::Part),
            (Self::Object | Self::Part, _) => None,
        }
    }
}

/// An estimate, from above, of the bytes that a request takes when it is decoded, besides those of its texts. `message`:
/// its bytes, without the prefix of gRPC. Where these are damaged, of what comes before: the decoder refuses them.
#[must_use]
pub fn decoded_bytes(message: &[u8]) -> usize {
    weigh(message, Kind::Request)
}

fn weigh(mut message: &[u8], kind: Kind) -> usize {
    let mut bytes = 0_usize;
    while let Ok((field, wire)) = decode_key(&mut message) {
        let skipped = match wire {
            WireType::Varint => decode_varint(&mut message).map(|_| 0).ok(),
            WireType::SixtyFourBit => Some(8),
            WireType::ThirtyTwoBit => Some(4),
            WireType::LengthDelimited => decode_varint(&mut message).ok(),
            // Proto3 has none.
            WireType::StartGroup | WireType::EndGroup => None,
        };
        let split = skipped.and_then(|length| message.split_at_checked(usize::try_from(length).ok()?));
        let Some((value, rest)) = split else { return bytes };
        message = rest;
        if wire == WireType::LengthDelimited {
            bytes = bytes.saturating_add(if matches!(kind, Kind::Set) { OBJECT } else { VALUE });
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
    use crate::v1;

    fn request(set: v1::PolicySet) -> Vec<u8> {
        v1::ExplainRequest { set: Some(set), ..Default::default() }.encode_to_vec()
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
            let bytes = request(set);
            let decoded = decoded_bytes(&bytes);
            assert!(bytes.len() < 15 << 20 && decoded >= least, "{} bytes, {decoded}", bytes.len());
        }
        let group = v1::Group { name: "g".into(), addresses: empty() };
        let put = v1::PutGroupRequest { group: Some(group), ..Default::default() };
        assert!(decoded_bytes(&put.encode_to_vec()) >= (2 << 20) * size_of::<String>());
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
        let bytes = request(v1::PolicySet { policies, ..Default::default() });
        assert!(bytes.len() < crate::MAX_POLICY_SET_BYTES, "{}", bytes.len());
        assert!(decoded_bytes(&bytes) < MAX_DECODED_BYTES, "{}", decoded_bytes(&bytes));
    }

    proptest! {
        #[test]
        fn damaged_messages_are_weighed_as_far_as_they_go(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decoded_bytes(&bytes) <= bytes.len() * OBJECT);
        }
    }
}
