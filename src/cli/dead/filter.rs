//! Which messages a command is about.

use clap::ValueEnum;

use super::letter::Letter;
use crate::cli::CliError;
use crate::config::Config;
use crate::config::parse_duration;
use crate::domain::dead::{DeadReason, RejectReason};
use crate::domain::time::Timestamp;

/// Why the broker itself moved a message, in its words (RabbitMQ's documentation, "dead letter exchanges").
const BROKER_REASONS: [&str; 2] = ["delivery_limit", "rejected"];
/// The same for a wait that is over.
const WAIT_IS_OVER: &str = "expired";

/// Which messages. All that is given must fit.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Selection {
    /// Which queue.
    #[arg(long, value_enum, default_value_t = Which::Dead)]
    pub(super) queue: Which,
    /// Of this integrator.
    #[arg(long, value_name = "KEY")]
    pub(super) integrator: Option<String>,
    /// To this endpoint.
    #[arg(long, value_name = "ID")]
    pub(super) endpoint: Option<String>,
    /// Here for this reason.
    #[arg(long)]
    pub(super) reason: Option<String>,
    /// With this event id.
    #[arg(long, value_name = "ID")]
    pub(super) event: Option<String>,
    /// Here since this time or later: RFC 3339, or that long ago (`2h`).
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Here since before this time: RFC 3339, or that long ago (`2h`).
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
    /// No more than this many, the oldest in the queue first.
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
}

/// The queues that wait for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Which {
    /// Deliveries that were given up.
    Dead,
    /// Events that are no deliveries.
    Rejected,
    /// What the broker moved while the queue for it was missing, such as retries whose wait was over.
    Unroutable,
}

/// A selection that makes sense.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    integrator: Option<String>,
    endpoint: Option<String>,
    reason: Option<String>,
    event: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    asked_at: Option<Timestamp>,
    limit: Option<usize>,
}

impl Selection {
    /// The queue's name on the broker.
    pub(super) fn queue<'a>(&self, config: &'a Config) -> &'a str {
        match self.queue {
            Which::Dead => &config.broker.names.dead,
            Which::Rejected => &config.broker.names.rejected,
            Which::Unroutable => &config.broker.names.unroutable,
        }
    }

    /// Whether anything narrows the choice. A limit does not: it says how many, not which.
    pub(super) const fn is_everything(&self) -> bool {
        self.integrator.is_none()
            && self.endpoint.is_none()
            && self.reason.is_none()
            && self.event.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }

    /// Reads times and checks the reason.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a time that is none, or a reason that no message of this queue can have.
    pub(super) fn filter(&self, now: Timestamp) -> Result<Filter, CliError> {
        if let Some(reason) = &self.reason {
            self.check_reason(reason)?;
        }
        let time = |text: &Option<String>, option| text.as_deref().map(|text| time(text, option, now)).transpose();
        Ok(Filter {
            integrator: self.integrator.clone(),
            endpoint: self.endpoint.clone(),
            reason: self.reason.clone(),
            event: self.event.clone(),
            since: time(&self.since, "--since")?,
            until: time(&self.until, "--until")?,
            asked_at: None,
            limit: self.limit,
        })
    }

    fn check_reason(&self, reason: &str) -> Result<(), CliError> {
        let known: Vec<&str> = match self.queue {
            Which::Dead => DeadReason::ALL.into_iter().map(DeadReason::as_str).collect(),
            Which::Rejected => RejectReason::CODES.into_iter().chain(BROKER_REASONS).collect(),
            Which::Unroutable => BROKER_REASONS.into_iter().chain([WAIT_IS_OVER]).collect(),
        };
        if known.contains(&reason) {
            return Ok(());
        }
        Err(CliError::Usage(format!("--reason {reason}: no such reason; there are {}", known.join(", "))))
    }
}

impl Filter {
    /// Whether a message is among those that are meant.
    pub(super) fn fits(&self, letter: &Letter) -> bool {
        let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        same(&self.integrator, &letter.integrator)
            && same(&self.endpoint, &letter.endpoint)
            && same(&self.reason, &letter.reason)
            && same(&self.event, &letter.event)
            && self.since.is_none_or(|since| letter.dead_at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| letter.dead_at.is_some_and(|at| at < until))
            && self.asked_at.is_none_or(|asked_at| letter.dead_at.is_none_or(|at| at <= asked_at))
    }

    /// The same without what says that it came later.
    pub(super) fn before_question(self, now: Timestamp) -> Self {
        Self { asked_at: Some(now), ..self }
    }

    /// The same, but no more than `count`.
    pub(super) fn at_most(self, count: usize) -> Self {
        Self { limit: Some(self.limit.map_or(count, |limit| limit.min(count))), ..self }
    }

