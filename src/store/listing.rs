//! A listing of entries, the newest first, in pages.
//!
//! Entries lie in the order of their ids, so of time, and have no other index: one would cost each entry that is written. Instead the tally says which
//! minutes have what is looked for, and those alone are read.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use utoipa::ToSchema;

use super::entry::What;
use super::insert::storable;
use super::reader::line;
use super::story::Line;
use super::tally::MINUTE;
use super::writer::first_id;
use super::{Reader, StoreError, within};
use crate::domain::time::Timestamp;

/// Most entries of one page.
pub const PAGE_LIMIT: usize = 500;

/// Most entries that are looked at for one page: a tenth of a second of work.
pub const LOOKED_AT_LIMIT: i64 = 50_000;

/// Most entries that are looked at by one statement.
const CHUNK: i64 = 10_000;

/// Minutes whose tally one statement looks at: the first, and the most.
const MINUTES: (i64, i64) = (15, 1440);

/// A page is handed over after about this time, however short.
const PATIENCE: Duration = Duration::from_secs(3);

/// What follows from an attempt, as entries tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Followed {
    /// The endpoint has it.
    Delivered,
    /// It is tried again.
    Retry,
    /// It is given up.
    Dead,
}

/// What an attempt ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A success: a complete answer with such a status.
    #[serde(rename = "2xx")]
    Success,
    /// A status of that class.
    #[serde(rename = "3xx")]
    Redirect,
    /// A status of that class.
    #[serde(rename = "4xx")]
    ClientError,
    /// A status of that class.
    #[serde(rename = "5xx")]
    ServerError,
    /// The answer did not come in time.
    Timeout,
    /// The host's name could not be resolved.
    Dns,
    /// No connection could be made.
    Connect,
    /// TLS failed.
    Tls,
    /// The connection broke.
    Disconnected,
    /// Anything else.
    Other,
}

/// Which entries are listed: those to which all that is given applies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this integrator.
    pub integrator: Option<String>,
    /// Of endpoints with this name.
    pub endpoint: Option<String>,
    /// About this topic.
    pub topic: Option<String>,
    /// That tell this.
    pub what: Option<What>,
    /// Attempts that this followed from.
    pub followed: Option<Followed>,
    /// Attempts that ended with this.
    pub class: Option<Class>,
    /// Attempts that were answered with this status.
    pub status: Option<u16>,
    /// Recorded at this time or later.
    pub since: Option<Timestamp>,
    /// Recorded before this time.
    pub until: Option<Timestamp>,
}

/// Where a listing goes on: opaque text, which stays good as long as entries are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(i64);

/// The text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no cursor: it must be taken as it is from the page before")]
pub struct BadCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let is_one = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_one {
            return Err(BadCursor);
        }
        i64::from_str_radix(text, 16).map(Self).map_err(|_| BadCursor)
    }
}

/// Some of the entries that were looked for, the newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Page {
    /// The entries. May be fewer than asked for, or none, though there are more: when much was looked at and little of it was what is looked for.
    pub entries: Vec<Listed>,
    /// The cursor of the next page; none after the last one.
    pub next: Option<String>,
    /// How many entries were looked at for this page.
    pub looked_at: i64,
}

/// One entry of a listing.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Listed {
    /// Unique in this log; later entries have greater ones.
    pub id: String,
    /// The event; where the message was none, its AMQP `message_id`, if it had one.
    pub event_id: Option<String>,
    /// Whose it is.
    pub integrator: Option<String>,
    /// What it is about.
    pub topic: Option<String>,
    /// Where it came from; only where it was rejected.
    pub source: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub line: Line,
}

impl Followed {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retry => "retry",
            Self::Dead => "dead",
        }
    }
}

