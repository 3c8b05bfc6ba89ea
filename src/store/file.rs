//! Rows into a file, one by one, through a connection of its own that blocks: 8 s for a lock that somebody else holds, and for as long as a disk hangs.
//! Nothing but the writer's thread waits for that.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Transaction};

use super::insert::Tables;
use super::value::Value;
use super::{StoreError, schema};
use crate::config::Database;

/// The writer's connection to a file, and what it says on it.
pub(super) struct File {
    connection: Connection,
    entries: String,
    terms: String,
    payloads: String,
    tallies: String,
}

impl File {
    /// Opens a file that has its tables.
    ///
    /// # Errors
    /// [`StoreError::Database`] when it cannot be opened.
    pub(super) fn open(path: &Path, database: &Database, tables: &Tables) -> Result<Self, StoreError> {
        // It is used by one thread at a time.
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        for statement in schema::set_up(database) {
            connection.execute_batch(statement)?;
        }
        let [entries, terms, payloads, tallies] =
            [&tables.entries, &tables.terms, &tables.payloads, &tables.tallies].map(|table| table.statement(1));
        Ok(Self { connection, entries, terms, payloads, tallies })
    }

    /// What is inserted until it is committed comes to be as one, or not at all where this is dropped.
    pub(super) fn begin(&self) -> Result<Transaction<'_>, StoreError> {
        Ok(self.connection.unchecked_transaction()?)
    }

    pub(super) fn entries<'v, V: IntoIterator<Item = Value<'v>>>(&self, rows: impl Iterator<Item = V>) -> Result<(), StoreError> {
        self.insert(&self.entries, rows)
    }

    pub(super) fn terms<'v, V: IntoIterator<Item = Value<'v>>>(&self, rows: impl Iterator<Item = V>) -> Result<(), StoreError> {
        self.insert(&self.terms, rows)
    }

    pub(super) fn payloads<'v, V: IntoIterator<Item = Value<'v>>>(&self, rows: impl Iterator<Item = V>) -> Result<(), StoreError> {
        self.insert(&self.payloads, rows)
    }

    pub(super) fn tallies<'v, V: IntoIterator<Item = Value<'v>>>(&self, rows: impl Iterator<Item = V>) -> Result<(), StoreError> {
        self.insert(&self.tallies, rows)
    }

    fn insert<'v, V: IntoIterator<Item = Value<'v>>>(&self, sql: &str, rows: impl Iterator<Item = V>) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare(sql)?;
        for row in rows {
            let mut bound = 0;
            for value in row {
                bound += 1;
                statement.raw_bind_parameter(bound, value)?;
            }
            debug_assert_eq!(bound, statement.parameter_count(), "a place would keep the value of the row before: {sql}");
            statement.raw_execute()?;
        }
        Ok(())
    }
}

impl From<rusqlite::Error> for StoreError {
    /// Keeps what SQLite says of itself: its messages name tables and columns, never values.
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(failure, message) => {
                Self::of_code(&failure.extended_code.to_string(), &message.unwrap_or_else(|| failure.to_string()))
            }
            error => Self::Database(error.to_string()),
        }
    }
}
