//! What follows: the one place where the fate of a delivery is decided. Log, metric, broker and dead letter all consume
//! the value that comes out here.
//!
//! ```text
//!                        ┌────────────────────────────── wait (ladder) ◀─┐
//!                        ▼                                               │ Retry
//!  event ──▶ routed ──▶ attempt ──▶ Reply ──▶ decide ──▶ Delivered       │
//!              │                                 ├───────────────────────┘
//!              │                                 └──▶ Dead: exhausted, expired, gone
//!              ├──▶ no turn at the endpoint ──▶ wait, or Dead: expired (`park`)
//!              └──▶ unknown integrator or endpoint ──▶ wait, then rejected or Dead: endpoint_removed
//! ```

use std::num::NonZeroU16;
use std::time::Duration;

use super::batch::{halved, may_lie_in_one_member};
use super::dead::DeadReason;
use super::history::History;
use super::ladder::{Ladder, Rung};
use super::names::EndpointId;
use super::reply::{Outcome, Reply};
use super::retry::{RetryPolicy, Window, ceil};
use super::time::Timestamp;

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint has it.
    Delivered,
    /// Try again after a wait.
    Retry(Wait),
    /// Give up; the delivery goes to the dead letters.
    Dead(DeadReason),
}

impl Verdict {
    /// The name in logs and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retry(_) => "retry",
            Self::Dead(_) => "dead",
        }
    }
}

/// A stay in the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The queue to wait in.
    pub rung: Rung,
    /// When the wait ends.
    pub due_at: Timestamp,
    /// When the message comes out of that queue: sooner, where the ladder has no rung as long as the wait.
    pub out_at: Timestamp,
    /// Set when the ladder has no rung as long as the wait: whoever gets the message before this time puts it back.
    pub hold_until: Option<Timestamp>,
}

impl Wait {
    /// The wait from `now` on, within the window as far as the ladder has a rung there and never longer than `limit`; drawn
    /// from the window where that lies beyond the ladder's end.
    fn within(ladder: &Ladder, window: Window, limit: Duration, now: Timestamp, dice: f64) -> Self {
        if window.earliest > ladder.longest() {
            let drawn = window.earliest + window.latest.saturating_sub(window.earliest).mul_f64(dice.clamp(0.0, 1.0));
            return Self::at_least(ladder, drawn, now);
        }
        Self::in_one_hop(ladder.between(window.earliest, window.latest, limit, dice), now)
    }

    /// The wait from `now` on for at least `delay`.
    #[must_use]
    pub fn at_least(ladder: &Ladder, delay: Duration, now: Timestamp) -> Self {
        let rung = ladder.at_least(delay);
        let in_one_hop = rung.delay() >= delay;
        let due_at = now.plus(rung.delay().max(delay));
        Self { rung, due_at, out_at: now.plus(rung.delay()), hold_until: (!in_one_hop).then_some(due_at) }
    }

    /// The wait from `now` on for at most `delay`, as far as the ladder has one so short.
    #[must_use]
    pub fn at_most(ladder: &Ladder, delay: Duration, now: Timestamp) -> Self {
        Self::in_one_hop(ladder.at_most(delay), now)
    }

    fn in_one_hop(rung: Rung, now: Timestamp) -> Self {
        let due_at = now.plus(rung.delay());
        Self { rung, due_at, out_at: due_at, hold_until: None }
    }
}

/// The rules of one endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// When to try again and when to stop.
    pub policy: &'a RetryPolicy,
    /// The waits that exist.
    pub ladder: &'a Ladder,
}

/// An attempt that has been made.
#[derive(Debug, Clone, Copy)]
pub struct Tried<'a> {
    /// The endpoint that was called.
    pub endpoint: &'a EndpointId,
    /// When.
    pub started_at: Timestamp,
    /// So many deliveries shared the request.
    pub members: NonZeroU16,
    /// What came of it.
    pub reply: &'a Reply,
}

/// What follows an attempt for one delivery, and what is known of it from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What follows.
    pub verdict: Verdict,
    /// The history with the attempt in it, for the copy.
    pub history: History,
}

