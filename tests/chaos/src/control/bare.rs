//! A bare worker: consumes, posts, has failures wait and gives up after three attempts. Honest, or with one flaw.
//!
//! Anything that it does not expect ends it; whoever started it starts it again, and what it had not acknowledged comes back.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::Flaw;
use crate::event::{Character, Event};
use crate::ledger::now;
use crate::signature::sign;

/// The queue of events.
pub const WORK: &str = "work";
/// Where failures wait.
pub const WAIT: &str = "wait";
/// What was given up.
pub const DEAD: &str = "dead";
/// The exchange that brings back what has waited.
pub const ROUTE: &str = "route";
/// How long.
pub const WAIT_TIME: Duration = Duration::from_millis(300);
/// Requests at one time.
pub const IN_FLIGHT: usize = 4;
const ATTEMPTS: i64 = 3;
const PREFETCH: u16 = 100;
/// Events that its own line holds.
const LINE: usize = 8;
const LIMIT: Duration = Duration::from_secs(20);
/// Who it delivers to.
pub const CHARACTER: Character = Character::Prompt;

/// What it is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Orders {
    /// The broker, to consume.
    pub amqp: String,
    /// The broker, to publish.
    pub publish: String,
    /// Where events are posted.
    pub target: String,
    /// What it does wrong.
    #[arg(long)]
    pub flaw: Option<Flaw>,
    /// First replays the dead letters.
    #[arg(long)]
    pub replay: bool,
}

struct Bare {
    orders: Orders,
    consume: Channel,
    publish: Channel,
    client: reqwest::Client,
    _connections: Vec<Connection>,
}

/// The wait queue's arguments.
#[must_use]
pub fn wait_queue(at_least_once: bool, longest: Option<i64>) -> FieldTable {
    let mut arguments = FieldTable::default();
    let mut text = |name: &str, value: &str| {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    };
    text("x-queue-type", "quorum");
    text("x-dead-letter-exchange", ROUTE);
    text("x-dead-letter-routing-key", WORK);
    text("x-overflow", "reject-publish");
    if at_least_once {
        text("x-dead-letter-strategy", "at-least-once");
    }
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(i64::try_from(WAIT_TIME.as_millis()).unwrap_or(i64::MAX)));
    if let Some(longest) = longest {
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(longest));
    }
    arguments
}

/// Works until something is not as expected.
///
/// # Errors
/// Always, in the end.
#[tokio::main(flavor = "current_thread")]
pub async fn run(orders: Orders) -> anyhow::Result<()> {
    let bare = Arc::new(Bare::connect(orders).await?);
    if bare.orders.replay {
        bare.replay().await?;
    }
    bare.work().await
}

impl Bare {
    async fn connect(orders: Orders) -> anyhow::Result<Self> {
        let connection = Connection::connect(&orders.amqp, ConnectionProperties::default()).await?;
        let consume = connection.create_channel().await?;
        consume.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let mut connections = vec![connection];
        let publish = if orders.flaw == Some(Flaw::OneChannel) {
            consume.clone()
        } else {
            let second = Connection::connect(&orders.publish, ConnectionProperties::default()).await?;
            let channel = second.create_channel().await?;
            connections.push(second);
            channel
        };
        publish.confirm_select(ConfirmSelectOptions::default()).await?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        Ok(Self { orders, consume, publish, client, _connections: connections })
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.orders.flaw == Some(flaw)
    }

    async fn work(self: Arc<Self>) -> anyhow::Result<()> {
        let options = BasicConsumeOptions::default();
        let mut consumer = self.consume.basic_consume(WORK.into(), "bare".into(), options, FieldTable::default()).await?;
        let (line, taken) = mpsc::channel(if self.has(Flaw::DropWhenFull) { LINE } else { usize::from(PREFETCH) });
        let (failed, mut failures) = mpsc::channel(1);
        tokio::spawn(Arc::clone(&self).take(taken, failed));
        loop {
            let delivery = tokio::select! {
                next = consumer.next() => next.context("the consumer ended")??,
                failure = failures.recv() => return Err(failure.context("nobody works")?),
            };
            if self.has(Flaw::AckBeforePost) {
                self.acknowledge(&delivery).await?;
            }
            if let Err(error) = line.try_send(delivery) {
                let mpsc::error::TrySendError::Full(delivery) = error else { bail!("nobody works") };
                ensure!(self.has(Flaw::DropWhenFull), "more came than the prefetch allows");
                self.acknowledge(&delivery).await?;
            }
        }
    }

