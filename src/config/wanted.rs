//! What a key takes, as far as a JSON Schema can say it: the ranges of durations and sizes are words there.

use std::ops::RangeInclusive;
use std::time::Duration;

/// What a kind wants. It says so when it is given something else, which is how the schemas learn of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wanted {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer(RangeInclusive<i64>),
    /// A number, with or without a fraction.
    Number(RangeInclusive<f64>),
    /// `15s`.
    Duration(RangeInclusive<Duration>),
    /// `50/s`.
    Rate(RangeInclusive<u32>),
    /// `16MiB` or a number of bytes.
    Size(RangeInclusive<u64>),
    /// One of some words.
    Choice(Vec<&'static str>),
    /// A text without control characters, of so many bytes at most.
    Text(usize),
    /// The same of letters, digits, `_` and `-` alone.
    Word(usize),
    /// Whatever text it is, as far as a schema can say.
    AnyText,
    /// A text, or where to find it.
    Secret,
    /// The same, or `false` for none.
    SecretOrFalse,
    /// `"any"`, or so many ports at most.
    Ports(usize),
}
