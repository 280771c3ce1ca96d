//! How does a copy that exceeds the MTU leave in several frames: outer IP fragments, or TCP segments?
//!
//! Each piece after the first is a replica. What cannot be cut the wanted way is cut to fit, and counted.

use sluice_core::encap::{CopyFields, FragmentPlan, MAX_HEADER_LEN, segment};

use super::act::{Act, Context, Draft, Packet, emit};
use super::compose::{Body, TAG, sum_of};
use crate::output::OuterChecksum;

use sluice_model::DropReason;

impl Act {
    /// Sends a copy as outer IP fragments.
    #[inline(never)]
    pub(super) fn fragments(
        &mut self,
        body: Body<'_>,
        draft: &Draft<'_>,
        packet: &Packet<'_>,
        ctx: &mut Context<'_>,
    ) {
        let output = draft.output;
        let mtu = u16::try_from(output.mtu).unwrap_or(u16::MAX);
        let plan = output
            .encap
            .as_ref()
            .and_then(|e| FragmentPlan::new(e, draft.fields.inner_len, mtu).zip(Some(e)));
        let Some((plan, encap)) = plan else {
            // The MTU does not hold the headers: the check of the policies refuses such a destination.
            ctx.drop_copy(DropReason::Oversize, draft.origin);
            self.discard(body);
            return;
        };
        let Some(mut inner) = self.composer.inner(body, draft) else {
            ctx.drop_copy(DropReason::MbufAlloc, draft.origin);
            return;
        };
        let mut header = [0; MAX_HEADER_LEN];
        if let Some(header) = header.get_mut(..encap.header_len()) {
            encap.write(header, &draft.fields);
            if output.checksum != OuterChecksum::None {
                // A NIC sums frames, not datagrams.
                encap.write_udp_checksum(header, sum_of(&inner));
            }
        }
        let id = ctx.sequences.datagram_id();
        ctx.books.ledger.replicas += u64::from(plan.count().saturating_sub(1));
        for index in 0..plan.count() {
            let piece = draft.piece(index);
            match self.composer.fragment(&mut inner, &header, &plan, index, id) {
                Some(frame) => emit(frame, &piece, packet, ctx),
                None => ctx.drop_copy(DropReason::MbufAlloc, piece.origin),
            }
        }
    }

    /// Sends a copy of a TCP super-frame as segments of at most `room` bytes; any other copy is cut to fit.
    #[inline(never)]
    pub(super) fn segments(
        &mut self,
        mut body: Body<'_>,
        draft: &Draft<'_>,
        room: u32,
        packet: &Packet<'_>,
        ctx: &mut Context<'_>,
    ) {
        let mbuf = match &mut body {
            Body::Share(mbuf) => &mut **mbuf,
            Body::Own(mbuf) => mbuf,
        };
        let mss = (packet.info.gso_size > 0).then_some(packet.info.gso_size);
        let longest = usize::try_from(room).unwrap_or(usize::MAX);
        let Some(plan) = segment::plan(mbuf.data(), packet.outer, draft.keep, longest, mss)
            .filter(|plan| plan.header_len() <= MAX_SEGMENT_HEADER)
        else {
            ctx.count_truncated(draft.action, draft.group);
            let fields = CopyFields { inner_len: room + draft.tag_len(), truncated: true, ..draft.fields };
            self.one(body, &Draft { keep: room, fields, ..*draft }, packet, ctx);
            return;
        };
        ctx.books.ledger.replicas += u64::from(plan.count().saturating_sub(1));
        for index in 0..plan.count() {
            let piece = draft.piece(index);
            let payload = plan.payload(index).map_or(0, |range| range.end - range.start);
            let header_len = u32::try_from(plan.header_len()).unwrap_or(0);
            let mut fields = CopyFields { inner_len: header_len + payload + draft.tag_len(), ..draft.fields };
            fields.truncated = false;
            if index > 0 && draft.output.uses_sequence() {
                fields.sequence = ctx.sequences.extra(draft.action.stream);
            }
            match self.composer.segment(mbuf, draft, &plan, index, &fields) {
                Some(frame) => emit(frame, &piece, packet, ctx),
                None => ctx.drop_copy(DropReason::MbufAlloc, piece.origin),
            }
        }
        self.discard(body);
    }
}

/// Inner headers that fit a header mbuf together with tag; longer ones (many extension headers) are not segmented.
const MAX_SEGMENT_HEADER: usize = 240 - TAG as usize;

impl Draft<'_> {
    /// The draft of piece `index`: policies count the first one as the copy.
    fn piece(&self, index: u32) -> Self {
        let mut piece = *self;
        if index > 0 {
            piece.origin = piece.origin.follower();
        }
        piece
    }
}
