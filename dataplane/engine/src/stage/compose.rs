//! How is the frame of a copy put together without copying the packet's bytes?
//!
//! The last copy of a packet is the packet itself, with the headers written into its headroom. Other copies, and the
//! pieces of a copy that is cut, share its bytes by reference count behind a header mbuf of their own.

use dpdk::{Mbuf, Mempool};
use sluice_core::encap::fragment::MAX_FRAGMENT_HEADER_LEN;
use sluice_core::encap::{CopyFields, FragmentPlan, MAX_HEADER_LEN, PartsSum, SegmentPlan};

use super::act::Draft;
use super::rx::insert_tag;
use crate::output::{OuterChecksum, Output};

/// Bytes of the two Ethernet addresses, after which a VLAN tag is inserted.
pub(crate) const ADDRESSES: u16 = 12;
/// Length of a VLAN tag.
pub(crate) const TAG: u16 = 4;

/// Where the bytes of a copy come from.
#[derive(Debug)]
pub(super) enum Body<'a> {
    /// The packet is needed for further copies.
    Share(&'a mut Mbuf),
    /// The last copy: the packet itself.
    Own(Mbuf),
}

/// Builds frames; takes small mbufs for headers and shares from one pool. `None` means that none was free.
#[derive(Debug)]
pub(super) struct Composer {
    headers: Mempool,
}

impl Composer {
    pub(super) fn new(headers: Mempool) -> Self {
        Self { headers }
    }

    /// The whole frame of a copy.
    #[inline]
    pub(super) fn whole(&self, body: Body<'_>, draft: &Draft<'_>) -> Option<Mbuf> {
        let inner = self.inner(body, draft)?;
        self.outer(inner, draft.output, &draft.fields)
    }

    /// The copied frame as it goes into the tunnel: cut, with its tag.
    #[inline]
    pub(super) fn inner(&self, body: Body<'_>, draft: &Draft<'_>) -> Option<Mbuf> {
        match body {
            Body::Own(mut mbuf) => {
                mbuf.truncate(draft.keep);
                match draft.tag {
                    Some(tag) if !insert_tag(&mut mbuf, tag) => {
                        let front = self.front(&mbuf, tag)?;
                        mbuf.adj(ADDRESSES);
                        chain(front, mbuf)
                    }
                    _ => Some(mbuf),
                }
            }
            Body::Share(mbuf) => match draft.tag {
                None if draft.keep == 0 => self.headers.alloc(),
                None => mbuf.share(0, draft.keep, &self.headers),
                Some(tag) => {
                    let front = self.front(mbuf, tag)?;
                    let rest = draft.keep - u32::from(ADDRESSES);
                    if rest == 0 {
                        return Some(front);
                    }
                    chain(front, mbuf.share(u32::from(ADDRESSES), rest, &self.headers)?)
                }
            },
        }
    }

    /// The addresses of `mbuf` and a tag, in an mbuf of their own.
    fn front(&self, mbuf: &Mbuf, tag: [u8; TAG as usize]) -> Option<Mbuf> {
        let mut front = self.headers.alloc()?;
        let bytes = front.append(ADDRESSES + TAG)?;
        let (addresses, place) = bytes.split_at_mut(ADDRESSES.into());
        mbuf.read_at(0, addresses);
        place.copy_from_slice(&tag);
        Some(front)
    }

    /// The tunnel header before `inner`, in its headroom if it has any.
    #[inline]
    pub(super) fn outer(&self, mut inner: Mbuf, output: &Output, fields: &CopyFields) -> Option<Mbuf> {
        let Some(encap) = &output.encap else { return Some(inner) };
        let inner_sum = match output.checksum {
            OuterChecksum::Software => sum_of(&inner),
            OuterChecksum::None | OuterChecksum::Offload => 0,
        };
        let write = |header: &mut [u8]| {
            encap.write(header, fields);
            match output.checksum {
                OuterChecksum::None => {}
                OuterChecksum::Software => encap.write_udp_checksum(header, inner_sum),
                OuterChecksum::Offload => encap.write_udp_pseudo_header(header),
            }
        };
        let mut frame = if let Some(header) = inner.prepend(output.header_len) {
            write(header);
            inner
        } else {
            let mut head = self.headers.alloc()?;
            write(head.append(output.header_len)?);
            if inner.pkt_len() == 0 { head } else { chain(head, inner)? }
        };
        if output.checksum == OuterChecksum::Offload {
            frame.set_tx_udp_checksum(output.l2_len, output.l3_len, encap.ipv6());
        }
        Some(frame)
    }

    /// Outer fragment `index` of a copy whose outer header was written to `header`.
    pub(super) fn fragment(
        &self,
        inner: &mut Mbuf,
        header: &[u8; MAX_HEADER_LEN],
        plan: &FragmentPlan,
        index: u32,
        id: u32,
    ) -> Option<Mbuf> {
        let part = plan.part(index)?;
        let mut bytes = [0; MAX_FRAGMENT_HEADER_LEN];
        let header_len = plan.write(index, header, id, &mut bytes)?;
        let mut head = self.headers.alloc()?;
        head.append(u16::try_from(header_len).ok()?)?.copy_from_slice(bytes.get(..header_len)?);
        let len = part.inner.end - part.inner.start;
        if len == 0 {
            return Some(head);
        }
        chain(head, inner.share(part.inner.start, len, &self.headers)?)
    }

    /// TCP segment `index` of the super-frame `mbuf`, with tag and tunnel header.
    pub(super) fn segment(
        &self,
        mbuf: &mut Mbuf,
        draft: &Draft<'_>,
        plan: &SegmentPlan,
        index: u32,
        fields: &CopyFields,
    ) -> Option<Mbuf> {
        let range = plan.payload(index)?;
        let payload = mbuf.share(range.start, range.end - range.start, &self.headers)?;
        let mut head = self.headers.alloc()?;
        let tag_len = if draft.tag.is_some() { TAG } else { 0 };
        let bytes = head.append(u16::try_from(plan.header_len()).ok()? + tag_len)?;
        // The headers are written behind the place of the tag; then the addresses move before it.
        if !plan.write_headers(index, bytes.get_mut(tag_len.into()..)?, mbuf.data(), sum_of(&payload)) {
            return None;
        }
        if let Some(tag) = draft.tag {
            let (tag_len, addresses) = (usize::from(tag_len), usize::from(ADDRESSES));
            bytes.copy_within(tag_len..tag_len + addresses, 0);
            bytes.get_mut(addresses..addresses + tag_len)?.copy_from_slice(&tag);
        }
        self.outer(chain(head, payload)?, draft.output, fields)
    }
}

/// The one's complement sum over all bytes of a frame.
pub(super) fn sum_of(frame: &Mbuf) -> u64 {
    let mut sum = PartsSum::default();
    for part in frame.segment_slices() {
        sum.add(part);
    }
    sum.sum()
}

/// `head` with `tail` behind it; the frame is lost when it gets too many segments.
fn chain(mut head: Mbuf, tail: Mbuf) -> Option<Mbuf> {
    head.chain(tail).ok()?;
    Some(head)
}
