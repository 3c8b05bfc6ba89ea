//! `callbackd dead list`: a line for each message.

use lapin::message::Delivery;

use super::filter::Selection;
use crate::cli::CliError;
use crate::cli::terminal::{Out, Table, line, plain};
use crate::clock;
use crate::config::Config;
use crate::domain::time::Timestamp;
use crate::letters::{Broken, Filter, Letter, look};

/// What is there, without payloads. The table has what fits on a line; `--json` and `show` have everything.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    selection: Selection,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) async fn run(self, config: &Config, out: Out<'_>) -> Result<(), CliError> {
        let filter = self.selection.filter(clock::now())?;
        let queue = self.selection.queue(config);
        let (mut table, mut tally) = (Table::new(HEADING), Tally::default());
        let is_kept = |letter: &Letter| tally.shows(filter.fits(letter), &filter);
        let window = |kept: Vec<(Letter, Delivery)>| {
            if self.json {
                return kept.iter().try_for_each(|(letter, _)| line(out, &json_line(letter)?));
            }
            table.rows(out, &kept.iter().map(|(letter, _)| row(letter)).collect::<Vec<_>>())
        };
        let unreadable = look(config, queue, is_kept, window).await?;
        eprintln!("{}", tally.summary(queue, unreadable.is_some()));
        unreadable.map_or(Ok(()), |unreadable| Err(Broken::Unreadable(unreadable).into()))
    }
}

/// How many messages were looked at, fit, and were shown.
#[derive(Debug, Default)]
struct Tally {
    seen: usize,
    fitting: usize,
    shown: usize,
}

impl Tally {
    fn shows(&mut self, fits: bool, filter: &Filter) -> bool {
        self.seen += 1;
        self.fitting += usize::from(fits);
        let is_shown = fits && filter.admits_another_after(self.shown);
        self.shown += usize::from(is_shown);
        is_shown
    }

    fn summary(&self, queue: &str, cut_short: bool) -> String {
        let readable = if cut_short { " that can be read" } else { "" };
        let limit = if self.shown < self.fitting { format!("; --limit cuts after {}", self.shown) } else { String::new() };
        format!("{} of {} in {queue}{readable}{limit}", self.fitting, self.seen)
    }
}

/// Without the topic: with it, lines of usual values do not fit.
const HEADING: [&str; 8] = ["#", "since (UTC)", "integrator", "endpoint", "event", "reason", "tries", "answer"];

fn row(letter: &Letter) -> [String; 8] {
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), plain);
    [
        letter.position.to_string(),
        letter.dead_at.map_or_else(|| "-".to_owned(), short_time),
        text(&letter.integrator),
        text(&letter.endpoint),
        text(&letter.event),
        text(&letter.reason),
        letter.attempts.to_string(),
        letter
            .last_status
            .map_or_else(|| text(letter.last_error.as_ref().map_or(&letter.detail, |_| &letter.last_error)), |n| n.to_string()),
    ]
}

/// `11-24 07:27:53`: the queues keep nothing long enough for the year to matter.
fn short_time(at: Timestamp) -> String {
    let full = at.to_string();
    match full.split_once('T').zip(full.get(5..19)) {
        Some((_, part)) => part.replace('T', " "),
        None => full,
    }
}

/// Members in the order of the alphabet.
fn json_line(letter: &Letter) -> Result<String, CliError> {
    let value = serde_json::to_value(letter).map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_was_left_out() {
        let tally = |shown| Tally { seen: 120, fitting: 3, shown };
        assert_eq!(tally(3).summary("callbacks.dead", false), "3 of 120 in callbacks.dead");
        assert_eq!(tally(2).summary("callbacks.dead", false), "3 of 120 in callbacks.dead; --limit cuts after 2");
        assert_eq!(tally(3).summary("callbacks.dead", true), "3 of 120 in callbacks.dead that can be read");
    }

    #[test]
    fn a_time_is_short_but_whole() {
        assert_eq!(short_time(Timestamp::from_millis(1_756_881_488_042)), "09-03 06:38:08");
        assert_eq!(short_time(Timestamp::from_millis(i64::MAX)), format!("{}ms", i64::MAX));
    }
}
