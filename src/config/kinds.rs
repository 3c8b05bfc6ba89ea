//! The kinds of single values: each a function that makes one from TOML or says what is wrong.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Value;

use super::problems::quoted;
use super::units::{parse_duration, parse_rate, parse_size, show_duration, show_size};
use super::wanted::Wanted;
use crate::domain::policy::Rate;

/// Why a value is none of the kind that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// It is not even of the right TOML type, and what would be.
    Kind(String, Wanted),
    /// Its content is wrong.
    Content(String),
}

impl Fault {
    /// A value of the wrong TOML type. Shows numbers, never a text or what is in a table: it may be a secret in the wrong place.
    pub(super) fn kind(value: &Value, called: &str, wanted: Wanted) -> Self {
        Self::Kind(format!("{} is no {called}", described(value)), wanted)
    }

    /// A value of the right TOML type with the wrong content.
    pub(super) fn content(what: impl Display) -> Self {
        Self::Content(what.to_string())
    }

    /// What is wrong.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Kind(text, _) | Self::Content(text) => text,
        }
    }
}

/// A value for the reader's eyes, without texts.
pub(super) fn described(value: &Value) -> String {
    match value {
        Value::String(_) => "a text".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Datetime(_) => "a date".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Result<bool, Fault> {
    value.as_bool().ok_or_else(|| Fault::kind(value, "true or false", Wanted::Boolean))
}

/// A whole number within a range.
pub(super) fn integer<T: TryFrom<i64>>(range: RangeInclusive<i64>) -> impl Fn(&Value) -> Result<T, Fault> {
    move |value| {
        let number = value.as_integer().ok_or_else(|| Fault::kind(value, "whole number", Wanted::Integer(range.clone())))?;
        let (least, most) = (range.start(), range.end());
        let fault = || Fault::content(format!("{number} is out of range; write {least} to {most}"));
        if range.contains(&number) { T::try_from(number).map_err(|_| fault()) } else { Err(fault()) }
    }
}

/// A number, with or without a fraction, within a range.
#[expect(clippy::cast_precision_loss, reason = "a whole number beyond 52 bits is out of every range here")]
pub(super) fn number(range: RangeInclusive<f64>) -> impl Fn(&Value) -> Result<f64, Fault> {
    move |value| {
        let number = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64));
        match number.ok_or_else(|| Fault::kind(value, "number", Wanted::Number(range.clone())))? {
            number if range.contains(&number) => Ok(number),
            number => Err(Fault::content(format!("{number} is out of range; write {} to {}", range.start(), range.end()))),
        }
    }
}

/// A duration within a range.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Value) -> Result<Duration, Fault> {
    move |value| {
        let hint = r#"write for example "15s" (units: ms, s, m, h, d)"#;
        let Some(text) = value.as_str() else {
            return Err(Fault::kind(value, &format!("duration; {hint}"), Wanted::Duration(range.clone())));
        };
        let duration = parse_duration(text).ok_or_else(|| Fault::content(format!("{} is no duration; {hint}", quoted(text))))?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
        Err(Fault::content(format!(r#"{} is out of range; write "{least}" to "{most}""#, quoted(text))))
    }
}

/// So many requests in a unit of time, within a range for each unit.
pub(super) fn rate(range: RangeInclusive<u32>) -> impl Fn(&Value) -> Result<Rate, Fault> {
    move |value| {
        let hint = r#"write for example "50/s" (units: s, m, h)"#;
        let Some(text) = value.as_str() else {
            return Err(Fault::kind(value, &format!("rate; {hint}"), Wanted::Rate(range.clone())));
        };
        let (number, per) = parse_rate(text).ok_or_else(|| Fault::content(format!("{} is no rate; {hint}", quoted(text))))?;
        let requests = u32::try_from(number).ok().filter(|number| range.contains(number)).and_then(NonZeroU32::new);
        let fault = || Fault::content(format!("{} is out of range; write {} to {} for a unit", quoted(text), range.start(), range.end()));
        Ok(Rate { requests: requests.ok_or_else(fault)?, per })
    }
}

/// Bytes within a range: a number of them or a text with a unit.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<usize, Fault> {
    move |value| {
        let hint = r#"write for example "16MiB" (units: B, KiB, MiB, GiB) or a number of bytes"#;
        let (bytes, shown) = match value {
            Value::Integer(number) => (u64::try_from(*number).ok(), number.to_string()),
            Value::String(text) => (parse_size(text), quoted(text)),
            _ => return Err(Fault::kind(value, &format!("size; {hint}"), Wanted::Size(range.clone()))),
        };
        let bytes = bytes.ok_or_else(|| Fault::content(format!("{shown} is no size; {hint}")))?;
        let (least, most) = (show_size(*range.start()), show_size(*range.end()));
        let fault = || Fault::content(format!(r#"{shown} is out of range; write "{least}" to "{most}""#));
        if range.contains(&bytes) { usize::try_from(bytes).map_err(|_| fault()) } else { Err(fault()) }
    }
}

/// One of some words.
pub(super) fn choice<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Value) -> Result<T, Fault> {
    move |value| {
        let wanted = || Wanted::Choice(words.iter().map(|(word, _)| *word).collect());
        let text = text_or(value, wanted)?;
        words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            Fault::content(format!("{} is not known; write {}", quoted(text), all.join(" or ")))
        })
    }
}

