//! One event at a time: what a worker with nothing else to do adds.

use std::time::Duration;

use tokio::time::sleep;

use super::Extent;
use crate::arrivals::{Latency, Manner};
use crate::broker::Integrators;
use crate::contestant::{Contestant, EXCHANGE, Setting};
use crate::report::{Mark, Report};
use crate::stage::Stage;

const EVENTS: u64 = 500;
const WARM_UP: u64 = 100;

/// Publish to arrival, the median, against the best floor.
pub(super) async fn idle(stage: &mut Stage, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let (mut ratios, mut absolutes) = (Vec::new(), Vec::new());
    for _ in 0..extent.rounds {
        let floor = one_at_a_time(stage, extent, Contestant::Best).await?;
        let ours = one_at_a_time(stage, extent, Contestant::Ours(Setting::SINGLE)).await?;
        ratios.push(ours.p50 / floor.p50);
        absolutes.push(format!("{:.2} / {:.2}", ours.p50, floor.p50));
    }
    report.figure("idle, one event at a time: p50 / best floor", Mark::AtMost(2.0), &ratios);
    report.remark(format!("idle, publish to arrival, p50 in ms, callbackd / best floor: {}", absolutes.join(", ")));
    Ok(())
}

async fn one_at_a_time(stage: &mut Stage, extent: Extent, who: Contestant) -> anyhow::Result<Latency> {
    stage.clear(&Manner::default()).await?;
    let (mut worker, _) = stage.start(who).await?;
    let total = extent.of(EVENTS) + WARM_UP;
    for number in 0..total {
        if number == WARM_UP {
            stage.receiver.mark().await?;
        }
        stage.broker.fill(EXCHANGE, number..number + 1, Integrators::ONE).await?;
        stage.receiver.healthy(number + 1, &mut worker, Duration::from_secs(10)).await?;
        // Until the acknowledgement is written.
        sleep(Duration::from_millis(7)).await;
    }
    let latency = stage.receiver.latency().await?;
    stage.account(who, worker, total).await?;
    Ok(latency)
}
