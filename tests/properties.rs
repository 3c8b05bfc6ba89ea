//! What holds for every event, every schedule and every header.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use callbackd::broker::{Outgoing, headers};
use callbackd::domain::batch::{EVENT_IDS_LIMIT, Fill, Share, Waiting, share};
use callbackd::domain::dead::{DeadReason, RejectReason};
use callbackd::domain::decide::{Decision, Rules, Tried, Verdict, decide};
use callbackd::domain::decode::{Metadata, NoEvent, decode};
use callbackd::domain::event::Event;
use callbackd::domain::format::{Format, Rendering, render};
use callbackd::domain::history::History;
use callbackd::domain::integrator::{Endpoint, EndpointUrl};
use callbackd::domain::ladder::Ladder;
use callbackd::domain::names::{EndpointId, IntegratorKey, SourceName};
use callbackd::domain::park::{Need, Parking, Rounding, decide_park};
use callbackd::domain::policy::BatchLimits;
use callbackd::domain::reply::{Failure, Outcome, Reply, RetryAfter};
use callbackd::domain::request::{Attempt, compose};
use callbackd::domain::retry::RetryPolicy;
use callbackd::domain::sign::SigningSecret;
use callbackd::domain::time::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

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

/// A well-formed `traceparent` mostly, a later one with something that must not stand in a header, and any bytes.
fn traceparent() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => WELL_FORMED_PARENT.prop_map(String::into_bytes),
        1 => "cc-[1-9a-f][0-9a-f]{31}-[1-9a-f][0-9a-f]{15}-01-[!-~\r\n\0\u{7f}ü ]{0,20}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ]
}

/// Of this version, and of later ones with or without more behind a dash.
const WELL_FORMED_PARENT: &str =
    "(00-[1-9a-f][0-9a-f]{31}-[1-9a-f][0-9a-f]{15}-0[01]|[1-9a-e][0-9a-f]-[1-9a-f][0-9a-f]{31}-[1-9a-f][0-9a-f]{15}-0[01](-[!-~]{0,40})?)";

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

fn waiting() -> impl Strategy<Value = Waiting> {
    let bytes = prop_oneof![4 => 1_usize..500, 1 => 1_usize..5_000];
    let id_length = prop_oneof![4 => 1_usize..60, 1 => 1_usize..6_000];
    let batch_limit = prop_oneof![3 => Just(0_u16), 1 => 1_u16..40];
    (bytes, id_length, batch_limit).prop_map(|(bytes, id_length, limit)| Waiting { bytes, id_length, batch_limit: NonZeroU16::new(limit) })
}

/// Whether these may share a request: what [`share`] promises, said anew.
fn may_share(members: &[Waiting], limits: &BatchLimits) -> bool {
    let most = members.iter().filter_map(|member| member.batch_limit).min().map_or(limits.max_events, |limit| limit.min(limits.max_events));
    let ids: usize = members.iter().map(|member| member.id_length).sum::<usize>() + members.len().saturating_sub(1);
    let bytes: usize = members.iter().map(|member| member.bytes).sum();
    members.len() == 1 || (members.len() <= most.get().into() && bytes <= limits.max_bytes && ids <= EVENT_IDS_LIMIT)
}

/// How an endpoint fails because of one event.
fn poisoned() -> impl Strategy<Value = Outcome> {
    let answered = |status, retry_after| Outcome::Answered { status, retry_after };
    prop_oneof![
        prop::sample::select(vec![400_u16, 403, 404, 408, 413, 422, 431, 500, 502, 503, 504])
            .prop_map(move |status| answered(status, None)),
        (0_u64..100).prop_map(move |seconds| answered(503, Some(RetryAfter::Delay(Duration::from_secs(seconds))))),
        prop::sample::select(vec![Failure::Timeout, Failure::Disconnected, Failure::NotHttp]).prop_map(Outcome::Failed),
        Just(Outcome::Incomplete { status: 200, failure: Failure::Disconnected }),
    ]
}

/// One event at an endpoint that fails every request with poison in it.
#[derive(Debug, Clone)]
struct Member {
    poison: bool,
    history: History,
    due_at: Timestamp,
    /// Its end, once it has come: `None` for delivered.
    ended: Option<Option<DeadReason>>,
}

