//! What an event can be found by besides its id: the values of a few members of its records.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::decode::for_each_member;
use super::event::{Content, Event};

/// Most values that one event is found by: each is a row of the delivery log, and an event may hold thousands of records.
pub const VALUES_LIMIT: usize = 500;

/// Longest value that an event is found by, in bytes: keys are shorter, and what is longer is a text.
pub const VALUE_LIMIT: usize = 200;

/// The members whose values are keys. Upper and lower case are the same: a record's `customerKey`, a mismatch's `PersonKey`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchKeys(Vec<Arc<str>>);

/// One value that an event is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchKey {
    /// The member, as it is configured.
    pub name: Arc<str>,
    /// Its text, or its number as it is written.
    pub value: String,
}

impl SearchKeys {
    /// These members.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self(names.into_iter().map(Arc::from).collect())
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        &self.0
    }

    /// The keys of an event, each once, in the order in which they stand there: those of its records (of an event without records, of
    /// the object that it is), not of what is nested in them. At most [`VALUES_LIMIT`], none longer than [`VALUE_LIMIT`].
    #[must_use]
    pub fn of(&self, event: &Event) -> Vec<SearchKey> {
        let mut found = Vec::new();
        if self.0.is_empty() {
            return found;
        }
        match &event.content {
            Content::Records(records) => self.of_records(text(event.slice(records)), &mut found),
            Content::Fields { object, .. } => self.of_object(text(event.slice(object)), &mut found),
            Content::Bare { message, records, .. } => {
                self.of_object(text(event.slice(message)), &mut found);
                if let Some(records) = records {
                    self.of_records(text(event.slice(records)), &mut found);
                }
            }
        }
        found
    }

    fn of_records(&self, records: &str, found: &mut Vec<SearchKey>) {
        let each = |record: &RawValue| {
            if record.get().starts_with('{') {
                self.of_object(record.get(), found);
            }
            found.len() < VALUES_LIMIT
        };
        // Ends with an error when there is enough.
        let _ = serde_json::Deserializer::from_str(records).deserialize_seq(Records(each));
    }

    fn of_object(&self, object: &str, found: &mut Vec<SearchKey>) {
        let _ = for_each_member(object, |member, raw| {
            let Some(name) = self.0.iter().find(|name| name.as_bytes().eq_ignore_ascii_case(member)) else { return };
            let Some(value) = value(raw.get()).filter(|value| !value.is_empty() && value.len() <= VALUE_LIMIT) else { return };
            if found.len() < VALUES_LIMIT && !found.iter().any(|known| known.value == value) {
                found.push(SearchKey { name: Arc::clone(name), value: value.into_owned() });
            }
        });
    }
}

/// Hands over one record after the other, as long as more are wanted.
struct Records<F>(F);

impl<'de, F: FnMut(&'de RawValue) -> bool> Visitor<'de> for Records<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut records: A) -> Result<(), A::Error> {
        while let Some(record) = records.next_element()? {
            if !(self.0)(record) {
                return Err(de::Error::custom("no more are wanted"));
            }
        }
        Ok(())
    }
}

/// Spans hold valid UTF-8 (see `event`).
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn value(raw: &str) -> Option<Cow<'_, str>> {
    match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
        Some(_) => serde_json::from_str(raw).ok().map(Cow::Owned),
        None => raw.bytes().all(|byte| byte.is_ascii_digit()).then_some(Cow::Borrowed(raw)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::decode::{Metadata, decode};

    fn keys(body: &str) -> Vec<String> {
        let names = ["key", "customerKey", "identId", "personKey"].map(str::to_owned).to_vec();
        let event = decode(body.to_owned().into(), &Metadata::default()).unwrap();
        SearchKeys::new(names).of(&event).into_iter().map(|key| format!("{}={}", key.name, key.value)).collect()
    }

    #[test]
    fn an_event_is_found_by_the_keys_of_its_records_each_once() {
        let records = r#"[{"key":"a","customerKey":"c","other":{"key":[1]}},7,-1,0.5,"key",null,true,["key","no"],1e999,"\ud800",{"customerKey":"c","KEY":"b\u0041","nested":{"key":"no"}}]"#;
        let event = format!(r#"{{"integrator":"acme","topic":"complianceRecord","data":{records}}}"#);
        assert_eq!(keys(&event), ["key=a", "customerKey=c", "key=bA"]);
        let mismatch = r#"{"integrator":"acme","topic":"mismatches","data":[{"IdentId":"166","PersonKey":"PERS_7"}]}"#;
        assert_eq!(keys(mismatch), ["identId=166", "personKey=PERS_7"]);
    }

    #[test]
    fn of_an_event_without_records_the_object_counts() {
        assert_eq!(keys(r#"{"integrator":"acme","topic":"t","data":{"identId":315,"key":null,"personKey":""}}"#), ["identId=315"]);
        let event = decode(
            r#"{"topic":"t","identId":"315","key":1.5,"t":[{"key":"r"}]}"#.into(),
            &Metadata { integrator: Some(b"acme"), ..Metadata::default() },
        );
        let found = SearchKeys::new(vec!["identId".to_owned(), "key".to_owned()]).of(&event.unwrap());
        assert_eq!(found.iter().map(|key| key.value.as_str()).collect::<Vec<_>>(), ["315", "r"]);
    }

    #[test]
    fn neither_thousands_of_records_nor_long_texts_make_more_than_the_limits() {
        let record = |at: usize| format!(r#"{{"key":"k{at}","customerKey":"{}"}}"#, "x".repeat(VALUE_LIMIT + 1));
        let records: Vec<String> = (0..1000).map(record).collect();
        let found = keys(&format!(r#"{{"integrator":"acme","topic":"t","data":[{}]}}"#, records.join(",")));
        assert_eq!((found.len(), found.first().map(String::as_str)), (VALUES_LIMIT, Some("key=k0")));
    }
}
