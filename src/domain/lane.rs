//! The order of work at one endpoint: what starts, what waits in line, and what leaves the line to make room for others.
//!
//! ```text
//!             push                    next
//!  delivery ───────▶ line of waiting ───────▶ request in flight ───▶ finish
//!                          │    as many as may at one time, as its rate and its circuit allow
//!                          ▼ depart
//!        the ladder: more than the endpoint gets to soon, an open circuit, a pause after 410
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::batch::{self, Fill, Waiting};
use super::circuit::{Change, Circuit, Gate};
use super::pace::Pace;
use super::park::{Need, Rounding};
use super::policy::DeliveryPolicy;
use super::reply::Charge;
use super::service::Service;
use super::turns::Turns;

mod standing;

pub use standing::{Renewed, Standing, View};

/// What the endpoint gets to within this time stays in line in any case: it is gone before it could be in anybody's way.
const SOON: Duration = Duration::from_millis(100);
/// An endpoint that works through a whole prefetch window within this time is in nobody's way: to move its events away and
/// back would take the broker longer.
const WINDOW_TIME: Duration = Duration::from_secs(1);
/// Of what is free of a prefetch window, one lane may hold this share beyond that (Choudhury and Hahne, "Dynamic Queue Length
/// Thresholds for Shared-Memory Packet Switches", 1998): however many lanes are full, some of the window stays free.
const SHARE: usize = 4;
/// Of a whole prefetch window, one lane may have this share in flight, and one request in any case.
const IN_FLIGHT_SHARE: usize = 2;
/// Turns are given away at no higher rate while nobody is served: what waits for a dead endpoint comes back at most this
/// often, all together, in events a second.
const WHILE_UNSERVED: f64 = 1000.0;
/// The least that a paused endpoint's events wait before they are looked at again; more with their age.
const PAUSED: Duration = Duration::from_secs(10);

/// Who waits at an endpoint, in order of arrival, and who is being served.
#[derive(Debug)]
pub struct Lane<T> {
    line: VecDeque<Queued<T>>,
    service: Service,
    events_in_flight: usize,
    /// Nothing more can start until a request is over.
    is_full: bool,
    circuit: Circuit,
    pace: Option<Pace>,
    paused_until: Option<Instant>,
    /// It was paused, and it is not known yet whether it takes requests again: one at a time finds out.
    is_doubtful: bool,
    /// An operator has paused it.
    is_held: bool,
    /// Given away to those that have left.
    turns: Turns,
    /// Left, and not back yet, as far as is known.
    parked: usize,
}

#[derive(Debug)]
struct Queued<T> {
    work: T,
    since: Instant,
}

/// What may happen next.
#[derive(Debug)]
pub enum Next<T> {
    /// One request with this work, in order of arrival.
    Start(Vec<T>, Turn),
    /// Nothing before this time, unless something is pushed or finished.
    Later(Instant),
    /// Nothing until something is pushed or finished.
    Nothing,
}

/// A request in flight. To be given back by [`Lane::finish`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a turn that is not given back is taken for ever"]
pub struct Turn {
    started: Instant,
    events: usize,
    probe: bool,
}

impl Turn {
    /// Whether it is the one request that finds out whether the endpoint works again.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.probe
    }
}

/// How a request ended, as far as it concerns the endpoint as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// What its reply says of the endpoint; `None` when it came to no reply.
    pub charge: Option<Charge>,
    /// 0 included to 1 excluded.
    pub dice: f64,
}

/// Why work leaves the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The lane is full.
    Full,
    /// The circuit is open.
    Shut,
    /// The endpoint answered 410.
    Paused,
    /// An operator has paused the endpoint.
    Held,
}

/// Work that leaves the line.
#[derive(Debug)]
pub struct Departure<T> {
    /// The work.
    pub work: T,
    /// How long it stays away.
    pub need: Need,
    /// Why.
    pub cause: Cause,
}

/// How much room there is.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Messages that the prefetch window of the newest in line has room for at one time.
    pub window: usize,
    /// Of those, how many it still has room for.
    pub free: usize,
    /// The shortest time that makes sense to stay away: the ladder's shortest wait.
    pub shortest: Duration,
}

/// Work that the endpoint gets to within this time does not leave for want of time: it would come back no sooner.
fn hold(shortest: Duration) -> Duration {
    shortest.clamp(Duration::from_secs(1), Duration::from_secs(10))
}

impl<T> Lane<T> {
    /// An empty lane.
    #[must_use]
    pub fn new(policy: &DeliveryPolicy, now: Instant) -> Self {
        Self {
            line: VecDeque::new(),
            service: Service::new(now),
            events_in_flight: 0,
            is_full: false,
            circuit: Circuit::default(),
            pace: policy.rate.map(Pace::new),
            paused_until: None,
            is_doubtful: false,
            is_held: false,
            turns: Turns::new(now),
            parked: 0,
        }
    }

    /// Puts work at the end of the line.
    pub fn push(&mut self, work: T, now: Instant) {
        self.line.push_back(Queued { work, since: now });
    }

