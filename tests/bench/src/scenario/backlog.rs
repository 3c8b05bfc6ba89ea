//! A million events for an endpoint that is down: what another endpoint notices.

use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use super::Extent;
use crate::arrivals::{Latency, Manner};
use crate::broker::Integrators;
use crate::child::Child;
use crate::contestant::{Contestant, EXCHANGE, QUEUE, Setting};
use crate::report::Report;
use crate::stage::Stage;

const BACKLOG: u64 = 1_000_000;
const RATE: u32 = 500;
/// How long the other endpoint is watched, with and without backlog.
const WATCHED: u64 = 30;
const MOVE_LIMIT: Duration = Duration::from_secs(1200);
const DOWN: Integrators = Integrators { first: 0, count: 1 };
const UP: Integrators = Integrators { first: 1, count: 1 };

/// The other endpoint's latency without backlog, while the backlog is moved out of the work queue, and after that.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(super) async fn backlog(stage: &mut Stage, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let who = Contestant::Ours(Setting { first_is_down: true, ..Setting::many(2) });
    let backlog = extent.of(BACKLOG);
    let watched = extent.of(WATCHED * u64::from(RATE));
    stage.clear(&Manner::default()).await?;
    let (mut worker, _) = stage.start(who).await?;
    let mut events = Events { next: 0, up: 0 };
    events.watch(stage, &mut worker, watched / 10).await?;
    let calm = events.watch(stage, &mut worker, watched).await?;
    worker.stop().await?;

    let filling = Instant::now();
    stage.broker.fill(EXCHANGE, events.next..events.next + backlog, DOWN).await?;
    events.next += backlog;
    report.remark(format!("backlog: {backlog} events published in {:.0} s", filling.elapsed().as_secs_f64()));
    let (mut worker, _) = stage.start(who).await?;
    stage.receiver.mark().await?;
    let moving = Instant::now();
    while stage.broker.ready(QUEUE).await? > 0 {
        worker.ensure_runs()?;
        if moving.elapsed() > MOVE_LIMIT {
            let left = stage.broker.ready(QUEUE).await?;
            bail!("{left} of {backlog} events are still in the work queue after {MOVE_LIMIT:?}");
        }
        // A second of events for the other endpoint, behind whatever is in the queue.
        events.publish(stage, u64::from(RATE)).await?;
    }
    let seconds = moving.elapsed().as_secs_f64();
    events.arrived(stage, &mut worker).await?;
    let meanwhile = stage.receiver.latency().await?;
    report.remark(format!(
        "backlog: moved out of the work queue in {seconds:.0} s, {:.0} events/s; the other endpoint's events stood behind it: p50 {:.0} ms, p99 {:.0} ms",
        backlog as f64 / seconds,
        meanwhile.p50,
        meanwhile.p99
    ));
    let after = events.watch(stage, &mut worker, watched).await?;
    report.remark(format!(
        "backlog: the other endpoint without it p50 {:.1}, p99 {:.1} ms; with it p50 {:.1}, p99 {:.1} ms",
        calm.p50, calm.p99, after.p50, after.p99
    ));
    report.remark(format!("backlog: worker's peak memory {:.0} MiB", crate::measure::peak_mib(worker.pid())?));
    report.latency("1,000,000 events for an endpoint that is down: p99 of another / without", &[after.p99], &[calm.p99]);
    stage.account(who, worker, events.next).await
}

/// What has been published.
struct Events {
    next: u64,
    up: u64,
}

impl Events {
    async fn publish(&mut self, stage: &mut Stage, count: u64) -> anyhow::Result<()> {
        stage.broker.pace(EXCHANGE, self.next..self.next + count, (RATE, UP)).await?;
        self.next += count;
        self.up += count;
        Ok(())
    }

    async fn arrived(&self, stage: &Stage, worker: &mut Child) -> anyhow::Result<()> {
        stage.receiver.healthy(self.up, worker, MOVE_LIMIT).await.map(|_| ())
    }

    async fn watch(&mut self, stage: &mut Stage, worker: &mut Child, count: u64) -> anyhow::Result<Latency> {
        stage.receiver.mark().await?;
        self.publish(stage, count).await?;
        self.arrived(stage, worker).await?;
        stage.receiver.latency().await
    }
}
