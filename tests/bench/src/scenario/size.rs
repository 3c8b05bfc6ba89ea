//! How large it gets, and how long a large one takes to start.

use super::Extent;
use crate::arrivals::Manner;
use crate::broker::Integrators;
use crate::contestant::{Contestant, Setting};
use crate::report::{Mark, Report, spread};
use crate::stage::{Drain, Stage};

const EVENTS: u64 = 60_000;
const MANY: usize = 10_000;

/// Peak memory while a filled queue is drained.
pub(super) async fn memory(stage: &mut Stage, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let everybody = [
        ("peak MiB, 1 endpoint", Setting::SINGLE, 1, 30.0),
        ("peak MiB, 200 endpoints", Setting::many(200), 200, 40.0),
        ("peak MiB, 10,000 integrators, 1,000 active", Setting::many(MANY), 1000, 128.0),
    ];
    for (name, setting, active, mark) in everybody {
        let to = Integrators { first: 0, count: active };
        let events = extent.of(EVENTS);
        let drain = Drain { who: Contestant::Ours(setting), events, warm_up: extent.of(10_000), to, manner: Manner::default() };
        let mut peaks = Vec::new();
        for _ in 0..extent.rounds.min(2) {
            peaks.push(stage.drain(&drain).await?.peak_mib);
        }
        // Of memory the worst counts.
        report.figure(name, Mark::AtMost(mark), &[spread(&peaks).1]);
    }
    Ok(())
}

/// From the start of the process to `/readyz`.
pub(super) async fn start(stage: &mut Stage, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let mut seconds = Vec::new();
    for _ in 0..extent.rounds {
        stage.clear(&Manner::default()).await?;
        let who = Contestant::Ours(Setting::many(MANY));
        let (worker, took) = stage.start(who).await?;
        stage.account(who, worker, 0).await?;
        seconds.push(took.as_secs_f64());
    }
    report.figure("10,000 integrators: seconds from start to ready", Mark::AtMost(2.0), &seconds);
    Ok(())
}
