//! The topic format: one message per event, the same as a WebSocket frame carries.

use super::{Unrenderable, separate};
use crate::domain::decode::for_each_member;
use crate::domain::event::{Content, Event};
use crate::domain::names::Topic;

/// Appends the event's message to a body under construction, with what it needs in front.
///
/// Members come out as they went in: order, numbers and escapes are never touched. White space between the tokens of
/// `data` is left out, as callbacks are compact; a bare message is passed on byte for byte.
///
/// # Errors
/// [`Unrenderable`] when `topic` would stand in the message twice; part of the event may then stand in `body`.
pub(super) fn write_entry(event: &Event, body: &mut Vec<u8>) -> Result<(), Unrenderable> {
    separate(body);
    match &event.content {
        Content::Records(records) => {
            if event.topic.as_str() == "topic" {
                return Err(Unrenderable::TopicTwice);
            }
            open(&event.topic, body);
            body.push(b',');
            write_string(event.topic.as_str(), body);
            body.push(b':');
            write_compact(event.slice(records), body);
            body.push(b'}');
        }
        Content::Fields { names_topic: true, .. } => return Err(Unrenderable::FieldsNameTopic),
        Content::Fields { object, .. } => write_beside_topic(&event.topic, event.slice(object), body),
        Content::Bare { message, names_topic: true, .. } => body.extend_from_slice(event.slice(message)),
        // A `topic` of `null` or `""` is none, and would yet stand beside the one that is put in.
        Content::Bare { message, .. } if has_topic(event.slice(message)) => return Err(Unrenderable::FieldsNameTopic),
        // The topic came in the AMQP property `type`: receivers tell messages apart by the member, so it is put in.
        Content::Bare { message, .. } => write_beside_topic(&event.topic, event.slice(message), body),
    }
    Ok(())
}

fn has_topic(message: &[u8]) -> bool {
    let mut found = false;
    let read = std::str::from_utf8(message).is_ok_and(|text| for_each_member(text, |key, _| found |= key == b"topic").is_ok());
    read && found
}

fn open(topic: &Topic, body: &mut Vec<u8>) {
    body.extend_from_slice(b"{\"topic\":");
    write_string(topic.as_str(), body);
}

fn write_beside_topic(topic: &Topic, object: &[u8], body: &mut Vec<u8>) {
    open(topic, body);
    let start = body.len();
    write_compact(object, body);
    // `{…}` becomes `,…}`, and `{}` becomes `}`.
    if body[start + 1] == b'}' {
        _ = body.remove(start);
    } else {
        body[start] = b','
    }
}

fn write_string(text: &str, body: &mut Vec<u8>) {
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(body, text);
}

/// Copies valid JSON without the white space between its tokens.
fn write_compact(json: &[u8], body: &mut Vec<u8>) {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | b'"')) {
        body.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let taken = if rest[0] == b'"' { string_length(rest) } else { 0 };
        body.extend_from_slice(&rest[..taken]);
        rest = &rest[taken.max(1)..];
    }
    body.extend_from_slice(rest);
}

/// Bytes of the string literal at the start of `json`, both quotes included.
fn string_length(json: &[u8]) -> usize {
    let mut at = 1;
    while at < json.len() {
        match json[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compact(json: &str) -> String {
        let mut out = Vec::new();
        write_compact(json.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn white_space_between_tokens_goes_and_within_strings_stays() {
        assert_eq!(compact("{ \"a b\" :\n[1.0 ,\t1e400, \"x \\\" , y\\\\\" ]\r\n}"), "{\"a b\":[1.0,1e400,\"x \\\" , y\\\\\"]}");
        assert_eq!(compact("[]"), "[]");
        assert_eq!(compact("\"\\u0020 \\ud800\""), "\"\\u0020 \\ud800\"");
    }
}
