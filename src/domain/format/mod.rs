//! What an integrator is sent: the classic array of compliance records or the array of topic messages.

pub mod classic;
pub mod topic;

use std::fmt;

use super::event::Event;
use super::names::Topic;

/// The shape of a callback's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// Bare compliance records; in production for years, never changes.
    #[default]
    Classic,
    /// Messages with a `topic`; opt-in.
    Topic,
}

impl Format {
    /// Whether the format has a form for events of a topic: the classic one carries compliance records alone.
    #[must_use]
    pub fn carries(self, topic: &Topic) -> bool {
        self == Self::Topic || topic.as_str() == Topic::COMPLIANCE_RECORD
    }

    /// The name in configuration, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Topic => "topic",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of rendering.
#[derive(Clone, PartialEq, Eq)]
pub enum Rendering {
    /// The body to send.
    Body(Vec<u8>),
    /// The format has nothing to say about these events (classic: no records). Not a failure.
    Nothing,
}

impl fmt::Debug for Rendering {
    /// Without the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(body) => write!(f, "Body({} bytes)", body.len()),
            Self::Nothing => f.write_str("Nothing"),
        }
    }
}

/// Why an event has no form in a format. Holds nothing of the payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unrenderable {
    /// Classic: the event carries no array of records.
    #[error("the event has no array of records")]
    NoRecords,
    /// Classic: a record is not an object.
    #[error("record {0} is not an object")]
    RecordShape(usize),
    /// Classic: a member is absent or has the wrong type.
    #[error("record {record}: `{member}` is not a {expected}")]
    Member {
        /// Counted from 0.
        record: usize,
        /// The member of the record.
        member: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// Classic: a member stands in a record twice, and receivers would disagree about which one counts.
    #[error("record {record}: `{member}` stands there twice")]
    Twice {
        /// Counted from 0.
        record: usize,
        /// The member of the record.
        member: &'static str,
    },
    /// Topic: array data under a member named `topic` would stand beside `topic`.
    #[error("the data cannot stand under the member `topic`")]
    TopicTwice,
    /// Topic: the fields bring a `topic` of their own.
    #[error("the fields have a member `topic` of their own")]
    FieldsNameTopic,
}

/// The body of one callback with these events, in order: always a JSON array.
///
/// # Errors
/// [`Unrenderable`] when any event has no form in the format; nothing is ever rendered half.
pub fn render(format: Format, events: &[&Event]) -> Result<Rendering, Unrenderable> {
    let mut body = Vec::with_capacity(events.iter().map(|event| event.body_len() + 64).sum::<usize>() + 2);
    body.push(b'[');
    for event in events {
        match format {
            Format::Classic => classic::write_records(event, &mut body)?,
            Format::Topic => topic::write_entry(event, &mut body)?,
        }
    }
    if body.len() == 1 {
        return Ok(Rendering::Nothing);
    }
    body.push(b']');
    Ok(Rendering::Body(body))
}

/// Puts the comma between entries of an array.
fn separate(body: &mut Vec<u8>) {
    if body.last() != Some(&b'[') {
        body.push(b',');
    }
}
