//! SIGTERM at full rate: whatever was not delivered is in the queue, and nothing that was.

use std::time::Duration;

use anyhow::ensure;

use super::Extent;
use crate::arrivals::Manner;
use crate::broker::Integrators;
use crate::contestant::{Contestant, Setting};
use crate::report::Report;
use crate::stage::Stage;

const RUNS: u64 = 20;
const EVENTS: u64 = 20_000;
const WHO: Contestant = Contestant::Ours(Setting::SINGLE);
const LIMIT: Duration = Duration::from_secs(60);

/// Twenty stops, each followed by a second worker that delivers the rest.
pub(super) async fn stop(stage: &mut Stage, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let (runs, mut good, mut last) = (if extent.quick { 3 } else { RUNS }, 0, String::new());
    for run in 0..runs {
        // Not always at the same place.
        match one(stage, extent.of(EVENTS), 1500 + 500 * (run % 10)).await {
            Ok(()) => good += 1,
            Err(error) => {
                last = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
                eprintln!("bench: stop {run}: {error:#}");
            }
        }
    }
    let measured = format!("{good} of {runs}");
    report.verdict("SIGTERM at full rate: nothing lost, nothing twice", "always", (measured, last, good == runs));
    Ok(())
}

async fn one(stage: &mut Stage, events: u64, stop_per_myriad: u64) -> anyhow::Result<()> {
    stage.clear(&Manner::default()).await?;
    stage.fill(events, Integrators::ONE).await?;
    let (mut worker, _) = stage.start(WHO).await?;
    stage.receiver.healthy(events * stop_per_myriad / 10_000, &mut worker, LIMIT).await?;
    worker.stop().await?;
    let stopped = stage.receiver.count().await?;
    ensure!(stopped.distinct < events, "everything was delivered before the stop");
    ensure!(stopped.events == stopped.distinct, "{} events arrived twice before the stop", stopped.events - stopped.distinct);
    let expected = events - stopped.distinct;
    let left = stage.broker.left(expected, Duration::from_secs(5)).await?;
    ensure!(left == (expected..=expected), "{} arrived and {left:?} are left of {events}", stopped.distinct);
    let (mut worker, _) = stage.start(WHO).await?;
    stage.receiver.healthy(events, &mut worker, LIMIT).await?;
    stage.account(WHO, worker, events).await?;
    let count = stage.receiver.count().await?;
    ensure!(count.events == events, "{} events arrived twice", count.events - events);
    Ok(())
}
