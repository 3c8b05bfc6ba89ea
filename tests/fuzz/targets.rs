//! What each fuzz target does with its bytes, for the fuzzer and for the test that replays the corpus. A target panics when a
//! promise is broken.

use bytes::Bytes;
use callbackd::broker::headers::{self, Original, Trust, name};
use callbackd::config;
use callbackd::domain::decode::{Metadata, decode as decode_event};
use callbackd::domain::format::{Format, Rendering, render};
use callbackd::domain::names::SourceName;
use callbackd::domain::reply::RetryAfter;
use callbackd::domain::time::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A message's body. What is an event is rendered as JSON in every format that has a form for it, and nothing of a body is ever
/// in the reason why it is none.
pub(crate) fn decode(bytes: &[u8]) {
    let metadata = Metadata {
        message_id: Some("evt-1"),
        message_type: Some("identResult"),
        timestamp: Some(1_700_000_000),
        integrator: Some(b"acme"),
        traceparent: bytes.get(..55),
        tracestate: bytes.get(..20),
    };
    for metadata in [Metadata::default(), metadata] {
        let event = match decode_event(Bytes::copy_from_slice(bytes), &metadata) {
            Ok(event) => event,
            Err(reason) => {
                // Members of our own have names that a body may hold too; longer stretches of it must not come back.
                let (reason, body) = (reason.to_string(), String::from_utf8_lossy(bytes));
                let canary = body.char_indices().step_by(7).filter_map(|(at, _)| body.get(at..at + 24)).find(|part| reason.contains(*part));
                assert_eq!(canary, None, "the reason repeats the body");
                continue;
            }
        };
        for format in [Format::Classic, Format::Topic] {
            if !format.carries(&event.topic) {
                continue;
            }
            if let Ok(Rendering::Body(body)) = render(format, &[&event, &event]) {
                let entries: Vec<&serde_json::value::RawValue> = serde_json::from_slice(&body).expect("an array");
                assert!(!entries.is_empty());
            }
        }
    }
}

/// Headers of a message from a due queue: whatever stands there, a copy can be made, says the same of the past, and fits.
pub(crate) fn headers(bytes: &[u8]) {
    let properties = properties(bytes);
    let source = SourceName::try_new("source").expect("a name");
    for trust in [Trust::Ours, Trust::Foreign] {
        if !headers::can_be_copied(&properties, trust) {
            continue;
        }
        let original = Original { properties: &properties, exchange: "exchange", routing_key: "key", source: &source, trust };
        let Some(history) = headers::read_history(&properties) else { continue };
        let copy = headers::retry_copy(&original, &history);
        assert!(headers::encoded_size(&copy) <= headers::LARGEST_COPY, "a copy fits into a frame");
        assert_eq!(headers::read_history(&copy).as_ref(), Some(&history), "and says the same");
        let _ = headers::metadata(&properties);
    }
}

/// Both configuration files: an error or a configuration, and never a text that holds the secret.
pub(crate) fn configuration(bytes: &[u8]) {
    const SECRET: &str = "whsec_CANARYCANARYCANARYCANARYCANARYCANARY";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("callbackd.toml");
    std::fs::write(&file, bytes).expect("a file");
    let secret = [("SECRET".to_owned(), SECRET.to_owned())];
    let shown = match config::load(&file, secret.clone()) {
        Ok(config) => format!("{config:?}"),
        Err(problems) => problems.to_string(),
    };
    assert!(!shown.is_empty() && (!shown.contains("CANARY") || bytes.windows(6).any(|window| window == b"CANARY")));
    let least = folder.path().join("least.toml");
    std::fs::write(&least, "broker.url = 'amqp://localhost'\n[[source]]\nname = 'a'\nexchange = 'a'\n").expect("a file");
    let config = config::load(&least, []).expect("the least configuration is good");
    let environment = secret.into_iter().collect();
    let folder_of_secrets = Some(folder.path());
    match config::load_directory(&file, folder_of_secrets, &config.delivery, &config.egress, &environment) {
        Ok(directory) => assert!(!format!("{directory:?}").contains("CANARY")),
        Err(problems) => assert!(!problems.to_string().contains("CANARY") || bytes.windows(6).any(|window| window == b"CANARY")),
    }
}

