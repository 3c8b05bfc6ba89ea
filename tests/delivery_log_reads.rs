//! What is asked of the delivery log beside an event's story: pages of entries and the health of endpoints, in SQLite and in PostgreSQL alike.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callbackd::clock;
use callbackd::config::{self, DeliveryLog};
use callbackd::domain::dead::{DeadReason, RejectReason};
use callbackd::domain::decide::{Verdict, Wait};
use callbackd::domain::integrator::{Endpoint, EndpointUrl};
use callbackd::domain::ladder::Ladder;
use callbackd::domain::names::{EndpointId, EventId, IntegratorKey, SourceName, Topic};
use callbackd::domain::reply::{Failure, Outcome, Reply, TlsFault};
use callbackd::domain::time::Timestamp;
use callbackd::store::entry::What;
use callbackd::store::health::Span;
use callbackd::store::listing::{Class, Cursor, Filter, Followed, LOOKED_AT_LIMIT, Page};
use callbackd::store::reader::{LEAST_LINES, MOST_LINES_IN_ALL};
use callbackd::store::{Desk, Journal, Reader, StoreError, Writer};
use callbackd::telemetry::{EventRef, Fact, Observer as _, Place, Telemetry};
use support::{Database, eventually, with_both};

const LIMIT: Duration = Duration::from_secs(30);

with_both!(
    pages_have_each_entry_once_while_others_are_written,
    an_endpoint_of_few_entries_is_found_far_back_without_looking_at_the_others,
    what_the_tally_does_not_tell_apart_is_found_in_short_pages,
    of_many_endpoints_all_are_counted_soon,
    workers_add_up_to_the_health_of_an_endpoint,
    each_class_of_attempts_is_found,
    each_filter_finds_its_own_and_nothing_else,
    a_message_that_is_no_event_is_found_among_the_rejected,
    names_of_any_text_are_found_and_hurt_nothing,
    tallies_leave_with_their_entries,
    tables_of_before_are_brought_up_to_date_and_what_they_hold_is_found,
    entries_that_the_tally_left_out_are_found,
    the_lines_of_an_answer_are_bounded_and_what_is_left_out_is_said,
    a_desk_outlives_its_connections,
);

/// A worker's log, without the worker.
struct Log {
    config: DeliveryLog,
    journal: Arc<Journal>,
    writer: Writer,
}

impl Log {
    fn open(database: &Database, worker: &str) -> Self {
        let url =
            if database.is_file() { config::Database::Sqlite(database.file()) } else { config::Database::Postgres(database.url().into()) };
        let config = DeliveryLog { database: Some(url), ..DeliveryLog::off() };
        let (journal, writer) = Writer::start(&config, worker.to_owned(), &Telemetry::default()).unwrap().unwrap();
        Self { config, journal, writer }
    }

    fn attempt(&self, (integrator, endpoint): (&str, &str), event: &str, outcome: Outcome, took_ms: u64) {
        let reply = Reply { outcome, took: Duration::from_millis(took_ms) };
        let verdict = match outcome {
            Outcome::Answered { status: 410, .. } => Verdict::Dead(DeadReason::Gone),
            _ if reply.is_success() => Verdict::Delivered,
            _ => Verdict::Retry(Wait::at_least(&ladder(), Duration::from_secs(60), clock::now())),
        };
        let (id, topic) = (EventId::try_new(event).unwrap(), Topic::try_new("identResult").unwrap());
        let integrator = IntegratorKey::try_new(integrator).unwrap();
        let url = EndpointUrl::parse("https://acme.example/", false).unwrap();
        let endpoint = Endpoint::new(integrator.clone(), EndpointId::try_new(endpoint).unwrap(), url);
        self.journal.see(&Fact::Attempted {
            event: EventRef { id: &id, integrator: &integrator, topic: &topic, whole: None, receipt: None },
            endpoint: &endpoint,
            webhook_id: "msg_1",
            started_at: Timestamp::from_millis(0),
            attempt: 1,
            replayed_at: None,
            place: Place::ALONE,
            request_bytes: 300,
            reply: &reply,
            verdict: &verdict,
            latency: None,
        });
    }

