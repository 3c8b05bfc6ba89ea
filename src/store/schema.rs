//! The tables, the same for both databases but for a word each.
//!
//! Nothing is looked up while entries are written: they are appended, and nothing but their tally is updated. What they are found by stands in a table of its
//! own, by day, so that rows of one day lie together: new ones go to one place, and old ones leave from one place.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, AssertSqlSafe, SqlSafeStr as _};
use tokio::time::{sleep, timeout};

use super::{LIMIT, StoreError, within};
use crate::config::Database;

/// The tables as they were first made. A later version adds another text; this one never changes, as sqlx compares its checksum.
const FIRST: &str = "
CREATE TABLE worker (
    number {number} PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    started_at BIGINT NOT NULL
);
CREATE TABLE entry (
    id {number} PRIMARY KEY,
    at BIGINT NOT NULL,
    what TEXT NOT NULL,
    event_id TEXT,
    integrator TEXT,
    endpoint TEXT,
    topic TEXT,
    source TEXT,
    webhook_id TEXT,
    attempt BIGINT,
    events BIGINT,
    verdict TEXT,
    reason TEXT,
    status BIGINT,
    error TEXT,
    took_ms BIGINT,
    request_bytes BIGINT,
    due_at BIGINT,
    replayed_at BIGINT,
    keys TEXT,
    worker BIGINT NOT NULL
);
CREATE TABLE finder (
    day BIGINT NOT NULL,
    term BIGINT NOT NULL,
    entry BIGINT NOT NULL,
    PRIMARY KEY (day, term, entry)
){clustered};
CREATE TABLE payload (
    day BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    integrator TEXT NOT NULL,
    topic TEXT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (day, event_id, integrator, topic)
);
";

/// What operators want that is to outlive a restart.
const HOLDS: &str = "
CREATE TABLE hold (
    integrator TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    since BIGINT NOT NULL,
    until BIGINT,
    actor TEXT NOT NULL,
    reason TEXT,
    PRIMARY KEY (integrator, endpoint)
);
";

/// Counts of entries by minute and endpoint ([`super::tally`]). Never changes either.
const TALLY: &str = "
CREATE TABLE tally (
    minute BIGINT NOT NULL,
    integrator TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    worker BIGINT NOT NULL,
    delivered INTEGER NOT NULL,
    retried INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    waits INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    given_up INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    class_2xx INTEGER NOT NULL,
    class_3xx INTEGER NOT NULL,
    class_4xx INTEGER NOT NULL,
    class_5xx INTEGER NOT NULL,
    class_timeout INTEGER NOT NULL,
    class_dns INTEGER NOT NULL,
    class_connect INTEGER NOT NULL,
    class_tls INTEGER NOT NULL,
    class_disconnected INTEGER NOT NULL,
    class_other INTEGER NOT NULL,
    took_5 INTEGER NOT NULL,
    took_10 INTEGER NOT NULL,
    took_25 INTEGER NOT NULL,
    took_50 INTEGER NOT NULL,
    took_100 INTEGER NOT NULL,
    took_250 INTEGER NOT NULL,
    took_500 INTEGER NOT NULL,
    took_1000 INTEGER NOT NULL,
    took_2500 INTEGER NOT NULL,
    took_5000 INTEGER NOT NULL,
    took_10000 INTEGER NOT NULL,
    took_more INTEGER NOT NULL,
    left_out INTEGER NOT NULL,
    succeeded_at BIGINT,
    failure TEXT,
    PRIMARY KEY (minute, integrator, endpoint, worker)
){clustered};
";

/// The third: jobs on letters.
const JOBS: &str = "
CREATE TABLE job (
    id TEXT PRIMARY KEY,
    queue TEXT NOT NULL,
    state TEXT NOT NULL,
    run BIGINT NOT NULL,
    instance TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    ended_at BIGINT,
    cancelled_by TEXT,
    told TEXT NOT NULL
);
";

/// What makes the tables, in its order: number, name and text.
const STEPS: [(i64, &str, &str); 4] =
    [(1, "the delivery log", FIRST), (2, "the tally", TALLY), (3, "jobs", JOBS), (4, "endpoints on hold", HOLDS)];

/// The table in which sqlx keeps which of them were made.
pub(super) const MIGRATIONS: &str = "_sqlx_migrations";

const LOG_AHEAD: &str = "PRAGMA journal_mode = WAL";

/// How long who makes the file or the tables at the same time is waited for. All of them are made within some ten milliseconds.
const MEANWHILE: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// What stays as it is in the path of a URL.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_');

/// The URL of a database for the client library. A file that may be made is made here, for nobody but its owner to read.
pub(super) fn url(database: &Database, may_be_made: bool) -> Result<String, StoreError> {
    match database {
        Database::Postgres(url) => Ok(url.expose_secret().to_owned()),
        Database::Sqlite(path) => {
            if may_be_made {
                make_file(path)?;
                is_private(path)?;
            } else if !path.exists() {
                return Err(StoreError::NoFile(path.display().to_string()));
            }
            Ok(format!("{}?mode=rw", file_url(path)?))
        }
    }
}

/// The same to look and change nothing. Where no write-ahead log is there, nobody writes, and SQLite is told not to make one.
pub(super) fn url_to_look(database: &Database) -> Result<String, StoreError> {
    match database {
        Database::Postgres(_) => url(database, false),
        Database::Sqlite(path) => {
            let mut log = path.clone().into_os_string();
            log.push("-wal");
            let immutable = if Path::new(&log).exists() { "" } else { "&immutable=true" };
            Ok(format!("{}?mode=ro{immutable}", file_url(path)?))
        }
    }
}

