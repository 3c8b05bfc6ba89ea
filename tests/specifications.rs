//! The documents for machines say what the program does: `deploy/callbacks.openapi.yaml` for integrators, `deploy/asyncapi.yaml`
//! for upstream, `deploy/schemas` for both configuration files. Judged by the tools of their own worlds (`tests/specifications`).

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use callbackd::broker::headers::{self, Original, Trust};
use callbackd::cli::event_file::{EventFile, EventFiles};
use callbackd::domain::circuit::TripCause;
use callbackd::domain::dead::{DeadReason, RejectReason};
use callbackd::domain::decide::Verdict;
use callbackd::domain::decode::decode;
use callbackd::domain::event::Event;
use callbackd::domain::format::{Format, Rendering, render};
use callbackd::domain::history::History;
use callbackd::domain::integrator::{Endpoint, EndpointUrl};
use callbackd::domain::names::{EndpointId, IntegratorKey, SourceName};
use callbackd::domain::reply::{Outcome as ReplyOutcome, Reply};
use callbackd::domain::request::{Attempt, CallbackRequest, compose, compose_ping};
use callbackd::domain::sign::SigningSecret;
use callbackd::domain::time::Timestamp;
use callbackd::outcomes::Outcome;
use callbackd::telemetry::{EventRef, Fact, Place, ResumeCause};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value, json};

#[path = "specifications/judge.rs"]
mod judge;

use judge::judged;

/// What the signature in the document is made with, as it says there.
const SECRET: &str = "whsec_Y2FsbGJhY2tkIGxvY2FsIHN0YWNrLCBubyBzZWNyZXQ=";
/// The time of the attempt there.
const NOW: Timestamp = Timestamp::from_millis(1_756_881_490_000);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The contract's events, by the names of their files.
fn events() -> BTreeMap<String, EventFile> {
    let files = std::fs::read_dir(root().join("tests/fixtures/contract")).unwrap().map(|entry| entry.unwrap().path());
    let inputs = files.filter(|path| path.to_str().unwrap().ends_with(".in.json"));
    let events: BTreeMap<_, _> = inputs.map(|path| (stem(&path), EventFiles::open(&path).unwrap().next().unwrap().unwrap())).collect();
    assert!(events.len() >= 5, "{} events", events.len());
    events
}

fn stem(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned()
}

fn decoded(file: &EventFile) -> Event {
    decode(file.body.clone(), &file.properties.metadata()).unwrap()
}

/// The contract's callbacks of a format, by the names of their files.
fn callbacks(format: Format) -> BTreeMap<String, String> {
    let bodies = events().into_keys().filter_map(|name| {
        let path = root().join(format!("tests/fixtures/contract/{name}.{format}.json"));
        Some((name, std::fs::read_to_string(path).ok()?))
    });
    bodies.collect()
}

fn endpoint(format: Format) -> Endpoint {
    let signing = vec![SigningSecret::parse(SECRET).unwrap()];
    let url = EndpointUrl::parse("https://acme.example/callbacks", false).unwrap();
    Endpoint { format, signing, ..Endpoint::new(IntegratorKey::try_new("acme").unwrap(), EndpointId::try_new("main").unwrap(), url) }
}

const WEBHOOKS: [(Format, &str); 2] = [(Format::Classic, "classicCallback"), (Format::Topic, "topicCallback")];

fn webhook(format: Format) -> &'static str {
    WEBHOOKS.iter().find(|(one, _)| *one == format).unwrap().1
}

/// The request for some events, as a judge reads it.
fn request(format: Format, events: &[&Event], endpoint: &Endpoint) -> Value {
    let Rendering::Body(body) = render(format, events).unwrap() else { panic!("nothing to say") };
    let past: Vec<History> = events.iter().map(|_| History::new(NOW)).collect();
    told(webhook(format), &compose(endpoint, events, body, &Attempt::next(&past, NOW)))
}

fn told(webhook: &str, composed: &CallbackRequest) -> Value {
    let text = std::str::from_utf8(&composed.body).unwrap();
    let headers = composed.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()));
    json!({"webhook": webhook, "headers": headers.collect::<Map<_, _>>(), "body": text})
}