    fn delivered(&self, endpoint: &str, event: &str) {
        self.attempt(("acme", endpoint), event, answered(200), 20);
    }

    /// Ends the writer, which writes everything before.
    async fn close(self) -> DeliveryLog {
        self.writer.stop().await;
        self.config
    }
}

fn ladder() -> Ladder {
    Ladder::try_new(Duration::from_secs(1), Duration::from_secs(6 * 3600)).unwrap()
}

const fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, retry_after: None }
}

fn of(endpoint: &str) -> Filter {
    Filter { integrator: Some("acme".to_owned()), endpoint: Some(endpoint.to_owned()), ..Filter::default() }
}

fn around_now() -> Span {
    let now = clock::now().millis();
    Span::new(Timestamp::from_millis(now - 600_000), Timestamp::from_millis(now + 600_000)).unwrap()
}

/// Makes everything that is there older by so many minutes.
async fn age(database: &Database, minutes: i64) {
    let shift = (minutes * 60_000) << 21;
    database.run(&format!("UPDATE entry SET id = id - {shift}; UPDATE tally SET minute = minute - {minutes};")).await;
}

/// Puts so many entries of `endpoint` into each of so many minutes up to now, as a worker with the number 9 would have.
async fn fill(database: &Database, endpoint: &str, minutes: i64, each: i64) {
    let newest = clock::now().millis() / 60_000 - 1;
    let numbers = |count: i64| format!("WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {})", count - 1);
    let minute = format!("CAST({newest} AS BIGINT) - (i / {each})");
    database
        .run(&format!(
            "{} INSERT INTO entry (id, at, what, event_id, integrator, endpoint, topic, verdict, status, worker)
             SELECT (({minute}) * 60000 * 2097152) + 9 * 1024 + (i % {each}), ({minute}) * 60000, 'attempt', 'evt-fill', 'acme', '{endpoint}', 'identResult',
             'delivered', 200, 9 FROM n;
             {} INSERT INTO tally SELECT {newest} - i, 'acme', '{endpoint}', 9, {each}, 0, 0, 0, 0, 0, 0, {each}, 0, 0, 0, 0, 0, 0, 0, 0, 0,
             {each}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL FROM n;",
            numbers(minutes * each),
            numbers(minutes)
        ))
        .await;
}

fn events(page: &Page) -> Vec<String> {
    page.entries.iter().map(|entry| entry.event_id.clone().unwrap_or_default()).collect()
}

async fn all(reader: &mut Reader, filter: &Filter) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = reader.attempts(filter, cursor, 500).await.unwrap();
        found.extend(events(&page));
        let Some(next) = page.next else { return found };
        cursor = Some(next.parse().unwrap());
    }
}

async fn pages_have_each_entry_once_while_others_are_written(database: Database) {
    let log = Log::open(&database, "one");
    for number in 0..2500 {
        log.delivered("main", &format!("main-{number}"));
        log.delivered("audit", &format!("audit-{number}"));
    }
    let config = log.close().await;
    let log = Log::open(&database, "one");
    let mut reader = Reader::open(&config).await.unwrap();
    for (filter, expected) in [(of("main"), 2500), (Filter::default(), 5000)] {
        let (mut seen, mut pages, mut cursor): (HashSet<String>, usize, Option<Cursor>) = (HashSet::new(), 0, None);
        loop {
            let page = reader.attempts(&filter, cursor, 200).await.unwrap();
            assert!(page.entries.windows(2).all(|pair| pair[0].id > pair[1].id), "the newest first");
            for event in events(&page).into_iter().filter(|event| !event.starts_with("new")) {
                assert!(seen.insert(event.clone()), "{event} twice");
            }
            pages += 1;
            log.delivered("main", &format!("new-{expected}-{pages}"));
            let Some(next) = page.next else { break };
            cursor = Some(next.parse().unwrap());
        }
        assert_eq!(seen.len(), expected);
        assert!(pages <= expected / 200 + 1, "{pages} pages");
    }
    let mut newest = async || reader.attempts(&of("main"), None, 1).await.unwrap().entries[0].event_id.clone();
    eventually("a first page shows what is new", LIMIT, async || match newest().await {
        Some(event) if event.starts_with("new-5000") => Ok(()),
        other => Err(other),
    })
    .await;
}

