//! The ledger: one line for everything that somebody did or saw, written before it goes on.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Microseconds since the Unix epoch. Everybody who writes runs on one machine, so one clock.
    pub at: u64,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Entry {
    /// An event is about to be published.
    Publishing {
        /// Its number.
        event: u64,
    },
    /// What came of it.
    Published {
        /// Its number.
        event: u64,
        /// The broker's word.
        word: Word,
    },
    /// A request came in and is about to be answered.
    Seen {
        /// The event that it names; none where it names none of ours.
        event: Option<u64>,
        /// `callback-attempt`.
        attempt: u32,
        /// The status of the answer; 0: no answer.
        answer: u16,
        /// What is wrong with it.
        flaw: Option<Flaw>,
    },
    /// A message was taken out of a queue at the end, or before the queue was deleted.
    Drained {
        /// The queue.
        queue: String,
        /// The event; none where it is none of ours.
        event: Option<u64>,
    },
    /// Something is about to be broken.
    FaultBegins {
        /// What.
        fault: String,
        /// Deliveries that may be in flight where it strikes.
        in_flight: u32,
    },
    /// It is as before.
    FaultEnds,
    /// A broker that was down takes connections again.
    BrokerAccepts,
    /// A worker did what it must not: ended by itself, or not in order.
    Misconduct {
        /// What.
        text: String,
    },
}

/// What the broker said to a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It has the message.
    Confirmed,
    /// No queue wants it.
    Returned,
    /// It refuses.
    Nacked,
    /// Nothing: the connection broke or the time was over. It may have the message.
    Nothing,
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// Another endpoint's event, or another integrator's key or name.
    Misdelivered,
    /// Not the body that belongs to the event.
    Corrupted,
    /// Not signed by the integrator's key, or not lately.
    BadSignature,
}

impl Entry {
    /// The event that it is about.
    #[must_use]
    pub const fn event(&self) -> Option<u64> {
        match self {
            Self::Publishing { event } | Self::Published { event, .. } => Some(*event),
            Self::Seen { event, .. } | Self::Drained { event, .. } => *event,
            _ => None,
        }
    }
}

/// Microseconds since the Unix epoch.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The file that everybody writes to.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: Mutex<File>,
}

impl Ledger {
    /// A new one.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file) })
    }

    /// Writes a line; it is with the operating system when this returns.
    ///
    /// # Panics
    /// When it cannot be written: a suite that knows only half of what happened must not judge.
    pub fn write(&self, entry: Entry) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that lines stand in the order of their times.
        let mut line = serde_json::to_vec(&Record { at: now(), entry }).expect("an entry is JSON");
        line.push(b'\n');
        file.write_all(&line).expect("the ledger is written");
    }

    /// Everything that was written.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it is none.
    pub fn read(&self) -> anyhow::Result<Vec<Record>> {
        let lines = BufReader::new(File::open(&self.path)?).lines();
        lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let entry = Entry::Seen { event: Some(7), attempt: 2, answer: 500, flaw: Some(Flaw::BadSignature) };
        let record = Record { at: 5, entry };
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(line, r#"{"at":5,"what":"seen","event":7,"attempt":2,"answer":500,"flaw":"bad_signature"}"#);
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
    }
}
