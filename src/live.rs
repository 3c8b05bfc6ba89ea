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
    /// How much had happened with it, shown or not.
    #[serde(skip)]
    happened: u64,
}

/// Sees what happens and shows it to those who watch.
pub struct Live {
    sender: broadcast::Sender<Arc<Glimpse>>,
    pace: DefaultDirectRateLimiter,
    kept: Kept,
    /// How much has happened while somebody watched.
    happened: AtomicU64,
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
    /// How much had happened with the last one that was shown, and how much of what came after it was not wanted.
    last: u64,
    unwanted: u64,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(RECENT),
            pace: RateLimiter::direct(Quota::per_second(MADE)),
            kept: Kept { keys: SearchKeys::new(Vec::new()), payloads: false },
            happened: AtomicU64::new(0),
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
        let last = missed.front().map_or_else(|| self.happened.load(Ordering::Relaxed), |first| first.happened - 1);
        Watch { missed, receiver, pace: RateLimiter::direct(Quota::per_second(PACE)), last, unwanted: 0 }
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

    fn show(&self, entry: Entry, happened: u64) {
        let mut state = self.lock();
        if self.sender.receiver_count() > 0 {
            state.watched = Some(Instant::now());
        }
        let glimpse = Arc::new(Glimpse::of(entry, state.next, happened));
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
        let happened = self.happened.fetch_add(1, Ordering::Relaxed) + 1;
        if self.pace.check().is_ok()
            && let Some(entry) = Entry::of(fact, &self.kept, clock::now())
        {
            self.show(entry, happened);
        }
    }
}

impl Watch {
    /// The next one of those that are wanted, with how many others happened since the one before and could not be shown: whether they were wanted,
    /// nobody knows of most. `None` at the end.
    pub async fn next(&mut self, is_wanted: impl Fn(&Glimpse) -> bool) -> Option<Glimpse> {
        loop {
            let glimpse = self.any().await?;
            if !is_wanted(&glimpse) {
                self.unwanted += 1;
                continue;
            }
            if self.pace.check().is_err() {
                continue;
            }
            let left_out = glimpse.happened.saturating_sub(self.last + 1 + std::mem::take(&mut self.unwanted));
            self.last = glimpse.happened;
            return Some(Glimpse { left_out, ..(*glimpse).clone() });
        }
    }

    async fn any(&mut self) -> Option<Arc<Glimpse>> {
        if let Some(missed) = self.missed.pop_front() {
            return Some(missed);
        }
        loop {
            match self.receiver.recv().await {
                Ok(glimpse) => return Some(glimpse),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Glimpse {
    fn of(entry: Entry, id: u64, happened: u64) -> Self {
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
            left_out: 0,
            happened,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::task::unconstrained;

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

    /// The next one, if it is there.
    fn ready(watch: &mut Watch, is_wanted: fn(&Glimpse) -> bool) -> Option<Glimpse> {
        unconstrained(watch.next(is_wanted)).now_or_never().flatten()
    }

    #[tokio::test]
    async fn what_cannot_be_shown_is_counted() {
        let live = Live::default();
        let (mut watch, mut picky) = (live.watch(None), live.watch(None));
        let mut happened = 10_000;
        (0..happened).for_each(|_| happen(&live));
        let mut seen = Vec::new();
        while let Some(glimpse) = ready(&mut watch, |_| true) {
            seen.push(glimpse);
        }
        assert!((100..1000).contains(&seen.len()), "{} shown", seen.len());
        let last = loop {
            happen(&live);
            happened += 1;
            if let Some(glimpse) = ready(&mut watch, |_| true) {
                break glimpse;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let left_out: u64 = seen.iter().chain([&last]).map(|glimpse| glimpse.left_out).sum();
        assert_eq!(seen.len() as u64 + 1 + left_out, happened);
        assert!(ready(&mut picky, |_| false).is_none() && picky.unwanted > 0, "what is not wanted is not missed");
    }
}
