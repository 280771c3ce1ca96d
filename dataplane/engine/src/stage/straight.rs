//! How do most copies leave? One copy of the packet, in one piece, by a port, with no more than a header before it.
//!
//! The same as [`Act::copies`] does, with what holds for a whole run of packets asked once. What turns out to need
//! more (a cut to the MTU, several segments, no headroom) is handed over to it.

use sluice_core::encap::{self, CopyFields, Encap};
use sluice_core::verdict::CopyAction;

use super::act::{Act, Context};
use crate::batch::{Batch, Run};
use crate::output::{ETHERNET_LEN, Output, Straight};
use crate::port::Origin;

/// An action whose copies can go straight.
#[derive(Clone, Copy, Debug)]
pub(super) struct StraightWay<'a> {
    action: &'a CopyAction,
    encap: Option<&'a Encap>,
    by: Straight,
}

impl<'a> StraightWay<'a> {
    /// The way of `action`, if nothing but a header is to be added.
    #[inline]
    pub(super) fn new(action: &'a CopyAction, outputs: &'a [Output]) -> Option<Self> {
        let output = outputs.get(action.destination.index())?;
        output.straight.map(|by| Self { action, encap: output.encap.as_ref(), by })
    }
}

impl Act {
    /// Sends the one copy of each packet of `run`.
    #[inline]
    pub(super) fn straight(
        &mut self,
        way: &StraightWay<'_>,
        run: &Run,
        batch: &mut Batch,
        with_inner: bool,
        ctx: &mut Context<'_>,
    ) {
        let origin = Origin::new(run.verdict, 0);
        for place in run.places() {
            let Some(mut mbuf) = batch.take(place) else { continue };
            let (outer, info) = (&batch.outer[place], &batch.info[place]);
            let cap_len = mbuf.pkt_len();
            let header_end = batch.view(place).header_end;
            let inner_header_end = if with_inner { batch.inner[place].header_end } else { header_end };
            let keep = way.action.keep.frame_bytes(header_end, inner_header_end, cap_len);
            if keep > way.by.room || keep < ETHERNET_LEN || mbuf.segments() > 1 {
                self.copies(mbuf, place, batch, with_inner, ctx);
                continue;
            }
            if keep < cap_len {
                mbuf.truncate(keep);
            }
            if let Some(encap) = way.encap {
                let Some(header) = mbuf.prepend(way.by.header_len) else {
                    self.copies(mbuf, place, batch, with_inner, ctx);
                    continue;
                };
                let fields = CopyFields {
                    inner_len: keep,
                    tag: way.action.tag,
                    egress: way.action.egress,
                    sequence: if way.by.uses_sequence { ctx.sequences.next(way.action.stream) } else { 0 },
                    entropy: if encap.uses_entropy() { encap::entropy(outer) } else { 0 },
                    timestamp_ns: info.timestamp_ns,
                    truncated: keep < info.wire_len,
                    vlan_tci: (outer.vlan_count > 0).then_some(outer.vlan_tci),
                    ip_id: 0,
                };
                encap.write(header, &fields);
            }
            ctx.ports[way.by.port].push(mbuf, origin, &mut ctx.books);
        }
    }
}
