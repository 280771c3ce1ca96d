//! What becomes of each packet: counted for its policies, then each copy cut, marked, encapsulated and queued.

use dpdk::{Burst, Mbuf, Mempool};
use sluice_core::classify::VerdictId;
use sluice_core::decap::TunnelInfo;
use sluice_core::encap::{self, CopyFields};
use sluice_core::verdict::CopyAction;
use sluice_core::wire::Parsed;
use sluice_model::{DestinationId, DropReason, Oversize, PolicyId, PortId, VlanFrom};

use super::balance::Balance;
use super::compose::{ADDRESSES, Body, Composer, TAG};
use super::limit::Limits;
use super::straight::StraightWay;
use crate::batch::{Batch, RxInfo};
use crate::files::{FileFrame, FileProducer};
use crate::output::{ETHERNET_LEN, Egress, Output};
use crate::port::{Origin, TxPort};
use crate::sequence::Sequences;
use crate::tally::Books;
use crate::tap::{Copied, Names, Taps};

/// No outer IP packet is longer.
const MAX_IP_PACKET: u32 = 65_535;
/// How many packets before its own what is counted for a verdict is asked for.
const AHEAD: usize = 4;

/// What the stage works with: the verdicts, the destinations, the ways out, the counts.
#[derive(Debug)]
pub struct Context<'a> {
    /// Everything that is counted.
    pub books: Books<'a>,
    /// The destinations, by number.
    pub outputs: &'a [Output],
    /// Whether any destination numbers its copies.
    pub numbered: bool,
    /// Sequence numbers.
    pub sequences: &'a mut Sequences,
    /// Output ports.
    pub ports: &'a mut [TxPort],
    /// The queue to the file writer.
    pub files: Option<&'a FileProducer>,
    /// Groups, if there are any.
    pub balance: Option<&'a mut Balance>,
    /// Rate limits, if there are any.
    pub limits: Option<&'a mut Limits>,
    /// Captures of what is sent, and what they call policies and destinations, if there are any.
    pub(crate) taps: Option<(&'a mut Taps, &'a Names)>,
}

impl Context<'_> {
    /// Counts a copy that is cut to the MTU.
    #[cold]
    pub(super) fn count_truncated(&mut self, action: &CopyAction, group: Option<DestinationId>) {
        self.books.ledger.truncated += 1;
        for destination in std::iter::once(action.destination).chain(group) {
            self.books.tables.destinations[destination.index()].truncated.add(1);
        }
    }

    #[cold]
    pub(super) fn drop_copy(&mut self, reason: DropReason, origin: Origin) {
        self.books.drop_copy(reason, origin);
    }
}

/// One packet while its copies are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) outer: &'a Parsed,
    header_end: u16,
    inner_header_end: u16,
    pub(super) info: &'a RxInfo,
    pub(super) cap_len: u32,
    entropy: u32,
    /// The tunnel that it came in: only read where it is shown.
    tunnel: &'a TunnelInfo,
    verdict: VerdictId,
    place: usize,
}

/// One copy while it is made. Built once and passed by reference: a copy of it right after it was written would wait
/// for the stores.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft<'a> {
    pub(super) action: &'a CopyAction,
    pub(super) output: &'a Output,
    /// Frame bytes that are kept.
    pub(super) keep: u32,
    /// The tag to insert, if any.
    pub(super) tag: Option<[u8; TAG as usize]>,
    /// What the tunnel header says.
    pub(super) fields: CopyFields,
    pub(super) origin: Origin,
    pub(super) sharers: &'a [PolicyId],
    /// The group that `action` was asked of.
    pub(super) group: Option<DestinationId>,
}

impl Draft<'_> {
    /// Bytes that the inserted tag takes.
    pub(super) fn tag_len(&self) -> u32 {
        if self.tag.is_some() { u32::from(TAG) } else { 0 }
    }
}

/// How a copy that exceeds the MTU leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    One,
    Fragments,
    Segments,
}

/// The state of the stage.
#[derive(Debug)]
pub struct Act {
    pub(super) composer: Composer,
    /// Packets that ended, freed together.
    ended: Burst,
}

impl Act {
    /// The stage, taking small mbufs for headers and shares from `headers`.
    #[must_use]
    pub fn new(headers: Mempool) -> Self {
        Self { composer: Composer::new(headers), ended: Burst::new() }
    }

