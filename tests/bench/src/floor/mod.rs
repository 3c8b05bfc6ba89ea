//! The bare programs that callbackd is measured against, and what both share: their arguments, the consumer, one request.

mod acks;
pub mod best;
pub mod naive;

use anyhow::{Context as _, ensure};
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use reqwest::Client;
use reqwest::header::CONTENT_TYPE;

const PREFETCH: u16 = 500;

/// What a floor is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Floor {
    /// The broker.
    pub amqp: String,
    /// The queue that is consumed.
    pub queue: String,
    /// Where every event is sent.
    pub target: String,
    /// Requests at one time.
    #[arg(long, default_value = "64")]
    pub in_flight: usize,
}

impl Floor {
    /// Connects and consumes. The connection ends when it is dropped.
    ///
    /// # Errors
    /// What the broker says.
    async fn consume(&self) -> anyhow::Result<(Connection, Channel, Consumer)> {
        let connection = Connection::connect(&self.amqp, ConnectionProperties::default()).await.context("cannot connect")?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let consumer =
            channel.basic_consume(self.queue.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
        Ok((connection, channel, consumer))
    }
}

/// The client, as the libraries make it.
///
/// # Errors
/// It cannot be made.
fn client() -> anyhow::Result<Client> {
    Ok(Client::builder().no_proxy().build()?)
}

/// Sends one event, unparsed, with its id in a header, and reads the answer.
///
/// # Errors
/// There is no complete 2xx.
async fn post(client: &Client, target: &str, delivery: &mut Delivery) -> anyhow::Result<()> {
    let id = delivery.properties.message_id().as_ref().map_or("", |id| id.as_str());
    let request = client.post(target).header(CONTENT_TYPE, "application/json").header("callback-event-ids", id);
    let answer = request.body(std::mem::take(&mut delivery.data)).send().await?;
    ensure!(answer.status().is_success(), "answered {}", answer.status());
    answer.bytes().await?;
    Ok(())
}