    /// Whether there may be another one after `count`.
    pub(super) fn admits_another_after(&self, count: usize) -> bool {
        self.limit.is_none_or(|limit| count < limit)
    }
}

fn time(text: &str, option: &str, now: Timestamp) -> Result<Timestamp, CliError> {
    let ago = parse_duration(text).and_then(|ago| i64::try_from(ago.as_millis()).ok());
    let ago = ago.map(|millis| Timestamp::from_millis(now.millis().saturating_sub(millis)));
    ago.or_else(|| Timestamp::parse(text))
        .ok_or_else(|| CliError::Usage(format!("{option} {text}: neither a time such as 2026-01-31T08:00:00Z nor a duration such as 2h")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(10_000_000);

    fn everything(queue: Which) -> Selection {
        Selection { queue, integrator: None, endpoint: None, reason: None, event: None, since: None, until: None, limit: None }
    }

    fn letter() -> Letter {
        let text = |text: &str| Some(text.to_owned());
        Letter {
            integrator: text("acme"),
            endpoint: text("main"),
            reason: text("gone"),
            event: text("evt-1"),
            dead_at: Some(Timestamp::from_millis(9_000_000)),
            ..Letter::default()
        }
    }

    fn fits(selection: &Selection) -> bool {
        selection.filter(NOW).unwrap().fits(&letter())
    }

    #[test]
    fn each_filter_lets_its_own_through_and_nothing_else() {
        let dead = || everything(Which::Dead);
        let text = |text: &str| Some(text.to_owned());
        assert!(fits(&dead()) && dead().is_everything());
        for (right, wrong) in [
            (Selection { integrator: text("acme"), ..dead() }, Selection { integrator: text("other"), ..dead() }),
            (Selection { endpoint: text("main"), ..dead() }, Selection { endpoint: text("Main"), ..dead() }),
            (Selection { reason: text("gone"), ..dead() }, Selection { reason: text("expired"), ..dead() }),
            (Selection { event: text("evt-1"), ..dead() }, Selection { event: text("evt-"), ..dead() }),
            (Selection { since: text("1970-01-01T02:30:00Z"), ..dead() }, Selection { since: text("16m"), ..dead() }),
            (Selection { until: text("16m"), ..dead() }, Selection { until: text("1970-01-01T02:30:00Z"), ..dead() }),
        ] {
            assert!(fits(&right), "{right:?}");
            assert!(!fits(&wrong), "{wrong:?}");
            assert!(!right.is_everything() && !wrong.is_everything());
        }
    }

    #[test]
    fn what_does_not_say_since_when_it_is_dead_fits_no_time() {
        let undated = Letter { dead_at: None, ..letter() };
        for (since, until) in [(Some("1d"), None), (None, Some("0s"))] {
            let selection = Selection { since: since.map(str::to_owned), until: until.map(str::to_owned), ..everything(Which::Dead) };
            assert!(!selection.filter(NOW).unwrap().fits(&undated));
        }
    }

    #[test]
    fn what_comes_after_a_question_is_not_part_of_the_answer() {
        let limited = |limit| Selection { limit, ..everything(Which::Dead) }.filter(NOW).unwrap();
        let filter = limited(None).before_question(Timestamp::from_millis(9_000_000));
        assert!(filter.fits(&letter()) && filter.fits(&Letter { dead_at: None, ..letter() }));
        assert!(!filter.fits(&Letter { dead_at: Some(Timestamp::from_millis(9_000_001)), ..letter() }));
        for (limit, count, admitted) in [(None, 3, 3), (Some(2), 3, 2), (Some(5), 3, 3), (None, 0, 0)] {
            let filter = limited(limit).at_most(count);
            assert_eq!((0..9).take_while(|n| filter.admits_another_after(*n)).count(), admitted);
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_no_empty_result() {
        let reason = |queue, reason: &str| Selection { reason: Some(reason.to_owned()), ..everything(queue) }.filter(NOW);
        assert!(reason(Which::Rejected, "undecodable").is_ok() && reason(Which::Rejected, "delivery_limit").is_ok());
        assert!(reason(Which::Unroutable, "expired").is_ok() && reason(Which::Unroutable, "gone").is_err());
        assert!(matches!(reason(Which::Dead, "undecodable"), Err(CliError::Usage(text)) if text.contains("exhausted, expired, gone")));
        let since = Selection { since: Some("yesterday".to_owned()), ..everything(Which::Dead) };
        assert!(matches!(since.filter(NOW), Err(CliError::Usage(text)) if text.starts_with("--since yesterday: ")));
    }
}
