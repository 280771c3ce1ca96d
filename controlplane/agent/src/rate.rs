//! How many requests may come in a second: of each client, and of all together?

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Clients that are remembered; more of them share what one may do.
const MAX_CLIENTS: usize = 1_024;
/// What came in bursts may be as much as this time allows.
const BURST: Duration = Duration::from_secs(1);

/// The limits, and what was used of them.
#[derive(Debug)]
pub(crate) struct Rates {
    /// Time that one request takes from a client's share, and from everybody's.
    each: Duration,
    all: Duration,
    used: Mutex<Used>,
}

/// Until when each share is used up (the virtual scheduling of ITU-T I.371: no counts, no rounding).
#[derive(Debug)]
struct Used {
    all: Instant,
    clients: HashMap<String, Instant>,
}

impl Rates {
    /// So many in a second of each, and of all.
    pub(crate) fn new([each, all]: [u32; 2], now: Instant) -> Self {
        let [each, all] = [each, all].map(|rate| BURST / rate.max(1));
        Self { each, all, used: Mutex::new(Used { all: now, clients: HashMap::new() }) }
    }

    /// Takes one; otherwise says when to come again.
    pub(crate) fn take(&self, client: &str, now: Instant) -> Result<(), Duration> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let Used { all, clients } = &mut *used;
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(client) {
            clients.retain(|_, until| *until > now);
        }
        let key = if clients.len() >= MAX_CLIENTS && !clients.contains_key(client) { "" } else { client };
        let next_all = (*all).max(now) + self.all;
        let next = clients.get(key).copied().unwrap_or(now).max(now) + self.each;
        let wait = |next: Instant| next.saturating_duration_since(now).saturating_sub(BURST);
        let late = wait(next_all).max(wait(next));
        if !late.is_zero() {
            return Err(late);
        }
        *all = next_all;
        if let Some(until) = clients.get_mut(key) {
            *until = next;
        } else {
            clients.insert(key.to_owned(), next);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_and_all_are_limited() {
        let begin = Instant::now();
        let rates = Rates::new([10, 25], begin);
        let take =
            |client: &str, tries: usize, now| (0..tries).filter(|_| rates.take(client, now).is_ok()).count();
        assert_eq!(take("a", 100, begin), 10, "a burst of one second");
        assert_eq!(take("b", 100, begin), 10);
        assert_eq!(take("c", 100, begin), 5, "all together");
        let later = begin + Duration::from_millis(200);
        assert_eq!(take("a", 100, later), 2);
        assert_eq!(take("c", 100, later), 3);
        assert_eq!(rates.take("d", later), Err(Duration::from_millis(40)));
        assert_eq!(take("a", 100, begin + Duration::from_secs(60)), 10, "and no more for having waited");
    }

    #[test]
    fn any_number_of_clients_is_remembered_within_bounds() {
        let begin = Instant::now();
        let rates = Rates::new([1, 1_000_000], begin);
        for client in 0..10 * MAX_CLIENTS {
            let _taken = rates.take(&client.to_string(), begin);
        }
        assert!(rates.used.lock().unwrap().clients.len() <= MAX_CLIENTS + 1);
        assert!(rates.take("one more", begin).is_err(), "a stranger among too many has a share of theirs");
        assert!(rates.take("one more", begin + Duration::from_secs(2)).is_ok());
    }
}
