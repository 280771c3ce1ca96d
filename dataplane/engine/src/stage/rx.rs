//! Is the frame as it was on the wire, and are its headers in one piece?

use dpdk::Mbuf;

use crate::batch::Batch;

/// Bytes that the parser may want to see in one piece: Ethernet with tags, IPv6 with extension headers, a tunnel and
/// the same again inside.
pub(crate) const CONTIGUOUS: u16 = 256;

/// EtherType of a customer tag, and of a service tag (IEEE 802.1Q).
const TPID_CTAG: u16 = 0x8100;
const TPID_STAG: u16 = 0x88a8;

/// Puts back VLAN tags that a NIC moved into metadata, and pulls short first segments together.
#[inline]
pub fn run(batch: &mut Batch) {
    for place in batch.live_places() {
        let Some(mbuf) = &mut batch.mbufs[place] else { continue };
        let vlan = mbuf.rx_vlan();
        if vlan.stripped.is_some() || vlan.outer_stripped.is_some() {
            let added = restore_vlan(mbuf, vlan.stripped, vlan.outer_stripped);
            let wire_len = &mut batch.info[place].wire_len;
            *wire_len = wire_len.saturating_add(added);
        }
        pull_together(mbuf);
    }
}

/// Makes the headers contiguous.
#[inline(always)]
fn pull_together(mbuf: &mut Mbuf) {
    if mbuf.segments() > 1 && mbuf.data_len() < CONTIGUOUS {
        let wanted = u32::from(CONTIGUOUS).min(mbuf.pkt_len());
        // A frame that cannot be pulled together is parsed as far as its first segment goes.
        let _pulled = mbuf.pull_up(u16::try_from(wanted).unwrap_or(CONTIGUOUS));
    }
}

/// Puts back the inner (C-TAG, or the only tag) and the outer (S-TAG) tag; returns the bytes added.
#[cold]
fn restore_vlan(mbuf: &mut Mbuf, inner: Option<u16>, outer: Option<u16>) -> u32 {
    let mut added = 0;
    for (tpid, tci) in [(TPID_CTAG, inner), (TPID_STAG, outer)] {
        if let Some(tci) = tci {
            let [a, b] = tpid.to_be_bytes();
            let [c, d] = tci.to_be_bytes();
            if insert_tag(mbuf, [a, b, c, d]) {
                added += 4;
            }
        }
    }
    added
}

/// Inserts a tag after the addresses, in place; `false` (and nothing changed) when the frame has no addresses, is
/// shared, or has no headroom.
pub(crate) fn insert_tag(mbuf: &mut Mbuf, tag: [u8; 4]) -> bool {
    if mbuf.data_len() < 12 || mbuf.is_shared() || mbuf.prepend(4).is_none() {
        return false;
    }
    let Some(frame) = mbuf.data_mut() else {
        return false;
    };
    frame.copy_within(4..16, 0);
    if let Some(place) = frame.get_mut(12..16) {
        place.copy_from_slice(&tag);
    }
    true
}
