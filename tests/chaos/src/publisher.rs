//! The platform: publishes every event until the broker has confirmed it, and writes down each try before and after.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::event::Event;
use crate::ledger::{Entry, Ledger, Word};
use crate::receiver::Receiver;

/// Channels, each with one publish at one time: with several on one channel the client library was seen to hand a caller
/// another message's verdict.
const CHANNELS: usize = 24;
/// Longer than any alarm of the plan.
const CONFIRM_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Before the next try.
const PAUSE: Duration = Duration::from_millis(100);
/// Events that may be published and not have come to a receiver yet.
const BACKLOG: u64 = 3000;

/// Where events are published.
#[derive(Debug, Clone)]
pub struct Outlet {
    /// The broker.
    pub amqp: String,
    /// The exchange; empty: the default one.
    pub exchange: String,
    /// The routing key.
    pub key: String,
}

/// A connection that several channels share and that is made anew when it is gone.
#[derive(Debug)]
struct Link {
    amqp: String,
    connection: Mutex<Option<Connection>>,
}

impl Link {
    /// A channel in confirm mode. Tries for ever.
    async fn channel(&self) -> Channel {
        loop {
            if let Ok(Ok(channel)) = timeout(CONNECT_LIMIT, self.try_channel()).await {
                return channel;
            }
            sleep(PAUSE).await;
        }
    }

    async fn try_channel(&self) -> lapin::Result<Channel> {
        let mut connection = self.connection.lock().await;
        let open = match connection.take().filter(|open| open.status().connected()) {
            Some(open) => open,
            None => Connection::connect(&self.amqp, ConnectionProperties::default()).await?,
        };
        let channel = open.create_channel().await;
        *connection = Some(open);
        let channel = channel?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }
}

/// One try.
///
/// # Errors
/// Never: that is what [`Word::Nothing`] says.
async fn publish_once(channel: &Channel, outlet: &Outlet, event: Event, message: &str) -> Word {
    let properties =
        BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into()).with_message_id(event.id().into());
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publish = async {
        let (exchange, key) = (outlet.exchange.as_str().into(), outlet.key.as_str().into());
        channel.basic_publish(exchange, key, options, message.as_bytes(), properties).await?.await
    };
    match timeout(CONFIRM_LIMIT, publish).await {
        Ok(Ok(Confirmation::Ack(None))) => Word::Confirmed,
        Ok(Ok(Confirmation::Ack(Some(_)))) => Word::Returned,
        Ok(Ok(Confirmation::Nack(_))) => Word::Nacked,
        _ => Word::Nothing,
    }
}

/// Publishes these events, rendered by `message`, and returns when all are confirmed.
pub async fn publish_all(outlet: &Outlet, ledger: &Ledger, events: impl Iterator<Item = Event>, message: fn(Event) -> String) {
    let link = Link { amqp: outlet.amqp.clone(), connection: Mutex::default() };
    let mut channel = link.channel().await;
    for event in events {
        until_confirmed(&link, &mut channel, outlet, (ledger, event, &message(event))).await;
    }
}

async fn until_confirmed(link: &Link, channel: &mut Channel, outlet: &Outlet, (ledger, event, message): (&Ledger, Event, &str)) {
    loop {
        ledger.write(Entry::Publishing { event: event.0 });
        let word = publish_once(channel, outlet, event, message).await;
        ledger.write(Entry::Published { event: event.0, word });
        match word {
            Word::Confirmed => return,
            Word::Returned | Word::Nacked => {}
            // Its channel may be as dead as it looks.
            Word::Nothing => *channel = link.channel().await,
        }
        sleep(PAUSE).await;
    }
}

/// Lets events out: so many until the next fault is over, at a rate, and not too far ahead of the receivers.
#[derive(Debug)]
pub struct Gate {
    events: u64,
    quota: watch::Sender<u64>,
    turn: Mutex<(u64, Instant)>,
    interval: Duration,
    receiver: Receiver,
    confirmed: AtomicU64,
}

impl Gate {
    /// For so many events, `rate` of them a second.
    #[must_use]
    pub fn new(events: u64, rate: u32, receiver: Receiver) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Self {
            events,
            quota: watch::Sender::new(0),
            turn: Mutex::new((0, Instant::now())),
            interval,
            receiver,
            confirmed: AtomicU64::new(0),
        }
    }

    /// Lets events below this number out.
    pub fn open_up_to(&self, number: u64) {
        self.quota.send_if_modified(|quota| {
            let more = number > *quota;
            *quota = number.max(*quota);
            more
        });
    }

    /// How many the broker has confirmed.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Acquire)
    }

    async fn next(&self) -> Option<Event> {
        let mut turn = self.turn.lock().await;
        if turn.0 >= self.events {
            return None;
        }
        let number = turn.0;
        // The sender lives as long as the gate.
        let _ = self.quota.subscribe().wait_for(|quota| *quota > number).await;
        // One in 25 is for nobody and never comes to a receiver.
        while number.saturating_sub(self.receiver.distinct() + number / 25) > BACKLOG {
            sleep(Duration::from_millis(20)).await;
        }
        sleep_until(turn.1).await;
        *turn = (number + 1, turn.1.max(Instant::now() - Duration::from_millis(50)) + self.interval);
        Some(Event(number))
    }
}

/// Publishes what the gate lets out, on several channels. Ends when all is confirmed.
pub fn run(outlet: Outlet, ledger: Arc<Ledger>, gate: Arc<Gate>) -> JoinSet<()> {
    let link = Arc::new(Link { amqp: outlet.amqp.clone(), connection: Mutex::default() });
    let mut all = JoinSet::new();
    for _ in 0..CHANNELS {
        let (link, outlet, ledger, gate) = (Arc::clone(&link), outlet.clone(), Arc::clone(&ledger), Arc::clone(&gate));
        all.spawn(async move {
            let mut channel = link.channel().await;
            while let Some(event) = gate.next().await {
                until_confirmed(&link, &mut channel, &outlet, (&ledger, event, &event.message())).await;
                gate.confirmed.fetch_add(1, Ordering::AcqRel);
            }
        });
    }
    all
}
