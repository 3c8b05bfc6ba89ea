//! The rate limit of one endpoint. The crate `governor` is used in this file alone, without its real clocks.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, FakeRelativeClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::policy::Rate;

/// Lets so many requests start as the rate allows, evenly spread. What was not used in a pause is not made up for, but for a
/// tenth of a second's worth: a timer that fires late would lower the rate otherwise.
#[derive(Debug)]
pub struct Pace {
    rate: Rate,
    limiter: RateLimiter<NotKeyed, InMemoryState, FakeRelativeClock, NoOpMiddleware<Nanos>>,
    /// The limiter's time, moved to that of each call.
    time: FakeRelativeClock,
    /// Where it stands.
    now: Option<Instant>,
}

impl Pace {
    /// Nothing has started yet.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let time = FakeRelativeClock::default();
        // More than one a nanosecond is no limit at all; the fallback is one.
        let quota = Quota::with_period(rate.per / rate.requests.get()).unwrap_or(Quota::per_second(rate.requests));
        let limiter = RateLimiter::direct_with_clock(quota.allow_burst(burst(rate)), time.clone());
        Self { rate, limiter, time, now: None }
    }

    /// Starts a request now, if its turn has come. Time that goes back stands still.
    ///
    /// # Errors
    /// How long until the next one may start; none has.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let before = self.now.unwrap_or(now);
        self.time.advance(now.saturating_duration_since(before));
        self.now = Some(before.max(now));
        self.limiter.check().map_err(|not_until| not_until.wait_time_from(self.time.now()))
    }

    /// Whether a new pace would let no more through: the last request was a burst's time ago.
    #[must_use]
    pub fn is_rested(&self, now: Instant) -> bool {
        let pause = self.rate.per / self.rate.requests.get() * burst(self.rate).get();
        self.now.is_none_or(|last| now.saturating_duration_since(last) >= pause)
    }
}

/// Most requests that may start at one time: a tenth of a second's worth, at least one.
fn burst(rate: Rate) -> NonZeroU32 {
    let tenth = u128::from(rate.requests.get()) * 100_000_000;
    let requests = tenth.div_ceil(rate.per.as_nanos().max(1));
    NonZeroU32::new(u32::try_from(requests).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(requests: u32, per: Duration) -> Rate {
        Rate { requests: NonZeroU32::new(requests).unwrap(), per }
    }

    /// When requests start that are asked for at these distances.
    fn starts(rate: Rate, distances: impl IntoIterator<Item = Duration>) -> Vec<Duration> {
        let (mut pace, zero, mut at) = (Pace::new(rate), Instant::now(), Duration::ZERO);
        let mut starts = Vec::new();
        for distance in distances {
            at += distance;
            if pace.take(zero + at).is_ok() {
                starts.push(at);
            }
        }
        starts
    }

    fn expected(rate: Rate, time: Duration) -> f64 {
        f64::from(rate.requests.get()) * time.as_secs_f64() / rate.per.as_secs_f64()
    }

    #[test]
    fn it_is_rested_when_the_last_request_was_a_bursts_time_ago() {
        let (rate, now) = (rate(100, Duration::from_secs(1)), Instant::now());
        let mut pace = Pace::new(rate);
        assert!(pace.is_rested(now));
        assert_eq!(pace.take(now), Ok(()));
        assert!(!pace.is_rested(now + Duration::from_millis(99)) && pace.is_rested(now + Duration::from_millis(100)));
    }

    #[test]
    fn a_refusal_says_when_the_next_may_start_and_that_is_true() {
        let (mut pace, now) = (Pace::new(rate(10, Duration::from_secs(1))), Instant::now());
        assert_eq!((pace.take(now), pace.take(now)), (Ok(()), Err(Duration::from_millis(100))));
        assert_eq!(pace.take(now + Duration::from_millis(99)), Err(Duration::from_millis(1)));
        assert_eq!(pace.take(now + Duration::from_millis(100)), Ok(()));
        assert_eq!(pace.take(now), Err(Duration::from_millis(100)), "time that goes back stands still");
        assert_eq!(pace.take(now + Duration::from_millis(200)), Ok(()));
    }

    #[test]
    fn a_long_pause_leaves_a_tenth_of_a_second_to_make_up_for() {
        for (limit, at_once) in [
            (rate(50, Duration::from_secs(1)), 5),
            (rate(11, Duration::from_secs(1)), 2),
            (rate(600, Duration::from_secs(60)), 1),
            (rate(1, Duration::from_secs(3600)), 1),
            (rate(100_000, Duration::from_secs(1)), 10_000),
        ] {
            let (mut pace, now) = (Pace::new(limit), Instant::now());
            assert_eq!(pace.take(now), Ok(()));
            let later = now + Duration::from_secs(7200);
            assert_eq!(std::iter::repeat_with(|| pace.take(later)).take_while(Result::is_ok).count(), at_once, "{limit:?}");
        }
    }

    fn rates() -> impl Strategy<Value = Rate> {
        let units = prop_oneof![Just(1), Just(60), Just(3600)].prop_map(Duration::from_secs);
        (1..=2000_u32, units).prop_map(|(requests, per)| rate(requests, per))
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_its_burst_start_in_any_time(
            rate in rates(),
            distances in prop::collection::vec(prop_oneof![5 => 0..2_000_u64, 1 => 0..3_000_000_u64], 1..400),
        ) {
            let starts = starts(rate, distances.into_iter().map(Duration::from_micros));
            for (index, from) in starts.iter().enumerate() {
                for (more, to) in starts[index..].iter().enumerate() {
                    let most = expected(rate, *to - *from) + f64::from(burst(rate).get());
                    prop_assert!((more + 1) as f64 <= most + 1e-3, "{} from {from:?} to {to:?}, at most {most}", more + 1);
                }
            }
        }

        #[test]
        fn with_work_waiting_the_rate_is_reached_by_a_timer_of_a_millisecond_and_not_exceeded(
            requests in 5..=2000_u32,
            late in prop::collection::vec(0..=2_u64, 64),
        ) {
            let limit = rate(requests, Duration::from_secs(1));
            // One asks, sleeps for what is said in whole milliseconds and up to two longer, and asks again.
            let (mut pace, zero, mut at, mut started) = (Pace::new(limit), Instant::now(), Duration::ZERO, 0_u32);
            let mut late = late.into_iter().cycle();
            let end = Duration::from_secs(10);
            while at < end {
                match pace.take(zero + at) {
                    Ok(()) => started += 1,
                    Err(wait) => {
                        let millis = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap();
                        at += Duration::from_millis(millis + late.next().unwrap_or_default());
                    }
                }
            }
            let share = f64::from(started) / expected(limit, end);
            prop_assert!((0.97..=1.05).contains(&share), "{started} of {requests} a second in 10 s");
        }
    }
}
