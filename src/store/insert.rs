//! Entries into rows, all of a batch in one transaction.
//!
//! Into PostgreSQL with many rows in each statement, through sqlx, since each statement is a round trip. Into a file row by row, through rusqlite:
//! sqlx takes as long for handing the 33 values of an event over to SQLite as SQLite does for storing them.

use std::borrow::Cow;

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use sqlx::{AnyConnection, Connection as _};

use super::entry::Entry;
use super::file::File;
use super::statements::Statements;
use super::tally::{self, DueRow, Tally};
use super::value::Value;
use super::{StoreError, within};
use crate::config::{Database, DeliveryLog};
use crate::domain::search::SearchKey;
use crate::domain::time::Timestamp;

/// Milliseconds of a day: what entries are found by is kept by day.
pub(super) const DAY: i64 = 24 * 3600 * 1000;

/// Most rows of one statement. PostgreSQL takes 65,535 values in one.
const ROWS: usize = 256;

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

/// A table as rows are inserted into it: its name and columns, how many these are, and what becomes of a row that is there.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub into: Cow<'static, str>,
    pub columns: usize,
    pub conflict: Cow<'static, str>,
}

impl Table {
    /// What is there already stays as it is.
    const fn of(into: &'static str, columns: usize) -> Self {
        Self { into: Cow::Borrowed(into), columns, conflict: Cow::Borrowed("ON CONFLICT DO NOTHING") }
    }

    /// The statement for so many rows. SQLite takes numbered places for names and looks each one up in a list, once for each statement that it
    /// prepares: for one row that is nothing.
    pub(super) fn statement(&self, rows: usize) -> String {
        let row = |row: usize| (1..=self.columns).map(|column| format!("${}", row * self.columns + column)).collect::<Vec<_>>().join(", ");
        let places = (0..rows).map(|number| format!("({})", row(number))).collect::<Vec<_>>().join(", ");
        format!("INSERT INTO {} VALUES {places} {}", self.into, self.conflict)
    }
}

/// The tables that a batch is written to.
pub(super) struct Tables {
    pub entries: Table,
    pub terms: Table,
    pub payloads: Table,
    pub tallies: Table,
}

impl Tables {
    fn new() -> Self {
        Self {
            entries: Table::of(
                "entry (id, at, what, event_id, integrator, endpoint, topic, source, webhook_id, attempt, events, verdict, reason, status, \
                 error, took_ms, request_bytes, due_at, replayed_at, keys, worker)",
                ENTRY,
            ),
            terms: Table::of("finder (day, term, entry)", TERM),
            payloads: Table::of("payload (day, event_id, integrator, topic, body)", PAYLOAD),
            tallies: tally::table(),
        }
    }
}

const ENTRY: usize = 21;
const TERM: usize = 3;
const PAYLOAD: usize = 5;

/// Writes rows, in the order of their ids. A row that is there already stays as it is, so a batch whose end was not heard of may be written again.
pub(super) struct Insert {
    worker: i64,
    hash_secret: Option<SecretString>,
    way: Way,
}

/// How rows get into the database.
enum Way {
    File(File),
    Server { entries: Statements, terms: Statements, payloads: Statements, tallies: Statements },
}

impl Insert {
    /// For the database of the configuration, which has its tables.
    ///
    /// # Errors
    /// [`StoreError::Database`] when it cannot be opened.
    pub(super) fn open(worker: i64, config: &DeliveryLog) -> Result<Self, StoreError> {
        let tables = Tables::new();
        let way = match &config.database {
            Some(database @ Database::Sqlite(path)) => Way::File(File::open(path, database, &tables)?),
            Some(Database::Postgres(_)) => Way::Server {
                entries: Statements::new(&tables.entries, ROWS),
                terms: Statements::new(&tables.terms, ROWS),
                payloads: Statements::new(&tables.payloads, 1),
                tallies: Statements::new(&tables.tallies, tally::ROWS),
            },
            None => return Err(StoreError::Off),
        };
        Ok(Self { worker, hash_secret: config.hash_secret.clone(), way })
    }

    /// From now on rows are of this worker.
    pub(super) const fn set_worker(&mut self, worker: i64) {
        self.worker = worker;
    }

    /// Writes all of them or none, and with them some of the tally that is to be written: at most [`tally::ROWS`] rows, and one for each minute. A tally
    /// that the database refuses is given up: it must not cost an entry. A file has a connection of its own for this, which blocks.
    pub(super) async fn all(&self, connection: &mut AnyConnection, rows: &[Row], tally: &mut Tally) -> Result<(), StoreError> {
        let due = tally.due(tally::ROWS);
        match self.write(connection, rows, &due.rows).await {
            Err(StoreError::Refused(_)) if !due.rows.is_empty() => self.write(connection, rows, &[]).await?,
            written => written?,
        }
        tally.written(&due);
        Ok(())
    }

