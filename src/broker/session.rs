//! One connection that reads one queue, from its first delivery to its end.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::acks::{Acks, AcksOf};
use super::claim::Claim;
use super::connection::{BrokerError, connect, short, within};
use super::quarantine::Pace;
use super::subscription::{Ground, Inbound, Orders};
use crate::config::Broker;
use crate::telemetry::{Fact, Telemetry};

/// How often a quiet session is looked at: whether it still lives, and whether a quarantine is over.
const LOOK: Duration = Duration::from_millis(250);

/// What all sessions of one queue share.
pub(super) struct Feed {
    pub(super) queue: String,
    pub(super) prefetch: u16,
    pub(super) broker: Broker,
    pub(super) ground: Ground,
    pub(super) telemetry: Telemetry,
    pub(super) messages: mpsc::Sender<Inbound>,
    pub(super) live: watch::Sender<bool>,
    pub(super) orders: Orders,
    /// Cancelled when no new message can come any more.
    pub(super) quiet: CancellationToken,
}

/// How a session ended.
pub(super) enum End {
    /// As ordered.
    Told,
    /// By itself; it is to be made again.
    Lost(BrokerError),
    /// On a message that cannot be read.
    Poisoned {
        /// Messages of the session that were settled before.
        settled: u64,
    },
}

impl End {
    /// Tells poison from any other loss.
    pub(super) fn lost(error: BrokerError, settled: u64) -> Self {
        if error.is_poison() { Self::Poisoned { settled } } else { Self::Lost(error) }
    }
}

impl Feed {
    /// Waits until copies can be published, then connects and starts to consume. So the publisher declares the topology, and
    /// not every queue's session at once. A queue that is missing nevertheless was deleted: a missing queue is declared, if we may, with all of the topology.
    pub(super) async fn open(&self, pace: Pace) -> Result<Session<'_>, BrokerError> {
        let Broker { declare, timeout, .. } = self.broker;
        if self.ground.able.clone().wait_for(|able| *able).await.is_err() {
            // Nobody will ever publish again.
            std::future::pending::<()>().await;
        }
        let connection = connect(&self.broker, &self.queue).await?;
        let prefetch = pace.prefetch(self.prefetch);
        let (channel, consumer) = match self.first_consumer(&connection, prefetch).await {
            Err(error) if error.is_missing() && declare => {
                let declared = self.ground.topology.declare(&connection, timeout).await;
                let objects = declared.map_err(|error| BrokerError::Topology(error.to_string()))?;
                self.telemetry.record(&Fact::TopologyReady { objects });
                self.first_consumer(&connection, prefetch).await?
            }
            consuming => consuming?,
        };
        Ok(Session::new(self, connection, channel, consumer))
    }

    async fn first_consumer(&self, connection: &Connection, prefetch: u16) -> Result<(Channel, lapin::Consumer), BrokerError> {
        let channel = within(self.broker.timeout, "open a channel", connection.create_channel()).await?;
        let consumer = self.consumer(&channel, prefetch).await?;
        Ok((channel, consumer))
    }

    /// The prefetch is set per consumer: a global one kills the connection of a quorum queue.
    async fn consumer(&self, channel: &Channel, prefetch: u16) -> Result<lapin::Consumer, BrokerError> {
        let queue = short("the name of the queue", &self.queue)?;
        within(self.broker.timeout, "set the prefetch", channel.basic_qos(prefetch, BasicQosOptions { global: false })).await?;
        let consume = channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default());
        within(self.broker.timeout, "consume", consume).await
    }
}

/// One connection that consumes.
pub(super) struct Session<'a> {
    feed: &'a Feed,
    connection: Connection,
    channel: Channel,
    consumer: lapin::Consumer,
    /// The consumer's stream has said its last.
    drained: bool,
    acks: Acks,
    over: CancellationToken,
    _over_on_drop: DropGuard,
    fault: CancellationToken,
    look: Interval,
    able: watch::Receiver<bool>,
    /// Since when copies cannot be published.
    unable_since: Option<Instant>,
    pending: VecDeque<Delivery>,
    received: u64,
    last_received: Instant,
}

