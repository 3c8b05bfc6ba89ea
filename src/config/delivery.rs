//! Section `[delivery]`: how deliveries are attempted and retried, by default and by an endpoint's own keys.

use std::num::NonZeroU16;
use std::time::Duration;

use super::kinds::{duration, integer, number};
use super::section::Section;
use super::source::integer_u16;
use crate::domain::retry::RetryPolicy;

/// Defaults of every endpoint.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryDefaults {
    /// Limit on one attempt.
    pub timeout: Duration,
    /// Most requests to one endpoint at one time, by this worker process.
    pub max_in_flight: NonZeroU16,
    /// When to try again and when to stop.
    pub retry: RetryPolicy,
}

impl Default for DeliveryDefaults {
    /// 15 s, 16 at a time, and [`RetryPolicy::default`].
    fn default() -> Self {
        const SIXTEEN: NonZeroU16 = NonZeroU16::new(16).unwrap();
        Self { timeout: Duration::from_secs(15), max_in_flight: SIXTEEN, retry: RetryPolicy::default() }
    }
}

/// The keys `timeout`, `max_in_flight` and `retry` of a section; each that is absent is as in `defaults`.
pub(super) fn read(section: &mut Section<'_>, defaults: &DeliveryDefaults) -> DeliveryDefaults {
    let timeout = duration(Duration::from_millis(100)..=Duration::from_secs(120));
    DeliveryDefaults {
        timeout: section.or("timeout", defaults.timeout, timeout),
        max_in_flight: section.or("max_in_flight", defaults.max_in_flight, integer_u16(1..=1000)),
        retry: section.section("retry", |section| read_retry(section, &defaults.retry)),
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