impl Class {
    /// What holds of its entries: their errors are the texts of [`crate::domain::reply::Reply::error`].
    const fn of_entry(self) -> &'static str {
        match self {
            Self::Success => "e.verdict = 'delivered'",
            Self::Redirect => "e.error LIKE 'answered 3__'",
            Self::ClientError => "e.error LIKE 'answered 4__'",
            Self::ServerError => "e.error LIKE 'answered 5__'",
            Self::Timeout => "(e.error = 'timeout' OR e.error LIKE '%, then timeout')",
            Self::Dns => "(e.error = 'dns' OR e.error LIKE '%, then dns')",
            Self::Connect => "(e.error = 'connect' OR e.error LIKE '%, then connect')",
            Self::Tls => "(e.error LIKE 'tls: %' OR e.error LIKE '%, then tls: %')",
            Self::Disconnected => "(e.error = 'disconnected' OR e.error LIKE '%, then disconnected')",
            Self::Other => {
                "e.what = 'attempt' AND e.verdict <> 'delivered' AND e.error NOT LIKE 'answered 3__' AND e.error NOT LIKE 'answered 4__' \
                 AND e.error NOT LIKE 'answered 5__' AND e.error NOT IN ('timeout', 'dns', 'connect', 'disconnected') \
                 AND e.error NOT LIKE 'tls: %' AND e.error NOT LIKE '%, then timeout' AND e.error NOT LIKE '%, then dns' \
                 AND e.error NOT LIKE '%, then connect' AND e.error NOT LIKE '%, then disconnected' AND e.error NOT LIKE '%, then tls: %'"
            }
        }
    }

    /// What holds of a row of the tally that counts some.
    const fn of_tally(self) -> &'static str {
        match self {
            Self::Success => "t.class_2xx > 0",
            Self::Redirect => "t.class_3xx > 0",
            Self::ClientError => "t.class_4xx > 0",
            Self::ServerError => "t.class_5xx > 0",
            Self::Timeout => "t.class_timeout > 0",
            Self::Dns => "t.class_dns > 0",
            Self::Connect => "t.class_connect > 0",
            Self::Tls => "t.class_tls > 0",
            Self::Disconnected => "t.class_disconnected > 0",
            Self::Other => "t.class_other > 0",
        }
    }
}

impl Filter {
    /// What holds of rows of the tally that may count some; nothing where they would not be told from others.
    fn of_tally(&self) -> Vec<&'static str> {
        const ATTEMPTS: &str = "t.delivered + t.retried + t.dead > 0";
        let mut all = Vec::new();
        all.extend(self.what.map(|what| match what {
            What::Attempt => ATTEMPTS,
            What::Waits => "t.waits > 0",
            What::Skipped => "t.skipped > 0",
            What::Dead => "t.given_up > 0",
            What::Rejected => "t.rejected > 0",
        }));
        all.extend(self.followed.map(|followed| match followed {
            Followed::Delivered => "t.delivered > 0",
            Followed::Retry => "t.retried > 0",
            Followed::Dead => "t.dead > 0",
        }));
        all.extend(self.class.map(Class::of_tally));
        // An answer that is not complete has its status, and is of the class of what ended it.
        all.extend(self.status.map(|status| match status {
            200..=299 => {
                "t.class_2xx + t.class_timeout + t.class_dns + t.class_connect + t.class_tls + t.class_disconnected + t.class_other > 0"
            }
            300..=399 => "t.class_3xx + t.class_other > 0",
            400..=499 => "t.class_4xx + t.class_other > 0",
            500..=599 => "t.class_5xx + t.class_other > 0",
            _ => "t.class_other > 0",
        }));
        all.extend(self.endpoint.as_ref().map(|_| "t.endpoint = $4"));
        all
    }

    /// The newest minutes from `$1` down to `$2` that may have some, or whose tally leaves some out. Of an integrator, minute by minute is looked up, as the
    /// tally lies by minute; the order of the two is meant.
    fn minutes_sql(&self) -> Option<String> {
        let mut all = self.of_tally();
        let all_minutes = "WITH RECURSIVE m(minute) AS (SELECT CAST($1 AS BIGINT) UNION ALL SELECT minute - 1 FROM m WHERE minute > $2)";
        let from = match &self.integrator {
            Some(_) => {
                all.push("t.minute = m.minute AND t.integrator = $3");
                "m CROSS JOIN tally t"
            }
            None if all.is_empty() => return None,
            None => {
                all.push("t.minute <= $1 AND t.minute >= $2");
                "tally t"
            }
        };
        Some(format!(
            "{all_minutes} SELECT t.minute FROM {from} WHERE $3 = $3 AND $4 = $4 AND {} UNION SELECT t.minute FROM m CROSS JOIN tally t \
             WHERE t.minute = m.minute AND t.integrator = '' AND t.endpoint = '' AND t.left_out > 0 ORDER BY 1 DESC",
            all.join(" AND ")
        ))
    }

    fn entries_sql(&self) -> String {
        format!(
            "SELECT e.*, COALESCE(w.name, '') AS worker_name FROM entry e LEFT JOIN worker w ON w.number = e.worker \
             WHERE e.id >= $1 AND e.id < $2 AND ($3 = '' OR e.integrator = $3) AND ($4 = '' OR e.endpoint = $4) AND ($5 = '' OR e.topic = $5) \
             AND ($6 = '' OR e.what = $6) AND ($7 = '' OR e.verdict = $7) AND ($8 = 0 OR e.status = $8) AND {} ORDER BY e.id DESC LIMIT $9",
            self.class.map_or("1 = 1", Class::of_entry)
        )
    }
}

