//! The circuit breaker of one endpoint: when to leave it alone, for how long, and how it comes back.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::reply::Charge;

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
    /// The circuit was open, and its probe says nothing about the endpoint: it stays open for as long as at first.
    ProbeLost,
}

impl TripCause {
    /// The name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::FailureRate => "failure_rate",
            Self::Probe => "probe",
            Self::ProbeLost => "probe_lost",
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

/// What a circuit lets through at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Everything.
    Pass,
    /// One request, to see whether the endpoint is back: whoever sends it says so with [`Circuit::begin_probe`].
    Probe,
    /// Nothing.
    Shut {
        /// When to ask again; while a probe is out, its reply may come earlier.
        until: Instant,
    },
}

/// What a reply has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The circuit opened, or stays open after its probe.
    Opened {
        /// Why.
        cause: TripCause,
        /// Failures in a row; within the window where their rate is the cause.
        failures: u32,
        /// The time until the next probe.
        wait: Duration,
    },
    /// The circuit closed: a probe has found the endpoint at work.
    Closed {
        /// Since it first opened.
        open_for: Duration,
    },
}

/// What is known of an endpoint as a whole: closed while it works, open while it is left alone.
///
/// Closed, it counts replies. Open, it waits, then lets one probe through: a success closes it and forgets everything, a
/// failure doubles the wait. Replies to requests that were on their way when it opened change nothing, successes
/// included: where some always succeed (it opened by rate) one of them would close it at once, and the probe asks the same
/// question after a short wait anyway.
///
/// Time is an argument. One that stands still or goes back only makes waits longer.
#[derive(Debug, Clone, Default)]
pub struct Circuit {
    in_a_row: u32,
    /// When the latest of them was.
    last_failure: Option<Instant>,
    recent: Recent,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: Instant,
    /// What the next wait is twice of.
    step: Duration,
    /// The wait itself: the step, moved by the dice.
    wait: Duration,
    until: Instant,
    probing: bool,
}

impl Circuit {
    /// What may go to the endpoint now.
    #[must_use]
    pub fn gate(&self, now: Instant) -> Gate {
        match self.open {
            None => Gate::Pass,
            Some(open) if open.probing => Gate::Shut { until: after(now, open.wait) },
            Some(open) if open.until <= now => Gate::Probe,
            Some(open) => Gate::Shut { until: open.until },
        }
    }

    /// The one probe is on its way: the gate is shut until its reply is noted or it is abandoned. Nothing happens where
    /// the gate does not ask for a probe.
    pub fn begin_probe(&mut self, now: Instant) {
        if self.gate(now) == Gate::Probe
            && let Some(open) = &mut self.open
        {
            open.probing = true;
        }
    }

    /// The probe came to no reply, because of a stop or a lost connection: the next one may go at once.
    pub fn abandon_probe(&mut self, now: Instant) {
        if let Some(open) = &mut self.open
            && open.probing
        {
            open.probing = false;
            open.until = now;
        }
    }

    /// Takes in what a reply says about the endpoint; `probe` tells whether it answers the probe. Dice are in 0 to 1.
    pub fn note(&mut self, charge: Charge, probe: bool, policy: &CircuitPolicy, (now, dice): (Instant, f64)) -> Option<Change> {
        match self.open {
            None => self.count(charge, policy, (now, dice)),
            Some(open) if probe && open.probing => Some(self.judge_probe(open, charge, policy, (now, dice))),
            Some(_) => None,
        }
    }

