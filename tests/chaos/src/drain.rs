//! The end of a run: waiting until nothing moves, and taking out what is left.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::broker::Desk;
use crate::faults::Stage;
use crate::ledger::{Entry, now};

/// Nothing moves for as long: longer than the longest wait, an attempt that hangs, and the time in which a broker that was
/// killed says that its queues are empty.
const STILL: Duration = Duration::from_secs(5);
/// Limit on becoming quiet.
const LIMIT: Duration = Duration::from_secs(300);
/// Queues that keep what is in them.
const KEPT: [&str; 2] = ["callbacks.dead", "callbacks.rejected"];

/// Waits until no queue of work holds a message, no worker does, and no request has come for a while. That it does not come
/// about is written down.
///
/// # Errors
/// The broker does not answer.
pub async fn quiet(stage: &mut Stage) -> anyhow::Result<()> {
    let (deadline, mut since) = (Instant::now() + LIMIT, Instant::now());
    let desk = Desk::open(&stage.node.url()).await?;
    while since.elapsed() < STILL {
        for worker in &mut stage.workers {
            worker.look_after()?;
        }
        let mut open = stage.held().await.unwrap_or(1.0) > 0.0;
        for queue in stage.node.queues("%2f").await?.iter().filter(|queue| !KEPT.contains(&queue.as_str())) {
            open |= desk.ready(queue).await? > 0;
        }
        let requests = Duration::from_micros(now().saturating_sub(stage.receiver.last_seen())) < STILL;
        if open || requests {
            since = Instant::now();
        }
        // Asked last, as it takes a second.
        if since.elapsed() >= STILL && stage.node.on_the_way().await? > 0 {
            since = Instant::now();
        }
        if Instant::now() >= deadline {
            stage.ledger.write(Entry::Misconduct { text: format!("not quiet within {LIMIT:?}") });
            break;
        }
        sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}

/// Takes out what is in any queue, when no worker runs any more. What waits goes on to other queues meanwhile, so those that
/// it comes from are emptied first, and all of them again until there is nothing.
///
/// # Errors
/// The broker does not answer.
pub async fn everything(stage: &Stage) -> anyhow::Result<()> {
    let desk = Desk::open(&stage.node.url()).await?;
    let mut queues = stage.node.queues("%2f").await?;
    queues.sort_by_key(|queue| !queue.contains(".wait."));
    let (deadline, mut since) = (Instant::now() + LIMIT, Instant::now());
    // A killed broker forwards again only after a while.
    while since.elapsed() < STILL && Instant::now() < deadline {
        for queue in &queues {
            if desk.drain(queue, &stage.ledger).await? > 0 {
                since = Instant::now();
            }
        }
        sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}
