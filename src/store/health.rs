//! How endpoints have been, by the tally: its minutes are added up in the database.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};
use utoipa::ToSchema;

use super::insert::storable;
use super::tally::{CLASSES, MINUTE, TOOK, read_failure, sums, took_columns};
use super::{Reader, StoreError, within};
use crate::domain::time::Timestamp;

/// Most rows of the tally that one question adds up: 0.7 s of work for SQLite; of 5,000 endpoints, 50 minutes in which all of them were called.
const ROWS: i64 = 250_000;

/// Most endpoints of one report.
const ENDPOINTS: i64 = 10_000;

/// Longest span, in minutes: 93 days. Of one endpoint each minute is looked up.
const SPAN_LIMIT: i64 = 93 * 24 * 60;

/// Most points of one history.
const POINTS: i64 = 2000;

/// A span of whole minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first minute since the Unix epoch, and the first one behind it.
    from: i64,
    until: i64,
}

impl Span {
    /// From the minute that has `from` to the one that has `until`, both included, as far back from its end as 93 days. `None` where it ends before it
    /// begins.
    #[must_use]
    pub fn new(from: Timestamp, until: Timestamp) -> Option<Self> {
        // Ids of entries have 42 bits for their time.
        let [from, until] = [from, until].map(|at| at.millis().clamp(0, (1 << 42) - 1).div_euclid(MINUTE));
        (from <= until).then(|| Self { from: from.max(until + 1 - SPAN_LIMIT), until: until + 1 })
    }
}

/// How endpoints have been.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Report {
    /// Since when: later than asked for, where there was too much to add up. RFC 3339.
    pub since: String,
    /// Until when. RFC 3339.
    pub until: String,
    /// Entries of this time that are counted nowhere yet, or could not be, because there were too many endpoints at one time.
    pub left_out: i64,
    /// Each endpoint that there are entries of, by integrator and name; at most 10,000.
    pub endpoints: Vec<Health>,
}

/// How one endpoint has been. What is counted are attempts at deliveries: a request with several events counts once for each.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Health {
    /// Whose it is.
    pub integrator: String,
    /// Its name.
    pub endpoint: String,
    /// Attempts that were successful.
    pub delivered: i64,
    /// Attempts that failed and are made again.
    pub retried: i64,
    /// Attempts that failed for good.
    pub dead: i64,
    /// Times that something waited for another reason than a failed attempt, as far as the log tells them.
    pub waits: i64,
    /// Events that it was not told of, on purpose.
    pub skipped: i64,
    /// Dead letters.
    pub given_up: i64,
    /// Deliveries that were rejected.
    pub rejected: i64,
    /// The share of attempts that were successful, from 0 to 1; none where there were none.
    pub success_rate: Option<f64>,
    /// Attempts by what they ended with: `2xx`, `3xx`, `4xx`, `5xx`, `timeout`, `dns`, `connect`, `tls`, `disconnected` or `other`. Those that are not there were 0.
    pub classes: BTreeMap<String, i64>,
    /// Half of the attempts took no longer than this, in milliseconds: taken from a histogram, in between its bounds (5, 10, 25 … 10,000) by
    /// interpolation. 10,000 stands for whatever is longer.
    pub p50_ms: Option<f64>,
    /// As `p50_ms`, of 99 in 100 attempts.
    pub p99_ms: Option<f64>,
    /// When it took a delivery last, within this time. RFC 3339.
    pub last_success_at: Option<String>,
    /// The last attempt that failed, within this time.
    pub last_failure: Option<LastFailure>,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LastFailure {
    /// When. RFC 3339.
    pub at: String,
    /// The status of the answer.
    pub status: Option<i64>,
    /// Why it failed; nothing that the endpoint wrote.
    pub error: String,
}

/// How an endpoint, or all of them, has been over time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct History {
    /// Since when: later than asked for, where there was too much to add up. RFC 3339.
    pub since: String,
    /// Until when. RFC 3339.
    pub until: String,
    /// Minutes that a point stands for: more than asked for, where there would be more than 2,000 points.
    pub step_minutes: i64,
    /// One for each step in which something was tried, the oldest first.
    pub points: Vec<Point>,
}

/// How an endpoint has been in one step of time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Point {
    /// When the step begins. RFC 3339.
    pub at: String,
    /// Attempts that were successful.
    pub delivered: i64,
    /// Attempts that failed.
    pub failed: i64,
    /// As in the endpoint's health.
    pub p50_ms: Option<f64>,
    /// As in the endpoint's health.
    pub p99_ms: Option<f64>,
}

