//! Turns: when those who have left a line are expected to be served, each a place behind the one before.

use std::time::{Duration, Instant};

use super::service::time_for;

/// No turn is further away: who knows what the endpoint can take by then.
const FURTHEST: Duration = Duration::from_secs(15 * 60);

/// The turns that one lane has given away.
#[derive(Debug)]
pub(super) struct Turns {
    /// Up to here, to those who came for the first time.
    first: Instant,
    /// Up to here, to those whose turn before this has passed.
    again: Instant,
}

impl Turns {
    /// None is given away.
    pub(super) const fn new(now: Instant) -> Self {
        Self { first: now, again: now }
    }

    /// Whether all that were given to those who came for the first time have passed.
    pub(super) fn are_over(&self, now: Instant) -> bool {
        self.first <= now
    }

    /// Gives away the next turn that is free at so many a second, not before `earliest` is over; says how long it is until
    /// then.
    pub(super) fn give(&mut self, earliest: Duration, rate: f64, now: Instant) -> Duration {
        self.first = (self.first.max(now + earliest) + time_for(1.0, rate)).min(now + FURTHEST.max(earliest));
        self.first.saturating_duration_since(now)
    }

    /// The same for somebody whose turn has come and gone, before those who come for the first time. Were they all to come back
    /// for the next place that is free, most of them would have come in vain.
    pub(super) fn give_again(&mut self, earliest: Duration, rate: f64, now: Instant) -> Duration {
        let turn = self.again.max(now + earliest).min(now + FURTHEST.max(earliest));
        self.again = turn + time_for(1.0, rate).min(FURTHEST);
        turn.saturating_duration_since(now)
    }

    /// How long it is until whoever stands behind so many is served at this rate, as far as can be said.
    pub(super) fn behind(line: f64, rate: f64) -> Duration {
        time_for(line, rate).min(FURTHEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn turns_follow_each_other_at_the_rate_and_those_given_again_come_first() {
        let now = Instant::now();
        let mut turns = Turns::new(now);
        let first: Vec<Duration> = (0..3).map(|_| turns.give(ms(500), 10.0, now)).collect();
        assert_eq!(first, [ms(600), ms(700), ms(800)]);
        let again: Vec<Duration> = (0..3).map(|_| turns.give_again(ms(500), 10.0, now)).collect();
        assert_eq!(again, [ms(500), ms(600), ms(700)]);
        assert!(!turns.are_over(now + ms(799)) && turns.are_over(now + ms(800)));
    }

    #[test]
    fn no_turn_is_further_away_than_is_sensible_but_never_before_the_earliest() {
        let now = Instant::now();
        let mut turns = Turns::new(now);
        for _ in 0..100 {
            assert!(turns.give(ms(0), 0.001, now) <= FURTHEST && turns.give_again(ms(0), 0.001, now) <= FURTHEST);
        }
        assert_eq!((turns.give(2 * FURTHEST, 1.0, now), turns.give_again(2 * FURTHEST, 1.0, now)), (2 * FURTHEST, 2 * FURTHEST));
        assert_eq!((turns.give(ms(0), 0.0, now), turns.give(ms(0), f64::INFINITY, now)), (FURTHEST, FURTHEST));
        assert_eq!(FURTHEST, ms(15 * 60 * 1000), "a quarter of an hour");
    }
}
