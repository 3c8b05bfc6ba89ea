//! One connection that reads one queue, from its first delivery to its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use lapin::Connection;
use lapin::message::Delivery;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::acks::AcksOf;
use super::channels::Channels;
use super::claim::Claim;
use super::connection::{BrokerError, connect_behind, short, within};
use super::quarantine::Pace;
use super::share::{Share, Weight, weigh};
use super::subscription::{Ground, Inbound, Orders};
use super::tap::{self, Flow, Tap};
use super::valve::Valve;
use super::window::{Cause, Window};
use crate::config::Broker;
use crate::telemetry::{Fact, Telemetry};

/// How often a quiet session is looked at: whether it still lives, and whether a quarantine is over.
const LOOK: Duration = Duration::from_millis(250);

/// Messages that are taken one after the other before orders are looked at.
const AT_ONCE: usize = 64;

/// What all sessions of one queue share.
pub(super) struct Feed {
    pub(super) queue: String,
    pub(super) prefetch: u16,
    pub(super) share: Arc<Share>,
    pub(super) broker: Broker,
    pub(super) ground: Ground,
    pub(super) telemetry: Telemetry,
    pub(super) messages: mpsc::Sender<Inbound>,
    pub(super) live: watch::Sender<bool>,
    pub(super) orders: Orders,
    /// Cancelled when no new message can come any more.
    pub(super) quiet: CancellationToken,
}

/// How a queue is read, from one session to the next.
pub(super) struct Tempo {
    pub(super) pace: Pace,
    pub(super) window: Window,
}

impl Tempo {
    /// Whether another prefetch would be better, and can be had without a pause.
    fn wants_change(&self, share: &Share) -> bool {
        self.pace == Pace::Full && (self.window.is_too_wide() || (share.held() <= share.limit() / 4 && self.window.is_too_narrow()))
    }

    /// The prefetch that this comes to.
    fn prefetch(&self) -> u16 {
        self.pace.prefetch(self.window.now())
    }
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
    pub(super) async fn open(&self, tempo: &Tempo) -> Result<Session<'_>, BrokerError> {
        let Broker { declare, timeout, .. } = self.broker;
        if self.ground.able.clone().wait_for(|able| *able).await.is_err() {
            // Nobody will ever publish again.
            std::future::pending::<()>().await;
        }
        let valve = Valve::default();
        let connection = connect_behind(valve.clone(), &self.broker, &self.queue).await?;
        let prefetch = tempo.prefetch();
        let tap = match self.tap(&connection, prefetch, &valve).await {
            Err(error) if error.is_missing() && declare => {
                let declared = self.ground.topology.declare(&connection, timeout).await;
                let objects = declared.map_err(|error| BrokerError::Topology(error.to_string()))?;
                self.telemetry.record(&Fact::TopologyReady { objects });
                self.tap(&connection, prefetch, &valve).await?
            }
            tap => tap?,
        };
        self.telemetry.record(&Fact::Consuming { queue: &self.queue, prefetch });
        Ok(Session::new(self, connection, tap))
    }

    async fn tap(&self, connection: &Connection, prefetch: u16, valve: &Valve) -> Result<Tap, BrokerError> {
        let limit = self.broker.timeout;
        let channel = within(limit, "open a channel", connection.create_channel()).await?;
        Tap::open(channel, &self.queue, prefetch, limit, valve.clone()).await
    }
}

/// One connection that consumes.
pub(super) struct Session<'a> {
    feed: &'a Feed,
    connection: Connection,
    tap: Tap,
    channels: Channels,
    /// The tap is to be opened again on another channel.
    wants_channel: bool,
    over: CancellationToken,
    _over_on_drop: DropGuard,
    fault: CancellationToken,
    look: Interval,
    able: watch::Receiver<bool>,
    /// Since when copies cannot be published.
    unable_since: Option<Instant>,
    pending: VecDeque<(Delivery, Weight)>,
    /// Messages given back since the tap began to close.
    given_back: u64,
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
    Flow(Flow),
    /// The tap can be opened again.
    Free,
    Room(Option<mpsc::Permit<'a, Inbound>>),
}

impl<'a> Session<'a> {
    fn new(feed: &'a Feed, connection: Connection, tap: Tap) -> Self {
        let (over, fault) = (CancellationToken::new(), CancellationToken::new());
        let acks = AcksOf {
            queue: feed.queue.clone(),
            limit: feed.broker.timeout,
            over: over.clone(),
            fault: fault.clone(),
            telemetry: feed.telemetry.clone(),
        };
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut able = feed.ground.able.clone();
        // It may have changed since the session began to open.
        able.mark_changed();
        Self {
            feed,
            connection,
            channels: Channels::new(tap.channel().clone(), acks),
            tap,
            wants_channel: false,
            _over_on_drop: over.clone().drop_guard(),
            over,
            fault,
            look,
            able,
            unable_since: None,
            pending: VecDeque::new(),
            given_back: 0,
            last_received: Instant::now(),
        }
    }