/// The request for each event of the contract, in each format that has one.
fn requests() -> Vec<Value> {
    let of_format = |(format, _)| {
        let (events, endpoint) = (events(), endpoint(format));
        callbacks(format).into_keys().map(|name| request(format, &[&decoded(&events[&name])], &endpoint)).collect::<Vec<_>>()
    };
    WEBHOOKS.into_iter().flat_map(of_format).collect()
}

fn openapi(requests: &[Value]) -> Value {
    judged("openapi.py", &json!({"document": root().join("deploy/callbacks.openapi.yaml"), "requests": requests}))
}

/// `customer-accepted` as the document calls it.
fn camel(name: &str) -> String {
    let mut parts = name.split('-');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| format!("{all}{}{}", part[..1].to_uppercase(), &part[1..]))
}

#[test]
fn the_integrators_document_shows_every_callback_of_the_contract_and_no_other() {
    let examples = openapi(&[])["examples"].clone();
    for (format, webhook) in WEBHOOKS {
        let expected: BTreeMap<String, String> = callbacks(format).into_iter().map(|(name, body)| (camel(&name), body)).collect();
        assert!(expected.len() >= 3, "{format}: {expected:?}");
        assert_eq!(examples[webhook], json!(expected), "{format}");
    }
}

#[test]
fn every_request_that_is_sent_is_as_the_integrators_document_says() {
    let mut all = requests();
    assert!(all.len() >= 8, "{} requests", all.len());
    // What is hard to put into a header, several events in one request, a trace, headers of the integrator's own that it knows of.
    let odd = r#"{"id":"a,b 100% ü","integrator":"acme","topic":"complianceRecord","occurredAt":"gestern früh","data":[{"status":1.50,"key":"k","modified":"m"}]}"#;
    let trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".as_slice();
    let metadata = callbackd::domain::decode::Metadata { traceparent: Some(trace), tracestate: Some(b"a=b"), ..Default::default() };
    let odd = decode(odd.into(), &metadata).unwrap();
    let plain = decoded(&events()["customer-accepted"]);
    for (format, _) in WEBHOOKS {
        let mut endpoint = endpoint(format);
        all.push(request(format, &[&odd], &endpoint));
        all.push(request(format, &[&odd, &plain], &endpoint));
        endpoint.signing.push(SigningSecret::parse("whsk_MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=").unwrap());
        all.push(request(format, &[&plain], &endpoint));
        endpoint.signing.clear();
        all.push(request(format, &[&plain], &endpoint));
    }
    for (format, _) in WEBHOOKS {
        all.push(told("ping", &compose_ping(&endpoint(format), 7, NOW)));
    }
    let faults = openapi(&all)["faults"].clone();
    assert_eq!(faults, json!(vec![[(); 0]; all.len()]));
}

#[test]
fn the_headers_shown_to_integrators_are_those_of_one_real_request() {
    let shown = openapi(&[])["headers"].clone();
    let event = decoded(&events()["customer-accepted"]);
    let sent = request(Format::Classic, &[&event], &endpoint(Format::Classic));
    for (_, webhook) in WEBHOOKS {
        let shown = shown[webhook].as_object().unwrap();
        for (name, value) in sent["headers"].as_object().unwrap() {
            let expected = if name == "callback-event-ids" { json!(["evt-customer-1"]) } else { value.clone() };
            let is_ours = !matches!(name.as_str(), "accept" | "content-type");
            assert!(!is_ours || shown[name] == expected, "{name}: {} is {value}", shown[name]);
        }
    }
    // What the text says of the signature.
    let text = std::fs::read_to_string(root().join("deploy/callbacks.openapi.yaml")).unwrap();
    assert!(text.contains(&format!("`{SECRET}`")) && text.contains("`customerAccepted` of the classic callback"));
}