/// What happened in a session.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is used up at once")]
enum Event<'a> {
    Cancel,
    Close,
    Fault,
    Look,
    Turned,
    Delivery(Option<lapin::Result<Delivery>>),
    Room(Option<mpsc::Permit<'a, Inbound>>),
}

impl<'a> Session<'a> {
    fn new(feed: &'a Feed, connection: Connection, channel: Channel, consumer: lapin::Consumer) -> Self {
        let (over, fault) = (CancellationToken::new(), CancellationToken::new());
        let acks = Acks::start(AcksOf {
            channel: channel.clone(),
            queue: feed.queue.clone(),
            limit: feed.broker.timeout,
            over: over.clone(),
            fault: fault.clone(),
            telemetry: feed.telemetry.clone(),
        });
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut able = feed.ground.able.clone();
        // It may have changed since the session began to open.
        able.mark_changed();
        Self {
            feed,
            connection,
            channel,
            consumer,
            drained: false,
            acks,
            _over_on_drop: over.clone().drop_guard(),
            over,
            fault,
            look,
            able,
            unable_since: None,
            pending: VecDeque::new(),
            received: 0,
            last_received: Instant::now(),
        }
    }
    /// Hands messages over until the session ends, at the pace that is given and that changes back here to the full one.
    pub(super) async fn serve(mut self, pace: &mut Pace) -> End {
        self.feed.live.send_replace(true);
        let end = loop {
            let event = self.next_event().await;
            match self.take(event, pace).await {
                Ok(false) => {}
                Ok(true) => break End::Told,
                Err(error) => break End::lost(error, self.acks.written()),
            }
        };
        self.feed.live.send_replace(false);
        self.over.cancel();
        end
    }

