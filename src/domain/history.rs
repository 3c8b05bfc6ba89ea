//! What is known of a delivery from before: carried in our own headers from queue to queue, never in `x-death`.

use std::num::NonZeroU16;
use std::time::Duration;

use super::decide::Wait;
use super::names::EndpointId;
use super::reply::Reply;
use super::time::Timestamp;

/// The past of an event or of one of its deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// When the event first came in.
    pub received_at: Timestamp,
    /// When an operator replayed it last.
    pub replayed_at: Option<Timestamp>,
    /// The one endpoint this copy is for; `None` on an event that has not been split into deliveries.
    pub endpoint: Option<EndpointId>,
    /// Attempts made so far.
    pub attempts: u32,
    /// When the first attempt started.
    pub first_attempt_at: Option<Timestamp>,
    /// When the latest attempt started.
    pub last_attempt_at: Option<Timestamp>,
    /// The status of the latest answer; `None` when the latest attempt got none.
    pub last_status: Option<u16>,
    /// Why the latest attempt failed, short and free of payload, secrets and URLs.
    pub last_error: Option<String>,
    /// When the message is planned to come out of the queue it waits in; how late it does in fact is measured from here.
    pub due_at: Option<Timestamp>,
    /// Not to be tried before: set when the ladder has no rung as long as the wait.
    pub hold_until: Option<Timestamp>,
    /// Since when nobody by that name has been configured.
    pub unknown_since: Option<Timestamp>,
    /// How often it has made room at its endpoint without an attempt.
    pub parked: u32,
    /// When its turn at the endpoint was expected to come when it last made room.
    pub turn_at: Option<Timestamp>,
    /// Most events that a request with this one may hold, since a larger one has failed; `None`: as many as the endpoint allows.
    pub batch_limit: Option<NonZeroU16>,
}

impl History {
    /// The history of an event that comes in now for the first time.
    #[must_use]
    pub const fn new(received_at: Timestamp) -> Self {
        Self {
            received_at,
            replayed_at: None,
            endpoint: None,
            attempts: 0,
            first_attempt_at: None,
            last_attempt_at: None,
            last_status: None,
            last_error: None,
            due_at: None,
            hold_until: None,
            unknown_since: None,
            parked: 0,
            turn_at: None,
            batch_limit: None,
        }
    }

    /// From when on the age of a delivery counts: a replay starts it again.
    #[must_use]
    pub fn age_counts_from(&self) -> Timestamp {
        self.replayed_at.unwrap_or(self.received_at)
    }

    /// This history with one more attempt in it, whatever came of it. Nothing is waited for any more.
    #[must_use]
    pub fn attempted(&self, endpoint: &EndpointId, started_at: Timestamp, reply: &Reply) -> Self {
        Self {
            received_at: self.received_at,
            replayed_at: self.replayed_at,
            endpoint: Some(endpoint.clone()),
            attempts: self.attempts.saturating_add(1),
            first_attempt_at: self.first_attempt_at.or(Some(started_at)),
            last_attempt_at: Some(started_at),
            last_status: reply.status(),
            last_error: reply.error(),
            due_at: None,
            hold_until: None,
            unknown_since: None,
            parked: self.parked,
            turn_at: None,
            batch_limit: self.batch_limit,
        }
    }

    /// This history with one more stay in the ladder that makes room at the endpoint: no attempt, and its turn is expected at
    /// this time.
    #[must_use]
    pub fn making_room(self, turn_at: Timestamp) -> Self {
        Self { parked: self.parked.saturating_add(1), turn_at: Some(turn_at), unknown_since: None, ..self }
    }

    /// How long it still is until its turn, nothing where that has passed; `None` where none was given. The stay that it has come back
    /// from was planned by the same clock as the turn, so no more is left than lay between the two, whatever the clocks say.
    #[must_use]
    pub fn turn_in(&self, now: Timestamp) -> Option<Duration> {
        self.turn_at.map(|turn_at| self.left_until(turn_at, now))
    }

    /// How long it must still not be tried, measured in the same way; `None` where it may be.
    #[must_use]
    pub fn held_for(&self, now: Timestamp) -> Option<Duration> {
        self.hold_until.map(|until| self.left_until(until, now)).filter(|left| !left.is_zero())
    }

    fn left_until(&self, then: Timestamp, now: Timestamp) -> Duration {
        then.since(now).min(self.due_at.map_or(Duration::MAX, |due_at| then.since(due_at)))
    }

    /// This history with a stay in the ladder ahead.
    #[must_use]
    pub fn waiting(self, wait: Wait) -> Self {
        Self { due_at: Some(wait.out_at), hold_until: wait.hold_until, ..self }
    }

    /// This history as that of one endpoint's delivery.
    #[must_use]
    pub fn at(&self, endpoint: &EndpointId) -> Self {
        Self { endpoint: Some(endpoint.clone()), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_a_fast_clock_gave_is_no_further_away_than_it_was_from_the_end_of_the_stay() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let history = |turn_at, due_at| History { turn_at, due_at, ..History::new(at(0)) };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(history(Some(at(130)), Some(at(120))).turn_in(at(121)), seconds(9));
        assert_eq!(history(Some(at(130)), Some(at(120))).turn_in(at(140)), seconds(0));
        assert_eq!(history(Some(at(3730)), Some(at(3720))).turn_in(at(121)), seconds(10));
        assert_eq!(history(Some(at(130)), None).turn_in(at(121)), seconds(9));
        assert_eq!(history(None, Some(at(120))).turn_in(at(121)), None);
        let held = |hold_until, due_at| History { hold_until, due_at, ..History::new(at(0)) };
        assert_eq!(held(Some(at(130)), Some(at(120))).held_for(at(121)), seconds(9));
        assert_eq!(held(Some(at(3730)), Some(at(3720))).held_for(at(121)), seconds(10));
        assert_eq!(held(Some(at(130)), Some(at(120))).held_for(at(130)), None);
        assert_eq!(held(None, Some(at(120))).held_for(at(121)), None);
    }
}
