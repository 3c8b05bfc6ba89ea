//! Entries into rows: many in each statement, all of a batch in one transaction.

use std::fmt::Write as _;
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe, Connection as _};

use super::entry::Entry;
use super::{StoreError, within};
use crate::domain::time::Timestamp;

/// Milliseconds of a day: what entries are found by is kept by day.
pub(super) const DAY: i64 = 24 * 3600 * 1000;

/// Most rows of one statement. SQLite takes 32,766 values in one, PostgreSQL 65,535.
const ROWS: usize = 256;

const ENTRY: (&str, usize) = (
    "entry (id, at, what, event_id, integrator, endpoint, topic, source, webhook_id, attempt, events, verdict, reason, status, error, \
     took_ms, request_bytes, due_at, replayed_at, keys, worker)",
    21,
);
const FINDER: (&str, usize) = ("finder (day, term, entry)", 3);
const PAYLOAD: (&str, usize) = ("payload (day, event_id, integrator, topic, body)", 5);

/// How an event is found by its id.
#[must_use]
pub(super) fn event_term(id: &str) -> String {
    format!("event:{}", storable(id))
}

/// How an event is found by one of its keys.
#[must_use]
pub(super) fn key_term(value: &str, secret: Option<&SecretString>) -> String {
    let Some(secret) = secret else { return format!("key:{}", storable(value)) };
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()) else { return String::new() };
    mac.update(value.as_bytes());
    let mut term = String::from("hash:");
    for byte in mac.finalize().into_bytes().iter().take(16) {
        let _ = write!(term, "{byte:02x}");
    }
    term
}

/// PostgreSQL takes no NUL in a text.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// An entry with its place in the log.
pub(super) struct Row {
    pub id: i64,
    pub entry: Entry,
}

/// Writes rows, in the order of their ids. A row that is there already stays as it is, so a batch whose end was not heard of may be written again.
pub(super) struct Insert {
    worker: i64,
    hash_secret: Option<SecretString>,
    entries: Statements,
    terms: Statements,
    payloads: Statements,
}

impl Insert {
    pub(super) fn new(worker: i64, hash_secret: Option<SecretString>) -> Self {
        Self { worker, hash_secret, entries: Statements::new(ENTRY), terms: Statements::new(FINDER), payloads: Statements::new(PAYLOAD) }
    }

    /// Writes all of them or none.
    pub(super) async fn all(&self, connection: &mut AnyConnection, rows: &[Row]) -> Result<(), StoreError> {
        let mut transaction = within(connection.begin()).await?;
        for (rows, statement) in self.entries.chunks(rows) {
            let query = rows.iter().fold(statement, |query, row| self.bind(query, row));
            within(query.execute(&mut *transaction)).await?;
        }
        let terms: Vec<(i64, String, i64)> = rows.iter().flat_map(|row| self.terms_of(row)).collect();
        for (terms, statement) in self.terms.chunks(&terms) {
            let query = terms.iter().fold(statement, |query, (day, term, id)| query.bind(*day).bind(term.as_str()).bind(*id));
            within(query.execute(&mut *transaction)).await?;
        }
        let with_payload: Vec<&Row> = rows.iter().filter(|row| row.entry.payload.is_some()).collect();
        for (rows, statement) in self.payloads.chunks(&with_payload) {
            within(rows.iter().fold(statement, bind_payload).execute(&mut *transaction)).await?;
        }
        within(transaction.commit()).await
    }

    fn bind<'q>(&self, query: Statement<'q>, Row { id, entry }: &'q Row) -> Statement<'q> {
        let millis = |at: Option<Timestamp>| at.map(Timestamp::millis);
        let text = |text: Option<&str>| text.map(storable);
        query
            .bind(*id)
            .bind(entry.at.millis())
            .bind(entry.what.as_str())
            .bind(text(entry.event_id.as_ref().map(|id| id.as_str())))
            .bind(text(entry.integrator.as_ref().map(|key| key.as_str())))
            .bind(text(entry.endpoint.as_ref().map(|id| id.as_str())))
            .bind(text(entry.topic.as_ref().map(|topic| topic.as_str())))
            .bind(entry.source.as_ref().map(|source| source.as_str().to_owned()))
            .bind(entry.webhook_id.as_deref())
            .bind(entry.attempt.map(i64::from))
            .bind(entry.events.map(signed))
            .bind(entry.verdict)
            .bind(entry.reason)
            .bind(entry.status.map(i64::from))
            .bind(text(entry.error.as_deref()))
            .bind(entry.took.map(|took| i64::try_from(took.as_millis()).unwrap_or(i64::MAX)))
            .bind(entry.request_bytes.map(signed))
            .bind(millis(entry.due_at))
            .bind(millis(entry.replayed_at))
            .bind(self.keys(entry))
            .bind(self.worker)
    }

