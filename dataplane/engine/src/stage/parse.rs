//! What are the headers, and which datagram does a fragment belong to?

use sluice_core::classify::{FragmentOutcome, FragmentTable};
use sluice_core::wire::{self, Fragment, Parsed};

use crate::batch::Batch;

/// Tunnels that are followed inwards, at most.
pub(crate) const DEPTH_LIMIT: u8 = 8;
/// Packets whose first line is fetched ahead.
pub(crate) const PREFETCH_AHEAD: usize = 6;

/// Parses every live packet but those of `done` (bit i: place i); `with_inner` also its innermost headers. Returns how
/// many later fragments came without their first one.
#[inline]
pub fn run(batch: &mut Batch, fragments: &mut FragmentTable, with_inner: bool, done: u64) -> u64 {
    if done != 0 {
        return rest(batch, fragments, batch.live & !done);
    }
    let mut unmatched = 0;
    for place in 0..batch.len {
        if let Some(Some(ahead)) = batch.mbufs.get(place + PREFETCH_AHEAD) {
            ahead.prefetch_data();
        }
        let Some(mbuf) = &batch.mbufs[place] else { continue };
        let frame = mbuf.data();
        let outer = &mut batch.outer[place];
        wire::parse_into(frame, outer);
        let now_ns = batch.info[place].timestamp_ns;
        if outer.fragment != Fragment::Whole
            && fragments.resolve(outer, frame, now_ns) == FragmentOutcome::Unknown
        {
            unmatched += 1;
        }
        if with_inner {
            innermost(frame, &batch.outer[place], &mut batch.inner[place], now_ns, fragments);
        }
    }
    unmatched
}

/// The same for some places, whose innermost headers nobody reads.
#[inline(never)]
fn rest(batch: &mut Batch, fragments: &mut FragmentTable, places: u64) -> u64 {
    let mut unmatched = 0;
    for place in batch.live_places_of(places) {
        let Some(mbuf) = &batch.mbufs[place] else { continue };
        let (frame, outer) = (mbuf.data(), &mut batch.outer[place]);
        wire::parse_into(frame, outer);
        if outer.fragment != Fragment::Whole
            && fragments.resolve(outer, frame, batch.info[place].timestamp_ns) == FragmentOutcome::Unknown
        {
            unmatched += 1;
        }
    }
    unmatched
}

/// Parses the innermost headers of a frame whose outermost ones are `outer`.
#[inline]
pub(crate) fn innermost(
    frame: &[u8],
    outer: &Parsed,
    inner: &mut Parsed,
    now_ns: u64,
    fragments: &mut FragmentTable,
) {
    *inner = wire::parse_innermost(frame, outer, DEPTH_LIMIT);
    if inner.fragment != Fragment::Whole && outer.inner_offset != 0 {
        let _outcome = fragments.resolve(inner, frame, now_ns);
    }
}