#[test]
fn a_request_that_is_not_as_the_document_says_is_told_from_one_that_is() {
    let good = request(Format::Classic, &[&decoded(&events()["customer-accepted"])], &endpoint(Format::Classic));
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let body = |from: &'static str, to: &'static str| {
        changed(&move |request| request["body"] = request["body"].as_str().unwrap().replace(from, to).into())
    };
    let bad = [
        changed(&|request| drop(request["headers"].as_object_mut().unwrap().remove("webhook-id"))),
        changed(&|request| request["headers"]["callback-new"] = "x".into()),
        changed(&|request| request["headers"]["callback-attempt"] = "0".into()),
        changed(&|request| request["headers"]["callback-event-ids"] = "a,,b".into()),
        changed(&|request| request["headers"]["webhook-signature"] = "v2,abc".into()),
        body("\"modified\"", "\"riskClass\":\"low\",\"modified\""),
        body("100", "\"100\""),
        body("customerKey", "topic"),
        changed(&|request| request["body"] = "[]".into()),
        changed(&|request| request["webhook"] = "topicCallback".into()),
    ];
    for (index, faults) in openapi(&bad)["faults"].as_array().unwrap().iter().enumerate() {
        assert!(!faults.as_array().unwrap().is_empty(), "number {index} passes: {}", bad[index]);
    }
}

fn asyncapi(messages: &[Value]) -> Value {
    let specification = PathBuf::from(judge::node_modules()).join("@asyncapi/specs/schemas/3.0.0-without-$id.json");
    judged("asyncapi.py", &json!({"document": root().join("deploy/asyncapi.yaml"), "specification": specification, "messages": messages}))
}

#[test]
fn the_brokers_document_shows_every_event_of_the_contract_and_no_other() {
    let shown = asyncapi(&[]);
    let examples = shown["examples"].as_array().unwrap();
    let mut seen = BTreeMap::new();
    for example in examples {
        seen.insert(example["name"].as_str().unwrap().to_owned(), example.clone());
    }
    assert_eq!(seen.len(), examples.len(), "each once");
    let expected = events();
    assert_eq!(seen.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, event) in expected {
        let example = &seen[&name];
        assert_eq!(example["payload"].as_str().unwrap().as_bytes(), event.body, "{name}");
        assert_eq!(example["headers"], json!(event.properties.headers), "{name}");
        let properties = &event.properties;
        let mut expected = Map::new();
        expected.extend(properties.message_id.clone().map(|id| ("message_id".to_owned(), id.into())));
        expected.extend(properties.message_type.clone().map(|topic| ("type".to_owned(), topic.into())));
        expected.extend(properties.timestamp.map(|at| ("timestamp".to_owned(), at.into())));
        assert_eq!(example["properties"], Value::Object(expected), "{name}");
        let shape = if seen[&name]["message"] == "BareEvent" { "bare" } else { "enveloped" };
        assert_eq!(shape == "bare", !event.body.windows(6).any(|bytes| bytes == b"\"data\""), "{name} is {shape}");
    }
}

