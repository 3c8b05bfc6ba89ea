//! The classic format: bare compliance records, each with exactly the members it has had for years, in their order.

use std::fmt;

use serde::de::{self, Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Unrenderable, separate};
use crate::domain::decode::for_each_member;
use crate::domain::event::{Content, Event};

/// The members of a classic record in the order in which they are written.
const STATUS: usize = 0;
const MEMBERS: [&str; 5] = ["status", "key", "modified", "customerKey", "contractKey"];
const REQUIRED: usize = 3;

/// Appends the event's records to a body under construction. An event with an empty array adds nothing.
///
/// # Errors
/// [`Unrenderable`] names the record and the member; part of the event may then stand in `body`.
pub(super) fn write_records(event: &Event, body: &mut Vec<u8>) -> Result<(), Unrenderable> {
    let (Content::Records(span) | Content::Bare { records: Some(span), .. }) = &event.content else {
        return Err(Unrenderable::NoRecords);
    };
    let mut fault = None;
    let read = serde_json::Deserializer::from_slice(event.slice(span)).deserialize_seq(Records { body, fault: &mut fault });
    match (fault, read) {
        (Some(fault), _) => Err(fault),
        (None, read) => read.map_err(|_| Unrenderable::NoRecords),
    }
}

/// Writes each record as it is read, so that a huge array is given up at its first bad record.
struct Records<'a> {
    body: &'a mut Vec<u8>,
    fault: &'a mut Option<Unrenderable>,
}

impl<'de> Visitor<'de> for Records<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(record) = records.next_element()? {
            separate(self.body);
            if let Err(fault) = write_record(index, record, self.body) {
                *self.fault = Some(fault);
                return Err(de::Error::custom("a bad record"));
            }
            index += 1;
        }
        Ok(())
    }
}

fn write_record(index: usize, record: &RawValue, body: &mut Vec<u8>) -> Result<(), Unrenderable> {
    let values = members_of(index, record)?;
    for (position, (member, value)) in MEMBERS.iter().zip(values).enumerate() {
        let Some(value) = value else { continue };
        body.push(if position == STATUS { b'{' } else { b',' });
        body.push(b'"');
        body.extend_from_slice(member.as_bytes());
        body.extend_from_slice(b"\":");
        body.extend_from_slice(value.as_bytes());
    }
    body.push(b'}');
    Ok(())
}

/// The raw values of the classic members; `null` counts as absent. A key or a time that is not a string, or a status
/// that is not a number, is refused rather than sent to a receiver that has never seen one.
fn members_of(record: usize, raw: &RawValue) -> Result<[Option<&str>; MEMBERS.len()], Unrenderable> {
    let mut values = [None; MEMBERS.len()];
    let mut twice = None;
    let read = for_each_member(raw.get(), |key, value| {
        let Some(position) = MEMBERS.iter().position(|member| member.as_bytes() == key) else { return };
        if values[position].replace(value.get()).is_some() {
            twice.get_or_insert(MEMBERS[position]);
        }
    });
    read.map_err(|_| Unrenderable::RecordShape(record))?;
    if let Some(member) = twice {
        return Err(Unrenderable::Twice { record, member });
    }
    for (position, value) in values.iter_mut().enumerate() {
        *value = value.filter(|raw| *raw != "null");
        let (expected, fits): (_, fn(u8) -> bool) = if position == STATUS {
            ("number", |first| first == b'-' || first.is_ascii_digit())
        } else {
            ("string", |first| first == b'"')
        };
        let absent_is_fine = position >= REQUIRED;
        if !value.map_or(absent_is_fine, |raw| raw.bytes().next().is_some_and(fits)) {
            return Err(Unrenderable::Member { record, member: MEMBERS[position], expected });
        }
    }
    Ok(values)
}
