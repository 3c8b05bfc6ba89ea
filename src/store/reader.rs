//! Finds what became of an event.

use std::cmp::Reverse;

use secrecy::SecretString;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Connection as _, Row as _};

use super::insert::{DAY, Term, event_term, key_term, webhook_term};
use super::story::{Line, Story, deliveries};
use super::{StoreError, connect, within};
use crate::clock;
use crate::config::DeliveryLog;
use crate::domain::time::Timestamp;

/// Most entries of one event that are read: its attempts are hundreds at most, but it may have been replayed for ever.
pub const MOST_LINES: usize = 2000;

/// Most entries of all events of one answer: some megabytes.
pub const MOST_LINES_IN_ALL: usize = 5000;

/// Entries of each event of an answer that are read whatever the others have.
pub const LEAST_LINES: usize = 50;

const NAMES: &str = "SELECT e.event_id, e.integrator, e.topic, MAX(e.id) AS newest FROM finder f JOIN entry e ON e.id = f.entry \
                     WHERE f.day = $1 AND f.term = $2 AND e.event_id IS NOT NULL AND ($3 = '' OR e.integrator = $3) \
                     GROUP BY e.event_id, e.integrator, e.topic ORDER BY newest DESC LIMIT $4";
const LINES: &str = "SELECT e.*, COALESCE(w.name, '') AS worker_name FROM finder f JOIN entry e ON e.id = f.entry \
                     LEFT JOIN worker w ON w.number = e.worker WHERE f.day = $1 AND f.term = $2 \
                     AND e.event_id = $3 AND COALESCE(e.integrator, '') = $4 AND COALESCE(e.topic, '') = $5 ORDER BY e.id DESC LIMIT $6";
const PAYLOAD: &str = "SELECT body FROM payload WHERE day = $1 AND event_id = $2 AND integrator = $3 AND topic = $4";

/// A delivery log that is read.
pub struct Reader {
    pub(super) connection: AnyConnection,
    hash_secret: Option<SecretString>,
    /// Entries are kept for so many days.
    kept: i64,
}

/// What tells one event from all others.
#[derive(Clone, PartialEq, Eq)]
struct Name {
    event_id: String,
    integrator: String,
    topic: String,
}

impl Reader {
    /// Opens the log of a configuration.
    ///
    /// # Errors
    /// The log is off, cannot be reached, or has no tables yet.
    pub async fn open(config: &DeliveryLog) -> Result<Self, StoreError> {
        let Some(database) = &config.database else {
            return Err(StoreError::Off);
        };
        let mut connection = connect(database, false).await?;
        within(sqlx::query("SELECT number FROM worker LIMIT 1").fetch_optional(&mut connection)).await.map_err(|error| {
            StoreError::Database(format!("{database} has no tables of a delivery log: has a worker with this configuration run? ({error})"))
        })?;
        let kept = i64::try_from(config.retention.as_millis()).unwrap_or(i64::MAX).div_euclid(DAY);
        Ok(Self { connection, hash_secret: config.hash_secret.clone(), kept })
    }

    /// Whether the connection still is one.
    pub(super) async fn is_alive(&mut self) -> bool {
        within(self.connection.ping()).await.is_ok()
    }

    /// The days that it may have entries of, the newest first. Days begin at midnight, UTC. A day more on each side: the worker's clock may differ, and
    /// old entries leave a few at a time.
    fn days(&self) -> impl Iterator<Item = i64> + use<> {
        let today = clock::now().millis().div_euclid(DAY);
        (today.saturating_sub(self.kept).saturating_sub(2)..=today + 1).rev()
    }

