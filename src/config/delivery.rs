//! Section `[delivery]`: how deliveries are attempted and retried, by default and by an endpoint's own keys.

use std::num::NonZeroU32;
use std::time::Duration;

use super::kinds::{duration, integer, number, rate, size};
use super::section::Section;
use super::source::integer_u16;
use crate::domain::circuit::CircuitPolicy;
use crate::domain::policy::{BatchLimits, DeliveryPolicy};
use crate::domain::retry::RetryPolicy;

/// The keys of a section that make a policy; each that is absent is as in `defaults`, those of its tables one by one.
pub(super) fn read(section: &mut Section<'_>, defaults: &DeliveryPolicy) -> DeliveryPolicy {
    let timeout = duration(Duration::from_millis(100)..=Duration::from_secs(120));
    DeliveryPolicy {
        timeout: section.or("timeout", defaults.timeout, timeout),
        max_in_flight: section.or("max_in_flight", defaults.max_in_flight, integer_u16(1..=1000)),
        rate: section.optional("rate", rate(1..=100_000)).or(defaults.rate),
        batch: section.section("batch", |section| read_batch(section, &defaults.batch)),
        circuit: section.section("circuit", |section| read_circuit(section, &defaults.circuit)),
        retry: section.section("retry", |section| read_retry(section, &defaults.retry)),
    }
}

fn read_batch(section: &mut Section<'_>, defaults: &BatchLimits) -> BatchLimits {
    BatchLimits {
        max_events: section.or("max_events", defaults.max_events, integer_u16(1..=1000)),
        max_wait: section.or("max_wait", defaults.max_wait, duration(Duration::ZERO..=Duration::from_secs(60))),
        max_bytes: section.or("max_bytes", defaults.max_bytes, size(1..=16 << 20)),
    }
}

fn read_circuit(section: &mut Section<'_>, defaults: &CircuitPolicy) -> CircuitPolicy {
    const HOUR: Duration = Duration::from_secs(3600);
    const LEAST: Duration = Duration::from_millis(100);
    let in_a_row = integer_u16(1..=10_000);
    let mut circuit = CircuitPolicy {
        consecutive: section.or("consecutive", defaults.consecutive, |value| in_a_row(value).map(NonZeroU32::from)),
        failure_rate: section.or("failure_rate", defaults.failure_rate, number(0.01..=1.0)),
        window: section.or("window", defaults.window, duration(Duration::from_secs(1)..=HOUR)),
        initial_wait: section.or("initial_wait", defaults.initial_wait, duration(LEAST..=HOUR)),
        max_wait: section.or("max_wait", defaults.max_wait, duration(LEAST..=24 * HOUR)),
    };
    if circuit.initial_wait > circuit.max_wait {
        section.problem("initial_wait", "is longer than max_wait");
        // Said once, not again for every endpoint that takes these as its defaults.
        circuit.initial_wait = circuit.max_wait;
    }
    circuit
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
