//! Which sequence number does a copy carry? Numbers count per (endpoint, tag) over all workers, taken in blocks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use sluice_core::classify::{Classifier, Program};
use sluice_model::{PolicySet, StreamId, Tag};

use crate::batch::Run;
use crate::output::Output;
use crate::stage::balance::Balance;

/// A counter that all workers share.
type Shared = Arc<CachePadded<AtomicU64>>;

/// The counters of all streams, shared by all workers; the first number of a stream is 0 (RFC 2890 section 2.2).
#[derive(Clone, Debug, Default)]
pub struct Streams {
    /// By [`StreamId`].
    counters: Vec<Shared>,
    /// Whose they are, where the streams of another generation may go on with them.
    names: HashMap<(String, Tag), usize>,
    /// For the identifications of outer IP packets.
    ids: Shared,
}

impl Streams {
    /// The counters for the streams of `program`, which was compiled from `policies`. Streams that `before` has, of a
    /// destination with the same name and with the same tag, go on where they are.
    #[must_use]
    pub fn of(program: &Program, policies: &PolicySet, before: Option<&Self>) -> Self {
        let mut streams =
            Self { ids: before.map(|before| Arc::clone(&before.ids)).unwrap_or_default(), ..Self::default() };
        for &(destination, tag) in program.streams() {
            let name = policies.destinations().get(destination.index()).map_or("", |d| &*d.name).to_owned();
            let key = (name, tag);
            let counter = before.and_then(|before| before.counters.get(*before.names.get(&key)?));
            streams.names.insert(key, streams.counters.len());
            streams.counters.push(counter.map(Arc::clone).unwrap_or_default());
        }
        streams
    }
}

/// Identifications that a worker takes at once.
const ID_BLOCK: u32 = 64;

/// One worker's view of the streams. A receiver may see numbers of different workers interleaved, never one twice.
#[derive(Debug)]
pub struct Sequences {
    streams: Streams,
    wanted: Box<[u32]>,
    next: Box<[u32]>,
    /// Streams with `wanted` above zero; room for all of them, so that it never grows.
    touched: Vec<StreamId>,
    next_id: u32,
    /// How many identifications of the block are left.
    ids_left: u32,
}

impl Sequences {
    /// A view of `streams`.
    #[must_use]
    pub fn new(streams: Streams) -> Self {
        let count = streams.counters.len();
        Self {
            streams,
            wanted: vec![0; count].into(),
            next: vec![0; count].into(),
            touched: Vec::with_capacity(count),
            next_id: 0,
            ids_left: 0,
        }
    }

    /// Zeroed counters for `count` streams.
    #[must_use]
    pub fn streams(count: usize) -> Streams {
        let counters = std::iter::repeat_with(Shared::default).take(count).collect();
        Streams { counters, ..Streams::default() }
    }

    /// Takes one block per stream that the batch needs numbers of.
    #[inline]
    pub fn reserve(
        &mut self,
        runs: &[Run],
        classifier: &Classifier,
        outputs: &[Output],
        balance: Option<&Balance>,
    ) {
        for run in runs {
            for copy in classifier.action_set(run.verdict).copies {
                if outputs[copy.destination.index()].uses_sequence() {
                    self.want(copy.stream, run.packets());
                } else if let Some(balance) = balance {
                    // Each packet of a group's has its own member.
                    let members = run.places().filter_map(|place| balance.member(copy, place));
                    for member in members.filter(|m| outputs[m.destination.index()].uses_sequence()) {
                        self.want(member.stream, 1);
                    }
                }
            }
        }
        for stream in self.touched.drain(..) {
            let wanted = std::mem::take(&mut self.wanted[stream.index()]);
            self.next[stream.index()] = take(&self.streams.counters[stream.index()], wanted);
        }
    }

    #[inline]
    fn want(&mut self, stream: StreamId, numbers: u32) {
        let wanted = &mut self.wanted[stream.index()];
        if *wanted == 0 {
            self.touched.push(stream);
        }
        *wanted += numbers;
    }

    /// The next number of the block that [`Sequences::reserve`] took.
    #[inline]
    pub fn next(&mut self, stream: StreamId) -> u32 {
        let next = &mut self.next[stream.index()];
        let number = *next;
        *next = number.wrapping_add(1);
        number
    }

    /// A number outside the block, for the pieces of a copy beyond its first.
    #[inline]
    pub fn extra(&mut self, stream: StreamId) -> u32 {
        take(&self.streams.counters[stream.index()], 1)
    }

    /// The identification of an outer IP packet that may be fragmented: no other copy of any worker has it for a long
    /// time, whatever its destination (RFC 6864 section 4.2; IPv4 takes the low 16 bits).
    #[inline]
    pub fn datagram_id(&mut self) -> u32 {
        if self.ids_left == 0 {
            self.next_id = take(&self.streams.ids, ID_BLOCK);
            self.ids_left = ID_BLOCK;
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.ids_left -= 1;
        id
    }
}

/// The first of `count` numbers; the counter is wider than the field on the wire, which wraps.
fn take(counter: &AtomicU64, count: u32) -> u32 {
    let first = counter.fetch_add(u64::from(count), Ordering::Relaxed);
    let [.., a, b, c, d] = first.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_workers_give_the_same_identification() {
        let streams = Sequences::streams(3);
        let mut workers = [Sequences::new(streams.clone()), Sequences::new(streams)];
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1_000 {
            for worker in &mut workers {
                assert!(seen.insert(worker.datagram_id()));
            }
        }
        assert_eq!(workers[0].extra(StreamId(2)), 0, "the streams have counters of their own");
    }
}
