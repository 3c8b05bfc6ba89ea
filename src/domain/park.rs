//! What follows when a delivery has no turn at its endpoint: it makes room, without an attempt, and comes back.

use std::time::Duration;

use super::decide::Wait;
use super::history::History;
use super::ladder::Ladder;
use super::retry::RetryPolicy;
use super::time::Timestamp;

/// For how long a delivery should stay away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Until its turn is expected to come, or until the endpoint may be called again.
    pub wait: Duration,
    /// Which side of that it should come back on, where the ladder has no such wait.
    pub rounding: Rounding,
}

/// On which side of a wait the ladder's wait lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// A little early: the lane is full, and the endpoint should not wait for who comes next.
    Down,
    /// Never early: the endpoint is not called before.
    Up,
}

/// What follows when a delivery has no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parking {
    /// It stays in the ladder; its turn is expected at this time.
    Wait(Wait, Timestamp),
    /// It has no time left: give up.
    Expired,
}

/// From so many stays on, a delivery stays away for a quarter of its age at the least.
const PATIENCE: u32 = 32;

/// Decides for how long a delivery makes room at its endpoint. `history` does not include this stay.
///
/// It stays for as long as is needed and for the shortest rung at the least, but not beyond the policy's `max_age`; when
/// nothing is left of that, it is given up. Who has made room before stays away for a share of its age at the least.
/// Where the endpoint is not to be called, that is a quarter, but no more than doubles with each stay. Where the lane is full, the share grows with
/// the square of the stays, up to a quarter after 32: rungs are far apart, so those whose turns come within minutes come back at the
/// same moment, and most of them have to make room again. Were they sent away for a quarter of their age at once, the endpoint
/// would idle until they come back: in a simulation, a backlog of 100,000 at 100 a second took 400 times as long.
///
/// The share bounds the stays of one delivery, whatever anybody says about its turn. Two neighbouring rungs are at most a
/// factor of 1.22 apart (1.4 to 1.7 of a doubling), so the rung below a wait is at least 0.82 of it, and after 32 stays each
/// further one makes the delivery at least 1 + 0.82 / 4 = 1.2 times as old: log(`max_age` / age) / log(1.2) stays, and a few
/// more at the end, where little is left of its age and where a quarter of it is more than the longest rung. For 72 h and
/// rungs from 1 s to 6 h these are 76 stays in all when the turn is always said to come at once, and 78 at the very most.
#[must_use]
pub fn decide_park(history: &History, need: Need, policy: &RetryPolicy, ladder: &Ladder, now: Timestamp) -> Parking {
    let age = now.since(history.age_counts_from());
    let left = policy.max_age.saturating_sub(age);
    if left.is_zero() {
        return Parking::Expired;
    }
    let delay = need.wait.max(least(age, history.parked, need.rounding, ladder.shortest())).min(left).max(ladder.shortest());
    let wait = match need.rounding {
        Rounding::Down => Wait::at_most(ladder, delay, now),
        Rounding::Up => Wait::at_least(ladder, delay, now),
    };
    Parking::Wait(wait, now.plus(delay))
}