    async fn write(&self, connection: &mut AnyConnection, rows: &[Row], due: &[DueRow]) -> Result<(), StoreError> {
        let found_by = self.terms(rows);
        let with_payload: Vec<&Row> = rows.iter().filter(|row| row.entry.payload.is_some()).collect();
        match &self.way {
            Way::File(file) => {
                let transaction = file.begin()?;
                file.entries(rows.iter().map(|row| self.entry_values(row)))?;
                file.terms(found_by.iter().map(term_values))?;
                file.payloads(with_payload.into_iter().map(payload_values))?;
                file.tallies(due.iter().map(tally::values))?;
                Ok(transaction.commit()?)
            }
            Way::Server { entries, terms, payloads, tallies } => {
                let mut transaction = within(connection.begin()).await?;
                entries.insert(&mut transaction, rows, |row| self.entry_values(row)).await?;
                terms.insert(&mut transaction, &found_by, term_values).await?;
                payloads.insert(&mut transaction, &with_payload, |row| payload_values(row)).await?;
                tallies.insert(&mut transaction, due, tally::values).await?;
                within(transaction.commit()).await
            }
        }
    }

    fn entry_values<'r>(&self, Row { id, entry, .. }: &'r Row) -> [Value<'r>; ENTRY] {
        let millis = |at: Option<Timestamp>| Value::Int(at.map(Timestamp::millis));
        [
            Value::int(*id),
            Value::int(entry.at.millis()),
            Value::text(entry.what.as_str()),
            Value::maybe(entry.event_id.as_ref().map(|id| id.as_str())),
            Value::maybe(entry.integrator.as_ref().map(|key| key.as_str())),
            Value::maybe(entry.endpoint.as_ref().map(|id| id.as_str())),
            Value::maybe(entry.topic.as_ref().map(|topic| topic.as_str())),
            Value::maybe(entry.source.as_ref().map(|source| source.as_str())),
            Value::maybe(entry.webhook_id.as_deref()),
            Value::Int(entry.attempt.map(i64::from)),
            Value::Int(entry.events.map(signed)),
            Value::maybe(entry.verdict),
            Value::maybe(entry.reason),
            Value::Int(entry.status.map(i64::from)),
            Value::maybe(entry.error.as_deref()),
            Value::Int(entry.took.map(|took| i64::try_from(took.as_millis()).unwrap_or(i64::MAX))),
            Value::Int(entry.request_bytes.map(signed)),
            millis(entry.due_at),
            millis(entry.replayed_at),
            Value::Text(self.keys(entry).map(Cow::Owned)),
            Value::int(self.worker),
        ]
    }

    /// What the rows are found by, each once, in the order in which they lie there: neighbours share a page.
    fn terms(&self, rows: &[Row]) -> Vec<Found> {
        let mut terms: Vec<Found> = rows.iter().flat_map(|row| self.terms_of(row)).collect();
        terms.sort_unstable();
        terms.dedup();
        terms
    }

    /// The keys as they are shown; hashed ones cannot be.
    fn keys(&self, entry: &Entry) -> Option<String> {
        if entry.keys.is_empty() || self.hash_secret.is_some() {
            return None;
        }
        let (mut json, mut key_with_value) = (Vec::with_capacity(128), String::new());
        for SearchKey { name, value } in &entry.keys {
            json.push(if json.is_empty() { b'[' } else { b',' });
            key_with_value.clear();
            key_with_value.extend([name, "=", value]);
            // Writes control characters as escapes.
            serde_json::to_writer(&mut json, &key_with_value).ok()?;
        }
        json.push(b']');
        String::from_utf8(json).ok()
    }

    fn terms_of<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = Found> + 'a {
        let day = row.entry.at.millis().div_euclid(DAY);
        let event = row.entry.event_id.iter().map(|id| event_term(id.as_str()));
        let keys = row.entry.keys.iter().map(|key| key_term(&key.value, self.hash_secret.as_ref()));
        // The same message is told again in each retry; a batch may be another one each time.
        let is_news = row.entry.attempt == Some(1) || row.entry.events.is_some_and(|events| events > 1);
        let webhook = row.entry.webhook_id.iter().filter(move |_| is_news).map(|id| webhook_term(id));
        event.chain(webhook).chain(keys).map(move |term| (day, term, row.id))
    }
}

/// A day, a term, and the entry that it stands for.
type Found = (i64, Term, i64);

const fn term_values((day, term, id): &Found) -> [Value<'_>; TERM] {
    [Value::int(*day), Value::int(*term), Value::int(*id)]
}

fn payload_values(row: &Row) -> [Value<'_>; PAYLOAD] {
    let entry = &row.entry;
    [
        Value::int(entry.at.millis().div_euclid(DAY)),
        Value::text(entry.event_id.as_ref().map_or("", |id| id.as_str())),
        Value::text(entry.integrator.as_ref().map_or("", |key| key.as_str())),
        Value::text(entry.topic.as_ref().map_or("", |topic| topic.as_str())),
        Value::Bytes(entry.payload.as_deref().unwrap_or_default()),
    ]
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

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
