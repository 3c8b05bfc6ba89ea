//! How fast an errand may go, and for how long at one time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use crate::domain::pace::Pace;
use crate::domain::policy::Rate;

/// The work of a pass, where it is bounded: at least, and at most. A pass holds all messages of its queue, so nobody else sees them, and
/// the broker takes them away from who holds them for 30 minutes (RabbitMQ's `consumer_timeout`). Slow errands therefore work in
/// passes of this length and give everything back in between.
const SHARE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// Taking and returning all messages takes at most this part of an errand's time, as far as [`SHARE`] allows: work takes so many times
/// as long.
const WORTH: u32 = 5;

/// How long a pass works before it makes room for somebody who waits to look.
const COURTESY: Duration = Duration::from_secs(1);

/// What bounds an errand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    /// Nothing more is begun once this is cancelled.
    pub(crate) stop: CancellationToken,
    /// No faster than this, and in passes of bounded time.
    pub(crate) rate: Option<Rate>,
    /// Passes are of bounded time even without a rate, and go through this.
    pub(crate) gate: Option<Arc<Gate>>,
}

/// Lets one message after the other be begun, until it is enough for this pass.
#[derive(Debug)]
pub(crate) struct Leash {
    limits: Limits,
    pace: Option<Pace>,
    share: Option<Duration>,
    worked: Duration,
    since: Option<Instant>,
    began: Instant,
}

impl Leash {
    /// Nothing has begun.
    pub(crate) fn new(limits: Limits) -> Self {
        let is_bounded = limits.rate.is_some() || limits.gate.is_some();
        let (pace, share) = (limits.rate.map(Pace::new), is_bounded.then_some(SHARE.0));
        Self { limits, pace, share, worked: Duration::ZERO, since: None, began: Instant::now() }
    }

    /// A pass begins.
    pub(crate) fn pass_begins(&mut self) {
        (self.worked, self.since, self.began) = (Duration::ZERO, None, Instant::now());
    }

    /// A pass is over: the next one's length depends on what it took to take all messages in it.
    pub(crate) fn pass_is_over(&mut self) {
        let taking = self.began.elapsed().saturating_sub(self.worked);
        self.share = self.share.map(|_| (taking * WORTH).clamp(SHARE.0, SHARE.1));
    }

    /// Work begins. The time of taking messages does not count: a pass over many would have no time for its work.
    pub(crate) fn work_begins(&mut self) {
        self.since = Some(Instant::now());
    }

    /// Work ends.
    pub(crate) fn work_ends(&mut self) {
        self.worked += self.since.take().map(|since| since.elapsed()).unwrap_or_default();
    }

    /// Whether nothing more is to be begun in this pass.
    pub(crate) fn is_enough(&self) -> bool {
        let worked = self.worked + self.since.map(|since| since.elapsed()).unwrap_or_default();
        let has_visitors = || self.limits.gate.as_ref().is_some_and(|gate| gate.has_visitors());
        self.is_stopped() || self.share.is_some_and(|share| worked >= share) || (worked >= COURTESY && has_visitors())
    }

    /// Whether nothing more is to be begun at all.
    pub(crate) fn is_stopped(&self) -> bool {
        self.limits.stop.is_cancelled()
    }

    /// Waits until one more may be begun; `false` when it is enough.
    pub(crate) async fn admits(&mut self) -> bool {
        loop {
            if self.is_enough() {
                return false;
            }
            let Some(pace) = &mut self.pace else { return true };
            match pace.take(Instant::now()) {
                Ok(()) => return true,
                Err(wait) => self.pause(wait).await,
            }
        }
    }

    /// Waits, unless it is stopped.
    pub(crate) async fn pause(&self, wait: Duration) {
        self.limits.stop.run_until_cancelled(sleep(wait)).await;
    }

    /// The way to the queue.
    pub(crate) fn gate(&self) -> Option<Arc<Gate>> {
        self.limits.gate.clone()
    }
}
