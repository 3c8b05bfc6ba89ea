//! Sections `[worker]` and `[dead]`: limits, and what happens to what is not delivered.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::kinds::{duration, size};
use super::section::Section;

/// Limits of the worker.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    /// Bytes of body beyond which an event is rejected.
    pub max_body: usize,
    /// Bytes that messages may take in memory together, divided equally among the queues that are consumed. A message that is
    /// larger than its queue's share is worked on alone.
    pub max_bytes_in_flight: usize,
    /// How long an event of an unknown integrator waits for its configuration.
    pub unknown_integrator_wait: Duration,
    /// How long a stop waits for what is in progress: requests, and copies that the broker has not confirmed.
    pub stop_timeout: Duration,
}

/// What happens to what is not delivered.
#[derive(Debug, Clone, Copy)]
pub struct Dead {
    /// How long dead and rejected messages are kept.
    pub retention: Duration,
}

/// The most that RabbitMQ 3.x carries in one message.
const MAX_BODY: u64 = 128 << 20;

/// A quarter of a prefetch of small messages, at the least; and more memory than any machine has.
const IN_FLIGHT: RangeInclusive<u64> = 1 << 20..=1 << 40;

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn read(section: &mut Section<'_>) -> Worker {
    Worker {
        max_body: section.or("max_body", 16 << 20, size(1..=MAX_BODY)),
        max_bytes_in_flight: section.or("max_bytes_in_flight", 256 << 20, size(IN_FLIGHT)),
        unknown_integrator_wait: section.or("unknown_integrator_wait", Duration::from_secs(600), duration(Duration::ZERO..=7 * DAY)),
        stop_timeout: section.or("stop_timeout", Duration::from_secs(25), duration(Duration::ZERO..=Duration::from_secs(600))),
    }
}

pub(super) fn read_dead(section: &mut Section<'_>) -> Dead {
    // The broker takes TTLs up to ten years; personal data is not kept that long.
    Dead { retention: section.or("retention", 14 * DAY, duration(Duration::from_secs(1)..=365 * DAY)) }
}