/// The rows of one endpoint: each minute is looked up, as they lie by minute. The order of the two is meant.
const OF_ONE: &str = "WITH RECURSIVE m(minute) AS (SELECT CAST($1 AS BIGINT) UNION ALL SELECT minute + 1 FROM m WHERE minute + 1 < $2)";
const FROM_ONE: &str = "FROM m CROSS JOIN tally t WHERE t.minute = m.minute AND t.integrator = $3 AND t.endpoint = $4";

impl Health {
    /// All attempts.
    #[must_use]
    pub const fn attempts(&self) -> i64 {
        self.delivered + self.retried + self.dead
    }
}

impl Reader {
    /// How endpoints have been, or a single one of an integrator. With more than 250,000 rows to add up, the time begins later ([`Report::since`]).
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn health(&mut self, span: Span, endpoint: Option<(&str, &str)>) -> Result<Report, StoreError> {
        let span = if endpoint.is_some() { span } else { self.shortened(span).await? };
        let sql = match endpoint {
            Some(_) => format!("{OF_ONE} SELECT t.integrator, t.endpoint, {} {FROM_ONE} GROUP BY t.integrator, t.endpoint", sums()),
            None => format!(
                "SELECT t.integrator, t.endpoint, {} FROM tally t WHERE t.minute >= $1 AND t.minute < $2 AND t.endpoint <> '' \
                 GROUP BY t.integrator, t.endpoint ORDER BY t.integrator, t.endpoint LIMIT $3",
                sums()
            ),
        };
        let query = sqlx::query(AssertSqlSafe(sql)).bind(span.from).bind(span.until);
        let query = match endpoint {
            Some((integrator, endpoint)) => query.bind(storable(integrator).into_owned()).bind(storable(endpoint).into_owned()),
            None => query.bind(ENDPOINTS),
        };
        let rows = within(query.fetch_all(&mut self.connection)).await?;
        let left_out = format!("{OF_ONE} SELECT CAST(COALESCE(SUM(t.left_out), 0) AS BIGINT) {FROM_ONE}");
        let left_out = sqlx::query_scalar(AssertSqlSafe(left_out)).bind(span.from).bind(span.until).bind("").bind("");
        let left_out = within(left_out.fetch_one(&mut self.connection)).await?;
        let endpoints = rows.iter().map(health).collect::<Result<_, _>>()?;
        Ok(Report { since: time(span.from * MINUTE), until: time(span.until * MINUTE), left_out, endpoints })
    }

    /// How an endpoint has been over time, or all of them together, the oldest first: one point for each step of so many minutes in which something was
    /// tried. A step that would make more than 2,000 points is made as long as it must be; of all endpoints, the time begins later as in [`Self::health`].
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn history(&mut self, endpoint: Option<(&str, &str)>, span: Span, step_minutes: u32) -> Result<History, StoreError> {
        let span = if endpoint.is_some() { span } else { self.shortened(span).await? };
        let least = (span.until - span.from + POINTS - 1).div_euclid(POINTS);
        let step = i64::from(step_minutes).max(least).max(1);
        // Whole steps since the epoch, so that the same question a minute later has the same points.
        let from = span.from.div_euclid(step) * step;
        let sql = match endpoint {
            Some(_) => format!("{OF_ONE} SELECT m.minute / $5 AS step, {} {FROM_ONE} GROUP BY m.minute / $5 ORDER BY step", sums()),
            None => format!(
                "SELECT t.minute / $3 AS step, {} FROM tally t WHERE t.minute >= $1 AND t.minute < $2 AND t.endpoint <> '' \
                 GROUP BY t.minute / $3 ORDER BY step",
                sums()
            ),
        };
        let query = sqlx::query(AssertSqlSafe(sql)).bind(from).bind(span.until);
        let query = match endpoint {
            Some((integrator, endpoint)) => query.bind(storable(integrator).into_owned()).bind(storable(endpoint).into_owned()),
            None => query,
        };
        let rows = within(query.bind(step).fetch_all(&mut self.connection)).await?;
        let mut points = Vec::new();
        for row in &rows {
            let health = Counted::of(row)?;
            let (delivered, failed) = (health.delivered, health.retried + health.dead);
            if delivered + failed > 0 {
                let at: i64 = row.try_get("step")?;
                let (p50_ms, p99_ms) = (percentile(&health.took, 0.5), percentile(&health.took, 0.99));
                points.push(Point { at: time(at * step * MINUTE), delivered, failed, p50_ms, p99_ms });
            }
        }
        Ok(History { since: time(from * MINUTE), until: time(span.until * MINUTE), step_minutes: step, points })
    }

