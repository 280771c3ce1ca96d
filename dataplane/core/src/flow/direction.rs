//! Who is the client? Endpoints that often are the destination of first packets are servers.
//!
//! The rules are those of the reference system: a score from 0 to 255 for each (tap, address, port), kept for the
//! endpoints used last. 255 is certain: the endpoint sent a SYN-ACK.

use sluice_cpu::hash_u64x3;

/// Endpoints that are remembered, IPv4 and IPv6.
const IPV4_ENDPOINTS: u16 = 2048;
const IPV6_ENDPOINTS: u16 = 256;
/// Scores closer than this leave the decision to the ports.
const CLEAR: u8 = 8;
/// The score of an endpoint that sent SYN-ACK.
const CERTAIN: u8 = 255;
/// The most that first packets can make of a score.
const LIKELY: u8 = 254;
const SEED: u64 = 0x27d4_eb2f_1656_67c5;
/// No place.
const NONE: u16 = u16::MAX;
/// The most endpoints with the same part of the hash: looking one up costs no more, whatever was sent.
const CHAIN: usize = 8;

/// One end of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The address in wire order, IPv4 in the first four bytes.
    pub(super) address: [u8; 16],
    /// The L4 port.
    pub(super) port: u16,
    /// The tap: networks of different taps may use the same addresses.
    pub(super) tap: u16,
    /// Whether the address is one of IPv6.
    pub(super) is_ipv6: bool,
}

impl Endpoint {
    /// The key of the endpoint in the table: a hash that stands for it.
    fn key(&self) -> u64 {
        let word = |half: &[u8]| half.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        let (upper, lower) = self.address.split_at(8);
        let rest = u64::from(self.port) << 16 | u64::from(self.tap);
        hash_u64x3(&[word(upper), word(lower), rest], SEED)
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

/// The outcome of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// Whether the packet's source is the server.
    pub(super) source_is_server: bool,
    /// The score of the server.
    pub(super) score: u8,
}

/// The scores of the endpoints that were used last. All memory is taken at start.
#[derive(Debug)]
pub(super) struct ServiceScores {
    ipv4: Lru,
    ipv6: Lru,
}

impl Default for ServiceScores {
    fn default() -> Self {
        Self { ipv4: Lru::new(IPV4_ENDPOINTS), ipv6: Lru::new(IPV6_ENDPOINTS) }
    }
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
        let scores = if src.is_ipv6 { &mut self.ipv6 } else { &mut self.ipv4 };
        let keys = [src.key(), dst.key()];
        let before = keys.map(|key| scores.get(key));
        let [from, to] = before.map(|score| score.unwrap_or(0));
        let after = match evidence {
            Evidence::SynAck => [Some(CERTAIN), None],
            Evidence::Syn { first: true } => [None, Some(raised(to))],
            Evidence::Syn { first: false } => [None, before[1]],
            Evidence::First if from != CERTAIN && to != CERTAIN => {
                [before[0].map(|score| score.saturating_sub(1)), Some(raised(to))]
            }
            Evidence::First | Evidence::None => before,
        };
        for ((key, before), after) in keys.into_iter().zip(before).zip(after) {
            match after {
                Some(score) if before != after => scores.set(key, score),
                None if before.is_some() => scores.remove(key),
                _ => {}
            }
        }
        let [from, to] = after.map(|score| score.unwrap_or(0));
        let is_low = |port: u16| port < 0x8000;
        let source_is_server = if from.abs_diff(to) < CLEAR && is_low(src.port) != is_low(dst.port) {
            is_low(src.port)
        } else if from == to {
            source_is_server
        } else {
            from > to
        };
        Decision { source_is_server, score: if source_is_server { from } else { to } }
    }
}

/// The score of the destination of one more first packet.
fn raised(score: u8) -> u8 {
    if score < LIKELY { score + 1 } else { score }
}

