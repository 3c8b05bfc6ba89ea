//! The stage: broker, receiver and programs, and one measured run on it.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep};

use crate::arrivals::{Count, Manner};
use crate::broker::{Broker, Integrators};
use crate::child::Child;
use crate::contestant::{Contestant, EXCHANGE, Programs, QUEUE};
use crate::measure;
use crate::receiver::Receiver;

/// How long the broker gets to calm down after it was filled.
const CALM: Duration = Duration::from_millis(700);
/// How long after the last arrival a floor gets to write its acknowledgements before it is ended.
const LAST_ACKS: Duration = Duration::from_millis(500);
/// Limit on one drain.
const DRAIN_LIMIT: Duration = Duration::from_secs(90);

/// Everything that runs for the whole benchmark.
#[derive(Debug)]
pub struct Stage {
    /// The programs.
    pub programs: Programs,
    /// The broker.
    pub broker: Broker,
    /// The broker's process.
    pub broker_pid: u32,
    /// The receiver.
    pub receiver: Receiver,
    vhosts: u32,
    clean: bool,
}

/// A filled queue that is emptied as fast as it goes.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Who does it.
    pub who: Contestant,
    /// Events that are measured.
    pub events: u64,
    /// Events before these.
    pub warm_up: u64,
    /// Whom the events are for, in turn.
    pub to: Integrators,
    /// How the receiver answers.
    pub manner: Manner,
}

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Healthy events in a second.
    pub rate: f64,
    /// CPU seconds of the worker for 100,000 events.
    pub worker_cpu: f64,
    /// CPU seconds of the broker for 100,000 events.
    pub broker_cpu: f64,
    /// Peak memory of the worker.
    pub peak_mib: f64,
    /// Share of the machine that something else used meanwhile.
    pub foreign: f64,
}

impl Stage {
    /// Sets it up.
    ///
    /// # Errors
    /// The receiver does not start.
    pub async fn set_up(programs: Programs, port: u16, broker_pid: u32) -> anyhow::Result<Self> {
        let receiver = Receiver::start(&programs.bench, &programs.folder).await?;
        Ok(Self { programs, broker: Broker::at(port), broker_pid, receiver, vhosts: 0, clean: false })
    }

    /// Before every run: the queues are there and empty, and the receiver has forgotten everything.
    ///
    /// # Errors
    /// The broker or the receiver does not do it.
    pub async fn clear(&mut self, manner: &Manner) -> anyhow::Result<()> {
        self.receiver.reset(manner).await?;
        if !std::mem::take(&mut self.clean) {
            self.vhosts += 1;
            self.broker.fresh(&format!("bench{}", self.vhosts)).await?;
            self.programs.declare(&self.broker.url(), &self.receiver).await?;
        }
        Ok(())
    }

    /// Says that the run before has left nothing behind. Otherwise the next one gets new queues.
    pub fn left_clean(&mut self) {
        self.clean = true;
    }

    /// Fills the queue and waits until it is full.
    ///
    /// # Errors
    /// The broker does not take them all.
    pub async fn fill(&mut self, events: u64, to: Integrators) -> anyhow::Result<()> {
        self.broker.fill(EXCHANGE, 0..events, to).await?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.broker.ready(QUEUE).await? != events {
            ensure!(Instant::now() < deadline, "the queue does not hold the {events} events that were confirmed");
            sleep(Duration::from_millis(50)).await;
        }
        sleep(CALM).await;
        Ok(())
    }

