//! How much did all flows between a client and a server's port do, in each second and each minute?
//!
//! All memory is taken at start. What comes in is added to rows of seconds; a second is over when later ones have been
//! seen for the configured delay, its rows are then handed out and added to their keys' minutes. What finds no place
//! goes to one row of the rest, so that sums over all rows are exact. [`MetricsTable::flush`] does a bounded amount of
//! work, and goes on there the next time.

use sluice_cpu::{hash_u64, hash_u64x4, large_table};
use sluice_model::{
    CloseType, MetricsCounters, MetricsKey, MetricsRecord, Network, Period, TcpPerf, Throughput,
};

use super::tcp::Delays;

/// Seconds that are open or being handed out at the same time.
const SECONDS: usize = 8;
/// The longest delay: some seconds are being handed out meanwhile.
const MAX_DELAY_S: u32 = 4;
const MINUTE: u32 = 60;
/// Minutes without any packet that are told of: no flow is silent for longer.
const MAX_SILENT_S: u32 = 86_400;
/// Keys of one chain that are looked at: more only come together when someone makes them.
const MAX_CHAIN: usize = 32;
const NONE: u32 = u32::MAX;
const SEED: u64 = 0x51b7_3a0c_98d1_f2e5;
const TCP: u8 = 6;
/// The key of the rest.
const OTHER: u32 = 0;

/// How large the table is, and how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Keys at the same time: those of a minute, and those with open flows.
    pub keys: u32,
    /// Rows of seconds at the same time.
    pub rows: u32,
    /// Seconds that data may be late, 4 at most.
    pub delay_s: u32,
}

impl Default for MetricsConfig {
    /// 54 MB.
    fn default() -> Self {
        Self { keys: 65_536, rows: 65_536, delay_s: 2 }
    }
}

impl MetricsConfig {
    /// Bytes that the table takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let key = size_of::<KeyEntry>() + 2 * size_of::<u32>();
        u64::from(self.keys) * key as u64 + u64::from(self.rows) * size_of::<Row>() as u64
    }
}

/// What is added at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsDelta {
    /// What the client sent, and the server.
    pub sides: [Throughput; 2],
    /// Delays of requests.
    pub delays: Delays,
    /// What else was measured.
    pub perf: Option<TcpPerf>,
    /// Whether a flow began.
    pub new_flow: bool,
    /// Why a flow ended, if one did.
    pub closed: Option<CloseType>,
}

/// What did not go as it should, and how much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsCounts {
    /// Keys in the table.
    pub keys: u64,
    /// Rows handed out.
    pub rows: u64,
    /// Times that something went to the row of the rest for lack of room.
    pub overflows: u64,
    /// Times that something came too late for its second: it counts in the earliest that was still open.
    pub late: u64,
}

/// Where a key was found: a hint, which is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPlace(u32);

impl Default for KeyPlace {
    /// Nowhere yet.
    fn default() -> Self {
        Self(NONE)
    }
}

/// A key, and its minute.
#[derive(Clone, Debug)]
#[repr(C)]
struct KeyEntry {
    key: MetricsKey,
    hash: u64,
    /// The next one of the chain, or of the free ones.
    next: u32,
    is_used: bool,
    has_minute: bool,
    /// Flows that are open; below 0 when flows of the rest ended here.
    living: i64,
    /// Flows that were open at any time in the minute.
    minute_load: u32,
    rows: [u32; SECONDS],
    minute: MetricsCounters,
}

/// What a key did in a second.
#[derive(Clone, Debug)]
#[repr(C)]
struct Row {
    owner: u32,
    /// The next one of the second, or of the free ones.
    next: u32,
    counters: MetricsCounters,
}

/// A second that is open, or being handed out.
#[derive(Clone, Copy, Debug)]
struct Second {
    is_open: bool,
    begin_s: u32,
    first_row: u32,
    other_used: bool,
}

/// What is being handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// The rows of a second.
    Second {
        slot: usize,
    },
    /// All keys with rows in the first second of the minute (`slot`), or with open flows.
    First {
        slot: Option<usize>,
        next_key: u32,
    },
    /// The keys of the minute.
    Minute {
        next_key: u32,
    },
}

