//! How durations and sizes are written: `250ms`, `6h`, `16MiB`.

use std::time::Duration;

use crate::domain::time::Timestamp;

/// Units of time, longest first, in milliseconds.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Units of time that a rate may have.
const RATE_UNITS: [&str; 3] = ["s", "m", "h"];

/// Units of size, largest first, in bytes.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a whole number with a unit of time. `None` when it is none, or more than 64 bits of milliseconds.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &TIMES).map(Duration::from_millis)
}

/// Reads a time of the past as operators write it: RFC 3339 (without offset: UTC), or so long ago, such as `2h`.
#[must_use]
pub fn parse_past(text: &str, now: Timestamp) -> Option<Timestamp> {
    parse_duration(text).map(|ago| now.minus(ago)).or_else(|| Timestamp::parse(text))
}

/// The same of a time to come: RFC 3339, or so long from now.
#[must_use]
pub fn parse_future(text: &str, now: Timestamp) -> Option<Timestamp> {
    parse_duration(text).map(|from_now| now.plus(from_now)).or_else(|| Timestamp::parse(text))
}

/// Reads a whole number with a unit of size into bytes. `None` when it is none, or more than 64 bits.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZES)
}

/// A duration as it is written in the configuration.
pub(super) fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &TIMES, "0s")
}

/// A size as it is written in the configuration.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES, "0B")
}

/// Reads a whole number, a slash and a unit of time: so many in one such unit. `None` when it is none.
#[must_use]
pub fn parse_rate(text: &str) -> Option<(u64, Duration)> {
    let (number, unit) = text.split_once('/')?;
    let (_, millis) = TIMES.iter().find(|(name, _)| *name == unit && RATE_UNITS.contains(name))?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    // More digits than fit are still more than any limit.
    is_number.then(|| (number.parse().unwrap_or(u64::MAX), Duration::from_millis(*millis)))
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    match units.iter().find(|(_, factor)| amount != 0 && amount.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}", amount / factor),
        None => zero.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_numbers_with_a_unit_and_nothing_else() {
        for (text, millis) in [("250ms", 250), ("0s", 0), ("1s", 1000), ("10m", 600_000), ("6h", 21_600_000), ("14d", 1_209_600_000)] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "15", "s", "1.5s", "-1s", "1 s", " 1s", "1S", "1h30m", "99999999999999999999s", "18446744073709551615d", "١s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_size("16MiB"), Some(16 << 20));
        assert_eq!(parse_size("16MB"), None);
    }

    #[test]
    fn a_rate_is_a_whole_number_for_a_unit_of_time() {
        for (text, number, seconds) in [("50/s", 50, 1), ("600/m", 600, 60), ("0/h", 0, 3600), ("99999999999999999999/s", u64::MAX, 1)] {
            assert_eq!(parse_rate(text), Some((number, Duration::from_secs(seconds))), "{text}");
        }
        for text in ["", "50", "/s", "50/", "50/ms", "50/d", "50/2s", "50 /s", "50/s ", "+5/s", "-5/s", "0.5/s", "5/S", "5/s/s", "١/s"] {
            assert_eq!(parse_rate(text), None, "{text}");
        }
    }

    #[test]
    fn shows_what_it_reads() {
        for text in ["0s", "250ms", "90s", "10m", "6h", "14d"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!((show_size(16 << 20), show_size(100), show_size(0)), ("16MiB".to_owned(), "100B".to_owned(), "0B".to_owned()));
    }
}
