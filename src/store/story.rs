//! What became of an event, as it is told: its entries in the order of time, and where each of its deliveries stands.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::time::Timestamp;

/// Everything that the log knows of one event.
#[derive(Debug, Serialize, ToSchema)]
pub struct Story {
    /// The event's id; of a message that was no event, its AMQP `message_id`.
    pub event_id: String,
    /// Whose it is; empty where the message was no event.
    pub integrator: String,
    /// What it is about; empty where the message was no event.
    pub topic: String,
    /// What it is found by, as `name=value`; none where they are stored hashed.
    pub keys: Vec<String>,
    /// What happened, the oldest first.
    pub lines: Vec<Line>,
    /// There are older lines than these. Of one event the newest 2,000 are told, of all events of an answer 5,000, but of each 50 at least: to have more of one,
    /// ask for it alone, by its id and its integrator.
    pub is_cut: bool,
    /// Where each delivery stands, by endpoint, as far as these lines tell.
    pub deliveries: Vec<Delivery>,
}

/// One thing that happened to an event.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Line {
    /// When it was recorded: of an attempt, its end. RFC 3339.
    pub at: String,
    /// `attempt`, `waits`, `skipped`, `dead` or `rejected`.
    pub what: String,
    /// Who is, or is not, told; none where it is about the whole event.
    pub endpoint: Option<String>,
    /// The message's id at the endpoint.
    pub webhook_id: Option<String>,
    /// The number of this attempt, or of those made so far.
    pub attempt: Option<i64>,
    /// Events in the request.
    pub events: Option<i64>,
    /// What follows from an attempt: `delivered`, `retry` or `dead`.
    pub verdict: Option<String>,
    /// Why it waits, was skipped, given up or rejected.
    pub reason: Option<String>,
    /// The status of the answer.
    pub status: Option<i64>,
    /// Why the attempt failed.
    pub error: Option<String>,
    /// How long the request took, in milliseconds.
    pub took_ms: Option<i64>,
    /// Bytes of its body.
    pub request_bytes: Option<i64>,
    /// When it is planned to go on. RFC 3339.
    pub due_at: Option<String>,
    /// When an operator replayed the event last. RFC 3339.
    pub replayed_at: Option<String>,
    /// The worker that recorded it.
    pub worker: String,
}

impl Line {
    /// What happened, in words.
    #[must_use]
    pub fn happened(&self) -> String {
        let attempt = self.attempt.unwrap_or_default();
        let reason = self.reason.as_deref().unwrap_or("?");
        let due = self.due_at.as_deref().map(|due_at| format!(", next at {due_at}")).unwrap_or_default();
        match self.what.as_str() {
            "attempt" => {
                let answer = match (&self.error, self.status) {
                    (Some(error), _) => error.clone(),
                    (None, Some(status)) => format!("answered {status}"),
                    (None, None) => "no answer".to_owned(),
                };
                let company =
                    self.events.filter(|events| *events > 1).map(|events| format!(", with {} others", events - 1)).unwrap_or_default();
                let replayed = self.replayed_at.as_deref().map(|at| format!(" (replayed at {at})")).unwrap_or_default();
                let verdict = match self.verdict.as_deref() {
                    Some("delivered") => "delivered".to_owned(),
                    Some("dead") => format!("given up: {reason}"),
                    _ => "is tried again".to_owned(),
                };
                let took = self.took_ms.unwrap_or_default();
                format!("attempt {attempt}{replayed}: {answer} in {took} ms{company}; {verdict}{due}")
            }
            "waits" => format!("waits ({}), {attempt} attempts so far{due}", cause_in_words(reason)),
            "skipped" => format!("is not told ({reason})"),
            "dead" => format!("among the dead letters ({reason}) after {attempt} attempts"),
            "rejected" => format!("among the rejected ({reason})"),
            other => other.to_owned(),
        }
    }
}

/// Why something waits: its code, and what that means.
#[must_use]
pub fn cause_in_words(cause: &str) -> String {
    let meaning = match cause {
        "retry" => "an attempt failed",
        "configuration" => "nobody by this name is configured",
        "parked" => "its endpoint has enough to do",
        "circuit" => "its endpoint keeps failing",
        "paused" => "its endpoint answered 410",
        "held" => "an operator has paused its endpoint",
        "stopping" => "its worker stopped",
        _ => return cause.to_owned(),
    };
    format!("{cause}: {meaning}")
}

/// Where one delivery stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Delivery {
    /// The endpoint; none where the event has not come as far as its endpoints.
    pub endpoint: Option<String>,
    /// Where it stands.
    #[serde(flatten)]
    pub state: State,
    /// The id of its latest message, which the integrator knows it by.
    pub webhook_id: Option<String>,
    /// When it was delivered before, where it stands elsewhere since: told again after a crash, or replayed.
    pub delivered_before: Option<String>,
}

/// Where a delivery stands. Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// The endpoint has it.
    Delivered {
        /// Since when.
        at: String,
        /// By which attempt.
        attempt: i64,
        /// What it answered.
        status: i64,
    },
    /// It is tried again, or looked at again.
    Waiting {
        /// Why: `retry`, or why it has not been tried.
        cause: String,
        /// Since when, as far as is told.
        since: String,
        /// When; if that is past, it is on its way, or nobody works.
        due_at: Option<String>,
        /// How long that is past, in seconds.
        overdue_s: u64,
    },
    /// It is among the dead letters.
    Dead {
        /// Since when.
        at: String,
        /// Why.
        reason: String,
    },
    /// It is among the rejected.
    Rejected {
        /// Since when.
        at: String,
        /// Why.
        reason: String,
    },
    /// The endpoint is not told, on purpose.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// Where each delivery of an event stands, by its lines in the order of time.
