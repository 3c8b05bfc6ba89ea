//! `callbackd publish`: events from files into the broker, as upstream would publish them, each with proof.

use std::io::Write;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future;
use futures_util::stream::{self, StreamExt as _};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::CliError;
use super::event_file::{BadEventFile, EventFile, EventFiles, FileProperties};
use super::terminal::{line, progress};
use crate::broker::{Letterhead, Outlet};
use crate::config::Config;

/// Events that are read before it is their turn; as each may be large, no more than keep the publishing going.
const AHEAD: usize = 4;

/// Publishes events from files (`-`: standard input), each confirmed by the broker. An event that no queue takes has failed.
#[derive(Debug, clap::Args)]
pub struct Publish {
    /// The source whose exchange gets the events; may be left out where there is only one.
    #[arg(long, conflicts_with_all = ["exchange", "routing_key"])]
    source: Option<String>,
    /// Another exchange.
    #[arg(long, requires = "routing_key")]
    exchange: Option<String>,
    /// The routing key; for a source it is the event's property `type`, else the source's name.
    #[arg(long, requires = "exchange")]
    routing_key: Option<String>,
    /// How often each file is published; the bytes stay the same, and so do event ids.
    #[arg(long, default_value = "1", value_name = "N")]
    repeat: NonZeroU32,
    /// No faster than this, such as `100/s`.
    #[arg(long, value_parser = rate)]
    rate: Option<Duration>,
    /// Files of JSON documents, one after another.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Where the events go.
struct Target {
    exchange: String,
    /// The routing key, and whether the event's topic takes its place.
    routing_key: String,
    by_topic: bool,
}

impl Publish {
    /// Publishes everything and prints how many were published and failed.
    ///
    /// # Errors
    /// [`CliError::Usage`] when it is not clear where to publish to, or standard input is to be read twice; [`CliError::Failed`] when a
    /// file cannot be read on, or an event failed (each is named with its number). Whatever was published before is.
    pub async fn run(self, config: &Config) -> Result<(), CliError> {
        self.run_to(config, &mut std::io::stdout()).await
    }

    /// The same with the results written elsewhere than to standard output.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_to(self, config: &Config, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let target = self.target(config)?;
        if self.repeat.get() > 1 && self.files.iter().any(|file| file.as_os_str() == "-") {
            return Err(CliError::Usage("standard input can be read only once: --repeat needs files".to_owned()));
        }
        let outlet = Outlet::open(&config.broker, "publish").await?;
        let bar = progress(0);
        let (mut published, mut failed, mut unreadable) = (0_u64, 0_u64, None);
        let mut read = self.read_ahead();
        let events = stream::poll_fn(move |context| read.poll_recv(context)).filter_map(|event| {
            let event = event.map_err(|error| unreadable = Some(error));
            future::ready(event.ok())
        });
        let paced = events.then(pace(self.rate));
        let mut results = paced
            .enumerate()
            .map(|(index, event)| {
                let sent = send(&outlet, &target, event);
                async move { (index + 1, sent.await) }
            })
            .buffer_unordered(config.broker.publish_channels.max(1));
        while let Some((number, result)) = results.next().await {
            bar.inc(1);
            match result {
                Ok(()) => published += 1,
                Err(why) => {
                    failed += 1;
                    bar.suspend(|| eprintln!("event {number}: {why}"));
                }
            }
        }
        drop(results);
        bar.finish_and_clear();
        outlet.close().await;
        line(out, &format!("published {published}, failed {failed}"))?;
        match unreadable {
            Some(error) => Err(CliError::Failed(error)),
            None if failed > 0 => Err(CliError::Failed(format!("{failed} events were not published"))),
            None => Ok(()),
        }
    }

