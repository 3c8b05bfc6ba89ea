//! Which messages a command is about.

use clap::ValueEnum;

use crate::cli::CliError;
use crate::config::{Config, parse_past};
use crate::domain::time::Timestamp;
use crate::letters::{Filter, Queue};

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

impl From<Which> for Queue {
    fn from(which: Which) -> Self {
        match which {
            Which::Dead => Self::Dead,
            Which::Rejected => Self::Rejected,
            Which::Unroutable => Self::Unroutable,
        }
    }
}

impl Selection {
    /// The queue's name on the broker.
    pub(super) fn queue<'a>(&self, config: &'a Config) -> &'a str {
        Queue::from(self.queue).name(config)
    }

    /// Reads times and checks the reason.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a time that is none, or a reason that no message of this queue can have.
    pub(super) fn filter(&self, now: Timestamp) -> Result<Filter, CliError> {
        let time = |text: &Option<String>, option| text.as_deref().map(|text| time(text, option, now)).transpose();
        let filter = Filter {
            integrator: self.integrator.clone(),
            endpoint: self.endpoint.clone(),
            reason: self.reason.clone(),
            event: self.event.clone(),
            since: time(&self.since, "--since")?,
            until: time(&self.until, "--until")?,
            limit: self.limit,
            asked_at: None,
        };
        filter.check_reason(self.queue.into()).map_err(|error| CliError::Usage(format!("--reason {error}")))?;
        Ok(filter)
    }
}

fn time(text: &str, option: &str, now: Timestamp) -> Result<Timestamp, CliError> {
    parse_past(text, now)
        .ok_or_else(|| CliError::Usage(format!("{option} {text}: neither a time such as 2026-01-31T08:00:00Z nor a duration such as 2h")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::letters::Letter;

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

    fn is_everything(selection: &Selection) -> bool {
        selection.filter(NOW).unwrap().is_everything()
    }

    #[test]
    fn each_filter_lets_its_own_through_and_nothing_else() {
        let dead = || everything(Which::Dead);
        let text = |text: &str| Some(text.to_owned());
        assert!(fits(&dead()) && is_everything(&dead()));
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
            assert!(!is_everything(&right) && !is_everything(&wrong));
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
    fn a_slip_of_the_pen_is_no_empty_result() {
        let reason = |queue, reason: &str| Selection { reason: Some(reason.to_owned()), ..everything(queue) }.filter(NOW);
        assert!(reason(Which::Rejected, "undecodable").is_ok() && reason(Which::Rejected, "delivery_limit").is_ok());
        assert!(reason(Which::Unroutable, "expired").is_ok() && reason(Which::Unroutable, "gone").is_err());
        assert!(matches!(reason(Which::Dead, "undecodable"), Err(CliError::Usage(text)) if text.contains("exhausted, expired, gone")));
        let since = Selection { since: Some("yesterday".to_owned()), ..everything(Which::Dead) };
        assert!(matches!(since.filter(NOW), Err(CliError::Usage(text)) if text.starts_with("--since yesterday: ")));
    }
}
