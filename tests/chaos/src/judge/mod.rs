//! The judge: reads the ledger and says what became of every event. Knows nothing of workers, brokers and queues but what was
//! written down.

mod tale;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::event::{Destiny, Event};
use crate::ledger::{Entry, Flaw, Record, Word};
use tale::{Struck, Tale};

/// Events of one kind of violation that are told with their history.
const TOLD: usize = 3;
/// Lines of a history.
const HISTORY: usize = 40;

/// What the workers were told to keep to.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The wait after the first attempt.
    pub initial: Duration,
    /// Each wait is so many times the one before.
    pub multiplier: f64,
    /// No longer than this.
    pub max_delay: Duration,
    /// Moved by up to this share.
    pub jitter: f64,
    /// Attempts of an event that is to be given up.
    pub max_attempts: u32,
    /// Back to delivering, at most this long after the broker accepts.
    pub recovery: Duration,
}

/// The numbers of a run. Events, where nothing else is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Confirmed by the broker, and not returned.
    pub published: u64,
    /// Answered with 2xx.
    pub delivered: u64,
    /// Among the dead letters.
    pub dead: u64,
    /// Among the rejected.
    pub rejected: u64,
    /// In another queue at the end.
    pub pending: u64,
    /// Published and nowhere.
    pub lost: u64,
    /// Answered with 2xx more than once.
    pub duplicated: u64,
    /// Messages and requests that nobody published.
    pub unexpected: u64,
    /// Requests at the wrong endpoint or with another's key.
    pub misdelivered: u64,
    /// Requests with another body than they must have.
    pub corrupted: u64,
    /// Requests without a good signature.
    pub badsig: u64,
    /// Delivered, though the publisher was not told that the broker has them.
    pub recovered: u64,

    /// Requests.
    pub requests: u64,
    /// 2xx beyond the first of an event, but those that the publisher made by publishing again.
    pub extra: u64,
    /// Copies beyond the first of an event among the dead letters or the rejected, but those that the publisher made.
    pub kept_extra: u64,
    /// The same by the publisher's doing, told or kept.
    pub extra_by_publisher: u64,
    /// Deliveries that may have been in flight where faults struck: the bound of `extra` and `kept_extra` together.
    pub bound: u64,
    /// Told or kept again though no fault was near.
    pub unexplained: u64,
    /// Attempts before their time.
    pub early: u64,
    /// Attempts beyond those allowed.
    pub over: u64,
    /// Given up though they had to be delivered, or delivered though they had to be given up.
    pub wrong_fate: u64,
    /// Delivered and among the dead letters.
    pub delivered_and_dead: u64,
    /// From the moment that the broker accepts to the next request, in microseconds.
    pub recoveries: Vec<u64>,
    /// Faults by kind.
    pub faults: BTreeMap<String, u32>,
}

