//! What a scripted receiver does with a request.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

/// One answer of a script.
#[derive(Debug, Clone)]
pub struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
    pub(super) delay: Duration,
    pub(super) ending: Ending,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a whole answer.
    Complete,
    /// Never: the connection stays open without a byte.
    Hang,
    /// With a reset connection and no answer.
    Close,
}

impl Answer {
    /// An empty answer with this status, at once.
    ///
    /// # Panics
    /// When the number is no HTTP status.
    pub fn status(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).expect("an HTTP status"),
            headers: Vec::new(),
            body: Bytes::new(),
            delay: Duration::ZERO,
            ending: Ending::Complete,
        }
    }

    /// Takes the request and never answers.
    pub fn hang() -> Self {
        Self { ending: Ending::Hang, ..Self::status(200) }
    }

    /// Takes the request and resets the connection.
    pub fn close() -> Self {
        Self { ending: Ending::Close, ..Self::status(200) }
    }

    /// With a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With `retry-after`: seconds or an HTTP date.
    pub fn retry_after(self, value: impl ToString) -> Self {
        self.header("retry-after", &value.to_string())
    }

    /// With a body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Only after this long.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

impl From<u16> for Answer {
    fn from(status: u16) -> Self {
        Self::status(status)
    }
}
