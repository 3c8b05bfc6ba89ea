//! What happens right now, for whoever watches: attempts, dead letters and the like, as they come.
//!
//! Nothing is made or kept while nobody watches. Whoever watches sees a hundred a second of what they want at most, and how many were left out.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::Serialize;
use tokio::sync::broadcast;
use utoipa::ToSchema;

use crate::clock;
use crate::domain::search::SearchKeys;
use crate::store::entry::{Entry, Kept};
use crate::telemetry::{Fact, Observer};

/// Most that are shown to one who watches, in a second.
const PACE: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// Most that are made in a second, for all who watch: some microseconds each, of the thread that delivers.
const MADE: NonZeroU32 = NonZeroU32::new(2000).expect("not zero");
/// So many are kept for who comes back after a cut.
const RECENT: usize = 1024;
/// They are kept for so long after the last one has left.
const LINGER: Duration = Duration::from_secs(30);

/// One thing that happened.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Glimpse {
    /// Rises by one with each.
    pub id: u64,
    /// When it happened. RFC 3339.
    pub at: String,
    /// `attempt`, `waits`, `skipped`, `dead` or `rejected`.
    pub what: &'static str,
    /// The event.
    pub event_id: Option<String>,
    /// Whose it is.
    pub integrator: Option<String>,
    /// Who is, or is not, told.
    pub endpoint: Option<String>,
    /// What it is about.
    pub topic: Option<String>,
    /// The number of the attempt.
    pub attempt: Option<u32>,
    /// What follows from an attempt: `delivered`, `retry` or `dead`.
    pub verdict: Option<&'static str>,
    /// Why it waits, was skipped, given up or rejected.
    pub reason: Option<&'static str>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Why the attempt failed.
    pub error: Option<String>,
    /// How long the request took, in milliseconds.
    pub took_ms: Option<u64>,
    /// How many others happened since the one before, of all integrators, and are not shown.
    pub left_out: u64,
}

/// Sees what happens and shows it to those who watch.
pub struct Live {
    sender: broadcast::Sender<Arc<Glimpse>>,
    pace: DefaultDirectRateLimiter,
    kept: Kept,
    left_out: AtomicU64,
    state: Mutex<State>,
}

struct State {
    next: u64,
    recent: VecDeque<Arc<Glimpse>>,
    /// When somebody last watched.
    watched: Option<Instant>,
}

/// What is seen from now on, after what was missed.
pub struct Watch {
    missed: VecDeque<Arc<Glimpse>>,
    receiver: broadcast::Receiver<Arc<Glimpse>>,
    pace: DefaultDirectRateLimiter,
    /// Happened since the last one that was shown, and was not.
    left_out: u64,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(RECENT),
            pace: RateLimiter::direct(Quota::per_second(MADE)),
            kept: Kept { keys: SearchKeys::new(Vec::new()), payloads: false },
            left_out: AtomicU64::new(0),
            state: Mutex::new(State { next: 1, recent: VecDeque::new(), watched: None }),
        }
    }
}

impl Live {
    /// Watches from now on, or from behind the glimpse with this id, as far as that is still there.
    #[must_use]
    pub fn watch(&self, after: Option<u64>) -> Watch {
        let mut state = self.lock();
        state.watched = Some(Instant::now());
        let receiver = self.sender.subscribe();
        let missed = after.map_or_else(VecDeque::new, |after| state.recent.iter().filter(|one| one.id > after).cloned().collect());
        Watch { missed, receiver, pace: RateLimiter::direct(Quota::per_second(PACE)), left_out: 0 }
    }

    /// Whether somebody watches, or has a moment ago.
    fn is_watched(&self) -> bool {
        if self.sender.receiver_count() > 0 {
            return true;
        }
        let mut state = self.lock();
        let lingers = state.watched.is_some_and(|watched| watched.elapsed() < LINGER);
        if !lingers && state.watched.take().is_some() {
            state.recent.clear();
        }
        lingers
    }