#[must_use]
pub fn deliveries(lines: &[Line], now: Timestamp) -> Vec<Delivery> {
    let mut found: Vec<Delivery> = Vec::new();
    for line in lines {
        let state = state(line, now);
        match found.iter_mut().find(|delivery| delivery.endpoint == line.endpoint) {
            Some(known) => {
                if let State::Delivered { at, .. } = &known.state {
                    known.delivered_before = Some(at.clone());
                }
                known.state = state.after(&known.state);
                known.webhook_id = line.webhook_id.clone().or(known.webhook_id.take());
            }
            None => {
                let (endpoint, webhook_id) = (line.endpoint.clone(), line.webhook_id.clone());
                found.push(Delivery { endpoint, state, webhook_id, delivered_before: None });
            }
        }
    }
    // The event as a whole waited for its configuration; since then it has come to its endpoints.
    if found.len() > 1 && lines.last().is_some_and(|line| line.endpoint.is_some()) {
        found.retain(|delivery| delivery.endpoint.is_some());
    }
    found
}

impl State {
    /// This state as one that follows another: who waits for the same reason has done so since then.
    fn after(mut self, before: &Self) -> Self {
        if let (Self::Waiting { cause, since, .. }, Self::Waiting { cause: same, since: earlier, .. }) = (&mut self, before)
            && cause == same
        {
            since.clone_from(earlier);
        }
        self
    }
}

fn state(line: &Line, now: Timestamp) -> State {
    let (at, reason) = (line.at.clone(), line.reason.clone().unwrap_or_default());
    match (line.what.as_str(), line.verdict.as_deref()) {
        ("attempt", Some("delivered")) => {
            State::Delivered { at, attempt: line.attempt.unwrap_or_default(), status: line.status.unwrap_or_default() }
        }
        // What follows is its dead letter, confirmed; it may not have come as far, but nothing else can follow.
        ("attempt", Some("dead")) | ("dead", _) => State::Dead { at, reason },
        ("rejected", _) => State::Rejected { at, reason },
        ("skipped", _) => State::Skipped { reason },
        (what, _) => {
            let past = line.due_at.as_deref().and_then(Timestamp::parse).map(|due_at| now.since(due_at));
            let cause = if what == "attempt" { "retry".to_owned() } else { reason };
            State::Waiting { cause, since: at, due_at: line.due_at.clone(), overdue_s: past.map_or(0, |past| past.as_secs()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(what: &str, endpoint: Option<&str>) -> Line {
        Line {
            at: "2026-01-01T00:00:00.000Z".to_owned(),
            what: what.to_owned(),
            endpoint: endpoint.map(str::to_owned),
            webhook_id: None,
            attempt: Some(1),
            events: None,
            verdict: None,
            reason: Some("because".to_owned()),
            status: None,
            error: None,
            took_ms: None,
            request_bytes: None,
            due_at: None,
            replayed_at: None,
            worker: "w".to_owned(),
        }
    }

    fn attempt(verdict: &str, due_at: Option<&str>) -> Line {
        let (verdict, due_at) = (Some(verdict.to_owned()), due_at.map(str::to_owned));
        Line { verdict, due_at, status: Some(200), ..line("attempt", Some("main")) }
    }

    fn now() -> Timestamp {
        Timestamp::parse("2026-01-01T00:01:00Z").unwrap()
    }

    fn states(lines: &[Line]) -> Vec<State> {
        deliveries(lines, now()).into_iter().map(|delivery| delivery.state).collect()
    }

    #[test]
    fn the_last_line_of_an_endpoint_says_where_its_delivery_stands() {
        let at = || "2026-01-01T00:00:00.000Z".to_owned();
        assert_eq!(states(&[attempt("retry", None), attempt("delivered", None)]), [State::Delivered { at: at(), attempt: 1, status: 200 }]);
        let retry = attempt("retry", Some("2026-01-01T00:00:20Z"));
        let due_at = retry.due_at.clone();
        assert_eq!(states(&[retry]), [State::Waiting { cause: "retry".to_owned(), since: at(), due_at, overdue_s: 40 }]);
        let dead = State::Dead { at: at(), reason: "because".to_owned() };
        assert_eq!(states(&[attempt("dead", None), line("dead", Some("main"))]), std::slice::from_ref(&dead));
        assert_eq!(states(&[attempt("dead", None)]), [dead]);
        let (skipped, other) = (line("skipped", Some("other")), attempt("delivered", None));
        assert_eq!(states(&[skipped, other]).first(), Some(&State::Skipped { reason: "because".to_owned() }));
    }

    #[test]
    fn what_was_delivered_and_is_told_again_says_so() {
        let lines = [attempt("delivered", None), attempt("retry", Some("2026-01-01T00:02:00Z"))];
        let [delivery] = &deliveries(&lines, now())[..] else { panic!("one delivery") };
        assert_eq!(delivery.delivered_before.as_deref(), Some("2026-01-01T00:00:00.000Z"));
        assert!(matches!(&delivery.state, State::Waiting { overdue_s: 0, .. }));
    }

    #[test]
    fn an_event_that_waited_for_its_configuration_stands_where_its_endpoints_stand() {
        let lines = [line("waits", None), attempt("delivered", None)];
        assert!(matches!(states(&lines)[..], [State::Delivered { .. }]));
        assert!(matches!(states(&lines[..1])[..], [State::Waiting { .. }]));
    }
}
