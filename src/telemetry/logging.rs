//! Where log lines go and what they look like: standard error, for eyes or for machines.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;
use std::time::Duration;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{EnvFilter, FilterFn, LevelFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::json::JsonLine;
use super::spool::Spool;
use crate::config::{Log, LogFormat};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BadLog {
    /// The directive cannot be read.
    #[error("{origin}: `{directive}` is no log level or filter ({fault}); write for example `info` or `callbackd=debug,warn`")]
    Directive {
        /// The key or variable that holds it.
        origin: &'static str,
        /// The directive.
        directive: String,
        /// What is wrong.
        fault: String,
    },
    /// Logging is set up already.
    #[error("logging is set up twice")]
    Twice,
    /// The system has no thread for the log.
    #[error("no thread for the log: {0}")]
    NoThread(String),
}

/// Bytes of lines that wait for standard error to take them; lines beyond are dropped and counted. Some seconds of a busy
/// worker's log.
const WAITING: usize = 4 << 20;

/// How long the end of the process waits for lines that are not written yet.
const END_LIMIT: Duration = Duration::from_millis(1500);

/// The log of the process: what counts its losses belongs to the process too.
static SPOOL: OnceLock<Spool> = OnceLock::new();

/// Lines that were dropped because standard error did not take them in time, since the log was set up.
pub(super) fn dropped_lines() -> u64 {
    SPOOL.get().map_or(0, Spool::dropped)
}

/// Keeps the log going. Dropping it waits, for a second or so, until every line is written; lines after that are lost.
#[must_use = "without it, lines are lost"]
pub struct LogGuard(Spool);

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.0.close(END_LIMIT);
    }
}

impl fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogGuard").finish_non_exhaustive()
    }
}

/// Sets up the log of this process, on standard error: commands print their results on standard output. The variable
/// `RUST_LOG` wins over the configuration where it is set and not empty. Lines are lost, not waited for, when standard
/// error is closed or nobody reads it: the worker never stands still for its log. The guard is to be held until the end.
///
/// # Errors
/// [`BadLog`], which names the key or variable; nothing is set up then.
pub fn init(log: &Log) -> Result<LogGuard, BadLog> {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|directive| !directive.trim().is_empty());
    let filter = match &from_environment {
        Some(directive) => filter("RUST_LOG", directive)?,
        None => filter("log.level", &log.level)?,
    };
    let on_terminal = std::io::stderr().is_terminal();
    let shape = match log.format {
        LogFormat::Human => Shape::Human,
        LogFormat::Json => Shape::Json,
        LogFormat::Auto if on_terminal => Shape::Human,
        LogFormat::Auto => Shape::Json,
    };
    let colour = on_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (spool, guard) = beside(io::stderr(), WAITING).map_err(|error| BadLog::NoThread(error.to_string()))?;
    subscriber(shape, colour, filter, spool.clone()).try_init().map_err(|_already| BadLog::Twice)?;
    let _ = SPOOL.set(spool);
    Ok(guard)
}

/// Writes to `output` on a thread of its own. At most `limit` bytes wait for it; lines beyond are dropped and counted.
pub(super) fn beside(output: impl io::Write + Send + 'static, limit: usize) -> io::Result<(Spool, LogGuard)> {
    let spool = Spool::start(output, limit)?;
    Ok((spool.clone(), LogGuard(spool)))
}

/// The two shapes that are left when `auto` is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Human,
    Json,
}

/// The target of what operators change: told at every level but `off`.
const AUDIT: &str = "callbackd::audit";

/// Reads a directive. A bare level speaks of callbackd alone: the libraries below it then say only what is wrong, as
/// their debug lines are long and were not written with our rules in mind. lapin says nothing then: it calls an error what
/// we mend and tell as a fact of our own (a queue that has to be declared, a connection that is made again).
pub(super) fn filter(origin: &'static str, directive: &str) -> Result<EnvFilter, BadLog> {
    let full = match directive.trim().parse::<LevelFilter>() {
        Ok(LevelFilter::OFF) => "off".to_owned(),
        Ok(level) => format!("callbackd={level},{},lapin=off,{AUDIT}=info", level.min(LevelFilter::WARN)),
        Err(_) if directive.contains(AUDIT) => directive.to_owned(),
        Err(_) => format!("{directive},{AUDIT}=info"),
    };
    EnvFilter::try_new(full).map_err(|fault| BadLog::Directive { origin, directive: directive.to_owned(), fault: fault.to_string() })
}

/// Everything behind a `tracing` event: filter, shape, writer.
pub(super) fn subscriber<W>(shape: Shape, colour: bool, filter: EnvFilter, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let base = tracing_subscriber::registry().with(filter).with(printable());
    // A closed standard error must not become a panic, which is what reporting the failed write there would be.
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour).log_internal_errors(false);
    match shape {
        Shape::Json => Box::new(base.with(layer.event_format(JsonLine))),
        Shape::Human => {
            let fields = debug_fn(|writer, field, value| match field.name() {
                "message" => write!(OneLine(writer), "{value:?}"),
                name => write!(OneLine(writer), "{name}={value:?}"),
            });
            Box::new(base.with(layer.fmt_fields(fields.delimited(" "))))
        }
    }
}

/// What is never printed, whatever the directive says: returned messages, which lapin logs at `warn` with their body, and
/// lines of level `trace`, in which libraries show frames with credentials and payloads. We write none.
fn printable() -> FilterFn<fn(&Metadata<'_>) -> bool> {
    fn is_printable(metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG && !metadata.target().starts_with("lapin::returned_messages")
    }
    filter_fn(is_printable as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::DEBUG)
}

/// Escapes what would end a line or be obeyed by a terminal. Our own fields are escaped as strings before they come here;
/// this is for the words of libraries.
struct OneLine<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for OneLine<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
            match part.char_indices().next_back() {
                Some((at, c)) if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    write!(self.0, "{}{}", &part[..at], c.escape_default())?;
                }
                _ => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}
