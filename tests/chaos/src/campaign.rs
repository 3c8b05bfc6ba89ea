//! A run: events flow, things break one after the other, and in the end everything is counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::broker::Node;
use crate::drain;
use crate::event::Character;
use crate::faults::{Stage, in_flight};
use crate::judge::{Judgement, Terms, judge};
use crate::ledger::{Entry, Ledger, now};
use crate::logs::Errors;
use crate::plan::{Fault, Planned, WORKERS, plan};
use crate::proxy::TcpProxy;
use crate::publisher::{self, Gate, Outlet};
use crate::receiver::{Receiver, by_character};
use crate::worker::{self, EXCHANGE, Setup, TERMS, start_all};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Events.
    pub events: u64,
    /// Faults.
    pub faults: usize,
    /// Of the plan.
    pub seed: u64,
    /// Back to delivering, at most this long after the broker accepts.
    pub recovery: Duration,
    /// The program under test.
    pub program: PathBuf,
    /// libfaketime.
    pub faketime: PathBuf,
    /// For configuration, logs and ledger.
    pub folder: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What the judge says.
    pub judgement: Judgement,
    /// What the workers logged.
    pub errors: Errors,
    /// ERROR lines that no fault explains.
    pub unexplained_errors: u64,
    /// From the first event to the last request.
    pub took: Duration,
}

/// Limit on the events before a fault, and on those after the last one.
const FLOW_LIMIT: Duration = Duration::from_secs(600);
/// A delivery after each fault, within this.
const ALIVE_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Runs it.
///
/// # Errors
/// The suite itself fails. What the workers do wrong is in the outcome.
pub async fn run(wish: &Wish, node: Node) -> anyhow::Result<Outcome> {
    let ledger = Arc::new(Ledger::create(&wish.folder.join("ledger.jsonl"))?);
    let mut stage = set_up(wish, node, &ledger).await?;
    let faults = plan(wish.seed, wish.faults);
    let chunk = (wish.events / (faults.len() as u64 + 1)).max(1);
    let rate = u32::try_from(chunk / 2).unwrap_or(u32::MAX).clamp(200, 2000);
    let gate = Arc::new(Gate::new(wish.events, rate, stage.receiver.clone()));
    let outlet = Outlet { amqp: stage.node.url(), exchange: EXCHANGE.to_owned(), key: "event".to_owned() };
    let mut publishers = publisher::run(outlet, Arc::clone(&ledger), Arc::clone(&gate));
    let started = Instant::now();
    for (number, planned) in (0_u64..).zip(faults) {
        gate.open_up_to((number + 1) * chunk);
        flow(&gate, number * chunk + chunk / 2).await?;
        if let Err(error) = fault(&mut stage, planned, &gate, ((number + 2) * chunk - chunk / 2, (number + 2) * chunk)).await {
            // What was seen until then is judged all the same.
            broken_off(&ledger, &error);
            publishers.shutdown().await;
            break;
        }
        let progress = (number + 1, wish.faults, gate.confirmed(), started.elapsed().as_secs());
        eprintln!("{} of {} faults, {} events, {} s: {}", progress.0, progress.1, progress.2, progress.3, planned.fault);
    }
    gate.open_up_to(wish.events);
    let end = wind_up(&mut stage, publishers).await;
    let took = started.elapsed();
    if let Err(error) = end {
        broken_off(&ledger, &error);
    }
    let judgement = judge(&ledger.read()?, &Terms { recovery: wish.recovery, ..TERMS });
    let errors = Errors::of(&worker::logs(&wish.folder)?)?;
    let bad_reloads = judgement.figures.faults.get(Fault::ReloadBad.kind()).copied().unwrap_or(0);
    let unexplained_errors = errors.beyond(u64::from(bad_reloads), WORKERS as u64);
    Ok(Outcome { judgement, errors, unexplained_errors, took })
}

fn broken_off(ledger: &Ledger, error: &anyhow::Error) {
    ledger.write(Entry::Misconduct { text: format!("the run could not go on: {error:#}") });
}

/// Waits for the last events, stops the workers and takes out what is left.
async fn wind_up(stage: &mut Stage, publishers: JoinSet<()>) -> anyhow::Result<()> {
    finish(publishers).await?;
    drain::quiet(stage).await?;
    for worker in &mut stage.workers {
        worker.look_after()?;
        worker.stop().await;
    }
    drain::everything(stage).await
}

async fn set_up(wish: &Wish, node: Node, ledger: &Arc<Ledger>) -> anyhow::Result<Stage> {
    let receiver = Receiver::start(Arc::clone(ledger), by_character).await?;
    let proxies: Vec<(Character, TcpProxy)> =
        Character::ALL.into_iter().map(|character| (character, TcpProxy::to(receiver.address().to_string()))).collect();
    let endpoints = proxies.iter().map(|(character, proxy)| (*character, proxy.address())).collect();
    let setup = Arc::new(Setup { program: wish.program.clone(), faketime: wish.faketime.clone(), folder: wish.folder.clone(), endpoints });
    setup.write_integrators(0)?;
    let workers = start_all(&setup, &node, ledger).await?;
    Ok(Stage { node, workers, proxies, receiver, setup, ledger: Arc::clone(ledger), generation: 0 })
}

/// Waits until so many events are confirmed.
async fn flow(gate: &Gate, events: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + FLOW_LIMIT;
    while gate.confirmed() < events {
        ensure!(Instant::now() < deadline, "only {} of {events} events were confirmed within {FLOW_LIMIT:?}", gate.confirmed());
        sleep(POLL).await;
    }
    Ok(())
}

/// One fault, and the wait for a delivery after it. Events are let out up to `half` while it lasts, where some are needed then, and up
/// to `next` from then on.
async fn fault(stage: &mut Stage, planned: Planned, gate: &Gate, (half, next): (u64, u64)) -> anyhow::Result<()> {
    let fault = planned.fault;
    stage.ledger.write(Entry::FaultBegins { fault: fault.to_string(), in_flight: in_flight(fault) });
    if matches!(fault, Fault::StopBroker | Fault::KillBroker) {
        // So that there is something to deliver as soon as the broker is back; the other half is kept for then, as all of these may be
        // delivered before a slow machine has ended it.
        gate.open_up_to(half);
    }
    stage.strike(planned, || gate.open_up_to(half)).await.with_context(|| format!("fault: {fault}"))?;
    stage.ledger.write(Entry::FaultEnds);
    gate.open_up_to(next);
    let ended = now();
    let deadline = Instant::now() + ALIVE_LIMIT;
    while stage.receiver.last_seen() < ended {
        for worker in &mut stage.workers {
            worker.look_after()?;
        }
        if Instant::now() >= deadline {
            stage.ledger.write(Entry::Misconduct { text: format!("nothing was delivered within {ALIVE_LIMIT:?} after: {fault}") });
            break;
        }
        sleep(POLL).await;
    }
    // The other one may have made that delivery.
    for worker in &mut stage.workers {
        worker.look_for().await?;
    }
    Ok(())
}

async fn finish(mut publishers: JoinSet<()>) -> anyhow::Result<()> {
    let all = async {
        while let Some(done) = publishers.join_next().await {
            done?;
        }
        anyhow::Ok(())
    };
    timeout(FLOW_LIMIT * 4, all).await.context("the events were not all confirmed")?
}
