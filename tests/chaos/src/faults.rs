//! Breaking things, and mending them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lapin::types::FieldTable;
use tokio::time::{Instant, sleep};

use crate::broker::{Desk, Node};
use crate::event::Character;
use crate::ledger::Ledger;
use crate::plan::{Fault, Kept, Planned, Step};
use crate::proxy::TcpProxy;
use crate::receiver::Receiver;
use crate::worker::{CLOCK_LAG, EXCHANGE, HEARTBEAT, HELD, MAX_IN_FLIGHT, Setup, TIMEOUT, WORK, Worker};

/// Messages that the broker itself has in hand for each wait queue while they expire, and wait queues.
const EXPIRING: u32 = 32 * 17;
/// Longer than RabbitMQ takes to see its memory and its disk.
const ALARM: Duration = Duration::from_secs(2);
/// Limit on everything that is waited for.
const LIMIT: Duration = Duration::from_secs(60);
/// How far a clock is off that was stepped.
const STEP_SECONDS: i64 = 3600;
/// The worker makes its metrics anew once a second.
const FRESH: Duration = Duration::from_millis(1100);
const POLL: Duration = Duration::from_millis(100);

/// Everything that can be broken.
pub struct Stage {
    /// The broker.
    pub node: Node,
    /// The workers.
    pub workers: Vec<Worker>,
    /// Before each endpoint.
    pub proxies: Vec<(Character, TcpProxy)>,
    /// All endpoints.
    pub receiver: Receiver,
    /// How the workers are set up.
    pub setup: Arc<Setup>,
    /// What was done.
    pub ledger: Arc<Ledger>,
    /// Of the signing keys.
    pub generation: u32,
}

/// Deliveries that may be in flight where a fault strikes.
#[must_use]
pub const fn in_flight(fault: Fault) -> u32 {
    let workers = fault.workers();
    match fault {
        Fault::CutReceiver(_) | Fault::DelayReceiver(_) | Fault::HalfOpenReceiver(_) | Fault::RefuseReceiver(_) => workers * MAX_IN_FLIGHT,
        Fault::StopBroker | Fault::KillBroker => workers * HELD + EXPIRING,
        _ => workers * HELD,
    }
}

impl Stage {
    /// Breaks one thing and mends it. `let_out` lets out more events, where some are needed while it is broken.
    ///
    /// # Errors
    /// It cannot be broken or mended: the suite's own failure, whatever the worker does.
    pub async fn strike(&mut self, planned: Planned, let_out: impl Fn()) -> anyhow::Result<()> {
        let lasts = planned.lasts;
        match planned.fault {
            Fault::KillWorker(worker) => {
                self.workers[worker].kill()?;
                sleep(lasts).await;
                self.start_worker(worker).await
            }
            Fault::StopWorker(worker) => {
                self.workers[worker].stop().await;
                self.start_worker(worker).await
            }
            Fault::StopBroker => {
                self.node.stop().await?;
                sleep(lasts).await;
                self.node.start(&self.ledger).await
            }
            Fault::KillBroker => {
                self.node.kill().await?;
                sleep(lasts).await;
                self.node.start(&self.ledger).await
            }
            Fault::CutLink(_) | Fault::DelayLink(_) | Fault::HalfOpenLink(_) => {
                self.strike_link(planned).await;
                Ok(())
            }
            Fault::DeleteWaitQueues => self.frozen(Self::delete_wait_queues).await,
            Fault::DeleteKeptQueue(Kept::Dead) => self.frozen(async |stage| stage.delete_kept_queue("callbacks.dead").await).await,
            Fault::DeleteKeptQueue(Kept::Rejected) => self.frozen(async |stage| stage.delete_kept_queue("callbacks.rejected").await).await,
            Fault::DeleteWorkQueue => self.delete_work_queue().await,
            Fault::DeleteExchange => Desk::open(&self.node.url()).await?.delete_exchange("callbacks.publish").await,
            Fault::MemoryAlarm => {
                self.node.ctl(&["set_vm_memory_high_watermark", "0.0001"]).await?;
                sleep(ALARM + lasts).await;
                self.node.ctl(&["set_vm_memory_high_watermark", "absolute", "2GB"]).await.map(drop)
            }
            Fault::DiskAlarm => {
                self.node.ctl(&["set_disk_free_limit", "9000GB"]).await?;
                sleep(ALARM + lasts).await;
                self.node.ctl(&["set_disk_free_limit", "20MB"]).await.map(drop)
            }
            Fault::CutReceiver(character)
            | Fault::DelayReceiver(character)
            | Fault::HalfOpenReceiver(character)
            | Fault::RefuseReceiver(character) => self.strike_receiver(planned, character).await,
            Fault::ReloadGood => self.reload_good().await,
            Fault::ReloadBad => self.reload_bad().await,
            Fault::StepClock(worker, step) => self.step_clock(worker, step, planned.lasts, let_out).await,
        }
    }

