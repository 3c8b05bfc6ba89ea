//! Entries into rows: many in each statement, all of a batch in one transaction.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe, Connection as _};

use super::entry::Entry;
use super::tally::{self, DueRow, Tally};
use super::{StoreError, within};
use crate::config::{Database, DeliveryLog};
use crate::domain::time::Timestamp;

/// Milliseconds of a day: what entries are found by is kept by day.
pub(super) const DAY: i64 = 24 * 3600 * 1000;

/// Most rows of one statement. SQLite takes 32,766 values in one, PostgreSQL 65,535.
const ROWS: usize = 256;

const ENTRY: (&str, usize, &str) = (
    "entry (id, at, what, event_id, integrator, endpoint, topic, source, webhook_id, attempt, events, verdict, reason, status, error, \
     took_ms, request_bytes, due_at, replayed_at, keys, worker)",
    21,
    STAYS,
);
const FINDER: (&str, usize, &str) = ("finder (day, term, entry)", 3, STAYS);
const PAYLOAD: (&str, usize, &str) = ("payload (day, event_id, integrator, topic, body)", 5, STAYS);

/// What is there already stays as it is.
const STAYS: &str = "ON CONFLICT DO NOTHING";

/// What an event is found by: 64 bits of a hash, as a number is a third of the text in the index, and what is found is compared with what was looked for.
pub(super) type Term = i64;

/// How an event is found by its id.
#[must_use]
pub(super) fn event_term(id: &str) -> Term {
    term("event", storable(id).as_bytes())
}

/// How an event is found by the id of a message that told of it.
#[must_use]
pub(super) fn webhook_term(id: &str) -> Term {
    term("webhook", id.as_bytes())
}

/// How an event is found by one of its keys.
#[must_use]
pub(super) fn key_term(value: &str, secret: Option<&SecretString>) -> Term {
    let Some(secret) = secret else { return term("key", value.as_bytes()) };
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()) else { return 0 };
    mac.update(value.as_bytes());
    number(&mac.finalize().into_bytes())
}

fn term(kind: &str, text: &[u8]) -> Term {
    number(&Sha256::new().chain_update(kind).chain_update([0]).chain_update(text).finalize())
}

fn number(hash: &[u8]) -> Term {
    hash.first_chunk().copied().map_or(0, i64::from_be_bytes)
}

/// A text as both databases take it: PostgreSQL takes no NUL. SUBSTITUTE stands for it, which is one byte too, so that no text grows beyond what an
/// index takes.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{1a}")) } else { Cow::Borrowed(text) }
}

/// An entry with its place in the log.
pub(super) struct Row {
    pub id: i64,
    pub entry: Box<Entry>,
    /// It is in the tally, if not written yet: who is written again is not counted again.
    pub is_counted: bool,
}

/// Writes rows, in the order of their ids. A row that is there already stays as it is, so a batch whose end was not heard of may be written again.
pub(super) struct Insert {
    worker: i64,
    hash_secret: Option<SecretString>,
    entries: Statements,
    terms: Statements,
    payloads: Statements,
    tallies: Statements,
}

impl Insert {
    pub(super) fn new(worker: i64, config: &DeliveryLog) -> Self {
        let places = match config.database {
            Some(Database::Sqlite(_)) => Places::InOrder,
            _ => Places::Numbered,
        };
        Self {
            worker,
            hash_secret: config.hash_secret.clone(),
            entries: Statements::new(ENTRY, places, ROWS),
            terms: Statements::new(FINDER, places, ROWS),
            payloads: Statements::new(PAYLOAD, places, 1),
            tallies: {
                let (table, columns, conflict) = tally::table();
                Statements::new((&table, columns, &conflict), places, tally::ROWS)
            },
        }
    }