    /// Whether everything may go to the endpoint.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.open.is_none()
    }

    /// Whether a new circuit would do as well: it is closed, and no failure counts any more.
    #[must_use]
    pub fn is_forgettable(&self, now: Instant) -> bool {
        self.is_closed() && self.in_a_row == 0 && !self.recent.has_failures(now)
    }

    /// Whether a probe is out.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.open.is_some_and(|open| open.probing)
    }

    /// How long it has not been closed; `None` while it is.
    #[must_use]
    pub fn open_for(&self, now: Instant) -> Option<Duration> {
        self.open.map(|open| now.saturating_duration_since(open.since))
    }

    /// When the next probe may go; `None` while the circuit is closed or a probe is out.
    #[must_use]
    pub fn next_probe(&self) -> Option<Instant> {
        self.open.filter(|open| !open.probing).map(|open| open.until)
    }

    fn count(&mut self, charge: Charge, policy: &CircuitPolicy, (now, dice): (Instant, f64)) -> Option<Change> {
        match charge {
            Charge::Unknown => return None,
            Charge::Works => self.in_a_row = 0,
            Charge::Fails => {
                // One event that fails again and again, with nothing else going on, says little about its endpoint.
                if self.last_failure.replace(now).is_none_or(|last| now.saturating_duration_since(last) > policy.window) {
                    self.in_a_row = 0;
                }
                self.in_a_row = self.in_a_row.saturating_add(1);
            }
        }
        self.recent.add(charge == Charge::Fails, policy.window, now);
        if charge == Charge::Works {
            return None;
        }
        let share = self.recent.sum();
        let (cause, failures) = if self.in_a_row >= policy.consecutive.get() {
            (TripCause::Consecutive, self.in_a_row)
        } else if share.attempts >= CircuitPolicy::LEAST_ATTEMPTS && share.of_failures() >= policy.failure_rate {
            (TripCause::FailureRate, share.failures)
        } else {
            return None;
        };
        self.open = Some(Open { since: now, step: policy.initial_wait, wait: Duration::ZERO, until: now, probing: false });
        Some(self.shut(cause, failures, (policy.initial_wait, policy.max_wait), (now, dice)))
    }

    fn judge_probe(&mut self, open: Open, charge: Charge, policy: &CircuitPolicy, (now, dice): (Instant, f64)) -> Change {
        let (cause, step) = match charge {
            Charge::Works => {
                *self = Self::default();
                return Change::Closed { open_for: now.saturating_duration_since(open.since) };
            }
            Charge::Fails => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                // The policy may have changed in the meantime.
                let step = open.step.saturating_mul(2).max(policy.initial_wait).min(policy.max_wait);
                self.open = Some(Open { step, ..open });
                (TripCause::Probe, step)
            }
            // Our own fault may last: at once would be in a circle.
            Charge::Unknown => (TripCause::ProbeLost, policy.initial_wait),
        };
        self.shut(cause, self.in_a_row, (step, policy.max_wait), (now, dice))
    }

    /// Leaves the endpoint alone from now on for a step, more or less.
    fn shut(&mut self, cause: TripCause, failures: u32, (step, longest): (Duration, Duration), (now, dice): (Instant, f64)) -> Change {
        let wait = jittered(step, longest, dice);
        if let Some(open) = &mut self.open {
            *open = Open { wait, until: after(now, wait), probing: false, ..*open };
        }
        Change::Opened { cause, failures, wait }
    }
}

/// A wait moved by up to a tenth of it, and never over the longest: endpoints behind one load balancer that failed together
/// are not probed in step. Where the longest leaves no room above, the room is below.
fn jittered(step: Duration, longest: Duration, dice: f64) -> Duration {
    let most = step.saturating_add(step / 10).min(longest);
    let least = most / 11 * 9;
    least + (most - least).mul_f64(dice.clamp(0.0, 1.0))
}

/// A time so long after another; where the clock has no such time, the other.
fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

/// The attempts of the latest while, in buckets that each stand for a tenth of the window: bounded, however many they are. What
/// leaves the window leaves it by the bucket.
#[derive(Debug, Clone, Default)]
struct Recent {
    buckets: [Share; Recent::BUCKETS],
    /// The bucket that is being filled.
    at: usize,
    /// When it began.
    began: Option<Instant>,
    /// How long it is filled.
    width: Duration,
}

/// Attempts, and how many of them failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    attempts: u32,
    failures: u32,
}

impl Recent {
    const BUCKETS: usize = 10;

    fn add(&mut self, failed: bool, window: Duration, now: Instant) {
        self.turn(now);
        // A new policy's width counts from here on; what is in the buckets already keeps its place.
        self.width = window / 10;
        let bucket = &mut self.buckets[self.at];
        bucket.attempts = bucket.attempts.saturating_add(1);
        bucket.failures = bucket.failures.saturating_add(u32::from(failed));
    }

