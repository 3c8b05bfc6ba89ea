//! The contract, byte for byte: every example, and the corners that examples do not reach.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use callbackd::cli::event_file::{EventFile, EventFiles};
use callbackd::domain::decode::{Metadata, NoEvent, decode};
use callbackd::domain::event::Event;
use callbackd::domain::format::{Body, Format, Rendering, Unrenderable, Wrote, render};
use callbackd::domain::history::History;
use callbackd::domain::integrator::{Endpoint, EndpointUrl, SkipReason};
use callbackd::domain::names::{EndpointId, IntegratorKey, Topic};
use callbackd::domain::request::{Attempt, compose, encoded_length};
use callbackd::domain::time::Timestamp;

fn endpoint(format: Format) -> Endpoint {
    Endpoint {
        format,
        ..Endpoint::new(
            IntegratorKey::try_new("acme").unwrap(),
            EndpointId::try_new("main").unwrap(),
            EndpointUrl::parse("https://acme.example/", false).unwrap(),
        )
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/contract")
}

fn examples() -> Vec<(String, Event)> {
    let files = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let inputs = files.filter(|path| path.to_str().unwrap().ends_with(".in.json"));
    inputs.map(|path| (path.file_name().unwrap().to_str().unwrap().replace(".in.json", ""), read(&path))).collect()
}

fn read(path: &Path) -> Event {
    let files: Vec<EventFile> = EventFiles::open(path).unwrap().map(Result::unwrap).collect();
    let [file] = files.as_slice() else { panic!("{path:?} holds {} events", files.len()) };
    decode(file.body.clone(), &file.properties.metadata()).unwrap()
}

fn expected(name: &str, format: Format) -> Option<String> {
    std::fs::read_to_string(fixtures().join(format!("{name}.{format}.json"))).ok()
}

fn body(format: Format, event: &Event) -> String {
    match render(format, &[event]).unwrap() {
        Rendering::Body(body) => String::from_utf8(body).unwrap(),
        Rendering::Nothing => panic!("nothing to say"),
    }
}

#[test]
fn every_example_comes_out_byte_for_byte() {
    let examples = examples();
    assert!(examples.len() >= 5, "{} examples", examples.len());
    for (name, event) in &examples {
        for format in [Format::Classic, Format::Topic] {
            match expected(name, format) {
                Some(expected) => {
                    assert_eq!(endpoint(format).takes(&event.topic), Ok(()), "{name}");
                    assert_eq!(body(format, event), expected, "{name} as {format}");
                }
                None => assert_eq!(endpoint(format).takes(&event.topic), Err(SkipReason::NoClassicForm), "{name} as {format}"),
            }
        }
    }
}

#[test]
fn several_events_stand_in_one_array_in_order() {
    let event = |name: &str| read(&fixtures().join(format!("{name}.in.json")));
    let (first, second) = (event("customer-accepted"), event("ident-result-bare"));
    let Rendering::Body(both) = render(Format::Topic, &[&first, &second]).unwrap() else { panic!("nothing to say") };
    let inner = |name| {
        let body = expected(name, Format::Topic).unwrap();
        body[1..body.len() - 1].to_owned()
    };
    assert_eq!(String::from_utf8(both).unwrap(), format!("[{},{}]", inner("customer-accepted"), inner("ident-result-bare")));
}

/// The events that an endpoint of a format takes, in the order of their names, and what stands between the brackets of
/// each one's own callback.
fn told(format: Format) -> Vec<(Event, String)> {
    let mut examples = examples();
    examples.sort_by(|one, other| one.0.cmp(&other.0));
    let bodies = examples.into_iter().filter_map(|(name, event)| Some((event, expected(&name, format)?)));
    bodies.map(|(event, body)| (event, body[1..body.len() - 1].to_owned())).collect()
}

#[test]
fn all_examples_in_one_callback_are_the_callbacks_of_each_joined() {
    for (format, least) in [(Format::Topic, 5), (Format::Classic, 2)] {
        let told = told(format);
        assert!(told.len() >= least, "{} as {format}", told.len());
        let mut body = Body::new(format, told.iter().map(|(event, _)| event));
        for (event, _) in &told {
            assert_eq!(body.write(event), Ok(Wrote::Entries));
        }
        let joined: Vec<&str> = told.iter().map(|(_, entries)| entries.as_str()).collect();
        assert_eq!(String::from_utf8(body.finish().unwrap()).unwrap(), format!("[{}]", joined.join(",")), "{format}");
    }
    let topics: BTreeSet<String> = told(Format::Topic).iter().map(|(event, _)| event.topic.to_string()).collect();
    assert!(topics.len() >= 3, "topics are mixed: {topics:?}");
}

#[test]
fn an_event_without_a_form_is_left_out_of_a_callback_of_several() {
    let record = |key: &str| enveloped("complianceRecord", &format!(r#"[{{"status":100,"key":"{key}","modified":"m"}}]"#));
    let events = [record("a"), enveloped("complianceRecord", "[]"), enveloped("complianceRecord", "[1]"), record("b")];
    let mut body = Body::new(Format::Classic, &events);
    let wrote: Vec<_> = events.iter().map(|event| body.write(event)).collect();
    assert_eq!(wrote, [Ok(Wrote::Entries), Ok(Wrote::Nothing), Err(Unrenderable::RecordShape(0)), Ok(Wrote::Entries)]);
    let both = r#"[{"status":100,"key":"a","modified":"m"},{"status":100,"key":"b","modified":"m"}]"#;
    assert_eq!(String::from_utf8(body.finish().unwrap()).unwrap(), both);
}

#[test]
fn the_header_of_a_callback_of_many_lists_every_id_in_order() {
    let ids: Vec<String> = (0..200).map(|n| format!("evt,{n} ü")).collect();
    let event = |id: &String| {
        let body = format!(r#"{{"id":"{id}","integrator":"acme","topic":"t","occurredAt":"2025-09-03T06:38:08Z","data":[]}}"#);
        decode(body.into(), &Metadata::default()).unwrap()
    };
    let events: Vec<Event> = ids.iter().map(event).collect();
    let members: Vec<&Event> = events.iter().collect();
    let now = Timestamp::from_millis(1_756_881_488_042);
    let past: Vec<History> = (0..200).map(|n| History { attempts: n % 7, ..History::new(now) }).collect();
    let compose = |members: &[&Event]| compose(&endpoint(Format::Topic), members, b"[]".to_vec(), &Attempt::next(&past, now));
    let request = compose(&members);
    let listed = request.headers["callback-event-ids"].to_str().unwrap();
    assert!(listed.starts_with("evt%2C0%20%C3%BC,evt%2C1%20%C3%BC,"), "{listed}");
    let read: Vec<_> = listed.split(',').map(|id| percent_encoding::percent_decode_str(id).decode_utf8().unwrap().into_owned()).collect();
    assert_eq!(read, ids);
    let lengths: usize = events.iter().map(|event| encoded_length(&event.id) + 1).sum();
    assert_eq!(listed.len(), lengths - 1, "what batches are limited by is what is sent");
    assert_eq!(request.headers["callback-attempt"], "7", "the highest of all");
    assert_eq!(request.headers["callback-integrator"], "acme");
    assert_eq!(request.headers["webhook-id"], request.webhook_id.as_str());
    // The same members in the same order are the same message; others are another.
    assert_eq!(compose(&members).webhook_id, request.webhook_id);
    assert_ne!(compose(&members[1..]).webhook_id, request.webhook_id);
    let of_one = callbackd::domain::event::webhook_id(&events[0].integrator, &endpoint(Format::Topic).id, &members[..1]);
    assert_eq!(compose(&members[..1]).webhook_id, of_one);
}

fn enveloped(topic: &str, data: &str) -> Event {
    let body = format!(r#"{{"id":"e","integrator":"acme","topic":"{topic}","data":{data}}}"#);
    decode(body.into(), &Metadata::default()).unwrap()
}

fn bare(body: &str, message_type: Option<&str>) -> Event {
    let metadata = Metadata { integrator: Some(b"acme"), message_id: Some("e"), message_type, ..Metadata::default() };
    decode(body.to_owned().into(), &metadata).unwrap()
}

#[test]
fn numbers_escapes_and_order_are_passed_on_as_written() {
    let values =
        r#"{"z":1.0,"a":1e400,"b":12345678901234567890,"c":-0,"d":1E+2,"e":"\u00fc\/\ud800 \u0000 x","f":"ü\t","a":null,"g":[[],{}]}"#;
    assert_eq!(body(Format::Topic, &enveloped("t", &format!("[{values}]"))), format!(r#"[{{"topic":"t","t":[{values}]}}]"#));
    let fields = &values[1..values.len() - 1];
    assert_eq!(body(Format::Topic, &enveloped("t", values)), format!(r#"[{{"topic":"t",{fields}}}]"#));
    let message = format!(r#"{{"topic":"t",{fields}}}"#);
    assert_eq!(body(Format::Topic, &bare(&message, None)), format!("[{message}]"));
}

#[test]
fn white_space_between_tokens_goes_from_data_and_stays_in_bare_messages() {
    let data = " [ { \"a b\" : \"c  d\\\" e\" ,\n\t\"n\" : [ 1 , 2 ] } ] ";
    assert_eq!(body(Format::Topic, &enveloped("t", data)), r#"[{"topic":"t","t":[{"a b":"c  d\" e","n":[1,2]}]}]"#);
    assert_eq!(body(Format::Topic, &bare(" { \"topic\" : \"t\", \"a\":\n 1 } \n", None)), "[{ \"topic\" : \"t\", \"a\":\n 1 }]");
}

#[test]
fn empty_records_are_nothing_for_classic_and_passed_on_for_topic() {
    let event = enveloped("complianceRecord", "[]");
    assert_eq!(render(Format::Classic, &[&event]), Ok(Rendering::Nothing));
    assert_eq!(body(Format::Topic, &event), r#"[{"topic":"complianceRecord","complianceRecord":[]}]"#);
    assert_eq!(body(Format::Topic, &enveloped("t", "{}")), r#"[{"topic":"t"}]"#);
    assert_eq!(body(Format::Topic, &enveloped("t", "{ \n }")), r#"[{"topic":"t"}]"#);
}

#[test]
fn a_null_key_of_customer_or_contract_is_left_out_of_a_classic_record() {
    let record = r#"{"status":100,"key":"k","modified":"m","customerKey":null,"contractKey":"c"}"#;
    let event = enveloped("complianceRecord", &format!("[{record}]"));
    assert_eq!(body(Format::Classic, &event), r#"[{"status":100,"key":"k","modified":"m","contractKey":"c"}]"#);
    assert_eq!(body(Format::Topic, &event), format!(r#"[{{"topic":"complianceRecord","complianceRecord":[{record}]}}]"#));
}

#[test]
fn a_record_without_its_members_has_no_classic_form() {
    for record in [
        r#"{"key":"k","modified":"m"}"#,
        r#"{"status":null,"key":"k","modified":"m"}"#,
        r#"{"status":"100","key":"k","modified":"m"}"#,
        r#"{"status":true,"key":"k","modified":"m"}"#,
        r#"{"status":1,"modified":"m"}"#,
        r#"{"status":1,"key":null,"modified":"m"}"#,
        r#"{"status":1,"key":5,"modified":"m"}"#,
        r#"{"status":1,"key":"k"}"#,
        r#"{"status":1,"key":"k","modified":7}"#,
        r#"{"status":1,"key":"k","modified":"m","customerKey":5}"#,
        r#"{"status":1,"status":2,"key":"k","modified":"m"}"#,
        "[]",
        "null",
    ] {
        let good = r#"{"status":1,"key":"k","modified":"m"}"#;
        let event = enveloped("complianceRecord", &format!("[{good},{record}]"));
        assert!(render(Format::Classic, &[&event]).is_err(), "{record}");
        // Nothing is interpreted beyond what a format needs.
        assert!(body(Format::Topic, &event).contains(record));
    }
    assert_eq!(render(Format::Classic, &[&enveloped("complianceRecord", "{}")]), Err(Unrenderable::NoRecords));
}

#[test]
fn the_classic_format_reads_bare_messages_and_escaped_names() {
    let records = r#"[{"\u0073tatus":1.50,"key":"\u006b","modified":"m","x":1}]"#;
    let expected = r#"[{"status":1.50,"key":"\u006b","modified":"m"}]"#;
    assert_eq!(body(Format::Classic, &enveloped("complianceRecord", records)), expected);
    let message = format!(r#"{{"topic":"complianceRecord","complianceRecord":{records}}}"#);
    assert_eq!(body(Format::Classic, &bare(&message, None)), expected);
}

#[test]
fn a_topic_from_the_amqp_type_is_put_into_a_bare_message() {
    assert_eq!(body(Format::Topic, &bare(r#"{"a":1}"#, Some("identResult"))), r#"[{"topic":"identResult","a":1}]"#);
    assert_eq!(body(Format::Topic, &bare("{}", Some("identResult"))), r#"[{"topic":"identResult"}]"#);
    // The body has the first word.
    assert_eq!(bare(r#"{"topic":"a"}"#, Some("b")).topic.as_str(), "a");
}

#[test]
fn a_topic_that_would_stand_there_twice_is_unrenderable() {
    for data in [r#"{"topic":"x"}"#, r#"{"a":1,"to\u0070ic":2}"#] {
        assert_eq!(render(Format::Topic, &[&enveloped("t", data)]), Err(Unrenderable::FieldsNameTopic), "{data}");
    }
    assert_eq!(render(Format::Topic, &[&enveloped("topic", "[]")]), Err(Unrenderable::TopicTwice));
    assert_eq!(body(Format::Topic, &enveloped("t", r#"{"a":{"topic":1}}"#)), r#"[{"topic":"t","a":{"topic":1}}]"#);
}

#[test]
fn a_bare_message_never_says_its_topic_twice() {
    for unusable in ["null", "\"\""] {
        let event = bare(&format!(r#"{{"a":1,"topic":{unusable}}}"#), Some("t"));
        assert_eq!(render(Format::Topic, &[&event]), Err(Unrenderable::FieldsNameTopic), "{unusable}");
    }
}

#[test]
fn a_topic_is_written_as_a_json_string() {
    let event = enveloped(r#"a\"b\\\u0001ü"#, "[]");
    assert_eq!(event.topic, Topic::try_new("a\"b\\\u{1}ü").unwrap());
    assert_eq!(body(Format::Topic, &event), r#"[{"topic":"a\"b\\\u0001ü","a\"b\\\u0001ü":[]}]"#);
}

#[test]
fn deep_nesting_is_passed_on() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(body(Format::Topic, &enveloped("t", &deep)), format!(r#"[{{"topic":"t","t":{deep}}}]"#));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    assert_eq!(body(Format::Topic, &enveloped("t", &objects)), format!(r#"[{{"topic":"t",{}]"#, &objects[1..]));
    let record = format!(r#"[{{"status":1,"key":"k","modified":"m","deep":{deep}}}]"#);
    assert_eq!(body(Format::Classic, &enveloped("complianceRecord", &record)), r#"[{"status":1,"key":"k","modified":"m"}]"#);
}

#[test]
fn data_that_is_neither_array_nor_object_is_no_event() {
    for data in ["null", "1", "\"x\"", "true"] {
        let body = format!(r#"{{"id":"e","integrator":"acme","topic":"t","data":{data}}}"#);
        assert_eq!(decode(body.into(), &Metadata::default()).err(), Some(NoEvent::DataShape), "{data}");
    }
}

#[test]
fn an_event_without_an_id_is_the_same_event_when_published_again() {
    let event = |body: &'static str| decode(body.into(), &Metadata::default()).unwrap();
    let first = event(r#"{"integrator":"acme","topic":"t","data":[1]}"#);
    assert_eq!(first.id, event(r#"{"integrator":"acme","topic":"t","data":[1]}"#).id);
    assert_ne!(first.id, event(r#"{"integrator":"acme","topic":"t","data":[2]}"#).id);
    let id = EndpointId::try_new("main").unwrap();
    let at = |id: &EndpointId| callbackd::domain::event::webhook_id(&first.integrator, id, &[&first]);
    assert_ne!(at(&id), at(&EndpointId::try_new("other").unwrap()));
}

#[test]
fn members_of_a_bare_message_are_not_taken_for_its_metadata() {
    let metadata = Metadata { message_id: Some("evt-7"), integrator: Some(b"acme"), ..Metadata::default() };
    let body = r#"{"topic":"identResult","id":315065706,"integrator":"globex","occurredAt":17,"id":"x"}"#;
    let event = decode(body.into(), &metadata).unwrap();
    assert_eq!((event.id.as_str(), event.integrator.as_str()), ("evt-7", "acme"));
    assert_eq!(event.occurred_at, None);
    assert_eq!(render(Format::Topic, &[&event]), Ok(Rendering::Body(format!("[{body}]").into_bytes())));
}

#[test]
fn the_same_id_under_two_topics_is_two_messages() {
    let id = |topic: &str| {
        let body = format!(r#"{{"id":"1001","integrator":"acme","topic":"{topic}","data":[]}}"#);
        let event = decode(body.into(), &Metadata::default()).unwrap();
        callbackd::domain::event::webhook_id(&event.integrator, &EndpointId::try_new("main").unwrap(), &[&event])
    };
    assert_ne!(id("complianceRecord"), id("mismatches"));
}

#[test]
fn a_time_that_is_none_counts_as_absent_and_does_not_reject_the_event() {
    for time in ["1756881488", "null", "[]", &format!("\"{}\"", "x".repeat(100))] {
        let body = format!(r#"{{"id":"e","integrator":"acme","topic":"t","occurredAt":{time},"data":[]}}"#);
        let stamped = Metadata { timestamp: Some(1_756_881_488), ..Metadata::default() };
        let at = decode(body.clone().into(), &stamped).unwrap().occurred_at.unwrap();
        assert_eq!(at.text, "2025-09-03T06:38:08.000Z", "{time}");
        let milliseconds = Metadata { timestamp: Some(1_000_000_000_000_000), ..Metadata::default() };
        assert_eq!(decode(body.into(), &milliseconds).unwrap().occurred_at, None);
    }
}

#[test]
fn control_characters_in_names_of_members_are_not_json() {
    for body in [
        b"{\"topic\":\"t\",\"a\nb\":1}".as_slice(),
        b"{\"topic\":\"t\",\"data\":[],\"\x00\":1}",
        b"{\"topic\":\"t\",\"data\":{\"a\tb\":1}}",
    ] {
        let metadata = Metadata { integrator: Some(b"acme"), ..Metadata::default() };
        let found = decode(bytes::Bytes::copy_from_slice(body), &metadata);
        assert!(matches!(found, Err(NoEvent::NotJson(_))), "{found:?}");
    }
}

#[test]
fn a_trace_of_zeros_is_none() {
    for parent in ["00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"] {
        let metadata = Metadata { integrator: Some(b"acme"), traceparent: Some(parent.as_bytes()), ..Metadata::default() };
        assert_eq!(decode(r#"{"topic":"t"}"#.into(), &metadata).unwrap().trace, None);
    }
}

#[test]
fn a_bare_message_with_its_records_twice_has_no_classic_form() {
    let body = r#"{"topic":"complianceRecord","complianceRecord":[],"complianceRecord":[{"status":100,"key":"k","modified":"m"}]}"#;
    let event = decode(body.into(), &Metadata { integrator: Some(b"acme"), ..Metadata::default() }).unwrap();
    assert!(render(Format::Classic, &[&event]).is_err());
}
