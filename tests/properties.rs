//! What holds for every event, every schedule and every header.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use callbackd::broker::{Outgoing, headers};
use callbackd::domain::dead::RejectReason;
use callbackd::domain::decide::{Rules, Tried, Verdict, decide};
use callbackd::domain::decode::{Metadata, NoEvent, decode};
use callbackd::domain::event::Event;
use callbackd::domain::format::{Format, Rendering, render};
use callbackd::domain::history::History;
use callbackd::domain::integrator::{Endpoint, EndpointUrl};
use callbackd::domain::ladder::Ladder;
use callbackd::domain::names::{EndpointId, IntegratorKey, SourceName};
use callbackd::domain::reply::{Outcome, Reply, RetryAfter};
use callbackd::domain::request::{Attempt, compose};
use callbackd::domain::retry::RetryPolicy;
use callbackd::domain::sign::SigningSecret;
use callbackd::domain::time::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
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
        // With what JSON allows unescaped although it is a control character: DEL, C1, the line separators.
        4 => "[ -!#-\\[\\]-~ü€𝄞\u{7f}\u{80}\u{85}\u{9b}\u{2028}\u{2029}\u{feff}]{0,6}",
        1 => prop::sample::select(vec![
            "\\\"", "\\\\", "\\/", "\\n", "\\r", "\\t", "\\b", "\\f", "\\u0000", "\\u0001", "\\u001b", "\\u007F", "\\ud800", "\\u00FC", "\\ud834\\udd1e",
        ]).prop_map(str::to_owned),
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
        format,
        signing: vec![SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()],
        ..Endpoint::new(
            IntegratorKey::try_new("acme").unwrap(),
            EndpointId::try_new("main").unwrap(),
            EndpointUrl::parse("https://acme.example/", false).unwrap(),
        )
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
        (Just(bytes), 0..=length, any::<prop::sample::Index>(), any::<u8>(), 0..4).prop_map(|(mut bytes, cut, at, byte, what)| {
            match what {
                0 => bytes.truncate(cut),
                1 if !bytes.is_empty() => {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                // A control character, which no JSON text has within a string.
                2 => bytes.insert(cut, byte % 0x20),
                _ => {}
            }
            bytes
        })
    })
}

/// A well-formed `traceparent` mostly, and any bytes.
fn traceparent() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => "00-[1-9a-f][0-9a-f]{31}-[1-9a-f][0-9a-f]{15}-0[01]".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ]
}

/// A well-formed `tracestate`, one with something that must not stand in a header, and any bytes.
fn tracestate() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        WELL_FORMED_STATE.prop_map(String::into_bytes),
        "[a-z]{1,5}=[\r\n\0\u{1b}\u{7f}ü, -~]{1,20}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..60),
    ]
}

const WELL_FORMED_STATE: &str = "[a-z][a-z0-9]{0,9}=[a-z0-9]{1,10}(,[a-z]{1,9}=[A-Z0-9:]{1,9})?";

/// Message id, message type, and two headers.
type MetadataTexts = (Option<String>, Option<String>, Option<Vec<u8>>, Option<Vec<u8>>);

fn metadata_texts() -> impl Strategy<Value = MetadataTexts> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..60));
    (prop::option::of(".{0,40}"), prop::option::of(".{0,40}"), bytes(), bytes())
}

fn amqp_properties(id: Option<&str>, kind: Option<&str>, timestamp: Option<u64>, texts: &[(&str, Option<Vec<u8>>)]) -> BasicProperties {
    let mut properties = BasicProperties::default();
    if let Some(id) = id {
        properties = properties.with_message_id(id.into());
    }
    if let Some(kind) = kind {
        properties = properties.with_type(kind.into());
    }
    if let Some(timestamp) = timestamp {
        properties = properties.with_timestamp(timestamp);
    }
    let mut table = FieldTable::default();
    for (name, value) in texts {
        if let Some(value) = value {
            table.insert((*name).into(), AMQPValue::LongString(value.as_slice().into()));
        }
    }
    properties.with_headers(table)
}

/// Any schedule, of an age that ends nothing here.
fn policy() -> impl Strategy<Value = RetryPolicy> {
    let max_age = Duration::from_secs(100 * 365 * 24 * 3600);
    let jitter = prop_oneof![Just(0.0), Just(0.2), 0.0_f64..=1.0];
    (1_u64..100_000, 1.0_f64..10.0, prop_oneof![1_u64..10_000, 1_u64..1_000_000_000], jitter, 0_u64..200_000).prop_map(
        move |(initial, multiplier, max_delay, jitter, max_retry_after)| RetryPolicy {
            initial: Duration::from_millis(initial),
            multiplier,
            max_delay: Duration::from_millis(max_delay),
            max_age,
            jitter,
            max_attempts: None,
            max_retry_after: Duration::from_secs(max_retry_after),
        },
    )
}

