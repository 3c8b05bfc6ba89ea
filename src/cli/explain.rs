//! `callbackd explain`: what became of an event, and what happens next.

use std::io;

use super::CliError;
use super::terminal::{Out, bytes, line, plain};
use crate::config::Config;
use crate::store::story::{Delivery, State, Story, cause_in_words};
use crate::store::{Reader, StoreError};

/// Tells what became of an event: every attempt in the order of time, and what happens next. Answers from the delivery log.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The event's id, one of its keys (of a record, a customer, a contract, a person ...), or the webhook-id of a message about it.
    #[arg(value_name = "EVENT_OR_KEY")]
    wanted: String,
    /// Only events of this integrator.
    #[arg(long, value_name = "KEY")]
    integrator: Option<String>,
    /// At most so many events, the newest first.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// One JSON object for each event.
    #[arg(long)]
    json: bool,
    /// The event itself too, where it is stored: it is personal data.
    #[arg(long, conflicts_with = "json")]
    payload: bool,
}

impl Explain {
    /// Tells the story to standard output.
    ///
    /// # Errors
    /// [`CliError::Failed`] when the log cannot be read, or knows of no such event.
    pub async fn run(self, config: &Config) -> Result<(), CliError> {
        self.run_to(config, &mut io::stdout()).await
    }

    /// The same, written elsewhere than to standard output.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_to(self, config: &Config, out: Out<'_>) -> Result<(), CliError> {
        let mut reader = Reader::open(&config.delivery_log).await?;
        let (stories, has_more) = reader.stories(&self.wanted, self.integrator.as_deref(), self.limit.into()).await?;
        if stories.is_empty() {
            return Err(CliError::Failed(nothing(&self.wanted, config)));
        }
        for (index, story) in stories.iter().enumerate() {
            if self.json {
                let text = serde_json::to_string(story).map_err(|error| CliError::Failed(error.to_string()))?;
                line(out, &text)?;
                continue;
            }
            if index > 0 {
                line(out, "")?;
            }
            tell(out, story)?;
            if self.payload {
                let body = reader.payload(story).await?;
                bytes(out, &[body.as_deref().unwrap_or(b"(the event is not stored)"), b"\n"])?;
            }
        }
        if has_more {
            eprintln!("there are more events; ask for one by its id, or raise --limit");
        }
        Ok(())
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::Failed(format!("delivery log: {error}"))
    }
}

fn nothing(wanted: &str, config: &Config) -> String {
    let log = &config.delivery_log;
    let (retention, database) = (log.retention.as_secs() / 3600, log.database.as_ref().map(ToString::to_string).unwrap_or_default());
    format!(
        "{database} knows nothing of {:?} as an event's id, a webhook-id or one of the keys {} (upper and lower case differ in values). It may be more than \
         {retention} h old, be on its way to a worker or in its first attempt, have been stored under another `hash_secret`, or have been left out while the log \
         was down (callbackd_delivery_log_entries_total). Look at `callbackd dead list`, with `--queue rejected` and `--queue unroutable` too",
        plain(wanted),
        log.search_keys.names().join(", ")
    )
}

fn tell(out: Out<'_>, story: &Story) -> Result<(), CliError> {
    let Story { event_id, integrator, topic, keys, .. } = story;
    let what = match integrator.as_str() {
        "" => "is a message that is no event".to_owned(),
        integrator => format!("of {}, topic {}", plain(integrator), plain(topic)),
    };
    line(out, &format!("{} {what}", plain(event_id)))?;
    if !keys.is_empty() {
        line(out, &format!("  {}", plain(&keys.join("  "))))?;
    }
    if story.is_cut {
        line(out, "  (older lines are not shown)")?;
    }
    for entry in &story.lines {
        line(out, &format!("{}  {:<12} {}", entry.at, plain(entry.endpoint.as_deref().unwrap_or("-")), plain(&entry.happened())))?;
    }
    for delivery in &story.deliveries {
        let endpoint = delivery.endpoint.as_deref().map_or_else(|| "all endpoints".to_owned(), plain);
        let message = delivery.webhook_id.as_deref().map(|id| format!(", webhook-id {}", plain(id))).unwrap_or_default();
        line(out, &format!("=> {endpoint}{message}: {}", plain(&stands(delivery, story))))?;
    }
    Ok(())
}

fn stands(delivery: &Delivery, story: &Story) -> String {
    let before = delivery.delivered_before.as_deref().map(|at| format!("; was delivered at {at} before")).unwrap_or_default();
    let now = match &delivery.state {
        State::Delivered { at, attempt, status } => format!("delivered at {at} by attempt {attempt} (answered {status})"),
        State::Waiting { cause, due_at: Some(due_at), overdue_s: 0, .. } => {
            format!("waits ({}); goes on at {due_at}", cause_in_words(cause))
        }
        // A worker looks at what is due within a second; what makes room for others comes and goes, and not each time is told.
        State::Waiting { cause, since, .. } if matches!(cause.as_str(), "parked" | "circuit" | "paused" | "held") => {
            format!(
                "waits since {since} ({}): comes back now and then until its endpoint takes it, or it is older than `max_age` and given up",
                cause_in_words(cause)
            )
        }
        State::Waiting { cause, due_at: Some(due_at), overdue_s, .. } => {
            format!(
                "was to go on at {due_at} ({cause}), {overdue_s} s ago: it is on its way, no worker runs, or its story was left out; see /readyz"
            )
        }
        State::Waiting { cause, due_at: None, .. } => format!("waits ({})", cause_in_words(cause)),
        State::Dead { at, reason } => {
            let which = selection(delivery, story);
            format!(
                "given up at {at} ({reason}), and in the dead letters unless it was replayed or discarded since: `callbackd dead show {which}`, then \
                 `callbackd dead replay {which}`"
            )
        }
        State::Rejected { at, reason } => {
            let which = selection(delivery, story);
            format!(
                "rejected at {at} ({reason}): `callbackd dead show --queue rejected {which}`, then `callbackd dead replay --queue rejected {which}`"
            )
        }
        State::Skipped { reason } => format!("is not told, on purpose ({reason})"),
    };
    now + &before
}

/// The options that select this delivery among the dead letters, and no other.
fn selection(delivery: &Delivery, story: &Story) -> String {
    let endpoint = delivery.endpoint.as_deref().map(|id| format!(" --endpoint={}", argument(id))).unwrap_or_default();
    let event = format!("--event={}", argument(&story.event_id));
    match story.integrator.as_str() {
        "" => event,
        integrator => format!("--integrator={}{endpoint} {event}", argument(integrator)),
    }
}

/// A text as a shell takes it for one argument.
fn argument(text: &str) -> String {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte)) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
