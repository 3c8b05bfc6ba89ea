//! One endpoint, a filled queue, as fast as it goes.

use anyhow::ensure;

use super::Extent;
use crate::arrivals::Manner;
use crate::broker::Integrators;
use crate::contestant::{Contestant, Setting};
use crate::report::{Mark, Report};
use crate::stage::{Drain, Run, Stage};

const EVENTS: u64 = 60_000;
const WARM_UP: u64 = 10_000;
/// 256 in flight at 20 ms each.
const SLOW_CEILING: f64 = 12_800.0;

fn drain(who: Contestant, extent: Extent) -> Drain {
    Drain { who, events: extent.of(EVENTS), warm_up: extent.of(WARM_UP), to: Integrators::ONE, manner: Manner::default() }
}

/// The values of two contestants in the same round, one divided by the other.
fn ratios(these: &[Run], those: &[Run], value: fn(&Run) -> f64) -> Vec<f64> {
    these.iter().zip(those).map(|(this, that)| value(this) / value(that)).collect()
}

/// Single events: the floors, callbackd, Node.
pub(super) async fn single(stage: &mut Stage, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let everybody = [Contestant::Naive, Contestant::Best, Contestant::Ours(Setting::SINGLE), Contestant::Node];
    let mut runs: [Vec<Run>; 4] = Default::default();
    for round in 0..extent.rounds {
        for (who, runs) in everybody.iter().zip(&mut runs) {
            let run = stage.drain(&drain(*who, extent)).await?;
            eprintln!("bench: round {round}: {who:?}: {run:.2?}");
            runs.push(run);
        }
    }
    let [naive, best, ours, node] = runs;
    report.figure("single events: rate / best floor", Mark::AtLeast(0.9), &ratios(&ours, &best, |run| run.rate));
    report.figure("single events: worker CPU / best floor", Mark::AtMost(1.25), &ratios(&ours, &best, |run| run.worker_cpu));
    report.figure("single events: broker CPU / naive floor", Mark::AtMost(0.4), &ratios(&ours, &naive, |run| run.broker_cpu));
    report.figure("single events: rate / Node", Mark::AtLeast(1.3), &ratios(&ours, &node, |run| run.rate));
    for (name, runs) in [("naive floor", &naive), ("best floor", &best), ("callbackd, single events", &ours), ("Node", &node)] {
        report.absolute(name, runs);
    }
    Ok(())
}

/// Ten events in a request.
pub(super) async fn batch(stage: &mut Stage, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let (mut single, mut tens) = (Vec::new(), Vec::new());
    for _ in 0..extent.rounds {
        single.push(stage.drain(&drain(Contestant::Ours(Setting::SINGLE), extent)).await?);
        let setting = Setting { batch: Some(10), ..Setting::SINGLE };
        tens.push(stage.drain(&drain(Contestant::Ours(setting), extent)).await?);
    }
    report.figure("batches of 10: rate / single events", Mark::AtLeast(1.6), &ratios(&tens, &single, |run| run.rate));
    report.figure("batches of 10: worker CPU / single events", Mark::AtMost(0.5), &ratios(&tens, &single, |run| run.worker_cpu));
    report.absolute("callbackd, batches of 10", &tens);
    Ok(())
}

/// Each event recorded in the delivery log.
pub(super) async fn recorded(stage: &mut Stage, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..extent.rounds {
        without.push(stage.drain(&drain(Contestant::Ours(Setting::SINGLE), extent)).await?);
        let setting = Setting { delivery_log: true, ..Setting::SINGLE };
        let run = stage.drain(&drain(Contestant::Ours(setting), extent)).await?;
        eprintln!("bench: round {round}: recorded: {run:.2?}");
        ensure!(!stage.programs.has_left_out_entries(), "entries of the delivery log were left out, so the figures say nothing");
        with.push(run);
    }
    report.figure("each event recorded: rate / without", Mark::AtLeast(0.9), &ratios(&with, &without, |run| run.rate));
    report.absolute("callbackd, each event recorded", &with);
    Ok(())
}

/// An endpoint at 20 ms.
pub(super) async fn slow(stage: &mut Stage, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let setting = Setting { prefetch: 2000, max_in_flight: Some(256), ..Setting::SINGLE };
    let manner = Manner { delay_ms: 20, ..Manner::default() };
    let mut runs = Vec::new();
    for _ in 0..extent.rounds {
        runs.push(stage.drain(&Drain { manner: manner.clone(), ..drain(Contestant::Ours(setting), extent) }).await?);
    }
    let shares: Vec<f64> = runs.iter().map(|run| run.rate / SLOW_CEILING).collect();
    report.figure("20 ms, 256 in flight: share of 12,800/s", Mark::AtLeast(0.88), &shares);
    report.absolute("callbackd, 20 ms, 256 in flight", &runs);
    Ok(())
}