fn ladder() -> impl Strategy<Value = Ladder> {
    (10_u64..5_000, 0_u64..100_000_000)
        .prop_map(|(first, more)| Ladder::try_new(Duration::from_millis(first), Duration::from_millis(first + more)).unwrap())
}

const NOW: Timestamp = Timestamp::from_millis(1_756_881_488_042);

/// How long the delivery waits after this outcome of its latest attempt.
fn waited(policy: &RetryPolicy, ladder: &Ladder, attempts: u32, outcome: Outcome, dice: f64) -> Duration {
    let before = History { attempts: attempts - 1, ..History::new(NOW) };
    let reply = Reply { outcome, took: Duration::ZERO };
    let endpoint = EndpointId::try_new("main").unwrap();
    let tried = Tried { endpoint: &endpoint, started_at: NOW, members: NonZeroU16::MIN, reply: &reply };
    match decide(&before, &tried, Rules { policy, ladder }, NOW, dice).verdict {
        Verdict::Retry(wait) => {
            // The message stays for the rung's time, and is put back until the end of the wait where that is later.
            let in_the_queue = wait.rung.delay();
            let due = wait.due_at.since(NOW);
            assert!(in_the_queue == due || (in_the_queue < due && wait.hold_until == Some(wait.due_at)), "{wait:?}");
            due
        }
        verdict => panic!("{verdict:?}"),
    }
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
    fn no_event_can_inject_a_header(
        (id, integrator, topic) in ("[\\PC\r\n\0\u{1b}\u{7f}:, %]{1,60}", "[\\PC\r\n\0\u{7f}]{1,30}", "[\\PC\r\n]{1,30}"),
        occurred in "[\\PC\r\n\0]{0,80}", (parent, state) in (prop::option::of(traceparent()), prop::option::of(tracestate()))
    ) {
        let body = serde_json::json!({"id": id, "integrator": integrator, "topic": topic, "occurredAt": occurred, "data": []});
        let metadata = Metadata { traceparent: parent.as_deref(), tracestate: state.as_deref(), ..Metadata::default() };
        let Ok(event) = decode(body.to_string().into(), &metadata) else { return Ok(()) };
        let mut endpoint = endpoint(Format::Topic);
        endpoint.integrator = event.integrator.clone();
        let attempt = Attempt { number: 1, received_at: Timestamp::from_millis(0), now: Timestamp::from_millis(1) };
        let request = compose(&endpoint, &[&event, &event], b"[]".to_vec(), &attempt);
        for (name, value) in &request.headers {
            prop_assert!(value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte)), "{}: {:?}", name, value);
            prop_assert_eq!(request.headers.get_all(name).iter().count(), 1);
        }
        for (name, given) in [("traceparent", &parent), ("tracestate", &state)] {
            if let Some(value) = request.headers.get(name) {
                prop_assert_eq!(Some(value.as_bytes()), given.as_deref(), "{}", name);
            }
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
    fn a_well_formed_trace_is_passed_on(parent in "00-[1-9a-f][0-9a-f]{31}-[1-9a-f][0-9a-f]{15}-0[01]", state in WELL_FORMED_STATE) {
        let metadata = Metadata { traceparent: Some(parent.as_bytes()), tracestate: Some(state.as_bytes()), ..Metadata::default() };
        let event = decode(r#"{"id":"e","integrator":"acme","topic":"t","data":[]}"#.into(), &metadata).unwrap();
        let attempt = Attempt { number: 1, received_at: Timestamp::from_millis(0), now: Timestamp::from_millis(1) };
        let headers = compose(&endpoint(Format::Topic), &[&event], b"[]".to_vec(), &attempt).headers;
        prop_assert_eq!((headers["traceparent"].as_bytes(), headers["tracestate"].as_bytes()), (parent.as_bytes(), state.as_bytes()));
    }

    #[test]
    fn a_control_character_within_a_string_is_no_json(control in 0_u8..0x20, before in string(), member in "(data|more|id)") {
        let text = format!("{}{}\"", &before[..before.len() - 1], char::from(control));
        let body = format!("{{\"topic\":\"t\",\"integrator\":\"acme\",\"{member}\":[{text}]}}");
        prop_assert!(matches!(decode(body.into(), &Metadata::default()), Err(NoEvent::NotJson(_))));
    }

    #[test]
    fn what_is_no_event_is_rejected_with_every_byte_and_what_stood_beside_it(
        sent in nearly_an_event(), (id, kind) in (prop::option::of(".{0,40}"), prop::option::of(".{0,40}")),
        (integrator, trace) in (prop::option::of(prop::collection::vec(any::<u8>(), 0..60)), prop::option::of(traceparent())), timestamp: Option<u64>
    ) {
        let properties = amqp_properties(id.as_deref(), kind.as_deref(), timestamp, &[("integrator", integrator), ("traceparent", trace)]);
        let body = Bytes::from(sent.clone());
        let Err(fault) = decode(body.clone(), &headers::metadata(&properties)) else { return Ok(()) };
        let source = SourceName::try_new("compliance").unwrap();
        let original = headers::Original { properties: &properties, exchange: "x", routing_key: "k", source: &source, trust: headers::Trust::Foreign };
        let now = Timestamp::from_millis(1);
        let copy = headers::rejected_copy(&original, &History::new(now), None, &RejectReason::Undecodable(fault), now);
        // The body goes out as the bytes that came in; nothing on the way has touched or copied them.
        let rejected = Outgoing { queue: "callbacks.rejected".to_owned(), properties: copy, body: body.clone() };
        prop_assert_eq!(rejected.body.as_ref(), sent.as_slice());
        prop_assert_eq!(rejected.body.as_ptr(), body.as_ptr());
        let copy = &rejected.properties;
        prop_assert_eq!((copy.message_id(), copy.kind(), copy.timestamp()), (properties.message_id(), properties.kind(), properties.timestamp()));
        let given = properties.headers().clone().unwrap_or_default();
        let kept = copy.headers().clone().unwrap_or_default();
        for (name, value) in given.inner() {
            prop_assert_eq!(kept.inner().get(name), Some(value), "{}", name);
        }
        prop_assert_eq!(headers::text(copy, headers::name::REASON), Some("undecodable"));
        prop_assert!(headers::text(copy, headers::name::DETAIL).is_some_and(|detail| detail.chars().count() <= headers::TEXT_LIMIT));
        prop_assert!(headers::encoded_size(copy) <= headers::LARGEST_COPY);
    }

    #[test]
    fn every_delay_of_the_schedule_is_within_its_bounds(policy in policy(), attempt in prop_oneof![1_u32..40, any::<u32>()]) {
        let delay = policy.delay_after(attempt);
        prop_assert!(delay >= policy.initial.min(policy.max_delay) && delay <= policy.max_delay, "{:?}", delay);
        prop_assert!(policy.delay_after(attempt.saturating_add(1)) >= delay);
        let window = policy.window_after(attempt);
        prop_assert!(window.earliest <= window.latest && window.latest <= policy.max_delay, "{:?}", window);
        prop_assert!(window.earliest <= delay);
        prop_assert!(window.latest >= delay);
    }

    #[test]
    fn every_wait_is_within_the_bounds_of_the_schedule(policy in policy(), ladder in ladder(), attempts in 1_u32..40, dice in 0.0_f64..1.0) {
        let waited = waited(&policy, &ladder, attempts, Outcome::Answered { status: 500, retry_after: None }, dice);
        let window = policy.window_after(attempts);
        if ladder.rungs().any(|rung| (window.earliest..=window.latest).contains(&rung.delay())) {
            prop_assert!((window.earliest..=window.latest).contains(&waited), "{:?} is not within {:?}", waited, window);
        }
        let shortest = ladder.rungs().next().unwrap().delay();
        prop_assert!(waited <= policy.max_delay.max(shortest), "{:?} is over {:?} and {:?}", waited, policy.max_delay, shortest);
    }

    #[test]
    fn no_wait_is_shorter_than_the_endpoint_asked_for(
        (policy, ladder) in (policy(), ladder()), attempts in 1_u32..40, seconds in 0_u64..200_000, status in prop_oneof![Just(429_u16), Just(503)],
        dice in 0.0_f64..1.0, as_date: bool
    ) {
        let delay = Duration::from_secs(seconds);
        let retry_after = if as_date { RetryAfter::At(NOW.plus(delay)) } else { RetryAfter::Delay(delay) };
        let waited = waited(&policy, &ladder, attempts, Outcome::Answered { status, retry_after: Some(retry_after) }, dice);
        prop_assert!(waited >= delay.min(policy.max_retry_after), "{:?} is less than {:?}", waited, delay);
    }

    #[test]
    fn no_retry_after_panics(value in prop_oneof![".{0,60}", "[0-9]{0,50}", "[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"], now: i64) {
        if let Some(retry_after) = RetryAfter::parse(&value) {
            let _ = retry_after.wait(Timestamp::from_millis(now));
        }
    }
}
