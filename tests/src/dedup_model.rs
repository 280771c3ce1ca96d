//! Which packets are duplicates? The obvious way: keys as bytes, in a map without bounds.

use std::collections::HashMap;

use sluice_core::dedup::KeyProfile;
use sluice_core::wire::{Fragment, L3, Parsed};

/// The most bytes of an IP packet that count.
const MOST: usize = 2048;

/// Everything that has to be equal, one after the other.
///
/// # Panics
/// When the headers are not those of the frame.
pub fn key(profile: &KeyProfile, frame: &[u8], headers: &Parsed, wire_len: u32) -> Vec<u8> {
    let l2 = usize::from(headers.l2_offset);
    let l3 = usize::from(headers.l3_offset);
    if !matches!(headers.l3, L3::Ipv4 | L3::Ipv6) {
        let mut key = b"frame".to_vec();
        key.extend((wire_len - u32::from(headers.l2_offset)).to_be_bytes());
        key.extend(&frame[l2..]);
        return key;
    }
    let packet = &frame[l3..];
    let stated = match headers.l3 {
        L3::Ipv4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        _ => usize::from(u16::from_be_bytes([packet[4], packet[5]])),
    };
    let fixed = if headers.l3 == L3::Ipv6 { 40 } else { 0 };
    let (ip_len, unsaid) = if stated == 0 {
        (packet.len(), wire_len - u32::from(headers.l3_offset))
    } else {
        (stated + fixed, 0)
    };
    let header_len = usize::from(headers.header_end) - l3;
    let len = (header_len + usize::from(profile.payload_bytes)).min(ip_len).min(packet.len()).min(MOST);
    let mut bytes = packet[..len].to_vec();
    if headers.l3 == L3::Ipv4 {
        if !profile.tos {
            bytes[1] = 0;
        }
        if !profile.ttl {
            bytes[8] = 0;
        }
        bytes[10..12].fill(0);
    } else {
        if !profile.tos {
            bytes[0] &= 0xf0;
            bytes[1] &= 0x0f;
        }
        if !profile.ttl {
            bytes[7] = 0;
        }
    }
    if !profile.l4_checksum && headers.l4_offset > 0 && headers.fragment != Fragment::Later {
        let l4 = usize::from(headers.l4_offset) - l3;
        let checksum = match headers.protocol {
            6 => l4 + 16..l4 + 18,
            17 => l4 + 6..l4 + 8,
            132 => l4 + 8..l4 + 12,
            _ => 0..0,
        };
        for at in checksum {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = 0;
            }
        }
    }
    let mut key = b"packet".to_vec();
    key.extend(unsaid.to_be_bytes());
    if profile.macs && l2 < l3 {
        key.extend(&frame[l2..l2 + 12]);
    }
    if profile.vlan {
        key.push(headers.vlan_count);
        key.extend((headers.vlan_tci & 0xfff).to_be_bytes());
        key.extend((headers.vlan_inner_tci & 0xfff).to_be_bytes());
    }
    key.extend(bytes);
    key
}

/// Everything seen, with the time and port of the last packet that was no duplicate.
#[derive(Debug)]
pub struct Model {
    profile: KeyProfile,
    window_ns: u64,
    seen: HashMap<Vec<u8>, (u64, u16)>,
}

impl Model {
    /// A model that has seen nothing.
    pub fn new(profile: KeyProfile, window_ns: u64) -> Self {
        Self { profile, window_ns, seen: HashMap::new() }
    }

    /// The port of the first copy, if the packet is a duplicate.
    pub fn offer(
        &mut self,
        frame: &[u8],
        headers: &Parsed,
        wire_len: u32,
        time_ns: u64,
        port: u16,
    ) -> Option<u16> {
        let key = key(&self.profile, frame, headers, wire_len);
        if let Some(&(first_ns, first)) = self.seen.get(&key)
            && time_ns.abs_diff(first_ns) <= self.window_ns
        {
            return Some(first);
        }
        self.seen.insert(key, (time_ns, port));
        None
    }

    /// Whether a packet like this was seen at any time.
    pub fn knows(&self, frame: &[u8], headers: &Parsed, wire_len: u32) -> bool {
        self.seen.contains_key(&key(&self.profile, frame, headers, wire_len))
    }
}
