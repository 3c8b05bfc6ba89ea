//! How deliveries to an endpoint are made: by default and by an endpoint's own keys.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::circuit::CircuitPolicy;
use super::retry::RetryPolicy;

/// The rules by which an endpoint is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeliveryPolicy {
    /// Limit on one attempt: connect, request, headers and body of the answer together.
    pub timeout: Duration,
    /// Most requests to one endpoint at one time, by this worker process.
    pub max_in_flight: NonZeroU16,
    /// Most requests in a time, by this worker process; `None`: as fast as it answers.
    pub rate: Option<Rate>,
    /// Which events share a request.
    pub batch: BatchLimits,
    /// When the endpoint is left alone for a while.
    pub circuit: CircuitPolicy,
    /// When to try again and when to stop.
    pub retry: RetryPolicy,
}

impl Default for DeliveryPolicy {
    /// 15 s, 16 at a time, no rate limit, one event a request, and the defaults of [`CircuitPolicy`] and [`RetryPolicy`].
    fn default() -> Self {
        const SIXTEEN: NonZeroU16 = NonZeroU16::new(16).unwrap();
        Self {
            timeout: Duration::from_secs(15),
            max_in_flight: SIXTEEN,
            rate: None,
            batch: BatchLimits::default(),
            circuit: CircuitPolicy::default(),
            retry: RetryPolicy::default(),
        }
    }
}

/// So many requests in so long a time, evenly spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub requests: NonZeroU32,
    /// In which time.
    pub per: Duration,
}

/// Which events may share a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most events in one request; 1: no batches.
    pub max_events: NonZeroU16,
    /// How long a request waits for more events than are there; zero: not at all.
    pub max_wait: Duration,
    /// Most bytes of events (as published) in one request of several; a larger event goes alone.
    pub max_bytes: usize,
}

impl Default for BatchLimits {
    /// One event a request; where there are more: no waiting, 1 MiB.
    fn default() -> Self {
        Self { max_events: NonZeroU16::MIN, max_wait: Duration::ZERO, max_bytes: 1 << 20 }
    }
}