    /// Decides every live packet of the batch. `with_inner`: the inner headers were parsed.
    #[inline]
    pub fn run(&mut self, batch: &mut Batch, with_inner: bool, ctx: &mut Context<'_>) {
        let classifier = ctx.books.classifier;
        let mut runs = batch.verdict_runs();
        // The straight way does not know what a copy is of.
        let untapped = ctx.taps.is_none();
        if ctx.numbered || ctx.balance.is_some() {
            let runs = runs.clone().collect(batch);
            if let Some(balance) = &mut ctx.balance {
                balance.prepare(batch, &runs, classifier, with_inner);
            }
            ctx.sequences.reserve(&runs, classifier, ctx.outputs, ctx.balance.as_deref());
        }
        while let Some(run) = runs.next(batch) {
            if let Some(&verdict) = run.places().next().and_then(|place| batch.verdicts.get(place + AHEAD)) {
                classifier.prefetch(verdict);
                ctx.books.tallies.prefetch(verdict);
            }
            let set = classifier.action_set(run.verdict);
            ctx.books.tallies.matched(run.verdict, run.packets().into(), run.wire_bytes);
            match set.copies {
                [] => {
                    let reason = if set.excluded { DropReason::Excluded } else { DropReason::NoPolicy };
                    ctx.books.ledger.drops.add(reason, run.packets().into());
                    for place in run.places() {
                        batch.take(place).into_iter().for_each(|mbuf| self.end(mbuf));
                    }
                }
                [action] if untapped && let Some(way) = StraightWay::new(action, ctx.outputs) => {
                    self.straight(&way, &run, batch, with_inner, ctx);
                }
                _ => {
                    for place in run.places() {
                        if let Some(mbuf) = batch.take(place) {
                            self.copies(mbuf, place, batch, with_inner, ctx);
                        }
                    }
                }
            }
        }
        self.ended.free_all();
    }

    /// Makes all copies of the packet that was at `place`.
    #[inline(never)]
    pub(super) fn copies(
        &mut self,
        mut mbuf: Mbuf,
        place: usize,
        batch: &Batch,
        with_inner: bool,
        ctx: &mut Context<'_>,
    ) {
        let outer = &batch.outer[place];
        let header_end = batch.view(place).header_end;
        let verdict = batch.verdicts[place];
        let packet = Packet {
            outer,
            header_end,
            inner_header_end: if with_inner { batch.inner[place].header_end } else { header_end },
            info: &batch.info[place],
            cap_len: mbuf.pkt_len(),
            entropy: encap::entropy(outer),
            tunnel: &batch.tunnel[place],
            verdict,
            place,
        };
        let set = ctx.books.classifier.action_set(verdict);
        let Some((last, others)) = set.copies.split_last() else { return self.end(mbuf) };
        ctx.books.ledger.replicas += others.len() as u64;
        let mut index = 0;
        for action in others {
            self.copy(Body::Share(&mut mbuf), &packet, action, index, set.sharers_of(action), ctx);
            index += 1;
        }
        self.copy(Body::Own(mbuf), &packet, last, index, set.sharers_of(last), ctx);
    }

    /// Frees a packet together with the others of its batch that ended.
    #[inline]
    pub fn end(&mut self, mbuf: Mbuf) {
        if let Err(mbuf) = self.ended.push(mbuf) {
            self.ended.free_all();
            drop(mbuf);
        }
    }

    pub(super) fn discard(&mut self, body: Body<'_>) {
        if let Body::Own(mbuf) = body {
            self.end(mbuf);
        }
    }

    /// Makes one copy and queues it, in one piece if the MTU allows.
    fn copy(
        &mut self,
        body: Body<'_>,
        packet: &Packet<'_>,
        action: &CopyAction,
        index: u32,
        sharers: &[PolicyId],
        ctx: &mut Context<'_>,
    ) {
        let mut origin = Origin::new(packet.verdict, index);
        let (mut action, mut group) = (action, None);
        let member = ctx.balance.as_ref().and_then(|balance| balance.member(action, packet.place));
        if let Some(member) = &member {
            group = Some(action.destination);
            action = member;
            origin = origin.to_member(member.destination);
        }
        let output = &ctx.outputs[action.destination.index()];
        // A number is used up even if the copy is dropped below: the receiver then sees the loss.
        let sequence = if output.uses_sequence() { ctx.sequences.next(action.stream) } else { 0 };
        if let Some(reason) = output.unready {
            ctx.drop_copy(reason, origin);
            self.discard(body);
            return;
        }
        let mut keep = action.keep.frame_bytes(packet.header_end, packet.inner_header_end, packet.cap_len);
        // Frames too short to hold their addresses have no place for a tag.
        let tag = if output.inner_vlan && keep >= u32::from(ADDRESSES) {
            match output.vlan_from {
                VlanFrom::Tag => Some(encap::inner_vlan_tag(action.tag, action.egress)),
                VlanFrom::Tunnel => (packet.tunnel.mark != 0).then(|| encap::vlan_tag(packet.tunnel.mark)),
            }
        } else {
            None
        };
        let tag_len = if tag.is_some() { u32::from(TAG) } else { 0 };
        let mut room = output.room(packet.outer.vlan_count, tag_len);
        let mut pieces = Pieces::One;
        if keep > room {
            pieces = match output.oversize {
                Oversize::Drop => {
                    ctx.drop_copy(DropReason::Oversize, origin);
                    self.discard(body);
                    return;
                }
                Oversize::Fragment if output.encap.is_some() => Pieces::Fragments,
                Oversize::Segment => Pieces::Segments,
                Oversize::Truncate | Oversize::Fragment => Pieces::One,
            };
            if pieces == Pieces::Fragments {
                room = MAX_IP_PACKET.saturating_sub(output.overhead() + tag_len);
            }
            if pieces != Pieces::Segments && keep > room {
                keep = room;
                ctx.count_truncated(action, group);
            }
        }
        if output.limited || group.is_some() {
            let bytes = u32::from(output.header_len) + keep + tag_len;
            let fits = |limits: &mut Limits| {
                limits.admit(action.destination, group, packet.info.timestamp_ns, bytes)
            };
            if !ctx.limits.as_deref_mut().is_none_or(fits) {
                ctx.drop_copy(DropReason::RateLimit, origin);
                self.discard(body);
                return;
            }
        }
        // Where DF is clear, others may fragment what left in one piece.
        let ip_id = if output.oversize == Oversize::Fragment && pieces == Pieces::One {
            ip_id(ctx.sequences.datagram_id())
        } else {
            0
        };
        let draft = Draft {
            action,
            output,
            keep,
            tag,
            fields: CopyFields {
                inner_len: keep + tag_len,
                tag: action.tag,
                egress: action.egress,
                sequence,
                entropy: packet.entropy,
                timestamp_ns: packet.info.timestamp_ns,
                truncated: keep < packet.info.wire_len,
                vlan_tci: (packet.outer.vlan_count > 0).then_some(packet.outer.vlan_tci),
                ip_id,
            },
            origin,
            sharers,
            group,
        };
        match pieces {
            Pieces::One => self.one(body, &draft, packet, ctx),
            Pieces::Fragments => self.fragments(body, &draft, packet, ctx),
            Pieces::Segments => self.segments(body, &draft, room, packet, ctx),
        }
    }