/// Delivers everything, as often as it takes, in the order in which it is due. Returns the events and how many requests were made.
fn deliver_all(
    poison: &[bool],
    batch: BatchLimits,
    rules: Rules<'_>,
    (failure, took): (Outcome, Duration),
    seed: u64,
) -> (Vec<Member>, usize) {
    let endpoint = EndpointId::try_new("main").unwrap();
    let new = |poison: &bool| Member { poison: *poison, history: History::new(NOW), due_at: NOW, ended: None };
    let mut members: Vec<Member> = poison.iter().map(new).collect();
    let (mut now, mut requests, mut line, mut seed) = (NOW, 0, VecDeque::new(), seed);
    let mut in_line = vec![false; members.len()];
    loop {
        let mut due: Vec<usize> = (0..members.len()).filter(|at| members[*at].ended.is_none() && !in_line[*at]).collect();
        due.sort_by_key(|at| members[*at].due_at);
        if line.is_empty() {
            let Some(first) = due.first() else { return (members, requests) };
            now = now.max(members[*first].due_at);
        }
        for at in due.into_iter().filter(|at| members[*at].due_at <= now) {
            in_line[at] = true;
            line.push_back(at);
        }
        let waits = |at: &usize| Waiting { bytes: 100, id_length: 10, batch_limit: members[*at].history.batch_limit };
        let taken: Vec<usize> = line.drain(..share(line.iter().map(waits), &batch).count).collect();
        let fails = taken.iter().any(|at| members[*at].poison);
        let outcome = if fails { failure } else { Outcome::Answered { status: 204, retry_after: None } };
        let (reply, started_at) = (Reply { outcome, took }, now);
        now = now.plus(took);
        requests += 1;
        let size = NonZeroU16::new(u16::try_from(taken.len()).unwrap()).unwrap();
        for at in taken {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let dice = f64::from(u32::try_from(seed >> 32).unwrap()) / f64::from(u32::MAX);
            let tried = Tried { endpoint: &endpoint, started_at, members: size, reply: &reply };
            let Decision { verdict, history } = decide(&members[at].history, &tried, rules, now, dice);
            let member = &mut members[at];
            in_line[at] = false;
            member.history = history;
            match verdict {
                Verdict::Delivered => member.ended = Some(None),
                Verdict::Dead(reason) => member.ended = Some(Some(reason)),
                Verdict::Retry(wait) => member.due_at = wait.due_at,
            }
        }
    }
}

/// How often a request of so many is halved until one stands alone.
fn halvings(members: u16) -> u32 {
    members.next_power_of_two().ilog2()
}

fn need() -> impl Strategy<Value = Need> {
    let wait = prop_oneof![3 => Just(0_u64), 2 => 0_u64..10_000, 1 => 0_u64..10_000_000, 1 => 0_u64..1_000_000_000];
    (wait, prop_oneof![3 => Just(Rounding::Down), 1 => Just(Rounding::Up)])
        .prop_map(|(wait, rounding)| Need { wait: Duration::from_millis(wait), rounding })
}

/// How often a delivery is parked that never finds room, comes back late by these times, and has these needs, again and again.
fn stays(policy: &RetryPolicy, ladder: &Ladder, needs: &[(Need, Duration)]) -> u32 {
    let (mut history, mut now) = (History::new(NOW), NOW);
    for (need, late) in needs.iter().cycle() {
        match decide_park(&history, *need, policy, ladder, now) {
            Parking::Expired => break,
            Parking::Wait(wait, turn_at) => {
                assert!(wait.due_at > now && turn_at > now);
                let in_the_queue = wait.rung.delay();
                assert!(need.rounding == Rounding::Down || wait.due_at >= turn_at);
                assert!(now.plus(in_the_queue) == wait.due_at || wait.hold_until == Some(wait.due_at));
                history = history.making_room(turn_at);
                now = wait.due_at.plus(*late);
            }
        }
    }
    history.parked
}

/// A lane of an endpoint that is served at a steady rate and says truly when a turn comes: the next after those that have been
/// promised, or the one that was promised.
struct SteadyLane {
    a_second: u64,
    room: usize,
    line: VecDeque<usize>,
    promised: Timestamp,
}

