//! Old entries leave a few at a time, between new ones.

use std::time::Duration;

use sqlx::{AnyConnection, Connection as _};

use super::insert::DAY;
use super::tally::MINUTE;
use super::{StoreError, within, writer};
use crate::config::{Database, DeliveryLog};
use crate::domain::time::Timestamp;

/// Most rows of each table that leave at one time: some ten milliseconds of work.
const ROWS: i64 = 2000;

/// The transaction of PostgreSQL in which one worker trims; the others leave it to that one.
const ALONE: &str = "SELECT CASE WHEN pg_try_advisory_xact_lock(7223900651) THEN 1 ELSE 0 END::BIGINT";

const ENTRIES: &str = "DELETE FROM entry WHERE id IN (SELECT id FROM entry WHERE id < $1 ORDER BY id LIMIT $2)";
const TERMS: &str = "DELETE FROM finder WHERE (day, term, entry) IN \
                     (SELECT day, term, entry FROM finder WHERE day < $1 ORDER BY day, term, entry LIMIT $2)";
const PAYLOADS: &str = "DELETE FROM payload WHERE (day, event_id, integrator, topic) IN (SELECT day, event_id, integrator, topic FROM payload \
                        WHERE day < $1 ORDER BY day, event_id, integrator, topic LIMIT $2)";
const TALLIES: &str = "DELETE FROM tally WHERE (minute, integrator, endpoint, worker) IN (SELECT minute, integrator, endpoint, worker FROM tally \
                       WHERE minute < $1 ORDER BY minute, integrator, endpoint, worker LIMIT $2)";

/// What came of it.
pub(super) struct Trimmed {
    /// Entries that went.
    pub entries: u64,
    /// More are there.
    pub has_more: bool,
}

/// Removes up to [`ROWS`] rows of each kind that are too old. What events are found by, and events themselves, are kept by day (UTC) and leave when their
/// whole day is too old.
pub(super) async fn trim(
    database: &Database,
    connection: &mut AnyConnection,
    config: &DeliveryLog,
    now: Timestamp,
) -> Result<Trimmed, StoreError> {
    let before = |kept: Duration| now.minus(kept).millis();
    let day = |kept: Duration| before(kept).div_euclid(DAY);
    let mut transaction = within(connection.begin()).await?;
    if matches!(database, Database::Postgres(_)) {
        let alone: i64 = within(sqlx::query_scalar(ALONE).fetch_one(&mut *transaction)).await?;
        if alone == 0 {
            return Ok(Trimmed { entries: 0, has_more: false });
        }
    }
    let mut gone = [0; 4];
    let minute = before(config.retention).div_euclid(MINUTE);
    let limits = [writer::first_id(before(config.retention)), day(config.retention), day(config.payload_retention), minute];
    for ((sql, limit), gone) in [ENTRIES, TERMS, PAYLOADS, TALLIES].into_iter().zip(limits).zip(&mut gone) {
        *gone = within(sqlx::query(sql).bind(limit).bind(ROWS).execute(&mut *transaction)).await?.rows_affected();
    }
    within(transaction.commit()).await?;
    if matches!(database, Database::Sqlite(_)) && gone.iter().any(|gone| *gone > 0) {
        // Gives free pages back to the file system, few at a time.
        within(sqlx::raw_sql("PRAGMA incremental_vacuum(500)").execute(&mut *connection)).await?;
    }
    let most = u64::try_from(ROWS).unwrap_or(u64::MAX);
    Ok(Trimmed { entries: gone[0], has_more: gone.iter().any(|gone| *gone >= most) })
}
