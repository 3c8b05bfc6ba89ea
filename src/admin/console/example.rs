//! What a request to an endpoint looks like, with an event that is made up.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::clock;
use crate::domain::decode::Metadata;
use crate::domain::decode::decode;
use crate::domain::event::Event;
use crate::domain::format::{Rendering, render};
use crate::domain::integrator::Endpoint;
use crate::domain::request::{Attempt, compose};

/// The event: of the one topic that every format can carry.
const EVENT: &str = r#"{"id":"evt-example","topic":"complianceRecord","occurredAt":"2025-09-03T06:38:08Z","data":[{"status":100,"key":"f283","modified":"2025-09-03T06:38:08","customerKey":"885e","riskClass":"low"}]}"#;

/// Headers whose values say nothing that is secret.
const OPEN: [&str; 8] = [
    "content-type",
    "user-agent",
    "webhook-id",
    "webhook-timestamp",
    "callback-event-ids",
    "callback-integrator",
    "callback-occurred-at",
    "callback-attempt",
];

/// The request, without its path; of headers that may be secret, only the name.
pub(super) fn example(endpoint: &Endpoint) -> Option<String> {
    let metadata = Metadata { integrator: Some(endpoint.integrator.as_str().as_bytes()), ..Metadata::default() };
    let event: Event = decode(Bytes::from_static(EVENT.as_bytes()), &metadata).ok()?;
    let Ok(Rendering::Body(body)) = render(endpoint.format, &[&event]) else { return None };
    let now = clock::now();
    let request = compose(endpoint, &[&event], body, &Attempt { number: 1, received_at: now, now });
    let url = endpoint.url.to_string();
    let mut text = format!("POST … HTTP/1.1\nhost: {}\n", url.split_once("://").map_or("…", |(_, host)| host));
    for (name, value) in &request.headers {
        let shown = if OPEN.contains(&name.as_str()) { value.to_str().unwrap_or("…") } else { "…" };
        // Memory takes all that is written.
        let _ = writeln!(text, "{name}: {shown}");
    }
    let body = serde_json::from_slice::<serde_json::Value>(&request.body).and_then(|body| serde_json::to_string_pretty(&body)).ok()?;
    Some(format!("{text}\n{body}"))
}