    /// The stories of the events with this id, this key, or told of by a message with this id: the newest first, at most `limit`; and whether there are more.
    /// Lines are given out in this order too, so of many events with long stories, the older ones are cut at [`LEAST_LINES`].
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn stories(&mut self, wanted: &str, integrator: Option<&str>, limit: usize) -> Result<(Vec<Story>, bool), StoreError> {
        let terms = [event_term(wanted), key_term(wanted, self.hash_secret.as_ref()), webhook_term(wanted)];
        let mut found: Vec<(i64, Name)> = Vec::new();
        for term in terms {
            for (newest, name) in self.named(term, integrator.unwrap_or_default(), limit + 1).await? {
                match found.iter_mut().find(|(_, known)| *known == name) {
                    Some((known, _)) => *known = newest.max(*known),
                    None => found.push((newest, name)),
                }
            }
        }
        found.sort_by_key(|(newest, _)| Reverse(*newest));
        let has_more = found.len() > limit;
        found.truncate(limit);
        let mut stories = Vec::new();
        let (mut left, mut others) = (MOST_LINES_IN_ALL, found.len());
        for (_, name) in found {
            others -= 1;
            let story = self.story(name, left.saturating_sub(others * LEAST_LINES).clamp(LEAST_LINES, MOST_LINES)).await?;
            left = left.saturating_sub(story.lines.len());
            stories.push(story);
        }
        Ok((stories, has_more))
    }

    /// The event itself as it was published, where it is stored.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn payload(&mut self, story: &Story) -> Result<Option<Vec<u8>>, StoreError> {
        for day in self.days() {
            let query = sqlx::query(PAYLOAD).bind(day).bind(&story.event_id).bind(&story.integrator).bind(&story.topic);
            if let Some(row) = within(query.fetch_optional(&mut self.connection)).await? {
                return Ok(Some(row.try_get(0)?));
            }
        }
        Ok(None)
    }

    /// The events that a term leads to, the newest first, with their newest entries.
    async fn named(&mut self, term: Term, integrator: &str, limit: usize) -> Result<Vec<(i64, Name)>, StoreError> {
        let mut found: Vec<(i64, Name)> = Vec::new();
        for day in self.days() {
            // A name that was found on a newer day is found again.
            let rows = i64::try_from(limit + found.len()).unwrap_or(i64::MAX);
            let query = sqlx::query(NAMES).bind(day).bind(term).bind(integrator).bind(rows);
            for row in within(query.fetch_all(&mut self.connection)).await? {
                let text = |column: &str| row.try_get::<Option<String>, _>(column).map(Option::unwrap_or_default);
                let name = Name { event_id: text("event_id")?, integrator: text("integrator")?, topic: text("topic")? };
                if !found.iter().any(|(_, known)| *known == name) {
                    found.push((row.try_get("newest")?, name));
                }
            }
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    /// The story of one event, with at most so many of its lines: the newest.
    async fn story(&mut self, name: Name, most: usize) -> Result<Story, StoreError> {
        let (mut lines, mut keys) = (Vec::new(), Vec::new());
        let term = event_term(&name.event_id);
        for day in self.days() {
            // One more, to know whether there are more.
            let left = i64::try_from(most + 1 - lines.len()).unwrap_or(i64::MAX);
            let query = sqlx::query(LINES).bind(day).bind(term).bind(&name.event_id).bind(&name.integrator).bind(&name.topic).bind(left);
            for row in within(query.fetch_all(&mut self.connection)).await? {
                if let Some(shown) = row.try_get::<Option<String>, _>("keys")? {
                    keys = serde_json::from_str(&shown).unwrap_or_default();
                }
                lines.push(line(&row)?);
            }
            if lines.len() > most {
                break;
            }
        }
        let is_cut = lines.len() > most;
        lines.truncate(most);
        lines.reverse();
        let deliveries = deliveries(&lines, clock::now());
        let Name { event_id, integrator, topic } = name;
        Ok(Story { event_id, integrator, topic, keys, lines, is_cut, deliveries })
    }
}

pub(super) fn line(row: &AnyRow) -> Result<Line, sqlx::Error> {
    let time = |millis: i64| Timestamp::from_millis(millis).to_string();
    let at: i64 = row.try_get("at")?;
    Ok(Line {
        at: time(at),
        what: row.try_get("what")?,
        endpoint: row.try_get("endpoint")?,
        webhook_id: row.try_get("webhook_id")?,
        attempt: row.try_get("attempt")?,
        events: row.try_get("events")?,
        verdict: row.try_get("verdict")?,
        reason: row.try_get("reason")?,
        status: row.try_get("status")?,
        error: row.try_get("error")?,
        took_ms: row.try_get("took_ms")?,
        request_bytes: row.try_get("request_bytes")?,
        due_at: row.try_get::<Option<i64>, _>("due_at")?.map(time),
        replayed_at: row.try_get::<Option<i64>, _>("replayed_at")?.map(time),
        worker: row.try_get("worker_name")?,
    })
}