    /// Starts a contestant.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(&self, who: Contestant) -> anyhow::Result<(Child, Duration)> {
        self.programs.start(who, &self.broker.url(), &self.receiver).await
    }

    /// Fills the queue, has it drained, measures, and accounts for every event: each arrived, or is still in a queue where its
    /// integrator hangs.
    ///
    /// # Errors
    /// Somebody ended, was too slow, or an event is missing.
    pub async fn drain(&mut self, drain: &Drain) -> anyhow::Result<Run> {
        self.clear(&drain.manner).await?;
        let total = drain.warm_up + drain.events;
        self.fill(total, drain.to).await?;
        let (mut worker, _) = self.start(drain.who).await?;
        let hanging = drain.manner.hanging.len() as u64;
        let healthy_of = |events: u64| events - hanging * events / drain.to.count as u64;
        let from = self.receiver.healthy(healthy_of(drain.warm_up), &mut worker, DRAIN_LIMIT).await?;
        let meter = Meter::start(self, &worker, from)?;
        let to = self.receiver.healthy(healthy_of(total), &mut worker, DRAIN_LIMIT).await?;
        let run = meter.read(self, &worker, to)?;
        self.account(drain.who, worker, total).await?;
        Ok(run)
    }

    /// Ends the worker and accounts for every event.
    ///
    /// # Errors
    /// It does not end well, or an event is missing.
    pub async fn account(&mut self, who: Contestant, worker: Child, total: u64) -> anyhow::Result<()> {
        // Whoever hangs is answered, so that the stop does not wait for it.
        self.receiver.behave(&Manner::default()).await?;
        if let Contestant::Ours(_) = who {
            worker.stop().await?;
        } else {
            sleep(LAST_ACKS).await;
            worker.terminate().await?;
        }
        let count = self.receiver.count().await?;
        ensure!(count.unknown == 0, "{} requests named no event of this run", count.unknown);
        ensure!(count.distinct <= total, "{} events arrived of {total}", count.distinct);
        let expected = total - count.distinct;
        let left = self.broker.left(expected, Duration::from_secs(20)).await?;
        let (least, most) = (left.start(), left.end());
        ensure!(left.contains(&expected), "{} events arrived and {least} to {most} are left in the queues, of {total}", count.distinct);
        if *most == 0 {
            self.left_clean();
        }
        Ok(())
    }
}

/// CPU times at the beginning of what is measured.
#[derive(Debug)]
pub struct Meter {
    from: Count,
    at_micros: u64,
    worker: f64,
    broker: f64,
    ours: f64,
    machine: f64,
    started: Instant,
}

impl Meter {
    /// Begins to measure.
    ///
    /// # Errors
    /// A process is gone.
    pub fn start(stage: &Stage, worker: &Child, from: Count) -> anyhow::Result<Self> {
        Ok(Self {
            at_micros: crate::event::now_micros(),
            from,
            worker: measure::cpu_seconds(worker.pid())?,
            broker: measure::cpu_seconds(stage.broker_pid)?,
            ours: accounted(stage, worker)?,
            machine: measure::machine_cpu_seconds()?,
            started: Instant::now(),
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// A process is gone.
    #[expect(clippy::cast_precision_loss, reason = "counts and microseconds far below 2^52")]
    pub fn read(&self, stage: &Stage, worker: &Child, to: Count) -> anyhow::Result<Run> {
        let events = (to.healthy - self.from.healthy) as f64;
        let all = (to.distinct - self.from.distinct) as f64;
        let seconds = to.last_healthy_micros.saturating_sub(self.at_micros) as f64 / 1e6;
        let foreign = (measure::machine_cpu_seconds()? - self.machine) - (accounted(stage, worker)? - self.ours);
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        Ok(Run {
            rate: events / seconds,
            worker_cpu: (measure::cpu_seconds(worker.pid())? - self.worker) / all * 1e5,
            broker_cpu: (measure::cpu_seconds(stage.broker_pid)? - self.broker) / all * 1e5,
            peak_mib: measure::peak_mib(worker.pid())?,
            foreign: (foreign / self.started.elapsed().as_secs_f64() / cores).max(0.0),
        })
    }
}

fn accounted(stage: &Stage, worker: &Child) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for pid in [worker.pid(), stage.broker_pid, stage.receiver.pid(), std::process::id()] {
        sum += measure::cpu_seconds(pid)?;
    }
    Ok(sum)
}