    /// The request that may start now, where the prefetch window has room for so many messages at one time. `look` tells what
    /// decides about batches.
    pub fn next(&mut self, policy: &DeliveryPolicy, window: usize, now: Instant, look: impl Fn(&T) -> Waiting) -> Next<T> {
        let Some(oldest) = self.line.front().map(|queued| queued.since) else { return Next::Nothing };
        let most = if self.is_doubtful { 1 } else { policy.max_in_flight.get() };
        let most_events = (window / IN_FLIGHT_SHARE).max(1);
        self.is_full = self.service.in_flight() >= most || self.events_in_flight >= most_events;
        if self.is_paused(now) || self.is_full {
            return Next::Nothing;
        }
        let probe = match self.circuit.gate(now) {
            Gate::Shut { .. } => return Next::Nothing,
            Gate::Probe => true,
            Gate::Pass => false,
        };
        let count = if probe || self.is_doubtful {
            1
        } else {
            let share = batch::share(self.line.iter().map(|queued| look(&queued.work)), &policy.batch);
            let latest = oldest + policy.batch.max_wait;
            if share.fill == Fill::Open && now < latest {
                return Next::Later(latest);
            }
            share.count.min(most_events - self.events_in_flight)
        };
        if let Some(Err(wait)) = self.pace.as_mut().map(|pace| pace.take(now)) {
            return Next::Later(now + wait);
        }
        if probe {
            self.circuit.begin_probe(now);
        }
        self.service.begin(now);
        self.events_in_flight += count;
        let work = self.line.drain(..count).map(|queued| queued.work).collect();
        self.is_full = self.service.in_flight() >= most || self.events_in_flight >= most_events;
        if self.line.is_empty() && self.service.in_flight() == 1 {
            // It was idle: whoever comes is served at once, whatever turns were given away.
            self.turns = Turns::new(now);
        }
        Next::Start(work, Turn { started: now, events: count, probe })
    }

    /// A request is over. Says whether the circuit has changed by it.
    pub fn finish(&mut self, turn: Turn, ending: Ending, policy: &DeliveryPolicy, now: Instant) -> Option<Change> {
        self.service.end(turn.started, turn.events, now);
        self.is_full = false;
        self.events_in_flight = self.events_in_flight.saturating_sub(turn.events);
        self.is_doubtful &= self.is_gone(now) || ending.charge.is_none();
        let Some(charge) = ending.charge else {
            if turn.probe {
                self.circuit.abandon_probe(now);
            }
            return None;
        };
        let change = self.circuit.note(charge, turn.probe, &policy.circuit, (now, ending.dice));
        if change.is_some() {
            // Turns from before say nothing about what the endpoint takes from now on.
            self.turns = Turns::new(now);
        }
        change
    }

    /// Whether [`Self::depart`] could have anything to say; `shortest` as in [`Room`]. Cheap: to be asked after every push.
    #[must_use]
    pub fn is_crowded(&self, policy: &DeliveryPolicy, shortest: Duration, now: Instant) -> bool {
        let Some(oldest) = self.line.front() else { return false };
        let waits = now.saturating_duration_since(oldest.since);
        waits >= SOON || self.is_stuck(policy, shortest, now) || self.is_paused(now) || !self.circuit.is_closed()
    }

    /// Whether requests take so long that, on average, each place comes free less than once in the time in which somebody who
    /// leaves could be back.
    fn is_stuck(&self, policy: &DeliveryPolicy, shortest: Duration, now: Instant) -> bool {
        let (places, hold) = (policy.max_in_flight.get(), hold(shortest));
        // What has not answered yet may be slow or only new: that is known when it could have been back.
        let served = self.service.requests_per_second(places, now) * hold.as_secs_f64();
        self.is_full && (self.service.quiet(now) >= hold || (self.service.is_measured() && served < f64::from(places)))
    }