/// The share of its age for which a delivery stays away that has made room so often before. No more than doubles with each stay
/// from the shortest on: an age is only as good as the clocks that measured it, and one that is an hour off must not cost a delivery
/// a quarter of an hour.
fn least(age: Duration, parked: u32, rounding: Rounding, shortest: Duration) -> Duration {
    let stays = match (parked, rounding) {
        (0, _) => 0,
        (_, Rounding::Up) => PATIENCE,
        (stays, Rounding::Down) => stays.min(PATIENCE),
    };
    let share = age * (stays * stays) / (4 * PATIENCE * PATIENCE);
    share.min(shortest.saturating_mul(2_u32.saturating_pow(parked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn ladder() -> Ladder {
        Ladder::try_new(Duration::from_secs(1), 6 * HOUR).unwrap()
    }

    /// What follows for a delivery of this age that has made room so often: the stay in the queue, and the wait for its turn.
    fn stay(age: Duration, parked: u32, wait: Duration, rounding: Rounding) -> Option<(Duration, Duration)> {
        let history = History { parked, ..History::new(NOW) };
        let now = NOW.plus(age);
        match decide_park(&history, Need { wait, rounding }, &RetryPolicy::default(), &ladder(), now) {
            Parking::Wait(wait, turn_at) => Some((wait.due_at.since(now), turn_at.since(now))),
            Parking::Expired => None,
        }
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_full_lane_has_it_back_a_little_early_and_an_open_circuit_never() {
        let wait = seconds(31);
        assert_eq!(stay(seconds(1), 0, wait, Rounding::Down), Some((Duration::from_millis(27_200), wait)));
        assert_eq!(stay(seconds(1), 0, wait, Rounding::Up), Some((seconds(32), wait)));
        assert_eq!(stay(seconds(1), 0, Duration::ZERO, Rounding::Down), Some((seconds(1), seconds(1))));
        assert_eq!(stay(seconds(1), 0, 20 * HOUR, Rounding::Up), Some((20 * HOUR, 20 * HOUR)), "held for several hops");
        assert_eq!(stay(seconds(1), 0, 20 * HOUR, Rounding::Down), Some((6 * HOUR, 20 * HOUR)));
    }

    #[test]
    fn who_has_made_room_before_stays_away_for_a_share_of_its_age() {
        let age = seconds(4096);
        assert_eq!(stay(age, 0, seconds(2), Rounding::Up), Some((seconds(2), seconds(2))));
        assert_eq!(stay(age, 1, seconds(2), Rounding::Up), Some((seconds(2), seconds(2))));
        assert_eq!(stay(age, 3, seconds(2), Rounding::Up), Some((seconds(8), seconds(8))));
        assert_eq!(stay(age, 10, seconds(2), Rounding::Up), Some((Duration::from_millis(1_024_000), seconds(1024))));
        assert_eq!(stay(age, u32::MAX, seconds(2), Rounding::Up), Some((Duration::from_millis(1_024_000), seconds(1024))));
        assert_eq!(stay(age, 1, seconds(2000), Rounding::Up), Some((Duration::from_millis(2_048_000), seconds(2000))));
        assert_eq!(stay(age, 1, Duration::ZERO, Rounding::Down), Some((seconds(1), seconds(1))));
        assert_eq!(stay(age, 8, seconds(2), Rounding::Down), Some((seconds(64), seconds(64))));
        for parked in [32, 33, u32::MAX] {
            assert_eq!(stay(age, parked, seconds(2), Rounding::Down), Some((seconds(1024), seconds(1024))));
        }
        assert_eq!(stay(age, 8, seconds(2000), Rounding::Down), Some((Duration::from_millis(1_740_800), seconds(2000))));
    }

    #[test]
    fn nobody_is_parked_beyond_its_age_by_more_than_a_rung() {
        let left = seconds(100);
        assert_eq!(stay(72 * HOUR - left, 3, HOUR, Rounding::Down), Some((Duration::from_millis(89_600), left)));
        assert_eq!(stay(72 * HOUR - left, 3, HOUR, Rounding::Up), Some((Duration::from_millis(108_800), left)));
        assert_eq!(stay(72 * HOUR - Duration::from_millis(1), 3, HOUR, Rounding::Down), Some((seconds(1), seconds(1))));
        assert_eq!(stay(72 * HOUR, 3, HOUR, Rounding::Down), None);
        assert_eq!(stay(72 * HOUR, 0, HOUR, Rounding::Up), None);
    }

    #[test]
    fn a_delivery_whose_turn_is_always_said_to_come_at_once_is_parked_76_times() {
        let (mut age, mut stays) = (Duration::ZERO, 0);
        while let Some((in_the_queue, _)) = stay(age, stays, Duration::ZERO, Rounding::Down) {
            age += in_the_queue;
            stays += 1;
        }
        assert_eq!(stays, 76);
        assert!(age >= 72 * HOUR && age < 72 * HOUR + seconds(1), "{age:?}");
    }
}
