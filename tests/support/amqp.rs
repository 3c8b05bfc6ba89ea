//! The test's own AMQP connection: publishing with confirms, counting, draining.

use std::future::Future;
use std::time::Duration;

use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};

use super::eventually::eventually;

/// The limit on one operation of the broker.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection with one channel in confirm mode.
#[derive(Debug)]
pub struct Amqp {
    connection: Connection,
    channel: Channel,
}

/// A message taken from a queue.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The exchange that it was published to.
    pub exchange: String,
    /// Its routing key.
    pub routing_key: String,
    /// Its properties.
    pub properties: BasicProperties,
    /// Its body.
    pub body: Vec<u8>,
    /// The broker says that it was delivered before.
    pub redelivered: bool,
}

impl Fetched {
    /// A header as text or number in plain form; `None` where it is missing or of another type.
    pub fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            AMQPValue::LongLongInt(number) => Some(number.to_string()),
            AMQPValue::LongInt(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

impl Amqp {
    /// Connects, for up to a deadline again and again: a broker that has just started may still refuse.
    ///
    /// # Panics
    /// When there is no connection within 20 s.
    pub async fn connect(url: &str) -> Self {
        let connection =
            eventually("an AMQP connection", LIMIT, async || Connection::connect(url, ConnectionProperties::default()).await).await;
        let channel = within("open a channel", connection.create_channel()).await;
        within("confirm mode", channel.confirm_select(ConfirmSelectOptions::default())).await;
        Self { connection, channel }
    }

    /// The channel, for what is not offered here.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Declares a durable exchange.
    pub async fn declare_exchange(&self, name: &str, kind: ExchangeKind) {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        within("declare an exchange", self.channel.exchange_declare(name.into(), kind, options, FieldTable::default())).await;
    }

    /// Declares a durable queue with these arguments.
    pub async fn declare_queue(&self, name: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        within("declare a queue", self.channel.queue_declare(name.into(), options, arguments)).await;
    }

    /// Binds a queue.
    pub async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        within("bind a queue", self.channel.queue_bind(queue.into(), exchange.into(), routing_key.into(), options, none)).await;
    }

    /// Deletes a queue with what is in it.
    pub async fn delete_queue(&self, name: &str) {
        within("delete a queue", self.channel.queue_delete(name.into(), QueueDeleteOptions::default())).await;
    }

    /// Throws away what is ready in a queue.
    pub async fn purge(&self, queue: &str) {
        within("purge a queue", self.channel.queue_purge(queue.into(), QueuePurgeOptions::default())).await;
    }

    /// Publishes a persistent message and returns when the broker has it safe.
    ///
    /// # Panics
    /// When it reaches no queue or is not confirmed within 20 s.
    pub async fn publish(&self, exchange: &str, routing_key: &str, properties: BasicProperties, body: &[u8]) {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let properties = properties.with_delivery_mode(2);
        let confirm = within("publish", self.channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties)).await;
        let confirmation = within("the broker's confirm", confirm).await;
        assert!(matches!(confirmation, Confirmation::Ack(None)), "published to {exchange:?} with {routing_key:?}: {confirmation:?}");
    }

    /// Publishes a JSON body as the platform does: to an exchange, with the topic as routing key.
    pub async fn publish_event(&self, exchange: &str, topic: &str, body: &str) {
        let properties = BasicProperties::default().with_content_type("application/json".into());
        self.publish(exchange, topic, properties, body.as_bytes()).await;
    }

    /// How many messages wait in the queue and how many consumers it has, from a passive declare. Does not lag, but
    /// does not count what consumers hold.
    pub async fn depth(&self, queue: &str) -> (u32, u32) {
        // A channel of its own: asking for a queue that is not there closes the channel.
        let channel = within("open a channel", self.connection.create_channel()).await;
        let options = QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
        let declared = within("look at a queue", channel.queue_declare(queue.into(), options, FieldTable::default())).await;
        (declared.message_count(), declared.consumer_count())
    }

    /// How many messages wait in the queue.
    pub async fn ready(&self, queue: &str) -> u32 {
        self.depth(queue).await.0
    }

    /// Waits until at least `count` messages wait in the queue.
    ///
    /// # Panics
    /// After `limit`.
    pub async fn wait_ready(&self, queue: &str, count: u32, limit: Duration) {
        eventually(&format!("{count} messages ready in {queue}"), limit, async || {
            let ready = self.ready(queue).await;
            if ready >= count { Ok(()) } else { Err(format!("{ready} ready")) }
        })
        .await;
    }

    /// Takes and acknowledges everything that is ready in the queue.
    pub async fn drain(&self, queue: &str) -> Vec<Fetched> {
        let mut all = Vec::new();
        while let Some(got) = within("get a message", self.channel.basic_get(queue.into(), BasicGetOptions::default())).await {
            let delivery = got.delivery;
            within("acknowledge", self.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default())).await;
            all.push(Fetched {
                exchange: delivery.exchange.to_string(),
                routing_key: delivery.routing_key.to_string(),
                properties: delivery.properties,
                body: delivery.data,
                redelivered: delivery.redelivered,
            });
        }
        all
    }

    /// Drains the queue until at least `count` messages have come out of it.
    ///
    /// # Panics
    /// After `limit`.
    pub async fn drain_when(&self, queue: &str, count: usize, limit: Duration) -> Vec<Fetched> {
        let mut all = Vec::new();
        // Counting by draining: after a broker's crash its own counts say 0 for a while.
        eventually(&format!("{count} messages out of {queue}"), limit, async || {
            all.extend(self.drain(queue).await);
            if all.len() >= count { Ok(()) } else { Err(format!("{} so far", all.len())) }
        })
        .await;
        all
    }
}

async fn within<T>(what: &str, operation: impl Future<Output = lapin::Result<T>>) -> T {
    match tokio::time::timeout(LIMIT, operation).await {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => panic!("{what}: {error}"),
        Err(_) => panic!("{what}: no answer within {LIMIT:?}"),
    }
}