    /// Takes out of the line what makes room for others: everything where the endpoint is not to be called at all, else the
    /// newest beyond what it gets to soon. At an endpoint whose requests take long, everybody who comes for the first time goes
    /// at once, but for who will share its next request: as long as they wait, no message that came after them can be acknowledged together with others, which costs the
    /// broker more than to let them come back later through a queue of their own. `turn_in` is how long it still is until the turn that was given to the work when
    /// it left before, nothing where that has passed; `None` where none was given.
    pub fn depart(
        &mut self,
        policy: &DeliveryPolicy,
        room: Room,
        now: Instant,
        turn_in: impl Fn(&T) -> Option<Duration>,
    ) -> Vec<Departure<T>> {
        if self.is_held {
            return self.leave(0, Cause::Held, |_, _| Need { wait: PAUSED, rounding: Rounding::Up });
        }
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            let wait = PAUSED.min(until - now);
            return self.leave(0, Cause::Paused, |_, _| Need { wait, rounding: Rounding::Up });
        }
        match self.circuit.gate(now) {
            Gate::Pass => self.depart_for_want_of_room(policy, room, now, turn_in),
            Gate::Shut { until } if !self.circuit.is_probing() => {
                let until = until.saturating_duration_since(now);
                self.leave(0, Cause::Shut, |lane, work| {
                    let turn = turn_in(work).unwrap_or_else(|| lane.turns.give(until, WHILE_UNSERVED, now));
                    Need { wait: turn.max(until), rounding: Rounding::Up }
                })
            }
            // It will be known soon: as many as could start then stay. With no probe out yet, the first of them is it.
            Gate::Probe | Gate::Shut { .. } => {
                let wait = hold(room.shortest);
                let stay = usize::from(policy.max_in_flight.get()).min(room.free / SHARE).max(1);
                self.leave(stay, Cause::Shut, |_, _| Need { wait, rounding: Rounding::Up })
            }
        }
    }

    fn depart_for_want_of_room(
        &mut self,
        policy: &DeliveryPolicy,
        room: Room,
        now: Instant,
        turn_in: impl Fn(&T) -> Option<Duration>,
    ) -> Vec<Departure<T>> {
        let is_stuck = self.is_stuck(policy, room.shortest, now);
        let oldest = self.line.front().map(|queued| queued.since);
        if !is_stuck && oldest.is_none_or(|oldest| now.saturating_duration_since(oldest) < SOON) {
            return Vec::new();
        }
        let rate = self.events_per_second(policy, now);
        let for_a_batch = (usize::from(policy.batch.max_events.get()) - 1).min(room.window / SHARE);
        let stay = stay(rate, room).max(for_a_batch);
        let have_a_turn = || self.line.iter().filter(|queued| turn_in(&queued.work).is_some()).count();
        // One stays for the place that comes free next, or it would be idle until somebody comes back.
        let stay = if is_stuck { stay.max(1).min(have_a_turn()).max(for_a_batch) } else { stay };
        self.put_last_who_has_no_turn(stay, |work| turn_in(work).is_none());
        let behind_the_line = Turns::behind(count(stay), rate);
        // Before the first request is over, nothing is known but that it was not yet: soon after the start it may be any moment,
        // later each may take as long again.
        let so_far = self.service.quiet(now);
        let hopeful =
            if so_far < hold(room.shortest) { WHILE_UNSERVED } else { f64::from(policy.max_in_flight.get()) / so_far.as_secs_f64() };
        let turns = if self.service.is_measured() { rate } else { rate.max(hopeful).min(allowed(policy)) };
        self.leave(stay, Cause::Full, |lane, work| {
            let turn = match turn_in(work) {
                None => lane.turns.give(behind_the_line, turns, now),
                Some(turn) if turn.is_zero() => lane.turns.give_again(behind_the_line, turns, now),
                Some(turn) => turn,
            };
            Need { wait: turn.max(behind_the_line), rounding: Rounding::Down }
        })
    }

    /// Where somebody has to leave, those who come for the first time go before those whose turn it is: else who has waited
    /// longest would find the place taken again and again.
    fn put_last_who_has_no_turn(&mut self, stay: usize, has_no_turn: impl Fn(&T) -> bool) {
        let excess = self.line.len().saturating_sub(stay);
        if excess == 0 || self.line.range(stay..).all(|queued| has_no_turn(&queued.work)) {
            return;
        }
        let first_time = self.line.iter().filter(|queued| has_no_turn(&queued.work)).count();
        // The newest of them, as many as have to leave.
        let mut staying = first_time.saturating_sub(excess);
        let (mut stays, mut leaves) = (VecDeque::with_capacity(self.line.len()), VecDeque::new());
        for queued in self.line.drain(..) {
            if !has_no_turn(&queued.work) {
                stays.push_back(queued);
            } else if staying > 0 {
                staying -= 1;
                stays.push_back(queued);
            } else {
                leaves.push_back(queued);
            }
        }
        stays.append(&mut leaves);
        self.line = stays;
    }

    /// Takes out of the line whoever stands behind the first `stay`, in order.
    fn leave(&mut self, stay: usize, cause: Cause, mut need: impl FnMut(&mut Self, &T) -> Need) -> Vec<Departure<T>> {
        let leaving: Vec<Queued<T>> = self.line.drain(stay.min(self.line.len())..).collect();
        self.parked = self.parked.saturating_add(leaving.len());
        leaving.into_iter().map(|Queued { work, .. }| Departure { need: need(self, &work), work, cause }).collect()
    }

    /// Events a second that the endpoint can be told, as far as is known.
    fn events_per_second(&self, policy: &DeliveryPolicy, now: Instant) -> f64 {
        self.service.events_per_second(policy.max_in_flight.get(), now).min(allowed(policy))
    }

    /// Takes out of the line what `keep` refuses; says how many that were.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) -> usize {
        let before = self.line.len();
        self.line.retain(|queued| keep(&queued.work));
        before - self.line.len()
    }

    /// Takes everything that waits; what is being served goes on.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.line.drain(..).map(|queued| queued.work)
    }

    /// The newest in line.
    #[must_use]
    pub fn newest(&self) -> Option<&T> {
        self.line.back().map(|waiting| &waiting.work)
    }

    /// Whether nothing but the measured rate would be lost if the lane were made anew: nobody waits or is served, nothing is
    /// held against the endpoint, and no turn is given away.
    #[must_use]
    pub fn is_forgettable(&self, now: Instant) -> bool {
        self.service.in_flight() == 0
            && self.line.is_empty()
            && self.circuit.is_forgettable(now)
            && !self.is_paused(now)
            && !self.is_doubtful
            && self.turns.are_over(now)
            && self.pace.as_ref().is_none_or(|pace| pace.is_rested(now))
    }

    /// Whether nobody waits and nobody is being served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.line.is_empty() && self.service.in_flight() == 0
    }

    /// Whether somebody waits.
    #[must_use]
    pub fn has_line(&self) -> bool {
        !self.line.is_empty()
    }
}

/// Events a second that the endpoint's rate limit allows.
fn allowed(policy: &DeliveryPolicy) -> f64 {
    policy
        .rate
        .map_or(f64::INFINITY, |rate| f64::from(rate.requests.get()) / rate.per.as_secs_f64() * f64::from(policy.batch.max_events.get()))
}

