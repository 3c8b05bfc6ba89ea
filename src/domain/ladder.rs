//! The ladder of wait queues: the delays at which the broker can hold a message back.
//!
//! A queue with a TTL keeps every message for the same time, so each delay is a queue of its own, and a delay that is
//! asked for becomes one of those that exist. Four rungs per doubling (1, 1.2, 1.4, 1.7) are at most 22 % apart, so that a
//! jitter of 20 % around any of them has at least two rungs to choose from.

use std::fmt;
use std::time::Duration;

/// One delay of the ladder, and by its [`fmt::Display`] the end of its queue's name (`1s`, `1200ms`, `6h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rung(u64);

impl Rung {
    /// How long a message waits here.
    #[must_use]
    pub const fn delay(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// The delay in milliseconds, as `x-message-ttl` wants it.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// Why two delays make no ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLadder {
    /// The shortest delay is below [`Ladder::SHORTEST`].
    #[error("the shortest wait is below 10 ms")]
    TooShort,
    /// The longest delay is below the shortest.
    #[error("the longest wait is shorter than the shortest")]
    Reversed,
    /// The longest delay is over [`Ladder::LONGEST`].
    #[error("the longest wait is over 7 days")]
    TooLong,
}

/// The rungs of one doubling, in tenths of its first.
const STEPS: [u64; 4] = [10, 12, 14, 17];

/// All rungs, ascending and never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder(Vec<Rung>);

impl Ladder {
    /// No rung is shorter: below it the broker's own precision is the larger part of the wait.
    pub const SHORTEST: Duration = Duration::from_millis(10);
    /// No rung is longer; a longer wait takes several hops.
    pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

    /// The rungs from `first` to `last`, both included.
    ///
    /// # Errors
    /// [`BadLadder`] when the two are out of range or the wrong way round.
    pub fn try_new(first: Duration, last: Duration) -> Result<Self, BadLadder> {
        if first < Self::SHORTEST {
            return Err(BadLadder::TooShort);
        }
        if last > Self::LONGEST {
            return Err(BadLadder::TooLong);
        }
        let (first, last) = (millis(first), millis(last));
        if last < first {
            return Err(BadLadder::Reversed);
        }
        let octaves = std::iter::successors(Some(first), |base| base.checked_mul(2)).take_while(|base| *base < last);
        let mut rungs: Vec<Rung> =
            octaves.flat_map(|base| STEPS.map(|tenths| Rung(base * tenths / 10))).filter(|rung| rung.0 < last).collect();
        rungs.push(Rung(last));
        Ok(Self(rungs))
    }

    /// The rungs, shortest first.
    pub fn rungs(&self) -> impl Iterator<Item = Rung> + '_ {
        self.0.iter().copied()
    }

    /// The shortest rung that is not earlier than `delay`, or the longest there is: whoever waits must then look at the
    /// time again and wait for the rest.
    #[must_use]
    pub fn at_least(&self, delay: Duration) -> Rung {
        let index = self.0.partition_point(|rung| rung.delay() < delay);
        self.0[index.min(self.0.len() - 1)]
    }

    /// The longest rung that is not later than `delay`, or the shortest there is.
    #[must_use]
    pub fn at_most(&self, delay: Duration) -> Rung {
        let index = self.0.partition_point(|rung| rung.delay() <= delay);
        self.0[index.saturating_sub(1)]
    }

    /// A rung between two delays, chosen by `dice` (0 included to 1 excluded). Where no rung lies between them, the shortest
    /// one that is not earlier, or the longest one before where that would be over `limit`.
    #[must_use]
    pub fn between(&self, earliest: Duration, latest: Duration, limit: Duration, dice: f64) -> Rung {
        let start = self.0.partition_point(|rung| rung.delay() < earliest);
        let end = self.0.partition_point(|rung| rung.delay() <= latest);
        match end.saturating_sub(start) {
            0 if start > 0 && self.at_least(earliest).delay() > limit => self.0[start - 1],
            0 => self.at_least(earliest),
            choices => self.0[start + pick(choices, dice)],
        }
    }