    /// Orders come before messages, so that no message decides about the end. Nothing starves: looks are rare, and as long
    /// as none is handed over, no more deliveries come than the prefetch window holds.
    async fn next_event(&mut self) -> Event<'a> {
        let feed = self.feed;
        let cancelled = feed.quiet.is_cancelled();
        let may_hand_over = !self.pending.is_empty() && self.unable_since.is_none();
        tokio::select! {
            biased;
            () = feed.orders.cancel.cancelled(), if !cancelled => Event::Cancel,
            () = feed.orders.close.cancelled(), if cancelled => Event::Close,
            () = self.fault.cancelled() => Event::Fault,
            _ = self.look.tick() => Event::Look,
            Ok(()) = self.able.changed() => Event::Turned,
            delivery = self.consumer.next(), if !self.drained => Event::Delivery(delivery),
            permit = feed.messages.reserve(), if may_hand_over => Event::Room(permit.ok()),
        }
    }

    /// Whether the session is done.
    async fn take(&mut self, event: Event<'a>, pace: &mut Pace) -> Result<bool, BrokerError> {
        match event {
            Event::Cancel => self.stop_consuming().await?,
            Event::Close => {
                self.say_goodbye().await;
                return Ok(true);
            }
            Event::Fault => return Err(BrokerError::AcksStuck),
            Event::Look => self.look_around(pace).await?,
            Event::Turned => self.turn(),
            Event::Delivery(Some(Ok(delivery))) => self.receive(delivery),
            Event::Delivery(Some(Err(source))) => return Err(BrokerError::Failed { step: "consume", source }),
            Event::Delivery(None) if self.feed.quiet.is_cancelled() => self.drained = true,
            Event::Delivery(None) => return Err(BrokerError::ConsumerEnded),
            Event::Room(Some(permit)) => self.hand_over(permit),
            // Nobody is there to take messages: the same as if we had been told to close, unless somebody has told us to
            // cancel. Then the claims that are out are being settled, and who holds them says when to close.
            Event::Room(None) if self.feed.orders.cancel.is_cancelled() => self.pending.clear(),
            Event::Room(None) => self.feed.orders.close.cancel(),
        }
        Ok(false)
    }

    /// Copies can be published again, or no longer.
    fn turn(&mut self) {
        let able = *self.able.borrow_and_update();
        self.unable_since = if able { None } else { self.unable_since.or_else(|| Some(Instant::now())) };
    }

    fn receive(&mut self, delivery: Delivery) {
        self.received += 1;
        self.last_received = Instant::now();
        // After a cancel the rest goes back unsettled.
        if !self.feed.quiet.is_cancelled() {
            self.pending.push_back(delivery);
        }
    }

    fn hand_over(&mut self, permit: mpsc::Permit<'a, Inbound>) {
        let Some(delivery) = self.pending.pop_front() else { return };
        permit.send(Inbound {
            claim: Claim::new(delivery.delivery_tag, self.acks.sender(), self.over.clone()),
            body: Bytes::from(delivery.data),
            properties: delivery.properties,
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            redelivered: delivery.redelivered,
        });
    }

    async fn look_around(&mut self, pace: &mut Pace) -> Result<(), BrokerError> {
        if !self.connection.status().connected() || !self.channel.status().connected() {
            return Err(BrokerError::Ended);
        }
        let patience = self.feed.ground.patience;
        if self.unable_since.is_some_and(|since| since.elapsed() > patience) && !self.feed.quiet.is_cancelled() {
            self.feed.live.send_replace(false);
            self.cancel_consumer().await?;
            self.say_goodbye().await;
            return Err(BrokerError::GivenBack(patience));
        }
        if pace.is_over(self.acks.written(), self.unsettled(), self.last_received.elapsed()) && !self.feed.quiet.is_cancelled() {
            self.resume().await?;
            *pace = Pace::Full;
            self.feed.telemetry.record(&Fact::QuarantineOver { queue: &self.feed.queue });
        }
        Ok(())
    }

    /// Consumes at full prefetch again, on the same channel, so that no message that is out has to come again.
    async fn resume(&mut self) -> Result<(), BrokerError> {
        self.cancel_consumer().await?;
        while let Some(delivery) = within_stream(self.feed.broker.timeout, self.consumer.next()).await? {
            self.receive(delivery);
        }
        self.consumer = self.feed.consumer(&self.channel, self.feed.prefetch).await?;
        Ok(())
    }

    async fn stop_consuming(&mut self) -> Result<(), BrokerError> {
        self.feed.live.send_replace(false);
        self.pending.clear();
        let cancelled = self.cancel_consumer().await;
        self.feed.quiet.cancel();
        cancelled
    }

    async fn cancel_consumer(&self) -> Result<(), BrokerError> {
        let cancel = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        within(self.feed.broker.timeout, "cancel the consumer", cancel).await
    }

    /// Closes the connection only after the broker has processed every acknowledgement. Errors are of no use here: what was
    /// not processed is delivered again.
    async fn say_goodbye(&mut self) {
        let limit = self.feed.broker.timeout;
        let _ = tokio::time::timeout(limit, self.acks.flush()).await;
        let _ = self.barrier(limit).await;
        let _ = within(limit, "close", self.connection.close(200, "OK".into())).await;
    }

    /// Returns when the broker has taken in all acknowledgements. A quorum queue's channel keeps those back that come faster
    /// than the queue writes them, and forgets what it has kept back when it closes: of 3,000 messages settled right before
    /// the close, up to 416 came again in 11 of 20 runs, and after a plain round trip up to 223 in 4 of 20. Getting a message
    /// is the one question whose answer goes through the queue's own log, behind what the channel has sent; the round trip
    /// after it finds the rest sent too (0 in 40 runs). A message that is got goes back when the connection closes.
    async fn barrier(&self, limit: Duration) -> Result<(), BrokerError> {
        let queue = short("the name of the queue", &self.feed.queue)?;
        within(limit, "get", self.channel.basic_get(queue, BasicGetOptions { no_ack: false })).await?;
        within(limit, "set the prefetch", self.channel.basic_qos(1, BasicQosOptions { global: false })).await
    }

    /// Messages received and not settled.
    fn unsettled(&self) -> u64 {
        self.received.saturating_sub(self.acks.written())
    }
}

/// The next of a stream that has been cancelled, within the limit.
async fn within_stream(
    limit: Duration,
    next: impl Future<Output = Option<lapin::Result<Delivery>>>,
) -> Result<Option<Delivery>, BrokerError> {
    within(limit, "cancel the consumer", async { next.await.transpose() }).await
}