    /// Requests that were signed by the wrong clock come as long as an attempt may take.
    async fn step_clock(&self, worker: usize, step: Step, lasts: Duration, let_out: impl Fn()) -> anyhow::Result<()> {
        let seconds = if step == Step::Ahead { STEP_SECONDS } else { -STEP_SECONDS };
        self.receiver.take_clock(seconds);
        self.workers[worker].set_clock(seconds)?;
        sleep(CLOCK_LAG).await;
        let_out();
        let deadline = Instant::now() + LIMIT;
        while self.receiver.signed_by_stepped_clock() == 0 && Instant::now() < deadline {
            sleep(POLL).await;
        }
        let was_stepped = self.receiver.signed_by_stepped_clock() > 0;
        sleep(lasts).await;
        self.workers[worker].set_clock(0)?;
        sleep(CLOCK_LAG + TIMEOUT).await;
        self.receiver.take_clock(0);
        ensure!(was_stepped, "within {LIMIT:?} the worker sent nothing that was signed by a stepped clock");
        Ok(())
    }

    async fn start_worker(&mut self, worker: usize) -> anyhow::Result<()> {
        self.workers[worker].start()?;
        self.workers[worker].wait_ready().await
    }

    async fn strike_link(&self, planned: Planned) {
        match planned.fault {
            Fault::CutLink(worker) => self.workers[worker].link.cut(),
            Fault::DelayLink(worker) => {
                let link = &self.workers[worker].link;
                link.hold_from_target(true);
                sleep(planned.lasts).await;
                link.hold_from_target(false);
            }
            Fault::HalfOpenLink(worker) => {
                let link = &self.workers[worker].link;
                link.blackhole(true);
                sleep(HEARTBEAT * 2 + planned.lasts).await;
                link.cut();
                link.blackhole(false);
            }
            _ => {}
        }
    }

    async fn strike_receiver(&self, planned: Planned, character: Character) -> anyhow::Result<()> {
        let (_, proxy) = self.proxies.iter().find(|(of, _)| *of == character).context("no proxy")?;
        match planned.fault {
            Fault::CutReceiver(_) => proxy.cut(),
            Fault::DelayReceiver(_) => {
                proxy.hold_from_target(true);
                sleep(planned.lasts).await;
                proxy.hold_from_target(false);
            }
            Fault::HalfOpenReceiver(_) => {
                proxy.blackhole(true);
                sleep(TIMEOUT + planned.lasts).await;
                proxy.cut();
                proxy.blackhole(false);
            }
            _ => {
                proxy.refuse(true);
                proxy.cut();
                sleep(planned.lasts).await;
                proxy.refuse(false);
            }
        }
        Ok(())
    }