async fn an_endpoint_of_few_entries_is_found_far_back_without_looking_at_the_others(database: Database) {
    let log = Log::open(&database, "one");
    for number in 0..20 {
        log.delivered("quiet", &format!("quiet-{number}"));
    }
    log.close().await;
    age(&database, 9 * 1440).await;
    fill(&database, "busy", 200, 500).await;
    // A worker whose clock was far ahead once.
    let far = "INSERT INTO tally SELECT minute + 30000000, 'acme', 'ahead'";
    let columns = "worker, ".to_owned() + &["0"; 30].join(", ");
    database.run(&format!("{far}, {columns}, NULL, NULL FROM tally WHERE endpoint = 'quiet'")).await;
    let config = Log::open(&database, "one").close().await;
    let mut reader = Reader::open(&config).await.unwrap();
    let page = reader.attempts(&of("quiet"), None, 100).await.unwrap();
    assert_eq!((page.entries.len(), page.next), (20, None));
    assert_eq!(page.looked_at, 20, "of 100,020");
    let anywhere = Filter { endpoint: Some("quiet".to_owned()), ..Filter::default() };
    let page = reader.attempts(&anywhere, None, 100).await.unwrap();
    assert_eq!((page.entries.len(), page.looked_at), (20, 20));
    let failed = Filter { class: Some(Class::ServerError), ..Filter::default() };
    let page = reader.attempts(&failed, None, 100).await.unwrap();
    assert_eq!((page.entries.len(), page.looked_at, page.next), (0, 0, None));
}

async fn what_the_tally_does_not_tell_apart_is_found_in_short_pages(database: Database) {
    let log = Log::open(&database, "one");
    log.delivered("main", "evt-old");
    let config = log.close().await;
    age(&database, 1440).await;
    database.run("UPDATE entry SET topic = 'rare'").await;
    fill(&database, "main", 120, 500).await;
    let mut reader = Reader::open(&config).await.unwrap();
    let rare = Filter { topic: Some("rare".to_owned()), ..of("main") };
    let page = reader.attempts(&rare, None, 10).await.unwrap();
    assert_eq!((page.entries.len(), page.looked_at), (0, LOOKED_AT_LIMIT));
    let page = reader.attempts(&rare, Some(page.next.unwrap().parse().unwrap()), 10).await.unwrap();
    assert_eq!((events(&page), page.looked_at, page.next), (vec!["evt-old".to_owned()], 10_001, None));
}

async fn of_many_endpoints_all_are_counted_soon(database: Database) {
    let log = Log::open(&database, "one");
    for number in 0..600 {
        log.delivered(&format!("e{}", number % 300), &format!("evt-{number}"));
    }
    eventually("the first are written", LIMIT, async || {
        let mut reader = Reader::open(&log.config).await.map_err(|error| error.to_string())?;
        let written = reader.attempts(&Filter::default(), None, 1).await.map_err(|error| error.to_string())?;
        if written.looked_at >= 500 { Ok(()) } else { Err(format!("{written:?}")) }
    })
    .await;
    let mut reader = Reader::open(&log.config).await.unwrap();
    // Whatever part of the tally is written by now, each is found.
    for number in [0, 150, 299] {
        assert!(!all(&mut reader, &of(&format!("e{number}"))).await.is_empty(), "e{number}");
    }
    eventually("all are counted, without a stop and without another entry", LIMIT, async || {
        let report = reader.health(around_now(), None).await.unwrap();
        let counted: i64 = report.endpoints.iter().map(|health| health.delivered).sum();
        let told = (report.endpoints.len(), counted, report.left_out);
        if told == (300, 600, 0) { Ok(()) } else { Err(told) }
    })
    .await;
    log.close().await;
}