/// Sets each element to what `of` makes of its number.
fn numbered<T>(mut table: Box<[T]>, of: impl Fn(u32) -> T) -> Box<[T]> {
    for (element, number) in table.iter_mut().zip(0..) {
        *element = of(number);
    }
    table
}

/// The metrics of one worker.
#[derive(Debug)]
pub struct MetricsTable {
    chains: Box<[u32]>,
    keys: Box<[KeyEntry]>,
    /// The rows of the rest first, by second.
    rows: Box<[Row]>,
    free_key: u32,
    free_row: u32,
    seconds: [Second; SECONDS],
    delay_s: u32,
    /// The latest second seen.
    newest: u32,
    /// Seconds up to this one are over.
    sealed: u32,
    /// The minute that seconds are added to.
    minute: Option<u32>,
    first_done: bool,
    phase: Phase,
    /// Flows that are open, of all keys.
    living: i64,
    counts: MetricsCounts,
}

impl MetricsTable {
    /// An empty table. All memory is taken here.
    #[must_use]
    pub fn new(config: MetricsConfig) -> Self {
        let keys = config.keys.clamp(1, NONE / 4) + 1;
        let reserved = u32::try_from(SECONDS).unwrap_or(0);
        let rows = config.rows.clamp(1, NONE / 4) + reserved;
        let key = |number: u32| KeyEntry {
            key: MetricsKey::default(),
            hash: 0,
            next: if number + 1 < keys { number + 1 } else { NONE },
            is_used: number == OTHER,
            has_minute: false,
            living: 0,
            minute_load: 0,
            rows: [NONE; SECONDS],
            minute: MetricsCounters::default(),
        };
        let row = |number: u32| Row {
            owner: OTHER,
            next: if number + 1 < rows { number + 1 } else { NONE },
            counters: MetricsCounters::default(),
        };
        let closed = Second { is_open: false, begin_s: 0, first_row: NONE, other_used: false };
        Self {
            chains: large_table(NONE, (keys as usize).next_power_of_two()),
            keys: numbered(large_table(key(0), keys as usize), key),
            rows: numbered(large_table(row(0), rows as usize), row),
            free_key: OTHER + 1,
            free_row: reserved,
            seconds: [closed; SECONDS],
            delay_s: config.delay_s.min(MAX_DELAY_S),
            newest: 0,
            sealed: 0,
            minute: None,
            first_done: false,
            phase: Phase::Idle,
            living: 0,
            counts: MetricsCounts::default(),
        }
    }

