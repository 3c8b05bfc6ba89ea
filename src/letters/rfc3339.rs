//! Times in JSON: RFC 3339 text.

use serde::{Deserialize as _, Deserializer, Serializer, de};

use crate::domain::time::Timestamp;

/// Writes a time.
pub(crate) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

/// Reads a time.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    parse(&String::deserialize(deserializer)?)
}

fn parse<E: de::Error>(text: &str) -> Result<Timestamp, E> {
    Timestamp::parse(text).ok_or_else(|| E::custom("no time such as 2026-01-31T08:00:00Z"))
}

/// The same where there may be none.
pub(crate) mod option {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::parse;
    use crate::domain::time::Timestamp;

    /// Writes a time, or null.
    #[expect(clippy::ref_option, reason = "serde hands fields over in this way")]
    pub(crate) fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.collect_str(at),
            None => serializer.serialize_none(),
        }
    }

    /// Reads a time, or null.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        Option::<String>::deserialize(deserializer)?.as_deref().map(parse).transpose()
    }
}
