//! What the receiver prints of a request: a block for people, a line for machines.

use std::collections::BTreeMap;

use serde::Serialize;

use super::seen::Seen;
use crate::domain::request::OCCURRED_AT;

/// One JSON object and a line's end.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    name: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    webhook_id: Option<&'a str>,
    attempt: Option<u32>,
    integrator: Option<&'a str>,
    event_ids: &'a [String],
    signature: &'static str,
    headers: BTreeMap<&'a str, &'a str>,
    /// `null`: not answered.
    status: Option<u16>,
    /// As text, so that it is the bytes that came.
    body: String,
}

pub(super) fn json(seen: &Seen, status: Option<u16>, name: Option<&str>) -> String {
    let line = Line {
        time: seen.at.to_string(),
        name,
        method: &seen.method,
        path: &seen.path,
        webhook_id: seen.webhook_id.as_deref(),
        attempt: seen.attempt,
        integrator: seen.integrator.as_deref(),
        event_ids: &seen.event_ids,
        signature: seen.signature.as_str(),
        headers: seen.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        status,
        body: String::from_utf8_lossy(&seen.body).into_owned(),
    };
    // Texts and numbers alone: nothing in it can fail.
    let mut text = serde_json::to_string(&line).unwrap_or_default();
    text.push('\n');
    text
}

pub(super) fn block(seen: &Seen, status: Option<u16>, name: Option<&str>, headers: bool) -> String {
    let name = name.map(|name| format!(" [{name}]")).unwrap_or_default();
    let status = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let attempt = seen.attempt.map_or_else(|| "-".to_owned(), |attempt| attempt.to_string());
    let mut text = format!("{}{name} {} {} -> {status}\n", seen.at, seen.method, visible(&seen.path));
    text.push_str(&format!("  webhook-id {}, attempt {attempt}", visible(seen.webhook_id.as_deref().unwrap_or("-"))));
    text.push_str(&format!(", signature {}\n", seen.signature.as_str()));
    if !seen.event_ids.is_empty() {
        text.push_str(&format!("  events {}\n", visible(&seen.event_ids.join(", "))));
    }
    if headers {
        let lines = seen.headers.iter().map(|(name, value)| format!("  {name}: {}\n", visible(value)));
        text.extend(lines);
    } else {
        let told = [("occurred", OCCURRED_AT.as_str()), ("trace", "traceparent")].map(|(what, name)| (what, seen.header(name)));
        let told = told.into_iter().filter_map(|(what, value)| Some(format!("{what} {}", visible(value?)))).collect::<Vec<_>>();
        if !told.is_empty() {
            text.push_str(&format!("  {}\n", told.join(", ")));
        }
    }
    text.push_str(&format!("  {}\n\n", visible(&String::from_utf8_lossy(&seen.body))));
    text
}

/// Without what a terminal would obey: whoever can reach the port could otherwise write to it.
fn visible(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() && c != '\n' { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::super::signature::Keys;
    use super::*;
    use crate::domain::time::Timestamp;

    fn seen(body: &'static str) -> Seen {
        let request = Request::post("/hook?x=1")
            .header("webhook-id", "msg_1")
            .header("callback-attempt", "2")
            .header("callback-integrator", "acme%20gmbh")
            .header("callback-event-ids", "a%2Cb,c")
            .header("callback-occurred-at", "2025-09-03T06:38:08Z")
            .header("x-twice", "1")
            .header("x-twice", "\u{9b}2");
        let (head, ()) = request.body(()).unwrap().into_parts();
        Seen::new(&head, body.into(), &Keys::default(), Timestamp::from_millis(0))
    }

    #[test]
    fn a_line_is_one_json_object_with_the_exact_body() {
        let line = json(&seen("[{\"a\" :\n 1.0}]"), Some(200), Some("left"));
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({"time": "1970-01-01T00:00:00.000Z", "name": "left", "method": "POST", "path": "/hook?x=1",
            "webhook_id": "msg_1", "attempt": 2, "integrator": "acme gmbh", "event_ids": ["a,b", "c"], "signature": "none",
            "headers": {"webhook-id": "msg_1", "callback-attempt": "2", "callback-integrator": "acme%20gmbh",
                "callback-event-ids": "a%2Cb,c", "callback-occurred-at": "2025-09-03T06:38:08Z", "x-twice": "1, \u{9b}2"},
            "status": 200, "body": "[{\"a\" :\n 1.0}]"});
        assert_eq!(value, expected);
    }

    #[test]
    fn a_block_shows_everything_and_cannot_steer_a_terminal() {
        let seen = seen("[\u{1b}]0;x\u{7}]");
        let expected = "1970-01-01T00:00:00.000Z POST /hook?x=1 -> no answer\n  webhook-id msg_1, attempt 2, signature none\n  events a,b, c\n  occurred 2025-09-03T06:38:08Z\n  [\\u{1b}]0;x\\u{7}]\n\n";
        assert_eq!(block(&seen, None, None, false), expected);
        let with_headers = block(&seen, None, None, true);
        assert!(with_headers.contains("  webhook-id: msg_1\n") && with_headers.contains("  x-twice: 1, \\u{9b}2\n"), "{with_headers}");
        assert!(!with_headers.contains("  occurred "), "{with_headers}");
    }
}
