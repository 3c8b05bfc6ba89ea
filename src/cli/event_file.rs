//! Files of events: JSON documents one after another, each an event with its AMQP properties or a body alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::decode::Metadata;

/// Bytes of one document beyond which reading stops: four times the largest body that the worker takes by default, so
/// that too large events can be published on purpose and an endless file still ends.
pub const DOCUMENT_LIMIT: usize = 64 * 1024 * 1024;

/// An event as a file writes it: `{"properties":{…},"body":…}`, or the body alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFile {
    /// What stands in the AMQP properties.
    pub properties: FileProperties,
    /// The AMQP body: the bytes of the file, neither parsed nor written anew.
    pub body: Bytes,
}

/// The AMQP properties of an event in a file. A member that is not listed here is refused, so that a slip of the pen is
/// not silently left out of the message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileProperties {
    /// Property `message_id`: the event's id.
    pub message_id: Option<String>,
    /// Property `type`: the topic. Written `message_type` or `type`.
    #[serde(alias = "type")]
    pub message_type: Option<String>,
    /// Property `timestamp`, in seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// AMQP headers; texts alone.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

impl FileProperties {
    /// The same as the broker would hand them to the worker.
    #[must_use]
    pub fn metadata(&self) -> Metadata<'_> {
        let header = |name: &str| self.headers.get(name).map(String::as_bytes);
        Metadata {
            message_id: self.message_id.as_deref(),
            message_type: self.message_type.as_deref(),
            timestamp: self.timestamp,
            integrator: header("integrator"),
            traceparent: header("traceparent"),
            tracestate: header("tracestate"),
        }
    }
}

