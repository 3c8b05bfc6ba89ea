//! The circuit breaker of one endpoint: when to leave it alone, for how long, and how it comes back.

use std::num::NonZeroU32;
use std::time::Duration;

/// When an endpoint's circuit opens and how long it stays open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CircuitPolicy {
    /// So many failures in a row open it.
    pub consecutive: NonZeroU32,
    /// This share of the attempts within the window opens it, 0 to 1, once there are [`Self::LEAST_ATTEMPTS`].
    pub failure_rate: f64,
    /// The window.
    pub window: Duration,
    /// How long it stays open the first time; each time again twice as long.
    pub initial_wait: Duration,
    /// It never stays open longer than this before an attempt is made.
    pub max_wait: Duration,
}

impl CircuitPolicy {
    /// Fewer attempts within the window say nothing about a rate.
    pub const LEAST_ATTEMPTS: u32 = 20;
}

/// What opened a circuit. A closed set: it stands in logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TripCause {
    /// So many failures in a row.
    Consecutive,
    /// So large a share of failures among the attempts of the window.
    FailureRate,
    /// The circuit was open, and its probe failed.
    Probe,
}

impl TripCause {
    /// The name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::FailureRate => "failure_rate",
            Self::Probe => "probe",
        }
    }
}

impl Default for CircuitPolicy {
    /// 10 in a row or half of those of a minute; 5 s doubling to 15 min.
    fn default() -> Self {
        const TEN: NonZeroU32 = NonZeroU32::new(10).unwrap();
        Self {
            consecutive: TEN,
            failure_rate: 0.5,
            window: Duration::from_secs(60),
            initial_wait: Duration::from_secs(5),
            max_wait: Duration::from_secs(15 * 60),
        }
    }
}
