//! Each value once: how do numbers and texts get their places in the dictionary of a column?

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, Ipv6Addr};

use sluice_model::MacAddr;
use sluice_model::fields::FieldValue;

use super::packing::halves;

/// Slots of a small table; it doubles when it is half full.
const SLOTS: usize = 256;

/// A key, its place, and in which round it was put there.
#[derive(Clone, Copy, Debug, Default)]
struct Slot<K> {
    key: K,
    place: u32,
    round: u32,
}

/// What can be looked up.
pub(super) trait Key: Copy + Default + PartialEq {
    /// Its bits, spread over a number in a way that nobody outside can foresee: addresses are anybody's choice.
    fn hash(self, seed: u64) -> u64;
}

impl Key for u64 {
    fn hash(self, seed: u64) -> u64 {
        // The halves of a product, united: as in wyhash and its kin.
        let [low, high] = halves(u128::from(self ^ seed) * 0x9e37_79b9_7f4a_7c15);
        low ^ high
    }
}

impl Key for u128 {
    fn hash(self, seed: u64) -> u64 {
        let [low, high] = halves(self);
        if high == 0 { low.hash(seed) } else { (low ^ high.hash(seed.rotate_left(32))).hash(seed) }
    }
}

/// Places by key: a table with open addressing, whose content is forgotten in no time.
#[derive(Debug)]
pub(super) struct Places<K> {
    slots: Vec<Slot<K>>,
    round: u32,
    count: u32,
    seed: u64,
}

impl<K: Key> Default for Places<K> {
    fn default() -> Self {
        let seed = RandomState::new().hash_one(SLOTS);
        Self { slots: vec![Slot::default(); SLOTS], round: 1, count: 0, seed }
    }
}

impl<K: Key> Places<K> {
    /// Forgets all keys.
    pub(super) fn clear(&mut self) {
        self.count = 0;
        self.round = self.round.checked_add(1).unwrap_or_else(|| {
            self.slots.fill(Slot::default());
            1
        });
    }

    /// The place of `key`, and whether it is new: then it is how many there were before.
    pub(super) fn place(&mut self, key: K) -> (u32, bool) {
        let found = find(&mut self.slots, self.round, self.seed, key);
        if found.round == self.round {
            return (found.place, false);
        }
        let place = self.count;
        *found = Slot { key, place, round: self.round };
        self.count += 1;
        if self.count as usize * 2 > self.slots.len() {
            self.grow();
        }
        (place, true)
    }

    fn grow(&mut self) {
        let mut slots = vec![Slot::default(); self.slots.len() * 2];
        for slot in self.slots.iter().filter(|slot| slot.round == self.round) {
            *find(&mut slots, self.round, self.seed, slot.key) = *slot;
        }
        self.slots = slots;
    }
}

/// The slot of `key`, or a free one for it. There is always one: a table is at most half full.
#[expect(clippy::indexing_slicing, reason = "a place is below the length, a power of two, by the mask")]
fn find<K: Key>(slots: &mut [Slot<K>], round: u32, seed: u64, key: K) -> &mut Slot<K> {
    let mask = slots.len() - 1;
    let mut at = usize::try_from(key.hash(seed)).unwrap_or(0) & mask;
    while slots[at].round == round && slots[at].key != key {
        at = (at + 1) & mask;
    }
    &mut slots[at]
}

/// A column of texts: each text once, and for each value its place among them.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    pub(super) places: Vec<u32>,
    pub(super) list: TextList,
    short: Places<u64>,
    long: Places<u128>,
    names: HashMap<String, u32>,
}

/// Texts one after the other.
#[derive(Debug, Default)]
pub(super) struct TextList {
    bytes: String,
    ends: Vec<usize>,
}

impl TextList {
    fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, place: usize) -> &str {
        let begin = place.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(place).copied().unwrap_or(0);
        self.bytes.get(begin..end).unwrap_or_default()
    }
}

