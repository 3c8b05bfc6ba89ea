//! What must hold for any message that can come in.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::domain::names::{EventId, IntegratorKey, Topic};
use lapin::types::{ByteArray, DecimalValue, FieldArray, LongString};

fn source() -> SourceName {
    SourceName::try_new("compliance").unwrap()
}

fn original<'a>(properties: &'a BasicProperties, source: &'a SourceName, trust: Trust) -> Original<'a> {
    Original { properties, exchange: "compliance.events", routing_key: "some.key", source, trust }
}

fn headers(properties: &BasicProperties) -> FieldTable {
    properties.headers().clone().unwrap_or_default()
}

fn with_headers(fields: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> BasicProperties {
    let mut table = FieldTable::default();
    for (key, value) in fields {
        table.insert(key.into(), value);
    }
    BasicProperties::default().with_headers(table)
}

fn any_value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        Just(AMQPValue::Void),
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        (-1e30f32..1e30).prop_map(AMQPValue::Float),
        (-1e300f64..1e300).prop_map(AMQPValue::Double),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
        vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::LongString(LongString::from(bytes))),
        vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::ByteArray(ByteArray::from(bytes))),
        any::<u64>().prop_map(AMQPValue::Timestamp),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(|values| AMQPValue::FieldArray(FieldArray::from(values))),
            btree_map("[a-zA-Z-]{0,12}", inner, 0..6).prop_map(|fields| AMQPValue::FieldTable(
                fields.into_iter().map(|(k, v)| (k.into(), v)).collect::<std::collections::BTreeMap<_, _>>().into()
            )),
        ]
    })
}

/// Names that mean something to us or to the broker, and others.
fn any_name() -> impl Strategy<Value = String> {
    let known: Vec<&str> = name::STATE
        .into_iter()
        .chain(MOVED)
        .chain([
            "x-death",
            "x-delivery-count",
            "CC",
            "BCC",
            "cc",
            "x-first-death-queue",
            "x-last-death-reason",
            "integrator",
            "traceparent",
        ])
        .chain(["tracestate", "x-callback-unheard-of", "x-callback-replayed-at"])
        .collect();
    prop_oneof![2 => proptest::sample::select(known).prop_map(str::to_owned), 1 => "[ -~äß]{0,30}"]
}

const MOVED: [&str; 6] =
    [name::ORIG_EXCHANGE, name::ORIG_ROUTING_KEY, name::ORIG_USER_ID, name::ORIG_EXPIRATION, name::ORIG_PRIORITY, name::ORIG_CC];

prop_compose! {
    fn any_properties()(
        fields in btree_map(any_name(), any_value(), 0..12),
        texts in vec(proptest::option::of("[ -~]{0,60}"), 10),
        mode in proptest::option::of(any::<u8>()),
        priority in proptest::option::of(any::<u8>()),
        timestamp in proptest::option::of(any::<u64>()),
    ) -> BasicProperties {
        let mut table = FieldTable::default();
        for (key, value) in fields {
            table.insert(key.into(), value);
        }
        let mut properties = BasicProperties::default().with_headers(table);
        let with: [fn(BasicProperties, ShortString) -> BasicProperties; 10] = [
            BasicProperties::with_content_type, BasicProperties::with_content_encoding, BasicProperties::with_correlation_id,
            BasicProperties::with_reply_to, BasicProperties::with_message_id, BasicProperties::with_type, BasicProperties::with_app_id,
            BasicProperties::with_cluster_id, BasicProperties::with_user_id, BasicProperties::with_expiration,
        ];
        for (text, with) in texts.into_iter().zip(with) {
            if let Some(text) = text {
                properties = with(properties, text.into());
            }
        }
        if let Some(mode) = mode {
            properties = properties.with_delivery_mode(mode);
        }
        if let Some(priority) = priority {
            properties = properties.with_priority(priority);
        }
        if let Some(timestamp) = timestamp {
            properties = properties.with_timestamp(timestamp);
        }
        properties
    }
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_millis)
}