#[test]
fn what_the_brokers_document_takes_for_an_event_is_one_and_the_other_way_round() {
    let message = |shape: &str, payload: &str| json!({"message": shape, "headers": {"integrator": "acme"}, "properties": {"type": "t", "message_id": "m"}, "payload": payload});
    let metadata = callbackd::domain::decode::Metadata {
        integrator: Some(b"acme"),
        message_type: Some("t"),
        message_id: Some("m"),
        ..Default::default()
    };
    let long = format!(r#"{{"integrator":"{}","data":[]}}"#, "x".repeat(256));
    let mut given: Vec<Value> = events()
        .values()
        .map(|event| {
            let shape = if String::from_utf8_lossy(&event.body).contains("\"data\"") { "EnvelopedEvent" } else { "BareEvent" };
            message(shape, std::str::from_utf8(&event.body).unwrap())
        })
        .collect();
    let enveloped = [
        r#"{"data":[]}"#,
        r#"{"data":{"a":1}}"#,
        r#"{"id":null,"integrator":null,"topic":null,"occurredAt":17,"data":[],"more":1}"#,
        r#"{"data":null}"#,
        r#"{"data":"x"}"#,
        r#"{"id":1,"data":[]}"#,
        r#"{"integrator":["acme"],"data":[]}"#,
        r#"{"topic":{},"data":[]}"#,
        "[]",
        &long,
    ];
    given.extend(enveloped.map(|payload| message("EnvelopedEvent", payload)));
    given.extend([r#"{"a":1}"#, r#"{"topic":"x","id":7}"#, r#"{"topic":7}"#, "7"].map(|payload| message("BareEvent", payload)));
    let faults = asyncapi(&given)["faults"].clone();
    let mut taken = 0;
    for (message, faults) in given.iter().zip(faults.as_array().unwrap()) {
        let payload = message["payload"].as_str().unwrap();
        let is_event = decode(payload.to_owned().into(), &metadata);
        assert_eq!(is_event.is_ok(), faults.as_array().unwrap().is_empty(), "{payload}: {faults} {is_event:?}");
        taken += usize::from(is_event.is_ok());
    }
    assert_eq!((taken, given.len()), (10, 19));
}

#[test]
fn what_upstream_is_told_is_as_the_brokers_document_describes() {
    let event = decoded(&events()["customer-accepted"]);
    let (endpoint, source) = (endpoint(Format::Classic), SourceName::try_new("compliance").unwrap());
    let named = EventRef::of(&event);
    let reply = Reply { outcome: ReplyOutcome::Answered { status: 200, retry_after: None }, took: Duration::ZERO };
    let delivered = Fact::Attempted {
        event: named,
        endpoint: &endpoint,
        webhook_id: "msg_1",
        attempt: 1,
        replayed_at: None,
        place: Place::ALONE,
        started_at: NOW,
        request_bytes: 1,
        reply: &reply,
        verdict: &Verdict::Delivered,
        latency: None,
    };
    let mut facts = vec![delivered];
    for (reason, status) in DeadReason::ALL.into_iter().zip([Some(503), None, Some(410), None]) {
        facts.push(Fact::DeadLettered { event: named, endpoint: &endpoint.id, reason, attempts: 3, status, replayed_at: None });
    }
    let reasons = [RejectReason::TooLarge { size: 2, limit: 1 }, RejectReason::HeadersTooLarge, RejectReason::UnknownIntegrator];
    let (source, longest) = (&source, "\u{1}".repeat(255));
    for (reason, replayed_at) in reasons.iter().zip([None, None, Some(NOW)]) {
        let rejected = |event, message_id, endpoint| Fact::Rejected { source, event, message_id, endpoint, reason, replayed_at };
        facts.extend([None, Some(""), Some(longest.as_str())].map(|message_id| rejected(None, message_id, None)));
        facts.extend([None, Some(&endpoint.id)].map(|endpoint| rejected(Some(named), None, endpoint)));
    }
    let endpoint = &endpoint;
    for cause in [TripCause::Consecutive, TripCause::FailureRate] {
        facts.push(Fact::CircuitOpened { endpoint, cause, failures: 10, wait: Duration::ZERO, next_probe_at: NOW });
    }
    facts.push(Fact::CircuitClosed { endpoint, open_for: Duration::MAX });
    facts.push(Fact::EndpointPaused { endpoint, until: NOW });
    facts.push(Fact::EndpointResumed { endpoint, cause: ResumeCause::ConfigurationChanged });
    facts.push(Fact::EndpointResumed { endpoint, cause: ResumeCause::TimeOver });
    let probe = Fact::CircuitOpened { endpoint, cause: TripCause::Probe, failures: 1, wait: Duration::ZERO, next_probe_at: NOW };
    assert!(Outcome::of(&probe, NOW).is_none(), "a probe that fails is nothing new");

    let mut messages: Vec<Value> = facts.iter().map(told_upstream).collect();
    assert_eq!(asyncapi(&messages)["faults"], json!(vec![[(); 0]; messages.len()]));
    let right = [messages[0].clone(), messages[messages.len() - 2].clone()];
    messages.clear();
    for (index, from, to) in [
        (0, "\"reason\":null", "\"reason\":\"whim\""),
        (0, "out_", "in_"),
        (0, "\"status\":200,", ""),
        (0, "\"messageId\":null,", ""),
        (0, "delivered", "lost"),
        (1, "\"worker\":\"host:1\",", ""),
        (1, "\"until\":null,", ""),
    ] {
        let mut message = right[index].clone();
        message["payload"] = message["payload"].as_str().unwrap().replace(from, to).into();
        assert_ne!(message, right[index], "{from}");
        messages.push(message);
    }
    let faults = asyncapi(&messages)["faults"].clone();
    assert!(faults.as_array().unwrap().iter().all(|faults| !faults.as_array().unwrap().is_empty()), "{faults}");
}

/// The outcome that a fact is, as a judge reads it.
fn told_upstream(fact: &Fact<'_>) -> Value {
    let outcome = Outcome::of(fact, NOW).unwrap();
    let told = outcome.message("host:1");
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
    let (properties, kind) = (&told.properties, outcome.kind.as_str());
    assert!(told.routing_key.starts_with(kind), "{}", told.routing_key);
    json!({
        "message": if kind.starts_with("endpoint") { "EndpointOutcome" } else { "EventOutcome" },
        "headers": {},
        "properties": {"message_id": text(properties.message_id()), "type": text(properties.kind()), "timestamp": properties.timestamp(), "app_id": text(properties.app_id())},
        "payload": String::from_utf8(told.body).unwrap(),
    })
}

/// Headers as a judge reads them: numbers and texts.
fn plain(properties: &BasicProperties) -> Map<String, Value> {
    let value = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => Value::from(String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::LongLongInt(number) => Value::from(*number),
        other => panic!("{other:?}"),
    };
    properties.headers().as_ref().unwrap().inner().iter().map(|(name, one)| (name.to_string(), value(one))).collect()
}

#[test]
fn dead_letters_and_rejected_events_carry_the_headers_that_the_brokers_document_describes() {
    let event = decoded(&events()["customer-accepted"]);
    let source = SourceName::try_new("compliance").unwrap();
    let mut cc = FieldTable::default();
    cc.insert("CC".into(), AMQPValue::LongString("other".into()));
    let properties = BasicProperties::default().with_user_id("u".into()).with_expiration("5".into()).with_priority(3).with_headers(cc);
    let original =
        Original { properties: &properties, exchange: "compliance.events", routing_key: "k", source: &source, trust: Trust::Foreign };
    let least = History { endpoint: Some(EndpointId::try_new("main").unwrap()), ..History::new(NOW) };
    let most = History {
        attempts: 3,
        first_attempt_at: Some(NOW),
        last_attempt_at: Some(NOW),
        last_status: Some(503),
        last_error: Some("answered 503".to_owned()),
        unknown_since: Some(NOW),
        replayed_at: Some(NOW),
        parked: 2,
        turn_at: Some(NOW),
        batch_limit: std::num::NonZeroU16::new(5),
        ..least.clone()
    };
    let named = || EventRef { id: &event.id, integrator: &event.integrator, topic: &event.topic, whole: Some(&event), receipt: None };
    let too_large = RejectReason::TooLarge { size: 2, limit: 1 };
    let mut given = Vec::new();
    for history in [&least, &most] {
        for reason in [DeadReason::Exhausted, DeadReason::Expired, DeadReason::Gone, DeadReason::EndpointRemoved] {
            given.push(("DeadLetter", headers::dead_copy(&original, history, named(), reason, NOW)));
        }
        for reason in [&RejectReason::UnknownIntegrator, &too_large] {
            given.push(("RejectedEvent", headers::rejected_copy(&original, history, Some(named()), reason, NOW)));
            given.push(("RejectedEvent", headers::rejected_copy(&original, history, None, reason, NOW)));
        }
    }
    let message = |(message, properties): &(&str, BasicProperties)| json!({"message": message, "headers": plain(properties), "properties": {}, "payload": "{}", "ours_only": true});
    let messages: Vec<Value> = given.iter().map(message).collect();
    assert!(messages[4 + 2]["headers"].as_object().unwrap().len() >= 10, "{}", messages[6]);
    assert_eq!(asyncapi(&messages)["faults"], json!(vec![[(); 0]; messages.len()]));

    let mut wrong = messages[0].clone();
    wrong["headers"]["x-callback-reason"] = "whim".into();
    let mut unknown = messages[0].clone();
    unknown["headers"]["x-callback-mood"] = "good".into();
    let faults = asyncapi(&[wrong, unknown])["faults"].clone();
    assert!(faults.as_array().unwrap().iter().all(|faults| faults.as_array().unwrap().len() == 1), "{faults}");
}