/// A score and its neighbours, by place: in the order of use, and in the list of its part of the hash.
#[derive(Clone, Copy, Debug)]
struct Known {
    key: u64,
    newer: u16,
    older: u16,
    chain: u16,
    score: u8,
}

/// Scores by key; the one that was not used for the longest time gives way. Every operation takes a bounded number of
/// steps.
#[derive(Debug)]
struct Lru {
    known: Vec<Known>,
    capacity: usize,
    /// The first place of each list.
    heads: Box<[u16]>,
    newest: u16,
    oldest: u16,
    /// Places that were given up, linked by `chain`.
    free: u16,
}

impl Lru {
    fn new(capacity: u16) -> Self {
        let heads = usize::from(capacity).next_power_of_two() * 2;
        Self {
            known: Vec::with_capacity(usize::from(capacity)),
            capacity: capacity.into(),
            heads: vec![NONE; heads].into(),
            newest: NONE,
            oldest: NONE,
            free: NONE,
        }
    }

    /// The score of a key; it is the newest then.
    fn get(&mut self, key: u64) -> Option<u8> {
        let place = self.find(key)?;
        self.touch(place);
        Some(self.at(place).score)
    }

    /// Sets the score of a key; it is the newest then.
    fn set(&mut self, key: u64, score: u8) {
        let place = match self.find(key) {
            Some(place) => {
                self.touch(place);
                place
            }
            None => self.add(key),
        };
        self.at(place).score = score;
    }

    /// Forgets a key.
    fn remove(&mut self, key: u64) {
        let Some(place) = self.find(key) else { return };
        self.unlink(place);
        let head = self.head(key);
        let next = self.at(place).chain;
        if self.heads[head] == place {
            self.heads[head] = next;
        } else {
            let mut before = self.heads[head];
            for _ in 0..CHAIN {
                if self.at(before).chain == place {
                    self.at(before).chain = next;
                    break;
                }
                before = self.at(before).chain;
            }
        }
        self.at(place).chain = self.free;
        self.free = place;
    }

    /// Makes room for a key that is not there.
    fn add(&mut self, key: u64) -> u16 {
        let head = self.head(key);
        // A list that is too long gives up its first comer.
        let (mut len, mut last) = (0, self.heads[head]);
        while last != NONE && self.at(last).chain != NONE {
            (len, last) = (len + 1, self.at(last).chain);
        }
        if len + 1 >= CHAIN {
            let crowded = self.at(last).key;
            self.remove(crowded);
        } else if self.free == NONE && self.known.len() >= self.capacity {
            let oldest = self.oldest;
            let stale = self.at(oldest).key;
            self.remove(stale);
        }
        let chain = self.heads[head];
        let entry = Known { key, newer: NONE, older: NONE, chain, score: 0 };
        let place = if self.free == NONE {
            self.known.push(entry);
            u16::try_from(self.known.len() - 1).unwrap_or(0)
        } else {
            let place = self.free;
            self.free = self.at(place).chain;
            *self.at(place) = entry;
            place
        };
        self.heads[head] = place;
        self.link(place);
        place
    }

    fn find(&self, key: u64) -> Option<u16> {
        let mut place = self.heads[self.head(key)];
        while place != NONE {
            let known = &self.known[usize::from(place)];
            if known.key == key {
                return Some(place);
            }
            place = known.chain;
        }
        None
    }

    fn touch(&mut self, place: u16) {
        if self.newest != place {
            self.unlink(place);
            self.link(place);
        }
    }

    /// Takes a place out of the order of use.
    fn unlink(&mut self, place: u16) {
        let Known { newer, older, .. } = *self.at(place);
        *(if newer == NONE { &mut self.newest } else { &mut self.at(newer).older }) = older;
        *(if older == NONE { &mut self.oldest } else { &mut self.at(older).newer }) = newer;
    }