    /// Writes all of them or none, and with them some of the tally that is to be written: at most [`tally::ROWS`] rows, and one for each minute. A tally
    /// that the database refuses is given up: it must not cost an entry.
    pub(super) async fn all(&self, connection: &mut AnyConnection, rows: &[Row], tally: &mut Tally) -> Result<(), StoreError> {
        let due = tally.due(tally::ROWS);
        match self.write(connection, rows, &due.rows).await {
            Err(StoreError::Refused(_)) if !due.rows.is_empty() => self.write(connection, rows, &[]).await?,
            written => written?,
        }
        tally.written(&due);
        Ok(())
    }

    async fn write(&self, connection: &mut AnyConnection, rows: &[Row], tallies: &[DueRow]) -> Result<(), StoreError> {
        let mut transaction = within(connection.begin()).await?;
        for (rows, statement) in self.entries.chunks(rows) {
            let query = rows.iter().fold(statement, |query, row| self.bind(query, row));
            within(query.execute(&mut *transaction)).await?;
        }
        let mut terms: Vec<(i64, Term, i64)> = rows.iter().flat_map(|row| self.terms_of(row)).collect();
        // In the order in which they lie there, neighbours share a page.
        terms.sort_unstable();
        for (terms, statement) in self.terms.chunks(&terms) {
            let query = terms.iter().fold(statement, |query, (day, term, id)| query.bind(*day).bind(*term).bind(*id));
            within(query.execute(&mut *transaction)).await?;
        }
        let with_payload: Vec<&Row> = rows.iter().filter(|row| row.entry.payload.is_some()).collect();
        for (rows, statement) in self.payloads.chunks(&with_payload) {
            within(rows.iter().fold(statement, bind_payload).execute(&mut *transaction)).await?;
        }
        for (rows, statement) in self.tallies.chunks(tallies) {
            within(rows.iter().fold(statement, tally::bind).execute(&mut *transaction)).await?;
        }
        within(transaction.commit()).await
    }

    fn bind<'q>(&self, query: Statement<'q>, Row { id, entry, .. }: &'q Row) -> Statement<'q> {
        let millis = |at: Option<Timestamp>| at.map(Timestamp::millis);
        query
            .bind(*id)
            .bind(entry.at.millis())
            .bind(entry.what.as_str())
            .bind(entry.event_id.as_ref().map(|id| id.as_str()))
            .bind(entry.integrator.as_ref().map(|key| key.as_str()))
            .bind(entry.endpoint.as_ref().map(|id| id.as_str()))
            .bind(entry.topic.as_ref().map(|topic| topic.as_str()))
            .bind(entry.source.as_ref().map(|source| source.as_str()))
            .bind(entry.webhook_id.as_deref())
            .bind(entry.attempt.map(i64::from))
            .bind(entry.events.map(signed))
            .bind(entry.verdict)
            .bind(entry.reason)
            .bind(entry.status.map(i64::from))
            .bind(entry.error.as_deref())
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
        // JSON writes control characters as escapes.
        let keys: Vec<String> = entry.keys.iter().map(|key| format!("{}={}", key.name, key.value)).collect();
        serde_json::to_string(&keys).ok()
    }

    fn terms_of<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = (i64, Term, i64)> + 'a {
        let day = row.entry.at.millis().div_euclid(DAY);
        let event = row.entry.event_id.iter().map(|id| event_term(id.as_str()));
        let keys = row.entry.keys.iter().map(|key| key_term(&key.value, self.hash_secret.as_ref()));
        // The same message is told again in each retry; a batch may be another one each time.
        let is_news = row.entry.attempt == Some(1) || row.entry.events.is_some_and(|events| events > 1);
        let webhook = row.entry.webhook_id.iter().filter(move |_| is_news).map(|id| webhook_term(id));
        event.chain(webhook).chain(keys).map(move |term| (day, term, row.id))
    }
}

fn bind_payload<'q>(query: Statement<'q>, row: &&'q Row) -> Statement<'q> {
    let entry = &row.entry;
    query
        .bind(entry.at.millis().div_euclid(DAY))
        .bind(entry.event_id.as_ref().map_or("", |id| id.as_str()))
        .bind(entry.integrator.as_ref().map_or("", |key| key.as_str()))
        .bind(entry.topic.as_ref().map_or("", |topic| topic.as_str()))
        .bind(entry.payload.as_deref().unwrap_or_default())
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) type Statement<'q> = Query<'q, Any, AnyArguments>;