    async fn take(self: Arc<Self>, mut line: mpsc::Receiver<Delivery>, failed: mpsc::Sender<anyhow::Error>) {
        let slots = Arc::new(Semaphore::new(IN_FLIGHT));
        while let (Ok(slot), Some(delivery)) = (Arc::clone(&slots).acquire_owned().await, line.recv().await) {
            let (bare, failed) = (Arc::clone(&self), failed.clone());
            tokio::spawn(async move {
                if let Err(error) = bare.deliver(delivery, slot).await {
                    let _ = failed.send(error).await;
                }
            });
        }
    }

    async fn deliver(&self, delivery: Delivery, slot: OwnedSemaphorePermit) -> anyhow::Result<()> {
        let attempts = attempts(&delivery.properties) + 1;
        if !self.post(&delivery, attempts).await {
            let queue = if attempts >= ATTEMPTS { DEAD } else { WAIT };
            if self.has(Flaw::AckBeforeConfirm) {
                let confirm = self.publish_copy(queue, &delivery.properties, (&delivery.data, attempts)).await?;
                tokio::spawn(confirm);
            } else {
                self.copy(queue, &delivery.properties, (&delivery.data, attempts)).await?;
            }
        }
        drop(slot);
        if self.has(Flaw::AckBeforePost) { Ok(()) } else { self.acknowledge(&delivery).await }
    }

    async fn acknowledge(&self, delivery: &Delivery) -> anyhow::Result<()> {
        Ok(timeout(LIMIT, self.consume.basic_ack(delivery.delivery_tag, BasicAckOptions::default())).await??)
    }

    /// Whether the endpoint has it.
    async fn post(&self, delivery: &Delivery, attempt: i64) -> bool {
        let id = delivery.properties.message_id().as_ref().map_or_else(String::new, ToString::to_string);
        let seconds = (now() / 1_000_000).to_string();
        let signature = sign(&CHARACTER.secret(0), &id, &seconds, &delivery.data);
        let request = self.client.post(&self.orders.target).body(delivery.data.clone());
        let headers = [
            ("callback-event-ids", id.as_str()),
            ("callback-integrator", CHARACTER.key()),
            ("callback-attempt", &attempt.to_string()),
            ("webhook-id", &id),
            ("webhook-timestamp", &seconds),
            ("webhook-signature", &signature),
        ];
        let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        request.send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// Copies it to a queue; returns when the broker has it.
    async fn copy(&self, queue: &str, properties: &BasicProperties, (body, attempts): (&[u8], i64)) -> anyhow::Result<()> {
        loop {
            let confirm = self.publish_copy(queue, properties, (body, attempts)).await?;
            match timeout(LIMIT, confirm).await?? {
                Confirmation::Ack(None) => return Ok(()),
                Confirmation::Ack(Some(_)) if self.has(Flaw::IgnoreReturned) => return Ok(()),
                Confirmation::Nack(_) if self.has(Flaw::IgnoreNack) => return Ok(()),
                Confirmation::Ack(Some(_)) => self.declare_wait_queue().await?,
                Confirmation::Nack(_) => sleep(Duration::from_millis(50)).await,
                Confirmation::NotRequested => bail!("no confirm"),
            }
        }
    }

    async fn publish_copy(
        &self,
        queue: &str,
        properties: &BasicProperties,
        (body, attempts): (&[u8], i64),
    ) -> anyhow::Result<impl Future<Output = lapin::Result<Confirmation>> + Send + use<>> {
        let mut headers = FieldTable::default();
        headers.insert("attempts".into(), AMQPValue::LongLongInt(attempts));
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = properties.clone().with_headers(headers).with_delivery_mode(2);
        Ok(self.publish.basic_publish("".into(), queue.into(), options, body, properties).await?)
    }

    async fn declare_wait_queue(&self) -> anyhow::Result<()> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.publish.queue_declare(WAIT.into(), options, wait_queue(true, None)).await?;
        Ok(())
    }

    /// Dead letters become work again.
    async fn replay(&self) -> anyhow::Result<()> {
        while let Some(got) = self.consume.basic_get(DEAD.into(), BasicGetOptions::default()).await? {
            if self.has(Flaw::AckBeforeReplay) {
                self.acknowledge(&got.delivery).await?;
            }
            self.copy(WORK, &got.delivery.properties, (&got.delivery.data, 0)).await?;
            if !self.has(Flaw::AckBeforeReplay) {
                self.acknowledge(&got.delivery).await?;
            }
        }
        Ok(())
    }
}

fn attempts(properties: &BasicProperties) -> i64 {
    let header = properties.headers().as_ref().and_then(|headers| headers.inner().get("attempts"));
    if let Some(AMQPValue::LongLongInt(attempts)) = header { *attempts } else { 0 }
}

/// The event that a number of a scene stands for: only those that [`CHARACTER`] gets.
#[must_use]
pub const fn event(number: u64) -> Event {
    Event(number / 14 * 50 + number % 14)
}
