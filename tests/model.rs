//! A model of the whole worker around the pure core: queues, ladder, lanes and attempts on a clock of its own, with endpoints that fail
//! in every way, kills and reloads, by seed. Whatever happens, the promises hold; and a model with a fault built in is caught. Timers and
//! wake-ups are not in it: every lane is looked at after every step.
//!
//! `CALLBACKD_MODEL_SEEDS` says how many seeds are tried (2,000), `CALLBACKD_MODEL_SEED` tries one alone: a failure names it, and the
//! same seed fails in the same way.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use callbackd::domain::batch::Waiting;
use callbackd::domain::dead::DeadReason;
use callbackd::domain::decide::{Rules, Tried, Verdict, Wait, decide};
use callbackd::domain::history::History;
use callbackd::domain::ladder::Ladder;
use callbackd::domain::lane::{Departure, Ending, Lane, Next, Room, Turn};
use callbackd::domain::names::EndpointId;
use callbackd::domain::park::{Parking, decide_park};
use callbackd::domain::policy::{BatchLimits, DeliveryPolicy};
use callbackd::domain::reply::{Failure, Outcome, Reply, RetryAfter};
use callbackd::domain::retry::RetryPolicy;
use callbackd::domain::time::Timestamp;

const ENDPOINTS: usize = 3;
const PREFETCH: usize = 24;
const STEPS: usize = 40;
const LOOK: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_secs(3600);
/// After the last step, everything has come to its end within this time, or is stuck.
const PATIENCE: Duration = Duration::from_secs(8 * 3600);
const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// How an endpoint answers.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Fine { millis: u64 },
    Status(u16),
    Limited { seconds: u64 },
    Refuses,
    Hangs,
}

/// A fault that is built into the model to see it caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    AcknowledgesBeforeItCalls,
    AcknowledgesBeforeTheCopyIsConfirmed,
    ForgetsTheAttempts,
    ComesBackTooEarly,
    IgnoresTheHold,
    CountsAStayAsAnAttempt,
    TakesAFailureForSuccess,
    ForgetsTheLineOnReload,
    IgnoresThePlacesInFlight,
    ExpiresEarly,
    BuriesAsGone,
}

const FAULTS: [Fault; 11] = [
    Fault::AcknowledgesBeforeItCalls,
    Fault::AcknowledgesBeforeTheCopyIsConfirmed,
    Fault::ForgetsTheAttempts,
    Fault::ComesBackTooEarly,
    Fault::IgnoresTheHold,
    Fault::CountsAStayAsAnAttempt,
    Fault::TakesAFailureForSuccess,
    Fault::ForgetsTheLineOnReload,
    Fault::IgnoresThePlacesInFlight,
    Fault::ExpiresEarly,
    Fault::BuriesAsGone,
];

/// One event for its endpoint, as the broker has it.
#[derive(Debug, Clone)]
struct Message {
    event: usize,
    history: History,
    from_due: bool,
}

struct Flight {
    endpoint: usize,
    turn: Turn,
    members: Vec<Message>,
    started_at: Timestamp,
    ends: Duration,
    reply: Reply,
}

/// What is known of an event from outside the worker.
#[derive(Debug, Clone, Default)]
struct Account {
    endpoint: usize,
    poison: bool,
    published: Duration,
    told: u32,
    /// Kills while it was being told.
    excuses: u32,
    attempts: u32,
    not_before: Duration,
    /// It was told that the endpoint is gone.
    gone: bool,
    dead: Option<DeadReason>,
}

struct World {
    dice: fastrand::Rng,
    fault: Option<Fault>,
    epoch: Instant,
    now: Duration,
    ladder: Ladder,
    policies: Vec<DeliveryPolicy>,
    moods: [Mood; ENDPOINTS],
    work: VecDeque<Message>,
    due: VecDeque<Message>,
    waiting: BTreeMap<(Duration, u64), Message>,
    lanes: Vec<Lane<Message>>,
    flights: Vec<Flight>,
    in_hand: usize,
    number: u64,
    accounts: Vec<Account>,
}

type Broken = Result<(), String>;

fn broken(what: impl Into<String>) -> Broken {
    Err(what.into())
}

fn id(endpoint: usize) -> EndpointId {
    EndpointId::try_new(format!("e{endpoint}")).expect("a name")
}

