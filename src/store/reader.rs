//! Finds what became of an event.

use secrecy::SecretString;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::insert::{DAY, event_term, key_term};
use super::story::{Line, Story, deliveries};
use super::{StoreError, connect, within};
use crate::clock;
use crate::config::DeliveryLog;
use crate::domain::time::Timestamp;

/// Most entries of one event that are read: its attempts are hundreds at most, but it may have been replayed for ever.
const ENTRIES: i64 = 2000;

const LINE: &str = "SELECT e.*, COALESCE(w.name, '') AS worker_name FROM entry e LEFT JOIN worker w ON w.number = e.worker WHERE e.id = $1";
const FIND: &str = "SELECT entry FROM finder WHERE day = $1 AND term = $2 ORDER BY entry DESC LIMIT $3";
const PAYLOAD: &str = "SELECT body FROM payload WHERE day = $1 AND event_id = $2 AND integrator = $3 AND topic = $4";

/// A delivery log that is read.
pub struct Reader {
    connection: AnyConnection,
    hash_secret: Option<SecretString>,
    /// The days that it may have entries of, the newest first. Days begin at midnight, UTC.
    days: Vec<i64>,
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
    /// The log is off, or cannot be reached.
    pub async fn open(config: &DeliveryLog) -> Result<Self, StoreError> {
        let Some(database) = &config.database else {
            return Err(StoreError::Database("the delivery log is off: `delivery_log.enabled` is false".to_owned()));
        };
        let connection = connect(database, false).await?;
        // A day more on each side: the worker's clock may differ, and old entries leave a few at a time.
        let today = clock::now().millis().div_euclid(DAY);
        let kept = i64::try_from(config.retention.as_millis()).unwrap_or(i64::MAX).div_euclid(DAY);
        let days = (today.saturating_sub(kept).saturating_sub(2)..=today + 1).rev().collect();
        Ok(Self { connection, hash_secret: config.hash_secret.clone(), days })
    }

    /// The stories of the events with this id or, where there are none, with this key: the newest first, at most `limit`; and whether there are more.
    ///
    /// # Errors
    /// The log cannot be read, or its tables are not there yet.
    pub async fn stories(&mut self, wanted: &str, integrator: Option<&str>, limit: usize) -> Result<(Vec<Story>, bool), StoreError> {
        let mut names = self.named(&event_term(wanted), integrator, limit + 1).await?;
        if names.is_empty() {
            let term = key_term(wanted, self.hash_secret.as_ref());
            names = self.named(&term, integrator, limit + 1).await?;
        }
        let has_more = names.len() > limit;
        names.truncate(limit);
        let mut stories = Vec::new();
        for name in names {
            stories.push(self.story(name).await?);
        }
        Ok((stories, has_more))
    }

    /// The event itself as it was published, where it is stored.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn payload(&mut self, story: &Story) -> Result<Option<Vec<u8>>, StoreError> {
        for day in &self.days {
            let query = sqlx::query(PAYLOAD).bind(*day).bind(&story.event_id).bind(&story.integrator).bind(&story.topic);
            if let Some(row) = within(query.fetch_optional(&mut self.connection)).await? {
                return Ok(Some(row.try_get(0)?));
            }
        }
        Ok(None)
    }

    /// The events that a term leads to, the newest first.
    async fn named(&mut self, term: &str, integrator: Option<&str>, limit: usize) -> Result<Vec<Name>, StoreError> {
        let mut names: Vec<Name> = Vec::new();
        for id in self.entries(term).await? {
            let Some(row) = self.row(id).await? else { continue };
            let text = |column: &str| row.try_get::<Option<String>, _>(column).map(Option::unwrap_or_default);
            let name = Name { event_id: text("event_id")?, integrator: text("integrator")?, topic: text("topic")? };
            if integrator.is_none_or(|integrator| integrator == name.integrator) && !names.contains(&name) {
                names.push(name);
            }
            if names.len() >= limit {
                break;
            }
        }
        Ok(names)
    }

    async fn story(&mut self, name: Name) -> Result<Story, StoreError> {
        let (mut lines, mut keys) = (Vec::new(), Vec::new());
        for id in self.entries(&event_term(&name.event_id)).await?.into_iter().rev() {
            let Some(row) = self.row(id).await? else { continue };
            let is = |column: &str, wanted: &str| row.try_get::<Option<String>, _>(column).map(|text| text.as_deref() == Some(wanted));
            if !(is("integrator", &name.integrator)? && is("topic", &name.topic)?) {
                continue;
            }
            if let Some(shown) = row.try_get::<Option<String>, _>("keys")? {
                keys = serde_json::from_str(&shown).unwrap_or_default();
            }
            lines.push(line(&row)?);
        }
        let deliveries = deliveries(&lines, clock::now());
        let Name { event_id, integrator, topic } = name;
        Ok(Story { event_id, integrator, topic, keys, lines, deliveries })
    }

    /// The entries that a term leads to, the newest first.
    async fn entries(&mut self, term: &str) -> Result<Vec<i64>, StoreError> {
        let mut found = Vec::new();
        for day in &self.days {
            let left = ENTRIES - i64::try_from(found.len()).unwrap_or(ENTRIES);
            let query = sqlx::query_scalar(FIND).bind(*day).bind(term).bind(left);
            let ids: Vec<i64> = within(query.fetch_all(&mut self.connection)).await?;
            found.extend(ids);
        }
        Ok(found)
    }

    async fn row(&mut self, id: i64) -> Result<Option<AnyRow>, StoreError> {
        within(sqlx::query(LINE).bind(id).fetch_optional(&mut self.connection)).await
    }
}

fn line(row: &AnyRow) -> Result<Line, sqlx::Error> {
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
