//! `callbackd dead replay`: back to where it is delivered from.

use std::sync::Arc;
use std::time::Duration;

use super::bar::Bar;
use super::filter::Selection;
use crate::broker::Outlet;
use crate::cli::CliError;
use crate::cli::terminal::{Out, line};
use crate::clock;
use crate::config::{Config, parse_rate};
use crate::domain::policy::Rate;
use crate::letters::{Action, Broken, Errand, Leash, Limits, Tally, run};

/// Back to where it is delivered from, with the same event id. A delivery goes to its one endpoint again, from the first
/// attempt on; an event that was rejected as a whole goes to all of its integrator's endpoints. A retry that found no queue
/// (`--queue unroutable`) goes on where it was: its attempts stay.
#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    #[command(flatten)]
    selection: Selection,
    /// No faster than this, such as `50/s`. What comes to the queue meanwhile is left there, and others can look at it from time to time.
    #[arg(long, value_parser = rate, value_name = "N/s")]
    rate: Option<Rate>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

impl Replay {
    pub(super) async fn run(self, config: &Config, out: Out<'_>) -> Result<(), CliError> {
        let now = clock::now();
        let mut filter = self.selection.filter(now)?;
        if self.rate.is_some() {
            // What dies again on the way would go round in circles.
            filter = filter.before_question(now);
        }
        let outlet = Arc::new(Outlet::open(&config.broker, "replay").await?);
        let action = if self.dry_run { Action::Count } else { Action::Replay(Arc::clone(&outlet)) };
        let (bar, leash) = (Bar::default(), Leash::new(Limits { rate: self.rate, ..Limits::default() }));
        let mut errand = Errand::new(config, filter, action, leash, &bar);
        let done = run(&mut errand, self.selection.queue(config)).await;
        let tally = errand.tally();
        outlet.close().await;
        tell(tally, out, self.dry_run)?;
        match done? {
            Some(unreadable) => Err(Broken::Unreadable(unreadable).into()),
            None if tally.failed > 0 => Err(CliError::Failed(format!("{} could not be replayed and stay where they are", tally.failed))),
            None => Ok(()),
        }
    }
}

fn tell(tally: Tally, out: Out<'_>, dry_run: bool) -> Result<(), CliError> {
    if dry_run {
        return line(out, &format!("would replay {}", tally.fitting));
    }
    line(out, &format!("replayed {}, failed {}", tally.done, tally.failed))
}

/// Most in a second that a rate may be: what the broker takes.
const FASTEST: u32 = 5000;

fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("{text} is no rate such as 50/s (1 to {FASTEST})");
    let (number, per) = parse_rate(text).ok_or_else(wrong)?;
    let requests = u32::try_from(number).ok().filter(|number| *number <= FASTEST).and_then(std::num::NonZeroU32::new).ok_or_else(wrong)?;
    if per != Duration::from_secs(1) { Err(wrong()) } else { Ok(Rate { requests, per }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_so_many_a_second() {
        assert_eq!(rate("50/s").map(|rate| rate.requests.get()), Ok(50));
        for text in ["", "50", "0/s", "5001/s", "1/m", "-1/s", "fast"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
