//! A request as the receiver saw it.

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use bytes::Bytes;
use percent_encoding::percent_decode_str;

use super::signature::{Keys, Signature};
use crate::domain::request::{ATTEMPT, EVENT_IDS, INTEGRATOR, WEBHOOK_ID};
use crate::domain::time::Timestamp;

/// What is shown of a request.
pub(super) struct Seen {
    pub(super) at: Timestamp,
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    pub(super) webhook_id: Option<String>,
    pub(super) attempt: Option<u32>,
    pub(super) integrator: Option<String>,
    /// Decoded, in the order of the body's events.
    pub(super) event_ids: Vec<String>,
    pub(super) signature: Signature,
    /// All, in the order in which they came; several of one name in one text, as HTTP reads them.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Seen {
    pub(super) fn new(head: &Parts, body: Bytes, keys: &Keys, now: Timestamp) -> Self {
        let ids = text(&head.headers, EVENT_IDS.as_str());
        Self {
            at: now,
            method: head.method.to_string(),
            path: head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            webhook_id: text(&head.headers, WEBHOOK_ID.as_str()),
            attempt: text(&head.headers, ATTEMPT.as_str()).and_then(|number| number.parse().ok()),
            integrator: text(&head.headers, INTEGRATOR.as_str()).map(|key| decoded(&key)),
            event_ids: ids.iter().flat_map(|ids| ids.split(',')).filter(|id| !id.is_empty()).map(decoded).collect(),
            signature: Signature::check(keys, &head.headers, &body, now),
            headers: head.headers.keys().map(|name| (name.to_string(), joined(&head.headers, name))).collect(),
            body,
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    values.join(", ")
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
