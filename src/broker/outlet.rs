//! Publishing for an operator: to any exchange, with proof, and with a failure where the worker would try again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::{BasicProperties, Channel, Connection};

use super::connection::{BrokerError, connect, short};
use super::publisher::NotPublished;
use super::verdict::{self, Address, Confirmed};
use crate::config::Broker;

/// A connection with channels that carry one message in flight each: only then is a confirm sure to be that of its
/// message.
pub(crate) struct Outlet {
    connection: Connection,
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

    /// Publishes once, persistent and mandatory. As many at one time as the caller likes: each takes a channel.
    ///
    /// # Errors
    /// [`NotPublished`] is never proof that the message is not there, unless it was returned.
    pub(crate) async fn publish(&self, head: Letterhead<'_>, body: &[u8]) -> Result<Confirmed, NotPublished> {
        tokio::time::timeout(self.limit, self.publish_once(head, body)).await.unwrap_or(Err(NotPublished::TimedOut(self.limit)))
    }

    /// Closes the connection. Everything published has been confirmed or reported before.
    pub(crate) async fn close(&self) {
        let _ = tokio::time::timeout(self.limit, self.connection.close(200, "done".into())).await;
    }

    async fn publish_once(&self, head: Letterhead<'_>, body: &[u8]) -> Result<Confirmed, NotPublished> {
        let exchange = short("the name of the exchange", head.exchange)?;
        let routing_key = short("the routing key", head.routing_key)?;
        let channel = match self.idle_channel() {
            Some(channel) => channel,
            None => self.confirming_channel().await.map_err(|source| BrokerError::Failed { step: "open a channel", source })?,
        };
        let verdict = verdict::publish(&channel, Address { exchange, routing_key }, head.properties, body).await;
        if verdict::may_be_used_again(&verdict) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
        }
        verdict
    }

    fn idle_channel(&self) -> Option<Channel> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|channel| channel.status().connected())
    }

    async fn confirming_channel(&self) -> lapin::Result<Channel> {
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }
}