async fn workers_add_up_to_the_health_of_an_endpoint(database: Database) {
    let (one, other) = (Log::open(&database, "one"), Log::open(&database, "other"));
    for number in 0..90 {
        one.attempt(("acme", "main"), &format!("a-{number}"), answered(200), 20);
        other.attempt(("acme", "main"), &format!("b-{number}"), answered(204), 20);
    }
    for number in 0..10 {
        one.attempt(("acme", "main"), &format!("c-{number}"), answered(503), 700);
        other.attempt(("acme", "main"), &format!("d-{number}"), Outcome::Failed(Failure::Timeout), 30_000);
    }
    one.close().await;
    let config = other.close().await;
    let last = Log::open(&database, "last");
    last.attempt(("acme", "main"), "e", answered(410), 3);
    last.attempt(("globex", "main"), "f", Outcome::Failed(Failure::Tls(TlsFault::Expired)), 3);
    last.close().await;
    assert_eq!(database.numbers("SELECT COUNT(DISTINCT worker) FROM tally").await, [3]);

    let mut reader = Reader::open(&config).await.unwrap();
    let report = reader.health(around_now(), None).await.unwrap();
    let [acme, globex] = report.endpoints.as_slice() else { panic!("{report:?}") };
    assert_eq!((acme.delivered, acme.retried, acme.dead, report.left_out), (180, 20, 1, 0));
    assert_eq!(acme.success_rate.map(|rate| (rate * 1000.0).round()), Some(896.0));
    let classes: Vec<(&str, i64)> = acme.classes.iter().map(|(class, count)| (class.as_str(), *count)).collect();
    assert_eq!(classes, [("2xx", 180), ("4xx", 1), ("5xx", 10), ("timeout", 10)]);
    assert!(acme.p50_ms.is_some_and(|p50| p50 > 10.0 && p50 <= 25.0), "{acme:?}");
    assert_eq!(acme.p99_ms, Some(10_000.0));
    assert!(acme.last_success_at.is_some());
    let failure = acme.last_failure.clone().unwrap();
    assert_eq!((failure.status, failure.error.as_str()), (Some(410), "answered 410"), "the one of the last worker is the last");
    let failure = globex.last_failure.clone().unwrap();
    assert_eq!((failure.status, failure.error.as_str()), (None, "tls: certificate expired"));
    assert_eq!((globex.success_rate, globex.last_success_at.as_deref()), (Some(0.0), None));
    let alone = reader.health(around_now(), Some(("acme", "main"))).await.unwrap();
    assert_eq!(serde_json::to_string(&alone.endpoints).unwrap(), serde_json::to_string(&report.endpoints[..1]).unwrap());
    assert!(reader.health(around_now(), Some(("acme", "none"))).await.unwrap().endpoints.is_empty());

    // Of an hour ago too.
    age(&database, 60).await;
    let log = Log::open(&database, "one");
    log.delivered("main", "g");
    log.close().await;
    let now = clock::now().millis();
    let span = Span::new(Timestamp::from_millis(now - 2 * 3_600_000), Timestamp::from_millis(now)).unwrap();
    let points = reader.history(Some(("acme", "main")), span, 10).await.unwrap().points;
    let counts: Vec<(i64, i64)> = points.iter().map(|point| (point.delivered, point.failed)).collect();
    assert_eq!(counts.last(), Some(&(1, 0)));
    let sum = counts.iter().fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1));
    assert_eq!(sum, (181, 21));
    assert!(
        points.windows(2).all(|pair| pair[0].at < pair[1].at) && points.iter().all(|point| point.at.ends_with("0:00.000Z")),
        "{points:?}"
    );
}

