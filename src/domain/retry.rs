//! When to try again: the exponential schedule. The crate `backoff` is unmaintained and is used in this file alone; its
//! schedule is pinned by a test below.

use std::time::Duration;

use backoff::SystemClock;
use backoff::backoff::Backoff as _;
use backoff::exponential::ExponentialBackoff;

/// How an endpoint's failed deliveries are tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// The wait after the first attempt.
    pub initial: Duration,
    /// Each wait is this many times the one before; at least 1.
    pub multiplier: f64,
    /// No wait of the schedule is longer.
    pub max_delay: Duration,
    /// No attempt is planned for later than this after the event's first receipt (or its last replay), but the one that
    /// [`decide`](super::decide::decide) grants to a member of a failed batch.
    pub max_age: Duration,
    /// A wait is moved at random by up to this share of itself, 0 to 1.
    pub jitter: f64,
    /// After so many attempts the delivery is given up, with the same exception; `None`: only the age counts.
    pub max_attempts: Option<u32>,
    /// A `Retry-After` beyond this counts as this.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    /// 1 s doubling to 6 h, for 72 h, jitter 20 %.
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_secs(6 * 3600),
            max_age: Duration::from_secs(72 * 3600),
            jitter: 0.2,
            max_attempts: None,
            max_retry_after: Duration::from_secs(24 * 3600),
        }
    }
}

/// The earliest and the latest wait after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Jitter at its lowest.
    pub earliest: Duration,
    /// Jitter at its highest, never over the longest delay.
    pub latest: Duration,
}

impl RetryPolicy {
    /// The wait that the schedule has after attempt number `attempt` (counted from 1), without jitter.
    #[must_use]
    pub fn delay_after(&self, attempt: u32) -> Duration {
        let mut schedule: ExponentialBackoff<SystemClock> = ExponentialBackoff {
            current_interval: self.initial.min(self.max_delay),
            initial_interval: self.initial,
            // Jitter is drawn by the caller's dice; the crate would use its own.
            randomization_factor: 0.0,
            multiplier: self.multiplier,
            max_interval: self.max_delay,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        for _ in 1..attempt {
            let before = schedule.current_interval;
            schedule.next_backoff();
            // At the cap, or with a multiplier of 1, nothing changes any more.
            if schedule.current_interval == before {
                break;
            }
        }
        schedule.current_interval
    }

    /// The bounds of the wait after attempt number `attempt` (counted from 1), with jitter.
    #[must_use]
    pub fn window_after(&self, attempt: u32) -> Window {
        let delay = self.delay_after(attempt);
        let jitter = self.jitter.clamp(0.0, 1.0);
        Window { earliest: floor(delay, 1.0 - jitter), latest: ceil(delay, 1.0 + jitter).min(self.max_delay) }
    }
}

/// A delay times a factor, rounded down to whole milliseconds: no rounding may hide a rung at the window's edge.
fn floor(delay: Duration, factor: f64) -> Duration {
    Duration::from_millis(u64::try_from(delay.mul_f64(factor).as_millis()).unwrap_or(u64::MAX))
}

/// A delay times a factor, rounded up to whole milliseconds.
pub(super) fn ceil(delay: Duration, factor: f64) -> Duration {
    Duration::from_millis(u64::try_from(delay.mul_f64(factor).as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_of_the_crate_backoff_is_pinned() {
        let seconds: Vec<u64> = (1..=18).map(|attempt| RetryPolicy::default().delay_after(attempt).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 21600, 21600, 21600]);
        let slow = RetryPolicy {
            initial: Duration::from_millis(250),
            multiplier: 1.5,
            max_delay: Duration::from_secs(2),
            ..RetryPolicy::default()
        };
        let millis: Vec<u128> = (1..=7).map(|attempt| slow.delay_after(attempt).as_millis()).collect();
        assert_eq!(millis, [250, 375, 562, 843, 1265, 1898, 2000]);
    }

    #[test]
    fn a_multiplier_of_one_and_a_huge_attempt_end_at_once() {
        let flat = RetryPolicy { multiplier: 1.0, ..RetryPolicy::default() };
        assert_eq!(flat.delay_after(u32::MAX), Duration::from_secs(1));
        assert_eq!(RetryPolicy::default().delay_after(u32::MAX), Duration::from_secs(21600));
        let capped = RetryPolicy { initial: Duration::from_secs(60), max_delay: Duration::from_secs(5), ..RetryPolicy::default() };
        assert_eq!(capped.delay_after(1), Duration::from_secs(5));
    }
}
