//! What of the store needs no server: refusals, the tally, and rows that are written twice.

use std::time::Duration;

use sqlx::Row as _;

use super::entry::{Entry, Kept};
use super::insert::{Insert, Row};
use super::tally::{self, Tally};
use super::writer::first_id;
use super::*;
use crate::config::DeliveryLog;
use crate::domain::decide::Verdict;
use crate::domain::integrator::{Endpoint, EndpointUrl};
use crate::domain::names::{EndpointId, EventId, IntegratorKey, Topic};
use crate::domain::reply::{Outcome, Reply};
use crate::domain::search::SearchKeys;
use crate::domain::time::Timestamp;
use crate::telemetry::{EventRef, Fact, Place};

/// 2025-11-24T16:00:00Z, the first of its minute.
const NOW: i64 = 1_764_000_000_000;

#[test]
fn values_that_are_refused_are_told_from_a_database_that_fails() {
    for code in ["22021", "23505", "54000", "19", "18", "20", "1555", "2067"] {
        assert!(is_about_values(code), "{code}");
    }
    for code in ["", "08006", "53100", "5", "13", "10", "8", "522", "42P01", "57014"] {
        assert!(!is_about_values(code), "{code}");
    }
}

/// A delivered attempt at endpoint `number`, `place` places after [`NOW`].
pub(super) fn row(number: usize, place: i64, millis: i64) -> Row {
    let kept = Kept { keys: SearchKeys::new(Vec::new()), payloads: false };
    let (id, topic) = (EventId::try_new(format!("evt-{place}")).unwrap(), Topic::try_new("identResult").unwrap());
    let integrator = IntegratorKey::try_new("acme").unwrap();
    let url = EndpointUrl::parse("https://acme.example/", false).unwrap();
    let endpoint = Endpoint::new(integrator.clone(), EndpointId::try_new(format!("e{number}")).unwrap(), url);
    let fact = Fact::Attempted {
        event: EventRef { id: &id, integrator: &integrator, topic: &topic, whole: None, receipt: None },
        endpoint: &endpoint,
        webhook_id: "msg_0123456789abcdef0123456789abcdef",
        attempt: 1,
        started_at: Timestamp::from_millis(0),
        replayed_at: None,
        place: Place::ALONE,
        request_bytes: 300,
        reply: &Reply { outcome: Outcome::Answered { status: 200, retry_after: None }, took: Duration::from_millis(42) },
        verdict: &Verdict::Delivered,
        latency: None,
    };
    let at = Timestamp::from_millis(NOW + millis);
    Row { id: first_id(NOW + millis) + place, entry: Box::new(Entry::of(&fact, &kept, at).unwrap()), is_counted: false }
}

/// A file with tables, and what writes to it.
pub(super) async fn file(folder: &tempfile::TempDir) -> (AnyConnection, Insert) {
    let database = Database::Sqlite(folder.path().join("log.db"));
    let config = DeliveryLog { database: Some(database.clone()), ..DeliveryLog::off() };
    let mut connection = connect(&database, true).await.unwrap();
    schema::migrate(&database, &mut connection).await.unwrap();
    let insert = Insert::open(1, &config).unwrap();
    (connection, insert)
}

pub(super) async fn numbers(connection: &mut AnyConnection, sql: &'static str) -> Vec<i64> {
    sqlx::query(sql).fetch_all(connection).await.unwrap().iter().map(|row| row.try_get(0).unwrap()).collect()
}

#[tokio::test]
async fn a_batch_that_is_written_again_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut connection, insert) = file(&folder).await;
    let mut rows: Vec<Row> = (0..10).map(|place| row(1, place, 0)).collect();
    let batch = |rows: &mut Vec<Row>| {
        let mut tally = Tally::default();
        tally.begin(1);
        tally.count(rows);
        tally.count(rows);
        tally
    };
    let mut tally = batch(&mut rows);
    insert.all(&mut connection, &rows, &mut tally).await.unwrap();
    assert!(!tally.is_due());
    // Its end was not heard of: the same counts, and what came since.
    rows.iter_mut().for_each(|row| row.is_counted = false);
    rows.push(row(1, 10, 0));
    let mut again = batch(&mut rows);
    insert.all(&mut connection, &rows, &mut again).await.unwrap();
    assert_eq!(numbers(&mut connection, "SELECT delivered FROM tally").await, [11]);
    assert_eq!(numbers(&mut connection, "SELECT took_50 FROM tally").await, [11]);
    assert_eq!(numbers(&mut connection, "SELECT COUNT(*) FROM entry").await, [11]);
}

#[tokio::test]
async fn what_the_rows_do_not_count_yet_is_said_with_each_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (mut connection, insert) = file(&folder).await;
    let mut tally = Tally::default();
    tally.begin(1);
    let endpoints = 2 * tally::ROWS + 10;
    let mut rows: Vec<Row> = (0..endpoints).map(|number| row(number, i64::try_from(number).unwrap(), 0)).collect();
    tally.count(&mut rows);
    let mut left = Vec::new();
    let mut batch = rows.as_slice();
    while tally.is_due() {
        insert.all(&mut connection, batch, &mut tally).await.unwrap();
        batch = &[];
        let counted = numbers(&mut connection, "SELECT SUM(delivered) FROM tally").await[0];
        let left_out = numbers(&mut connection, "SELECT SUM(left_out) FROM tally").await[0];
        assert_eq!(usize::try_from(counted + left_out).unwrap(), endpoints, "all are counted or said to be left out");
        left.push(left_out);
    }
    assert_eq!(left, [138, 10, 0]);
    assert_eq!(numbers(&mut connection, "SELECT COUNT(*) FROM tally WHERE endpoint <> ''").await, [266]);
}

