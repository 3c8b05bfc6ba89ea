//! Proof that copies can be published, before anything is consumed that might need one.
//!
//! Declaring or finding the exchange does not show it: the user may lack the permission to write, and an exchange with an
//! alternate behind it confirms what no queue takes.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

use super::connection::{BrokerError, short};

/// A routing key that nothing is bound to.
const NOWHERE: &str = "callbackd: this key is bound to no queue";

/// A channel that confirms.
pub(super) async fn confirming_channel(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Publishes a message that no queue takes and expects it back. Has no limit of its own: an alarm may hold it up.
///
/// # Errors
/// [`BrokerError::CannotPublish`] names the exchange and what to do.
pub(super) async fn prove(connection: &Connection, exchange: &str) -> Result<(), BrokerError> {
    let failed = |source: lapin::Error| {
        let error = BrokerError::Failed { step: "publish", source };
        match remedy(&error) {
            Some(remedy) => BrokerError::CannotPublish { exchange: exchange.to_owned(), why: format!("{remedy} ({error})") },
            None => error,
        }
    };
    let (name, key) = (short("the name of the exchange", exchange)?, short("the routing key", NOWHERE)?);
    let channel = confirming_channel(connection).await.map_err(|source| BrokerError::Failed { step: "open a channel", source })?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    // Where it is not returned it must not stay for ever in whatever took it.
    let properties = BasicProperties::default().with_expiration("1000".into());
    let confirm = channel.basic_publish(name, key, options, &[], properties).await.map_err(failed)?;
    match confirm.await.map_err(failed)? {
        Confirmation::Ack(Some(_)) => Ok(()),
        Confirmation::Ack(None) | Confirmation::Nack(_) | Confirmation::NotRequested => Err(BrokerError::CannotPublish {
            exchange: exchange.to_owned(),
            why: "it must return what no queue takes, and does not; remove its alternate exchange and bindings that are not ours, \
                  or the policy that adds them"
                .to_owned(),
        }),
    }
}

fn remedy(error: &BrokerError) -> Option<&'static str> {
    if error.is_missing() {
        Some("it does not exist; create it with `callbackd topology apply`")
    } else if error.is_denied() {
        Some("give the broker's user the permission to write to it")
    } else {
        None
    }
}
