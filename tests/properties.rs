//! What holds for every event, every schedule and every header.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::time::Duration;

use bytes::Bytes;
use callbackd::domain::decode::{Metadata, decode};
use callbackd::domain::event::Event;
use callbackd::domain::format::{Format, Rendering, render};
use callbackd::domain::integrator::{Endpoint, EndpointUrl, Topics};
use callbackd::domain::names::{EndpointId, IntegratorKey};
use callbackd::domain::reply::RetryAfter;
use callbackd::domain::request::{Attempt, compose};
use callbackd::domain::retry::RetryPolicy;
use callbackd::domain::sign::SigningSecret;
use callbackd::domain::time::Timestamp;
use proptest::prelude::*;
use serde_json::Value;

/// JSON text as other programs may write it: odd numbers, escapes, and white space wherever it is allowed.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?",
        string(),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| prop_oneof![array(inner.clone()), object(inner)])
}

fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ -!#-\\[\\]-~ü€𝄞]{0,6}",
        1 => prop::sample::select(vec!["\\\"", "\\\\", "\\/", "\\n", "\\u0000", "\\ud800", "\\u00FC", "\\ud834\\udd1e"]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn space() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(String::new()), 1 => "[ \t\r\n]{1,3}"]
}

fn array(inner: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (prop::collection::vec(inner, 0..5), space()).prop_map(|(items, s)| format!("[{s}{}{s}]", items.join(&format!("{s},{s}"))))
}

fn object(inner: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (prop::collection::vec((string(), inner), 0..5), space()).prop_map(|(members, s)| {
        let members: Vec<String> = members.into_iter().map(|(key, value)| format!("{key}{s}:{s}{value}")).collect();
        format!("{{{s}{}{s}}}", members.join(&format!("{s},{s}")))
    })
}

/// The text without white space between tokens, found in another way than the renderer does.
fn compact(json: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let keep = |c: &char| {
        let kept = inside || !c.is_ascii_whitespace();
        (inside, escaped) = match (*c, inside, escaped) {
            (_, true, true) => (true, false),
            ('\\', true, false) => (true, true),
            ('"', _, _) => (!inside, false),
            _ => (inside, false),
        };
        kept
    };
    json.chars().filter(keep).collect()
}

fn endpoint(format: Format) -> Endpoint {
    Endpoint {
        integrator: IntegratorKey::try_new("acme").unwrap(),
        id: EndpointId::try_new("main").unwrap(),
        url: EndpointUrl::parse("https://acme.example/", false).unwrap(),
        format,
        topics: Topics::All,
        signing: vec![SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()],
        headers: http::HeaderMap::new(),
        timeout: Duration::from_secs(15),
        max_in_flight: std::num::NonZeroU16::MIN,
        retry: RetryPolicy::default(),
    }
}

fn rendered(format: Format, event: &Event) -> Option<String> {
    match render(format, &[event]).ok()? {
        Rendering::Body(body) => Some(String::from_utf8(body).unwrap()),
        Rendering::Nothing => None,
    }
}