fn file_url(path: &Path) -> Result<String, StoreError> {
    let text = path.to_str().ok_or_else(|| StoreError::Database(format!("{} is not UTF-8", path.display())))?;
    Ok(format!("sqlite:{}", utf8_percent_encode(text, PATH)))
}

/// Makes a file where there is none. One that is there must not be opened here: closing it would take from the process all locks that SQLite has on
/// it (POSIX, `fcntl`), and whoever came and went meanwhile would take the write-ahead log away from under the connections that are open.
fn make_file(path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(StoreError::Database(format!("the file cannot be made: {error}"))),
        _ => Ok(()),
    }
}

/// Refuses a file that others can read.
pub(super) fn is_private(path: &Path) -> Result<(), StoreError> {
    let mode = path.metadata().map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        return Err(StoreError::Database(format!("the file is open to others (mode {mode:o}); chmod 600 it")));
    }
    Ok(())
}

/// What is said on each new connection. With write-ahead logging readers and the writer do not wait for each other; a crash of the machine may
/// cost the last entries, never the file (SQLite's documentation of `synchronous`).
pub(super) const fn set_up(database: &Database) -> &'static [&'static str] {
    match database {
        Database::Sqlite(_) => {
            // Pages, and how they are given back, are settled when a file is made. With pages of 4 KiB writing takes an eighth more CPU; with those of
            // 16 an event that comes alone writes twice as much. What is deleted is overwritten, as it is personal data.
            &[
                "PRAGMA busy_timeout = 8000",
                "PRAGMA page_size = 8192",
                "PRAGMA auto_vacuum = INCREMENTAL",
                LOG_AHEAD,
                "PRAGMA synchronous = NORMAL",
                "PRAGMA secure_delete = ON",
                "PRAGMA cache_size = -8192",
            ]
        }
        Database::Postgres(_) => &["SET statement_timeout = '9s'", "SET synchronous_commit = off", "SET application_name = 'callbackd'"],
    }
}

/// What is said on a connection that is to change nothing.
pub(super) const fn set_up_to_look(database: &Database) -> &'static [&'static str] {
    match database {
        Database::Sqlite(_) => &["PRAGMA busy_timeout = 8000"],
        Database::Postgres(_) => &["SET statement_timeout = '9s'", "SET application_name = 'callbackd'"],
    }
}

/// Makes a connection wait until what it has written is safe: for what operators want, not for entries.
pub(super) async fn make_durable(database: &Database, connection: &mut AnyConnection) -> Result<(), StoreError> {
    let statement = match database {
        Database::Sqlite(_) => "PRAGMA synchronous = FULL",
        Database::Postgres(_) => "SET synchronous_commit = on",
    };
    within(sqlx::raw_sql(statement).execute(connection)).await.map(drop)
}

/// Says on a new connection what is to be said. Where a file turns to write-ahead logging, SQLite itself waits for nobody.
pub(super) async fn prepare(set_up: &'static [&'static str], connection: &mut AnyConnection) -> Result<(), StoreError> {
    for statement in set_up {
        let mut pauses = if *statement == LOG_AHEAD { MEANWHILE.as_slice() } else { &[] }.iter();
        while let Err(error) = within(sqlx::raw_sql(*statement).execute(&mut *connection)).await {
            pause_after(error, pauses.next().copied()).await?;
        }
    }
    Ok(())
}

/// Makes the tables, or brings those of an older version up to date. Several may do so at one time, of this process or of others: who finds
/// that a table has come into being meanwhile looks again at what is left to do.
pub(super) async fn migrate(database: &Database, connection: &mut AnyConnection) -> Result<(), StoreError> {
    let mut pauses = MEANWHILE.into_iter();
    while let Err(error) = migrate_once(database, connection).await {
        pause_after(error, pauses.next()).await?;
    }
    Ok(())
}

/// A step has failed: time for others to make the file or the tables, and another try, unless it was given up.
async fn pause_after(error: StoreError, pause: Option<Duration>) -> Result<(), StoreError> {
    match (error, pause) {
        (error @ StoreError::Timeout, _) | (error, None) => Err(error),
        (_, Some(pause)) => {
            sleep(pause).await;
            Ok(())
        }
    }
}

async fn migrate_once(database: &Database, connection: &mut AnyConnection) -> Result<(), StoreError> {
    let mut migrator = Migrator::with_migrations(migrations(database));
    // A newer worker may have added to the tables; what it added is not ours to judge.
    migrator.set_ignore_missing(true);
    let migrated = timeout(LIMIT, migrator.run_direct(None, connection, false)).await.map_err(|_| StoreError::Timeout)?;
    migrated.map_err(|error| StoreError::Database(format!("its tables cannot be made or are those of another version: {error}")))
}

/// The steps in which the tables are made.
pub(super) fn migrations(database: &Database) -> Vec<Migration> {
    let (number, clustered) = match database {
        Database::Sqlite(_) => ("INTEGER", " WITHOUT ROWID"),
        Database::Postgres(_) => ("BIGINT", ""),
    };
    let migration = |(version, name, sql): (i64, &'static str, &str)| {
        let sql = sql.replace("{number}", number).replace("{clustered}", clustered);
        Migration::new(version, name.into(), MigrationType::Simple, AssertSqlSafe(sql).into_sql_str(), false)
    };
    STEPS.into_iter().map(migration).collect()
}

/// The names of all tables.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    STEPS.into_iter().flat_map(|(_, _, sql)| tables_of(sql))
}

/// The names of the tables that a step makes.
pub(super) fn tables_of(sql: &str) -> impl Iterator<Item = &str> {
    sql.split("CREATE TABLE ").skip(1).filter_map(|rest| rest.split_whitespace().next())
}
