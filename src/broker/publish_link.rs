//! The publisher's connection: made, proven, watched, mended.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use lapin::{Channel, Connection, Event};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{BrokerError, OwnedConnection, Pause, connect, within};
use super::topology::Topology;
use super::unblocked::while_unblocked;
use super::write_path;
use crate::config::Broker;
use crate::telemetry::{Fact, Telemetry};

/// What this connection is called in facts and in the broker's lists.
const LINK: &str = "publish";
/// How often a quiet connection is asked whether it still lives: not every loss is told by an event.
const LOOK: Duration = Duration::from_millis(500);
/// A connection that is blocked cannot even be closed; it is left behind after this.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A connection, with the channels that are free.
struct Line {
    connection: OwnedConnection,
    /// Told when a publish failed: a reason to look whether the connection still lives.
    suspect: Notify,
    idle: Mutex<Vec<Channel>>,
}

/// A connection that was proven to be good, from that proof to the next.
pub(super) struct Session {
    line: Arc<Line>,
    doubt: watch::Sender<Option<String>>,
}

impl Session {
    fn on(line: &Arc<Line>) -> Arc<Self> {
        Arc::new(Self { line: Arc::clone(line), doubt: watch::Sender::new(None) })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.line.connection
    }

    /// A publish failed as it does when the connection is lost.
    pub(super) fn suspect(&self) {
        self.line.suspect.notify_one();
    }

    /// A publish failed in a way that no new try mends: the session is to be proven again. Only the first doubt counts, so
    /// that messages which were on their way together cause one proof.
    pub(super) fn doubt(&self, why: &str) {
        self.doubt.send_if_modified(|doubt| doubt.is_none() && doubt.replace(why.to_owned()).is_none());
    }

    /// Returns when the session is doubted, and why.
    async fn doubted(&self) -> String {
        let mut doubts = self.doubt.subscribe();
        // The sender is our own, so there is always an answer.
        doubts.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    /// A channel that nobody uses and whose last verdict was clean.
    pub(super) fn idle_channel(&self) -> Option<Channel> {
        let mut idle = self.line.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|channel| channel.status().connected())
    }

    /// Makes a channel free again.
    pub(super) fn give_back(&self, channel: Channel) {
        self.line.idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
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
    able: watch::Sender<bool>,
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
            able: watch::Sender::new(false),
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

    pub(super) fn able(&self) -> watch::Receiver<bool> {
        self.able.subscribe()
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    pub(super) async fn close(&self) {
        self.stop();
        self.tasks.wait().await;
    }

    async fn keep_up(self: Arc<Self>) {
        let mut pause = Pause::new();
        while let Some(attempt) = self.stop.run_until_cancelled(connect(&self.broker, LINK)).await {
            let started = Instant::now();
            let lost = match attempt {
                Ok(connection) => self.serve(connection, &mut pause).await,
                Err(error) => Some(error),
            };
            let Some(error) = lost else { return };
            let retry_in = pause.after(started.elapsed());
            self.tell_lost(&error.to_string(), retry_in);
            if self.stop.run_until_cancelled(tokio::time::sleep(retry_in)).await.is_none() {
                return;
            }
        }
    }

    /// Uses a connection until it ends: with the reason when it was lost or is of no use, without one when we were stopped.
    async fn serve(&self, connection: OwnedConnection, pause: &mut Pause) -> Option<BrokerError> {
        let line = Arc::new(Line { connection, suspect: Notify::new(), idle: Mutex::default() });
        let events = line.connection.events_listener();
        let lost = self.stop.run_until_cancelled(async {
            tokio::select! {
                biased;
                lost = self.watch(&line, events) => lost,
                unfit = self.offer(&line, pause) => unfit,
            }
        });
        let lost = lost.await;
        self.session.send_replace(None);
        self.set_connected(false);
        if line.connection.status().connected() {
            let _ = within(CLOSE_LIMIT, "close", line.connection.close(200, "OK".into())).await;
        }
        self.unblock();
        lost
    }

    /// Offers sessions on a connection, one after the other, until it cannot be proven to be good. A doubted session stays
    /// on offer for the copies that do go through. The first doubt is mended on the spot, as when a queue was deleted that we
    /// may declare; with more of them soon after, mending is of no use, and the proofs have growing pauses between them.
    async fn offer(&self, line: &Arc<Line>, pause: &mut Pause) -> BrokerError {
        let (mut told_connected, mut doubted_before) = (false, false);
        loop {
            if let Err(error) = self.ready(&line.connection).await {
                return error;
            }
            if !std::mem::replace(&mut told_connected, true) {
                self.telemetry.record(&Fact::BrokerConnected { link: LINK });
            }
            let (session, since) = (Session::on(line), Instant::now());
            self.session.send_replace(Some(Arc::clone(&session)));
            self.set_connected(true);
            let why = session.doubted().await;
            self.set_connected(false);
            let lasted = since.elapsed();
            let retry_in = pause.after(lasted);
            if std::mem::replace(&mut doubted_before, true) && lasted <= Pause::LONGEST {
                told_connected = false;
                self.tell_lost(&why, retry_in);
                tokio::time::sleep(retry_in).await;
            }
        }
    }

    /// Declares the topology or checks that it is there, as configured, and proves that copies can be published.
    async fn ready(&self, connection: &Connection) -> Result<(), BrokerError> {
        let Broker { declare, timeout, ref names, .. } = self.broker;
        let objects =
            if declare { self.topology.declare(connection, timeout).await } else { self.topology.check(connection, timeout).await };
        let objects = objects.map_err(|error| BrokerError::Topology(error.to_string()))?;
        self.telemetry.record(&Fact::TopologyReady { objects });
        let proof = while_unblocked(write_path::prove(connection, &names.publish), self.blocked(), timeout);
        proof.await.unwrap_or(Err(BrokerError::TimedOut { step: "publish", limit: timeout }))
    }

    /// Returns when the connection has ended, with the last that was heard of it.
    async fn watch(&self, line: &Line, events: impl Stream<Item = Event>) -> BrokerError {
        let (mut events, mut last_words) = (pin!(events), None);
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => Some(event),
                () = line.suspect.notified() => None,
                () = tokio::time::sleep(LOOK) => None,
            };
            match event {
                Some(Some(Event::ConnectionBlocked(reason))) => self.block(&reason),
                Some(Some(Event::ConnectionUnblocked)) => self.unblock(),
                // The soft ones are those of single channels: their publishers have them too.
                Some(Some(Event::Error(error))) if !error.is_amqp_soft_error() => last_words = Some(error),
                Some(Some(_)) => {}
                Some(None) => break,
                None if line.connection.status().connected() => {}
                None => break,
            }
        }
        last_words.map_or(BrokerError::Ended, |source| BrokerError::Failed { step: "the connection ended", source })
    }

    fn tell_lost(&self, error: &str, retry_in: Duration) {
        self.telemetry.record(&Fact::BrokerLost { link: LINK, error, retry_in });
    }

    fn block(&self, reason: &str) {
        self.blocked.send_replace(true);
        self.update_able();
        self.telemetry.record(&Fact::BrokerBlocked { reason });
    }

    fn unblock(&self) {
        if self.blocked.send_replace(false) {
            self.telemetry.record(&Fact::BrokerUnblocked);
        }
        self.update_able();
    }

    fn set_connected(&self, connected: bool) {
        self.connected.send_replace(connected);
        self.update_able();
    }

    fn update_able(&self) {
        let now = *self.connected.borrow() && !*self.blocked.borrow();
        self.able.send_if_modified(|able| std::mem::replace(able, now) != now);
    }
}
