//! The best bare floor: lapin and reqwest on one thread, acknowledgements in bursts.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, mpsc};

use super::{Floor, acks, client, post};

/// Delivers until it is killed.
///
/// # Errors
/// What the broker says. A request that fails ends the process.
#[tokio::main(flavor = "current_thread")]
pub async fn run(floor: Floor) -> anyhow::Result<()> {
    let (_connection, channel, mut consumer) = floor.consume().await?;
    let (client, target): (_, Arc<str>) = (client()?, floor.target.into());
    let slots = Arc::new(Semaphore::new(floor.in_flight));
    let (settled, tags) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let ended = acks::write(channel, tags).await;
        eprintln!("best: acknowledging ended: {ended:?}");
        std::process::exit(1);
    });
    while let Some(delivery) = consumer.next().await {
        let mut delivery = delivery?;
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let (client, target, settled) = (client.clone(), Arc::clone(&target), settled.clone());
        tokio::spawn(async move {
            if let Err(error) = post(&client, &target, &mut delivery).await {
                eprintln!("best: {error:#}");
                std::process::exit(1);
            }
            let _ = settled.send(delivery.delivery_tag);
            drop(slot);
        });
    }
    anyhow::bail!("the consumer ended")
}