    /// Hands messages over until the session ends, at the tempo that is given and that changes here: from one by one back to
    /// the full pace, and with the sizes of the messages.
    pub(super) async fn serve(mut self, tempo: &mut Tempo) -> End {
        self.feed.live.send_replace(true);
        let end = loop {
            let event = self.next_event().await;
            match self.take(event, tempo).await {
                Ok(false) => {}
                Ok(true) => break End::Told,
                Err(error) => break End::lost(error, self.channels.written()),
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
        let next = self.pending.front().map(|(_, weight)| weight).filter(|_| self.unable_since.is_none());
        // With nothing pending, the next message is kept whatever its size: so none can be given back for ever.
        let may_open = self.tap.is_closed() && self.pending.is_empty() && !cancelled;
        tokio::select! {
            biased;
            () = feed.orders.cancel.cancelled(), if !cancelled => Event::Cancel,
            () = feed.orders.close.cancelled(), if cancelled => Event::Close,
            () = self.fault.cancelled() => Event::Fault,
            _ = self.look.tick() => Event::Look,
            Ok(()) = self.able.changed() => Event::Turned,
            flow = self.tap.next() => Event::Flow(flow),
            () = feed.share.half_free(), if may_open => Event::Free,
            permit = room(feed, next), if next.is_some() => Event::Room(permit.ok()),
        }
    }

    /// Whether the session is done.
    async fn take(&mut self, event: Event<'a>, tempo: &mut Tempo) -> Result<bool, BrokerError> {
        match event {
            Event::Cancel => self.stop_consuming().await?,
            Event::Close => {
                self.say_goodbye().await;
                return Ok(true);
            }
            Event::Fault => return Err(BrokerError::AcksStuck),
            Event::Look => self.look_around(tempo).await?,
            Event::Turned => self.turn(),
            Event::Flow(Flow::Message(delivery)) => {
                self.receive(delivery, tempo);
                self.take_what_is_there(tempo)?;
                self.hand_over_what_fits();
            }
            Event::Flow(Flow::Dry) => {}
            Event::Flow(Flow::Broken(error)) => return Err(error),
            Event::Free => self.open_again(tempo).await?,
            Event::Room(Some(permit)) => {
                self.hand_over(permit);
                self.hand_over_what_fits();
            }
            // Nobody is there to take messages: the same as if we had been told to close, unless somebody has told us to
            // cancel. Then the claims that are out are being settled, and who holds them says when to close.
            Event::Room(None) if self.feed.orders.cancel.is_cancelled() => self.pending.clear(),
            Event::Room(None) => self.feed.orders.close.cancel(),
        }
        Ok(false)
    }

    /// Takes what has come already without looking at everything else in between, which would cost as much again for each
    /// message.
    fn take_what_is_there(&mut self, tempo: &mut Tempo) -> Result<(), BrokerError> {
        for _ in 0..AT_ONCE {
            match self.tap.next().now_or_never() {
                Some(Flow::Message(delivery)) => self.receive(delivery, tempo),
                Some(Flow::Broken(error)) => return Err(error),
                Some(Flow::Dry) | None => break,
            }
        }
        Ok(())
    }

    /// Hands over as much as there is room for now.
    fn hand_over_what_fits(&mut self) {
        let feed = self.feed;
        while self.unable_since.is_none()
            && let Some((_, weight)) = self.pending.front()
            && feed.share.room_for(weight).now_or_never().is_some()
            && let Ok(permit) = feed.messages.try_reserve()
        {
            self.hand_over(permit);
        }
    }

    /// Copies can be published again, or no longer.
    fn turn(&mut self) {
        let able = *self.able.borrow_and_update();
        self.unable_since = if able { None } else { self.unable_since.or_else(|| Some(Instant::now())) };
    }

    /// Keeps a message until it can be handed over, or gives it back where the queue's share of the memory is used up. The
    /// one that is next is always kept, whatever its size.
    fn receive(&mut self, mut delivery: Delivery, tempo: &mut Tempo) {
        self.channels.received();
        self.last_received = Instant::now();
        // After a cancel the rest goes back unsettled.
        if self.feed.quiet.is_cancelled() {
            return;
        }
        let (body, share) = (delivery.data.len(), &self.feed.share);
        let bytes = weigh(body, &delivery.properties);
        tempo.window.saw(bytes);
        if self.pending.is_empty() || share.has_room_for(bytes) {
            // The body was put together from frames and may have twice the room that it needs.
            delivery.data.shrink_to_fit();
            self.pending.push_back((delivery, Weight::new(share, bytes, body)));
        } else {
            self.tap.close();
            self.channels.acks().give_back(delivery.delivery_tag);
            self.given_back += 1;
        }
        if self.tap.is_open() && tempo.wants_change(share) {
            self.tap.close();
        }
    }

    /// Consumes again, with as many messages at one time as fit now.
    async fn open_again(&mut self, tempo: &mut Tempo) -> Result<(), BrokerError> {
        let (queue, telemetry) = (&self.feed.queue, &self.feed.telemetry);
        let (before, given_back) = (tempo.window.now(), std::mem::take(&mut self.given_back));
        let wants_channel = std::mem::take(&mut self.wants_channel);
        if given_back > 0 {
            tempo.window.change(Cause::Overrun);
        } else if !wants_channel {
            tempo.window.change(Cause::Sizes);
        }
        let prefetch = tempo.prefetch();
        // Where there is none to be had, it goes on as it was, only dearer for the broker.
        if wants_channel && let Some(channel) = self.channels.change(&self.connection).await {
            self.tap.move_to(channel);
        }
        self.tap.open_again(prefetch).await?;
        if tempo.window.now() < before || given_back > 0 {
            telemetry.record(&Fact::WindowNarrowed { queue, prefetch: tempo.window.now(), given_back });
        }
        telemetry.record(&Fact::Consuming { queue, prefetch });
        Ok(())
    }

    fn hand_over(&mut self, permit: mpsc::Permit<'a, Inbound>) {
        let Some((delivery, mut weight)) = self.pending.pop_front() else { return };
        weight.hand_over();
        permit.send(Inbound {
            claim: Claim::new(delivery.delivery_tag, self.channels.acks().sender(), self.over.clone()),
            body: Bytes::from(delivery.data),
            properties: delivery.properties,
            exchange: delivery.exchange,
            routing_key: delivery.routing_key,
            redelivered: delivery.redelivered,
            weight,
        });
    }

    async fn look_around(&mut self, tempo: &mut Tempo) -> Result<(), BrokerError> {
        if !self.connection.status().connected() || !self.channels.are_open() {
            return Err(BrokerError::Ended);
        }
        let limit = self.feed.broker.timeout;
        if self.tap.is_stuck() {
            return Err(BrokerError::TimedOut { step: tap::CANCEL, limit });
        }
        let patience = self.feed.ground.patience;
        if self.unable_since.is_some_and(|since| since.elapsed() > patience) && !self.feed.quiet.is_cancelled() {
            self.feed.live.send_replace(false);
            self.tap.run_dry(drop).await?;
            self.say_goodbye().await;
            return Err(BrokerError::GivenBack(patience));
        }
        let (settled, unsettled) = (self.channels.written(), self.channels.unsettled());
        if tempo.pace.is_over(settled, unsettled, self.last_received.elapsed()) && !self.feed.quiet.is_cancelled() {
            // Opened again, it has the full prefetch: on the same channel, so that no message that is out has to come again.
            self.tap.close();
            tempo.pace = Pace::Full;
            self.feed.telemetry.record(&Fact::QuarantineOver { queue: &self.feed.queue });
        }
        // Without a pause: with more of the share held, the next consumer would have to wait for room.
        let has_room = self.feed.share.held() <= self.feed.share.limit() / 4;
        if self.channels.is_held_up() && has_room && tempo.pace == Pace::Full && self.tap.is_open() && !self.feed.quiet.is_cancelled() {
            self.tap.close();
            self.wants_channel = true;
        }
        Ok(())
    }

    async fn stop_consuming(&mut self) -> Result<(), BrokerError> {
        self.feed.live.send_replace(false);
        self.pending.clear();
        let dry = self.tap.run_dry(drop).await;
        self.feed.quiet.cancel();
        dry
    }

    /// Closes the connection only after the broker has processed every acknowledgement. Errors are of no use here: what was
    /// not processed is delivered again.
    async fn say_goodbye(&mut self) {
        let limit = self.feed.broker.timeout;
        // Nobody takes messages any more, and the answers to what follows have to get through.
        self.tap.let_through();
        let _ = tokio::time::timeout(limit, self.channels.flush()).await;
        if let Ok(queue) = short("the name of the queue", &self.feed.queue) {
            self.channels.barrier(&queue).await;
        }
        let _ = within(limit, "close", self.connection.close(200, "OK".into())).await;
    }
}

/// A place for the next message with who takes it, once there is room for what it will need.
async fn room<'a>(feed: &'a Feed, next: Option<&Weight>) -> Result<mpsc::Permit<'a, Inbound>, mpsc::error::SendError<()>> {
    if let Some(weight) = next {
        feed.share.room_for(weight).await;
    }
    feed.messages.reserve().await
}