/// A `Retry-After`: a wait from now on, never a panic.
pub(crate) fn retry_after(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(after) = RetryAfter::parse(text) {
        assert!(NOW.plus(after.wait(NOW)) >= NOW, "never before now");
    }
}

/// Headers of a dead or rejected letter: they can be shown, and the letter can be replayed with nothing left of its past but where
/// it was to go.
pub(crate) fn dead_letter(bytes: &[u8]) {
    let properties = properties(bytes);
    let source = SourceName::try_new("source").expect("a name");
    for name in [name::REASON, name::DETAIL, name::EVENT_ID, name::LAST_ERROR] {
        let _ = headers::text(&properties, name);
    }
    for name in [name::DEAD_AT, name::RECEIVED_AT] {
        let _ = headers::time(&properties, name).map(|time| time.to_string());
    }
    for trust in [Trust::Ours, Trust::Foreign] {
        if headers::can_be_copied(&properties, trust) {
            let original = Original { properties: &properties, exchange: "", routing_key: "", source: &source, trust };
            let replayed = headers::read_history(&headers::replay_copy(&original, NOW)).expect("a copy has a past");
            assert_eq!((replayed.attempts, replayed.replayed_at, replayed.due_at), (0, Some(NOW), None));
        }
    }
}

/// Properties made from bytes: our own header names and others, with values of every type, nested too.
fn properties(bytes: &[u8]) -> BasicProperties {
    let mut rest = Rest(bytes);
    let mut table = FieldTable::default();
    while !rest.0.is_empty() && table.inner().len() < 64 {
        let key = rest.name();
        let value = rest.value(4);
        table.insert(key, value);
    }
    let mut properties = BasicProperties::default().with_headers(table);
    if bytes.len() % 3 == 1 {
        properties = properties.with_expiration("1".into()).with_priority(9).with_user_id("guest".into());
    }
    properties
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }

    fn number(&mut self) -> u64 {
        self.take(8).into_iter().fold(0, |number, byte| number << 8 | u64::from(byte))
    }

    fn name(&mut self) -> ShortString {
        const NAMES: [&str; 14] = [
            name::ENDPOINT,
            name::RECEIVED_AT,
            name::ATTEMPTS,
            name::LAST_STATUS,
            name::LAST_ERROR,
            name::DUE_AT,
            name::HOLD_UNTIL,
            name::PARKED,
            name::TURN_AT,
            name::BATCH_LIMIT,
            name::REASON,
            name::REPLAYED_AT,
            "CC",
            "x-death",
        ];
        let choice = usize::from(self.byte());
        match NAMES.get(choice) {
            Some(name) => (*name).into(),
            None => {
                let length = usize::from(self.byte() % 40);
                String::from_utf8_lossy(&self.take(length)).chars().take(60).collect::<String>().into()
            }
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "any number will do")]
    fn value(&mut self, levels: u8) -> AMQPValue {
        let kind = self.byte() % 12;
        match kind {
            0 => AMQPValue::Boolean(self.byte() < 128),
            1 => AMQPValue::ShortShortInt(self.byte() as i8),
            2 => AMQPValue::LongInt(self.number() as i32),
            3 => AMQPValue::LongLongInt(self.number() as i64),
            4 => AMQPValue::LongUInt(self.number() as u32),
            5 => AMQPValue::Timestamp(self.number()),
            6 => AMQPValue::Double(f64::from_bits(self.number())),
            7 => AMQPValue::Void,
            8 if levels > 0 => {
                let count = self.byte() % 4;
                AMQPValue::FieldArray(FieldArray::from((0..count).map(|_| self.value(levels - 1)).collect::<Vec<_>>()))
            }
            9 if levels > 0 => {
                let mut table = FieldTable::default();
                for _ in 0..self.byte() % 4 {
                    let key = self.name();
                    let value = self.value(levels - 1);
                    table.insert(key, value);
                }
                AMQPValue::FieldTable(table)
            }
            _ => {
                let length = usize::from(self.byte()) * usize::from(1 + self.byte() % 8);
                AMQPValue::LongString(LongString::from(self.take(length)))
            }
        }
    }
}