    fn target(&self, config: &Config) -> Result<Target, CliError> {
        if let (Some(exchange), Some(routing_key)) = (&self.exchange, &self.routing_key) {
            return Ok(Target { exchange: exchange.clone(), routing_key: routing_key.clone(), by_topic: false });
        }
        let source = match (&self.source, config.sources.as_slice()) {
            (Some(name), sources) => sources.iter().find(|source| source.name.as_str() == name),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        let names = || config.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
        let source = source.ok_or_else(|| CliError::Usage(format!("--source: one of {}", names())))?;
        Ok(Target { exchange: source.exchange.clone(), routing_key: source.name.to_string(), by_topic: true })
    }

    /// The events, read a few ahead. A file may be a pipe that nobody writes to for a while: reading it on this thread, which
    /// is the only one, would stop what is being published and the connection's heartbeats.
    fn read_ahead(&self) -> mpsc::Receiver<Result<EventFile, String>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (files, repeat) = (self.files.clone(), self.repeat);
        tokio::task::spawn_blocking(move || {
            for event in events(&files, repeat) {
                let unreadable = event.is_err();
                // Nobody takes it once the command has ended.
                if sender.blocking_send(event).is_err() || unreadable {
                    break;
                }
            }
        });
        receiver
    }
}

/// Every event of every file, read when it is its turn.
fn events(files: &[PathBuf], repeat: NonZeroU32) -> impl Iterator<Item = Result<EventFile, String>> {
    let files = (0..repeat.get()).flat_map(move |_| files);
    files.flat_map(|path| {
        let named = move |error: BadEventFile| format!("{}: {error}", path.display());
        let (events, fault) = match EventFiles::open(path) {
            Ok(events) => (Some(events), None),
            Err(error) => (None, Some(Err(named(error)))),
        };
        events.into_iter().flatten().map(move |event| event.map_err(named)).chain(fault)
    })
}

async fn send(outlet: &Outlet, target: &Target, event: EventFile) -> Result<(), String> {
    let topic = event.properties.message_type.as_deref().filter(|_| target.by_topic);
    let routing_key = topic.unwrap_or(&target.routing_key);
    let head = Letterhead { exchange: &target.exchange, routing_key, properties: properties(&event.properties)? };
    outlet.publish(head, &event.body).await.map(drop).map_err(|error| error.to_string())
}

fn properties(from: &FileProperties) -> Result<BasicProperties, String> {
    let short =
        |what: &str, text: &str| ShortString::try_new(text).map_err(|_| format!("{what} is longer than the 255 bytes that AMQP allows"));
    let mut properties = BasicProperties::default().with_content_type("application/json".into());
    if let Some(id) = &from.message_id {
        properties = properties.with_message_id(short("`message_id`", id)?);
    }
    if let Some(topic) = &from.message_type {
        properties = properties.with_type(short("`type`", topic)?);
    }
    if let Some(timestamp) = from.timestamp {
        properties = properties.with_timestamp(timestamp);
    }
    let mut headers = FieldTable::default();
    for (name, value) in &from.headers {
        headers.insert(short("a header's name", name)?, AMQPValue::LongString(value.as_str().into()));
    }
    Ok(properties.with_headers(headers))
}

/// Lets an event pass at each beat. A beat that was missed is made up for, so that the mean rate is the one that was asked for.
fn pace<T>(beat: Option<Duration>) -> impl FnMut(T) -> futures_util::future::BoxFuture<'static, T>
where
    T: Send + 'static,
{
    let mut next = Instant::now();
    move |event| {
        let at = next;
        next += beat.unwrap_or_default();
        Box::pin(async move {
            if beat.is_some() {
                tokio::time::sleep_until(at).await;
            }
            event
        })
    }
}

/// `100/s`, `30/m`: the time between two events.
fn rate(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is no rate such as 100/s or 30/m");
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let unit = match unit {
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return Err(wrong()),
    };
    let count: NonZeroU32 = count.parse().map_err(|_| wrong())?;
    Ok(unit / count.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_over_a_unit() {
        assert_eq!(rate("100/s"), Ok(Duration::from_millis(10)));
        assert_eq!(rate("30/m"), Ok(Duration::from_secs(2)));
        for text in ["", "100", "0/s", "-1/s", "1/d", "fast"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn no_faster_than_asked() {
        let start = Instant::now();
        let beats = stream::iter(0..51).then(pace(Some(Duration::from_millis(2)))).count().await;
        assert_eq!(beats, 51);
        assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
    }
}
