//! Which letters are meant.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::letter::Letter;
use super::rfc3339;
use crate::config::Config;
use crate::domain::dead::{DeadReason, RejectReason};
use crate::domain::time::Timestamp;

/// Why the broker itself moved a message, in its words (RabbitMQ's documentation, "dead letter exchanges").
const BROKER_REASONS: [&str; 2] = ["delivery_limit", "rejected"];
/// The same for a wait that is over.
const WAIT_IS_OVER: &str = "expired";

/// Longest text to compare with, in bytes: an event id has at most 1,000.
const TEXT_LIMIT: usize = 1000;

/// A queue that waits for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = LetterQueue)]
pub enum Queue {
    /// Deliveries that were given up.
    Dead,
    /// Events that are no deliveries.
    Rejected,
    /// What the broker moved while the queue for it was missing, such as retries whose wait was over.
    Unroutable,
}

impl Queue {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Dead, Self::Rejected, Self::Unroutable];

    /// Its name in the API and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Rejected => "rejected",
            Self::Unroutable => "unroutable",
        }
    }

    /// Its name on the broker.
    #[must_use]
    pub fn name(self, config: &Config) -> &str {
        match self {
            Self::Dead => &config.broker.names.dead,
            Self::Rejected => &config.broker.names.rejected,
            Self::Unroutable => &config.broker.names.unroutable,
        }
    }

    /// The reasons that a message in it may have.
    #[must_use]
    pub fn reasons(self) -> Vec<&'static str> {
        match self {
            Self::Dead => DeadReason::ALL.into_iter().map(DeadReason::as_str).collect(),
            Self::Rejected => RejectReason::CODES.into_iter().chain(BROKER_REASONS).collect(),
            Self::Unroutable => BROKER_REASONS.into_iter().chain([WAIT_IS_OVER]).collect(),
        }
    }
}

/// Which letters. All that is given must fit; what is left out fits all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LetterFilter)]
pub struct Filter {
    /// Of this integrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub integrator: Option<String>,
    /// To this endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub endpoint: Option<String>,
    /// Here for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// With this event id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub event: Option<String>,
    /// Here since this time or later. RFC 3339.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Here since before this time. RFC 3339.
    #[serde(default, with = "rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// No more than this many, the oldest in the queue first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295_i64)]
    pub limit: Option<usize>,
    /// Nothing that says that it came, or was replayed, after this time.
    #[serde(skip)]
    pub asked_at: Option<Timestamp>,
}