    fn show(&self, entry: Entry) {
        let mut state = self.lock();
        if self.sender.receiver_count() > 0 {
            state.watched = Some(Instant::now());
        }
        let glimpse = Arc::new(Glimpse::of(entry, state.next, self.left_out.swap(0, Ordering::Relaxed)));
        state.next += 1;
        if state.recent.len() == RECENT {
            state.recent.pop_front();
        }
        state.recent.push_back(Arc::clone(&glimpse));
        // Nobody may be there to see it.
        let _ = self.sender.send(glimpse);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Live {
    fn see(&self, fact: &Fact<'_>) {
        if !Entry::is_made_of(fact) || !self.is_watched() {
            return;
        }
        if self.pace.check().is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Some(entry) = Entry::of(fact, &self.kept, clock::now()) {
            self.show(entry);
        }
    }
}

impl Watch {
    /// The next one of those that are wanted, with how many of all others could not be shown since the one before; of those that are not wanted
    /// nothing is said. `None` at the end.
    pub async fn next(&mut self, is_wanted: impl Fn(&Glimpse) -> bool) -> Option<Glimpse> {
        loop {
            let glimpse = self.any().await?;
            // Whether these were wanted, nobody knows.
            self.left_out += glimpse.left_out;
            if !is_wanted(&glimpse) {
                continue;
            }
            if self.pace.check().is_err() {
                self.left_out += 1;
                continue;
            }
            return Some(Glimpse { left_out: std::mem::take(&mut self.left_out), ..(*glimpse).clone() });
        }
    }

    async fn any(&mut self) -> Option<Arc<Glimpse>> {
        if let Some(missed) = self.missed.pop_front() {
            return Some(missed);
        }
        loop {
            match self.receiver.recv().await {
                Ok(glimpse) => return Some(glimpse),
                Err(broadcast::error::RecvError::Lagged(count)) => self.left_out += count,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Glimpse {
    fn of(entry: Entry, id: u64, left_out: u64) -> Self {
        Self {
            id,
            at: entry.at.to_string(),
            what: entry.what.as_str(),
            event_id: entry.event_id.map(|id| id.to_string()),
            integrator: entry.integrator.map(|key| key.to_string()),
            endpoint: entry.endpoint.map(|id| id.to_string()),
            topic: entry.topic.map(|topic| topic.to_string()),
            attempt: entry.attempt,
            verdict: entry.verdict,
            reason: entry.reason,
            status: entry.status,
            error: entry.error,
            took_ms: entry.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            left_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::domain::dead::RejectReason;
    use crate::domain::names::SourceName;

    fn happen(live: &Live) {
        let source = SourceName::try_new("compliance").unwrap();
        live.see(&Fact::Rejected {
            source: &source,
            event: None,
            message_id: None,
            endpoint: None,
            reason: &RejectReason::UnknownIntegrator,
            replayed_at: None,
        });
    }

    async fn next(watch: &mut Watch) -> Glimpse {
        watch.next(|_| true).await.unwrap()
    }

    #[tokio::test]
    async fn nothing_is_kept_while_nobody_watches_and_nothing_is_missed_by_who_comes_back() {
        let live = Live::default();
        happen(&live);
        let mut watch = live.watch(None);
        happen(&live);
        let first = next(&mut watch).await;
        assert_eq!((first.id, first.what, first.reason), (1, "rejected", Some("unknown_integrator")));
        drop(watch);
        happen(&live);
        happen(&live);
        let mut again = live.watch(Some(first.id));
        assert_eq!((next(&mut again).await.id, next(&mut again).await.id), (2, 3));
    }

    #[tokio::test]
    async fn what_cannot_be_shown_is_counted_whoever_it_concerns() {
        let live = Live::default();
        let mut watch = live.watch(None);
        (0..10_000).for_each(|_| happen(&live));
        let (mut shown, mut left_out) = (0_i64, 0_i64);
        // Whatever is still to be seen; then one more, which carries what was left out last.
        while let Some(glimpse) = watch.next(|_| true).now_or_never().flatten() {
            shown += 1;
            left_out += i64::try_from(glimpse.left_out).unwrap();
        }
        let last = loop {
            happen(&live);
            if let Some(glimpse) = watch.next(|_| true).now_or_never().flatten() {
                break glimpse;
            }
            left_out -= 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(shown + left_out + i64::try_from(last.left_out).unwrap(), 10_000);
        assert!(shown < 1000, "{shown} shown");
    }
}
