//! Section `[delivery]`: how deliveries are attempted and retried, by default and by an endpoint's own keys.

use std::time::Duration;

use super::kinds::{duration, integer, number};
use super::section::Section;
use super::source::integer_u16;
use crate::domain::policy::DeliveryPolicy;
use crate::domain::retry::RetryPolicy;

/// The keys `timeout`, `max_in_flight` and `retry` of a section; each that is absent is as in `defaults`.
pub(super) fn read(section: &mut Section<'_>, defaults: &DeliveryPolicy) -> DeliveryPolicy {
    let timeout = duration(Duration::from_millis(100)..=Duration::from_secs(120));
    DeliveryPolicy {
        timeout: section.or("timeout", defaults.timeout, timeout),
        max_in_flight: section.or("max_in_flight", defaults.max_in_flight, integer_u16(1..=1000)),
        retry: section.section("retry", |section| read_retry(section, &defaults.retry)),
        ..*defaults
    }
}

fn read_retry(section: &mut Section<'_>, defaults: &RetryPolicy) -> RetryPolicy {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const LEAST: Duration = Duration::from_millis(10);
    let mut retry = RetryPolicy {
        initial: section.or("initial", defaults.initial, duration(LEAST..=DAY)),
        multiplier: section.or("multiplier", defaults.multiplier, number(1.0..=100.0)),
        max_delay: section.or("max_delay", defaults.max_delay, duration(LEAST..=7 * DAY)),
        max_age: section.or("max_age", defaults.max_age, duration(Duration::ZERO..=90 * DAY)),
        jitter: section.or("jitter", defaults.jitter, number(0.0..=1.0)),
        max_attempts: section.optional("max_attempts", integer(1..=100_000)).or(defaults.max_attempts),
        max_retry_after: section.or("max_retry_after", defaults.max_retry_after, duration(Duration::ZERO..=7 * DAY)),
    };
    if retry.initial > retry.max_delay {
        section.problem("initial", "is longer than max_delay");
        // Said once, not again for every endpoint that takes these as its defaults.
        retry.initial = retry.max_delay;
    }
    retry
}
