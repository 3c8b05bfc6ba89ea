//! Whether an endpoint is called at all, and how a lane looks to operators.

use std::time::{Duration, Instant};

use super::Lane;
use crate::domain::circuit::Circuit;
use crate::domain::pace::Pace;
use crate::domain::policy::DeliveryPolicy;
use crate::domain::turns::Turns;

/// How a lane stands at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Whether its endpoint is called.
    pub standing: Standing,
    /// Requests in flight.
    pub in_flight: u16,
    /// Deliveries in line.
    pub waiting: usize,
    /// How long the first of them has been in line.
    pub oldest: Option<Duration>,
    /// Deliveries that this lane has sent into the ladder and that are not back, as far as it knows: another worker may have got them.
    pub parked: usize,
}

impl View {
    /// That of a lane of which nothing is remembered.
    pub const IDLE: Self = Self { standing: Standing::Working, in_flight: 0, waiting: 0, oldest: None, parked: 0 };
}

/// Whether an endpoint is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Working,
    /// One request at a time, to find out whether it takes requests again after it said that it was gone.
    Doubtful,
    /// It keeps failing: its circuit is open.
    Failing {
        /// Since it first opened.
        since: Duration,
        /// The time until one request tries it; `None` while that is on its way.
        next_try: Option<Duration>,
    },
    /// It answered 410.
    Gone {
        /// It is tried again after this time.
        remaining: Duration,
    },
    /// An operator has paused it.
    Held,
}

/// What was forgotten by [`Lane::renew`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    /// The endpoint was paused.
    pub was_paused: bool,
    /// The circuit was open for so long.
    pub circuit: Option<Duration>,
}

impl<T> Lane<T> {
    /// The endpoint has said that it is gone: it is not called before `until`. Says whether that is new: of requests in flight at one time
    /// each may be answered so, and all but the first only move the end. A pause whose time is over counts until [`Self::end_pause`].
    pub const fn pause(&mut self, until: Instant) -> bool {
        self.is_doubtful = true;
        self.paused_until.replace(until).is_none()
    }

    /// An operator has paused the endpoint, or wants it to be told again. What is in flight goes on.
    pub const fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// Ends a pause whose time is over; says whether there was one.
    pub fn end_pause(&mut self, now: Instant) -> bool {
        self.paused_until.take_if(|until| *until <= now).is_some()
    }

    /// The endpoint's configuration has changed: whatever was held against it is forgotten. Says what that was.
    pub fn renew(&mut self, policy: &DeliveryPolicy, now: Instant) -> Renewed {
        let renewed = Renewed { was_paused: self.paused_until.take().is_some(), circuit: self.circuit.open_for(now) };
        self.circuit = Circuit::default();
        self.is_doubtful = false;
        self.pace = policy.rate.map(Pace::new);
        self.turns = Turns::new(now);
        renewed
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.is_held || self.is_gone(now)
    }

    pub(super) fn is_gone(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }

    /// How it stands now.
    #[must_use]
    pub fn view(&self, now: Instant) -> View {
        View {
            standing: self.standing(now),
            in_flight: self.service.in_flight(),
            waiting: self.line.len(),
            oldest: self.line.front().map(|queued| now.saturating_duration_since(queued.since)),
            parked: self.parked(now),
        }
    }

    /// Work has come back that had left before.
    pub const fn came_back(&mut self) {
        self.parked = self.parked.saturating_sub(1);
    }

    fn standing(&self, now: Instant) -> Standing {
        if self.is_held {
            return Standing::Held;
        }
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            return Standing::Gone { remaining: until - now };
        }
        match self.circuit.open_for(now) {
            Some(since) => {
                let next_try = self.circuit.next_probe().map(|at| at.saturating_duration_since(now));
                Standing::Failing { since, next_try }
            }
            None if self.is_doubtful => Standing::Doubtful,
            None => Standing::Working,
        }
    }

    /// Once all turns have passed, whoever is not back was not this lane's any more.
    fn parked(&self, now: Instant) -> usize {
        let is_over = self.standing(now) == Standing::Working && self.turns.are_over(now);
        if is_over { 0 } else { self.parked }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::super::{Cause, Ending, Next, Room};
    use super::*;
    use crate::domain::batch::Waiting;
    use crate::domain::reply::Charge;

    const ROOM: Room = Room { window: 1000, free: 1000, shortest: Duration::from_secs(1) };

    fn policy() -> DeliveryPolicy {
        DeliveryPolicy { max_in_flight: NonZeroU16::new(2).unwrap(), ..DeliveryPolicy::default() }
    }

    fn next(lane: &mut Lane<u32>, now: Instant) -> Next<u32> {
        lane.next(&policy(), ROOM.window, now, |_| Waiting { bytes: 1, id_length: 1, batch_limit: None })
    }

    #[test]
    fn an_endpoint_on_hold_is_not_called_and_its_line_leaves_until_it_goes_on() {
        let now = Instant::now();
        let mut lane = Lane::new(&policy(), now);
        lane.push(1, now);
        let Next::Start(_, turn) = next(&mut lane, now) else { panic!("it works") };
        lane.hold(true);
        lane.push(2, now);
        assert!(matches!(next(&mut lane, now), Next::Nothing));
        assert!(lane.is_crowded(&policy(), ROOM.shortest, now));
        assert_eq!(lane.view(now), View { standing: Standing::Held, in_flight: 1, waiting: 1, oldest: Some(Duration::ZERO), parked: 0 });
        let left = lane.depart(&policy(), ROOM, now, |_| None);
        assert!(matches!(&left[..], [one] if one.work == 2 && one.cause == Cause::Held && one.need.wait >= Duration::from_secs(1)));
        lane.finish(turn, Ending { charge: Some(Charge::Works), dice: 0.5 }, &policy(), now);
        assert_eq!(lane.view(now), View { standing: Standing::Held, in_flight: 0, waiting: 0, oldest: None, parked: 1 });
        assert!(!lane.is_forgettable(now), "a hold is not forgotten");
        lane.renew(&policy(), now);
        assert_eq!(lane.view(now).standing, Standing::Held, "nor by another configuration");

        lane.hold(false);
        lane.push(2, now);
        lane.came_back();
        assert!(matches!(next(&mut lane, now), Next::Start(..)));
        assert_eq!(lane.view(now), View { standing: Standing::Working, in_flight: 1, waiting: 0, oldest: None, parked: 0 });
    }

    #[test]
    fn what_is_held_against_an_endpoint_is_shown() {
        let now = Instant::now();
        let mut lane: Lane<u32> = Lane::new(&policy(), now);
        assert!(lane.pause(now + Duration::from_secs(50)));
        assert!(!lane.pause(now + Duration::from_secs(60)), "it was paused already");
        assert_eq!(lane.view(now).standing, Standing::Gone { remaining: Duration::from_secs(60) }, "yet the end has moved");
        let over = now + Duration::from_secs(60);
        assert_eq!(lane.view(over).standing, Standing::Doubtful);
        assert!(lane.end_pause(over) && lane.pause(over + Duration::from_secs(60)), "after an end it is new");
        let mut lane: Lane<u32> = Lane::new(&policy(), now);
        for _ in 0..policy().circuit.consecutive.get() {
            lane.push(1, now);
            let Next::Start(_, turn) = next(&mut lane, now) else { panic!("it is called") };
            lane.finish(turn, Ending { charge: Some(Charge::Fails), dice: 0.5 }, &policy(), now);
        }
        let Standing::Failing { since: Duration::ZERO, next_try: Some(next_try) } = lane.view(now).standing else { panic!("open") };
        assert!(next_try > Duration::from_secs(4));
    }
}