    /// What did not go as it should, and how much there is.
    #[must_use]
    pub fn counts(&self) -> MetricsCounts {
        self.counts
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.chains) + size_of_val(&*self.keys) + size_of_val(&*self.rows)
    }

    /// Adds `delta` to the row of `key` for `second` (since the epoch).
    pub fn add(&mut self, key: &MetricsKey, second: u32, delta: &MetricsDelta) {
        self.add_at(&mut KeyPlace::default(), key, second, delta);
    }

    /// The same for who comes with the same key again, and remembers where it was.
    #[inline]
    pub fn add_at(&mut self, place: &mut KeyPlace, key: &MetricsKey, second: u32, delta: &MetricsDelta) {
        self.newest = self.newest.max(second);
        let slot = self.slot_of(second);
        let row = self.row_of(place, key, slot);
        let Some(row) = self.rows.get_mut(row as usize) else { return };
        let counters = &mut row.counters;
        for (own, sent) in counters.sides.iter_mut().zip(&delta.sides) {
            own.packets += sent.packets;
            own.bytes += sent.bytes;
            own.l3_bytes += sent.l3_bytes;
            own.l4_bytes += sent.l4_bytes;
        }
        // Most flows have nothing but packets to tell: the lines of the rest are left alone.
        if delta.delays != Delays::default() {
            counters.perf.srt.merge(&delta.delays.srt.into());
            counters.perf.art.merge(&delta.delays.art.into());
        }
        if let Some(perf) = &delta.perf {
            counters.perf.merge(perf);
            counters.rtt.add(perf.rtt_ns, u64::MAX);
        }
        if delta.new_flow {
            counters.new_flows += 1;
        }
        if let Some(close_type) = delta.closed {
            counters.closed_flows += 1;
            if key.protocol == TCP
                && let Some(closes) = counters.closes.get_mut(usize::from(close_type.code()))
            {
                *closes += 1;
            }
        }
    }

    /// Says that it is `second` now, for when nothing is added any more.
    #[inline]
    pub fn advance(&mut self, second: u32) {
        self.newest = self.newest.max(second);
    }

    /// Hands finished rows to `take`, in `steps` steps at most (a row or a look at a key each); whether there is more.
    #[inline]
    pub fn flush(&mut self, steps: usize, mut take: impl FnMut(&MetricsRecord)) -> bool {
        let limit = self.newest.saturating_sub(self.delay_s);
        for _ in 0..steps {
            if self.phase == Phase::Idle && !self.choose(limit) {
                return false;
            }
            self.step(&mut take);
        }
        true
    }

    /// Hands everything to `take` and forgets all; time may start anywhere afterwards.
    pub fn finish(&mut self, mut take: impl FnMut(&MetricsRecord)) {
        let end = self.newest.saturating_add(1).div_ceil(MINUTE).saturating_mul(MINUTE);
        loop {
            if self.phase == Phase::Idle && !self.choose(end) {
                break;
            }
            self.step(&mut take);
        }
        // Every key that is left has open flows and nothing else.
        for number in 1..self.keys.len() {
            let number = u32::try_from(number).unwrap_or(OTHER);
            if self.keys[number as usize].is_used {
                self.remove(number);
            }
        }
        self.keys[OTHER as usize].living = 0;
        self.keys[OTHER as usize].minute_load = 0;
        (self.newest, self.sealed, self.minute, self.living) = (0, 0, None, 0);
    }

    /// The place of the second, or of the earliest that is still open.
    #[inline]
    fn slot_of(&mut self, second: u32) -> usize {
        let is = |at: &Second| at.is_open && at.begin_s == second;
        match self.seconds.iter().position(is) {
            Some(slot) if second > self.sealed => slot,
            _ => self.open_second(second),
        }
    }

    #[cold]
    fn open_second(&mut self, second: u32) -> usize {
        let wanted = second.max(self.sealed.saturating_add(1));
        self.newest = self.newest.max(wanted);
        if wanted > second {
            self.counts.late += 1;
            if let Some(slot) = self.seconds.iter().position(|at| at.is_open && at.begin_s == wanted) {
                return slot;
            }
        }
        if let Some(slot) = self.seconds.iter().position(|at| !at.is_open) {
            self.seconds[slot] =
                Second { is_open: true, begin_s: wanted, first_row: NONE, other_used: false };
            return slot;
        }
        // Nobody flushes: the latest second takes it.
        self.counts.late += 1;
        let latest = self.seconds.iter().enumerate().max_by_key(|(_, at)| at.begin_s);
        latest.map_or(0, |(slot, _)| slot)
    }

    /// The row of `key` in the second at `slot`: that of the rest when there is no room.
    #[inline]
    fn row_of(&mut self, place: &mut KeyPlace, key: &MetricsKey, slot: usize) -> u32 {
        let number = self.number_of(*place, key);
        place.0 = number;
        if number == OTHER {
            return self.other_row(slot);
        }
        let row = self.keys[number as usize].rows[slot];
        if row != NONE {
            return row;
        }
        let row = self.free_row;
        if row == NONE {
            return self.other_row(slot);
        }
        let second = &mut self.seconds[slot];
        let entry = &mut self.rows[row as usize];
        self.free_row = entry.next;
        entry.owner = number;
        entry.next = second.first_row;
        second.first_row = row;
        self.keys[number as usize].rows[slot] = row;
        row
    }

    /// The number of `key`, which may be at `place`: that of the rest when there is no room.
    #[inline]
    fn number_of(&mut self, place: KeyPlace, key: &MetricsKey) -> u32 {
        let known = self.keys.get(place.0 as usize);
        // Who belongs to the rest stays there while there is no room.
        let stays = |known: &KeyEntry| {
            if place.0 == OTHER { self.free_key == NONE } else { known.is_used && known.key == *key }
        };
        if known.is_some_and(stays) {
            return place.0;
        }
        let hash = hash_of(key);
        let found = self.find(key, hash);
        if found == NONE { self.insert(key, hash) } else { found }
    }

    #[cold]
    fn other_row(&mut self, slot: usize) -> u32 {
        self.counts.overflows += 1;
        self.seconds[slot].other_used = true;
        u32::try_from(slot).unwrap_or(0)
    }

    fn chain(&self, hash: u64) -> usize {
        usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) & (self.chains.len() - 1)
    }

    #[inline]
    fn find(&self, key: &MetricsKey, hash: u64) -> u32 {
        let mut number = self.chains[self.chain(hash)];
        for _ in 0..MAX_CHAIN {
            let Some(entry) = self.keys.get(number as usize) else { return NONE };
            if entry.hash == hash && entry.key == *key {
                return number;
            }
            number = entry.next;
        }
        OTHER
    }

    #[cold]
    fn insert(&mut self, key: &MetricsKey, hash: u64) -> u32 {
        let number = self.free_key;
        let chain = self.chain(hash);
        let Some(entry) = self.keys.get_mut(number as usize) else { return OTHER };
        self.free_key = entry.next;
        entry.key = *key;
        entry.hash = hash;
        entry.is_used = true;
        entry.next = self.chains[chain];
        self.chains[chain] = number;
        self.counts.keys += 1;
        number
    }

    /// Takes a key out; open flows are those of the rest then.
    fn remove(&mut self, number: u32) {
        let chain = self.chain(self.keys[number as usize].hash);
        let next = self.keys[number as usize].next;
        let mut at = self.chains[chain];
        if at == number {
            self.chains[chain] = next;
        } else {
            while let Some(entry) = self.keys.get_mut(at as usize) {
                if entry.next == number {
                    entry.next = next;
                    break;
                }
                at = entry.next;
            }
        }
        let entry = &mut self.keys[number as usize];
        let living = std::mem::take(&mut entry.living);
        entry.is_used = false;
        entry.minute_load = 0;
        entry.next = self.free_key;
        self.free_key = number;
        self.keys[OTHER as usize].living += living;
        self.counts.keys -= 1;
    }

    /// Begins what is to be handed out next, of the seconds before `limit`; `false` = nothing.
    fn choose(&mut self, limit: u32) -> bool {
        let open = self.seconds.iter().enumerate().filter(|(_, at)| at.is_open && at.begin_s < limit);
        let oldest = open.min_by_key(|(_, at)| at.begin_s).map(|(slot, at)| (slot, at.begin_s));
        let minute = match (self.minute, oldest) {
            (Some(minute), _) => minute,
            (None, Some((_, second))) => {
                self.first_done = false;
                second - second % MINUTE
            }
            (None, None) => return false,
        };
        self.minute = Some(minute);
        let oldest = oldest.filter(|&(_, second)| second < minute.saturating_add(MINUTE));
        if !self.first_done && limit > minute {
            self.first_done = true;
            self.sealed = self.sealed.max(minute);
            let slot = oldest.filter(|&(_, second)| second == minute).map(|(slot, _)| slot);
            self.phase = Phase::First { slot, next_key: OTHER };
        } else if let Some((slot, second)) = oldest {
            self.sealed = self.sealed.max(second);
            self.phase = Phase::Second { slot };
        } else if limit >= minute.saturating_add(MINUTE) {
            self.sealed = self.sealed.max(minute.saturating_add(MINUTE - 1));
            self.phase = Phase::Minute { next_key: OTHER };
        } else {
            return false;
        }
        true
    }

    /// Does one step of the phase.
    fn step(&mut self, take: &mut impl FnMut(&MetricsRecord)) {
        match self.phase {
            Phase::Idle => {}
            Phase::Second { slot } => {
                let row = self.seconds[slot].first_row;
                match self.rows.get(row as usize) {
                    Some(entry) => {
                        let owner = entry.owner;
                        self.seconds[slot].first_row = entry.next;
                        self.hand_out(slot, owner, row, take);
                    }
                    None => self.close_second(slot, take),
                }
            }
            Phase::First { slot, next_key } => {
                if let Some(key) = self.keys.get(next_key as usize) {
                    let row = slot.map_or(NONE, |slot| key.rows[slot]);
                    let (is_open, begin_s) = (key.living > 0, self.minute.unwrap_or(0));
                    let flow_load = u32::try_from(key.living).unwrap_or(0);
                    let other_used = slot.is_some_and(|slot| self.seconds[slot].other_used);
                    if let Some(slot) = slot.filter(|_| row != NONE) {
                        self.hand_out(slot, next_key, row, take);
                    } else if is_open && !(next_key == OTHER && other_used) {
                        let record = MetricsRecord {
                            begin_s,
                            period: Period::Second,
                            key: self.key(next_key),
                            flow_load,
                            counters: MetricsCounters::default(),
                        };
                        self.counts.rows += 1;
                        take(&record);
                    }
                    self.phase = Phase::First { slot, next_key: next_key + 1 };
                } else if let Some(slot) = slot {
                    self.close_second(slot, take);
                } else {
                    self.phase = Phase::Idle;
                }
            }
            Phase::Minute { next_key } => {
                if (next_key as usize) < self.keys.len() {
                    self.close_minute(next_key, take);
                    self.phase = Phase::Minute { next_key: next_key + 1 };
                } else {
                    self.next_minute();
                    self.phase = Phase::Idle;
                }
            }
        }
    }

    /// After a minute: the next one, if flows are open; else the one that packets come in.
    fn next_minute(&mut self) {
        self.first_done = false;
        let next = self.minute.unwrap_or(0).saturating_add(MINUTE);
        let is_silent = self.newest.saturating_sub(next) > MAX_SILENT_S;
        self.minute = (self.living > 0 && !is_silent).then_some(next);
    }

    fn key(&self, number: u32) -> Option<MetricsKey> {
        self.keys.get(number as usize).filter(|_| number != OTHER).map(|entry| entry.key)
    }

    /// Hands out the row that a key has in the second at `slot`, and adds it to the minute.
    fn hand_out(&mut self, slot: usize, number: u32, row: u32, take: &mut impl FnMut(&MetricsRecord)) {
        let counters = std::mem::take(&mut self.rows[row as usize].counters);
        let key = self.key(number);
        let entry = &mut self.keys[number as usize];
        entry.rows[slot] = NONE;
        let begun = counters.new_flows;
        let record = MetricsRecord {
            begin_s: self.seconds[slot].begin_s,
            period: Period::Second,
            key,
            flow_load: load(u32::try_from(entry.living).unwrap_or(0).saturating_add(begun), &counters),
            counters,
        };
        let change = i64::from(begun) - i64::from(counters.closed_flows);
        entry.living += change;
        self.living += change;
        entry.minute_load = entry.minute_load.saturating_add(begun);
        entry.has_minute = true;
        entry.minute.merge(&counters);
        if number != OTHER {
            self.rows[row as usize].next = self.free_row;
            self.free_row = row;
        }
        self.counts.rows += 1;
        take(&record);
    }

    /// The end of a second: the row of the rest, if there is one.
    fn close_second(&mut self, slot: usize, take: &mut impl FnMut(&MetricsRecord)) {
        if self.seconds[slot].other_used {
            self.hand_out(slot, OTHER, u32::try_from(slot).unwrap_or(0), take);
        }
        self.seconds[slot].is_open = false;
        self.seconds[slot].first_row = NONE;
        self.phase = Phase::Idle;
    }

    /// Hands out the minute of a key, and forgets the key if nothing is open.
    fn close_minute(&mut self, number: u32, take: &mut impl FnMut(&MetricsRecord)) {
        let key = self.key(number);
        let entry = &mut self.keys[number as usize];
        if !entry.is_used {
            return;
        }
        if entry.has_minute || entry.living > 0 {
            let counters = std::mem::take(&mut entry.minute);
            let record = MetricsRecord {
                begin_s: self.minute.unwrap_or(0),
                period: Period::Minute,
                key,
                flow_load: load(entry.minute_load, &counters),
                counters,
            };
            self.counts.rows += 1;
            take(&record);
        }
        let entry = &mut self.keys[number as usize];
        entry.has_minute = false;
        entry.minute_load = u32::try_from(entry.living).unwrap_or(0);
        if number != OTHER && entry.living <= 0 && entry.rows.iter().all(|row| *row == NONE) {
            self.remove(number);
        }
    }
}

