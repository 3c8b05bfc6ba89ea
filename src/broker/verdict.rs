//! One message published on a channel of its own, and what the broker's answer proves.

use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};

use super::connection::BrokerError;
use super::headers::{LARGEST_COPY, encoded_size};
use super::publisher::NotPublished;

/// AMQP's `persistent`: the message survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// Proof that a copy is safe: the broker has confirmed it, and it is in a queue. Made in this file alone.
#[derive(Debug)]
#[must_use = "without its proof the original must stay"]
pub struct Confirmed(());

/// Where a message goes.
#[derive(Debug, Clone)]
pub struct Address {
    /// The exchange.
    pub exchange: ShortString,
    /// Its routing key.
    pub routing_key: ShortString,
}

/// Publishes, persistent and mandatory, on a channel that confirms and has nothing else in flight, and awaits the answer. Has
/// no limit of its own.
///
/// # Errors
/// [`NotPublished`] is never proof that the message is not there, unless it was returned. See [`may_be_used_again`] for the
/// channel.
pub async fn publish(channel: &Channel, to: Address, properties: BasicProperties, body: &[u8]) -> Result<Confirmed, NotPublished> {
    verdict(send(channel, to, properties, body, true).await?)
}

/// The same for what is told to whoever listens: that nobody does is as good. Proves nothing of any queue.
///
/// # Errors
/// As [`publish`], but never [`NotPublished::Returned`].
pub async fn announce(channel: &Channel, to: Address, properties: BasicProperties, body: &[u8]) -> Result<(), NotPublished> {
    verdict(send(channel, to, properties, body, false).await?).map(drop)
}

async fn send(
    channel: &Channel,
    to: Address,
    properties: BasicProperties,
    body: &[u8],
    mandatory: bool,
) -> Result<Confirmation, NotPublished> {
    let size = encoded_size(&properties);
    if size > LARGEST_COPY {
        return Err(NotPublished::TooLarge { size });
    }
    let lost = |step| move |source| NotPublished::Lost(BrokerError::Failed { step, source });
    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
    let properties = properties.with_delivery_mode(PERSISTENT);
    let confirm = channel.basic_publish(to.exchange, to.routing_key, options, body, properties).await.map_err(lost("publish"))?;
    confirm.await.map_err(lost("confirm"))
}

/// Only after a clean verdict: a late confirm of one message must not meet the channel's next.
#[must_use]
pub const fn may_be_used_again<T>(verdict: &Result<T, NotPublished>) -> bool {
    matches!(verdict, Ok(_) | Err(NotPublished::Returned { .. } | NotPublished::Refused | NotPublished::TooLarge { .. }))
}

fn verdict(confirmation: Confirmation) -> Result<Confirmed, NotPublished> {
    match confirmation {
        Confirmation::Ack(None) => Ok(Confirmed(())),
        Confirmation::Ack(Some(returned)) => Err(NotPublished::Returned { reply: returned.reply_text.to_string() }),
        Confirmation::Nack(_) => Err(NotPublished::Refused),
        Confirmation::NotRequested => Err(NotPublished::Unconfirmed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_ack_is_proof_and_a_channel_that_does_not_confirm_is_not_used_again() {
        let safe = verdict(Confirmation::Ack(None));
        assert!(safe.is_ok() && may_be_used_again(&safe));
        let refused = verdict(Confirmation::Nack(None));
        assert!(matches!(refused, Err(NotPublished::Refused)) && may_be_used_again(&refused));
        let unasked = verdict(Confirmation::NotRequested);
        assert!(matches!(unasked, Err(NotPublished::Unconfirmed)) && !may_be_used_again(&unasked));
        assert!(!may_be_used_again::<()>(&Err(NotPublished::Lost(BrokerError::Ended))));
    }
}
