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

/// After this share of its age at the least, a delivery that has been parked before comes back again.
const SHARE_OF_AGE: u32 = 4;

/// Decides for how long a delivery makes room at its endpoint. `history` does not include this stay.
///
/// It stays for as long as is needed, for a quarter of its age if it has made room before, and for the shortest rung at
/// the least; but not beyond the policy's `max_age`, and when nothing is left of that, it is given up.
///
/// The quarter bounds the stays of one delivery whatever anybody says about its turn: a rung is at most
/// 21 % below the wait that is asked for (1.7 to 1.4), so each stay makes the delivery at least 1 + 1/(4 × 1.22) = 1.2 times
/// as old. For an age of 72 h and rungs from 1 s to 6 h these are at most PLACEHOLDER stays.
#[must_use]
pub fn decide_park(history: &History, need: Need, policy: &RetryPolicy, ladder: &Ladder, now: Timestamp) -> Parking {
    let age = now.since(history.age_counts_from());
    let left = policy.max_age.saturating_sub(age);
    if left.is_zero() {
        return Parking::Expired;
    }
    let least = if history.parked > 0 { age / SHARE_OF_AGE } else { Duration::ZERO };
    let delay = need.wait.max(least).min(left).max(ladder.shortest());
    let wait = match need.rounding {
        Rounding::Down => Wait::at_most(ladder, delay, now),
        Rounding::Up => Wait::at_least(ladder, delay, now),
    };
    Parking::Wait(wait, now.plus(delay))
}