/// How many may wait at an endpoint of this rate: a whole window where it is worked through quickly; else what it gets to soon, and beyond that what it gets to before it could come
/// back from the ladder, but no more than the share of what is free.
fn stay(rate: f64, room: Room) -> usize {
    let within = |time: Duration| whole(rate * time.as_secs_f64());
    if within(WINDOW_TIME) >= room.window {
        return room.window;
    }
    within(SOON).max(within(hold(room.shortest)).min(room.free / SHARE))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded down, and capped at the ends of the range")]
fn whole(number: f64) -> usize {
    number.max(0.0) as usize
}

#[expect(clippy::cast_precision_loss, reason = "a line is far shorter than 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::num::{NonZeroU16, NonZeroU32};

    use proptest::prelude::*;

    use super::*;
    use crate::domain::policy::{BatchLimits, Rate};

    const ROOM: Room = Room { window: 1000, free: 1000, shortest: Duration::from_secs(1) };
    const WORKS: Ending = Ending { charge: Some(Charge::Works), dice: 0.5 };
    const FAILS: Ending = Ending { charge: Some(Charge::Fails), dice: 0.5 };

    fn policy(max_in_flight: u16) -> DeliveryPolicy {
        DeliveryPolicy { max_in_flight: NonZeroU16::new(max_in_flight).unwrap(), ..DeliveryPolicy::default() }
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn light<T>(_: &T) -> Waiting {
        Waiting { bytes: 100, id_length: 10, batch_limit: None }
    }

    fn start<T: std::fmt::Debug>(lane: &mut Lane<T>, policy: &DeliveryPolicy, now: Instant) -> Option<(Vec<T>, Turn)> {
        match lane.next(policy, ROOM.window, now, light) {
            Next::Start(work, turn) => Some((work, turn)),
            _ => None,
        }
    }

    #[test]
    fn serves_in_order_of_arrival_and_never_more_than_the_limit() {
        let (two, now) = (policy(2), Instant::now());
        let mut lane = Lane::new(&two, now);
        (1..=4).for_each(|n| lane.push(n, now));
        let (first, turn) = start(&mut lane, &two, now).unwrap();
        let (second, other) = start(&mut lane, &two, now).unwrap();
        assert_eq!((first, second), (vec![1], vec![2]));
        assert!(start(&mut lane, &two, now).is_none());
        assert_eq!(lane.finish(turn, WORKS, &two, now), None);
        let (third, last) = start(&mut lane, &two, now).unwrap();
        assert_eq!((third, lane.service.in_flight(), lane.line.len()), (vec![3], 2, 1));
        assert_eq!(lane.drain().collect::<Vec<_>>(), [4]);
        assert!(!lane.is_forgettable(now));
        lane.finish(other, WORKS, &two, now);
        lane.finish(last, WORKS, &two, now);
        assert!(lane.is_forgettable(now));
    }

    #[test]
    fn a_batch_takes_what_is_there_or_waits_for_more_as_long_as_it_may() {
        let now = Instant::now();
        let batch = BatchLimits { max_events: NonZeroU16::new(3).unwrap(), ..BatchLimits::default() };
        let at_once = DeliveryPolicy { batch, ..policy(9) };
        let mut lane = Lane::new(&at_once, now);
        (1..=5).for_each(|n| lane.push(n, now));
        assert_eq!(start(&mut lane, &at_once, now).unwrap().0, [1, 2, 3]);
        let patient = DeliveryPolicy { batch: BatchLimits { max_wait: ms(200), ..batch }, ..at_once };
        assert!(matches!(lane.next(&patient, ROOM.window, now + ms(50), light), Next::Later(at) if at == now + ms(200)));
        assert_eq!(start(&mut lane, &patient, now + ms(200)).unwrap().0, [4, 5]);
    }

    fn in_batches(max_events: u16, rules: DeliveryPolicy) -> DeliveryPolicy {
        DeliveryPolicy { batch: BatchLimits { max_events: NonZeroU16::new(max_events).unwrap(), ..BatchLimits::default() }, ..rules }
    }

    #[test]
    fn half_of_the_prefetch_window_is_in_flight_at_most() {
        let (rules, now) = (in_batches(8, policy(16)), Instant::now());
        let mut lane = Lane::new(&rules, now);
        (0..30).for_each(|n| lane.push(n, now));
        let next = |lane: &mut Lane<i32>| match lane.next(&rules, 20, now, light) {
            Next::Start(work, turn) => Some((work.len(), turn)),
            _ => None,
        };
        let (first, turn) = next(&mut lane).unwrap();
        let (second, _turn) = next(&mut lane).unwrap();
        assert_eq!((first, second), (8, 2));
        assert!(next(&mut lane).is_none());
        lane.finish(turn, WORKS, &rules, now);
        assert_eq!(next(&mut lane).map(|(count, _)| count), Some(8));
        assert!(next(&mut lane).is_none());
    }

    #[test]
    fn who_probes_and_who_has_said_410_gets_one_event_at_a_time() {
        let (rules, now) = (in_batches(8, policy(4)), Instant::now());
        let mut lane = Lane::new(&rules, now);
        lane.pause(now + ms(1000));
        (0..30).for_each(|n| lane.push(n, now));
        let later = now + ms(1000);
        assert!(lane.end_pause(later));
        let (work, turn) = start(&mut lane, &rules, later).unwrap();
        assert!(work.len() == 1 && start(&mut lane, &rules, later).is_none());
        lane.finish(turn, Ending { charge: None, dice: 0.5 }, &rules, later);
        let (work, turn) = start(&mut lane, &rules, later).unwrap();
        assert!(work.len() == 1 && start(&mut lane, &rules, later).is_none(), "nothing is known yet");
        lane.finish(turn, FAILS, &rules, later);
        assert_eq!(start(&mut lane, &rules, later).unwrap().0.len(), 8, "it answers, whatever it is");
        for _ in 0..9 {
            let turn = Turn { started: later, events: 1, probe: false };
            lane.finish(turn, FAILS, &rules, later);
        }
        let reopened = later + ms(3_600_000);
        let (work, turn) = start(&mut lane, &rules, reopened).unwrap();
        assert!(turn.is_probe() && work.len() == 1);
    }

    #[test]
    fn a_pause_is_over_when_it_is_over() {
        let (rules, now) = (policy(4), Instant::now());
        let mut lane = Lane::new(&rules, now);
        lane.pause(now + ms(50));
        lane.push(1, now);
        assert!(lane.depart(&rules, ROOM, now + ms(50), |_| None).is_empty());
        assert_eq!(lane.depart(&rules, ROOM, now + ms(49), |_| None)[0].need.wait, ms(1));
    }

    #[test]
    fn turns_that_were_given_away_are_forgotten_by_an_idle_endpoint_alone() {
        let (rules, now) = (policy(4), Instant::now());
        // Lined up, in flight before: and whether the turns begin anew with the next request.
        for (lined_up, in_flight, anew) in [(1, 0, true), (2, 0, false), (1, 1, false), (2, 1, false)] {
            let mut lane = Lane::new(&rules, now);
            for _ in 0..in_flight {
                lane.push(0, now);
                let _turn = start(&mut lane, &rules, now).unwrap();
            }
            assert_eq!(lane.turns.give(Duration::ZERO, 0.1, now), ms(10_000));
            (0..lined_up).for_each(|n| lane.push(n, now));
            let _turn = start(&mut lane, &rules, now).unwrap();
            let next = lane.turns.give(Duration::ZERO, 1.0, now);
            assert_eq!(next, if anew { ms(1000) } else { ms(11_000) }, "{lined_up} in line, {in_flight} in flight");
        }
    }

    #[test]
    fn a_line_that_has_just_formed_is_no_crowd() {
        let (rules, now) = (policy(1), Instant::now());
        let mut lane = Lane::new(&rules, now);
        (0..2).for_each(|n| lane.push(n, now));
        let _turn = start(&mut lane, &rules, now).unwrap();
        assert!(!lane.is_crowded(&rules, ROOM.shortest, now + SOON - ms(1)));
        assert!(lane.is_crowded(&rules, ROOM.shortest, now + SOON));
    }

    /// Where the ladder is coarse, who leaves is back after ten seconds at the earliest.
    #[test]
    fn requests_take_long_when_a_place_comes_free_less_than_once_in_the_time_that_one_is_away() {
        for (millis, is_stuck) in [(3000, false), (9900, false), (20_000, true)] {
            let (rules, start_of_all) = (policy(4), Instant::now());
            let mut lane = Lane::new(&rules, start_of_all);
            (0..4).for_each(|n| lane.push(n, start_of_all));
            let turns: Vec<Turn> = (0..4).map(|_| start(&mut lane, &rules, start_of_all).unwrap().1).collect();
            let now = start_of_all + ms(millis);
            for turn in turns {
                lane.finish(turn, WORKS, &rules, now);
            }
            (0..5).for_each(|n| lane.push(n, now));
            while start(&mut lane, &rules, now).is_some() {}
            assert_eq!(lane.is_crowded(&rules, ms(10_000), now), is_stuck, "{millis} ms each");
        }
    }

    #[test]
    fn however_long_requests_take_nobody_is_sent_away_while_a_place_is_free() {
        let (rules, start_of_all) = (policy(4), Instant::now());
        let mut lane = Lane::new(&rules, start_of_all);
        lane.push(0, start_of_all);
        let (_, turn) = start(&mut lane, &rules, start_of_all).unwrap();
        let now = start_of_all + ms(60_000);
        lane.finish(turn, WORKS, &rules, now);
        (0..3).for_each(|n| lane.push(n, now));
        let _turns: Vec<Turn> = (0..2).map(|_| start(&mut lane, &rules, now).unwrap().1).collect();
        assert!(!lane.is_crowded(&rules, ROOM.shortest, now), "two of four places are free");
    }

    #[test]
    fn before_the_first_answer_turns_are_close_to_each_other_and_later_as_far_apart_as_it_has_taken_so_far() {
        // Nothing is known: 1,000 a second; after a second and after two: 16 requests in that time.
        for (millis, apart) in [(500, 1.0), (1000, 62.5), (2000, 125.0)] {
            let (rules, start_of_all) = (policy(16), Instant::now());
            let mut lane = Lane::new(&rules, start_of_all);
            (0..216).for_each(|n| lane.push(n, start_of_all));
            while start(&mut lane, &rules, start_of_all).is_some() {}
            let left = lane.depart(&rules, ROOM, start_of_all + ms(millis), |_| None);
            let waits: Vec<Duration> = left.iter().map(|departure| departure.need.wait).collect();
            let (first, last, gaps) = (waits[0], waits[waits.len() - 1], f64::from(u32::try_from(waits.len()).unwrap() - 1));
            let mean = (last - first).as_secs_f64() * 1000.0 / gaps;
            assert!((mean - apart).abs() < apart / 50.0, "{mean} ms after {millis} ms");
        }
    }

    #[test]
    fn who_comes_back_in_vain_gets_another_turn_each_at_a_place_of_its_own() {
        let now = Instant::now();
        let rate = Rate { requests: NonZeroU32::new(10).unwrap(), per: Duration::from_secs(1) };
        let rules = DeliveryPolicy { rate: Some(rate), ..policy(16) };
        let mut lane = Lane::new(&rules, now);
        (0..100).for_each(|n| lane.push(n, now));
        let left = lane.depart(&rules, ROOM, now + ms(100), |_| Some(Duration::ZERO));
        assert!(left.len() > 10 && left.windows(2).all(|pair| pair[1].need.wait >= pair[0].need.wait + ms(99)), "a tenth of a second each");
    }

    #[test]
    fn as_many_stay_for_a_batch_or_a_probe_as_a_quarter_of_the_window() {
        let (rules, now) = (in_batches(100, policy(4)), Instant::now());
        let mut lane = Lane::new(&rules, now);
        lane.push(0, now);
        let (_, turn) = start(&mut lane, &rules, now).unwrap();
        lane.finish(turn, WORKS, &rules, now + ms(60_000));
        let later = now + ms(60_000);
        (0..200).for_each(|n| lane.push(n, later));
        lane.is_full = true;
        lane.depart(&rules, Room { window: 8, free: 0, ..ROOM }, later + ms(100), |_| None);
        assert_eq!(lane.line.len(), 2);
        for _ in 0..10 {
            lane.finish(Turn { started: later, events: 0, probe: false }, FAILS, &rules, later);
        }
        let reopened = later + ms(3_600_000);
        lane.line.clear();
        (0..50).for_each(|n| lane.push(n, reopened));
        lane.depart(&rules, Room { free: 8, ..ROOM }, reopened, |_| None);
        assert_eq!(lane.line.len(), 2);
    }

    #[test]
    fn a_lane_knows_who_is_in_it() {
        let (rules, now) = (policy(4), Instant::now());
        let mut lane = Lane::new(&rules, now);
        assert!(lane.is_empty() && !lane.has_line() && lane.newest().is_none());
        (1..=5).for_each(|n| lane.push(n, now));
        assert_eq!((lane.newest(), lane.has_line(), lane.is_empty()), (Some(&5), true, false));
        assert_eq!(lane.retain(|n| n % 2 == 1), 2);
        assert_eq!(lane.retain(|n| *n == 3), 2);
        let (_, turn) = start(&mut lane, &rules, now).unwrap();
        assert!(!lane.has_line() && !lane.is_empty(), "one is being served");
        lane.finish(turn, WORKS, &rules, now);
        assert!(lane.is_empty());
    }

    #[test]
    fn a_rate_allows_so_many_requests_and_as_many_events_as_fit_into_them() {
        let rate = |requests, seconds| Rate { requests: NonZeroU32::new(requests).unwrap(), per: Duration::from_secs(seconds) };
        for (rate, batch, expected) in [(None, 7, f64::INFINITY), (Some(rate(30, 1)), 1, 30.0), (Some(rate(30, 60)), 10, 5.0)] {
            let events = allowed(&DeliveryPolicy { rate, ..in_batches(batch, policy(4)) });
            assert!((events - expected).abs() < 1e-9 || events == expected, "{events} for {rate:?}");
        }
    }

    #[test]
    fn who_has_a_turn_stays_and_the_newest_of_the_others_leave() {
        let (rules, now) = (policy(4), Instant::now());
        let mut lane = Lane::new(&rules, now);
        (1..=8).for_each(|n| lane.push(n, now));
        // Even ones have a turn; five may stay, so three of the four others leave, the newest.
        lane.put_last_who_has_no_turn(5, |n| n % 2 == 1);
        assert_eq!(lane.drain().collect::<Vec<_>>(), [1, 2, 4, 6, 8, 3, 5, 7]);
    }

    #[test]
    fn an_endpoint_that_hangs_keeps_next_to_nothing_of_the_window() {
        let (rules, now) = (policy(16), Instant::now());
        let mut lane = Lane::new(&rules, now);
        (0..1000).for_each(|n| lane.push(n, now));
        while start(&mut lane, &rules, now).is_some() {}
        assert!(lane.depart(&rules, ROOM, now + ms(99), |_| None).is_empty(), "it may be fast");
        let left = lane.depart(&rules, ROOM, now + ms(500), |_| None);
        assert!(lane.line.len() <= 32, "{} wait", lane.line.len());
        assert!(left.windows(2).all(|pair| pair[0].work < pair[1].work && pair[0].need.wait <= pair[1].need.wait), "turns in order");
        assert!(left.iter().all(|departure| departure.cause == Cause::Full));
        lane.depart(&rules, ROOM, now + ms(60_000), |_| None);
        assert_eq!((lane.line.len(), lane.service.in_flight()), (0, 16));
    }

    #[test]
    fn whoever_comes_for_the_first_time_leaves_an_endpoint_whose_requests_take_long_at_once() {
        let (rules, start_of_all) = (policy(4), Instant::now());
        let mut lane = Lane::new(&rules, start_of_all);
        let five_seconds_each = |lane: &mut Lane<i32>, now: Instant| {
            (0..4).for_each(|n| lane.push(n, now));
            let turns: Vec<Turn> = (0..4).map(|_| start(lane, &rules, now).unwrap().1).collect();
            for turn in turns {
                lane.finish(turn, WORKS, &rules, now + ms(5000));
            }
        };
        five_seconds_each(&mut lane, start_of_all);
        let now = start_of_all + ms(5000);
        (0..4).for_each(|n| lane.push(n, now));
        while start(&mut lane, &rules, now).is_some() {}
        assert!(!lane.is_crowded(&rules, ROOM.shortest, now), "nobody waits");
        (10..14).for_each(|n| lane.push(n, now));
        assert!(lane.is_crowded(&rules, ROOM.shortest, now));
        // The second of them comes back for its turn.
        let left = lane.depart(&rules, ROOM, now, |n| (*n == 11).then_some(Duration::ZERO));
        assert_eq!(left.iter().map(|one| one.work).collect::<Vec<_>>(), [10, 12, 13]);
        // With batches, the next request's events stay together.
        let in_batches =
            DeliveryPolicy { batch: BatchLimits { max_events: NonZeroU16::new(4).unwrap(), ..BatchLimits::default() }, ..rules };
        lane.line.clear();
        (20..30).for_each(|n| lane.push(n, now));
        lane.depart(&in_batches, ROOM, now, |_| None);
        assert_eq!(lane.drain().collect::<Vec<_>>(), [20, 21, 22]);
    }

    #[test]
    fn a_fast_endpoint_keeps_its_whole_window_and_a_flood_only_a_share() {
        let (rules, mut now) = (policy(64), Instant::now());
        let mut lane = Lane::new(&rules, now);
        (0..1000).for_each(|n| lane.push(n, now));
        // 64 at a time, 2 ms each: 32,000 a second.
        while let Some((_, turn)) = start(&mut lane, &rules, now) {
            now += ms(2) / 64;
            lane.finish(turn, WORKS, &rules, now);
            lane.push(0, now);
            assert!(lane.depart(&rules, ROOM, now, |_| None).is_empty());
            if now > Instant::now() + ms(1000) {
                break;
            }
        }
        // 500 a second: a second's worth would be 500, but there is only a quarter of 400 left.
        let mut lane = Lane::new(&rules, now);
        for _ in 0..200 {
            lane.push(0, now);
            let (_, turn) = start(&mut lane, &rules, now).unwrap();
            lane.finish(turn, WORKS, &rules, now + ms(128));
        }
        (0..600).for_each(|n| lane.push(n, now));
        lane.depart(&rules, Room { free: 400, ..ROOM }, now + ms(101), |_| None);
        assert_eq!(lane.line.len(), 100);
    }

    #[test]
    fn a_rate_is_kept_and_the_rest_leaves_with_turns_at_that_rate() {
        let now = Instant::now();
        let rate = Rate { requests: NonZeroU32::new(10).unwrap(), per: Duration::from_secs(1) };
        let rules = DeliveryPolicy { rate: Some(rate), ..policy(16) };
        let mut lane = Lane::new(&rules, now);
        (0..100).for_each(|n| lane.push(n, now));
        while let Some((_, turn)) = start(&mut lane, &rules, now) {
            lane.finish(turn, WORKS, &rules, now);
        }
        assert!(matches!(lane.next(&rules, ROOM.window, now, light), Next::Later(at) if at > now && at <= now + ms(101)));
        let left = lane.depart(&rules, ROOM, now + ms(100), |_| None);
        assert_eq!(lane.line.len(), 10, "a second's worth stays");
        let (first, last) = (left[0].need.wait, left[left.len() - 1].need.wait);
        assert!((ms(1000)..=ms(1200)).contains(&first), "{first:?}");
        assert!((ms(8500)..=ms(10_000)).contains(&last), "{last:?}");
    }

    #[test]
    fn an_open_circuit_sends_everything_away_until_one_probe_has_found_out() {
        let (rules, now) = (policy(4), Instant::now());
        let mut lane = Lane::new(&rules, now);
        let mut opened = None;
        for n in 0..10 {
            lane.push(n, now);
            let (_, turn) = start(&mut lane, &rules, now).unwrap();
            opened = lane.finish(turn, FAILS, &rules, now).or(opened);
        }
        let Some(Change::Opened { wait, .. }) = opened else { panic!("{opened:?}") };
        (0..50).for_each(|n| lane.push(n, now));
        assert!(start(&mut lane, &rules, now).is_none() && lane.is_crowded(&rules, ROOM.shortest, now));
        let left = lane.depart(&rules, ROOM, now, |_| None);
        assert!(left.len() == 50 && left.iter().all(|departure| departure.cause == Cause::Shut && departure.need.wait >= wait));
        assert!(!lane.is_forgettable(now + ms(3_600_000)), "it is remembered that nobody answered");
        let later = now + wait + ms(1);
        (0..50).for_each(|n| lane.push(n, later));
        let (work, turn) = start(&mut lane, &rules, later).unwrap();
        assert!(turn.is_probe() && work == [0] && start(&mut lane, &rules, later).is_none());
        assert_eq!(lane.depart(&rules, ROOM, later, |_| None).len(), 45, "as many as may start stay");
        assert!(matches!(lane.finish(turn, WORKS, &rules, later), Some(Change::Closed { .. })));
        assert!(start(&mut lane, &rules, later).is_some());
    }

    #[test]
    fn a_pause_sends_everything_away_until_it_is_over_or_the_configuration_changes() {
        let (rules, now) = (policy(4), Instant::now());
        let mut lane = Lane::new(&rules, now);
        lane.pause(now + ms(90_000));
        lane.push(1, now);
        assert!(start(&mut lane, &rules, now).is_none() && lane.is_crowded(&rules, ROOM.shortest, now) && !lane.is_forgettable(now));
        let left = lane.depart(&rules, ROOM, now, |_| None);
        assert_eq!((left[0].cause, left[0].need.wait), (Cause::Paused, PAUSED));
        assert!(!lane.end_pause(now + ms(89_999)) && lane.end_pause(now + ms(90_000)));
        lane.pause(now + ms(90_000));
        assert!(lane.renew(&rules, now).was_paused);
        lane.push(2, now);
        assert!(start(&mut lane, &rules, now).is_some());
    }

    #[test]
    fn who_comes_back_for_its_turn_goes_before_who_comes_for_the_first_time() {
        let (rules, now) = (policy(1), Instant::now());
        let mut lane = Lane::new(&rules, now);
        lane.push(0, now);
        let (_, _turn) = start(&mut lane, &rules, now).unwrap();
        // Odd ones have a turn. After a second of the first request, one more is worth a place.
        (1..=6).for_each(|n| lane.push(n, now));
        let turn_in = |n: &i32| (n % 2 == 1).then(|| ms(if *n == 5 { 700 } else { 0 }));
        let left = lane.depart(&rules, ROOM, now + ms(1000), turn_in);
        assert_eq!(left.iter().map(|one| one.work).collect::<Vec<_>>(), [3, 5, 2, 4, 6]);
        let waits: Vec<Duration> = left.iter().map(|one| one.need.wait).collect();
        assert!(waits[0] <= ms(1000) && waits[1] <= ms(1000), "a turn that was given stays: {waits:?}");
        assert!(waits[2] < waits[3] && waits[3] < waits[4], "{waits:?}");
        assert_eq!(lane.drain().collect::<Vec<_>>(), [1]);
    }

    /// What may happen to a lane.
    #[derive(Debug, Clone)]
    enum Step {
        Push(u8),
        Start,
        Finish { which: usize, charge: Option<bool> },
        Depart { free: usize },
        Pass { millis: u64 },
        Pause,
        Renew,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1_u8..40).prop_map(Step::Push),
            8 => Just(Step::Start),
            8 => (any::<usize>(), proptest::option::weighted(0.9, any::<bool>())).prop_map(|(which, charge)| Step::Finish { which, charge }),
            3 => (0_usize..1000).prop_map(|free| Step::Depart { free }),
            4 => (0_u64..20_000).prop_map(|millis| Step::Pass { millis }),
            1 => Just(Step::Pause),
            1 => Just(Step::Renew),
        ]
    }

    proptest! {
        /// Nothing is lost, doubled or served out of turn, whatever happens in whatever order; no limit is passed; and once all is
        /// quiet, a lane forgets everything but what is held against the endpoint.
        #[test]
        fn everything_that_is_pushed_is_served_once_in_order_or_leaves(
            steps in prop::collection::vec(step(), 1..200),
            max_in_flight in 1_u16..8,
            max_events in 1_u16..6,
        ) {
            let batch = BatchLimits { max_events: NonZeroU16::new(max_events).unwrap(), ..BatchLimits::default() };
            let rules = DeliveryPolicy { batch, ..policy(max_in_flight) };
            let mut now = Instant::now();
            let mut lane = Lane::new(&rules, now);
            let (mut model, mut pushed) = (VecDeque::new(), 0_u32);
            let (mut turns, mut renewals) = (Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Push(count) => (0..count).for_each(|_| {
                        lane.push(pushed, now);
                        model.push_back(pushed);
                        pushed += 1;
                    }),
                    Step::Start => if let Some((work, turn)) = start(&mut lane, &rules, now) {
                        prop_assert!(!work.is_empty() && work.len() <= usize::from(max_events));
                        prop_assert!(work.iter().all(|one| model.pop_front() == Some(*one)), "order of arrival");
                        prop_assert!(!turn.is_probe() || work.len() == 1);
                        let probes = turns.iter().filter(|(_, since)| *since == renewals).filter(|(turn, _): &&(Turn, u32)| turn.is_probe()).count();
                        prop_assert!(!turn.is_probe() || probes == 0, "one probe at a time");
                        turns.push((turn, renewals));
                    },
                    Step::Finish { which, charge } => if !turns.is_empty() {
                        let (turn, _) = turns.swap_remove(which % turns.len());
                        let charge = charge.map(|works| if works { Charge::Works } else { Charge::Fails });
                        lane.finish(turn, Ending { charge, dice: 0.3 }, &rules, now);
                    },
                    Step::Depart { free } => {
                        let left = lane.depart(&rules, Room { free, ..ROOM }, now, |_| None);
                        let stays = model.len() - left.len();
                        let newest = model.split_off(stays);
                        prop_assert!(left.iter().map(|one| one.work).eq(newest), "the newest leave, in order");
                    }
                    Step::Pass { millis } => now += ms(millis),
                    Step::Pause => _ = lane.pause(now + ms(5000)),
                    Step::Renew => {
                        lane.renew(&rules, now);
                        renewals += 1;
                    }
                }
                prop_assert!(turns.len() <= usize::from(max_in_flight));
                prop_assert_eq!((lane.line.len(), usize::from(lane.service.in_flight())), (model.len(), turns.len()));
            }
        }
    }
}
