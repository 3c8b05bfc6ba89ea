//! 200 endpoints, of which two hang for 5 s a request: what the others notice.

use std::time::Duration;

use tokio::time::Instant;

use super::Extent;
use crate::arrivals::{Latency, Manner};
use crate::broker::Integrators;
use crate::contestant::{Contestant, EXCHANGE, Setting};
use crate::event::integrator;
use crate::report::{Mark, Report};
use crate::stage::{Drain, Run, Stage};

const ENDPOINTS: usize = 200;
const EVERYBODY: Integrators = Integrators { first: 0, count: ENDPOINTS };
const WHO: Contestant = Contestant::Ours(Setting::many(ENDPOINTS));
const RATE: u32 = 1000;
/// This and the others are, and their tenths too, multiples of the endpoints: each gets equally many.
const PACED: u64 = 20_000;
const PACED_WARM_UP: u64 = 4_000;
/// So many that the events for those who hang (1 %) are more than the worker may hold at one time.
const DRAINED: u64 = 150_000;
const DRAINED_WARM_UP: u64 = 10_000;
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);

fn manner(hanging: usize) -> Manner {
    Manner { hanging: (0..hanging).map(integrator).collect(), hang_ms: 5000, delay_ms: 0 }
}

/// At a given rate: healthy events in a second of publishing, and publish to arrival.
pub(super) async fn paced(stage: &mut Stage, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..extent.rounds {
        let (calm_rate, calm) = paced_run(stage, extent, 0).await?;
        let (rate, disturbed) = paced_run(stage, extent, 2).await?;
        eprintln!("bench: round {round}: {calm_rate:.0}/s {calm:.1?} without, {rate:.0}/s {disturbed:.1?} with two that hang");
        // Of the calm run, those for the same endpoints: two of them are healthy there and hang in the other.
        rates.push(rate / (calm_rate * 0.99));
        with.push(disturbed.p99);
        without.push(calm.p99);
    }
    report.figure("1,000/s to 200 endpoints, 2 hang: healthy rate / without", Mark::AtLeast(0.97), &rates);
    report.latency("same: p99 publish to arrival / without", &with, &without);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
async fn paced_run(stage: &mut Stage, extent: Extent, hanging: usize) -> anyhow::Result<(f64, Latency)> {
    let manner = manner(hanging);
    stage.clear(&manner).await?;
    let (mut worker, _) = stage.start(WHO).await?;
    let (warm_up, events) = (extent.of(PACED_WARM_UP), extent.of(PACED));
    let healthy_of = |events: u64| events - hanging as u64 * events / ENDPOINTS as u64;
    stage.broker.pace(EXCHANGE, 0..warm_up, (RATE, EVERYBODY)).await?;
    let before = stage.receiver.count().await?;
    stage.receiver.mark().await?;
    let start = Instant::now();
    stage.broker.pace(EXCHANGE, warm_up..warm_up + events, (RATE, EVERYBODY)).await?;
    // What arrives after the last publish is late: it counts for the latency and not for the rate.
    let after = stage.receiver.count().await?;
    let rate = (after.healthy - before.healthy) as f64 / start.elapsed().as_secs_f64();
    stage.receiver.healthy(healthy_of(warm_up + events), &mut worker, ARRIVAL_LIMIT).await?;
    let latency = stage.receiver.latency().await?;
    stage.account(WHO, worker, warm_up + events).await?;
    Ok((rate, latency))
}

/// From a filled queue.
pub(super) async fn drained(stage: &mut Stage, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..extent.rounds {
        for (hanging, runs) in [(0, &mut without), (2, &mut with)] {
            let run =
                Drain { who: WHO, events: extent.of(DRAINED), warm_up: extent.of(DRAINED_WARM_UP), to: EVERYBODY, manner: manner(hanging) };
            let run: Run = stage.drain(&run).await?;
            eprintln!("bench: {hanging} hang: {run:.2?}");
            runs.push(run);
        }
    }
    let ratios: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with.rate / (without.rate * 0.99)).collect();
    report.figure("200 endpoints drained, 2 hang: healthy rate / without", Mark::AtLeast(0.9), &ratios);
    report.absolute("callbackd, 200 endpoints", &without);
    report.absolute("callbackd, 200 endpoints, 2 hang", &with);
    Ok(())
}
