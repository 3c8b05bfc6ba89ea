//! Jobs in the database of the delivery log, so that they outlive their worker and every worker knows them.
//!
//! A row belongs to the worker (`instance`) that runs the job, and is written by nobody else: who resumes a job of another worker claims
//! it first, as a further `run`, and the other one learns of it when it writes again. Whether a worker is still there is judged by
//! when it last wrote, so workers whose clocks differ by more than [`SILENCE`] take each other for gone.

use std::time::Duration;

use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, Row as _};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout};

use super::{StoreError, connect, schema, within};
use crate::clock;
use crate::config::Database;
use crate::domain::time::Timestamp;
use crate::letters::{Job, JobId, JobState, Queue};
use crate::telemetry::{Fact, Telemetry};

/// A worker that has not written its open jobs for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// The limit on anything that is asked of the database here: somebody waits for the answer.
const LIMIT: Duration = Duration::from_secs(5);

/// A database that has failed is left alone for so long.
const PAUSE: Duration = Duration::from_secs(2);

/// Jobs that are over and are remembered.
pub(crate) const REMEMBERED: usize = 200;

/// Most rows that are read: those that are remembered, and open ones of many workers.
const ROWS: i64 = 1000;

const SAVE: &str = "INSERT INTO job (id, queue, state, run, instance, updated_at, ended_at, told) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                    ON CONFLICT (id) DO UPDATE SET state = excluded.state, run = excluded.run, instance = excluded.instance, \
                    updated_at = excluded.updated_at, ended_at = excluded.ended_at, told = excluded.told, \
                    cancelled_by = CASE WHEN job.run < excluded.run THEN NULL ELSE job.cancelled_by END \
                    WHERE job.run < excluded.run OR (job.run = excluded.run AND job.instance = excluded.instance)";
const CLAIM: &str = "UPDATE job SET state = 'queued', run = run + 1, instance = $1, updated_at = $2, cancelled_by = NULL WHERE id = $3 AND run = $4 \
                     AND (state IN ('cancelled', 'failed', 'interrupted') OR (state IN ('queued', 'running') AND updated_at < $5))";
const ALL: &str = "SELECT state, run, updated_at, told FROM job ORDER BY id DESC LIMIT $1";
const ONE: &str = "SELECT state, run, updated_at, told FROM job WHERE id = $1";
const BUSY: &str = "SELECT COUNT(*) FROM job WHERE queue = $1 AND state = 'running' AND instance <> $2 AND updated_at >= $3";
const WISH: &str = "UPDATE job SET cancelled_by = $1 WHERE id = $2 AND state IN ('queued', 'running')";
const WISHES: &str = "SELECT id FROM job WHERE instance = $1 AND state IN ('queued', 'running') AND cancelled_by IS NOT NULL";
const FORGET: &str = "DELETE FROM job WHERE ended_at IS NOT NULL AND ended_at < \
                      (SELECT MIN(ended_at) FROM (SELECT ended_at FROM job WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT $1) AS kept)";

/// The jobs of a database.
pub(crate) struct Records {
    database: Database,
    instance: String,
    telemetry: Telemetry,
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    connection: Option<AnyConnection>,
    /// Not before this it is tried again.
    away_until: Option<Instant>,
    is_told: bool,
}

impl Records {
    /// Connects when it is first needed. `instance` tells this process from all others, of the same name too.
    pub(crate) fn new(database: Database, instance: String, telemetry: Telemetry) -> Self {
        Self { database, instance, telemetry, link: Mutex::default() }
    }

    /// Writes jobs of this worker; says which of them are another's by now.
    pub(crate) async fn save(&self, jobs: &[Job]) -> Result<Vec<JobId>, StoreError> {
        self.told(async {
            let mut held = self.hold().await?;
            let mut lost = Vec::new();
            for job in jobs {
                if !save(&mut held.connection, job, &self.instance).await? {
                    lost.push(job.id.clone());
                }
            }
            if jobs.iter().any(|job| !job.state.is_open()) {
                let kept = i64::try_from(REMEMBERED).unwrap_or(i64::MAX);
                within(sqlx::query(FORGET).bind(kept).execute(&mut held.connection)).await?;
            }
            Ok(held.done(lost))
        })
        .await
    }

    /// Makes a job that does not go on by itself this worker's; `false` when it does, or somebody else was first.
    pub(crate) async fn claim(&self, id: &JobId, run: u32) -> Result<bool, StoreError> {
        let now = clock::now();
        let query =
            sqlx::query(CLAIM).bind(&self.instance).bind(now.millis()).bind(id.as_str()).bind(i64::from(run)).bind(silent_since(now));
        self.changed(query).await
    }

    /// All jobs, the newest first. Those whose worker is gone are interrupted.
    pub(crate) async fn all(&self) -> Result<Vec<Job>, StoreError> {
        self.told(async {
            let mut held = self.hold().await?;
            let rows = within(sqlx::query(ALL).bind(ROWS).fetch_all(&mut held.connection)).await?;
            Ok(held.done(rows.iter().filter_map(job).collect()))
        })
        .await
    }

    /// One job.
    pub(crate) async fn get(&self, id: &JobId) -> Result<Option<Job>, StoreError> {
        self.told(async {
            let mut held = self.hold().await?;
            let row = within(sqlx::query(ONE).bind(id.as_str()).fetch_optional(&mut held.connection)).await?;
            Ok(held.done(row.as_ref().and_then(job)))
        })
        .await
    }

