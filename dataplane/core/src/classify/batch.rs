//! What does the classifier read of each packet of a batch?

use sluice_model::PortId;

use crate::wire::Parsed;

/// The most packets that one call classifies.
pub(super) const BATCH: usize = 64;

/// One view of the packets of a batch; the slices are equally long, at most [`BATCH`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    frames: &'a [&'a [u8]],
    parsed: &'a [Parsed],
    wire_len: &'a [u32],
    ingress: &'a [PortId],
    taps: &'a [u16],
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) frame: &'a [u8],
    pub(super) parsed: &'a Parsed,
    pub(super) wire_len: u32,
    pub(super) ingress: PortId,
    /// The number of the tap.
    pub(super) tap: u16,
}

impl<'a> Batch<'a> {
    /// As many packets as the shortest slice holds, and no more than [`BATCH`].
    #[inline]
    pub(super) fn new(
        frames: &'a [&'a [u8]],
        parsed: &'a [Parsed],
        wire_len: &'a [u32],
        ingress: &'a [PortId],
        taps: &'a [u16],
    ) -> Self {
        let len = frames.len().min(parsed.len()).min(wire_len.len()).min(ingress.len()).min(taps.len());
        let len = len.min(BATCH);
        Self {
            frames: cut(frames, len),
            parsed: cut(parsed, len),
            wire_len: cut(wire_len, len),
            ingress: cut(ingress, len),
            taps: cut(taps, len),
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.parsed.len()
    }

    pub(super) fn packet(&self, index: usize) -> Option<Packet<'a>> {
        Some(Packet {
            frame: self.frames.get(index)?,
            parsed: self.parsed.get(index)?,
            wire_len: *self.wire_len.get(index)?,
            ingress: *self.ingress.get(index)?,
            tap: *self.taps.get(index)?,
        })
    }

    /// Puts the class of each packet into its word of a key, `shift` bits up.
    #[inline(always)]
    pub(super) fn add(&self, keys: &mut [u64; BATCH], shift: u32, class: impl Fn(&Packet<'_>) -> u32) {
        let places = self.ingress.iter().zip(self.taps);
        let fields = self.parsed.iter().zip(self.frames).zip(self.wire_len).zip(places);
        for (key, (((parsed, frame), &wire_len), (&ingress, &tap))) in keys.iter_mut().zip(fields) {
            *key |= u64::from(class(&Packet { frame, parsed, wire_len, ingress, tap })) << shift;
        }
    }
}

fn cut<T>(all: &[T], len: usize) -> &[T] {
    all.get(..len).unwrap_or(all)
}
