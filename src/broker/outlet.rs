//! Publishing to any exchange, once, with proof, and with a failure where the publisher of copies would try again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::{BasicProperties, Channel, Connection};

use super::connection::{BrokerError, OwnedConnection, connect, short};
use super::publisher::NotPublished;
use super::verdict::{self, Address, Confirmed};
use super::write_path::confirming_channel;
use crate::config::Broker;

/// A connection with channels that carry one message in flight each: only then is a confirm sure to be that of its
/// message.
pub(crate) struct Outlet {
    connection: OwnedConnection,
    idle: Mutex<Vec<Channel>>,
    limit: Duration,
}

/// A message for any exchange.
pub(crate) struct Letterhead<'a> {
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
    pub(crate) properties: BasicProperties,
}

impl Outlet {
    /// Connects.
    ///
    /// # Errors
    /// [`BrokerError`] when there is no connection within the configured limit.
    pub(crate) async fn open(broker: &Broker, link: &str) -> Result<Self, BrokerError> {
        let connection = connect(broker, link).await?;
        Ok(Self { connection, idle: Mutex::default(), limit: broker.timeout })
    }

    /// The connection, for what else is done on it.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Publishes once, persistent and mandatory. As many at one time as the caller likes: each takes a channel.
    ///
    /// # Errors
    /// [`NotPublished`] is never proof that the message is not there, unless it was returned.
    pub(crate) async fn publish(&self, head: Letterhead<'_>, body: &[u8]) -> Result<Confirmed, NotPublished> {
        let publish = async |channel: &Channel, to, properties| verdict::publish(channel, to, properties, body).await;
        self.within_limit(self.on_a_channel(head, publish)).await
    }

    /// The same for whoever listens: that no queue is bound is no failure.
    ///
    /// # Errors
    /// As [`Self::publish`], but never [`NotPublished::Returned`].
    pub(crate) async fn announce(&self, head: Letterhead<'_>, body: &[u8]) -> Result<(), NotPublished> {
        let announce = async |channel: &Channel, to, properties| verdict::announce(channel, to, properties, body).await;
        self.within_limit(self.on_a_channel(head, announce)).await
    }

    /// Closes the connection. Everything published has been confirmed or reported before.
    pub(crate) async fn close(&self) {
        let _ = tokio::time::timeout(self.limit, self.connection.close(200, "done".into())).await;
    }

    async fn within_limit<T>(&self, once: impl Future<Output = Result<T, NotPublished>>) -> Result<T, NotPublished> {
        tokio::time::timeout(self.limit, once).await.unwrap_or(Err(NotPublished::TimedOut(self.limit)))
    }

    async fn on_a_channel<T>(
        &self,
        head: Letterhead<'_>,
        once: impl AsyncFnOnce(&Channel, Address, BasicProperties) -> Result<T, NotPublished>,
    ) -> Result<T, NotPublished> {
        let exchange = short("the name of the exchange", head.exchange)?;
        let routing_key = short("the routing key", head.routing_key)?;
        let channel = match self.idle_channel() {
            Some(channel) => channel,
            None => confirming_channel(&self.connection).await.map_err(|source| BrokerError::Failed { step: "open a channel", source })?,
        };
        let verdict = once(&channel, Address { exchange, routing_key }, head.properties).await;
        if verdict::may_be_used_again(&verdict) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
        }
        verdict
    }

    fn idle_channel(&self) -> Option<Channel> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|channel| channel.status().connected())
    }
}