    fn sum(&self) -> Share {
        self.buckets.iter().fold(Share::default(), |sum, bucket| Share {
            attempts: sum.attempts.saturating_add(bucket.attempts),
            failures: sum.failures.saturating_add(bucket.failures),
        })
    }

    fn has_failures(&self, now: Instant) -> bool {
        let is_over = self.began.is_none_or(|began| now.saturating_duration_since(began) >= self.width.saturating_mul(10));
        !is_over && self.buckets.iter().any(|bucket| bucket.failures > 0)
    }

    /// Goes on to the bucket of `now`. Time that goes back stays in the latest.
    fn turn(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let gone = now.saturating_duration_since(began);
        if gone < self.width {
            return;
        }
        if gone >= self.width.saturating_mul(10) {
            *self = Self { began: Some(now), ..Self::default() };
            return;
        }
        let mut began = began;
        while now.saturating_duration_since(began) >= self.width {
            self.at = (self.at + 1) % Self::BUCKETS;
            self.buckets[self.at] = Share::default();
            began += self.width;
        }
        self.began = Some(began);
    }
}

impl Share {
    /// The share of failures; no attempts have none.
    fn of_failures(self) -> f64 {
        f64::from(self.failures) / f64::from(self.attempts.max(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// In a row, never by rate.
    fn in_a_row(consecutive: u32) -> CircuitPolicy {
        CircuitPolicy { consecutive: NonZeroU32::new(consecutive).unwrap(), failure_rate: 2.0, ..CircuitPolicy::default() }
    }

    /// By rate, never in a row.
    fn by_rate(failure_rate: f64) -> CircuitPolicy {
        CircuitPolicy { consecutive: NonZeroU32::MAX, failure_rate, ..CircuitPolicy::default() }
    }

    /// A circuit that opened at a time, with dice in the middle: it waits exactly 5 s.
    fn opened(policy: &CircuitPolicy, now: Instant) -> Circuit {
        let mut circuit = Circuit::default();
        for _ in 0..policy.consecutive.get() {
            circuit.note(Charge::Fails, false, policy, (now, 0.5));
        }
        assert!(!circuit.is_closed());
        circuit
    }

    fn waits(change: Option<Change>) -> (TripCause, Duration) {
        let Some(Change::Opened { cause, wait, .. }) = change else { panic!("{change:?}") };
        // The integers of the jitter lose up to ten nanoseconds.
        (cause, Duration::from_millis(u64::try_from((wait + Duration::from_micros(1)).as_millis()).unwrap()))
    }

    #[test]
    fn failures_in_a_row_belong_together_within_the_window_alone() {
        let (policy, now) = (CircuitPolicy { window: 10 * SECOND, ..in_a_row(2) }, Instant::now());
        for (apart, opens) in [(Duration::from_secs(10), true), (Duration::from_millis(10_001), false)] {
            let mut circuit = Circuit::default();
            circuit.note(Charge::Fails, false, &policy, (now, 0.5));
            assert_eq!(circuit.note(Charge::Fails, false, &policy, (now + apart, 0.5)).is_some(), opens, "{apart:?}");
        }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten_a_tenth_of_it_at_a_time() {
        let (window, now, mut recent) = (10 * SECOND, Instant::now(), Recent::default());
        let sum = |recent: &Recent| (recent.sum().attempts, recent.sum().failures);
        recent.add(true, window, now);
        recent.add(true, window, now + Duration::from_millis(999));
        assert_eq!((sum(&recent), recent.at), ((2, 2), 0), "still in the first tenth");
        recent.add(false, window, now + SECOND);
        assert_eq!((sum(&recent), recent.at), ((3, 2), 1));
        recent.add(false, window, now + Duration::from_millis(1500));
        assert_eq!((sum(&recent), recent.at), ((4, 2), 1));
        recent.add(false, window, now + 9 * SECOND);
        assert_eq!((sum(&recent), recent.at), ((5, 2), 9));
        recent.add(false, window, now + 10 * SECOND);
        assert_eq!((sum(&recent), recent.at), ((4, 0), 0), "the first tenth is over");
        assert!(!recent.has_failures(now + 10 * SECOND));
        recent.add(true, window, now + 40 * SECOND);
        assert_eq!(sum(&recent), (1, 1), "all of it is over");
        assert!(recent.has_failures(now + 40 * SECOND));
        recent.add(false, window, now + 41 * SECOND);
        assert_eq!((sum(&recent), recent.at), ((2, 1), 1), "counted from there");
    }

    #[test]
    fn it_is_known_why_it_opened_and_for_how_long_it_has_been_open() {
        let causes = [TripCause::Consecutive, TripCause::FailureRate, TripCause::Probe, TripCause::ProbeLost];
        assert_eq!(causes.map(|cause| cause.as_str()), ["consecutive", "failure_rate", "probe", "probe_lost"]);
        let now = Instant::now();
        assert_eq!(opened(&in_a_row(3), now).open_for(now + 7 * SECOND), Some(7 * SECOND));
        assert_eq!(Circuit::default().open_for(now), None);
    }

    #[test]
    fn opens_on_so_many_failures_in_a_row_and_a_success_starts_the_count_again() {
        let (policy, now, mut circuit) = (in_a_row(3), Instant::now(), Circuit::default());
        let mut note = |charge| circuit.note(charge, false, &policy, (now, 0.5));
        for charge in [Charge::Fails, Charge::Fails, Charge::Works, Charge::Fails, Charge::Unknown, Charge::Fails] {
            assert_eq!(note(charge), None, "{charge:?}");
        }
        let change = note(Charge::Fails);
        assert!(matches!(change, Some(Change::Opened { failures: 3, .. })), "{change:?}");
        assert_eq!(waits(change), (TripCause::Consecutive, 5 * SECOND));
    }

    #[test]
    fn opens_when_enough_attempts_of_the_window_failed() {
        let (policy, now, mut circuit) = (by_rate(0.5), Instant::now(), Circuit::default());
        let note = |circuit: &mut Circuit, charge, after: u64| {
            circuit.note(charge, false, &policy, (now + SECOND * u32::try_from(after).unwrap(), 0.5))
        };
        for second in 0..19 {
            let charge = if second % 2 == 0 { Charge::Works } else { Charge::Fails };
            assert_eq!(note(&mut circuit, charge, second), None, "{second}");
        }
        let change = note(&mut circuit, Charge::Fails, 19);
        assert!(matches!(change, Some(Change::Opened { cause: TripCause::FailureRate, failures: 10, .. })), "{change:?}");
    }

    #[test]
    fn what_has_left_the_window_counts_no_more() {
        let (policy, now, mut circuit) = (by_rate(0.5), Instant::now(), Circuit::default());
        for _ in 0..19 {
            assert_eq!(circuit.note(Charge::Fails, false, &policy, (now, 0.5)), None);
        }
        assert!(!circuit.is_forgettable(now + 59 * SECOND));
        // One attempt a second from then on, of which one in three fails.
        for second in 60..600 {
            let charge = if second % 3 == 0 { Charge::Fails } else { Charge::Works };
            assert_eq!(circuit.note(charge, false, &policy, (now + SECOND * second, 0.5)), None, "{second}");
        }
    }

    #[test]
    fn lets_one_probe_through_whose_success_closes_it_and_forgets_everything() {
        let (policy, now) = (in_a_row(10), Instant::now());
        let mut circuit = opened(&policy, now);
        let due = circuit.next_probe().unwrap();
        assert_eq!(circuit.gate(now), Gate::Shut { until: due });
        circuit.begin_probe(now);
        assert_eq!((circuit.gate(due), circuit.next_probe()), (Gate::Probe, Some(due)), "the one before its time was none");
        circuit.begin_probe(due);
        assert!(matches!(circuit.gate(due), Gate::Shut { until } if until > due));
        assert_eq!(circuit.next_probe(), None);
        let change = circuit.note(Charge::Works, true, &policy, (due + SECOND, 0.5));
        assert_eq!(change, Some(Change::Closed { open_for: due + SECOND - now }));
        assert_eq!((circuit.gate(due), circuit.is_forgettable(due)), (Gate::Pass, true));
        assert_eq!(waits_after_probes(&mut opened(&policy, due), &policy, &[Charge::Fails]), [(TripCause::Probe, 10 * SECOND)]);
    }

    /// What follows from probes with these replies, each sent when it is due.
    fn waits_after_probes(circuit: &mut Circuit, policy: &CircuitPolicy, replies: &[Charge]) -> Vec<(TripCause, Duration)> {
        let probe = |charge: &Charge| {
            let due = circuit.next_probe().unwrap();
            circuit.begin_probe(due);
            waits(circuit.note(*charge, true, policy, (due, 0.5)))
        };
        replies.iter().map(probe).collect()
    }

    #[test]
    fn each_failed_probe_doubles_the_wait_up_to_the_longest() {
        let (policy, now) = (in_a_row(10), Instant::now());
        let waits = waits_after_probes(&mut opened(&policy, now), &policy, &[Charge::Fails; 9]);
        let seconds: Vec<u64> = waits.iter().map(|(_, wait)| wait.as_secs()).collect();
        // In the middle between nine elevenths of 15 min and all of it.
        assert_eq!(seconds, [10, 20, 40, 80, 160, 320, 640, 818, 818]);
    }

    #[test]
    fn a_probe_that_says_nothing_neither_closes_it_nor_doubles_the_wait() {
        let (policy, now) = (in_a_row(10), Instant::now());
        let replies = [Charge::Fails, Charge::Unknown, Charge::Unknown, Charge::Fails];
        let waits = waits_after_probes(&mut opened(&policy, now), &policy, &replies);
        let lost = (TripCause::ProbeLost, 5 * SECOND);
        assert_eq!(waits, [(TripCause::Probe, 10 * SECOND), lost, lost, (TripCause::Probe, 20 * SECOND)]);
    }

    #[test]
    fn an_abandoned_probe_is_made_again_at_once() {
        let (policy, now) = (in_a_row(10), Instant::now());
        let mut circuit = opened(&policy, now);
        let due = circuit.next_probe().unwrap();
        circuit.begin_probe(due);
        circuit.abandon_probe(due + SECOND);
        assert_eq!(circuit.gate(due + SECOND), Gate::Probe);
        assert_eq!(circuit.note(Charge::Works, true, &policy, (due, 0.5)), None, "the reply of the one that was abandoned");
    }

    #[test]
    fn replies_to_what_was_on_its_way_when_it_opened_change_nothing() {
        let (policy, now) = (in_a_row(10), Instant::now());
        let mut circuit = opened(&policy, now);
        let due = circuit.next_probe().unwrap();
        for at in [now, due] {
            for charge in [Charge::Works, Charge::Fails, Charge::Unknown] {
                assert_eq!(circuit.note(charge, false, &policy, (at, 0.5)), None, "{charge:?}");
            }
        }
        assert_eq!((circuit.next_probe(), circuit.gate(due)), (Some(due), Gate::Probe));
    }

    #[test]
    fn is_forgotten_only_when_no_failure_counts_any_more() {
        let (policy, now, mut circuit) = (in_a_row(10), Instant::now(), Circuit::default());
        assert!(circuit.is_forgettable(now));
        circuit.note(Charge::Works, false, &policy, (now, 0.5));
        assert!(circuit.is_forgettable(now));
        circuit.note(Charge::Fails, false, &policy, (now, 0.5));
        assert!(!circuit.is_forgettable(now + 1000 * SECOND), "the next failure is the second in a row, however late");
        circuit.note(Charge::Works, false, &policy, (now, 0.5));
        assert!(!circuit.is_forgettable(now + SECOND));
        assert!(circuit.is_forgettable(now + 60 * SECOND));
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Later(u64),
        Earlier(u64),
        Reply(Charge),
        Late(Charge),
        Abandon,
    }

    fn step() -> impl Strategy<Value = Step> {
        let charge = || prop_oneof![3 => Just(Charge::Works), 6 => Just(Charge::Fails), 1 => Just(Charge::Unknown)];
        prop_oneof![
            3 => (0..30_000_u64).prop_map(Step::Later),
            1 => (0..2_000_u64).prop_map(Step::Earlier),
            6 => charge().prop_map(Step::Reply),
            2 => charge().prop_map(Step::Late),
            1 => Just(Step::Abandon),
        ]
    }

    fn policies() -> impl Strategy<Value = CircuitPolicy> {
        (1..12_u32, 0.05..1.0_f64, 0..120_000_u64, 1..20_000_u64, 1..200_000_u64).prop_map(|(row, failure_rate, window, initial, max)| {
            CircuitPolicy {
                consecutive: NonZeroU32::new(row).unwrap(),
                failure_rate,
                window: Duration::from_millis(window),
                initial_wait: Duration::from_millis(initial),
                max_wait: Duration::from_millis(initial.max(max)),
            }
        })
    }

    proptest! {
        /// Against what must hold of any circuit: one probe at a time and none too early, each wait within its bounds, and
        /// nothing but a probe's success closes it.
        #[test]
        fn whatever_happens_the_endpoint_is_left_alone_as_long_as_was_said(
            policy in policies(),
            steps in prop::collection::vec(step(), 1..300),
            dice in 0.0..=1.0_f64,
        ) {
            let mut now = Instant::now() + Duration::from_secs(3600);
            let (mut circuit, mut row, mut expected, mut shut_until) = (Circuit::default(), 0_u32, policy.initial_wait, now);
            let mut last = None;
            for step in steps {
                // What the worker does: what the gate lets through is sent, a reply is that of the probe where one was sent.
                let is_probe = circuit.gate(now) == Gate::Probe;
                let was_closed = circuit.is_closed();
                prop_assert!(was_closed || !is_probe || shut_until <= now);
                let (charge, change) = match step {
                    Step::Later(millis) => { now += Duration::from_millis(millis); continue }
                    Step::Earlier(millis) => { now -= Duration::from_millis(millis); continue }
                    Step::Abandon => { circuit.begin_probe(now); circuit.abandon_probe(now); continue }
                    Step::Late(charge) => {
                        if !was_closed {
                            circuit.begin_probe(now);
                            let before = format!("{circuit:?}");
                            prop_assert_eq!(circuit.note(charge, false, &policy, (now, dice)), None);
                            prop_assert_eq!(format!("{circuit:?}"), before);
                            circuit.abandon_probe(now);
                        }
                        continue;
                    }
                    Step::Reply(charge) if was_closed || is_probe => {
                        circuit.begin_probe(now);
                        prop_assert_eq!(circuit.gate(now) == Gate::Pass, was_closed);
                        (charge, circuit.note(charge, is_probe, &policy, (now, dice)))
                    }
                    Step::Reply(_) => continue,
                };
                row = match charge {
                    Charge::Works => 0,
                    // One that comes long after the one before begins anew; while the circuit is open, each is a probe's.
                    Charge::Fails if was_closed && last.is_none_or(|last: Instant| now.saturating_duration_since(last) > policy.window) => 1,
                    Charge::Fails => row + 1,
                    Charge::Unknown => row,
                };
                if charge == Charge::Fails && was_closed {
                    last = Some(now);
                }
                match change {
                    Some(Change::Opened { cause, failures, wait }) => {
                        let step = match cause {
                            TripCause::Consecutive | TripCause::FailureRate => { expected = policy.initial_wait; expected }
                            TripCause::Probe => { expected = (expected * 2).min(policy.max_wait); expected }
                            TripCause::ProbeLost => policy.initial_wait,
                        };
                        prop_assert_eq!(was_closed, matches!(cause, TripCause::Consecutive | TripCause::FailureRate));
                        prop_assert!(cause != TripCause::Consecutive || (failures == row && row >= policy.consecutive.get()));
                        prop_assert!(cause != TripCause::FailureRate || failures > 0);
                        prop_assert!(wait <= policy.max_wait && wait <= step.mul_f64(1.11) && wait >= step.mul_f64(0.8), "{wait:?} for {step:?}");
                        prop_assert_eq!(circuit.gate(now), Gate::Shut { until: now + wait });
                        shut_until = now + wait;
                    }
                    Some(Change::Closed { .. }) => {
                        prop_assert!(is_probe && charge == Charge::Works && circuit.is_forgettable(now));
                        (row, last) = (0, None);
                    }
                    None => prop_assert!(circuit.is_closed() && row < policy.consecutive.get()),
                }
            }
        }
    }
}