const ENDED: [(&str, Outcome); 12] = [
    ("ok", answered(200)),
    ("moved", answered(301)),
    ("gone", answered(410)),
    ("broken", answered(503)),
    ("slow", Outcome::Failed(Failure::Timeout)),
    ("half", Outcome::Incomplete { status: 200, failure: Failure::Timeout }),
    ("cut", Outcome::Incomplete { status: 200, failure: Failure::Disconnected }),
    ("nowhere", Outcome::Failed(Failure::Dns)),
    ("shut", Outcome::Failed(Failure::Connect)),
    ("expired", Outcome::Failed(Failure::Tls(TlsFault::Expired))),
    ("noise", Outcome::Failed(Failure::NotHttp)),
    ("odd", answered(600)),
];

/// A log with an attempt of each kind.
async fn of_each_kind(database: &Database) -> Reader {
    let log = Log::open(database, "one");
    for (event, outcome) in ENDED {
        log.attempt(("acme", "main"), event, outcome, 5);
    }
    Reader::open(&log.close().await).await.unwrap()
}

/// What a filter lets through, the oldest first.
async fn found(reader: &mut Reader, filter: Filter) -> String {
    let mut events = all(reader, &filter).await;
    events.reverse();
    events.join(" ")
}

async fn each_class_of_attempts_is_found(database: Database) {
    let reader = &mut of_each_kind(&database).await;
    let class = |class| Filter { class: Some(class), ..of("main") };
    for (wanted, expected) in [
        (Class::Success, "ok"),
        (Class::Redirect, "moved"),
        (Class::ClientError, "gone"),
        (Class::ServerError, "broken"),
        (Class::Timeout, "slow half"),
        (Class::Disconnected, "cut"),
        (Class::Dns, "nowhere"),
        (Class::Connect, "shut"),
        (Class::Tls, "expired"),
        (Class::Other, "noise odd"),
    ] {
        assert_eq!(found(reader, class(wanted)).await, expected, "{wanted:?}");
        assert_eq!(found(reader, Filter { class: Some(wanted), ..Filter::default() }).await, expected, "{wanted:?} of anybody");
    }
}

async fn each_filter_finds_its_own_and_nothing_else(database: Database) {
    let reader = &mut of_each_kind(&database).await;
    assert_eq!(found(reader, Filter { status: Some(200), ..of("main") }).await, "ok half cut");
    assert_eq!(found(reader, Filter { followed: Some(Followed::Dead), ..Filter::default() }).await, "gone");
    assert_eq!(
        found(reader, Filter { followed: Some(Followed::Delivered), class: Some(Class::ServerError), ..Filter::default() }).await,
        ""
    );
    assert_eq!(found(reader, of("other")).await, "");
    assert_eq!(
        found(reader, Filter { topic: Some("identResult".to_owned()), what: Some(What::Attempt), ..Filter::default() })
            .await
            .split(' ')
            .count(),
        12
    );
    let hour = Duration::from_secs(3600);
    assert_eq!(found(reader, Filter { since: Some(clock::now().plus(hour)), ..Filter::default() }).await, "");
    assert_eq!(
        found(reader, Filter { until: Some(Timestamp::from_millis(clock::now().millis() - 3_600_000)), ..Filter::default() }).await,
        ""
    );
    let recent = Filter {
        since: Some(Timestamp::from_millis(clock::now().millis() - 3_600_000)),
        until: Some(clock::now().plus(hour)),
        ..of("main")
    };
    assert_eq!(found(reader, recent).await.split(' ').count(), 12);
}

async fn a_message_that_is_no_event_is_found_among_the_rejected(database: Database) {
    let log = Log::open(&database, "one");
    log.delivered("main", "evt-1");
    let source = SourceName::try_new("ident").unwrap();
    log.journal.see(&Fact::Rejected {
        source: &source,
        event: None,
        message_id: None,
        endpoint: None,
        reason: &RejectReason::HeadersTooLarge,
        replayed_at: None,
    });
    let mut reader = Reader::open(&log.close().await).await.unwrap();
    let rejected = reader.attempts(&Filter { what: Some(What::Rejected), ..Filter::default() }, None, 10).await.unwrap();
    let [entry] = rejected.entries.as_slice() else { panic!("{rejected:?}") };
    assert_eq!((entry.source.as_deref(), entry.event_id.as_deref(), entry.line.what.as_str()), (Some("ident"), None, "rejected"));
    let shown = serde_json::to_value(entry).unwrap();
    assert_eq!(
        (&shown["what"], &shown["worker"], &shown["source"]),
        (&"rejected".into(), &"one".into(), &"ident".into()),
        "one flat object"
    );
}