prop_compose! {
    fn any_history()(
        received_at in any_time(),
        endpoint in proptest::option::of("[A-Za-z0-9_-]{1,64}"),
        attempts in any::<u32>(),
        first_attempt_at in proptest::option::of(any_time()),
        last_attempt_at in proptest::option::of(any_time()),
        last_status in proptest::option::of(any::<u16>()),
        last_error in proptest::option::of("[!-~]([ -~äß]{0,190}[!-~])?"),
        due_at in proptest::option::of(any_time()),
        hold_until in proptest::option::of(any_time()),
        (unknown_since, replayed_at, turn_at) in (proptest::option::of(any_time()), proptest::option::of(any_time()), proptest::option::of(any_time())),
        (parked, batch_limit) in (any::<u32>(), any::<u16>()),
    ) -> History {
        History {
            received_at, replayed_at, attempts, first_attempt_at, last_attempt_at, last_status, last_error, due_at, hold_until, unknown_since,
            parked, turn_at, batch_limit: NonZeroU16::new(batch_limit),
            endpoint: endpoint.map(|id| EndpointId::try_new(id).unwrap()),
        }
    }
}

fn assert_same_but_moved(from: &BasicProperties, copy: &BasicProperties) {
    assert_eq!(copy.content_type(), from.content_type());
    assert_eq!(copy.content_encoding(), from.content_encoding());
    assert_eq!(copy.correlation_id(), from.correlation_id());
    assert_eq!(copy.reply_to(), from.reply_to());
    assert_eq!(copy.message_id(), from.message_id());
    assert_eq!(copy.kind(), from.kind());
    assert_eq!(copy.app_id(), from.app_id());
    assert_eq!(copy.cluster_id(), from.cluster_id());
    assert_eq!(copy.timestamp(), from.timestamp());
    assert_eq!(*copy.delivery_mode(), Some(2));
    assert_eq!((copy.user_id(), copy.expiration(), copy.priority()), (&None, &None, &None));
}

proptest! {
    #[test]
    fn a_history_comes_back_as_it_was_written(from in any_properties(), history in any_history(), ours in any::<bool>()) {
        let (source, trust) = (source(), if ours { Trust::Ours } else { Trust::Foreign });
        let copy = retry_copy(&original(&from, &source, trust), &history);
        prop_assert_eq!(read_history(&copy), Some(history.clone()));
        let again = retry_copy(&original(&copy, &source, Trust::Ours), &history);
        prop_assert_eq!(again, copy);
    }

    #[test]
    fn no_field_table_panics(from in any_properties()) {
        let source = source();
        let _ = (metadata(&from), read_history(&from), encoded_size(&from));
        for trust in [Trust::Ours, Trust::Foreign] {
            let _ = replay_copy(&original(&from, &source, trust), Timestamp::from_millis(1));
        }
    }

    #[test]
    fn nothing_that_the_broker_acts_on_survives_and_all_else_does(from in any_properties(), history in any_history()) {
        let source = source();
        let copy = retry_copy(&original(&from, &source, Trust::Foreign), &history);
        assert_same_but_moved(&from, &copy);
        let copied = headers(&copy);
        for (key, value) in &headers(&from) {
            let key = key.as_str();
            let acted_on = ["x-death", "x-delivery-count", "CC", "BCC"].contains(&key)
                || key.starts_with("x-first-death-") || key.starts_with("x-last-death-");
            if acted_on {
                prop_assert!(!copied.contains_key(key));
            } else if !key.starts_with("x-callback-") {
                prop_assert_eq!(copied.inner().get(key), Some(value));
            }
        }
        let ours = copied.inner().keys().filter(|key| key.as_str().starts_with("x-callback-"));
        for key in ours {
            prop_assert!(name::STATE.contains(&key.as_str()) || MOVED.contains(&key.as_str()), "{}", key);
        }
        prop_assert_eq!(header(&copy, name::ORIG_CC), header(&from, "CC"));
        prop_assert_eq!(text(&copy, name::ORIG_USER_ID), from.user_id().as_ref().map(ShortString::as_str));
        prop_assert_eq!(text(&copy, name::ORIG_EXPIRATION), from.expiration().as_ref().map(ShortString::as_str));
        prop_assert_eq!(integer(&copy, name::ORIG_PRIORITY), from.priority().map(i64::from));
    }

    #[test]
    fn the_size_is_what_goes_over_the_wire(from in any_properties()) {
        let sizes = |fields: &FieldTable| encoded_size(&BasicProperties::default().with_headers(fields.clone()));
        let table = headers(&from);
        let bare = FieldTable::default();
        // One more field costs its key, its type and its value, whatever else is there.
        let mut more = table.clone();
        more.insert("zzz-one-more".into(), AMQPValue::LongString("12345".into()));
        prop_assert_eq!(sizes(&more), sizes(&table) + 1 + 12 + 1 + 4 + 5);
        prop_assert_eq!(sizes(&bare), 2 + 4);
    }
}

