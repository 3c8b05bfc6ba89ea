//! The delivery log: what became of each event, in SQLite or PostgreSQL, for whoever is asked about it later.
//!
//! One direction: a fact becomes an [`entry::Entry`], the [`journal::Journal`] holds it until the [`writer`] takes it, and the
//! [`reader`] finds it again: an event's [`story`], a [`listing`] of entries, the [`health`] of endpoints. The [`desk`] does so for many who ask, and [`check()`] says
//! whether there could be a log at all. Nothing that delivers ever waits for any of this: what the database does not take in time is left out
//! and counted. Nothing depends on it either: the broker has all that delivery needs.

mod check;
pub mod desk;
pub mod entry;
mod file;
pub mod health;
pub mod holds;
mod insert;
pub(crate) mod jobs;
pub mod journal;
pub mod listing;
pub mod reader;
mod schema;
mod statements;
pub mod story;
mod tally;
#[cfg(test)]
mod tests;
mod trim;
mod value;
pub mod writer;

use std::time::Duration;

use sqlx::any::AnyConnectOptions;
use sqlx::{AnyConnection, ConnectOptions as _};
use tokio::time::timeout;

pub use check::{Found, check};
pub use desk::Desk;
pub use holds::HoldTable;
pub use journal::Journal;
pub use reader::Reader;
pub use writer::Writer;

use crate::config::Database;

/// The limit on every single operation on the database, but for what is written to a file (see [`file`]).
const LIMIT: Duration = Duration::from_secs(10);

/// Why the delivery log could not be opened, read or written. Shows no value that was to be stored, and no password.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database says no, or there is none.
    #[error("{0}")]
    Database(String),
    /// The values are such that the database does not take them; another try would end in the same way.
    #[error("an entry was refused: {0}")]
    Refused(String),
    /// There was no answer.
    #[error("no answer within {} s", LIMIT.as_secs())]
    Timeout,
    /// The log is off.
    #[error("it is off: `delivery_log.enabled` is false")]
    Off,
    /// Others ask it already, as many as may, and none of them has come to an end in time.
    #[error("too many ask it at one time")]
    Busy,
    /// There is no such file.
    #[error("{0} does not exist: has a worker with this configuration run here, with `delivery_log` enabled?")]
    NoFile(String),
}

impl StoreError {
    /// What a database says of itself; of what is wrong with values the code alone, as a message may hold them.
    fn of_code(code: &str, message: &str) -> Self {
        if is_about_values(code) { Self::Refused(format!("code {code}")) } else { Self::Database(format!("{message} (code {code})")) }
    }
}

impl From<sqlx::Error> for StoreError {
    /// Keeps what the database says about itself. PostgreSQL puts values into details, which are left out, but also into the messages
    /// of some data errors: of those the code is enough.
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => Self::of_code(&error.code().unwrap_or_default(), error.message()),
            sqlx::Error::Configuration(_) => Self::Database("the URL or its parameters are not understood".to_owned()),
            sqlx::Error::Encode(_) | sqlx::Error::Protocol(_) => Self::Refused("it cannot be sent".to_owned()),
            error => Self::Database(error.to_string()),
        }
    }
}

/// Whether a code stands for values that the database does not take: `SQLSTATE` classes 22, 23 and 54 (PostgreSQL 15, appendix A), SQLite's
/// `TOOBIG` (18), `CONSTRAINT` (19) and `MISMATCH` (20), the low byte of what it calls extended codes.
fn is_about_values(code: &str) -> bool {
    let is_sqlstate = code.len() == 5 && ["22", "23", "54"].iter().any(|class| code.starts_with(class));
    is_sqlstate || (code.len() < 5 && code.parse().is_ok_and(|code: u32| matches!(code & 0xff, 18..=20)))
}

/// An operation on the database, within the time limit.
async fn within<T>(operation: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    timeout(LIMIT, operation).await.map_err(|_| StoreError::Timeout)?.map_err(StoreError::from)
}

/// Connects to a database; one that `may_be_made` is made where it is missing (a file alone).
async fn connect(database: &Database, may_be_made: bool) -> Result<AnyConnection, StoreError> {
    open(&schema::url(database, may_be_made)?, schema::set_up(database)).await
}

/// Connects, and says what is to be said first.
async fn open(url: &str, set_up: &'static [&'static str]) -> Result<AnyConnection, StoreError> {
    sqlx::any::install_default_drivers();
    let options: AnyConnectOptions = url.parse()?;
    let mut connection = within(options.disable_statement_logging().connect()).await?;
    schema::prepare(set_up, &mut connection).await?;
    Ok(connection)
}