impl World {
    fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let policy = |dice: &mut fastrand::Rng| DeliveryPolicy {
            max_in_flight: NonZeroU16::new(dice.u16(1..5)).expect("not zero"),
            batch: BatchLimits { max_events: NonZeroU16::new(dice.u16(1..5)).expect("not zero"), ..BatchLimits::default() },
            retry: RetryPolicy {
                max_attempts: dice.bool().then(|| dice.u32(2..8)),
                max_age: HOUR * dice.u32(1..4),
                max_delay: Duration::from_secs(600),
                max_retry_after: HOUR,
                ..RetryPolicy::default()
            },
            ..DeliveryPolicy::default()
        };
        let policies: Vec<DeliveryPolicy> = (0..ENDPOINTS).map(|_| policy(&mut dice)).collect();
        let epoch = Instant::now();
        Self {
            lanes: policies.iter().map(|policy| Lane::new(policy, epoch)).collect(),
            // Shorter than the longest waits, so that some have to be held.
            ladder: Ladder::try_new(Duration::from_secs(1), Duration::from_secs(if dice.bool() { 1800 } else { 60 })).expect("a ladder"),
            dice,
            fault,
            epoch,
            now: Duration::ZERO,
            policies,
            moods: [Mood::Fine { millis: 5 }; ENDPOINTS],
            work: VecDeque::new(),
            due: VecDeque::new(),
            waiting: BTreeMap::new(),
            flights: Vec::new(),
            in_hand: 0,
            number: 0,
            accounts: Vec::new(),
        }
    }

    fn instant(&self) -> Instant {
        self.epoch + self.now
    }

    fn wall(&self) -> Timestamp {
        START.plus(self.now)
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// One thing that happens from outside.
    fn step(&mut self) -> Broken {
        match self.dice.u32(0..20) {
            0..=6 => self.publish(),
            7..=11 => {
                let endpoint = self.dice.usize(0..ENDPOINTS);
                self.moods[endpoint] = self.mood();
            }
            12..=13 => self.kill(),
            14 => self.reload(),
            _ => {}
        }
        let longest = [200, 2_000, 30_000, 900_000][self.dice.usize(0..4)];
        let until = self.now + Duration::from_millis(self.dice.u64(1..longest));
        self.advance(until)
    }

    fn mood(&mut self) -> Mood {
        match self.dice.u32(0..9) {
            0..=2 => Mood::Fine { millis: [0, 5, 300, 4000][self.dice.usize(0..4)] },
            3..=5 => Mood::Status([500, 503, 400, 422, 401, 302, 410][self.dice.usize(0..7)]),
            6 => Mood::Limited { seconds: self.dice.u64(1..5000) },
            7 => Mood::Refuses,
            _ => Mood::Hangs,
        }
    }

    fn publish(&mut self) {
        for _ in 0..self.dice.usize(1..40) {
            let (endpoint, poison) = (self.dice.usize(0..ENDPOINTS), self.dice.u32(0..30) == 0);
            let event = self.accounts.len();
            self.accounts.push(Account { endpoint, poison, published: self.now, ..Account::default() });
            self.work.push_back(Message { event, history: History::new(self.wall()), from_due: false });
        }
    }

    /// The worker dies and another one starts: what was in its hands is delivered again.
    fn kill(&mut self) {
        let mut back: Vec<Message> = Vec::new();
        for flight in std::mem::take(&mut self.flights) {
            let heard = self.dice.bool();
            for message in flight.members {
                let account = &mut self.accounts[message.event];
                account.excuses += 1;
                account.told += u32::from(heard && flight.reply.is_success());
                if self.fault != Some(Fault::AcknowledgesBeforeItCalls) {
                    back.push(message);
                }
            }
        }
        let now = self.instant();
        for (endpoint, lane) in self.lanes.iter_mut().enumerate() {
            back.extend(lane.drain());
            *lane = Lane::new(&self.policies[endpoint], now);
        }
        back.sort_by_key(|message| std::cmp::Reverse(message.event));
        for message in back {
            let queue = if message.from_due { &mut self.due } else { &mut self.work };
            queue.push_front(message);
        }
        self.in_hand = 0;
    }

    /// The endpoints' configuration changes: what was held against them is forgotten, and nothing else.
    fn reload(&mut self) {
        let now = self.instant();
        for (endpoint, lane) in self.lanes.iter_mut().enumerate() {
            lane.renew(&self.policies[endpoint], now);
            if self.fault == Some(Fault::ForgetsTheLineOnReload) {
                self.in_hand -= lane.drain().count();
            }
        }
    }

    fn advance(&mut self, until: Duration) -> Broken {
        loop {
            self.deliver();
            let wake = self.pump()?;
            let flight = self.flights.iter().map(|flight| flight.ends).min();
            let due = self.waiting.first_key_value().map(|((at, _), _)| *at);
            let look = self.lanes.iter().any(Lane::has_line).then_some(self.now + LOOK);
            let Some(next) = [wake, flight, due, look].into_iter().flatten().min().filter(|next| *next <= until) else {
                self.now = until;
                return Ok(());
            };
            self.now = self.now.max(next);
            self.end_flights()?;
            self.end_waits();
        }
    }

    /// The broker hands out what the prefetch window has room for.
    fn deliver(&mut self) {
        while self.in_hand < 2 * PREFETCH {
            let queue = if self.dice.bool() && !self.due.is_empty() || self.work.is_empty() { &mut self.due } else { &mut self.work };
            let Some(message) = queue.pop_front() else { return };
            if let Some(left) = message.history.held_for(self.wall()).filter(|_| !self.has(Fault::IgnoresTheHold)) {
                let wait = Wait::at_least(&self.ladder, left, self.wall());
                self.put_away(message, wait);
                continue;
            }
            self.in_hand += 1;
            let (now, endpoint) = (self.instant(), self.accounts[message.event].endpoint);
            self.lanes[endpoint].push(message, now);
        }
    }

    /// Starts what may start and lets leave who has to; says when to look again.
    fn pump(&mut self) -> Result<Option<Duration>, String> {
        let mut wake: Option<Duration> = None;
        for endpoint in 0..ENDPOINTS {
            let (now, wall, mut policy) = (self.instant(), self.wall(), self.policies[endpoint]);
            if self.has(Fault::IgnoresThePlacesInFlight) {
                policy.max_in_flight = policy.max_in_flight.saturating_add(4);
            }
            loop {
                let look = |message: &Message| Waiting { bytes: 100, id_length: 8, batch_limit: message.history.batch_limit };
                match self.lanes[endpoint].next(&policy, PREFETCH, now, look) {
                    Next::Start(members, turn) => self.start(endpoint, members, turn)?,
                    Next::Later(at) => {
                        let at = at.saturating_duration_since(self.epoch).max(self.now + Duration::from_millis(1));
                        wake = Some(wake.map_or(at, |earlier: Duration| earlier.min(at)));
                        break;
                    }
                    Next::Nothing => break,
                }
            }
            let room = Room { window: PREFETCH, free: PREFETCH.saturating_sub(self.in_hand), shortest: self.ladder.shortest() };
            let turn_in = |message: &Message| message.history.turn_in(wall);
            for Departure { work, need, .. } in self.lanes[endpoint].depart(&self.policies[endpoint], room, now, turn_in) {
                self.in_hand -= 1;
                let mut history = work.history.at(&id(endpoint));
                match decide_park(&history, need, &self.policies[endpoint].retry, &self.ladder, wall) {
                    Parking::Wait(wait, turn_at) => {
                        history.attempts += u32::from(self.has(Fault::CountsAStayAsAnAttempt));
                        self.put_away(Message { history: history.making_room(turn_at), ..work }, wait);
                    }
                    Parking::Expired => self.bury(&work, DeadReason::Expired, Duration::ZERO)?,
                }
            }
        }
        Ok(wake)
    }

    fn start(&mut self, endpoint: usize, members: Vec<Message>, turn: Turn) -> Broken {
        let policy = self.policies[endpoint];
        for message in &members {
            let account = &mut self.accounts[message.event];
            account.attempts += 1;
            if self.now < account.not_before {
                return broken(format!(
                    "event {} is tried {:?} before its time: {:?}",
                    message.event,
                    account.not_before - self.now,
                    message.history
                ));
            }
            let limit = policy.retry.max_attempts.map_or(u32::MAX, |limit| limit + 1 + account.excuses);
            if account.attempts > limit {
                return broken(format!("event {} is tried {} times", message.event, account.attempts));
            }
        }
        let flights = self.flights.iter().filter(|flight| flight.endpoint == endpoint).count();
        if flights >= usize::from(policy.max_in_flight.get()) {
            return broken(format!("endpoint {endpoint} has {flights} requests and gets one more"));
        }
        let poison = members.iter().any(|message| self.accounts[message.event].poison);
        let (millis, outcome) = match self.moods[endpoint] {
            Mood::Fine { millis } if poison => (millis, Outcome::Answered { status: 422, retry_after: None }),
            Mood::Fine { millis } => (millis, Outcome::Answered { status: 200, retry_after: None }),
            Mood::Status(status) => (3, Outcome::Answered { status, retry_after: None }),
            Mood::Limited { seconds } => {
                (3, Outcome::Answered { status: 429, retry_after: Some(RetryAfter::Delay(Duration::from_secs(seconds))) })
            }
            Mood::Refuses => (1, Outcome::Failed(Failure::Connect)),
            Mood::Hangs => (15_000, Outcome::Failed(Failure::Timeout)),
        };
        let took = Duration::from_millis(millis);
        self.flights.push(Flight {
            endpoint,
            turn,
            members,
            started_at: self.wall(),
            ends: self.now + took,
            reply: Reply { outcome, took },
        });
        Ok(())
    }

    fn end_flights(&mut self) -> Broken {
        let now = self.now;
        let (over, on): (Vec<Flight>, Vec<Flight>) = std::mem::take(&mut self.flights).into_iter().partition(|flight| flight.ends <= now);
        self.flights = on;
        for Flight { endpoint, turn, members, started_at, reply, .. } in over {
            let count = NonZeroU16::new(u16::try_from(members.len()).expect("few")).expect("not none");
            for message in members {
                self.in_hand -= 1;
                self.settle(endpoint, message, (&reply, started_at, count))?;
            }
            let (policy, instant) = (self.policies[endpoint], self.instant());
            if reply.is_gone() {
                self.lanes[endpoint].pause(instant + policy.retry.max_age);
            }
            let ending = Ending { charge: Some(reply.charge()), dice: self.dice.f64() };
            self.lanes[endpoint].finish(turn, ending, &policy, instant);
        }
        for lane in &mut self.lanes {
            lane.end_pause(self.epoch + now);
        }
        Ok(())
    }

    fn settle(&mut self, endpoint: usize, message: Message, (reply, started_at, members): (&Reply, Timestamp, NonZeroU16)) -> Broken {
        let rules = Rules { policy: &self.policies[endpoint].retry, ladder: &self.ladder };
        let (wall, name) = (self.wall(), id(endpoint));
        let decision = decide(&message.history, &Tried { endpoint: &name, started_at, members, reply }, rules, wall, self.dice.f64());
        let mut history = decision.history;
        let asked = match reply.outcome {
            Outcome::Answered { status: 429 | 503, retry_after: Some(after) } => {
                after.wait(wall).min(self.policies[endpoint].retry.max_retry_after)
            }
            _ => Duration::ZERO,
        };
        self.accounts[message.event].gone |= reply.status() == Some(410);
        let verdict = match decision.verdict {
            Verdict::Retry(_) if self.has(Fault::ExpiresEarly) && history.attempts == 3 => Verdict::Dead(DeadReason::Expired),
            Verdict::Retry(_) if self.has(Fault::BuriesAsGone) && reply.status() == Some(401) => Verdict::Dead(DeadReason::Gone),
            verdict => verdict,
        };
        match verdict {
            Verdict::Delivered => {
                let account = &mut self.accounts[message.event];
                account.told += u32::from(reply.is_success());
                if account.told > 1 + account.excuses {
                    return broken(format!("event {} is told {} times with {} kills", message.event, account.told, account.excuses));
                }
            }
            Verdict::Retry(_) if self.has(Fault::TakesAFailureForSuccess) && reply.status() == Some(422) => {}
            Verdict::Retry(_) if self.has(Fault::AcknowledgesBeforeTheCopyIsConfirmed) && self.dice.u32(0..50) == 0 => {}
            Verdict::Retry(wait) => {
                let window = self.policies[endpoint].retry.window_after(history.attempts);
                let earliest = window.earliest.max(asked);
                let account = &mut self.accounts[message.event];
                // A member of a failed batch that has no time left is tried once more, alone, as soon as it may be.
                let is_last = self.now + window.latest.max(asked) > account.published + self.policies[endpoint].retry.max_age;
                let earliest = if is_last { asked } else { earliest };
                // The ladder's rungs are a factor of 1.22 apart at most.
                account.not_before = self.now + earliest.mul_f64(0.8).max(asked);
                if self.has(Fault::ForgetsTheAttempts) {
                    history.attempts = 0;
                }
                self.put_away(Message { history, ..message }, wait);
            }
            Verdict::Dead(reason) => {
                let latest = self.policies[endpoint].retry.window_after(history.attempts).latest.max(asked);
                self.bury(&Message { history, ..message }, reason, latest)?;
            }
        }
        Ok(())
    }

    fn put_away(&mut self, message: Message, wait: Wait) {
        self.number += 1;
        let stays = if self.has(Fault::ComesBackTooEarly) { wait.rung.delay() / 3 } else { wait.rung.delay() };
        let history = message.history.waiting(wait);
        self.waiting.insert((self.now + stays, self.number), Message { history, from_due: true, ..message });
    }

    fn end_waits(&mut self) {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= self.now) {
            self.due.push_back(entry.remove());
        }
    }

    /// Gives up a delivery whose next attempt would have been so long after now, at the earliest.
    fn bury(&mut self, message: &Message, reason: DeadReason, next: Duration) -> Broken {
        let account = &mut self.accounts[message.event];
        let policy = &self.policies[account.endpoint].retry;
        let is_due = match reason {
            DeadReason::Exhausted => policy.max_attempts.is_some_and(|limit| account.attempts >= limit),
            DeadReason::Expired => self.now + next.mul_f64(1.25) >= account.published + policy.max_age,
            DeadReason::Gone => account.gone,
            _ => false,
        };
        account.dead = Some(reason);
        if is_due { Ok(()) } else { broken(format!("event {} is given up as {reason:?} with {account:?}", message.event)) }
    }

    /// All endpoints work again: everything comes to its end, and every event has one.
    fn end(&mut self) -> Broken {
        self.moods = [Mood::Fine { millis: 5 }; ENDPOINTS];
        self.advance(self.now + PATIENCE)?;
        let left = self.work.len() + self.due.len() + self.waiting.len() + self.in_hand + self.flights.len();
        if left > 0 {
            return broken(format!("{left} messages are not settled after {PATIENCE:?}"));
        }
        match self.accounts.iter().enumerate().find(|(_, account)| account.told == 0 && account.dead.is_none()) {
            Some((event, account)) => broken(format!("event {event} is lost: {account:?}")),
            None => Ok(()),
        }
    }
}