#[test]
fn the_history_of_a_message_that_is_not_ours_is_none() {
    assert_eq!(read_history(&BasicProperties::default()), None);
    let wrong = [AMQPValue::LongString("1".into()), AMQPValue::Void, AMQPValue::Timestamp(1), AMQPValue::Boolean(true)];
    for value in wrong {
        assert_eq!(read_history(&with_headers([(name::RECEIVED_AT, value)])), None);
    }
}

#[test]
fn wrong_types_and_impossible_numbers_count_as_absent() {
    let read = read_history(&with_headers([
        (name::RECEIVED_AT, AMQPValue::LongInt(7)),
        (name::ATTEMPTS, AMQPValue::LongLongInt(-1)),
        (name::LAST_STATUS, AMQPValue::LongLongInt(70_000)),
        (name::LAST_ERROR, AMQPValue::LongString(vec![0xff].into())),
        (name::ENDPOINT, AMQPValue::LongString("".into())),
        (name::DUE_AT, AMQPValue::LongString("soon".into())),
    ]));
    assert_eq!(read, Some(History::new(Timestamp::from_millis(7))));
}

#[test]
fn where_it_came_from_is_recorded_once_and_forgeries_are_not_believed() {
    let source = source();
    let forged = with_headers([
        (name::ORIG_EXCHANGE, AMQPValue::LongString("forged".into())),
        (name::ENDPOINT, AMQPValue::LongString("forged".into())),
        (name::REPLAYED_AT, AMQPValue::LongLongInt(1)),
    ]);
    let history = History::new(Timestamp::from_millis(5));
    let first = retry_copy(&original(&forged, &source, Trust::Foreign), &history);
    assert_eq!(text(&first, name::ORIG_EXCHANGE), Some("compliance.events"));
    assert_eq!(text(&first, name::ORIG_ROUTING_KEY), Some("some.key"));
    assert_eq!(text(&first, name::ENDPOINT), None);
    assert_eq!(time(&first, name::REPLAYED_AT), None);
    let due = Original { exchange: "callbacks.route", routing_key: "callbacks.compliance.due", ..original(&first, &source, Trust::Ours) };
    let second = retry_copy(&due, &history);
    assert_eq!(text(&second, name::ORIG_EXCHANGE), Some("compliance.events"));
    assert_eq!(text(&second, name::ORIG_ROUTING_KEY), Some("some.key"));
}

#[test]
fn a_dead_letter_says_whose_it_is_and_why_and_a_replay_starts_anew() {
    let (source, now) = (source(), Timestamp::from_millis(1000));
    let (id, integrator, topic) =
        (EventId::try_new("evt-1").unwrap(), IntegratorKey::try_new("acme").unwrap(), Topic::try_new("identResult").unwrap());
    let event = EventRef { id: &id, integrator: &integrator, topic: &topic, whole: None, receipt: None };
    let history = History {
        endpoint: Some(EndpointId::try_new("main").unwrap()),
        attempts: 9,
        last_status: Some(503),
        last_error: Some("line one\nline\ttwo ".to_owned() + &"x".repeat(300)),
        due_at: Some(now),
        hold_until: Some(now),
        ..History::new(Timestamp::from_millis(5))
    };
    let from = BasicProperties::default().with_message_id("evt-1".into());
    let dead = dead_copy(&original(&from, &source, Trust::Foreign), &history, event, DeadReason::Gone, now);
    let expected = [(name::EVENT_ID, "evt-1"), (name::INTEGRATOR, "acme"), (name::TOPIC, "identResult"), (name::REASON, "gone")];
    for (name, value) in expected.into_iter().chain([(name::SOURCE, "compliance"), (name::ENDPOINT, "main")]) {
        assert_eq!(text(&dead, name), Some(value), "{name}");
    }
    assert_eq!(time(&dead, name::DEAD_AT), Some(now));
    assert_eq!(time(&dead, name::DUE_AT), None);
    let error = text(&dead, name::LAST_ERROR).unwrap();
    assert!(error.starts_with("line one line two xxx") && error.chars().count() == TEXT_LIMIT, "{error}");

    let later = Timestamp::from_millis(2000);
    let replay = replay_copy(&original(&dead, &source, Trust::Ours), later);
    let expected = History { endpoint: history.endpoint.clone(), replayed_at: Some(later), ..History::new(history.received_at) };
    assert_eq!(read_history(&replay), Some(expected));
    assert_eq!(time(&replay, name::REPLAYED_AT), Some(later));
    assert_eq!(replay.message_id(), from.message_id());
    for name in [name::REASON, name::DETAIL, name::DEAD_AT, name::LAST_ERROR, name::LAST_STATUS, name::EVENT_ID] {
        assert!(!headers(&replay).contains_key(name), "{name}");
    }
    assert_eq!(text(&replay, name::ORIG_EXCHANGE), Some("compliance.events"));
}

