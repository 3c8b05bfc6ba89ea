//! The naive floor: lapin and reqwest on two worker threads, a task for each event, each acknowledged by itself.

use std::sync::Arc;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use lapin::options::BasicAckOptions;
use tokio::sync::Semaphore;

use super::{Floor, client, post};

/// Delivers until it is killed.
///
/// # Errors
/// What the broker says. A request that fails ends the process.
#[tokio::main(worker_threads = 2)]
pub async fn run(floor: Floor) -> anyhow::Result<()> {
    let (_connection, _channel, mut consumer) = floor.consume().await?;
    let (client, target): (_, Arc<str>) = (client()?, floor.target.into());
    let slots = Arc::new(Semaphore::new(floor.in_flight));
    while let Some(delivery) = consumer.next().await {
        let mut delivery = delivery?;
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let (client, target) = (client.clone(), Arc::clone(&target));
        tokio::spawn(async move {
            let outcome = async {
                post(&client, &target, &mut delivery).await?;
                delivery.ack(BasicAckOptions::default()).await.context("cannot acknowledge")
            };
            if let Err(error) = outcome.await {
                eprintln!("naive: {error:#}");
                std::process::exit(1);
            }
            drop(slot);
        });
    }
    anyhow::bail!("the consumer ended")
}
