//! How many lines may one place in the code write in a second? Those above are counted, and told once the second is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The span over which lines are counted.
const SPAN: Duration = Duration::from_secs(1);

/// The layer, and what it kept back.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    lines_per_second: Option<u32>,
    places: Arc<Mutex<HashMap<Identifier, Place>>>,
}

/// One place in the code.
#[derive(Clone, Copy, Debug)]
struct Place {
    metadata: &'static Metadata<'static>,
    /// When its second began.
    begin: Instant,
    lines: u32,
    suppressed: u64,
}

impl Limiter {
    /// `None` = any number of lines.
    pub(super) fn new(lines_per_second: Option<u32>) -> Self {
        Self { lines_per_second, places: Arc::default() }
    }

    /// Whether a line of this place may be written now.
    fn admit(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let Some(most) = self.lines_per_second else { return true };
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Place { metadata, begin: now, lines: 0, suppressed: 0 };
        let place = places.entry(metadata.callsite()).or_insert(new);
        if now.duration_since(place.begin) >= SPAN {
            (place.begin, place.lines) = (now, 0);
        }
        place.lines = place.lines.saturating_add(1);
        let admitted = place.lines <= most;
        place.suppressed += u64::from(!admitted);
        admitted
    }

    /// What was kept back in seconds that are over: where, and how many lines.
    fn take(&self, now: Instant) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |place: &&mut Place| place.suppressed > 0 && now.duration_since(place.begin) >= SPAN;
        let told = |place: &mut Place| (place.metadata, std::mem::take(&mut place.suppressed));
        places.values_mut().filter(over).map(told).collect()
    }

    /// Logs what was kept back.
    pub(crate) fn report(&self) {
        if self.lines_per_second.is_none() {
            return;
        }
        for (metadata, suppressed) in self.take(Instant::now()) {
            let (target, place) = (metadata.target(), metadata.name());
            tracing::warn!(suppressed, target, place, "lines were kept back: too many of them in a second");
        }
    }
}

impl<S: Subscriber> Layer<S> for Limiter {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        self.admit(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "test code")]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    struct Count(Arc<AtomicU64>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn places() -> (Limiter, &'static Metadata<'static>) {
        let limiter = Limiter::new(Some(3));
        let lines = Arc::new(AtomicU64::new(0));
        let subscriber = tracing_subscriber::registry().with(limiter.clone()).with(Count(Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..10 {
                tracing::info!("often");
            }
            tracing::info!("seldom");
        });
        assert_eq!(lines.load(Ordering::Relaxed), 4, "three of one place, one of another");
        let metadata =
            limiter.places.lock().unwrap().values().find(|place| place.suppressed > 0).unwrap().metadata;
        (limiter, metadata)
    }

    #[test]
    fn each_place_has_its_lines_each_second() {
        let (limiter, often) = places();
        let now = Instant::now();
        assert!(limiter.take(now).is_empty(), "the second is not over");
        let later = now + SPAN;
        let kept_back = limiter.take(later);
        assert_eq!(kept_back.iter().map(|(_, suppressed)| *suppressed).collect::<Vec<_>>(), [7]);
        assert!(limiter.take(later).is_empty(), "told once");
        let admitted = (0..5).filter(|_| limiter.admit(often, later)).count();
        assert_eq!(admitted, 3);
        assert!(limiter.admit(often, later + SPAN));
        assert!((0..1_000).all(|_| Limiter::new(None).admit(often, now)));
    }
}