impl SteadyLane {
    fn turn(&mut self, history: &History, now: Timestamp) -> Need {
        let of_the_line = Duration::from_millis(self.line.len() as u64 * 1000 / self.a_second);
        let wait = match history.turn_at {
            Some(turn_at) if turn_at > now => turn_at.since(now),
            Some(_) => of_the_line,
            None => {
                self.promised = self.promised.max(now.plus(of_the_line)).plus(Duration::from_millis(1000 / self.a_second));
                self.promised.since(now)
            }
        };
        Need { wait, rounding: Rounding::Down }
    }
}

#[test]
fn a_backlog_takes_its_turns_in_a_few_stays_and_the_endpoint_does_not_idle() {
    const TICK: u64 = 20;
    let (events, intake_a_tick) = (30_000_usize, 100);
    let (policy, ladder) = (RetryPolicy::default(), Ladder::try_new(Duration::from_secs(1), Duration::from_secs(6 * 3600)).unwrap());
    let mut lane = SteadyLane { a_second: 100, room: 200, line: VecDeque::new(), promised: NOW };
    let mut histories = vec![History::new(NOW); events];
    let mut due: BTreeSet<(Timestamp, usize)> =
        (0..events).map(|at| (NOW.plus(Duration::from_millis((at / intake_a_tick) as u64 * TICK)), at)).collect();
    let (mut now, mut delivered) = (NOW, 0);
    while delivered < events {
        while let Some((_, at)) = due.first().copied().filter(|(due_at, _)| *due_at <= now) {
            due.pop_first();
            if lane.line.len() < lane.room {
                lane.line.push_back(at);
                continue;
            }
            let need = lane.turn(&histories[at], now);
            let Parking::Wait(wait, turn_at) = decide_park(&histories[at], need, &policy, &ladder, now) else { panic!("expired") };
            histories[at] = histories[at].clone().making_room(turn_at);
            due.insert((wait.due_at, at));
        }
        let served = (lane.a_second * TICK / 1000) as usize;
        delivered += lane.line.drain(..served.min(lane.line.len())).count();
        now = now.plus(Duration::from_millis(TICK));
    }
    let (most, all) =
        (histories.iter().map(|history| history.parked).max().unwrap(), histories.iter().map(|history| history.parked).sum::<u32>());
    let mean = f64::from(all) / 30_000.0;
    assert!(most <= 32 && mean < 6.0, "at most {most} stays, {mean:.1} in the mean");
    let took = now.since(NOW);
    assert!(took <= Duration::from_secs(330), "300 s of work took {took:?}");
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
    fn a_well_formed_trace_is_passed_on(parent in WELL_FORMED_PARENT, state in WELL_FORMED_STATE) {
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
    fn what_is_refused_as_no_json_is_none_and_what_is_taken_is(body in nearly_an_event()) {
        let is_json = str::from_utf8(&body).is_ok_and(|text| serde_json::from_str::<&RawValue>(text).is_ok());
        let is_refused = matches!(decode(body.into(), &Metadata::default()), Err(NoEvent::NotJson(_)));
        prop_assert_eq!(is_refused, !is_json);
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

    #[test]
    fn who_shares_a_request_fits_into_it_and_nobody_more_would(
        line in prop::collection::vec(waiting(), 0..60), max_events in 1_u16..50, max_bytes in prop_oneof![1_usize..500, 1_usize..10_000], next in waiting()
    ) {
        let limits = BatchLimits { max_events: NonZeroU16::new(max_events).unwrap(), max_bytes, ..BatchLimits::default() };
        let Share { count, fill } = share(line.iter().copied(), &limits);
        prop_assert!(count <= line.len() && (count > 0 || line.is_empty()));
        prop_assert!(count == 0 || may_share(&line[..count], &limits));
        // A member that must stand alone does so.
        prop_assert!(count <= 1 || line[..count].iter().all(|member| member.batch_limit != Some(NonZeroU16::MIN)));
        let then = |next: Waiting| [&line[..count], &[next]].concat();
        match fill {
            Fill::Open => {
                prop_assert_eq!(count, line.len());
                let smallest = Waiting { bytes: 1, id_length: 1, batch_limit: None };
                prop_assert!(may_share(&then(smallest), &limits));
            }
            // Neither who stands next in line could join, nor anybody else where nobody does.
            Fill::Full => prop_assert!(!may_share(&then(line.get(count).copied().unwrap_or(next)), &limits)),
        }
    }

    #[test]
    fn a_poison_event_dies_alone_and_its_neighbours_are_delivered(
        (size, at) in (1_usize..60).prop_flat_map(|size| (Just(size), prop::collection::btree_set(0..size, 1..4.min(size + 1)))),
        max_events in 1_u16..40, (failure, took) in (poisoned(), 0_u64..20_000),
        max_attempts in prop_oneof![Just(Some(1_u32)), Just(Some(2)), Just(Some(3)), Just(None)],
        (max_age, initial) in (1_u64..300_000, 1_u64..60_000), (jitter, seed) in (0.0_f64..1.0, any::<u64>())
    ) {
        let poison: Vec<bool> = (0..size).map(|index| at.contains(&index)).collect();
        let batch = BatchLimits { max_events: NonZeroU16::new(max_events).unwrap(), ..BatchLimits::default() };
        let (initial, max_age) = (Duration::from_millis(initial), Duration::from_millis(max_age));
        let policy = RetryPolicy { initial, max_age, max_attempts, jitter, ..RetryPolicy::default() };
        let ladder = Ladder::try_new(Duration::from_secs(1), Duration::from_secs(6 * 3600)).unwrap();
        let (members, requests) = deliver_all(&poison, batch, Rules { policy: &policy, ladder: &ladder }, (failure, Duration::from_millis(took)), seed);
        // In a request with poison once for each time that it can be halved, and then once alone.
        let most = 1 + halvings(max_events);
        for (index, member) in members.iter().enumerate() {
            if member.poison {
                prop_assert!(matches!(member.ended, Some(Some(DeadReason::Exhausted | DeadReason::Expired))), "{}: {:?}", index, member);
                // One attempt more than allowed at the most: the one alone.
                prop_assert!(max_attempts.is_none_or(|allowed| member.history.attempts <= allowed + 1), "{}: {:?}", index, member);
            } else {
                prop_assert_eq!(member.ended, Some(None), "{}: {:?}", index, member);
                let allowed = max_attempts.map_or(most, |attempts| most.min(attempts + 1));
                prop_assert!(member.history.attempts <= allowed, "{}: {} of {}", index, member.history.attempts, allowed);
            }
        }
        prop_assert!(requests <= members.iter().map(|member| member.history.attempts as usize).sum());
    }

    #[test]
    fn a_delivery_is_parked_78_times_at_most_whatever_is_said_of_its_turn(
        needs in prop::collection::vec((need(), prop_oneof![3 => Just(Duration::ZERO), 1 => (0_u64..1_000_000).prop_map(Duration::from_millis)]), 1..80)
    ) {
        let ladder = Ladder::try_new(Duration::from_secs(1), Duration::from_secs(6 * 3600)).unwrap();
        let stays = stays(&RetryPolicy::default(), &ladder, &needs);
        prop_assert!(stays <= 78, "{}", stays);
    }

    #[test]
    fn the_stays_of_a_delivery_are_bounded_by_any_ladder(
        ladder in ladder(), max_age in 1_u64..10_000_000_000, needs in prop::collection::vec((need(), Just(Duration::ZERO)), 1..80)
    ) {
        let policy = RetryPolicy { max_age: Duration::from_millis(max_age), ..RetryPolicy::default() };
        let (shortest, longest) = (ladder.shortest().as_secs_f64(), ladder.longest().as_secs_f64());
        let max_age = policy.max_age.as_secs_f64();
        // 32 stays of any length; those that make it older by a fifth; those on the longest rung; those of the end, each of which leaves a
        // fifth of what was left.
        let older = (max_age / (4.0 * shortest)).max(1.0).ln() / 1.2_f64.ln();
        let bound = 32.0 + 6.0 + older + max_age / longest + (max_age.min(longest) / shortest).max(1.0).ln() / 5.0_f64.ln() + 2.0;
        let stays = stays(&policy, &ladder, &needs);
        prop_assert!(f64::from(stays) <= bound, "{} over {}", stays, bound);
    }
}