    /// Sends a copy in one piece.
    #[inline]
    pub(super) fn one(
        &mut self,
        body: Body<'_>,
        draft: &Draft<'_>,
        packet: &Packet<'_>,
        ctx: &mut Context<'_>,
    ) {
        match self.composer.whole(body, draft) {
            Some(frame) => emit(frame, draft, packet, ctx),
            None => ctx.drop_copy(DropReason::MbufAlloc, draft.origin),
        }
    }
}

/// The part of an identification that fits the IPv4 header.
#[inline]
const fn ip_id(datagram_id: u32) -> u16 {
    let [.., high, low] = datagram_id.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Queues a finished frame at the exit of its destination.
#[inline]
pub(super) fn emit(mut frame: Mbuf, draft: &Draft<'_>, packet: &Packet<'_>, ctx: &mut Context<'_>) {
    match draft.output.egress {
        // Shorter frames than their own header stop the transmit queue of some NICs.
        Egress::Port(_) if frame.pkt_len() < ETHERNET_LEN => {
            ctx.drop_copy(DropReason::TxRefused, draft.origin);
        }
        Egress::Port(port) => {
            let port = &mut ctx.ports[port];
            if frame.segments() > 1 && !port.multi_segment && !frame.linearize() {
                ctx.drop_copy(DropReason::TxMultiSegment, draft.origin);
                return;
            }
            if let Some(taps) = &mut ctx.taps {
                tap(taps, &frame, Some(port.id), draft, packet);
            }
            port.push(frame, draft.origin, &mut ctx.books);
        }
        Egress::File => to_file(frame, draft, packet, ctx),
        Egress::None => ctx.drop_copy(DropReason::NextHopUnresolved, draft.origin),
    }
}

/// Shows a finished frame to who captures what is sent.
#[cold]
fn tap(
    (taps, names): &mut (&mut Taps, &Names),
    frame: &Mbuf,
    port: Option<PortId>,
    draft: &Draft<'_>,
    packet: &Packet<'_>,
) {
    taps.sent(&Copied {
        frame,
        place: packet.place,
        timestamp_ns: packet.info.timestamp_ns,
        port,
        destination: draft.action.destination,
        group: draft.group,
        policies: draft.sharers,
        names,
    });
}

/// Queues a finished frame for the file writer.
#[inline(never)]
fn to_file(frame: Mbuf, draft: &Draft<'_>, packet: &Packet<'_>, ctx: &mut Context<'_>) {
    if let Some(taps) = &mut ctx.taps {
        tap(taps, &frame, None, draft, packet);
    }
    // A tunnel's outer packet is as long as it is; a plain copy keeps the original length beside its own.
    let wire_len = match draft.output.encap {
        Some(_) => frame.pkt_len(),
        // Captures may lie about the original length.
        None => packet.info.wire_len.saturating_add(draft.tag_len()),
    };
    let record = FileFrame {
        timestamp_ns: packet.info.timestamp_ns,
        wire_len,
        destination: draft.action.destination,
        group: draft.group,
        sharers: if draft.origin.is_follower() { &[] } else { draft.sharers },
    };
    match ctx.files.map(|files| files.push(frame, &record)) {
        Some(Ok(())) => ctx.books.ledger.to_files += 1,
        Some(Err(_)) | None => ctx.drop_copy(DropReason::FileQueueFull, draft.origin),
    }
}