impl Texts {
    /// Forgets all texts.
    pub(crate) fn clear(&mut self) {
        self.places.clear();
        self.list.bytes.clear();
        self.list.ends.clear();
        self.short.clear();
        self.long.clear();
        self.names.clear();
    }

    /// Appends a value; `false` = it is none. A column has one kind of addresses only: their bits tell them apart.
    pub(crate) fn push(&mut self, value: FieldValue<'_>) -> bool {
        let (place, new) = match value {
            FieldValue::Null | FieldValue::Number(_) => return false,
            FieldValue::Mac(mac) => {
                let [a, b, c, d, e, f] = mac.0;
                self.short.place(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
            }
            FieldValue::Ipv4(address) => self.short.place(u32::from(address).into()),
            FieldValue::Ipv6(address) => self.long.place(address.into()),
            FieldValue::Name(text) | FieldValue::Text(text) => {
                self.push_text(text);
                return true;
            }
        };
        self.places.push(place);
        if new {
            let out = &mut self.list.bytes;
            match value {
                FieldValue::Mac(mac) => write_mac(mac, out),
                FieldValue::Ipv4(address) => write_ipv4(address, out),
                FieldValue::Ipv6(address) => write_ipv6(address, out),
                _ => {}
            }
            self.list.end();
        }
        true
    }

    fn push_text(&mut self, text: &str) {
        let latest = self.places.last().copied().filter(|place| self.list.get(*place as usize) == text);
        let place = if let Some(place) = latest.or_else(|| self.names.get(text).copied()) {
            place
        } else {
            let place = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
            self.names.insert(text.to_owned(), place);
            self.list.bytes.push_str(text);
            self.list.end();
            place
        };
        self.places.push(place);
    }
}

fn write_ipv4(address: Ipv4Addr, out: &mut String) {
    for (place, byte) in address.octets().into_iter().enumerate() {
        if place > 0 {
            out.push('.');
        }
        if byte >= 100 {
            out.push(char::from(b'0' + byte / 100));
        }
        if byte >= 10 {
            out.push(char::from(b'0' + byte / 10 % 10));
        }
        out.push(char::from(b'0' + byte % 10));
    }
}

fn write_mac(mac: MacAddr, out: &mut String) {
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble });
    for (place, byte) in mac.0.into_iter().enumerate() {
        if place > 0 {
            out.push(':');
        }
        out.extend([digit(byte >> 4), digit(byte & 15)]);
    }
}

fn write_ipv6(address: Ipv6Addr, out: &mut String) {
    // Writing to a string cannot fail.
    let _written = write!(out, "{address}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_are_those_of_a_map(rounds in prop::collection::vec(prop::collection::vec(0_u64..2000, 0..1500), 1..4)) {
            let mut places = Places::<u64>::default();
            for keys in rounds {
                let mut known = HashMap::new();
                for key in keys {
                    // Keys that differ in their upper bits only.
                    let key = key << 53 | key;
                    let next = known.len() as u32;
                    let (place, new) = places.place(key);
                    prop_assert_eq!(new, !known.contains_key(&key));
                    prop_assert_eq!(place, *known.entry(key).or_insert(next));
                }
                places.clear();
            }
        }

        #[test]
        fn addresses_are_written_as_the_library_does(ipv4: [u8; 4], mac: [u8; 6]) {
            let mut out = String::new();
            write_ipv4(ipv4.into(), &mut out);
            prop_assert_eq!(&out, &Ipv4Addr::from(ipv4).to_string());
            out.clear();
            write_mac(MacAddr(mac), &mut out);
            prop_assert_eq!(&out, &MacAddr(mac).to_string());
        }
    }

    #[test]
    fn texts_have_one_place_each() {
        let mut texts = Texts::default();
        for value in [FieldValue::Text("b"), FieldValue::Null, FieldValue::Text(""), FieldValue::Name("b")] {
            texts.push(value);
        }
        assert_eq!(texts.places, [0, 1, 0]);
        assert_eq!((texts.list.len(), texts.list.get(0), texts.list.get(1)), (2, "b", ""));
    }
}