    /// As much of the end of a span as can be added up at once.
    async fn shortened(&mut self, span: Span) -> Result<Span, StoreError> {
        let sql = "SELECT COUNT(*) AS rows_found, COALESCE(MIN(minute), 0) AS oldest FROM \
                   (SELECT minute FROM tally WHERE minute >= $1 AND minute < $2 ORDER BY minute DESC LIMIT $3) s";
        let query = sqlx::query(sql).bind(span.from).bind(span.until).bind(ROWS);
        let row = within(query.fetch_one(&mut self.connection)).await?;
        let (found, oldest): (i64, i64) = (row.try_get("rows_found")?, row.try_get("oldest")?);
        // The oldest minute may be cut off; a single one is never too much.
        let from = if found < ROWS { span.from } else { (oldest + 1).min(span.until - 1) };
        Ok(Span { from, ..span })
    }
}

/// What both health and history take from a row.
struct Counted {
    delivered: i64,
    retried: i64,
    dead: i64,
    took: Vec<i64>,
}

impl Counted {
    fn of(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let took = took_columns().map(|column| row.try_get(column.as_str())).collect::<Result<_, _>>()?;
        Ok(Self { delivered: row.try_get("delivered")?, retried: row.try_get("retried")?, dead: row.try_get("dead")?, took })
    }
}

fn health(row: &AnyRow) -> Result<Health, sqlx::Error> {
    let Counted { delivered, retried, dead, took } = Counted::of(row)?;
    let mut classes = BTreeMap::new();
    for class in CLASSES {
        let count: i64 = row.try_get(format!("class_{class}").as_str())?;
        if count > 0 {
            classes.insert(class.to_owned(), count);
        }
    }
    let attempts = delivered + retried + dead;
    let failure: Option<String> = row.try_get("failure")?;
    let failure = failure.as_deref().and_then(read_failure);
    Ok(Health {
        integrator: row.try_get("integrator")?,
        endpoint: row.try_get("endpoint")?,
        delivered,
        retried,
        dead,
        waits: row.try_get("waits")?,
        skipped: row.try_get("skipped")?,
        given_up: row.try_get("given_up")?,
        rejected: row.try_get("rejected")?,
        success_rate: (attempts > 0).then(|| float(delivered) / float(attempts)),
        classes,
        p50_ms: percentile(&took, 0.5),
        p99_ms: percentile(&took, 0.99),
        last_success_at: row.try_get::<Option<i64>, _>("succeeded_at")?.map(time),
        last_failure: failure.map(|(at, status, error)| LastFailure { at: time(at), status, error }),
    })
}

/// The duration that a share of attempts did not exceed: within the bounds of its column in proportion, and the last bound for what is longer.
fn percentile(took: &[i64], share: f64) -> Option<f64> {
    let all: i64 = took.iter().sum();
    let rank = float(all) * share;
    let (mut before, mut lower) = (0.0, 0.0);
    for (count, upper) in took.iter().zip(TOOK) {
        let (count, upper) = (float(*count), float(i64::try_from(upper).unwrap_or(i64::MAX)));
        if count > 0.0 && before + count >= rank {
            return Some(lower + (upper - lower) * ((rank - before) / count).clamp(0.0, 1.0));
        }
        (before, lower) = (before + count, upper);
    }
    (all > 0).then_some(lower)
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts below 2^53")]
const fn float(count: i64) -> f64 {
    count as f64
}

fn time(millis: i64) -> String {
    Timestamp::from_millis(millis).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_lies_between_the_bounds_of_its_column() {
        let mut took = vec![0; TOOK.len() + 1];
        assert_eq!(percentile(&took, 0.5), None);
        took[3] = 100;
        assert_eq!(percentile(&took, 0.5), Some(37.5), "half way from 25 to 50");
        took[11] = 100;
        assert_eq!(percentile(&took, 0.5), Some(50.0));
        assert_eq!(percentile(&took, 0.99), Some(10_000.0), "what is longer than the last bound has no other");
        let mut one = vec![0; TOOK.len() + 1];
        one[0] = 1;
        assert!(percentile(&one, 0.99).is_some_and(|ms| ms > 0.0 && ms <= 5.0));
    }

    #[test]
    fn a_span_has_whole_minutes_and_an_end() {
        let at = |minute: i64, more: i64| Timestamp::from_millis(minute * MINUTE + more);
        assert_eq!(Span::new(at(5, 59_999), at(7, 0)), Some(Span { from: 5, until: 8 }));
        assert_eq!(Span::new(at(8, 0), at(7, 0)), None);
        assert_eq!(Span::new(at(0, 0), at(1_000_000, 0)).map(|span| span.until - span.from), Some(SPAN_LIMIT));
        assert!(Span::new(Timestamp::from_millis(i64::MIN), Timestamp::from_millis(i64::MAX)).is_some());
    }
}
