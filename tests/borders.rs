//! The borders of the pure core: exact limits, names and answers that the tests of whole deliveries pass by at a distance.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use callbackd::domain::decide::Wait;
use callbackd::domain::decode::{Metadata, NoEvent, decode};
use callbackd::domain::event::Event;
use callbackd::domain::format::Format;
use callbackd::domain::history::History;
use callbackd::domain::integrator::{BadUrl, Directory, Endpoint, EndpointUrl, SkipReason, Topics};
use callbackd::domain::ladder::{BadLadder, Ladder};
use callbackd::domain::names::{EndpointId, IntegratorKey, Topic};
use callbackd::domain::reply::{Outcome, Reply};
use callbackd::domain::route::{Route, route};
use callbackd::domain::service::Service;
use callbackd::domain::time::Timestamp;
use callbackd::domain::tls::{EndpointTls, TlsIdentity};
use secrecy::ExposeSecret as _;

fn endpoint(id: &str) -> Endpoint {
    let url = EndpointUrl::parse("https://acme.example/", false).unwrap();
    Endpoint::new(IntegratorKey::try_new("acme").unwrap(), EndpointId::try_new(id).unwrap(), url)
}

fn topic(name: &str) -> Topic {
    Topic::try_new(name).unwrap()
}

fn event(topic: &str) -> Event {
    decode(format!(r#"{{"integrator":"acme","topic":"{topic}","data":[]}}"#).into(), &Metadata::default()).unwrap()
}

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn a_directory_holds_what_was_put_into_it_and_nothing_else() {
    let mut directory = Directory::new();
    assert!(directory.is_empty() && directory.all().next().is_none());
    let acme = IntegratorKey::try_new("acme").unwrap();
    directory.insert(acme.clone(), vec![Arc::new(endpoint("one")), Arc::new(endpoint("two"))]);
    directory.insert(IntegratorKey::try_new("globex").unwrap(), Vec::new());
    assert!(!directory.is_empty());
    assert_eq!((directory.len(), directory.all().count()), (2, 2));
    assert_eq!(directory.endpoints(&acme).map(<[_]>::len), Some(2));
    let two = EndpointId::try_new("two").unwrap();
    assert_eq!(directory.endpoint(&acme, &two).map(|endpoint| &endpoint.id), Some(&two));
    let nobody = IntegratorKey::try_new("nobody").unwrap();
    assert!(directory.endpoints(&nobody).is_none() && directory.endpoint(&nobody, &two).is_none());
}

#[test]
fn an_endpoint_takes_what_it_names_what_its_format_carries_and_personal_data_only_by_name() {
    let takes = |topics: Topics, format, name: &str| Endpoint { topics, format, ..endpoint("main") }.takes(&topic(name));
    let named = |names: &[&str]| Topics::Named(names.iter().map(|name| topic(name)).collect());
    assert_eq!(takes(named(&["identResult"]), Format::Topic, "identResult"), Ok(()));
    assert_eq!(takes(named(&["identResult"]), Format::Topic, "complianceRecord"), Err(SkipReason::TopicNotWanted));
    assert_eq!(takes(Topics::All, Format::Topic, "identResult"), Ok(()));
    assert_eq!(takes(Topics::All, Format::Topic, "identResultKYC"), Err(SkipReason::TopicNotNamed));
    assert_eq!(takes(named(&["identResultKYC"]), Format::Topic, "identResultKYC"), Ok(()));
    assert_eq!(takes(Topics::All, Format::Classic, "complianceRecord"), Ok(()));
    assert_eq!(takes(Topics::All, Format::Classic, "identResult"), Err(SkipReason::NoClassicForm));
    let words: Vec<&str> = SkipReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(words, ["topic_not_wanted", "topic_not_named", "no_classic_form", "no_records"]);
}

#[test]
fn an_event_goes_to_all_endpoints_or_to_the_one_that_is_named() {
    let mut directory = Directory::new();
    let classic = Endpoint { format: Format::Classic, ..endpoint("classic") };
    directory
        .insert(classic.integrator.clone(), vec![Arc::new(classic), Arc::new(Endpoint { format: Format::Topic, ..endpoint("topic") })]);
    let ways =
        |name: &str, only: Option<&str>| match route(&directory, &event(name), only.map(|id| EndpointId::try_new(id).unwrap()).as_ref()) {
            Route::Deliveries { to, skipped } => Some((to.len(), skipped.len())),
            Route::UnknownEndpoint => None,
            Route::UnknownIntegrator => panic!("acme is known"),
        };
    assert_eq!(ways("complianceRecord", None), Some((2, 0)));
    assert_eq!(ways("identResult", None), Some((1, 1)));
    assert_eq!(ways("complianceRecord", Some("topic")), Some((1, 0)));
    assert_eq!(ways("identResult", Some("classic")), Some((0, 1)), "known, and told why not");
    assert_eq!(ways("identResult", Some("gone")), None);
    directory.insert(IntegratorKey::try_new("acme").unwrap(), Vec::new());
    assert!(matches!(route(&directory, &event("t"), None), Route::Deliveries { to, skipped } if to.is_empty() && skipped.is_empty()));
}

#[test]
fn a_url_is_as_long_as_it_may_be_and_its_port_stands_outside_the_brackets() {
    let of = |length: usize| format!("https://acme.example/{}", "x".repeat(length - "https://acme.example/".len()));
    assert!(EndpointUrl::parse(&of(2048), false).is_ok());
    assert!(matches!(EndpointUrl::parse(&of(2049), false), Err(BadUrl::TooLong)));
    for good in ["https://[2001:db8::1]/", "https://[2001:db8::1]:8443/"] {
        assert!(EndpointUrl::parse(good, false).is_ok(), "{good}");
    }
    for with_user in ["https://user@acme.example/", "https://:password@acme.example/", "https://user:password@acme.example/"] {
        assert!(matches!(EndpointUrl::parse(with_user, false), Err(BadUrl::UserInfo)), "{with_user}");
    }
}

#[test]
fn a_body_that_is_no_event_says_why() {
    let why = |body: &str, metadata: &Metadata<'_>| decode(body.to_owned().into(), metadata).unwrap_err();
    let none = Metadata::default();
    assert_eq!(why("[1]", &none), NoEvent::NotAnObject);
    assert_eq!(why(r#"{"topic":"a","topic":"b","integrator":"acme","data":[]}"#, &none), NoEvent::Twice("topic"));
    assert_eq!(why(r#"{"topic":"a","integrator":"acme","data":[],"data":[]}"#, &none), NoEvent::Twice("data"));
    let bare = Metadata { integrator: Some(b"acme"), ..Metadata::default() };
    assert_eq!(why(r#"{"topic":"a","topic":"b","x":1}"#, &bare), NoEvent::Twice("topic"), "of a bare message too");
    let untyped = Metadata { message_type: Some(""), integrator: Some(b"acme"), ..Metadata::default() };
    assert_eq!(why("{}", &untyped), NoEvent::NoTopic, "an empty property counts as absent");
    let twice = r#"{"id":"a","id":"b","topic":"t","integrator":"acme"}"#;
    assert!(decode(twice.into(), &none).is_err_and(|error| error == NoEvent::NoIntegrator), "of a bare message, members are its own");
}

#[test]
fn a_trace_is_passed_on_only_if_it_is_one() {
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let of = |parent: &str, state: &str| {
        let metadata = Metadata { traceparent: Some(parent.as_bytes()), tracestate: Some(state.as_bytes()), ..Metadata::default() };
        decode(r#"{"integrator":"acme","topic":"t","data":[]}"#.into(), &metadata).unwrap().trace
    };
    let good = format!("00-{trace}-{span}-01");
    assert_eq!(of(&good, "a=1").map(|trace| trace.state), Some(Some("a=1".to_owned())));
    for state in ["", "a=\u{7f}", "a=\u{1}", "a=ä", &"x".repeat(513)] {
        assert_eq!(of(&good, state).map(|trace| trace.state), Some(None), "{state:?}");
    }
    assert!(of(&good, &"x".repeat(512)).unwrap().state.is_some());
    let later = format!("cc-{trace}-{span}-01-of-a-later-version");
    assert_eq!(of(&later, "a=1").map(|trace| trace.parent), Some(later), "to the letter");
    let zeros = ["0".repeat(32), "0".repeat(16)];
    for bad in [
        format!("ff-{trace}-{span}-01"),
        format!("00-{trace}-{span}-1"),
        format!("00-{trace}-{span}-0g"),
        format!("00-{trace}-{span}-0A"),
        format!("0-{trace}-{span}-01"),
        format!("00-{}-{span}-01", zeros[0]),
        format!("00-{trace}-{}-01", zeros[1]),
        format!("00-{}-{span}-01", &trace[1..]),
        format!("00-{trace}-{}x-01", &span[1..]),
        format!("00-{trace}-{span}-01-more"),
    ] {
        assert_eq!(of(&bad, ""), None, "{bad}");
    }
}

#[test]
fn what_a_history_gains_leaves_the_rest_as_it_was() {
    let at = Timestamp::from_millis;
    let (since, main) = (Some(at(5)), EndpointId::try_new("main").unwrap());
    let full = History { attempts: 3, parked: 2, unknown_since: since, endpoint: Some(main.clone()), ..History::new(at(1)) };
    let room = full.clone().making_room(at(9));
    assert_eq!((room.parked, room.turn_at, room.unknown_since, room.attempts), (3, Some(at(9)), None, 3));
    let ladder = Ladder::try_new(milliseconds(100), milliseconds(1000)).unwrap();
    let short = full.clone().waiting(Wait::at_least(&ladder, milliseconds(400), at(1000)));
    assert_eq!((short.due_at, short.hold_until), (Some(at(1400)), None));
    let long = full.clone().waiting(Wait::at_least(&ladder, milliseconds(5000), at(1000)));
    assert_eq!((long.due_at, long.hold_until), (Some(at(2000)), Some(at(6000))));
    let other = full.at(&EndpointId::try_new("other").unwrap());
    assert_eq!((other.endpoint.as_ref().map(EndpointId::as_str), other.parked, other.unknown_since), (Some("other"), 2, since));
}

#[test]
fn a_ladder_goes_as_far_as_it_may_and_a_wait_takes_the_rung_at_its_border() {
    let new = |first, last| Ladder::try_new(milliseconds(first), milliseconds(last));
    let week = 7 * 24 * 3_600_000;
    assert!(new(10, week).is_ok() && new(500, 500).is_ok());
    assert!(matches!(new(9, 500), Err(BadLadder::TooShort)));
    assert!(matches!(new(10, week + 1), Err(BadLadder::TooLong)));
    assert!(matches!(new(500, 499), Err(BadLadder::Reversed)));
    let rungs: Vec<u64> = new(100, 400).unwrap().rungs().map(callbackd::domain::ladder::Rung::millis).collect();
    assert_eq!(rungs, [100, 120, 140, 170, 200, 240, 280, 340, 400], "each once, the ends included");
    let rungs: Vec<u64> = new(100, 340).unwrap().rungs().map(callbackd::domain::ladder::Rung::millis).collect();
    assert_eq!(rungs, [100, 120, 140, 170, 200, 240, 280, 340], "the last one is a step itself");
    let ladder = new(100, 400).unwrap();
    let between = |from, to, limit| ladder.between(milliseconds(from), milliseconds(to), milliseconds(limit), 0.0).millis();
    assert_eq!((between(120, 120, 400), between(121, 139, 400), between(121, 139, 139)), (120, 140, 120));
    assert_eq!(between(121, 139, 140), 140, "the limit itself is not over it");
    assert_eq!(between(120, 140, 400), 120, "the rung at the early border is one of the choices");
}

#[test]
fn an_answer_is_counted_by_its_hundred() {
    let class = |status| Reply { outcome: Outcome::Answered { status, retry_after: None }, took: Duration::ZERO }.class();
    let classes = [199, 200, 299, 300, 399, 400, 499, 500, 599, 600].map(class);
    assert_eq!(classes, ["other_status", "2xx", "2xx", "3xx", "3xx", "4xx", "4xx", "5xx", "5xx", "other_status"]);
}

#[test]
fn the_speed_of_an_endpoint_is_that_of_its_requests_old_and_open() {
    let start = Instant::now();
    let at = |millis| start + milliseconds(millis);
    let mut service = Service::new(start);
    service.begin(at(1000));
    service.begin(at(1500));
    assert_eq!(service.quiet(at(3000)), milliseconds(2000), "since the first one started");
    // Nothing is over: (0 + 1) of 2.0 + 1.5 s.
    assert!((service.requests_per_second(1, at(3000)) - 1.0 / 3.5).abs() < 1e-9);
    service.end(at(1500), 4, at(3000));
    assert_eq!(service.quiet(at(3500)), milliseconds(500));
    // One is over after 1.5 s, the other one is 2.5 s old: (1 + 1) of 4 s, at two places.
    assert!((service.requests_per_second(2, at(3500)) - 1.0).abs() < 1e-9);
    service.end(at(1000), 2, at(3500));
    assert_eq!((service.in_flight(), service.quiet(at(9000))), (0, Duration::ZERO));
    // Two requests of 4 s together with six events: three quarters of a request a second, three events each.
    assert!((service.events_per_second(1, at(9000)) - 0.75 * 3.0).abs() < 1e-9);
    // What is long past fades: after 256 it counts half.
    let mut faded = Service::new(start);
    for request in 0..256 {
        faded.begin(at(request * 100));
        faded.end(at(request * 100), 1, at(request * 100 + 100));
    }
    faded.begin(at(30_000));
    faded.end(at(30_000), 1, at(30_100));
    let expected = 130.0 / 12.9;
    assert!((faded.requests_per_second(1, at(30_100)) - expected).abs() < 1e-6, "{}", faded.requests_per_second(1, at(30_100)));
}

#[test]
fn tls_settings_hold_the_authorities_that_they_were_given() {
    let tls = EndpointTls::new(None, Some("a CA".to_owned())).unwrap();
    assert!(tls.identity().is_none());
    assert_eq!(tls.authorities(), Some("a CA"));
    assert!(EndpointTls::new(None, None).is_none());
    let own = EndpointTls::new(Some(TlsIdentity::new("a certificate", &"its key".into())), None).unwrap();
    assert_eq!(own.identity().map(|identity| identity.as_pem().expose_secret()), Some("a certificate\nits key\n"));
    assert_eq!(own.authorities(), None);
}