fn run(seed: u64, fault: Option<Fault>) -> Broken {
    let mut world = World::new(seed, fault);
    for _ in 0..STEPS {
        world.step()?;
    }
    world.end()
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn whatever_happens_nothing_is_lost_early_or_told_twice_without_a_kill() {
    if let Some(seed) = from_environment("CALLBACKD_MODEL_SEED") {
        run(seed, None).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        return;
    }
    for seed in 0..from_environment("CALLBACKD_MODEL_SEEDS").unwrap_or(2_000) {
        run(seed, None).unwrap_or_else(|what| panic!("CALLBACKD_MODEL_SEED={seed}: {what}"));
    }
}

#[test]
fn every_fault_that_is_built_in_is_caught_within_a_thousand_seeds() {
    for fault in FAULTS {
        let caught = (0..1000).find_map(|seed| run(seed, Some(fault)).err().map(|what| (seed, what)));
        let (seed, what) = caught.unwrap_or_else(|| panic!("{fault:?} is not caught"));
        println!("{fault:?}: seed {seed}: {what}");
    }
}

#[test]
fn the_same_seed_does_the_same_again() {
    let of = |seed| {
        let mut world = World::new(seed, None);
        for _ in 0..STEPS {
            world.step().expect("no broken promise");
        }
        (world.now, world.accounts.iter().map(|account| (account.told, account.attempts)).collect::<Vec<_>>())
    };
    assert_eq!(of(17), of(17));
}
