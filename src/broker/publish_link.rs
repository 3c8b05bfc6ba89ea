//! The publisher's connection: made, watched, mended.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{Channel, Connection, Event};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{BrokerError, Pause, connect, within};
use super::topology::Topology;
use crate::config::Broker;
use crate::telemetry::{Fact, Telemetry};

/// What this connection is called in facts and in the broker's lists.
const LINK: &str = "publish";
/// How often a quiet connection is asked whether it still lives: not every loss is told by an event.
const LOOK: Duration = Duration::from_millis(500);
/// A connection that is blocked cannot even be closed; it is left behind after this.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A connection that is up, with the channels that are free.
pub(super) struct Session {
    pub(super) connection: Connection,
    /// Told when a publish failed: a reason to look whether the connection still lives.
    pub(super) suspect: Notify,
    idle: Mutex<Vec<Channel>>,
}

impl Session {
    /// A channel that nobody uses and whose last verdict was clean.
    pub(super) fn idle_channel(&self) -> Option<Channel> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|channel| channel.status().connected())
    }

    /// Makes a channel free again.
    pub(super) fn give_back(&self, channel: Channel) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
    }
}

/// Keeps a session up until it is stopped.
pub(super) struct Link {
    broker: Broker,
    topology: Arc<Topology>,
    telemetry: Telemetry,
    session: watch::Sender<Option<Arc<Session>>>,
    connected: watch::Sender<bool>,
    blocked: watch::Sender<bool>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Link {
    pub(super) fn start(broker: Broker, topology: Arc<Topology>, telemetry: Telemetry) -> Arc<Self> {
        let link = Arc::new(Self {
            broker,
            topology,
            telemetry,
            session: watch::Sender::new(None),
            connected: watch::Sender::new(false),
            blocked: watch::Sender::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        link.tasks.spawn(Arc::clone(&link).keep_up());
        link.tasks.close();
        link
    }

    /// The session that is up, or the next one. Never returns after a stop.
    pub(super) async fn session(&self) -> Arc<Session> {
        loop {
            let mut sessions = self.session.subscribe();
            if let Ok(session) = sessions.wait_for(Option::is_some).await
                && let Some(session) = session.as_ref()
            {
                return Arc::clone(session);
            }
        }
    }

    pub(super) fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    pub(super) fn blocked(&self) -> watch::Receiver<bool> {
        self.blocked.subscribe()
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    pub(super) async fn close(&self) {
        self.stop();
        self.tasks.wait().await;
    }

    /// Declares the topology or checks that it is there, as configured.
    pub(super) async fn ready(&self, connection: &Connection) -> Result<(), BrokerError> {
        let Broker { declare, timeout, .. } = self.broker;
        let objects =
            if declare { self.topology.declare(connection, timeout).await } else { self.topology.check(connection, timeout).await };
        let objects = objects.map_err(|error| BrokerError::Topology(error.to_string()))?;
        self.telemetry.record(&Fact::TopologyReady { objects });
        Ok(())
    }

    async fn keep_up(self: Arc<Self>) {
        let mut pause = Pause::new();
        while let Some(attempt) = self.stop.run_until_cancelled(self.open()).await {
            let started = Instant::now();
            let lost = match attempt {
                Ok(session) => self.serve(session).await,
                Err(error) => Some(error.to_string()),
            };
            let Some(error) = lost else { return };
            if started.elapsed() > Pause::LONGEST {
                pause = Pause::new();
            }
            let retry_in = pause.next(fastrand::f64());
            self.telemetry.record(&Fact::BrokerLost { link: LINK, error: &error, retry_in });
            if self.stop.run_until_cancelled(tokio::time::sleep(retry_in)).await.is_none() {
                return;
            }
        }
    }

    async fn open(&self) -> Result<Arc<Session>, BrokerError> {
        let connection = connect(&self.broker, LINK).await?;
        self.ready(&connection).await?;
        Ok(Arc::new(Session { connection, suspect: Notify::new(), idle: Mutex::default() }))
    }

    /// Offers the session until it ends: with the reason when it was lost, without one when we were stopped.
    async fn serve(&self, session: Arc<Session>) -> Option<String> {
        self.telemetry.record(&Fact::BrokerConnected { link: LINK });
        self.session.send_replace(Some(Arc::clone(&session)));
        self.connected.send_replace(true);
        let lost = self.stop.run_until_cancelled(self.watch(&session)).await;
        self.session.send_replace(None);
        self.connected.send_replace(false);
        if lost.is_none() {
            let _ = within(CLOSE_LIMIT, "close", session.connection.close(200, "OK".into())).await;
        }
        self.unblock();
        lost
    }

    async fn watch(&self, session: &Session) -> String {
        let mut events = pin!(session.connection.events_listener());
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => self.block(&reason),
                    Some(Event::ConnectionUnblocked) => self.unblock(),
                    // Among them errors, which are those of single channels: their publishers have them too.
                    Some(_) => {}
                    None => return BrokerError::Ended.to_string(),
                },
                () = session.suspect.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            if !session.connection.status().connected() {
                return BrokerError::Ended.to_string();
            }
        }
    }

    fn block(&self, reason: &str) {
        self.blocked.send_replace(true);
        self.telemetry.record(&Fact::BrokerBlocked { reason });
    }

    fn unblock(&self) {
        if self.blocked.send_replace(false) {
            self.telemetry.record(&Fact::BrokerUnblocked);
        }
    }
}