/// Decides what follows an attempt, for each delivery that shared it. `before` does not include that attempt; `dice` is 0
/// included to 1 excluded.
///
/// Only a 2xx is a delivery, and a 410 is final. Everything else is tried again after the schedule's wait, on 429 and
/// 503 not before the answer's `Retry-After`, until the policy's attempts or age are used up.
///
/// When several shared a request that failed for a reason that may lie in one of them, each is tried again in a request of at
/// most half the size. None of them is given up for what a neighbour may have done: who has no attempt or no time left is
/// tried once more, alone. Each draws its own wait; that members of one request come back at different times only
/// helps to tell them apart.
#[must_use]
pub fn decide(before: &History, tried: &Tried<'_>, rules: Rules<'_>, now: Timestamp, dice: f64) -> Decision {
    let mut history = before.attempted(tried.endpoint, tried.started_at, tried.reply);
    let mut verdict = verdict_alone(&history, tried.reply, rules, now, dice);
    if tried.members > NonZeroU16::MIN && may_lie_in_one_member(tried.reply) {
        history.batch_limit = Some(halved(tried.members, before.batch_limit));
        if let Verdict::Dead(_) = verdict {
            history.batch_limit = Some(NonZeroU16::MIN);
            verdict = Verdict::Retry(last_wait(&history, tried.reply, rules, now, dice));
        }
    }
    Decision { verdict, history }
}

/// What follows for a delivery that had the request to itself. `history` includes the attempt.
fn verdict_alone(history: &History, reply: &Reply, rules: Rules<'_>, now: Timestamp, dice: f64) -> Verdict {
    if reply.is_success() {
        return Verdict::Delivered;
    }
    if reply.is_gone() {
        return Verdict::Dead(DeadReason::Gone);
    }
    if rules.policy.max_attempts.is_some_and(|limit| history.attempts >= limit) {
        return Verdict::Dead(DeadReason::Exhausted);
    }
    let wait = scheduled(history, reply, rules, now, dice);
    if is_too_late(wait, history, rules.policy) {
        return Verdict::Dead(DeadReason::Expired);
    }
    Verdict::Retry(wait)
}

/// The wait before the one attempt more of a delivery that would be given up otherwise: the schedule's, or where that is too
/// late, the shortest that the endpoint allows.
fn last_wait(history: &History, reply: &Reply, rules: Rules<'_>, now: Timestamp, dice: f64) -> Wait {
    let wait = scheduled(history, reply, rules, now, dice);
    if is_too_late(wait, history, rules.policy) { Wait::at_least(rules.ladder, asked(reply, rules.policy, now), now) } else { wait }
}

fn scheduled(history: &History, reply: &Reply, rules: Rules<'_>, now: Timestamp, dice: f64) -> Wait {
    let (window, limit) = window(history, reply, rules.policy, now);
    Wait::within(rules.ladder, window, limit, now, dice)
}

fn is_too_late(wait: Wait, history: &History, policy: &RetryPolicy) -> bool {
    wait.due_at > history.age_counts_from().plus(policy.max_age)
}

/// For how long the endpoint asked to be left alone.
fn asked(reply: &Reply, policy: &RetryPolicy, now: Timestamp) -> Duration {
    match reply.outcome {
        Outcome::Answered { status: 429 | 503, retry_after: Some(retry_after) } => retry_after.wait(now).min(policy.max_retry_after),
        _ => Duration::ZERO,
    }
}

/// The schedule's window, moved to what the endpoint asked for where that is later, and what no wait may exceed. Jitter then
/// only adds.
fn window(history: &History, reply: &Reply, policy: &RetryPolicy, now: Timestamp) -> (Window, Duration) {
    let scheduled = policy.window_after(history.attempts.max(1));
    let asked = asked(reply, policy, now);
    if asked <= scheduled.earliest {
        return (scheduled, policy.max_delay);
    }
    let latest = scheduled.latest.max(ceil(asked, 1.0 + policy.jitter.clamp(0.0, 1.0)));
    (Window { earliest: asked, latest: latest.min(policy.max_retry_after) }, Duration::MAX)
}

/// What follows when nobody by the event's integrator or endpoint is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// The configuration may be on its way.
    Wait(Wait),
    /// It has been waited for long enough.
    GiveUp,
}

