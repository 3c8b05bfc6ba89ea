//! The metrics' text, made at most once a second however many ask for it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::telemetry::Telemetry;

/// How old a text may be. Making one takes locks that the thread that delivers takes too, so this bounds that;
/// scrapers come every few seconds at most and see no difference.
const FRESH: Duration = Duration::from_secs(1);

/// The metrics and the text that was made of them last.
#[derive(Debug)]
pub(super) struct Scrape {
    telemetry: Telemetry,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Scrape {
    pub(super) const fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, last: Mutex::new(None) }
    }

    /// The text, at most [`FRESH`] old. All who ask within that time share its bytes.
    pub(super) fn text(&self) -> Bytes {
        self.text_by(Instant::now)
    }

    fn text_by(&self, clock: impl Fn() -> Instant) -> Bytes {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, text)) = &*last
            && clock().saturating_duration_since(*made) < FRESH
        {
            return text.clone();
        }
        let text = Bytes::from(self.telemetry.metrics_text());
        // From the end of the work on, or a text that takes longer than it is fresh would never be shared.
        *last = Some((clock(), text.clone()));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_made_once_a_second_and_shared() {
        let telemetry = Telemetry::default();
        let scrape = Scrape::new(telemetry.clone());
        let shows = |text: &Bytes| {
            std::str::from_utf8(text).unwrap().lines().find(|line| line.starts_with("callbackd_in_flight ")).map(str::to_owned)
        };
        let start = Instant::now();
        let text_after = |passed: Duration| scrape.text_by(|| start + passed);
        let first = text_after(Duration::ZERO);
        assert_eq!(shows(&first).as_deref(), Some("callbackd_in_flight 0"));

        let _one = telemetry.in_flight_started();
        let same = text_after(FRESH.checked_sub(Duration::from_millis(1)).unwrap());
        assert_eq!((same.as_ptr(), same.len()), (first.as_ptr(), first.len()), "the very same bytes");

        assert_eq!(shows(&text_after(FRESH)).as_deref(), Some("callbackd_in_flight 1"));
    }
}