/// A text of 1 to `limit` bytes without control characters.
pub(super) fn text(limit: usize) -> impl Fn(&Value) -> Result<String, Fault> {
    move |value| {
        let text = text_or(value, || Wanted::Text(limit))?;
        match text.len() {
            0 => Err(Fault::content("is empty")),
            length if length > limit => Err(Fault::content(format!("is {length} bytes long, at most {limit} are allowed"))),
            _ if text.chars().any(char::is_control) => Err(Fault::content("has a control character")),
            _ => Ok(text.to_owned()),
        }
    }
}

/// A word that becomes part of metrics, headers and names of queues: letters, digits, `_` and `-`.
pub(super) fn word(limit: usize) -> impl Fn(&Value) -> Result<String, Fault> {
    let text = text(limit);
    move |value| {
        text_or(value, || Wanted::Word(limit))?;
        let word = text(value)?;
        if word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
            return Ok(word);
        }
        Err(Fault::content(format!("{} has other characters than letters, digits, _ and -", quoted(&word))))
    }
}

/// Whatever text it is.
pub(super) fn any_text(value: &Value) -> Result<&str, Fault> {
    text_or(value, || Wanted::AnyText)
}

fn text_or(value: &Value, wanted: impl FnOnce() -> Wanted) -> Result<&str, Fault> {
    value.as_str().ok_or_else(|| Fault::kind(value, "text; put it in quotes", wanted()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault<T: std::fmt::Debug>(result: Result<T, Fault>) -> String {
        result.unwrap_err().into_text()
    }

    #[test]
    fn a_number_has_a_range() {
        let prefetch = integer::<u16>(1..=65535);
        assert_eq!(prefetch(&Value::Integer(65535)), Ok(65535));
        assert_eq!(fault(prefetch(&Value::Integer(0))), "0 is out of range; write 1 to 65535");
        assert_eq!(fault(prefetch(&Value::Integer(i64::MIN))), "-9223372036854775808 is out of range; write 1 to 65535");
        assert_eq!(fault(prefetch(&Value::from("SECRET"))), "a text is no whole number");
        let jitter = number(0.0..=1.0);
        assert_eq!(jitter(&Value::Integer(1)), Ok(1.0));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1, 1.1] {
            assert!(jitter(&Value::Float(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_without_a_unit_says_how_to_write_one() {
        let timeout = duration(Duration::from_millis(100)..=Duration::from_secs(120));
        assert_eq!(timeout(&Value::from("15s")), Ok(Duration::from_secs(15)));
        assert_eq!(fault(timeout(&Value::from("15"))), r#""15" is no duration; write for example "15s" (units: ms, s, m, h, d)"#);
        assert_eq!(fault(timeout(&Value::Integer(15))), r#"15 is no duration; write for example "15s" (units: ms, s, m, h, d)"#);
        assert_eq!(fault(timeout(&Value::from("3m"))), r#""3m" is out of range; write "100ms" to "2m""#);
    }

    #[test]
    fn a_rate_is_so_many_in_a_unit_of_time() {
        let rate = rate(1..=100_000);
        let minute = Rate { requests: NonZeroU32::new(600).unwrap(), per: Duration::from_secs(60) };
        assert_eq!(rate(&Value::from("600/m")), Ok(minute));
        assert_eq!(fault(rate(&Value::from("50"))), r#""50" is no rate; write for example "50/s" (units: s, m, h)"#);
        assert_eq!(fault(rate(&Value::Integer(50))), r#"50 is no rate; write for example "50/s" (units: s, m, h)"#);
        for out in ["0/s", "100001/h"] {
            assert_eq!(fault(rate(&Value::from(out))), format!("{out:?} is out of range; write 1 to 100000 for a unit"));
        }
    }

    #[test]
    fn a_size_is_a_number_of_bytes_or_has_a_unit() {
        let body = size(1..=1 << 20);
        assert_eq!((body(&Value::Integer(7)), body(&Value::from("16KiB"))), (Ok(7), Ok(16384)));
        assert_eq!(fault(body(&Value::from("2MiB"))), r#""2MiB" is out of range; write "1B" to "1MiB""#);
        assert!(fault(body(&Value::Integer(-1))).starts_with("-1 is no size"));
        assert!(fault(body(&Value::Boolean(true))).starts_with("true is no size"));
    }

    #[test]
    fn a_word_has_few_characters_and_a_text_no_control_characters() {
        assert_eq!(word(5)(&Value::from("a-B_9")), Ok("a-B_9".to_owned()));
        assert_eq!(fault(word(5)(&Value::from("a b"))), r#""a b" has other characters than letters, digits, _ and -"#);
        assert_eq!(fault(word(5)(&Value::from(""))), "is empty");
        assert_eq!(fault(text(5)(&Value::from("123456"))), "is 6 bytes long, at most 5 are allowed");
        assert_eq!(fault(text(5)(&Value::from("a\n"))), "has a control character");
        assert_eq!(fault(choice(&[("a", 1), ("b", 2)])(&Value::from("c"))), r#""c" is not known; write "a" or "b""#);
    }
}
