//! Publishing from the command line: to any exchange, with proof, and with a failure where the worker would try again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::{BasicProperties, Channel, Connection};

use super::CliError;
use crate::broker::connection::short;
use crate::broker::verdict::{self, Address, Confirmed};
use crate::broker::{BrokerError, NotPublished, connect};
use crate::config::Broker;

/// A connection with channels that carry one message in flight each: only then is a confirm sure to be that of its
/// message.
pub(super) struct Outlet {
    connection: Connection,
    idle: Mutex<Vec<Channel>>,
    limit: Duration,
}

/// A message for any exchange.
pub(super) struct Letterhead<'a> {
    pub(super) exchange: &'a str,
    pub(super) routing_key: &'a str,
    pub(super) properties: BasicProperties,
}

impl Outlet {
    /// Connects.
    ///
    /// # Errors
    /// [`CliError::Failed`] when there is no connection within the configured limit.
    pub(super) async fn open(broker: &Broker, link: &str) -> Result<Self, CliError> {
        let connection = connect(broker, link).await?;
        Ok(Self { connection, idle: Mutex::default(), limit: broker.timeout })
    }

    /// Publishes once, persistent and mandatory. As many at one time as the caller likes: each takes a channel.
    ///
    /// # Errors
    /// [`NotPublished`] is never proof that the message is not there, unless it was returned.
    pub(super) async fn publish(&self, head: Letterhead<'_>, body: &[u8]) -> Result<Confirmed, NotPublished> {
        tokio::time::timeout(self.limit, self.publish_once(head, body)).await.unwrap_or(Err(NotPublished::TimedOut(self.limit)))
    }

    /// Closes the connection. Everything published has been confirmed or reported before.
    pub(super) async fn close(self) {
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