async fn names_of_any_text_are_found_and_hurt_nothing(database: Database) {
    let log = Log::open(&database, "o'ne");
    let names = ["ac'me\"; DROP TABLE tally; --", "nul\0", "%", "_", "\u{1f600}"];
    for name in names {
        log.attempt((name, "ma'in"), name, answered(500), 5);
    }
    let config = log.close().await;
    let mut reader = Reader::open(&config).await.unwrap();
    for name in names {
        let filter = Filter { integrator: Some(name.to_owned()), endpoint: Some("ma'in".to_owned()), ..Filter::default() };
        assert_eq!(all(&mut reader, &filter).await, [name.replace('\0', "\u{1a}")]);
        let report = reader.health(around_now(), Some((name, "ma'in"))).await.unwrap();
        assert_eq!(report.endpoints.iter().map(|health| health.retried).collect::<Vec<_>>(), [1], "{name:?}");
    }
    assert_eq!(reader.health(around_now(), None).await.unwrap().endpoints.len(), names.len());
}

async fn tallies_leave_with_their_entries(database: Database) {
    let log = Log::open(&database, "one");
    log.delivered("main", "evt-1");
    log.close().await;
    fill(&database, "old", 5000, 1).await;
    age(&database, 20 * 1440).await;
    let log = Log::open(&database, "one");
    log.delivered("main", "evt-2");
    eventually("old ones are gone and the new one is there", LIMIT, async || {
        let left = database.numbers("SELECT COUNT(*) FROM tally").await;
        if left == [1] { Ok(()) } else { Err(left) }
    })
    .await;
    let config = log.close().await;
    assert_eq!(all(&mut Reader::open(&config).await.unwrap(), &of("main")).await, ["evt-2"]);
}

async fn tables_of_before_are_brought_up_to_date_and_what_they_hold_is_found(database: Database) {
    let log = Log::open(&database, "one");
    log.delivered("main", "evt-before");
    log.close().await;
    // As the first version made them, and left them.
    database.run("DROP TABLE tally; DELETE FROM _sqlx_migrations WHERE version = 2;").await;
    let shift = 600_000_i64 << 21;
    database.run(&format!("UPDATE entry SET id = id - {shift}; UPDATE finder SET entry = entry - {shift};")).await;
    let log = Log::open(&database, "one");
    log.delivered("main", "evt-since");
    let config = log.close().await;
    let mut reader = Reader::open(&config).await.unwrap();
    assert_eq!(all(&mut reader, &of("main")).await, ["evt-since", "evt-before"]);
    assert_eq!(reader.health(around_now(), None).await.unwrap().endpoints[0].delivered, 1);
    let (stories, _) = reader.stories("evt-before", None, 10).await.unwrap();
    assert_eq!(stories.len(), 1);
}

async fn entries_that_the_tally_left_out_are_found(database: Database) {
    let log = Log::open(&database, "one");
    log.delivered("main", "evt-1");
    log.delivered("other", "evt-2");
    let config = log.close().await;
    // As it is after a crash before the endpoint's row had its turn.
    let row = "INSERT INTO tally SELECT minute, '', '', worker, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, NULL, NULL";
    let mut reader = Reader::open(&config).await.unwrap();
    database.run("DELETE FROM tally WHERE endpoint = 'main'").await;
    assert!(all(&mut reader, &of("main")).await.is_empty(), "this is what must not be");
    database.run(&format!("{row} FROM tally WHERE endpoint = 'other'")).await;
    assert_eq!(all(&mut reader, &of("main")).await, ["evt-1"]);
    assert_eq!(all(&mut reader, &Filter { status: Some(200), ..Filter::default() }).await, ["evt-2", "evt-1"]);
    let report = reader.health(around_now(), None).await.unwrap();
    assert_eq!((report.left_out, report.endpoints.len()), (1, 1));
}

