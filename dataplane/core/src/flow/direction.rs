//! Who is the client? Endpoints that often are the destination of first packets are servers.
//!
//! The rules are those of the reference system: a score from 0 to 255 for each (tap, address, port), kept for the
//! endpoints used last. 255 is certain: the endpoint sent a SYN-ACK.

use sluice_cpu::hash_u64x3;

/// Endpoints that are remembered: so many sets of so many.
const SETS: usize = 1024;
const WAYS: usize = 4;
/// Scores closer than this leave the decision to the ports.
const CLEAR: u8 = 8;
/// The score of an endpoint that sent SYN-ACK.
const CERTAIN: u8 = 255;
/// The most that first packets can make of a score.
const LIKELY: u8 = 254;
const SEED: u64 = 0x27d4_eb2f_1656_67c5;

/// One end of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The address in wire order, IPv4 in the first four bytes.
    pub(super) address: [u8; 16],
    /// The L4 port.
    pub(super) port: u16,
    /// The tap: networks of different taps may use the same addresses.
    pub(super) tap: u16,
}

impl Endpoint {
    /// The key of the endpoint in the table: a hash that stands for it. Never 0.
    fn key(&self) -> u64 {
        let word = |half: &[u8]| half.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        let (upper, lower) = self.address.split_at(8);
        let rest = u64::from(self.port) << 16 | u64::from(self.tap);
        hash_u64x3(&[word(upper), word(lower), rest], SEED) | 1
    }
}

/// What a packet says about the direction of its flow. The ends are the packet's source and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// The first packet of the flow, without SYN.
    First,
    /// A SYN; `first`: the first packet of the flow.
    Syn {
        /// Whether it is the first packet of the flow.
        first: bool,
    },
    /// A SYN-ACK.
    SynAck,
    /// Nothing new.
    None,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    key: u64,
    used: u32,
    score: u8,
}

/// The scores of endpoints; of each set the one that was not used for the longest time gives way.
#[derive(Debug)]
pub(super) struct ServiceScores {
    sets: Box<[[Known; WAYS]]>,
    clock: u32,
}

impl Default for ServiceScores {
    fn default() -> Self {
        Self { sets: vec![[Known::default(); WAYS]; SETS].into(), clock: 0 }
    }
}

/// The outcome of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// Whether the packet's source is the server.
    pub(super) source_is_server: bool,
    /// The score of the server.
    pub(super) score: u8,
}

impl ServiceScores {
    /// Takes in what a packet from `src` to `dst` says, and decides who is the server. `source_is_server`: what was
    /// assumed until now; it stays when nothing speaks against it.
    pub(super) fn decide(
        &mut self,
        src: &Endpoint,
        dst: &Endpoint,
        evidence: Evidence,
        source_is_server: bool,
    ) -> Decision {
        let (src_key, dst_key) = (src.key(), dst.key());
        match evidence {
            Evidence::SynAck => {
                self.set(src_key, CERTAIN);
                self.set(dst_key, 0);
            }
            Evidence::Syn { first } => {
                self.set(src_key, 0);
                if first {
                    self.raise(dst_key);
                }
            }
            Evidence::First => {
                let (from, to) = (self.get(src_key), self.get(dst_key));
                if from != CERTAIN && to != CERTAIN {
                    if from > 0 {
                        self.set(src_key, from - 1);
                    }
                    self.raise(dst_key);
                }
            }
            Evidence::None => {}
        }
        let (from, to) = (self.get(src_key), self.get(dst_key));
        let low = |port: u16| port < 0x8000;
        let source_is_server = if from.abs_diff(to) < CLEAR && low(src.port) != low(dst.port) {
            low(src.port)
        } else if from == to {
            source_is_server
        } else {
            from > to
        };
        Decision { source_is_server, score: if source_is_server { from } else { to } }
    }

    fn raise(&mut self, key: u64) {
        let score = self.get(key);
        if score < LIKELY {
            self.set(key, score + 1);
        }
    }

    fn set_of(&mut self, key: u64) -> &mut [Known; WAYS] {
        let sets = self.sets.len();
        &mut self.sets[usize::try_from(key >> 32).unwrap_or(0) % sets]
    }

    /// The score of an endpoint; 0 if it is not known.
    fn get(&mut self, key: u64) -> u8 {
        self.clock = self.clock.wrapping_add(1);
        let clock = self.clock;
        let found = self.set_of(key).iter_mut().find(|score| score.key == key);
        found.map_or(0, |score| {
            score.used = clock;
            score.score
        })
    }

    /// Sets the score of an endpoint; 0 forgets it.
    fn set(&mut self, key: u64, score: u8) {
        self.clock = self.clock.wrapping_add(1);
        let clock = self.clock;
        let set = self.set_of(key);
        if score == 0 {
            if let Some(known) = set.iter_mut().find(|known| known.key == key) {
                *known = Known::default();
            }
            return;
        }
        let place = set.iter().position(|known| known.key == key).or_else(|| {
            // Empty places count as never used.
            let age = |known: &Known| if known.key == 0 { u32::MAX } else { clock.wrapping_sub(known.used) };
            set.iter().enumerate().max_by_key(|(_, known)| age(known)).map(|(place, _)| place)
        });
        if let Some(place) = place {
            set[place] = Known { key, used: clock, score };
        }
    }
}