#[tokio::test]
async fn a_tally_that_is_refused_costs_no_entry() {
    let folder = tempfile::tempdir().unwrap();
    let (mut connection, insert) = file(&folder).await;
    let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON tally BEGIN SELECT RAISE(ABORT, 'no'); END";
    sqlx::raw_sql(trigger).execute(&mut connection).await.unwrap();
    let mut tally = Tally::default();
    tally.begin(1);
    let mut rows: Vec<Row> = (0..3).map(|place| row(1, place, 0)).collect();
    tally.count(&mut rows);
    insert.all(&mut connection, &rows, &mut tally).await.unwrap();
    assert!(!tally.is_due(), "it is not tried for ever");
    assert_eq!(numbers(&mut connection, "SELECT (SELECT COUNT(*) FROM entry) * 10 + (SELECT COUNT(*) FROM tally)").await, [30]);
}

#[test]
fn a_minute_gets_what_its_ids_say_and_what_is_held_has_an_end() {
    let mut tally = Tally::default();
    tally.begin(1);
    // The clock goes back by a second: the id does not.
    let mut late = row(1, 1, 60_000);
    late.entry.at = Timestamp::from_millis(NOW + 59_000);
    tally.count(&mut [row(1, 0, 60_000), late]);
    let due = tally.due(tally::ROWS);
    assert_eq!(due.rows.len(), 1, "one minute");
    tally.written(&due);
    assert!(!tally.is_due());
    let mut many: Vec<Row> = (0..20_000).map(|number| row(number, i64::try_from(number).unwrap(), 120_000)).collect();
    tally.count(&mut many);
    assert!(tally.held() <= 16_384 + 1, "{}", tally.held());
    let mut passes = 0;
    while tally.is_due() {
        let due = tally.due(tally::ROWS);
        assert!(due.rows.len() <= tally::ROWS + 2);
        tally.written(&due);
        passes += 1;
    }
    assert_eq!(passes, 128);
    // What is over and written is let go of.
    tally.count(&mut [row(1, 0, 180_000)]);
    assert_eq!(tally.held(), 1);
}

#[test]
fn a_failure_is_read_as_it_was_written() {
    for error in ["answered 503", "it's \"so\" -- ; DROP", ""] {
        let text = tally::failure(NOW, Some(503), error);
        assert_eq!(tally::read_failure(&text), Some((NOW, Some(503), error.to_owned())));
    }
    assert_eq!(tally::read_failure(&tally::failure(NOW, None, "a\0b")), Some((NOW, None, "a\u{1a}b".to_owned())));
    assert!(tally::failure(NOW, None, "z") < tally::failure(NOW + 1, None, "a"), "the later one is the greater one");
    assert_eq!(tally::read_failure("x"), None);
}

/// Figures, not a test: `cargo nextest run --lib --run-ignored only -E 'test(store::tests::what_the_tally_costs)' --no-capture`.
#[tokio::test]
#[ignore = "prints figures"]
async fn what_the_tally_costs() {
    for endpoints in [1, 100, 5000] {
        let mut took = [Vec::new(), Vec::new()];
        for round in 0..60 {
            let counts = round % 2;
            let folder = tempfile::tempdir().unwrap();
            let (mut connection, insert) = file(&folder).await;
            let mut tally = Tally::default();
            tally.begin(1);
            let batch = |from: usize| -> Vec<Row> {
                (from..from + 8192)
                    .map(|place| row(place % endpoints, i64::try_from(place % 1024).unwrap(), i64::try_from(place / 1024).unwrap()))
                    .collect()
            };
            // The first ones have the statements prepared, and the rows of the tally made, as it is but once in a minute.
            for from in [0, 8192] {
                let mut rows = batch(from);
                if counts == 1 {
                    tally.count(&mut rows);
                }
                insert.all(&mut connection, &rows, &mut tally).await.unwrap();
            }
            let mut rows = batch(2 * 8192);
            let start = std::time::Instant::now();
            if counts == 1 {
                tally.count(&mut rows);
            }
            insert.all(&mut connection, &rows, &mut tally).await.unwrap();
            took[counts].push(start.elapsed());
        }
        let [before, after] = took.map(|took| took.into_iter().min().unwrap_or_default());
        println!("{endpoints} endpoints: {before:?} without, {after:?} with the tally: {:.3}", after.as_secs_f64() / before.as_secs_f64());
    }
}

#[tokio::test]
async fn many_make_the_tables_at_one_time() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::Sqlite(folder.path().join("log.db"));
        let all = futures_util::future::join_all((0..6).map(|_| async {
            let mut connection = connect(&database, true).await?;
            schema::migrate(&database, &mut connection).await
        }));
        for made in all.await {
            made.unwrap();
        }
    }
}