/// A listing that is being read: from its newest end down.
struct Listing<'f> {
    filter: &'f Filter,
    sql: String,
    entries: Vec<Listed>,
    /// One more than the page has, to know whether there are more.
    wanted: usize,
    /// All from here on have been looked at.
    below: i64,
    looked_at: i64,
}

impl Reader {
    /// The entries that a filter lets through, the newest first: at most `limit` (1 to [`PAGE_LIMIT`]), from `cursor` on. At most
    /// [`LOOKED_AT_LIMIT`] entries are looked at: a page may be short, and [`Page::next`] still lead on. Each entry that was there when the first page
    /// was read is on one page, whatever is written meanwhile. What a worker of a version before the tally writes, beside newer ones, may be missing.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn attempts(&mut self, filter: &Filter, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let least = filter.since.map_or(0, |since| first_id(since.millis()));
        let below = filter.until.map_or(i64::MAX, |until| first_id(until.millis())).min(cursor.map_or(i64::MAX, |cursor| cursor.0));
        let wanted = limit.clamp(1, PAGE_LIMIT) + 1;
        let sql = filter.entries_sql();
        let mut listing = Listing { filter, sql, entries: Vec::new(), wanted, below, looked_at: 0 };
        let is_at_end = self.read(&mut listing, least).await?;
        let Listing { mut entries, below, looked_at, .. } = listing;
        let has_more = entries.len() == wanted;
        entries.truncate(wanted - 1);
        let next = match entries.last() {
            Some(last) if has_more => Some(last.id.clone()),
            _ => (!is_at_end).then(|| Cursor(below).to_string()),
        };
        Ok(Page { entries, next, looked_at })
    }

    /// Fills a listing with entries from `least` on; whether all of them have been looked at.
    async fn read(&mut self, listing: &mut Listing<'_>, least: i64) -> Result<bool, StoreError> {
        let started = Instant::now();
        let tallied = "SELECT (SELECT MIN(minute) FROM tally) AS oldest, (SELECT MAX(minute) FROM tally) AS newest";
        let row = within(sqlx::query(tallied).fetch_one(&mut self.connection)).await?;
        let tallied: (Option<i64>, Option<i64>) = (row.try_get("oldest")?, row.try_get("newest")?);
        let (Some(sql), (Some(oldest), Some(newest))) = (listing.filter.minutes_sql(), tallied) else {
            return self.read_range(listing, least).await;
        };
        let first_of = |minute: i64| first_id(minute * MINUTE).max(least);
        // What is newer, or older, than the tally may have been written without one.
        if !self.read_range(listing, first_of(newest + 1)).await? {
            return Ok(false);
        }
        let mut size = MINUTES.0;
        // Below an id that is not the first of its minute there are more of that minute.
        let below = (listing.below - 1) / (MINUTE << 21) + 1;
        let last = oldest.max((least >> 21) / MINUTE);
        let mut top = self.minute_before(below).await?;
        while top >= last {
            if started.elapsed() > PATIENCE {
                return Ok(false);
            }
            let bottom = last.max(top - size + 1);
            let asked = Instant::now();
            let minutes = self.minutes(listing.filter, &sql, (top, bottom)).await?;
            size = if asked.elapsed() < PATIENCE / 60 { (size * 2).min(MINUTES.1) } else { size };
            for minute in minutes {
                listing.below = listing.below.min(first_of(minute + 1));
                // Minutes that hold none of what is looked for cost a question each, and a database may be far away.
                if !self.read_range(listing, first_of(minute)).await? || started.elapsed() > PATIENCE {
                    return Ok(false);
                }
            }
            listing.below = listing.below.min(first_of(bottom));
            top = self.minute_before(bottom).await?;
        }
        self.read_range(listing, least).await
    }

    /// The newest minute before this one that there is a tally of, or none: nights and broken clocks are passed over.
    async fn minute_before(&mut self, minute: i64) -> Result<i64, StoreError> {
        let query = sqlx::query_scalar("SELECT COALESCE(MAX(minute), -1) FROM tally WHERE minute < $1").bind(minute);
        within(query.fetch_one(&mut self.connection)).await
    }

    /// The minutes of a range that are worth a look, the newest first.
    async fn minutes(&mut self, filter: &Filter, sql: &str, (top, bottom): (i64, i64)) -> Result<Vec<i64>, StoreError> {
        let query = sqlx::query(AssertSqlSafe(sql.to_owned()))
            .bind(top)
            .bind(bottom)
            .bind(stored(&filter.integrator))
            .bind(stored(&filter.endpoint));
        let rows = within(query.fetch_all(&mut self.connection)).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Looks at the entries from `from` on that have not been looked at; whether at all of them.
    async fn read_range(&mut self, listing: &mut Listing<'_>, from: i64) -> Result<bool, StoreError> {
        let mut size = i64::try_from(listing.wanted).unwrap_or(CHUNK).max(500);
        while listing.below > from {
            let most = size.min(LOOKED_AT_LIMIT - listing.looked_at);
            if most <= 0 || listing.entries.len() >= listing.wanted {
                return Ok(false);
            }
            let sql = "SELECT COUNT(*) AS rows_found, COALESCE(MIN(id), 0) AS lowest FROM \
                       (SELECT id FROM entry WHERE id >= $1 AND id < $2 ORDER BY id DESC LIMIT $3) s";
            let row = within(sqlx::query(sql).bind(from).bind(listing.below).bind(most).fetch_one(&mut self.connection)).await?;
            let (found, lowest): (i64, i64) = (row.try_get("rows_found")?, row.try_get("lowest")?);
            let low = if found < most { from } else { lowest };
            if found > 0 {
                self.read_entries(listing, low).await?;
            }
            listing.looked_at += found;
            listing.below = low;
            size = (size * 2).min(CHUNK);
        }
        Ok(listing.entries.len() < listing.wanted)
    }

    async fn read_entries(&mut self, listing: &mut Listing<'_>, low: i64) -> Result<(), StoreError> {
        let filter = listing.filter;
        let left = i64::try_from(listing.wanted - listing.entries.len()).unwrap_or(0);
        let query = sqlx::query(AssertSqlSafe(listing.sql.clone()))
            .bind(low)
            .bind(listing.below)
            .bind(stored(&filter.integrator))
            .bind(stored(&filter.endpoint))
            .bind(stored(&filter.topic))
            .bind(filter.what.map_or("", What::as_str))
            .bind(filter.followed.map_or("", Followed::as_str))
            .bind(i64::from(filter.status.unwrap_or_default()))
            .bind(left);
        for row in within(query.fetch_all(&mut self.connection)).await? {
            let id: i64 = row.try_get("id")?;
            listing.entries.push(Listed {
                id: Cursor(id).to_string(),
                event_id: row.try_get("event_id")?,
                integrator: row.try_get("integrator")?,
                topic: row.try_get("topic")?,
                source: row.try_get("source")?,
                line: line(&row)?,
            });
        }
        Ok(())
    }
}

/// A text to look for, as it is stored; none is empty.
fn stored(text: &Option<String>) -> String {
    text.as_deref().map(|text| storable(text).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written_and_nothing_else_is_one() {
        for id in [0, 1, first_id(1_764_000_000_000) | 77, i64::MAX] {
            assert_eq!(Cursor(id).to_string().parse(), Ok(Cursor(id)));
        }
        let bad = [
            "",
            "0",
            "+000000000000001",
            "000000000000000G",
            "00000000000000AB",
            "ffffffffffffffff",
            " 000000000000001",
            "00000000000000011",
        ];
        for text in bad.into_iter().chain(["0000000000000001\n", "' OR 1=1 --xxxxx", "éééééééé"]) {
            assert_eq!(text.parse::<Cursor>(), Err(BadCursor), "{text:?}");
        }
    }
}