    /// Makes a place the newest.
    fn link(&mut self, place: u16) {
        let older = std::mem::replace(&mut self.newest, place);
        (self.at(place).newer, self.at(place).older) = (NONE, older);
        *(if older == NONE { &mut self.oldest } else { &mut self.at(older).newer }) = place;
    }

    fn head(&self, key: u64) -> usize {
        usize::try_from(key >> 32).unwrap_or(0) & (self.heads.len() - 1)
    }

    fn at(&mut self, place: u16) -> &mut Known {
        &mut self.known[usize::from(place)]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn end(host: u8, port: u16) -> Endpoint {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 0, 0, host]);
        Endpoint { address, port, tap: 1, is_ipv6: false }
    }

    const NEW: Evidence = Evidence::First;
    const SYN: Evidence = Evidence::Syn { first: true };
    const SYN_AGAIN: Evidence = Evidence::Syn { first: false };

    /// Scores of an endpoint, 0 where nothing is known.
    fn score(scores: &mut ServiceScores, end: &Endpoint) -> u8 {
        scores.ipv4.get(end.key()).unwrap_or(0)
    }

    #[test]
    fn syn_ack_is_certain_and_forgets_the_peer() {
        let mut scores = ServiceScores::default();
        let (a, b) = (end(1, 1000), end(2, 2000));
        scores.decide(&b, &a, NEW, false);
        assert_eq!(score(&mut scores, &a), 1);
        let decision = scores.decide(&b, &a, Evidence::SynAck, false);
        assert_eq!(decision, Decision { source_is_server: true, score: 255 });
        assert_eq!((score(&mut scores, &a), score(&mut scores, &b)), (0, 255));
        // First packets change nothing any more, whichever way they go.
        scores.decide(&b, &a, NEW, false);
        scores.decide(&a, &b, NEW, false);
        assert_eq!((score(&mut scores, &a), score(&mut scores, &b)), (0, 255));
        // Nor does another SYN to it; its own SYN does.
        scores.decide(&a, &b, SYN, false);
        assert_eq!(score(&mut scores, &b), 255);
        scores.decide(&b, &a, SYN_AGAIN, false);
        assert_eq!((score(&mut scores, &a), score(&mut scores, &b)), (0, 0));
    }

    #[test]
    fn only_the_first_syn_of_a_flow_raises_the_peer() {
        let mut scores = ServiceScores::default();
        let (a, b) = (end(1, 1000), end(2, 2000));
        scores.decide(&a, &b, SYN, false);
        scores.decide(&a, &b, SYN_AGAIN, false);
        assert_eq!((score(&mut scores, &a), score(&mut scores, &b)), (0, 1));
        for _ in 0..300 {
            scores.decide(&a, &b, SYN, false);
        }
        assert_eq!(score(&mut scores, &b), 254, "never certain");
    }

    #[test]
    fn first_packets_lower_the_source_and_raise_the_destination() {
        let mut scores = ServiceScores::default();
        let (a, b) = (end(1, 1000), end(2, 2000));
        for _ in 0..3 {
            scores.decide(&a, &b, NEW, false);
        }
        assert_eq!((score(&mut scores, &a), score(&mut scores, &b)), (0, 3));
        scores.decide(&b, &a, NEW, false);
        assert_eq!((score(&mut scores, &a), score(&mut scores, &b)), (1, 2));
        for _ in 0..300 {
            scores.decide(&end(3, 9), &b, NEW, false);
        }
        assert_eq!(score(&mut scores, &b), 254);
    }

    #[test]
    fn ports_decide_when_scores_are_close() {
        let mut scores = ServiceScores::default();
        let (low, high) = (end(1, 0x7fff), end(2, 0x8000));
        assert!(scores.decide(&low, &high, Evidence::None, false).source_is_server);
        assert!(!scores.decide(&high, &low, Evidence::None, true).source_is_server);
        // 7 is close, 8 is not.
        for _ in 0..7 {
            scores.decide(&low, &high, NEW, false);
        }
        assert!(scores.decide(&low, &high, Evidence::None, false).source_is_server);
        assert!(!scores.decide(&low, &high, NEW, false).source_is_server);
    }

    #[test]
    fn equal_scores_change_nothing() {
        let mut scores = ServiceScores::default();
        let (a, b) = (end(1, 1000), end(2, 2000));
        assert!(!scores.decide(&a, &b, Evidence::None, false).source_is_server);
        assert!(scores.decide(&a, &b, Evidence::None, true).source_is_server);
        // Two low ports: the higher score, however close.
        assert!(!scores.decide(&a, &b, NEW, true).source_is_server);
        assert!(scores.decide(&b, &a, Evidence::None, false).source_is_server);
    }

    #[test]
    fn endpoints_of_other_taps_and_families_are_others() {
        let mut scores = ServiceScores::default();
        let (a, b) = (end(1, 1000), end(2, 2000));
        scores.decide(&b, &a, Evidence::SynAck, false);
        let other = Endpoint { tap: 2, ..b };
        assert_eq!(score(&mut scores, &other), 0);
        let ipv6 = [a, b].map(|end| Endpoint { is_ipv6: true, ..end });
        assert_eq!(scores.decide(&ipv6[1], &ipv6[0], Evidence::None, false).score, 0);
    }

    proptest! {
        /// The same as a list in the order of use, of which the last gives way.
        #[test]
        fn keeps_what_was_used_last(operations in prop::collection::vec((0..3_u8, 0..40_u64), 1..400)) {
            let mut lru = Lru::new(16);
            let mut model: VecDeque<(u64, u8)> = VecDeque::new();
            for (at, (operation, number)) in operations.into_iter().enumerate() {
                let key = sluice_cpu::hash_u64(number, 3);
                let known = model.iter().position(|(other, _)| *other == key);
                let taken = known.and_then(|place| model.remove(place));
                let score = at as u8;
                match operation {
                    0 => {
                        prop_assert_eq!(lru.get(key), taken.map(|(_, score)| score));
                        model.extend(taken);
                    }
                    1 => {
                        lru.set(key, score);
                        if model.len() == 16 {
                            model.pop_front();
                        }
                        model.push_back((key, score));
                    }
                    _ => lru.remove(key),
                }
                prop_assert!(lru.known.len() <= 16);
                let mut places = Vec::new();
                let mut place = lru.oldest;
                while place != NONE {
                    let known = *lru.at(place);
                    places.push((known.key, known.score));
                    place = known.newer;
                }
                prop_assert_eq!(&places, &Vec::from(model.clone()));
            }
        }

        /// Keys that share their part of the hash take no more steps than others, and lead nowhere.
        #[test]
        fn crowded_lists_stay_short(operations in prop::collection::vec((any::<bool>(), 0..64_u64), 1..300)) {
            let mut lru = Lru::new(32);
            for (set, key) in operations {
                if set {
                    lru.set(key, 1);
                    prop_assert_eq!(lru.get(key), Some(1));
                } else {
                    lru.remove(key);
                    prop_assert_eq!(lru.get(key), None);
                }
                let (mut len, mut place) = (0, lru.heads[0]);
                while place != NONE {
                    (len, place) = (len + 1, lru.at(place).chain);
                }
                prop_assert!(len <= CHAIN);
            }
        }
    }

    #[test]
    fn holds_as_many_endpoints_as_it_says() {
        let mut scores = ServiceScores::default();
        let ends: Vec<_> = (0..3000_u16).map(|port| end(9, port)).collect();
        for end in &ends {
            scores.ipv4.set(end.key(), 5);
        }
        let known = ends.iter().filter(|end| scores.ipv4.find(end.key()).is_some()).count();
        assert_eq!(known, usize::from(IPV4_ENDPOINTS));
        assert!(ends[3000 - 2048..].iter().all(|end| scores.ipv4.find(end.key()).is_some()), "the last ones");
    }
}
