//! Old entries leave a few at a time, between new ones.

use std::time::Duration;

use sqlx::AnyConnection;

use super::insert::DAY;
use super::{StoreError, within};
use crate::domain::time::Timestamp;

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    pub entries: Duration,
    pub payloads: Option<Duration>,
}

/// Most rows that leave at one time: a few milliseconds of work.
pub(super) const ROWS: i64 = 2000;

/// Removes up to [`ROWS`] rows of each kind that are too old, and says how many entries went and whether more are there. What events are
/// found by is kept by day and leaves with the last entry of its day. Payloads that are not to be stored any more leave all.
pub(super) async fn trim(connection: &mut AnyConnection, retention: Retention, now: Timestamp) -> Result<(u64, bool), StoreError> {
    let before = |kept: Duration| now.millis().saturating_sub(i64::try_from(kept.as_millis()).unwrap_or(i64::MAX));
    let day = |kept: Duration| before(kept).div_euclid(DAY);
    let entries = "DELETE FROM entry WHERE id IN (SELECT id FROM entry WHERE id < $1 ORDER BY id LIMIT $2)";
    let oldest = super::writer::first_id(before(retention.entries));
    let entries = within(sqlx::query(entries).bind(oldest).bind(ROWS).execute(&mut *connection)).await?.rows_affected();
    let finder = "DELETE FROM finder WHERE (day, term, entry) IN (SELECT day, term, entry FROM finder WHERE day < $1 LIMIT $2)";
    let terms = within(sqlx::query(finder).bind(day(retention.entries)).bind(ROWS).execute(&mut *connection)).await?.rows_affected();
    let payload = "DELETE FROM payload WHERE (day, event_id, integrator, topic) IN \
                   (SELECT day, event_id, integrator, topic FROM payload WHERE day < $1 LIMIT $2)";
    let first_day = retention.payloads.map_or(i64::MAX, day);
    let payloads = within(sqlx::query(payload).bind(first_day).bind(ROWS).execute(&mut *connection)).await?.rows_affected();
    let most = u64::try_from(ROWS).unwrap_or(u64::MAX);
    Ok((entries, entries.max(terms).max(payloads) >= most))
}
