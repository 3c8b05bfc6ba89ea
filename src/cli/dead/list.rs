//! `callbackd dead list`: a line for each message.

use serde_json::json;

use super::browse::Pass;
use super::filter::Selection;
use super::letter::Letter;
use crate::cli::CliError;
use crate::cli::terminal::{Out, line, plain};
use crate::clock;
use crate::config::Config;
use crate::domain::time::Timestamp;

/// What is there, without payloads.
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
        let mut pass = Pass::start(config, self.selection.queue(config), None).await?;
        if !self.json {
            line(out, &HEADING.join("  "))?;
        }
        let (mut shown, mut fitting, mut written) = (0, 0, Ok(()));
        let more = |fits: &mut usize, letter: &Letter| {
            let fitting = filter.fits(letter);
            *fits += usize::from(fitting);
            fitting
        };
        while pass
            .window(|position, delivery| {
                let letter = Letter::read(&delivery, position, config);
                if more(&mut fitting, &letter) && filter.admits_another_after(shown) && written.is_ok() {
                    shown += 1;
                    written = line(out, &if self.json { json_line(&letter) } else { row(&letter) });
                }
            })
            .await?
        {}
        let seen = pass.bound();
        pass.finish().await?;
        written?;
        if !self.json {
            eprintln!("{shown} shown, {fitting} fit, {seen} in {}", self.selection.queue(config));
        }
        Ok(())
    }
}

/// Widths are those of usual values; a longer one moves its line alone, so that lines can be written as they come.
const HEADING: [&str; 12] = [
    "     #",
    "event                               ",
    "integrator      ",
    "endpoint    ",
    "topic               ",
    "reason            ",
    "attempts",
    "first attempt           ",
    "last attempt            ",
    "status",
    "dead since              ",
    "bytes     last error",
];

fn row(letter: &Letter) -> String {
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), plain);
    let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let status = letter.last_status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    let error = letter.last_error.as_ref().or(letter.detail.as_ref()).cloned();
    format!(
        "{:>6}  {:<36}  {:<16}  {:<12}  {:<20}  {:<18}  {:>8}  {:<24}  {:<24}  {:>6}  {:<24}  {:<8}  {}",
        letter.position,
        text(&letter.event),
        text(&letter.integrator),
        text(&letter.endpoint),
        text(&letter.topic),
        text(&letter.reason),
        letter.attempts,
        time(letter.first_attempt_at),
        time(letter.last_attempt_at),
        status,
        time(letter.dead_at),
        letter.size,
        text(&error),
    )
}

fn json_line(letter: &Letter) -> String {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    json!({
        "position": letter.position, "source": letter.source, "event": letter.event, "integrator": letter.integrator,
        "endpoint": letter.endpoint, "topic": letter.topic, "reason": letter.reason, "detail": letter.detail, "attempts": letter.attempts,
        "first_attempt_at": time(letter.first_attempt_at), "last_attempt_at": time(letter.last_attempt_at),
        "last_status": letter.last_status, "last_error": letter.last_error, "dead_at": time(letter.dead_at), "size": letter.size,
    })
    .to_string()
}
