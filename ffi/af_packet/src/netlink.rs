//! What does a routing netlink message say about a link? Parsing and building, on plain bytes.
//!
//! Sources: `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if_link.h`. All fields are in host byte order.

/// A change or an answer that concerns links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkMessage {
    /// `RTM_NEWLINK`: the link exists, with these properties.
    New(LinkInfo),
    /// `RTM_DELLINK`: the link with this index is gone from the namespace.
    Deleted(i32),
    /// `NLMSG_ERROR` with a non-zero (positive) errno.
    Error(i32),
    /// Something else.
    Other,
}

/// Properties of a link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LinkInfo {
    pub(crate) ifindex: i32,
    /// Hardware type, `ARPHRD_*`.
    pub(crate) arphrd: u16,
    /// `IFF_*`.
    pub(crate) flags: u32,
    pub(crate) name: Vec<u8>,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: u32,
    /// Largest super-frame that the kernel builds or merges on this device, bytes; 0 when not told.
    pub(crate) gso_max_bytes: u32,
}

const NLMSG_HEADER_LEN: usize = 16;
const IFINFO_LEN: usize = 16;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_GRO_MAX_SIZE: u16 = 58;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
const IFLA_GRO_IPV4_MAX_SIZE: u16 = 64;
/// Flag bits (nested, byte order) above the attribute type.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Walk a datagram: `each` gets the sequence number and the meaning of every whole message in it.
pub(crate) fn for_each_message(mut datagram: &[u8], mut each: impl FnMut(u32, LinkMessage)) {
    while let (Some(len), Some(kind), Some(seq)) =
        (u32_at(datagram, 0), u16_at(datagram, 4), u32_at(datagram, 8))
    {
        let len = len as usize;
        let Some(body) = datagram.get(NLMSG_HEADER_LEN..len) else { return };
        let message = match kind {
            RTM_NEWLINK => link_info(body).map_or(LinkMessage::Other, LinkMessage::New),
            RTM_DELLINK => {
                link_info(body).map_or(LinkMessage::Other, |link| LinkMessage::Deleted(link.ifindex))
            }
            NLMSG_ERROR => match i32_at(body, 0) {
                Some(errno) if errno != 0 => LinkMessage::Error(errno.saturating_neg()),
                _ => LinkMessage::Other,
            },
            _ => LinkMessage::Other,
        };
        each(seq, message);
        let Some(rest) = datagram.get(len.next_multiple_of(4)..) else { return };
        datagram = rest;
    }
}

/// `struct ifinfomsg` and its attributes. `None` for messages of other families: a port that leaves a bridge
/// is announced as `RTM_DELLINK` of family `AF_BRIDGE`, and is still there.
fn link_info(body: &[u8]) -> Option<LinkInfo> {
    let (&family, mut attributes) = (body.first()?, body.get(IFINFO_LEN..)?);
    if i32::from(family) != libc::AF_UNSPEC {
        return None;
    }
    let mut link = LinkInfo {
        arphrd: u16_at(body, 2)?,
        ifindex: i32_at(body, 4)?,
        flags: u32_at(body, 8)?,
        ..LinkInfo::default()
    };
    while let (Some(len), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let len = usize::from(len);
        let Some(value) = attributes.get(4..len) else { break };
        match kind & NLA_TYPE_MASK {
            IFLA_IFNAME => link.name = value.split(|b| *b == 0).next().unwrap_or_default().to_vec(),
            IFLA_ADDRESS => link.mac = <[u8; 6]>::try_from(value).ok(),
            IFLA_MTU => link.mtu = u32_at(value, 0).unwrap_or(0),
            IFLA_GSO_MAX_SIZE | IFLA_GRO_MAX_SIZE | IFLA_GSO_IPV4_MAX_SIZE | IFLA_GRO_IPV4_MAX_SIZE => {
                link.gso_max_bytes = link.gso_max_bytes.max(u32_at(value, 0).unwrap_or(0));
            }
            _ => {}
        }
        let Some(rest) = attributes.get(len.next_multiple_of(4)..) else { break };
        attributes = rest;
    }
    Some(link)
}

/// `RTM_GETLINK` for one link, by index or (index 0) by name.
pub(crate) fn get_link_request(seq: u32, ifindex: i32, name: &str) -> Vec<u8> {
    let mut message = vec![0; NLMSG_HEADER_LEN + IFINFO_LEN];
    message[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message[8..12].copy_from_slice(&seq.to_ne_bytes());
    message[NLMSG_HEADER_LEN + 4..NLMSG_HEADER_LEN + 8].copy_from_slice(&ifindex.to_ne_bytes());
    if ifindex == 0 {
        let len = u16::try_from(4 + name.len() + 1).unwrap_or(u16::MAX);
        message.extend_from_slice(&len.to_ne_bytes());
        message.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
        message.extend_from_slice(name.as_bytes());
        message.push(0);
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meanings(datagram: &[u8]) -> Vec<(u32, LinkMessage)> {
        let mut all = vec![];
        for_each_message(datagram, |seq, message| all.push((seq, message)));
        all
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, seq: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(seq.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes
    }

    fn link(family: u8, ifindex: i32, flags: u32, attributes: &[u8]) -> Vec<u8> {
        let mut body = vec![family, 0];
        body.extend(1u16.to_ne_bytes());
        body.extend(ifindex.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        body.extend(attributes);
        body
    }

    fn two_messages() -> Vec<u8> {
        let attributes = [
            attribute(IFLA_IFNAME, b"eth7\0"),
            attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 7]),
            attribute(IFLA_MTU, &9_000u32.to_ne_bytes()),
            attribute(IFLA_GSO_MAX_SIZE, &65_536u32.to_ne_bytes()),
            attribute(IFLA_GRO_MAX_SIZE, &185_000u32.to_ne_bytes()),
        ]
        .concat();
        [
            message(RTM_NEWLINK, 3, &link(0, 7, 0x1_0043, &attributes)),
            message(RTM_DELLINK, 0, &link(0, 8, 0, &[])),
            message(RTM_DELLINK, 0, &link(7, 7, 0, &[])),
            message(NLMSG_ERROR, 4, &(-libc::ENODEV).to_ne_bytes()),
        ]
        .concat()
    }

    #[test]
    fn links_deletions_and_errors_are_read() {
        let eth7 = LinkInfo {
            ifindex: 7,
            arphrd: 1,
            flags: 0x1_0043,
            name: b"eth7".to_vec(),
            mac: Some([2, 0, 0, 0, 0, 7]),
            mtu: 9_000,
            gso_max_bytes: 185_000,
        };
        assert_eq!(
            meanings(&two_messages()),
            [
                (3, LinkMessage::New(eth7)),
                (0, LinkMessage::Deleted(8)),
                (0, LinkMessage::Other), // of the bridge family: the link itself stays
                (4, LinkMessage::Error(libc::ENODEV)),
            ]
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_loop(mut bytes in Just(two_messages()), cut in 0usize..300,
                                  changes in prop::collection::vec((0usize..300, any::<u8>()), 0..8)) {
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            prop_assert!(meanings(&bytes).len() <= bytes.len() / NLMSG_HEADER_LEN);
        }
    }
}
