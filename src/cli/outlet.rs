//! Publishing from the command line: to any exchange, with proof, and with a failure where the worker would try again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection};

use super::CliError;
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
    pub(super) async fn publish(&self, head: Letterhead<'_>, body: &[u8]) -> Result<(), NotPublished> {
        tokio::time::timeout(self.limit, self.publish_once(head, body)).await.unwrap_or(Err(NotPublished::TimedOut(self.limit)))
    }

    /// Closes the connection. Everything published has been confirmed or reported before.
    pub(super) async fn close(self) {
        let _ = tokio::time::timeout(self.limit, self.connection.close(200, "done".into())).await;
    }

    /// The channel goes back only after a clean verdict: a late confirm of this message must not meet another.
    async fn publish_once(&self, head: Letterhead<'_>, body: &[u8]) -> Result<(), NotPublished> {
        let lost = |step| move |source| NotPublished::Lost(BrokerError::Failed { step, source });
        let long = |what| move |_| NotPublished::Lost(BrokerError::LongName { what });
        let exchange = ShortString::try_new(head.exchange).map_err(long("the name of the exchange"))?;
        let routing_key = ShortString::try_new(head.routing_key).map_err(long("the routing key"))?;
        let channel = match self.idle_channel() {
            Some(channel) => channel,
            None => self.confirming_channel().await.map_err(lost("open a channel"))?,
        };
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = head.properties.with_delivery_mode(2);
        let confirm = channel.basic_publish(exchange, routing_key, options, body, properties).await.map_err(lost("publish"))?;
        let confirmation = confirm.await.map_err(lost("confirm"))?;
        if matches!(confirmation, Confirmation::NotRequested) {
            return Err(NotPublished::Unconfirmed);
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(returned)) => Err(NotPublished::Returned { reply: returned.reply_text.to_string() }),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(NotPublished::Refused),
        }
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