    /// The keys as they are shown; hashed ones cannot be.
    fn keys(&self, entry: &Entry) -> Option<String> {
        if entry.keys.is_empty() || self.hash_secret.is_some() {
            return None;
        }
        let keys: Vec<String> = entry.keys.iter().map(|key| storable(&format!("{}={}", key.name, key.value))).collect();
        serde_json::to_string(&keys).ok()
    }

    fn terms_of<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = (i64, String, i64)> + 'a {
        let day = row.entry.at.millis().div_euclid(DAY);
        let event = row.entry.event_id.iter().map(|id| event_term(id.as_str()));
        let keys = row.entry.keys.iter().map(|key| key_term(&key.value, self.hash_secret.as_ref()));
        event.chain(keys).map(move |term| (day, term, row.id))
    }
}

fn bind_payload<'q>(query: Statement<'q>, row: &&'q Row) -> Statement<'q> {
    let entry = &row.entry;
    query
        .bind(entry.at.millis().div_euclid(DAY))
        .bind(storable(entry.event_id.as_ref().map_or("", |id| id.as_str())))
        .bind(storable(entry.integrator.as_ref().map_or("", |key| key.as_str())))
        .bind(storable(entry.topic.as_ref().map_or("", |topic| topic.as_str())))
        .bind(entry.payload.as_deref().unwrap_or_default())
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

type Statement<'q> = Query<'q, Any, AnyArguments>;

/// The statements that insert into one table: for 1, 2, 4 and so on rows, so that a connection has each ready after its first time.
struct Statements(Vec<Arc<str>>);

impl Statements {
    fn new((table, columns): (&str, usize)) -> Self {
        let sizes = std::iter::successors(Some(1), |rows| Some(rows * 2)).take_while(|rows| *rows <= ROWS);
        Self(sizes.map(|rows| statement(table, columns, rows).into()).collect())
    }

    /// Divides items among the fewest statements.
    fn chunks<'i, T>(&self, items: &'i [T]) -> impl Iterator<Item = (&'i [T], Statement<'i>)> {
        let mut left = items;
        std::iter::from_fn(move || {
            let size = left.len().min(ROWS).checked_ilog2()?;
            let (chunk, rest) = left.split_at(1 << size);
            left = rest;
            Some((chunk, sqlx::query(AssertSqlSafe(Arc::clone(self.0.get(size as usize)?)))))
        })
    }
}

fn statement(table: &str, columns: usize, rows: usize) -> String {
    let mut sql = format!("INSERT INTO {table} VALUES ");
    for row in 0..rows {
        let places: Vec<String> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        let comma = if row > 0 { ", " } else { "" };
        let _ = write!(sql, "{comma}({})", places.join(", "));
    }
    sql.push_str(" ON CONFLICT DO NOTHING");
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_items_takes_few_statements_of_known_sizes() {
        let statements = Statements::new(FINDER);
        for count in [0, 1, 2, 3, 255, 256, 257, 1000] {
            let items = vec![(); count];
            let sizes: Vec<usize> = statements.chunks(&items).map(|(chunk, _)| chunk.len()).collect();
            assert_eq!(sizes.iter().sum::<usize>(), count);
            assert!(sizes.iter().all(|size| size.is_power_of_two() && *size <= ROWS) && sizes.len() <= count / ROWS + 8, "{sizes:?}");
        }
        assert_eq!(statement("t (a, b)", 2, 2), "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4) ON CONFLICT DO NOTHING");
    }

    #[test]
    fn a_hashed_key_is_found_by_the_same_secret_alone_and_cannot_be_read() {
        let secret = |text: &str| Some(SecretString::from(text));
        let term = key_term("885e", secret("one").as_ref());
        assert_eq!(term, key_term("885e", secret("one").as_ref()));
        assert!(term.starts_with("hash:") && term.len() == 37 && !term.contains("885e"), "{term}");
        assert_ne!(term, key_term("885e", secret("two").as_ref()));
        assert_eq!(key_term("88\0", None), "key:88\u{fffd}");
    }
}