    /// The shortest delay there is.
    #[must_use]
    pub fn shortest(&self) -> Duration {
        self.0[0].delay()
    }

    /// The longest delay of a single wait.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.0[self.0.len() - 1].delay()
    }
}

/// An index below `choices`, each as likely as another.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a product of a small count and a number below 1"
)]
fn pick(choices: usize, dice: f64) -> usize {
    ((choices as f64 * dice.clamp(0.0, 1.0)) as usize).min(choices - 1)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn default_ladder() -> Ladder {
        Ladder::try_new(ms(1000), ms(6 * 3_600_000)).unwrap()
    }

    #[test]
    fn four_rungs_per_doubling_from_the_first_to_the_last() {
        let ladder = default_ladder();
        let names: Vec<String> = ladder.rungs().map(|rung| rung.to_string()).collect();
        assert_eq!(names[..9], ["1s", "1200ms", "1400ms", "1700ms", "2s", "2400ms", "2800ms", "3400ms", "4s"]);
        assert_eq!(names.last().unwrap(), "6h");
        assert_eq!(names.len(), 59);
        let rungs: Vec<u64> = ladder.rungs().map(Rung::millis).collect();
        assert!(rungs.windows(2).all(|pair| pair[1] * 100 <= pair[0] * 122), "no two rungs are more than 22 % apart");
    }

    #[test]
    fn a_jitter_of_20_percent_has_at_least_two_rungs() {
        let ladder = default_ladder();
        for k in 0..15 {
            let delay = ms(1000 << k);
            let choose = |d: i32| ladder.between(delay * 4 / 5, delay * 6 / 5, delay * 2, f64::from(d) / 100.0);
            let seen: std::collections::BTreeSet<_> = (0..100).map(choose).collect();
            assert!(seen.len() >= 2, "{delay:?}: {seen:?}");
        }
    }

    #[test]
    fn never_earlier_than_asked_unless_the_ladder_or_the_limit_ends_before() {
        let ladder = default_ladder();
        assert_eq!(ladder.at_least(ms(0)).delay(), ms(1000));
        assert_eq!(ladder.at_least(ms(1001)).delay(), ms(1200));
        assert_eq!(ladder.at_least(ms(7 * 3_600_000)).delay(), ms(6 * 3_600_000));
        assert_eq!(ladder.between(ms(1010), ms(1020), ms(5000), 0.5).delay(), ms(1200));
        assert_eq!(ladder.between(ms(1010), ms(1020), ms(1100), 0.5).delay(), ms(1000));
        assert_eq!(ladder.between(ms(10), ms(20), ms(20), 0.5).delay(), ms(1000), "there is nothing shorter");
    }

    #[test]
    fn never_later_than_asked_unless_the_ladder_begins_after() {
        let ladder = default_ladder();
        for (asked, expected) in [(0, 1000), (1000, 1000), (1199, 1000), (1200, 1200), (3999, 3400), (25_200_000, 21_600_000)] {
            assert_eq!(ladder.at_most(ms(asked)).delay(), ms(expected), "{asked}");
        }
        assert_eq!((ladder.shortest(), ladder.longest()), (ms(1000), ms(21_600_000)));
    }

    #[test]
    fn no_dice_lead_beyond_the_choices() {
        assert_eq!([0.0, 0.34, 0.99, 1.0, 7.0, -1.0].map(|dice| pick(3, dice)), [0, 1, 2, 2, 2, 0]);
    }

    #[test]
    fn a_ladder_has_limits() {
        assert_eq!(Ladder::try_new(ms(9), ms(1000)), Err(BadLadder::TooShort));
        assert_eq!(Ladder::try_new(ms(1000), ms(999)), Err(BadLadder::Reversed));
        assert_eq!(Ladder::try_new(ms(1000), ms(8 * 24 * 3_600_000)), Err(BadLadder::TooLong));
        assert_eq!(Ladder::try_new(ms(1000), ms(1000)).unwrap().rungs().count(), 1);
    }
}