    /// Whether a job of another worker works on this queue.
    pub(crate) async fn is_busy(&self, queue: Queue) -> Result<bool, StoreError> {
        self.told(async {
            let mut held = self.hold().await?;
            let query = sqlx::query_scalar(BUSY).bind(queue.as_str()).bind(&self.instance).bind(silent_since(clock::now()));
            let count: i64 = within(query.fetch_one(&mut held.connection)).await?;
            Ok(held.done(count > 0))
        })
        .await
    }

    /// Asks the worker that has an open job to cancel it; `false` where it is not open.
    pub(crate) async fn wish_cancelled(&self, id: &JobId, actor: &str) -> Result<bool, StoreError> {
        self.changed(sqlx::query(WISH).bind(actor).bind(id.as_str())).await
    }

    /// Jobs of this worker that others want cancelled.
    pub(crate) async fn wishes(&self) -> Result<Vec<JobId>, StoreError> {
        self.told(async {
            let mut held = self.hold().await?;
            let ids: Vec<String> = within(sqlx::query_scalar(WISHES).bind(&self.instance).fetch_all(&mut held.connection)).await?;
            Ok(held.done(ids.iter().filter_map(|id| JobId::parse(id)).collect()))
        })
        .await
    }

    /// Whether a statement has changed a row.
    async fn changed(&self, query: Query<'_, Any, AnyArguments>) -> Result<bool, StoreError> {
        self.told(async {
            let mut held = self.hold().await?;
            let rows = within(query.execute(&mut held.connection)).await?.rows_affected();
            Ok(held.done(rows == 1))
        })
        .await
    }

    /// The one connection, opened when needed.
    async fn hold(&self) -> Result<Held<'_>, StoreError> {
        let mut link = self.link.lock().await;
        if link.away_until.is_some_and(|until| Instant::now() < until) {
            return Err(StoreError::Database("it failed a moment ago".to_owned()));
        }
        // Taken out, so that one on which something was cut off is not used again.
        let connection = match link.connection.take() {
            Some(connection) => connection,
            None => self.open().await?,
        };
        Ok(Held { connection, link, telemetry: &self.telemetry })
    }

    /// What an operation comes to within the time limit. A failure is told once, and then leaves the database alone for a moment.
    async fn told<T>(&self, operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let done = timeout(LIMIT, operation).await.unwrap_or(Err(StoreError::Timeout));
        if let Err(error) = &done
            && let Ok(mut link) = timeout(LIMIT, self.link.lock()).await
        {
            if link.away_until.is_none_or(|until| Instant::now() >= until) {
                link.away_until = Some(Instant::now() + PAUSE);
            }
            if !std::mem::replace(&mut link.is_told, true) {
                self.telemetry.record(&Fact::JobsNotRecorded { error: &format!("{}: {error}", self.database) });
            }
        }
        done
    }

    /// The delivery log's writer makes the tables as a rule; they are made here where it has not come to that yet.
    async fn open(&self) -> Result<AnyConnection, StoreError> {
        let mut connection = connect(&self.database, true).await?;
        if within(sqlx::query(ALL).bind(1_i64).fetch_optional(&mut connection)).await.is_err() {
            schema::migrate(&self.database, &mut connection).await?;
            schema::make_durable(&self.database, &mut connection).await?;
        }
        Ok(connection)
    }
}

/// The connection while something is asked through it.
struct Held<'a> {
    connection: AnyConnection,
    link: MutexGuard<'a, Link>,
    telemetry: &'a Telemetry,
}

impl Held<'_> {
    /// It has worked, and may be used again.
    fn done<T>(mut self, value: T) -> T {
        self.link.connection = Some(self.connection);
        self.link.away_until = None;
        if std::mem::take(&mut self.link.is_told) {
            self.telemetry.record(&Fact::JobsRecorded);
        }
        value
    }
}

async fn save(connection: &mut AnyConnection, job: &Job, instance: &str) -> Result<bool, StoreError> {
    let told = serde_json::to_string(job).map_err(|error| StoreError::Refused(error.to_string()))?;
    let query = sqlx::query(SAVE)
        .bind(job.id.as_str())
        .bind(job.spec.queue.as_str())
        .bind(job.state.as_str())
        .bind(i64::from(job.run))
        .bind(instance)
        .bind(clock::now().millis())
        .bind(job.ended_at.map(Timestamp::millis))
        .bind(told);
    Ok(within(query.execute(connection)).await?.rows_affected() == 1)
}

fn silent_since(now: Timestamp) -> i64 {
    now.minus(SILENCE).millis()
}

/// A job as its row tells it; one that a newer version has written and that cannot be read is left out.
fn job(row: &AnyRow) -> Option<Job> {
    let mut job: Job = serde_json::from_str(&row.try_get::<String, _>("told").ok()?).ok()?;
    let (state, updated_at): (String, i64) = (row.try_get("state").ok()?, row.try_get("updated_at").ok()?);
    job.run = u32::try_from(row.try_get::<i64, _>("run").ok()?).ok()?;
    if state == JobState::Queued.as_str() {
        // Claimed, and what it tells has not been written since.
        job.state = JobState::Queued;
    }
    if job.state.is_open() && updated_at < silent_since(clock::now()) {
        job.state = JobState::Interrupted;
    }
    Some(job)
}
