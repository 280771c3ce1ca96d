//! Which verdict has each packet that its flow does not decide?

use dpdk::Mbuf;
use sluice_core::classify::{Classifier, Input, Program, VerdictId};
use sluice_core::wire::Parsed;
use sluice_model::PortId;

use crate::batch::{BATCH, Batch};

/// Room for the packets that are looked up where these are not a whole batch as it is.
#[derive(Debug)]
pub struct Classify {
    outer: [Parsed; BATCH],
    inner: [Parsed; BATCH],
    wire_len: [u32; BATCH],
    ingress: [PortId; BATCH],
    taps: [u16; BATCH],
    verdicts: [VerdictId; BATCH],
    /// Whether the id of a tunnel that was taken off can still be asked for.
    with_tunnels: bool,
    with_inner: bool,
}

impl Classify {
    /// The stage for policies like `program`. `decapsulates`: tunnels are taken off.
    #[must_use]
    pub fn new(program: &Program, decapsulates: bool) -> Box<Self> {
        Box::new(Self {
            outer: [Parsed::EMPTY; BATCH],
            inner: [Parsed::EMPTY; BATCH],
            wire_len: [0; BATCH],
            ingress: [PortId(0); BATCH],
            taps: [0; BATCH],
            verdicts: [VerdictId::default(); BATCH],
            with_tunnels: decapsulates && program.reads_tunnel_id(),
            with_inner: program.needs_inner(),
        })
    }

    /// Sets the verdicts of the packets at `places` (bit i: place i), which are live.
    #[inline]
    pub fn run(&mut self, places: u64, batch: &mut Batch, program: &Program, classifier: &mut Classifier) {
        if places == batch.live && batch.looked_through == 0 && !self.with_tunnels {
            self.all(batch, program, classifier);
        } else {
            self.some(places, batch, program, classifier);
        }
    }

    /// The verdicts of a batch whose headers are read where they are.
    #[inline]
    fn all(&mut self, batch: &mut Batch, program: &Program, classifier: &mut Classifier) {
        let len = batch.len;
        let mut frames: [&[u8]; BATCH] = [&[]; BATCH];
        for (frame, mbuf) in frames.iter_mut().zip(&batch.mbufs[..len]) {
            *frame = mbuf.as_ref().map_or(&[], Mbuf::data);
        }
        for (length, info) in self.wire_len.iter_mut().zip(&batch.info[..len]) {
            *length = info.wire_len;
        }
        let input = Input {
            frames: &frames[..len],
            outer: &batch.outer[..len],
            inner: if self.with_inner { &batch.inner[..len] } else { &[] },
            wire_len: &self.wire_len[..len],
            ingress: &batch.ingress[..len],
            taps: &batch.tap[..len],
        };
        classifier.classify(program, &input, &mut batch.verdicts[..len]);
    }

    /// The verdicts of some packets, whose headers are brought together.
    #[inline(never)]
    fn some(&mut self, places: u64, batch: &mut Batch, program: &Program, classifier: &mut Classifier) {
        let mut frames: [&[u8]; BATCH] = [&[]; BATCH];
        let mut len = 0;
        for place in batch.live_places_of(places) {
            frames[len] = batch.mbufs[place].as_ref().map_or(&[], Mbuf::data);
            self.outer[len] = *batch.view(place);
            if self.with_inner {
                self.inner[len] = batch.inner[place];
            }
            let tunnel = &batch.tunnel[place];
            if self.with_tunnels {
                tunnel.show_in(&mut self.outer[len]);
                tunnel.show_in(&mut self.inner[len]);
            }
            self.wire_len[len] = batch.info[place].wire_len;
            self.ingress[len] = batch.ingress[place];
            self.taps[len] = batch.tap[place];
            len += 1;
        }
        let input = Input {
            frames: &frames[..len],
            outer: &self.outer[..len],
            inner: if self.with_inner { &self.inner[..len] } else { &[] },
            wire_len: &self.wire_len[..len],
            ingress: &self.ingress[..len],
            taps: &self.taps[..len],
        };
        classifier.classify(program, &input, &mut self.verdicts[..len]);
        for (place, verdict) in batch.live_places_of(places).zip(self.verdicts) {
            batch.verdicts[place] = verdict;
        }
    }
}