/// Why a file of events cannot be read on. Holds nothing of a body.
#[derive(Debug, thiserror::Error)]
pub enum BadEventFile {
    /// The file cannot be opened or read.
    #[error("cannot read: {0}")]
    Read(#[source] io::Error),
    /// What stands there is not JSON in UTF-8.
    #[error("document {document} is not JSON: line {line}, column {column}")]
    NotJson {
        /// Counted from 1.
        document: usize,
        /// Of the whole file, counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// The properties hold something unknown or of a wrong type.
    #[error("document {document}: `properties`: {fault}")]
    Properties {
        /// Counted from 1.
        document: usize,
        /// What is wrong.
        fault: serde_json::Error,
    },
    /// A document does not end within the limit.
    #[error("document {document} is larger than {limit} bytes")]
    TooLarge {
        /// Counted from 1.
        document: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// The events of a file, read one at a time; nothing beyond the current document is held in memory. Reading blocks the
/// thread. Ends after the first error, since nobody knows where the next document would start.
pub struct EventFiles {
    json: serde_json::Deserializer<serde_json::de::IoRead<Limited>>,
    left: Arc<AtomicUsize>,
    limit: usize,
    documents: usize,
    over: bool,
}

impl EventFiles {
    /// Reads events from `-` (standard input) or from a file.
    ///
    /// # Errors
    /// [`BadEventFile::Read`] when the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, BadEventFile> {
        if path == Path::new("-") {
            return Ok(Self::new(io::stdin()));
        }
        File::open(path).map(Self::new).map_err(BadEventFile::Read)
    }

    /// Reads events from anything that can be read; it need not be buffered.
    pub fn new(reader: impl Read + Send + 'static) -> Self {
        Self::limited(reader, DOCUMENT_LIMIT)
    }

    fn limited(reader: impl Read + Send + 'static, limit: usize) -> Self {
        let left = Arc::new(AtomicUsize::new(limit));
        let limited = Limited { inner: Box::new(BufReader::new(reader)), left: Arc::clone(&left) };
        Self { json: serde_json::Deserializer::from_reader(limited), left, limit, documents: 0, over: false }
    }

    fn read(&mut self) -> Result<Option<EventFile>, BadEventFile> {
        self.left.store(self.limit, Ordering::Relaxed);
        let document = self.documents + 1;
        let read = match self.json.end() {
            Ok(()) => return Ok(None),
            // Something other than white space comes: a document, or a failure that reading it finds again.
            Err(_) => Box::<RawValue>::deserialize(&mut self.json),
        };
        let raw = read.map_err(|error| self.fault(document, error))?;
        self.documents = document;
        event(raw, document).map(Some)
    }

    fn fault(&self, document: usize, error: serde_json::Error) -> BadEventFile {
        if self.left.load(Ordering::Relaxed) == 0 {
            return BadEventFile::TooLarge { document, limit: self.limit };
        }
        let (line, column) = (error.line(), error.column());
        if error.is_io() { BadEventFile::Read(error.into()) } else { BadEventFile::NotJson { document, line, column } }
    }
}

impl Iterator for EventFiles {
    type Item = Result<EventFile, BadEventFile>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.read().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

/// A document with exactly the members `properties` and `body` is an event with properties; any other is a body.
fn event(document: Box<RawValue>, number: usize) -> Result<EventFile, BadEventFile> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct WithProperties<'a> {
        #[serde(borrow)]
        properties: &'a RawValue,
        #[serde(borrow)]
        body: &'a RawValue,
    }
    // A struct would also be read from an array of two values.
    let with_properties = document.get().starts_with('{').then(|| serde_json::from_str::<WithProperties<'_>>(document.get()));
    let Some(Ok(parts)) = with_properties else {
        let body: Box<str> = document.into();
        return Ok(EventFile { properties: FileProperties::default(), body: Bytes::from(String::from(body)) });
    };
    let properties = serde_json::from_str(parts.properties.get()).map_err(|fault| BadEventFile::Properties { document: number, fault })?;
    Ok(EventFile { properties, body: Bytes::copy_from_slice(parts.body.get().as_bytes()) })
}

/// A reader that fails when a document has used up its bytes.
struct Limited {
    inner: Box<dyn BufRead + Send>,
    left: Arc<AtomicUsize>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let most = buffer.len().min(left);
        let read = self.inner.read(&mut buffer[..most])?;
        self.left.store(left - read, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Vec<Result<EventFile, BadEventFile>> {
        EventFiles::new(text.as_bytes()).collect()
    }

    fn bodies(text: &'static str) -> Vec<Bytes> {
        read(text).into_iter().map(|event| event.unwrap().body).collect()
    }

    #[test]
    fn reads_properties_and_keeps_the_bytes_of_the_body() {
        let events = read(
            r#"{"properties":{"message_id":"e1","type":"identResult","timestamp":7,"headers":{"integrator":"acme"}},
                "body": { "a" : 1.0,"b":1e400, "c":"\ud800" } }"#,
        );
        let event = events.into_iter().next().unwrap().unwrap();
        assert_eq!(event.body, r#"{ "a" : 1.0,"b":1e400, "c":"\ud800" }"#);
        let metadata = event.properties.metadata();
        assert_eq!((metadata.message_id, metadata.message_type, metadata.timestamp), (Some("e1"), Some("identResult"), Some(7)));
        assert_eq!(metadata.integrator, Some(b"acme".as_slice()));
    }

    #[test]
    fn anything_but_properties_and_body_is_a_body() {
        for text in [r#"{"data":[]}"#, r#"{"body":{}}"#, r#"{"properties":{},"body":{},"more":1}"#, r#"[{},{}]"#, "12", r#""x""#] {
            assert_eq!(bodies(text), [text]);
        }
        assert_eq!(bodies(r#"{"body":[1],"properties":{}}"#), ["[1]"]);
    }

    #[test]
    fn documents_follow_one_another_with_or_without_white_space() {
        assert_eq!(bodies("{\"a\":1}{\"b\":2}\n\n {\"c\":3}\n"), ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
        assert_eq!(bodies("1 2 [3]\"4\""), ["1", "2", "[3]", "\"4\""]);
        assert!(bodies(" \n").is_empty());
    }

    #[test]
    fn ends_after_the_first_fault_and_says_where_it_is() {
        let mut events = read("{\"a\":1}\n{\"b\":}\n{\"c\":3}").into_iter();
        assert!(events.next().unwrap().is_ok());
        let fault = events.next().unwrap().unwrap_err();
        assert_eq!(fault.to_string(), "document 2 is not JSON: line 2, column 6");
        assert!(events.next().is_none());
        let fault = read(r#"{"properties":{"mesage_id":"x"},"body":{}}"#).pop().unwrap().unwrap_err();
        assert!(fault.to_string().starts_with("document 1: `properties`: unknown field `mesage_id`"), "{fault}");
    }

    #[test]
    fn deep_nesting_is_read() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!("{{\"properties\":{{}},\"body\":{deep}}}");
        let events: Vec<_> = EventFiles::new(io::Cursor::new(text)).collect();
        assert_eq!(events[0].as_ref().unwrap().body, deep);
    }

    #[test]
    fn an_endless_document_ends_at_the_limit() {
        let mut events = EventFiles::limited(io::repeat(b'['), 100_000);
        assert!(matches!(events.next(), Some(Err(BadEventFile::TooLarge { document: 1, .. }))));
        assert!(events.next().is_none());
    }
}