/// The statements that insert into one table: for 1, 2, 4 and so on rows, so that a connection has each ready after its first time.
struct Statements(Vec<Arc<str>>);

impl Statements {
    /// With at most so many rows in one.
    fn new((table, columns, conflict): (&str, usize, &str), places: Places, most: usize) -> Self {
        let sizes = std::iter::successors(Some(1), |rows| Some(rows * 2)).take_while(|rows| *rows <= most);
        Self(sizes.map(|rows| statement(table, (columns, rows, conflict), places).into()).collect())
    }

    /// Divides items among the fewest statements.
    fn chunks<'i, T>(&self, items: &'i [T]) -> impl Iterator<Item = (&'i [T], Statement<'i>)> {
        let mut left = items;
        std::iter::from_fn(move || {
            let size = left.len().min(1 << (self.0.len() - 1)).checked_ilog2()?;
            let (chunk, rest) = left.split_at(1 << size);
            left = rest;
            Some((chunk, sqlx::query(AssertSqlSafe(Arc::clone(self.0.get(size as usize)?)))))
        })
    }
}

/// How a statement marks the places of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Places {
    /// `?`. To SQLite a number is a name, which it looks for in a list each time: with 5,000 values in a statement, that was measured to take more than
    /// everything else together.
    InOrder,
    /// `$1`, as PostgreSQL wants it.
    Numbered,
}

fn statement(table: &str, (columns, rows, conflict): (usize, usize, &str), places: Places) -> String {
    let mut sql = format!("INSERT INTO {table} VALUES ");
    for row in 0..rows {
        sql.push_str(if row > 0 { ", (" } else { "(" });
        for column in 1..=columns {
            sql.push_str(if column > 1 { ", " } else { "" });
            let _ = match places {
                Places::InOrder => write!(sql, "?"),
                Places::Numbered => write!(sql, "${}", row * columns + column),
            };
        }
        sql.push(')');
    }
    sql.push(' ');
    sql.push_str(conflict);
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_items_takes_few_statements_of_known_sizes() {
        let statements = Statements::new(FINDER, Places::InOrder, ROWS);
        for count in [0, 1, 2, 3, 255, 256, 257, 1000] {
            let items = vec![(); count];
            let sizes: Vec<usize> = statements.chunks(&items).map(|(chunk, _)| chunk.len()).collect();
            assert_eq!(sizes.iter().sum::<usize>(), count);
            assert!(sizes.iter().all(|size| size.is_power_of_two() && *size <= ROWS) && sizes.len() <= count / ROWS + 8, "{sizes:?}");
        }
        let two = |places| statement("t (a, b)", (2, 2, STAYS), places);
        assert_eq!(two(Places::Numbered), "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4) ON CONFLICT DO NOTHING");
        assert_eq!(two(Places::InOrder), "INSERT INTO t (a, b) VALUES (?, ?), (?, ?) ON CONFLICT DO NOTHING");
    }

    #[test]
    fn a_term_is_of_its_kind_and_a_hashed_key_of_its_secret() {
        let secret = |text: &str| Some(SecretString::from(text));
        let hashed = key_term("885e", secret("one").as_ref());
        assert_eq!(hashed, key_term("885e", secret("one").as_ref()));
        let others = [key_term("885e", secret("two").as_ref()), key_term("885e", None), event_term("885e"), webhook_term("885e")];
        assert!(!others.contains(&hashed));
        assert_eq!(others.iter().collect::<std::collections::HashSet<_>>().len(), 4);
        assert_eq!(event_term("a\0"), event_term("a\u{1a}"));
        // Stored for as long as entries are kept: another one would find nothing of before.
        assert_eq!(event_term("evt-1"), 3_662_269_567_875_375_433);
    }
}
