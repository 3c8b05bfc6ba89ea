//! How large properties are on the wire, and how large they may be.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::Trust;

/// The largest frame that RabbitMQ agrees to by default (`frame_max`, RabbitMQ's documentation, "configure"). The
/// properties of a message travel in one frame; a larger one ends the connection.
pub const FRAME_MAX: u32 = 131_072;
/// Of that frame, AMQP 0-9-1 (sections 2.3.5 and 4.2.6) takes 7 bytes in front, 1 at the end, and 12 for class, weight and body size.
const FRAME_OVERHEAD: usize = 20;
/// What the broker may add on the way through a wait queue, the due queue and the rejected: two entries of `x-death` and the
/// six headers `x-first-death-*` and `x-last-death-*`, with names of 255 bytes 3.0 KB by calculation.
const BROKER_ADDS: usize = 4096;
/// What a copy may add: 3.6 KB in the test that makes copies with the longest values, and a detail of 200 characters would
/// be 0.8 KB more.
const COPY_ADDS: usize = 8192;

/// The largest properties of a copy, in bytes as [`encoded_size`] counts, with room for what the broker adds to it on its way.
pub const LARGEST_COPY: usize = FRAME_MAX as usize - FRAME_OVERHEAD - BROKER_ADDS;
/// The largest properties of a received event, in bytes: every copy of such a one is at most [`LARGEST_COPY`]. A larger one
/// must not be copied but left to the broker to reject.
pub const LARGEST_ORIGINAL: usize = LARGEST_COPY - COPY_ADDS;

/// The deepest nesting of tables and arrays in a copied header; what publishers nest are a few levels. The limit keeps every
/// recursion over headers short.
pub const DEEPEST: usize = 32;

/// Whether copies of a message with these properties can be made and published. A message where this is false must be left to
/// the broker to reject.
#[must_use]
pub fn can_be_copied(properties: &BasicProperties, trust: Trust) -> bool {
    let room = match trust {
        Trust::Foreign => LARGEST_ORIGINAL,
        // It is a copy already, which the broker may have added to; what both added is left out of the next one.
        Trust::Ours => LARGEST_COPY + BROKER_ADDS,
    };
    let shallow = properties.headers().as_ref().is_none_or(|headers| headers.into_iter().all(|(_, field)| is_shallow(field, DEEPEST)));
    shallow && encoded_size(properties) <= room
}

/// The same as [`encoded_size`], and as much as a frame where they are nested too deeply to be counted.
pub(in crate::broker) fn held_size(properties: &BasicProperties) -> usize {
    let shallow = properties.headers().as_ref().is_none_or(|headers| headers.into_iter().all(|(_, field)| is_shallow(field, DEEPEST)));
    if shallow { encoded_size(properties) } else { FRAME_MAX as usize }
}

fn is_shallow(field: &AMQPValue, levels: usize) -> bool {
    match field {
        AMQPValue::FieldArray(values) => levels > 0 && values.as_slice().iter().all(|value| is_shallow(value, levels - 1)),
        AMQPValue::FieldTable(fields) => levels > 0 && fields.into_iter().all(|(_, value)| is_shallow(value, levels - 1)),
        _ => true,
    }
}

/// Bytes that the properties take on the wire, from the flags on (AMQP 0-9-1, section 4.2.6.1).
#[must_use]
pub fn encoded_size(properties: &BasicProperties) -> usize {
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let texts: usize = texts.into_iter().flatten().map(short).sum();
    let octets = usize::from(properties.delivery_mode().is_some()) + usize::from(properties.priority().is_some());
    let timestamp = if properties.timestamp().is_some() { 8 } else { 0 };
    2 + texts + octets + timestamp + properties.headers().as_ref().map_or(0, table)
}

fn short(text: &ShortString) -> usize {
    1 + text.as_str().len()
}

fn table(table: &FieldTable) -> usize {
    4 + table.into_iter().map(|(key, field)| short(key) + value(field)).sum::<usize>()
}

/// A value with the octet in front that says its type.
fn value(field: &AMQPValue) -> usize {
    1 + match field {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => short(text),
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(values) => 4 + values.as_slice().iter().map(value).sum::<usize>(),
        AMQPValue::FieldTable(fields) => table(fields),
    }
}
