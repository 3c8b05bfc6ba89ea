//! The judge, shown small ledgers.

use super::*;

const TERMS: Terms = Terms {
    initial: Duration::from_millis(200),
    multiplier: 2.0,
    max_delay: Duration::from_secs(1),
    jitter: 0.2,
    max_attempts: 4,
    recovery: Duration::from_secs(5),
};

/// An event for an endpoint that says 200, one that is refused, and one for nobody.
const GOOD: u64 = 0;
const REFUSED: u64 = 46;
const NOBODY: u64 = 48;

/// A ledger with a second between two lines.
fn ledger(entries: impl IntoIterator<Item = Entry>) -> Vec<Record> {
    (1..).zip(entries).map(|(second, entry)| Record { at: second * 1_000_000, entry }).collect()
}

fn publishing(event: u64) -> Entry {
    Entry::Publishing { event }
}

fn published(event: u64) -> Entry {
    Entry::Published { event, word: Word::Confirmed }
}

fn seen(event: u64, attempt: u32, answer: u16) -> Entry {
    Entry::Seen { event: Some(event), attempt, answer, flaw: None }
}

fn drained(queue: &str, event: u64) -> Entry {
    Entry::Drained { queue: queue.to_owned(), event: Some(event) }
}

fn fault(in_flight: u32) -> Entry {
    Entry::FaultBegins { fault: "SIGKILL of a worker (1)".to_owned(), in_flight }
}

fn names(entries: impl IntoIterator<Item = Entry>) -> Vec<&'static str> {
    judge(&ledger(entries), &TERMS).violations.iter().map(|violation| violation.name).collect()
}

#[test]
fn acquits_a_run_in_which_every_event_is_where_it_has_to_be() {
    let entries = [
        publishing(GOOD),
        published(GOOD),
        seen(GOOD, 1, 200),
        publishing(REFUSED),
        published(REFUSED),
        seen(REFUSED, 1, 422),
        publishing(NOBODY),
        published(NOBODY),
        drained("callbacks.dead", REFUSED),
        drained("callbacks.rejected", NOBODY),
    ];
    let judgement = judge(&ledger(entries), &TERMS);
    assert!(judgement.violations.is_empty(), "{:?}", judgement.violations);
    let figures = judgement.figures;
    assert_eq!((figures.published, figures.delivered, figures.dead, figures.rejected, figures.lost), (3, 1, 1, 1, 0));
}

#[test]
fn names_a_lost_event_and_tells_its_history() {
    let judgement = judge(&ledger([publishing(GOOD), published(GOOD), seen(GOOD, 1, 500)]), &TERMS);
    assert_eq!((judgement.violations[0].name, judgement.figures.lost), ("lost", 1));
    let text = &judgement.violations[0].text;
    assert!(text.contains("event chaos-00000000") && text.contains("500"), "{text}");
}

#[test]
fn an_event_that_the_broker_never_confirmed_cannot_be_lost_but_recovered() {
    let nothing = Entry::Published { event: GOOD, word: Word::Nothing };
    assert!(names([publishing(GOOD), nothing.clone()]).is_empty());
    let judgement = judge(&ledger([publishing(GOOD), nothing, seen(GOOD, 1, 200)]), &TERMS);
    assert_eq!((judgement.figures.recovered, judgement.violations.len()), (1, 0));
}

#[test]
fn names_what_is_left_in_a_queue_of_work() {
    assert_eq!(names([publishing(GOOD), published(GOOD), drained("callbacks.compliance.due", GOOD)]), ["pending"]);
}

#[test]
fn a_repeat_needs_a_fault_near_it() {
    let life = [publishing(GOOD), published(GOOD), seen(GOOD, 1, 200)];
    let again = seen(GOOD, 1, 200);
    assert_eq!(names(life.clone().into_iter().chain([again.clone()])), ["unexplained", "duplicates"]);
    assert_eq!(names(life.clone().into_iter().chain([fault(4), again.clone(), Entry::FaultEnds])), [""; 0]);
    // A fault that was over long before does not count.
    let long_before = [fault(4), Entry::FaultEnds].into_iter().chain((0..6).map(publishing_other));
    assert_eq!(names(long_before.chain(life).chain([again])), ["unexplained"]);
}

fn publishing_other(number: u64) -> Entry {
    publishing(number + 100)
}