/// What the judge says.
#[derive(Debug, Default)]
pub struct Judgement {
    /// The numbers.
    pub figures: Figures,
    /// What is wrong, each with the events' histories. Empty: nothing.
    pub violations: Vec<Violation>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Violation {
    /// Its name, such as `lost`.
    pub name: &'static str,
    /// How often.
    pub count: u64,
    /// Which, and how it came.
    pub text: String,
}

/// Judges a run.
#[must_use]
pub fn judge(records: &[Record], terms: &Terms) -> Judgement {
    let mut court = Court::default();
    for record in records {
        court.hear(record);
    }
    court.close();
    court.judge_events(terms);
    court.sentence(records, terms.recovery)
}

#[derive(Default)]
struct Court {
    tales: BTreeMap<u64, Tale>,
    faults: Vec<Struck>,
    accepted_at: Option<u64>,
    figures: Figures,
    /// Events by what is wrong with them.
    wrong: BTreeMap<&'static str, Vec<Option<u64>>>,
    misconduct: Vec<String>,
}

impl Court {
    fn hear(&mut self, record: &Record) {
        let at = record.at;
        match &record.entry {
            Entry::Publishing { event } => self.tales.entry(*event).or_default().publishing(at),
            Entry::Published { event, word } => {
                let tale = self.tales.entry(*event).or_default();
                match word {
                    Word::Confirmed => tale.confirmed = true,
                    Word::Returned | Word::Nacked => tale.copies = tale.copies.saturating_sub(1),
                    Word::Nothing => {}
                }
            }
            Entry::Seen { event, attempt, answer, flaw } => {
                self.figures.requests += 1;
                if let Some(accepted) = self.accepted_at.take() {
                    self.figures.recoveries.push(at.saturating_sub(accepted));
                }
                self.flaw(*event, *flaw);
                match self.known(*event) {
                    Some(tale) => tale.seen(at, *attempt, *answer),
                    None => self.wrong("unexpected", *event),
                }
            }
            Entry::Drained { queue, event } => match self.known(*event) {
                Some(tale) if queue.ends_with("dead") => tale.dead += 1,
                Some(tale) if queue.ends_with("rejected") => tale.rejected += 1,
                Some(tale) => tale.pending += 1,
                None => self.wrong("unexpected", *event),
            },
            Entry::FaultBegins { fault, in_flight } => {
                let kind = fault.split(" (").next().unwrap_or(fault).to_owned();
                *self.figures.faults.entry(kind).or_default() += 1;
                self.figures.bound += u64::from(*in_flight);
                self.faults.push(Struck { began: at, ended: u64::MAX });
            }
            Entry::FaultEnds => {
                if let Some(fault) = self.faults.last_mut() {
                    fault.ended = at;
                }
            }
            Entry::BrokerAccepts => self.accepted_at = Some(at),
            Entry::Misconduct { text } => self.misconduct.push(text.clone()),
        }
    }

    /// Only what was published before can be seen.
    fn known(&mut self, event: Option<u64>) -> Option<&mut Tale> {
        self.tales.get_mut(&event?)
    }

    fn flaw(&mut self, event: Option<u64>, flaw: Option<Flaw>) {
        match flaw {
            Some(Flaw::Misdelivered) => self.wrong("misdelivered", event),
            Some(Flaw::Corrupted) => self.wrong("corrupted", event),
            Some(Flaw::BadSignature) => self.wrong("badsig", event),
            None => {}
        }
    }

    fn wrong(&mut self, name: &'static str, event: Option<u64>) {
        self.wrong.entry(name).or_default().push(event);
    }

    fn close(&mut self) {
        if self.accepted_at.is_some() {
            self.misconduct.push("nothing was delivered after the broker's last start".to_owned());
        }
    }

    fn judge_events(&mut self, terms: &Terms) {
        let tales = std::mem::take(&mut self.tales);
        for (number, tale) in &tales {
            self.judge_event(*number, tale);
            self.judge_attempts(*number, tale, terms);
        }
    }

    fn judge_event(&mut self, number: u64, tale: &Tale) {
        let (delivered, dead, rejected) = (tale.delivered() > 0, tale.dead > 0, tale.rejected > 0);
        let figures = &mut self.figures;
        figures.published += u64::from(tale.confirmed);
        figures.delivered += u64::from(delivered);
        figures.dead += u64::from(dead);
        figures.rejected += u64::from(rejected);
        figures.duplicated += u64::from(tale.delivered() > 1);
        figures.recovered += u64::from(delivered && !tale.confirmed);
        figures.delivered_and_dead += u64::from(delivered && dead);
        let (told, kept) = (tale.delivered().saturating_sub(1), (tale.dead + tale.rejected).saturating_sub(1));
        let by_publisher = (told + kept).min(tale.copies.saturating_sub(1));
        let told_by_publisher = by_publisher.min(told);
        figures.extra_by_publisher += u64::from(by_publisher);
        figures.extra += u64::from(told - told_by_publisher);
        figures.kept_extra += u64::from(kept - (by_publisher - told_by_publisher));
        if tale.pending > 0 {
            self.wrong("pending", Some(number));
        } else if tale.confirmed && !(delivered || dead || rejected) {
            self.wrong("lost", Some(number));
        } else if tale.confirmed {
            let right = match Event(number).destiny() {
                Destiny::Delivered(_) => delivered && !dead && !rejected,
                Destiny::Dead(_) => dead && !delivered && !rejected,
                Destiny::Rejected => rejected && !delivered && !dead,
            };
            if !right {
                self.wrong("wrong_fate", Some(number));
            }
        }
        // When a copy was kept is not known, so for those any fault from the event's first moment on counts.
        let repeated_at = tale.first_repeat().or((kept > 0).then_some(u64::MAX));
        if tale.copies <= 1 && repeated_at.is_some_and(|at| !self.faults.iter().any(|fault| fault.touches(tale.began, at))) {
            self.wrong("unexplained", Some(number));
        }
    }