async fn the_lines_of_an_answer_are_bounded_and_what_is_left_out_is_said(database: Database) {
    const EVENTS: usize = 30;
    const LINES: usize = 200;
    let log = Log::open(&database, "one");
    for _ in 0..LINES {
        (0..EVENTS).for_each(|event| log.delivered("main", &format!("evt-{event}")));
    }
    let config = log.close().await;
    let mut reader = Reader::open(&config).await.unwrap();
    // All of them were told by a message with this id.
    let (stories, has_more) = reader.stories("msg_1", None, 100).await.unwrap();
    let lines: Vec<usize> = stories.iter().map(|story| story.lines.len()).collect();
    assert_eq!((stories.len(), has_more), (EVENTS, false));
    assert_eq!((lines.iter().sum::<usize>(), lines[0], lines[EVENTS - 1]), (MOST_LINES_IN_ALL, LINES, LEAST_LINES), "{lines:?}");
    assert!(stories.iter().all(|story| story.is_cut == (story.lines.len() < LINES) && story.deliveries.len() == 1), "{lines:?}");
    // Alone, the one that was cut most is told in full.
    let (stories, _) = reader.stories(&stories[EVENTS - 1].event_id, None, 100).await.unwrap();
    assert_eq!((stories[0].lines.len(), stories[0].is_cut), (LINES, false));
}

async fn a_desk_outlives_its_connections(database: Database) {
    let log = Log::open(&database, "one");
    log.delivered("main", "evt-1");
    let config = log.close().await;
    let desk = Desk::new(&config).unwrap();
    let ask = async |desk: &Desk| desk.attempts(&of("main"), None, 10).await.map(|page| page.entries.len());
    assert_eq!(ask(&desk).await.unwrap(), 1);
    assert_eq!(desk.explain("evt-1", None, 10).await.unwrap().0.len(), 1);
    assert_eq!(desk.health(around_now(), None).await.unwrap().endpoints.len(), 1);
    assert_eq!(desk.history(Some(("acme", "main")), around_now(), 1).await.unwrap().points.len(), 1);
    if database.is_file() {
        database.run("ALTER TABLE entry RENAME TO hidden").await;
        assert!(matches!(ask(&desk).await, Err(StoreError::Database(_))));
        database.run("ALTER TABLE hidden RENAME TO entry").await;
        assert_eq!(ask(&desk).await.unwrap(), 1);
        return;
    }
    let others = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert_eq!(database.numbers(&format!("SELECT COUNT(*) FROM {others}")).await, [1], "one connection for one question at a time");
    database.rows(&format!("SELECT pg_terminate_backend(pid) FROM {others}")).await;
    assert_eq!(ask(&desk).await.unwrap(), 1, "a lost connection is replaced");

    let mut holding = database.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE entry IN ACCESS EXCLUSIVE MODE;").execute(&mut holding).await.unwrap();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let desk = desk.clone();
            tokio::spawn(async move { desk.attempts(&of("main"), None, 10).await.map(|page| page.entries.len()) })
        })
        .collect();
    eventually("four wait for the table", LIMIT, async || {
        let held = database.numbers(&format!("SELECT COUNT(*) FROM {others} AND wait_event_type = 'Lock'")).await;
        if held == [4] { Ok(()) } else { Err(held) }
    })
    .await;
    let start = Instant::now();
    assert!(matches!(ask(&desk).await, Err(StoreError::Busy)));
    assert!(start.elapsed() < Duration::from_secs(4));
    sqlx::raw_sql("ROLLBACK").execute(&mut holding).await.unwrap();
    for task in waiting {
        assert_eq!(task.await.unwrap().unwrap(), 1);
    }
    assert_eq!(ask(&desk).await.unwrap(), 1);
}