/// At least one flow was open where packets came.
fn load(flows: u32, counters: &MetricsCounters) -> u32 {
    let has_packets = counters.sides.iter().any(|side| side.packets > 0);
    flows.max(u32::from(has_packets))
}

#[inline]
fn hash_of(key: &MetricsKey) -> u64 {
    let network = match key.network {
        Network::None => 0,
        Network::Ipv4 => 1,
        Network::Ipv6 => 2,
    };
    let port = key.server_port.map_or(0, |port| u64::from(port) | 1 << 16);
    let rest = port << 32 | u64::from(key.tap) << 16 | u64::from(key.protocol) << 8 | network;
    let [client, server] = key.addresses.map(u128::from_be_bytes);
    let words = [upper(client), lower(client), upper(server), lower(server)];
    hash_u64(hash_u64x4(&words, SEED) ^ rest, SEED)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn lower(number: u128) -> u64 {
    number as u64
}

fn upper(number: u128) -> u64 {
    (number >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u16) -> MetricsKey {
        let mut key = MetricsKey { network: Network::Ipv4, protocol: TCP, tap: 1, ..MetricsKey::default() };
        key.addresses[0][..2].copy_from_slice(&number.to_be_bytes());
        key.server_port = Some(80);
        key
    }

    fn packets(tx: u64) -> MetricsDelta {
        let mut delta = MetricsDelta::default();
        delta.sides[0] = Throughput { packets: tx, bytes: tx * 100, l3_bytes: tx * 80, l4_bytes: tx * 60 };
        delta
    }

    /// Everything that the table hands out, in order.
    fn all(table: &mut MetricsTable) -> Vec<MetricsRecord> {
        let mut rows = Vec::new();
        table.finish(|row| rows.push(*row));
        rows
    }

    fn loads(rows: &[MetricsRecord], period: Period) -> Vec<(u32, u32)> {
        rows.iter().filter(|row| row.period == period).map(|row| (row.begin_s, row.flow_load)).collect()
    }

    /// One flow opens at 59 and closes at 130; another lives within second 61 alone. By the rules of section 2.5.
    #[test]
    fn load_counts_silent_flows_in_minutes_and_in_their_first_seconds() {
        let mut table = MetricsTable::new(MetricsConfig::default());
        let mut flow = MetricsDelta { new_flow: true, ..packets(1) };
        table.add(&key(1), 59, &flow);
        flow.closed = Some(CloseType::TcpFin);
        table.add(&key(1), 61, &flow);
        table.add(&key(1), 130, &MetricsDelta { new_flow: false, ..flow });
        let rows = all(&mut table);
        assert_eq!(loads(&rows, Period::Second), [(59, 1), (60, 1), (61, 2), (120, 1), (130, 1)]);
        assert_eq!(loads(&rows, Period::Minute), [(0, 1), (60, 2), (120, 1)]);
        assert_eq!(table.counts().keys, 0);
    }

    #[test]
    fn late_data_counts_until_the_delay_is_over() {
        let mut table = MetricsTable::new(MetricsConfig { delay_s: 1, ..MetricsConfig::default() });
        let mut rows = Vec::new();
        for (second, late) in [(100, 0), (101, 0), (100, 0), (103, 0), (101, 1)] {
            table.add(&key(1), second, &packets(1));
            while table.flush(3, |row| rows.push((row.begin_s, row.counters.sides[0].packets))) {}
            assert_eq!(table.counts().late, late, "{second}");
        }
        // Second 101 was over when 103 came: what came then counts in 102.
        rows.extend(
            all(&mut table)
                .iter()
                .filter(|row| row.period == Period::Second)
                .map(|row| (row.begin_s, row.counters.sides[0].packets)),
        );
        assert_eq!(rows, [(100, 2), (101, 1), (102, 1), (103, 1)]);
    }

    #[test]
    fn delays_and_closes_are_merged_by_class() {
        let mut table = MetricsTable::new(MetricsConfig::default());
        for (rtt_ns, art_ns) in [(5_000, 70_000), (3_000, 90_000), (0, 0)] {
            let mut delta = MetricsDelta { closed: Some(CloseType::ServerReset), ..packets(1) };
            let perf = delta.perf.insert(TcpPerf { rtt_ns, ..TcpPerf::default() });
            delta.delays.art.add(art_ns, 1_000_000);
            perf.sides[1].retrans = 2;
            table.add(&key(1), 7 + u32::from(rtt_ns == 0), &delta);
        }
        let udp = MetricsKey { protocol: 17, ..key(1) };
        table.add(&udp, 7, &MetricsDelta { closed: Some(CloseType::Timeout), ..packets(1) });
        let rows = all(&mut table);
        let minute =
            |key| rows.iter().find(|row| row.period == Period::Minute && row.key == Some(key)).unwrap();
        let tcp = &minute(key(1)).counters;
        assert_eq!((tcp.rtt.sum_ns, tcp.rtt.max_ns, tcp.rtt.count), (8_000, 5_000, 2));
        assert_eq!((tcp.perf.art.sum_ns, tcp.perf.art.max_ns, tcp.perf.art.count), (160_000, 90_000, 2));
        assert_eq!((tcp.closed_flows, tcp.closes[15], tcp.perf.sides[1].retrans), (3, 3, 6));
        // The close types of what is not TCP are no anomalies.
        assert_eq!((minute(udp).counters.closed_flows, minute(udp).counters.closes), (1, [0; 20]));
    }

    #[test]
    fn adding_does_not_allocate() {
        let mut table = MetricsTable::new(MetricsConfig { keys: 50, rows: 60, delay_s: 1 });
        let info = allocation_counter::measure(|| {
            for number in 0..20_000_u32 {
                table.add(&key((number % 97) as u16), number / 200, &packets(1));
                table.flush(4, |_row| {});
            }
        });
        assert_eq!(info.count_total, 0);
        assert!(table.counts().overflows > 0);
    }

    #[derive(Clone, Debug)]
    struct Step {
        key: u16,
        forward_s: u32,
        back_s: u32,
        packets: u64,
        steps: usize,
    }

    fn step() -> impl Strategy<Value = Step> {
        let forward = prop_oneof![8 => 0..2_u32, 2 => 0..5_u32, 1 => 50..400_u32];
        (0..12_u16, forward, 0..3_u32, 1..5_u64, 0..40_usize).prop_map(
            |(key, forward_s, back_s, packets, steps)| Step { key, forward_s, back_s, packets, steps },
        )
    }

    proptest! {
        /// With room for all and data that is not late, rows are those of a map; without, the sums are still exact.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec(step(), 1..300), small: bool) {
            let config = if small {
                MetricsConfig { keys: 4, rows: 6, delay_s: 2 }
            } else {
                MetricsConfig { keys: 64, rows: 256, delay_s: 2 }
            };
            let mut table = MetricsTable::new(config);
            let mut rows = Vec::new();
            let mut model: BTreeMap<(u32, Option<MetricsKey>), u64> = BTreeMap::new();
            let (mut now, mut sum) = (600, 0);
            for step in steps {
                now += step.forward_s;
                let second = now - step.back_s;
                let key = key(step.key);
                table.add(&key, second, &packets(step.packets));
                *model.entry((second, Some(key))).or_default() += step.packets;
                sum += step.packets;
                if small {
                    table.flush(step.steps, |row| rows.push(*row));
                } else {
                    while table.flush(step.steps + 1, |row| rows.push(*row)) {}
                }
            }
            table.finish(|row| rows.push(*row));
            for period in [Period::Second, Period::Minute] {
                let of = |row: &&MetricsRecord| row.period == period;
                let total: u64 = rows.iter().filter(of).map(|row| row.counters.sides[0].packets).sum();
                prop_assert_eq!(total, sum);
                let mut found = BTreeMap::new();
                for row in rows.iter().filter(of) {
                    let before = found.insert((row.begin_s, row.key), row.counters.sides[0].packets);
                    prop_assert_eq!(before, None, "one row for each key and period");
                }
                if !small && table.counts().late == 0 {
                    let mut expected = BTreeMap::new();
                    for ((second, key), packets) in &model {
                        let begin = second - second % period.seconds();
                        *expected.entry((begin, *key)).or_default() += packets;
                    }
                    prop_assert_eq!(&found, &expected);
                }
            }
            let ordered = rows.iter().filter(|row| row.period == Period::Second).is_sorted_by_key(|row| row.begin_s);
            prop_assert!(ordered);
        }
    }
}