/// Bytes that are often nearly an event.
fn nearly_an_event() -> impl Strategy<Value = Vec<u8>> {
    let members = prop_oneof![
        Just("\"topic\"".to_owned()),
        Just("\"data\"".to_owned()),
        Just("\"id\"".to_owned()),
        Just("\"integrator\"".to_owned()),
        Just("\"occurredAt\"".to_owned()),
        Just("\"complianceRecord\"".to_owned()),
        string(),
    ];
    let text = prop::collection::vec((members, json()), 0..6).prop_map(|members| {
        let members: Vec<String> = members.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
        format!("{{{}}}", members.join(","))
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), text.prop_map(String::into_bytes)].prop_flat_map(|bytes| {
        let length = bytes.len();
        (Just(bytes), 0..=length, any::<prop::sample::Index>(), any::<u8>(), 0..3).prop_map(|(mut bytes, cut, at, byte, what)| {
            match what {
                0 => bytes.truncate(cut),
                1 if !bytes.is_empty() => {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                _ => {}
            }
            bytes
        })
    })
}

/// Message id, message type, and two headers.
type MetadataTexts = (Option<String>, Option<String>, Option<Vec<u8>>, Option<Vec<u8>>);

fn metadata_texts() -> impl Strategy<Value = MetadataTexts> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..60));
    (prop::option::of(".{0,40}"), prop::option::of(".{0,40}"), bytes(), bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_decoding_or_rendering_panic(body in nearly_an_event(), (id, kind, integrator, trace) in metadata_texts(), timestamp: Option<u64>) {
        let metadata = Metadata {
            message_id: id.as_deref(),
            message_type: kind.as_deref(),
            timestamp,
            integrator: integrator.as_deref(),
            traceparent: trace.as_deref(),
            tracestate: trace.as_deref(),
        };
        if let Ok(event) = decode(Bytes::from(body), &metadata) {
            for format in [Format::Classic, Format::Topic] {
                if let Some(body) = rendered(format, &event) {
                    // Whatever comes out is JSON, and an array.
                    prop_assert!(serde_json::from_str::<Vec<&serde_json::value::RawValue>>(&body).is_ok(), "{}", body);
                }
            }
        }
    }

    #[test]
    fn data_comes_out_as_it_went_in(data in prop_oneof![array(json()), object(json())], before in space(), after in space()) {
        let body = format!("{{\"id\":\"e\",\"integrator\":\"acme\",\"topic\":\"t\",\"data\":{before}{data}{after}}}");
        let event = decode(body.into(), &Metadata::default()).unwrap();
        let Some(out) = rendered(Format::Topic, &event) else {
            prop_assert!(data.contains("\"topic\""));
            return Ok(());
        };
        let data = compact(&data);
        let expected = match data.strip_prefix('{') {
            Some("}") => "[{\"topic\":\"t\"}]".to_owned(),
            Some(members) => format!("[{{\"topic\":\"t\",{members}]"),
            None => format!("[{{\"topic\":\"t\",\"t\":{data}}}]"),
        };
        prop_assert_eq!(&out, &expected);
        // And the same to a program that parses it, where one can (lone surrogates and huge numbers are refused by many).
        if let (Ok(Value::Array(list)), Ok(sent)) = (serde_json::from_str::<Value>(&out), serde_json::from_str::<Value>(&data)) {
            prop_assert_eq!(list.len(), 1);
            match sent {
                Value::Object(fields) => for (key, value) in fields { prop_assert_eq!(&list[0][&key], &value) },
                records => prop_assert_eq!(&list[0]["t"], &records),
            }
        }
    }

    #[test]
    fn classic_records_keep_their_values(status in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,3})?", key in string(), modified in string(), extra in json(), s in space()) {
        let record = format!("{{{s}\"extra\":{extra},{s}\"modified\"{s}:{modified},\"key\":{s}{key},\"status\":{status}{s}}}");
        let body = format!("{{\"id\":\"e\",\"integrator\":\"acme\",\"topic\":\"complianceRecord\",\"data\":[{record},{record}]}}");
        let event = decode(body.into(), &Metadata::default()).unwrap();
        let one = format!("{{\"status\":{status},\"key\":{key},\"modified\":{modified}}}");
        prop_assert_eq!(rendered(Format::Classic, &event), Some(format!("[{one},{one}]")));
    }

    #[test]
    fn no_event_can_inject_a_header(id in "[\\PC\r\n\0:, %]{1,60}", integrator in "[\\PC\r\n\0]{1,30}", topic in "[\\PC\r\n]{1,30}", occurred in "[\\PC\r\n\0]{0,80}", trace in metadata_texts()) {
        let body = serde_json::json!({"id": id, "integrator": integrator, "topic": topic, "occurredAt": occurred, "data": []});
        let metadata = Metadata { traceparent: trace.2.as_deref(), tracestate: trace.3.as_deref(), ..Metadata::default() };
        let Ok(event) = decode(body.to_string().into(), &metadata) else { return Ok(()) };
        let mut endpoint = endpoint(Format::Topic);
        endpoint.integrator = event.integrator.clone();
        let attempt = Attempt { number: 1, received_at: Timestamp::from_millis(0), now: Timestamp::from_millis(1) };
        let request = compose(&endpoint, &[&event, &event], b"[]".to_vec(), &attempt);
        for (name, value) in &request.headers {
            prop_assert!(value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte)), "{}: {:?}", name, value);
            prop_assert_eq!(request.headers.get_all(name).iter().count(), 1);
        }
        // Our own are always there, and the ids can be read back.
        for name in ["content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature", "callback-integrator", "callback-occurred-at", "callback-attempt"] {
            prop_assert!(request.headers.contains_key(name), "{}", name);
        }
        let ids: Vec<String> = request.headers["callback-event-ids"].to_str().unwrap().split(',')
            .map(|id| percent_encoding::percent_decode_str(id).decode_utf8().unwrap().into_owned()).collect();
        prop_assert_eq!(ids, vec![id.clone(), id]);
        prop_assert!(!request.webhook_id.contains('.'));
    }

    #[test]
    fn every_wait_of_the_schedule_is_within_its_bounds(
        initial in 1_u64..100_000, multiplier in 1.0_f64..10.0, max_delay in 1_u64..1_000_000_000, jitter in 0.0_f64..=1.0, attempt in prop_oneof![1_u32..40, any::<u32>()]
    ) {
        let (initial, max_delay) = (Duration::from_millis(initial), Duration::from_millis(max_delay));
        let policy = RetryPolicy { initial, multiplier, max_delay, jitter, ..RetryPolicy::default() };
        let delay = policy.delay_after(attempt);
        prop_assert!(delay >= initial.min(max_delay) && delay <= max_delay, "{:?}", delay);
        prop_assert!(policy.delay_after(attempt.saturating_add(1)) >= delay);
        let window = policy.window_after(attempt);
        prop_assert!(window.earliest <= window.latest && window.latest <= max_delay, "{:?}", window);
        prop_assert!(window.earliest <= delay);
        prop_assert!(window.latest >= delay);
    }

    #[test]
    fn no_retry_after_panics(value in prop_oneof![".{0,60}", "[0-9]{0,50}", "[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"], now: i64) {
        if let Some(retry_after) = RetryAfter::parse(&value) {
            let _ = retry_after.wait(Timestamp::from_millis(now));
        }
    }
}
