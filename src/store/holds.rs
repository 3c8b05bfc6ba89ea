//! Which endpoints operators have paused, where every worker of a log finds it, and after a restart too.

use sqlx::{AnyConnection, Row as _};

use super::{StoreError, connect, schema, within};
use crate::config::Database;
use crate::domain::hold::Hold;
use crate::domain::names::{EndpointId, IntegratorKey};
use crate::domain::time::Timestamp;

/// Most endpoints on hold at one time that are read: more than that is no longer a matter of single endpoints.
const LIMIT: i64 = 10_000;

const ALL: &str = "SELECT integrator, endpoint, since, until, actor, reason FROM hold WHERE until IS NULL OR until > $2 \
                   ORDER BY integrator, endpoint LIMIT $1";
const PUT: &str = "INSERT INTO hold (integrator, endpoint, since, until, actor, reason) VALUES ($1, $2, $3, $4, $5, $6) \
                   ON CONFLICT (integrator, endpoint) DO UPDATE SET since = excluded.since, until = excluded.until, actor = excluded.actor, \
                   reason = excluded.reason";
const REMOVE_ENDED: &str = "DELETE FROM hold WHERE until <= $1";
const REMOVE: &str = "DELETE FROM hold WHERE integrator = $1 AND endpoint = $2";

/// The table of holds, over a connection of its own.
pub struct HoldTable {
    connection: AnyConnection,
}

impl HoldTable {
    /// Connects, and makes the tables where they are missing.
    ///
    /// # Errors
    /// The database cannot be reached or refuses.
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        let mut connection = connect(database, true).await?;
        schema::migrate(database, &mut connection).await?;
        // What was answered with yes is to outlive a crash of the machine, which an entry of the log need not.
        schema::make_durable(database, &mut connection).await?;
        Ok(Self { connection })
    }

    /// All that are not over. A row whose names are none is passed over.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn all(&mut self, now: Timestamp) -> Result<Vec<(IntegratorKey, EndpointId, Hold)>, StoreError> {
        let rows = within(sqlx::query(ALL).bind(LIMIT).bind(now.millis()).fetch_all(&mut self.connection)).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let (integrator, endpoint): (String, String) = (row.try_get("integrator")?, row.try_get("endpoint")?);
            let (Ok(integrator), Ok(endpoint)) = (IntegratorKey::try_new(integrator), EndpointId::try_new(endpoint)) else { continue };
            let hold = Hold {
                since: Timestamp::from_millis(row.try_get("since")?),
                until: row.try_get::<Option<i64>, _>("until")?.map(Timestamp::from_millis),
                actor: row.try_get("actor")?,
                reason: row.try_get("reason")?,
            };
            all.push((integrator, endpoint, hold));
        }
        Ok(all)
    }

    /// Puts an endpoint on hold, in the place of a hold that it may have. Holds that are over go.
    ///
    /// # Errors
    /// It cannot be written; the endpoint is told as before.
    pub async fn put(&mut self, integrator: &IntegratorKey, endpoint: &EndpointId, hold: &Hold) -> Result<(), StoreError> {
        within(sqlx::query(REMOVE_ENDED).bind(hold.since.millis()).execute(&mut self.connection)).await?;
        let query = sqlx::query(PUT)
            .bind(integrator.as_str())
            .bind(endpoint.as_str())
            .bind(hold.since.millis())
            .bind(hold.until.map(Timestamp::millis))
            .bind(hold.actor.as_str())
            .bind(hold.reason.as_deref());
        within(query.execute(&mut self.connection)).await?;
        Ok(())
    }

    /// Ends a hold; whether there was one.
    ///
    /// # Errors
    /// It cannot be written; the endpoint stays on hold.
    pub async fn remove(&mut self, integrator: &IntegratorKey, endpoint: &EndpointId) -> Result<bool, StoreError> {
        let query = sqlx::query(REMOVE).bind(integrator.as_str()).bind(endpoint.as_str());
        Ok(within(query.execute(&mut self.connection)).await?.rows_affected() > 0)
    }
}
