//! What an integrator is sent: the classic array of compliance records or the array of topic messages.

mod classic;
mod topic;

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

/// The body of one callback with these events, in order: always a JSON array. For those who have one event, or for whom the
/// events stand or fall together; a request of several is written with [`Body::write`].
///
/// # Errors
/// [`Unrenderable`] when any event has no form in the format; nothing is ever rendered half.
pub fn render(format: Format, events: &[&Event]) -> Result<Rendering, Unrenderable> {
    let mut body = Body::new(format, events.iter().copied());
    for event in events {
        body.write(event)?;
    }
    Ok(body.finish().map_or(Rendering::Nothing, Rendering::Body))
}

/// A body under construction: a JSON array to which events are added one by one. What becomes of one of them changes nothing
/// for the others.
pub struct Body {
    format: Format,
    bytes: Vec<u8>,
}

impl fmt::Debug for Body {
    /// Without the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({}, {} bytes)", self.format, self.len())
    }
}

/// What an event that has a form added to a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrote {
    /// Its entries.
    Entries,
    /// Nothing: the format has nothing to say about it (classic: no records). Not a failure.
    Nothing,
}

impl Body {
    /// What a rendering adds to an event as published, in the common case: `topic` twice, with its marks.
    const MARGIN: usize = 64;

    /// An empty body with room for these events, so that they are written without the body being moved.
    #[must_use]
    pub fn new<'a>(format: Format, events: impl IntoIterator<Item = &'a Event>) -> Self {
        let room: usize = events.into_iter().map(|event| event.body_len() + Self::MARGIN).sum();
        Self { format, bytes: Vec::with_capacity(room + 2) }
    }

    /// Adds an event.
    ///
    /// # Errors
    /// [`Unrenderable`] when the event has no form in the format; the body is then as it was before.
    pub fn write(&mut self, event: &Event) -> Result<Wrote, Unrenderable> {
        let mark = self.bytes.len();
        let written = match self.format {
            Format::Classic => classic::write_records(event, &mut self.bytes),
            Format::Topic => topic::write_entry(event, &mut self.bytes),
        };
        if let Err(fault) = written {
            self.bytes.truncate(mark);
            return Err(fault);
        }
        Ok(if self.bytes.len() > mark { Wrote::Entries } else { Wrote::Nothing })
    }

    /// Bytes of the whole body as it is now; 0 when nothing has been written.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.is_empty() { 0 } else { self.bytes.len() + 1 }
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The body to send; `None` when no event had anything to say.
    #[must_use]
    pub fn finish(mut self) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        self.bytes.push(b']');
        Some(self.bytes)
    }
}

/// Puts in front of an entry what it needs: the start of the array, or the comma after the entry before.
fn separate(body: &mut Vec<u8>) {
    body.push(if body.is_empty() { b'[' } else { b',' });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::decode::{Metadata, decode};

    fn event(data: &str) -> Event {
        let body = format!(r#"{{"id":"e","integrator":"acme","topic":"complianceRecord","data":{data}}}"#);
        decode(body.into(), &Metadata::default()).unwrap()
    }

    const RECORD: &str = r#"{"status":100,"key":"k","modified":"m"}"#;

    #[test]
    fn an_event_that_says_nothing_or_cannot_be_said_leaves_its_neighbours_alone() {
        let good = event(&format!("[{RECORD}]"));
        let (empty, none, broken) = (event("[]"), event("{}"), event(&format!("[{RECORD},{{}}]")));
        for (before, after) in [(0, 1), (1, 0), (1, 1), (2, 2)] {
            let mut body = Body::new(Format::Classic, [&good, &empty]);
            let write_good = |body: &mut Body, times| (0..times).for_each(|_| assert_eq!(body.write(&good), Ok(Wrote::Entries)));
            write_good(&mut body, before);
            assert_eq!(body.write(&empty), Ok(Wrote::Nothing));
            assert_eq!(body.write(&none), Err(Unrenderable::NoRecords));
            assert!(matches!(body.write(&broken), Err(Unrenderable::Member { record: 1, .. })));
            write_good(&mut body, after);
            let length = body.len();
            let bytes = body.finish().unwrap();
            assert_eq!(String::from_utf8(bytes.clone()).unwrap(), format!("[{}]", vec![RECORD; before + after].join(",")));
            assert_eq!(length, bytes.len());
        }
    }

    #[test]
    fn a_body_of_nothing_is_none() {
        let mut body = Body::new(Format::Classic, []);
        assert_eq!(body.write(&event("[]")), Ok(Wrote::Nothing));
        assert!(body.write(&event("{}")).is_err());
        assert_eq!((body.len(), body.is_empty(), body.finish()), (0, true, None));
        let mut body = Body::new(Format::Topic, []);
        assert_eq!(body.write(&event(r#"{"topic":1}"#)), Err(Unrenderable::FieldsNameTopic));
        assert_eq!((body.len(), body.is_empty(), body.finish()), (0, true, None));
    }

    #[test]
    fn an_event_is_written_into_the_room_that_was_made_for_it() {
        let event = event(&format!("[{}]", vec![RECORD; 50].join(",")));
        for format in [Format::Classic, Format::Topic] {
            let mut body = Body::new(format, [&event]);
            let room = body.bytes.capacity();
            body.write(&event).unwrap();
            assert_eq!(body.finish().unwrap().capacity(), room, "{format}");
        }
    }
}