/// Why a filter makes no sense. Shows no more of it than a reason that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// No message of this queue can have this reason.
    #[error("{reason}: no such reason; there are {}", .known.join(", "))]
    Reason {
        /// What was given.
        reason: String,
        /// Those that there are.
        known: Vec<&'static str>,
    },
    /// Nothing is called so, and everything is not meant.
    #[error("{0} is empty; leave it out for any")]
    Empty(&'static str),
    /// Nothing is that long.
    #[error("{0} is longer than {TEXT_LIMIT} bytes")]
    TooLong(&'static str),
    /// None are meant.
    #[error("a limit is 1 to 4294967295")]
    Nothing,
}

impl Filter {
    /// Whether anything narrows the choice. A limit does not: it says how many, not which.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.integrator.is_none()
            && self.endpoint.is_none()
            && self.reason.is_none()
            && self.event.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }

    /// Refuses what would be an empty result by a slip of the pen.
    ///
    /// # Errors
    /// A reason that no message of this queue can have.
    pub fn check_reason(&self, queue: Queue) -> Result<(), BadFilter> {
        let known = queue.reasons();
        match &self.reason {
            Some(reason) if !known.contains(&reason.as_str()) => {
                let shown = reason.chars().take(100).filter(|c| !c.is_control()).collect();
                Err(BadFilter::Reason { reason: shown, known })
            }
            _ => Ok(()),
        }
    }

    /// The same for a filter from elsewhere.
    ///
    /// # Errors
    /// Also texts that are too long, and a limit of nothing.
    pub fn check(&self, queue: Queue) -> Result<(), BadFilter> {
        for (name, text) in [("integrator", &self.integrator), ("endpoint", &self.endpoint), ("event", &self.event)] {
            match text {
                Some(text) if text.len() > TEXT_LIMIT => return Err(BadFilter::TooLong(name)),
                Some(text) if text.is_empty() => return Err(BadFilter::Empty(name)),
                _ => {}
            }
        }
        if self.limit.is_some_and(|limit| limit == 0 || u32::try_from(limit).is_err()) {
            return Err(BadFilter::Nothing);
        }
        self.check_reason(queue)
    }

    /// Whether a message is among those that are meant.
    #[must_use]
    pub fn fits(&self, letter: &Letter) -> bool {
        let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        // Who replays a message writes when; its second death may be dated by a clock that is behind.
        let came_later = |asked_at| [letter.dead_at, letter.replayed_at].into_iter().flatten().any(|at| at > asked_at);
        same(&self.integrator, &letter.integrator)
            && same(&self.endpoint, &letter.endpoint)
            && same(&self.reason, &letter.reason)
            && same(&self.event, &letter.event)
            && self.since.is_none_or(|since| letter.dead_at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| letter.dead_at.is_some_and(|at| at < until))
            && !self.asked_at.is_some_and(came_later)
    }

    /// The same without what says that it came later.
    #[must_use]
    pub fn before_question(self, now: Timestamp) -> Self {
        Self { asked_at: Some(now), ..self }
    }

    /// The same, but no more than `count`.
    #[must_use]
    pub fn at_most(self, count: usize) -> Self {
        Self { limit: Some(self.limit.map_or(count, |limit| limit.min(count))), ..self }
    }

    /// Whether there may be another one after `count`.
    #[must_use]
    pub fn admits_another_after(&self, count: usize) -> bool {
        self.limit.is_none_or(|limit| count < limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        Letter { dead_at: Some(Timestamp::from_millis(9_000_000)), ..Letter::default() }
    }

    #[test]
    fn what_comes_after_a_question_is_not_part_of_the_answer() {
        let limited = |limit| Filter { limit, ..Filter::default() };
        let filter = limited(None).before_question(Timestamp::from_millis(9_000_000));
        assert!(filter.fits(&letter()) && filter.fits(&Letter { dead_at: None, ..letter() }));
        assert!(!filter.fits(&Letter { dead_at: Some(Timestamp::from_millis(9_000_001)), ..letter() }));
        assert!(!filter.fits(&Letter { replayed_at: Some(Timestamp::from_millis(9_000_001)), ..letter() }));
        for (limit, count, admitted) in [(None, 3, 3), (Some(2), 3, 2), (Some(5), 3, 3), (None, 0, 0)] {
            let filter = limited(limit).at_most(count);
            assert_eq!((0..9).take_while(|n| filter.admits_another_after(*n)).count(), admitted);
        }
    }

    #[test]
    fn a_filter_from_elsewhere_is_read_strictly() {
        let read = |text: &str| serde_json::from_str::<Filter>(text);
        let filter = read(r#"{"integrator":"acme","since":"2026-01-31T08:00:00Z","limit":5}"#).unwrap();
        assert_eq!(filter.since, Timestamp::parse("2026-01-31T08:00:00Z"));
        assert_eq!(read(&serde_json::to_string(&filter).unwrap()).unwrap(), filter);
        for wrong in [r#"{"integrators":"acme"}"#, r#"{"since":"2h"}"#, r#"{"asked_at":null}"#, r#"{"limit":-1}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        for wrong in [r#"{"limit":0}"#.to_owned(), r#"{"reason":"expired"}"#.to_owned(), format!(r#"{{"event":"{}"}}"#, "x".repeat(1001))] {
            assert!(read(&wrong).unwrap().check(Queue::Rejected).is_err(), "{wrong}");
        }
    }
}