#[test]
fn more_duplicates_than_were_in_flight_are_too_many() {
    let life = [publishing(GOOD), published(GOOD), seen(GOOD, 1, 200), fault(1)];
    assert!(names(life.clone().into_iter().chain([seen(GOOD, 1, 200)])).is_empty());
    assert_eq!(names(life.into_iter().chain([seen(GOOD, 1, 200), seen(GOOD, 1, 200)])), ["duplicates"]);
}

#[test]
fn a_copy_that_is_kept_twice_is_a_duplicate_and_needs_a_fault_too() {
    let life = [publishing(REFUSED), published(REFUSED), seen(REFUSED, 1, 422)];
    let kept = |count| (0..count).map(|_| drained("callbacks.dead", REFUSED));
    assert!(names(life.clone().into_iter().chain(kept(1))).is_empty());
    assert_eq!(names(life.clone().into_iter().chain(kept(2))), ["unexplained", "duplicates"]);
    let judgement = judge(&ledger(life.clone().into_iter().chain([fault(1)]).chain(kept(2))), &TERMS);
    assert!(judgement.violations.is_empty(), "{:?}", judgement.violations);
    assert_eq!((judgement.figures.kept_extra, judgement.figures.extra), (1, 0));
    assert_eq!(names(life.into_iter().chain([fault(1)]).chain(kept(3))), ["duplicates"]);
}

#[test]
fn what_the_publisher_doubled_is_not_the_workers_duplicate() {
    let nothing = Entry::Published { event: GOOD, word: Word::Nothing };
    let twice = [publishing(GOOD), nothing, publishing(GOOD), published(GOOD), seen(GOOD, 1, 200), seen(GOOD, 1, 200)];
    let judgement = judge(&ledger(twice), &TERMS);
    assert!(judgement.violations.is_empty(), "{:?}", judgement.violations);
    assert_eq!((judgement.figures.extra, judgement.figures.extra_by_publisher), (0, 1));
}

#[test]
fn names_attempts_before_their_time_and_beyond_their_number() {
    let mut early = ledger([publishing(GOOD), published(GOOD), seen(GOOD, 1, 500), seen(GOOD, 2, 500), seen(GOOD, 3, 200)]);
    assert!(judge(&early, &TERMS).violations.is_empty());
    // 400 ms less a fifth.
    early[4].at = early[3].at + 320_000;
    assert!(judge(&early, &TERMS).violations.is_empty());
    early[4].at = early[3].at + 316_000;
    assert_eq!(judge(&early, &TERMS).violations[0].name, "early");
    let over = [publishing(REFUSED), published(REFUSED), seen(REFUSED, 5, 422), drained("callbacks.dead", REFUSED)];
    assert_eq!(names(over), ["over"]);
}

#[test]
fn names_an_event_that_was_given_up_though_its_endpoint_takes_it() {
    assert_eq!(names([publishing(GOOD), published(GOOD), drained("callbacks.dead", GOOD)]), ["wrong_fate"]);
}

#[test]
fn names_every_flaw_of_a_request_and_what_nobody_published() {
    for (flaw, name) in [(Flaw::Misdelivered, "misdelivered"), (Flaw::Corrupted, "corrupted"), (Flaw::BadSignature, "badsig")] {
        let flawed = Entry::Seen { event: Some(GOOD), attempt: 1, answer: 200, flaw: Some(flaw) };
        assert_eq!(names([publishing(GOOD), published(GOOD), flawed]), [name]);
    }
    assert_eq!(names([seen(GOOD, 1, 200)]), ["unexpected"]);
    assert_eq!(names([Entry::Drained { queue: "callbacks.dead".to_owned(), event: None }]), ["unexpected"]);
}

#[test]
fn delivering_again_later_than_5_s_after_the_broker_accepts_is_late() {
    let mut late = ledger([publishing(GOOD), published(GOOD), Entry::BrokerAccepts, seen(GOOD, 1, 200)]);
    assert_eq!(judge(&late, &TERMS).figures.recoveries, [1_000_000]);
    late[3].at = late[2].at + 5_000_001;
    assert_eq!(judge(&late, &TERMS).violations[0].name, "late");
    late.pop();
    assert!(judge(&late, &TERMS).violations.iter().any(|violation| violation.name == "misconduct"));
}
