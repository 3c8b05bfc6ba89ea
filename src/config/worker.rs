//! Sections `[worker]` and `[dead]`: limits, and what happens to what is not delivered.

use std::time::Duration;

use super::kinds::{duration, size};
use super::section::Section;

/// Limits of the worker.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    /// Bytes of body beyond which an event is rejected.
    pub max_body: usize,
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

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn read(section: &mut Section<'_>) -> Worker {
    Worker {
        max_body: section.or("max_body", 16 << 20, size(1..=MAX_BODY)),
        unknown_integrator_wait: section.or("unknown_integrator_wait", Duration::from_secs(600), duration(Duration::ZERO..=7 * DAY)),
        stop_timeout: section.or("stop_timeout", Duration::from_secs(25), duration(Duration::ZERO..=Duration::from_secs(600))),
    }
}

pub(super) fn read_dead(section: &mut Section<'_>) -> Dead {
    // The broker takes TTLs up to ten years; personal data is not kept that long.
    Dead { retention: section.or("retention", 14 * DAY, duration(Duration::from_secs(1)..=365 * DAY)) }
}