    fn judge_attempts(&mut self, number: u64, tale: &Tale, terms: &Terms) {
        if matches!(Event(number).destiny(), Destiny::Dead(_)) && tale.receipts.iter().any(|seen| seen.attempt > terms.max_attempts) {
            self.wrong("over", Some(number));
        }
        if tale.early(terms) {
            self.wrong("early", Some(number));
        }
    }

    fn sentence(mut self, records: &[Record], recovery: Duration) -> Judgement {
        let count = |name| self.wrong.get(name).map_or(0, |events| events.len() as u64);
        let figures = &mut self.figures;
        (figures.pending, figures.lost, figures.unexpected) = (count("pending"), count("lost"), count("unexpected"));
        (figures.misdelivered, figures.corrupted, figures.badsig) = (count("misdelivered"), count("corrupted"), count("badsig"));
        (figures.unexplained, figures.early, figures.over) = (count("unexplained"), count("early"), count("over"));
        figures.wrong_fate = count("wrong_fate");
        let mut violations: Vec<Violation> = self
            .wrong
            .iter()
            .map(|(name, events)| Violation { name, count: events.len() as u64, text: histories(records, events) })
            .collect();
        let mut plain = |name, count, text| violations.push(Violation { name, count, text });
        let again = figures.extra + figures.kept_extra;
        if again > figures.bound {
            plain("duplicates", again, format!("{again} were told or kept again, at most {} may be", figures.bound));
        }
        let mark = u64::try_from(recovery.as_micros()).unwrap_or(u64::MAX);
        let late = figures.recoveries.iter().filter(|micros| **micros > mark).count() as u64;
        if late > 0 {
            plain("late", late, format!("not delivering within {recovery:?} after the broker accepted, {late} times"));
        }
        if !self.misconduct.is_empty() {
            plain("misconduct", self.misconduct.len() as u64, self.misconduct.join("; "));
        }
        Judgement { figures: self.figures, violations }
    }
}

/// The first of the events, with all that the ledger says of them.
fn histories(records: &[Record], events: &[Option<u64>]) -> String {
    let mut text = String::new();
    let start = records.first().map_or(0, |record| record.at);
    for event in events.iter().take(TOLD) {
        let Some(number) = event else {
            text.push_str("\n  a message or request that names none of our events");
            continue;
        };
        let _ = write!(text, "\n  event {}:", Event(*number).id());
        let life = |record: &&Record| record.entry.event() == Some(*number);
        let (first, last) = (records.iter().find(life).map_or(0, |r| r.at), records.iter().rfind(life).map_or(0, |r| r.at));
        let told = records.iter().filter(|record| {
            let fault = matches!(record.entry, Entry::FaultBegins { .. } | Entry::FaultEnds | Entry::BrokerAccepts);
            record.entry.event() == Some(*number) || (fault && (first..=last).contains(&record.at))
        });
        for record in told.take(HISTORY) {
            let millis = record.at.saturating_sub(start) / 1000;
            let _ = write!(text, "\n    {:>9}.{:03} s  {:?}", millis / 1000, millis % 1000, record.entry);
        }
    }
    text
}
