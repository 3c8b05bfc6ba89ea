//! Takes what waits in the outbox to the broker, on a thread and a connection of its own.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::message::Message;
use super::{Outbox, Outcome};
use crate::broker::connection::Pause;
use crate::broker::{BrokerError, Letterhead, NotPublished, Outlet, Topology};
use crate::config::{Broker, Config};
use crate::side_thread::{SideRuntime, SideThread};
use crate::telemetry::{Fact, Telemetry};

/// What the connection is called in the broker's lists.
const LINK: &str = "outcomes";

/// How long outcomes gather before they are published: the thread is woken so many times a second at most.
const GATHER: Duration = Duration::from_millis(20);

/// How long a stop waits for what is not published yet.
pub const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A connection that is blocked cannot even be closed; it is left behind after this.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// The pause between two tries while a stop waits.
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// The sender's end of outcomes.
#[derive(Debug)]
pub struct Sender(SideThread);

impl Sender {
    /// Starts a sender for the worker of this name, and the outbox that it empties; `None` where outcomes are off. Whether there is a
    /// broker, it finds out by itself.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn start(config: &Config, worker: String, telemetry: &Telemetry) -> std::io::Result<Option<(Arc<Outbox>, Self)>> {
        let Some(exchange) = config.outcomes.exchange.clone() else { return Ok(None) };
        let outbox = Arc::new(Outbox::new(config.outcomes.events.clone(), config.outcomes.memory, telemetry.clone()));
        let stop = CancellationToken::new();
        let sending = Sending {
            outbox: Arc::clone(&outbox),
            topology: Topology::of_outcomes(config),
            broker: config.broker.clone(),
            exchange,
            worker,
            telemetry: telemetry.clone(),
            stop: stop.clone(),
            failing: Cell::new(false),
            refusing: Cell::new(false),
        };
        let thread = SideRuntime::new()?.start("outcomes", stop, move || sending.run())?;
        Ok(Some((outbox, Self(thread))))
    }

    /// Publishes what waits and ends; what the broker does not take within [`STOP_LIMIT`] is lost, and counted.
    pub async fn stop(self) {
        self.0.stop(STOP_LIMIT + 2 * CLOSE_LIMIT).await;
    }
}

struct Sending {
    outbox: Arc<Outbox>,
    topology: Topology,
    broker: Broker,
    exchange: String,
    worker: String,
    telemetry: Telemetry,
    stop: CancellationToken,
    /// That they cannot be published, or that the broker refuses them, has been told.
    failing: Cell<bool>,
    refusing: Cell<bool>,
}

/// Why a connection is given up.
type Fault = String;

impl Sending {
    /// Ends when it is told to stop and everything is published, or cannot be in time.
    async fn run(self) {
        let late = async {
            self.stop.cancelled().await;
            sleep(STOP_LIMIT).await;
        };
        tokio::select! {
            biased;
            () = self.keep_up() => {}
            () = late => {}
        }
        self.outbox.give_up();
    }

    async fn keep_up(&self) {
        let (mut pause, mut is_first) = (Pause::new(), true);
        loop {
            let since = Instant::now();
            let Err(error) = self.connect_and_send(&mut is_first).await else { return };
            if self.stop.is_cancelled() {
                if self.outbox.backlog().is_empty() {
                    return;
                }
                sleep(LAST_PAUSE).await;
                continue;
            }
            let retry_in = pause.after(since.elapsed());
            if !self.failing.replace(true) {
                self.telemetry.record(&Fact::OutcomesFailed { error: &error, retry_in });
            }
            let _ = self.stop.run_until_cancelled(sleep(retry_in)).await;
        }
    }

    /// Makes a connection and publishes on it until a stop, or until it is of no use.
    async fn connect_and_send(&self, is_first: &mut bool) -> Result<(), Fault> {
        let outlet = Outlet::open(&self.broker, LINK).await.map_err(|error| error.to_string())?;
        let sent = self.send(&outlet, is_first).await;
        let _ = timeout(CLOSE_LIMIT, outlet.close()).await;
        sent
    }

    async fn send(&self, outlet: &Outlet, is_first: &mut bool) -> Result<(), Fault> {
        let (connection, limit) = (outlet.connection(), self.broker.timeout);
        let found =
            if self.broker.declare { self.topology.declare(connection, limit).await } else { self.topology.check(connection, limit).await };
        found.map_err(|error| BrokerError::Topology(error.to_string()).to_string())?;
        if std::mem::take(is_first) && !self.failing.get() {
            self.tell_ready();
        }
        loop {
            if self.stop.run_until_cancelled(self.outbox.backlog().arrived()).await.is_some() {
                let _ = self.stop.run_until_cancelled(sleep(GATHER)).await;
            }
            // Each to its own end, so that none is lost that has been taken.
            let ends = join_all((0..self.broker.publish_channels.max(1)).map(|_| self.send_what_waits(outlet))).await;
            ends.into_iter().collect::<Result<(), Fault>>()?;
            if self.stop.is_cancelled() && self.outbox.backlog().is_empty() {
                return Ok(());
            }
        }
    }

    async fn send_what_waits(&self, outlet: &Outlet) -> Result<(), Fault> {
        while let Some(outcome) = self.outbox.backlog().take(1).pop() {
            let Message { routing_key, properties, body } = outcome.message(&self.worker);
            let head = Letterhead { exchange: &self.exchange, routing_key: &routing_key, properties };
            match outlet.announce(head, &body).await {
                Ok(()) => self.published(outcome),
                Err(error) if error.is_permanent() || matches!(error, NotPublished::Refused) => self.refused(outcome, &error),
                Err(error) => {
                    self.outbox.backlog().put_back(vec![outcome]);
                    return Err(format!("publishing to {}: {error}", self.exchange));
                }
            }
        }
        Ok(())
    }

    fn published(&self, outcome: Box<Outcome>) {
        self.telemetry.outcome_published();
        self.refusing.set(false);
        if self.failing.replace(false) {
            self.tell_ready();
        }
        self.outbox.release(outcome);
    }

    /// Tried again, it would come twice into those queues that did take it.
    fn refused(&self, outcome: Box<Outcome>, error: &NotPublished) {
        self.telemetry.outcome_refused();
        if !self.refusing.replace(true) {
            self.telemetry.record(&Fact::OutcomesRefused { error: &error.to_string() });
        }
        self.outbox.release(outcome);
    }

    fn tell_ready(&self) {
        self.telemetry.record(&Fact::OutcomesReady { exchange: &self.exchange });
    }
}