    /// Does something while no worker moves, so that no message comes in between the last look at a queue and its end.
    async fn frozen(&self, work: impl AsyncFnOnce(&Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let done = match self.signal_all("STOP").await {
            Ok(()) => work(self).await,
            Err(error) => Err(error),
        };
        done.and(self.signal_all("CONT").await)
    }

    /// Each of them, whatever becomes of the others.
    async fn signal_all(&self, name: &str) -> anyhow::Result<()> {
        let mut sent = Ok(());
        for worker in &self.workers {
            sent = sent.and(worker.signal(name).await);
        }
        sent
    }

    async fn delete_wait_queues(&self) -> anyhow::Result<()> {
        let queues: Vec<String> =
            self.node.queues("%2f").await?.into_iter().filter(|name| name.starts_with(WORK) && name.contains(".wait.")).collect();
        ensure!(!queues.is_empty(), "there are no wait queues");
        let desk = Desk::open(&self.node.url()).await?;
        // What waits comes due within four seconds; what is on its way out is counted apart, and may be held up for ten.
        self.until("the wait queues are empty", async |stage| {
            let mut waiting = 0;
            for queue in &queues {
                waiting += desk.ready(queue).await?;
            }
            Ok(waiting == 0 && stage.node.on_the_way().await? == 0)
        })
        .await?;
        for queue in &queues {
            let lost = desk.delete_queue(queue).await?;
            ensure!(lost == 0, "{lost} messages went with {queue}, which had to be empty");
        }
        Ok(())
    }

    async fn delete_kept_queue(&self, queue: &str) -> anyhow::Result<()> {
        let desk = Desk::open(&self.node.url()).await?;
        // What the workers sent last has arrived by then.
        sleep(Duration::from_millis(300)).await;
        desk.drain(queue, &self.ledger).await?;
        let lost = desk.delete_queue(queue).await?;
        ensure!(lost == 0, "{lost} messages went with {queue}, which had to be empty");
        Ok(())
    }

    /// First it is cut off from the platform, whose events then come back to the publishers, until nobody has anything of it.
    async fn delete_work_queue(&self) -> anyhow::Result<()> {
        let desk = Desk::open(&self.node.url()).await?;
        let channel = desk.channel().await?;
        channel.queue_unbind(WORK.into(), EXCHANGE.into(), "#".into(), FieldTable::default()).await?;
        self.until("nobody has events", async |stage| Ok(desk.ready(WORK).await? == 0 && stage.held().await? == 0.0)).await?;
        let lost = desk.delete_queue(WORK).await?;
        ensure!(lost == 0, "{lost} messages went with {WORK}, which had to be empty");
        Ok(())
    }

    /// How many events the workers hold.
    ///
    /// # Errors
    /// One does not answer.
    pub async fn held(&self) -> anyhow::Result<f64> {
        let mut held = 0.0;
        for worker in &self.workers {
            held += worker.metric("callbackd_held_events").await?;
        }
        Ok(held)
    }

    /// Waits until something is so at two looks.
    async fn until(&self, what: &str, look: impl AsyncFn(&Self) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let (deadline, mut times) = (Instant::now() + LIMIT, 0);
        while times < 2 {
            times = if look(self).await? { times + 1 } else { 0 };
            if Instant::now() >= deadline {
                bail!("not within {LIMIT:?}: {what}");
            }
            sleep(FRESH).await;
        }
        Ok(())
    }

    async fn reload_good(&mut self) -> anyhow::Result<()> {
        self.generation += 1;
        self.receiver.take_keys_up_to(self.generation);
        self.setup.write_integrators(self.generation)?;
        self.reload("success").await
    }

    async fn reload_bad(&mut self) -> anyhow::Result<()> {
        self.setup.write_bad_integrators()?;
        self.reload("refused").await?;
        self.setup.write_integrators(self.generation)?;
        self.reload("success").await
    }

    /// SIGHUP, and waits until each worker has counted another reload with this result.
    async fn reload(&self, result: &str) -> anyhow::Result<()> {
        let series = format!("callbackd_config_reloads_total{{result=\"{result}\"}}");
        let mut before = Vec::new();
        for worker in &self.workers {
            before.push(worker.metric(&series).await?);
        }
        for worker in &self.workers {
            worker.signal("HUP").await?;
        }
        let deadline = Instant::now() + LIMIT;
        for (worker, before) in self.workers.iter().zip(before) {
            while worker.metric(&series).await? <= before {
                ensure!(Instant::now() < deadline, "no reload ({result}) within {LIMIT:?}");
                sleep(POLL).await;
            }
        }
        Ok(())
    }
}