/// Waits as long again as it has waited so far, between one second's rung and one minute's, up to `patience` in all.
#[must_use]
pub fn decide_unknown(since: Timestamp, patience: Duration, ladder: &Ladder, now: Timestamp) -> Unknown {
    let waited = now.since(since);
    let left = patience.saturating_sub(waited);
    if left.is_zero() {
        return Unknown::GiveUp;
    }
    Unknown::Wait(Wait::at_least(ladder, waited.clamp(Duration::from_millis(1), Duration::from_secs(60)).min(left), now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::reply::{Failure, RetryAfter};

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    /// A past with so many attempts, the last of which is the one that is decided about.
    fn history(attempts: u32) -> History {
        History { attempts: attempts - 1, ..History::new(NOW) }
    }

    #[test]
    fn a_wait_may_end_at_the_last_moment_and_no_later() {
        let policy = RetryPolicy { max_age: Duration::from_secs(100), ..RetryPolicy::default() };
        let ladder = Ladder::try_new(Duration::from_secs(1), Duration::from_secs(100)).unwrap();
        let until = |seconds| Wait::at_least(&ladder, Duration::from_secs(seconds), NOW);
        let wait = until(50);
        // Its age is up when that wait ends.
        let received_at = Timestamp::from_millis(wait.due_at.millis() - 100_000);
        assert!(!is_too_late(wait, &History::new(received_at), &policy));
        assert!(is_too_late(wait, &History::new(Timestamp::from_millis(received_at.millis() - 1)), &policy));
    }

    #[test]
    fn jitter_adds_to_what_the_endpoint_asked_for() {
        let policy = RetryPolicy { jitter: 0.2, ..RetryPolicy::default() };
        let reply = Reply { outcome: Outcome::Answered { status: 429, retry_after: RetryAfter::parse("1000") }, took: Duration::ZERO };
        let (window, limit) = window(&history(2), &reply, &policy, NOW);
        assert_eq!((window.earliest, window.latest, limit), (Duration::from_secs(1000), Duration::from_secs(1200), Duration::MAX));
    }

    #[test]
    fn verdicts_have_names() {
        let wait = Wait::at_least(&Ladder::try_new(Duration::from_secs(1), Duration::from_secs(9)).unwrap(), Duration::ZERO, NOW);
        let names = [Verdict::Delivered, Verdict::Retry(wait), Verdict::Dead(DeadReason::Gone)].map(|verdict| verdict.as_str());
        assert_eq!(names, ["delivered", "retry", "dead"]);
    }

    fn after(history: &History, reply: &Reply, rules: Rules<'_>, dice: f64) -> Verdict {
        let endpoint = EndpointId::try_new("main").unwrap();
        let tried = Tried { endpoint: &endpoint, started_at: NOW, members: NonZeroU16::MIN, reply };
        decide(history, &tried, rules, NOW, dice).verdict
    }

    fn answered(status: u16, retry_after: Option<RetryAfter>) -> Reply {
        Reply { outcome: Outcome::Answered { status, retry_after }, took: Duration::from_millis(3) }
    }

    fn fate(history: &History, reply: &Reply, policy: &RetryPolicy) -> Verdict {
        let ladder = Ladder::try_new(Duration::from_secs(1), Duration::from_secs(6 * 3600)).unwrap();
        after(history, reply, Rules { policy, ladder: &ladder }, 0.5)
    }

    #[test]
    fn only_2xx_is_a_delivery_and_410_is_final_for_every_status() {
        for status in 0..=u16::from(u8::MAX) * 4 {
            let verdict = fate(&history(1), &answered(status, None), &RetryPolicy::default());
            match status {
                200..=299 => assert_eq!(verdict, Verdict::Delivered, "{status}"),
                410 => assert_eq!(verdict, Verdict::Dead(DeadReason::Gone)),
                _ => assert!(matches!(verdict, Verdict::Retry(_)), "{status}"),
            }
        }
        let timeout = Reply { outcome: Outcome::Failed(Failure::Timeout), took: Duration::from_secs(15) };
        assert!(matches!(fate(&history(1), &timeout, &RetryPolicy::default()), Verdict::Retry(_)));
    }

    #[test]
    fn retry_after_counts_on_429_and_503_and_never_comes_early() {
        for (status, at_least, at_most) in [(429, 120_000, 150_000), (503, 120_000, 150_000), (500, 800, 1200), (301, 800, 1200)] {
            let reply = answered(status, Some(RetryAfter::Delay(Duration::from_secs(120))));
            let Verdict::Retry(wait) = fate(&history(1), &reply, &RetryPolicy::default()) else { panic!("{status}") };
            let waited = wait.due_at.since(NOW);
            assert!((at_least..=at_most).contains(&waited.as_millis()), "{status}: {waited:?}");
        }
    }

    #[test]
    fn a_short_retry_after_does_not_shorten_the_schedule() {
        let reply = answered(503, Some(RetryAfter::Delay(Duration::ZERO)));
        let Verdict::Retry(wait) = fate(&history(10), &reply, &RetryPolicy::default()) else { panic!() };
        assert!(wait.due_at.since(NOW) >= Duration::from_secs(512 * 8 / 10));
    }

    #[test]
    fn a_wait_longer_than_the_ladder_is_held_until_it_is_over() {
        let day = Duration::from_secs(24 * 3600);
        let reply = answered(503, Some(RetryAfter::Delay(Duration::from_secs(u64::from(u32::MAX)))));
        let Verdict::Retry(wait) = fate(&history(1), &reply, &RetryPolicy::default()) else { panic!() };
        assert_eq!(wait.hold_until, Some(NOW.plus(day)));
        assert_eq!(wait.rung.delay(), Duration::from_secs(6 * 3600));
    }

    #[test]
    fn no_wait_of_the_schedule_is_longer_than_allowed_though_no_rung_fits() {
        let five_minutes = Duration::from_secs(300);
        let policy = RetryPolicy { max_delay: five_minutes, jitter: 0.0, ..RetryPolicy::default() };
        let Verdict::Retry(wait) = fate(&history(20), &answered(500, None), &policy) else { panic!() };
        let waited = wait.due_at.since(NOW);
        assert!(waited <= five_minutes && waited >= five_minutes.mul_f64(0.8), "{waited:?}");
    }

    #[test]
    fn a_schedule_beyond_the_ladder_is_still_spread() {
        let day = Duration::from_secs(24 * 3600);
        let policy = RetryPolicy { max_delay: day, ..RetryPolicy::default() };
        let ladder = Ladder::try_new(Duration::from_secs(1), Duration::from_secs(6 * 3600)).unwrap();
        let rules = Rules { policy: &policy, ladder: &ladder };
        let waits = [0.0, 0.5, 0.99].map(|dice| match after(&history(40), &answered(500, None), rules, dice) {
            Verdict::Retry(wait) => wait.due_at.since(NOW),
            other => panic!("{other:?}"),
        });
        assert!(waits[0] < waits[1] && waits[1] < waits[2] && waits[2] <= day, "{waits:?}");
    }

    #[test]
    fn a_replay_starts_the_age_again() {
        let old = History { received_at: Timestamp::from_millis(NOW.millis() - 100 * 3_600_000), ..history(1) };
        assert_eq!(fate(&old, &answered(500, None), &RetryPolicy::default()), Verdict::Dead(DeadReason::Expired));
        let replayed = History { replayed_at: Some(NOW), ..old };
        assert!(matches!(fate(&replayed, &answered(500, None), &RetryPolicy::default()), Verdict::Retry(_)));
    }

    #[test]
    fn dead_after_the_last_attempt_or_when_too_old() {
        let three = RetryPolicy { max_attempts: Some(3), ..RetryPolicy::default() };
        assert!(matches!(fate(&history(2), &answered(500, None), &three), Verdict::Retry(_)));
        assert_eq!(fate(&history(3), &answered(500, None), &three), Verdict::Dead(DeadReason::Exhausted));
        let old = History { received_at: Timestamp::from_millis(NOW.millis() - 72 * 3_600_000), ..history(1) };
        assert_eq!(fate(&old, &answered(500, None), &RetryPolicy::default()), Verdict::Dead(DeadReason::Expired));
    }

    /// What follows an attempt that so many shared.
    fn shared(before: &History, members: u16, reply: &Reply, policy: &RetryPolicy) -> Decision {
        let ladder = Ladder::try_new(Duration::from_secs(1), Duration::from_secs(6 * 3600)).unwrap();
        let endpoint = EndpointId::try_new("main").unwrap();
        let tried = Tried { endpoint: &endpoint, started_at: NOW, members: NonZeroU16::new(members).unwrap(), reply };
        decide(before, &tried, Rules { policy, ladder: &ladder }, NOW, 0.5)
    }

    fn limited_to(batch_limit: u16) -> History {
        History { batch_limit: NonZeroU16::new(batch_limit), ..History::new(NOW) }
    }

    #[test]
    fn members_of_a_refused_request_come_back_in_one_of_half_the_size() {
        let policy = RetryPolicy::default();
        for (before, members, status, expected) in
            [(0, 50, 422, 25), (0, 50, 401, 0), (7, 7, 500, 4), (3, 7, 500, 3), (3, 3, 429, 3), (0, 1, 400, 0), (1, 1, 400, 1)]
        {
            let decision = shared(&limited_to(before), members, &answered(status, None), &policy);
            assert!(matches!(decision.verdict, Verdict::Retry(_)), "{status}");
            assert_eq!(decision.history.batch_limit, NonZeroU16::new(expected), "{before} {members} {status}");
            assert_eq!((decision.history.attempts, decision.history.last_status), (1, Some(status)));
        }
        let delivered = shared(&limited_to(5), 5, &answered(204, None), &policy);
        assert_eq!((delivered.verdict, delivered.history.batch_limit), (Verdict::Delivered, NonZeroU16::new(5)));
        let gone = shared(&limited_to(0), 5, &answered(410, None), &policy);
        assert_eq!((gone.verdict, gone.history.batch_limit), (Verdict::Dead(DeadReason::Gone), None));
    }

    #[test]
    fn nobody_is_given_up_for_what_a_neighbour_may_have_done() {
        let two = RetryPolicy { max_attempts: Some(2), ..RetryPolicy::default() };
        let last = history(2);
        let once_more = shared(&last, 50, &answered(400, None), &two);
        let Verdict::Retry(wait) = once_more.verdict else { panic!("{:?}", once_more.verdict) };
        assert_eq!(once_more.history.batch_limit, Some(NonZeroU16::MIN));
        assert!((1600..=2400).contains(&wait.due_at.since(NOW).as_millis()), "the schedule's wait: {wait:?}");
        // Alone, or where the reason lies in the endpoint, it is given up as ever.
        assert_eq!(shared(&once_more.history, 1, &answered(400, None), &two).verdict, Verdict::Dead(DeadReason::Exhausted));
        for reply in [answered(401, None), Reply { outcome: Outcome::Failed(Failure::Connect), took: Duration::ZERO }] {
            assert_eq!(shared(&last, 50, &reply, &two).verdict, Verdict::Dead(DeadReason::Exhausted));
        }
    }

    #[test]
    fn who_is_too_old_is_tried_once_more_alone_and_soon_but_not_before_the_endpoint_allows() {
        let policy = RetryPolicy { max_age: Duration::from_secs(60), ..RetryPolicy::default() };
        let old = History { received_at: Timestamp::from_millis(NOW.millis() - 60_000), ..history(8) };
        let after = Some(RetryAfter::Delay(Duration::from_secs(120)));
        for (reply, expected) in [(answered(500, None), 1000), (answered(503, after), 128_000)] {
            let Decision { verdict: Verdict::Retry(wait), history } = shared(&old, 2, &reply, &policy) else { panic!("given up") };
            assert_eq!((wait.due_at.since(NOW).as_millis(), history.batch_limit), (expected, Some(NonZeroU16::MIN)));
            assert_eq!(shared(&history, 1, &reply, &policy).verdict, Verdict::Dead(DeadReason::Expired));
        }
    }

    #[test]
    fn the_unknown_waits_longer_and_longer_until_patience_ends() {
        let ladder = Ladder::try_new(Duration::from_secs(1), Duration::from_secs(6 * 3600)).unwrap();
        let patience = Duration::from_secs(600);
        let (mut now, mut waits) = (NOW, 0);
        while let Unknown::Wait(wait) = decide_unknown(NOW, patience, &ladder, now) {
            now = wait.due_at;
            waits += 1;
        }
        assert!((10..=20).contains(&waits), "{waits} hops");
        let waited = now.since(NOW);
        assert!(waited >= patience && waited <= patience + Duration::from_secs(15), "the last wait is rounded up to a rung: {waited:?}");
    }
}