#[test]
fn a_rejected_message_says_why_without_its_payload() {
    let (source, from) = (source(), BasicProperties::default());
    let reason = RejectReason::TooLarge { size: 17, limit: 16 };
    let history = History::new(Timestamp::from_millis(5));
    let copy = rejected_copy(&original(&from, &source, Trust::Foreign), &history, None, &reason, Timestamp::from_millis(9));
    assert_eq!(text(&copy, name::REASON), Some("too_large"));
    assert_eq!(text(&copy, name::DETAIL), Some("the body has 17 bytes, at most 16 are allowed"));
    assert_eq!(text(&copy, name::EVENT_ID), None);
}

#[test]
fn a_copy_of_the_largest_accepted_original_still_fits_with_the_longest_of_everything() {
    let source = SourceName::try_new("s".repeat(64)).unwrap();
    let base = BasicProperties::default()
        .with_user_id("u".repeat(255).into())
        .with_expiration("1".repeat(255).into())
        .with_priority(9)
        .with_message_id("m".repeat(255).into());
    let filled = |fill: usize| {
        let mut table = FieldTable::default();
        table.insert("CC".into(), AMQPValue::FieldArray(vec![AMQPValue::LongString("c".repeat(fill).into())].into()));
        base.clone().with_headers(table)
    };
    let from = filled(LARGEST_ORIGINAL - encoded_size(&filled(0)));
    assert_eq!(encoded_size(&from), LARGEST_ORIGINAL);

    let wide = |limit: usize| "ä".repeat(limit / 2);
    let (id, integrator, topic) =
        (EventId::try_new(wide(1024)).unwrap(), IntegratorKey::try_new(wide(255)).unwrap(), Topic::try_new(wide(255)).unwrap());
    let event = EventRef { id: &id, integrator: &integrator, topic: &topic, whole: None, receipt: None };
    let at = Some(Timestamp::from_millis(i64::MAX));
    let history = History {
        received_at: Timestamp::from_millis(i64::MAX),
        replayed_at: at,
        endpoint: Some(EndpointId::try_new("e".repeat(64)).unwrap()),
        attempts: u32::MAX,
        first_attempt_at: at,
        last_attempt_at: at,
        last_status: Some(u16::MAX),
        last_error: Some("😀".repeat(300)),
        due_at: at,
        hold_until: at,
        unknown_since: at,
        parked: u32::MAX,
        turn_at: at,
        batch_limit: Some(NonZeroU16::MAX),
    };
    let (exchange, routing_key) = ("x".repeat(255), "k".repeat(255));
    let original = Original { properties: &from, exchange: &exchange, routing_key: &routing_key, source: &source, trust: Trust::Foreign };
    let reason = RejectReason::UnknownIntegrator;
    let now = Timestamp::from_millis(i64::MAX);
    let dead = dead_copy(&original, &history, event, DeadReason::EndpointRemoved, now);
    let copies = [retry_copy(&original, &history), rejected_copy(&original, &history, Some(event), &reason, now), dead.clone()];
    for copy in copies {
        assert!(encoded_size(&copy) <= LARGEST_COPY, "{} > {LARGEST_COPY}", encoded_size(&copy));
        assert!(encoded_size(&copy) > LARGEST_ORIGINAL);
    }
    let replay = replay_copy(&Original { properties: &dead, trust: Trust::Ours, ..original }, now);
    assert!(encoded_size(&replay) <= LARGEST_COPY);
}
