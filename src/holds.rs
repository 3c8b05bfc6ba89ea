//! Endpoints that operators have paused: kept in the delivery log's database, so that every worker that shares it knows, and knows again
//! after a restart.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Database;
use crate::domain::hold::{Hold, Holds};
use crate::domain::names::{EndpointId, IntegratorKey};
use crate::store::{HoldTable, StoreError};
use crate::telemetry::{Fact, Telemetry};

/// How often it is looked for what other workers were told; also how late a hold may end.
const LOOK: Duration = Duration::from_secs(2);

/// How long a start waits to know of holds. A database that is away then stops no delivery: what it holds is unknown until it is back.
const START_LIMIT: Duration = Duration::from_secs(5);

/// Why an endpoint could not be put on hold, or let go on.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// There is no place where it would outlive a restart.
    #[error("an endpoint can be paused only with a delivery log, whose database keeps it: set `delivery_log.enabled = true`")]
    NoDatabase,
    /// It could not be written.
    #[error("the delivery log's database does not take it: {0}")]
    Store(#[from] StoreError),
}

/// Keeps the holds. One for each process.
pub struct HoldKeeper {
    database: Option<Database>,
    telemetry: Telemetry,
    in_force: watch::Sender<Arc<Holds>>,
    table: Mutex<Link>,
}

/// The table, while there is a connection to it, and whether it was told that there is none.
#[derive(Default)]
struct Link {
    table: Option<HoldTable>,
    is_down: bool,
}

impl HoldKeeper {
    /// A keeper that knows of no holds yet.
    #[must_use]
    pub fn new(database: Option<Database>, telemetry: Telemetry) -> Arc<Self> {
        Arc::new(Self { database, telemetry, in_force: watch::Sender::default(), table: Mutex::default() })
    }

    /// The holds in force.
    #[must_use]
    pub fn in_force(&self) -> watch::Receiver<Arc<Holds>> {
        self.in_force.subscribe()
    }

    /// Finds out what was on hold when the process ended last. To be called before anything is delivered, on any runtime.
    pub async fn start(&self) {
        if timeout(START_LIMIT, self.look()).await.is_err() {
            self.tell_failure(&mut *self.table.lock().await, &StoreError::Timeout);
        }
        // The connection belongs to the runtime that made it, and another one goes on.
        self.table.lock().await.table = None;
    }

    /// Follows what other workers are told, until `stop`.
    pub async fn follow(&self, stop: CancellationToken) {
        while self.database.is_some() && stop.run_until_cancelled(sleep(LOOK)).await.is_some() {
            self.look().await;
        }
    }

    /// Puts an endpoint on hold, here at once and at other workers within some seconds.
    ///
    /// # Errors
    /// [`HoldError`]; the endpoint is told as before.
    pub async fn hold(&self, integrator: &IntegratorKey, endpoint: &EndpointId, hold: &Hold) -> Result<(), HoldError> {
        let mut link = self.table.lock().await;
        let done = match self.table(&mut link).await? {
            Ok(table) => table.put(integrator, endpoint, hold).await,
            Err(error) => Err(error),
        };
        self.done(&mut link, done).await
    }

    /// Lets an endpoint go on.
    ///
    /// # Errors
    /// [`HoldError`]; it stays on hold.
    pub async fn release(&self, integrator: &IntegratorKey, endpoint: &EndpointId) -> Result<(), HoldError> {
        let mut link = self.table.lock().await;
        let done = match self.table(&mut link).await? {
            Ok(table) => table.remove(integrator, endpoint).await.map(drop),
            Err(error) => Err(error),
        };
        self.done(&mut link, done).await
    }

    /// After a change: takes it into force, or drops the connection that failed.
    async fn done(&self, link: &mut Link, done: Result<(), StoreError>) -> Result<(), HoldError> {
        match done {
            Ok(()) => {
                self.read(link).await;
                Ok(())
            }
            Err(error) => {
                link.table = None;
                Err(error.into())
            }
        }
    }

    async fn look(&self) {
        self.read(&mut *self.table.lock().await).await;
    }

    async fn read(&self, link: &mut Link) {
        let read = match self.table(link).await {
            Err(_) => return,
            Ok(Ok(table)) => table.all().await,
            Ok(Err(error)) => Err(error),
        };
        match read {
            Ok(all) => {
                link.is_down = false;
                self.set(Holds::in_force(all, clock::now()));
            }
            Err(error) => {
                link.table = None;
                self.tell_failure(link, &error);
                // A hold that ends does so without the database too.
                let known = Arc::clone(&self.in_force.borrow());
                let known = known.iter().map(|(integrator, endpoint, hold)| (integrator.clone(), endpoint.clone(), hold.clone()));
                self.set(Holds::in_force(known, clock::now()));
            }
        }
    }

    fn tell_failure(&self, link: &mut Link, error: &StoreError) {
        if !std::mem::replace(&mut link.is_down, true) {
            self.telemetry.record(&Fact::HoldsUnread { error: &error.to_string() });
        }
    }

    /// The table, connected to where it is not.
    async fn table<'l>(&self, link: &'l mut Link) -> Result<Result<&'l mut HoldTable, StoreError>, HoldError> {
        let database = self.database.as_ref().ok_or(HoldError::NoDatabase)?;
        if link.table.is_none() {
            match HoldTable::open(database).await {
                Ok(table) => link.table = Some(table),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(link.table.as_mut().ok_or(StoreError::Timeout))
    }

    fn set(&self, newest: Holds) {
        let before = Arc::clone(&self.in_force.borrow());
        if *before == newest {
            return;
        }
        for (integrator, endpoint, hold) in
            newest.iter().filter(|(integrator, endpoint, hold)| before.on(integrator, endpoint) != Some(*hold))
        {
            self.telemetry.record(&Fact::EndpointHeld { integrator, endpoint, hold });
        }
        for (integrator, endpoint, _) in before.iter().filter(|(integrator, endpoint, _)| newest.on(integrator, endpoint).is_none()) {
            self.telemetry.record(&Fact::EndpointReleased { integrator, endpoint });
        }
        self.telemetry.endpoints_held(newest.len());
        self.in_force.send_replace(Arc::new(newest));
    }
}
