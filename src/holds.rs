//! Endpoints that operators have paused: kept in the delivery log's database, so that every worker that shares it knows, and knows again
//! after a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// How long a change may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(15);

/// Why an endpoint could not be put on hold, or let go on. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// There is no place where it would outlive a restart.
    #[error("an endpoint can be paused only with a delivery log, whose database keeps it: set `delivery_log.enabled = true`")]
    NoDatabase,
    /// It could not be written.
    #[error(
        "nothing was changed, as the delivery log's database does not take it: {0}. The runbooks CallbackdDeliveryLogDown and CallbackdPausesUnknown say what can be done until it is back"
    )]
    Store(#[from] StoreError),
}

/// A change of the holds: an endpoint, and its hold or none.
type Change<'a> = (&'a IntegratorKey, &'a EndpointId, Option<&'a Hold>);

/// Keeps the holds. One for each process.
pub struct HoldKeeper {
    database: Option<Database>,
    telemetry: Telemetry,
    in_force: watch::Sender<Arc<Holds>>,
    /// They have been read since the start, or there is no place for any.
    is_known: AtomicBool,
    link: Mutex<Link>,
}

/// The table, while there is a connection to it that nobody uses, and whether it was told that there is none.
#[derive(Default)]
struct Link {
    table: Option<HoldTable>,
    is_down: bool,
}

impl HoldKeeper {
    /// A keeper that knows of no holds yet.
    #[must_use]
    pub fn new(database: Option<Database>, telemetry: Telemetry) -> Arc<Self> {
        let is_known = AtomicBool::new(database.is_none());
        telemetry.holds_known(database.is_none());
        Arc::new(Self { database, telemetry, in_force: watch::Sender::default(), is_known, link: Mutex::default() })
    }

    /// The holds in force.
    #[must_use]
    pub fn in_force(&self) -> watch::Receiver<Arc<Holds>> {
        self.in_force.subscribe()
    }

    /// Whether it is known which endpoints are on hold. If not, those that were on hold before the start are called.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Finds out what was on hold when the process ended last. To be called before anything is delivered, on any runtime.
    pub async fn start(&self) {
        if timeout(START_LIMIT, self.look()).await.is_err() {
            self.tell_failure(&mut *self.link.lock().await, &StoreError::Timeout);
        }
        // The connection belongs to the runtime that made it, and another one goes on.
        self.link.lock().await.table = None;
    }

    /// Follows what other workers are told, until `stop`.
    pub async fn follow(&self, stop: CancellationToken) {
        while self.database.is_some() && stop.run_until_cancelled(sleep(LOOK)).await.is_some() {
            stop.run_until_cancelled(self.look()).await;
        }
    }

    /// Puts an endpoint on hold, here at once and at other workers within some seconds.
    ///
    /// # Errors
    /// [`HoldError`]; the endpoint is told as before.
    pub async fn hold(&self, integrator: &IntegratorKey, endpoint: &EndpointId, hold: &Hold) -> Result<(), HoldError> {
        self.change((integrator, endpoint, Some(hold))).await
    }

    /// Lets an endpoint go on.
    ///
    /// # Errors
    /// [`HoldError`]; it stays on hold.
    pub async fn release(&self, integrator: &IntegratorKey, endpoint: &EndpointId) -> Result<(), HoldError> {
        self.change((integrator, endpoint, None)).await
    }

    async fn change(&self, change: Change<'_>) -> Result<(), HoldError> {
        if self.database.is_none() {
            return Err(HoldError::NoDatabase);
        }
        let changed = timeout(CHANGE_LIMIT, async {
            let mut link = self.link.lock().await;
            let mut table = self.table(&mut link).await?;
            let (integrator, endpoint, hold) = change;
            match hold {
                Some(hold) => table.put(integrator, endpoint, hold).await?,
                None => drop(table.remove(integrator, endpoint).await?),
            }
            link.table = Some(table);
            Ok(())
        });
        changed.await.unwrap_or(Err(StoreError::Timeout))?;
        // It is written, so it counts here whether or not all of them can be read just now.
        let known = Arc::clone(&self.in_force.borrow());
        let (integrator, endpoint, hold) = change;
        let others = known.iter().filter(|(known, id, _)| (*known, *id) != (integrator, endpoint));
        let all = others.map(|(integrator, endpoint, hold)| (integrator.clone(), endpoint.clone(), hold.clone()));
        let changed = hold.map(|hold| (integrator.clone(), endpoint.clone(), hold.clone()));
        self.set(Holds::in_force(all.chain(changed), clock::now()));
        Ok(())
    }

    async fn look(&self) {
        if self.database.is_none() {
            return;
        }
        let mut link = self.link.lock().await;
        let read = async {
            let mut table = self.table(&mut link).await?;
            let all = table.all(clock::now()).await?;
            Ok((table, all))
        };
        match read.await {
            Ok((table, all)) => {
                link.table = Some(table);
                self.telemetry.holds_known(true);
                self.is_known.store(true, Ordering::Relaxed);
                if std::mem::take(&mut link.is_down) {
                    self.telemetry.record(&Fact::HoldsRead { count: all.len() });
                }
                self.set(Holds::in_force(all, clock::now()));
            }
            Err(error) => {
                self.tell_failure(&mut link, &error);
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

    /// The table, connected to where it is not. It is taken out while it is used: who is cut off takes its connection along.
    async fn table(&self, link: &mut Link) -> Result<HoldTable, StoreError> {
        match (link.table.take(), &self.database) {
            (Some(table), _) => Ok(table),
            (None, Some(database)) => HoldTable::open(database).await,
            (None, None) => Err(StoreError::Off),
        }
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
