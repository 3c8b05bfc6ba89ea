//! How fast an endpoint works: measured from its requests, those that are over and those that are not.

use std::time::{Duration, Instant};

/// Requests after which what was before counts half.
const MEMORY: f64 = 256.0;

/// The time that an endpoint's requests take. Requests in flight count with the time they have taken so far, so that an
/// endpoint that hangs is seen as slow long before its first request is over: the estimate of a rate from observations of
/// which some are not over yet (right-censored) is those that are over, divided by the time of all.
#[derive(Debug)]
pub struct Service {
    /// Requests that are over, the events in them, and the seconds they took; all of them fade.
    requests: f64,
    events: f64,
    seconds: f64,
    in_flight: u16,
    /// Start times are counted from here.
    epoch: Instant,
    /// When a request was over last, or the first one in flight started.
    last_end: Instant,
    /// The sum of the start times of those in flight, in seconds.
    starts: f64,
}

impl Service {
    /// Nothing is known yet.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { requests: 0.0, events: 0.0, seconds: 0.0, in_flight: 0, epoch: now, last_end: now, starts: 0.0 }
    }

    /// A request starts.
    pub fn begin(&mut self, now: Instant) {
        if self.in_flight == 0 {
            (self.epoch, self.last_end, self.starts) = (now, now, 0.0);
        }
        self.in_flight = self.in_flight.saturating_add(1);
        self.starts += self.since_epoch(now);
    }

    /// A request is over that has started at `started` and held so many events.
    pub fn end(&mut self, started: Instant, events: usize, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.starts -= self.since_epoch(started);
        self.last_end = now;
        if self.requests >= MEMORY {
            self.requests /= 2.0;
            self.events /= 2.0;
            self.seconds /= 2.0;
        }
        self.requests += 1.0;
        self.events += f64::from(u32::try_from(events).unwrap_or(u32::MAX));
        self.seconds += now.saturating_duration_since(started).as_secs_f64();
    }

    /// Whether any request is over.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        self.requests > 0.0
    }

    /// For how long no request has come to its end while there was one.
    #[must_use]
    pub fn quiet(&self, now: Instant) -> Duration {
        if self.in_flight == 0 { Duration::ZERO } else { now.saturating_duration_since(self.last_end) }
    }

    /// Requests in flight.
    #[must_use]
    pub const fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Events a second that so many requests at one time can carry; on the hopeful side while little is known, and infinite
    /// while nothing is.
    #[must_use]
    pub fn events_per_second(&self, at_one_time: u16, now: Instant) -> f64 {
        let a_request = if self.requests > 0.0 { self.events / self.requests } else { 1.0 };
        self.requests_per_second(at_one_time, now) * a_request
    }

    /// The same of requests.
    #[must_use]
    pub fn requests_per_second(&self, at_one_time: u16, now: Instant) -> f64 {
        let unfinished = (f64::from(self.in_flight) * self.since_epoch(now) - self.starts).max(0.0);
        f64::from(at_one_time) * (self.requests + 1.0) / (self.seconds + unfinished)
    }

    fn since_epoch(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.epoch).as_secs_f64()
    }
}

/// How long a number of events takes at a rate; at most a year, so that no rate makes it overflow.
#[must_use]
pub fn time_for(events: f64, per_second: f64) -> Duration {
    const YEAR: f64 = 365.0 * 86_400.0;
    let seconds = events / per_second;
    Duration::from_secs_f64(if seconds.is_nan() { 0.0 } else { seconds.clamp(0.0, YEAR) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn many_requests_of_the_same_length_tell_the_rate() {
        let start = Instant::now();
        let mut service = Service::new(start);
        for n in 0..1000 {
            let at = start + ms(20) * n;
            service.begin(at);
            service.end(at, 1, at + ms(20));
        }
        let rate = service.events_per_second(16, start + ms(20_000));
        assert!((790.0..=820.0).contains(&rate), "{rate}");
    }

    #[test]
    fn an_endpoint_that_hangs_is_slow_before_its_first_request_is_over() {
        let start = Instant::now();
        let mut service = Service::new(start);
        assert!(service.events_per_second(16, start).is_infinite(), "nothing is known");
        (0..16).for_each(|_| service.begin(start));
        assert!((0.9..=1.1).contains(&service.events_per_second(16, start + ms(1000))));
        assert!(service.events_per_second(16, start + ms(10_000)) < 0.11);
        // It was fast for long, and hangs now.
        let mut service = Service::new(start);
        for _ in 0..1000 {
            service.begin(start);
            service.end(start, 1, start + ms(5));
        }
        (0..16).for_each(|_| service.begin(start + ms(10)));
        assert!(service.events_per_second(16, start + ms(15_000)) < 40.0);
    }

    #[test]
    fn one_request_that_hangs_does_not_hide_that_the_others_are_fast() {
        let start = Instant::now();
        let mut service = Service::new(start);
        service.begin(start);
        for n in 1..=1000 {
            service.begin(start + ms(n));
            service.end(start + ms(n), 1, start + ms(n + 1));
        }
        assert!(service.events_per_second(16, start + ms(1001)) > 1000.0);
    }

    #[test]
    fn batches_count_by_their_events_and_time_never_overflows() {
        let start = Instant::now();
        let mut service = Service::new(start);
        for _ in 0..100 {
            service.begin(start);
            service.end(start, 10, start + ms(100));
        }
        let rate = service.events_per_second(1, start + ms(100));
        assert!((95.0..=105.0).contains(&rate), "{rate}");
        assert_eq!(time_for(50.0, 100.0), ms(500));
        assert_eq!((time_for(0.0, 0.0), time_for(1.0, f64::INFINITY)), (Duration::ZERO, Duration::ZERO));
        assert_eq!(time_for(1.0, 0.0), Duration::from_secs(365 * 86_400));
    }
}
