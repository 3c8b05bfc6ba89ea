//! The scenarios. Each stands alone: one that fails hides no other.

mod backlog;
mod hanging;
mod idle;
mod size;
mod stop;
mod throughput;

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::timeout;

use crate::report::Report;
use crate::stage::Stage;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Single events, one endpoint at 0 ms: naive, best, callbackd, Node.
    Single,
    /// Ten events in a request against single events.
    Batch,
    /// Single events with the delivery log (SQLite) against single events without.
    Recorded,
    /// One endpoint at 20 ms, 256 in flight.
    Slow,
    /// 200 endpoints at 1,000 events/s, two of them hang.
    Hanging,
    /// The same 200, drained as fast as it goes.
    Drained,
    /// One event at a time.
    Idle,
    /// Peak memory.
    Memory,
    /// 10,000 integrators, start to ready.
    Start,
    /// SIGTERM at full rate.
    Stop,
    /// A million events for an endpoint that is down.
    Backlog,
}

/// All, in the order in which they run: the one that leaves most behind comes last.
pub const ALL: [Scenario; 11] = [
    Scenario::Single,
    Scenario::Batch,
    Scenario::Recorded,
    Scenario::Slow,
    Scenario::Hanging,
    Scenario::Drained,
    Scenario::Idle,
    Scenario::Memory,
    Scenario::Start,
    Scenario::Stop,
    Scenario::Backlog,
];

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Rounds of what is compared.
    pub rounds: u32,
    /// Everything is smaller, for a try: the figures say little.
    pub quick: bool,
}

impl Extent {
    /// That many, or a tenth.
    #[must_use]
    pub const fn of(self, events: u64) -> u64 {
        if self.quick { events / 10 } else { events }
    }
}

impl Scenario {
    /// Runs it; what comes of it, or why nothing did, is in the report.
    pub async fn run(self, stage: &mut Stage, extent: Extent, report: &mut Report) {
        eprintln!("bench: {self:?}, load {}", crate::measure::load());
        // Several times what a quiet machine needs.
        let limit = Duration::from_secs(if self == Self::Backlog { 1800 } else { 180 + 120 * u64::from(extent.rounds) });
        let run = async {
            match self {
                Self::Single => throughput::single(stage, extent, report).await,
                Self::Batch => throughput::batch(stage, extent, report).await,
                Self::Recorded => throughput::recorded(stage, extent, report).await,
                Self::Slow => throughput::slow(stage, extent, report).await,
                Self::Hanging => hanging::paced(stage, extent, report).await,
                Self::Drained => hanging::drained(stage, extent, report).await,
                Self::Idle => idle::idle(stage, extent, report).await,
                Self::Memory => size::memory(stage, extent, report).await,
                Self::Start => size::start(stage, extent, report).await,
                Self::Stop => stop::stop(stage, extent, report).await,
                Self::Backlog => backlog::backlog(stage, extent, report).await,
            }
        };
        let outcome = timeout(limit, run).await.unwrap_or_else(|_| Err(anyhow!("not done within {limit:?}")));
        if let Err(error) = outcome {
            report.failed(&format!("{self:?}"), &error);
        }
    }
}
