//! `callbackd run`: the worker.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::{OptionFuture, join3};
use tokio_util::sync::CancellationToken;

use super::CliError;
use crate::admin::{self, Api, Readiness};
use crate::config::reload::ReloadTrigger;
use crate::config::{Config, Environment, reload};
use crate::domain::integrator::Directory;
use crate::egress::Egress;
use crate::holds::HoldKeeper;
use crate::letters::Jobs;
use crate::lifecycle::{Request, Signals};
use crate::live::Live;
use crate::outcomes::Sender;
use crate::pulse::Pulse;
use crate::store::{Desk, Writer};
use crate::supervisor::{State, Supervisor};
use crate::telemetry::{Fact, Telemetry};
use crate::traces::Exporter;
use crate::worker::{Parts, Worker};

/// Consumes events and delivers them until SIGTERM.
#[derive(Debug, clap::Args)]
pub struct Run {}

impl Run {
    /// Runs the worker until it is told to stop; then finishes what is in flight.
    ///
    /// # Errors
    /// A configuration that is no good, or an address that cannot be listened on. A broker that is not there is no error:
    /// it is waited for.
    pub async fn run(self, config: Config, directory: Directory) -> Result<(), CliError> {
        let config = Arc::new(config);
        let signals = Signals::listen().map_err(|e| CliError::Failed(format!("cannot listen to signals: {e}")))?;
        let supervisor = Arc::new(Supervisor::of(&Environment::of_process()).map_err(|e| CliError::Failed(format!("NOTIFY_SOCKET: {e}")))?);
        let listener = admin::bind(config.admin.listen).await.map_err(|e| CliError::Failed(e.to_string()))?;
        let (recorders, telemetry) = Recorders::start(&config, Telemetry::new(&config))?;
        let live = Arc::new(Live::default());
        let telemetry = telemetry.observed_by(live.clone());
        telemetry.configured(&directory);
        telemetry.record(&Fact::Started { integrators: directory.len(), endpoints: directory.all().count() });
        let address = listener.local_addr().ok();
        let egress = Egress::new(&config.egress.clone().listening(address)).map_err(|e| CliError::Failed(e.to_string()))?;

        let stop = CancellationToken::new();
        let (directory, trigger) = reload::watch_directory(&config, directory, telemetry.clone(), stop.clone());
        let in_force = directory.clone();
        let holds = HoldKeeper::new(config.delivery_log.database.clone(), telemetry.clone());
        holds.start().await;
        let parts = Parts { config: Arc::clone(&config), directory, holds: holds.in_force(), egress, telemetry: telemetry.clone() };
        let worker = Worker::start(parts);
        let jobs = Jobs::new(Arc::clone(&config), telemetry.clone(), worker_name());
        let pulse = Pulse::default();
        tokio::spawn(pulse.clone().beat());
        let api = Api {
            readiness: Readiness::new(worker.readiness(), worker.blocked(), stop.clone()),
            directory: in_force,
            reload: trigger.clone(),
            telemetry,
            config: Arc::clone(&config),
            worker: worker.insight(),
            holds,
            live,
            desk: Desk::new(&config.delivery_log),
            jobs,
            limits: Arc::default(),
        };
        let admin = admin::start(listener, config.admin.clone(), api, (pulse, stop.clone()))
            .map_err(|error| CliError::Failed(format!("no thread for the admin side: {error}")))?;

        let (mut signals, mut worker) = (signals, worker);
        let telling = Arc::clone(&supervisor);
        tokio::spawn(async move { telling.keep_alive().await });
        // Not when the broker is there: it may come later, and who waits for this process to start is not to wait for that, nor to
        // kill it meanwhile. `/readyz` says whether it is.
        supervisor.tell(&State::Ready(address));
        let broken = tokio::select! {
            () = reload_on_request(&mut signals, &trigger, &supervisor, address) => false,
            () = worker.broken() => true,
        };
        supervisor.tell(&State::Stopping);
        stop.cancel();
        tokio::select! {
            () = worker.stop(config.worker.stop_timeout) => {}
            () = second(&mut signals) => return Err(CliError::Failed("stopped at once by a second signal".to_owned())),
        }
        recorders.stop().await;
        admin.stop().await;
        if broken {
            return Err(CliError::Failed("a part of the worker ended by itself, which is a fault of the program; see the log".to_owned()));
        }
        Ok(())
    }
}

/// Reloads whenever that is asked for; returns when a stop is.
async fn reload_on_request(signals: &mut Signals, trigger: &ReloadTrigger, supervisor: &Supervisor, address: Option<SocketAddr>) {
    let mut is_reloading = false;
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Reload => {
                    supervisor.tell(&State::Reloading);
                    is_reloading = true;
                    trigger.reload();
                }
                Request::Stop => return,
            },
            () = trigger.done() => if std::mem::take(&mut is_reloading) {
                supervisor.tell(&State::Ready(address));
            },
        }
    }
}

/// Who records what happens elsewhere than in the log and the metrics, each on a thread of its own and where it is on.
struct Recorders {
    log: Option<Writer>,
    outcomes: Option<Sender>,
    exporter: Option<Exporter>,
}

impl Recorders {
    /// Starts them, and makes telemetry that they see.
    fn start(config: &Config, telemetry: Telemetry) -> Result<(Self, Telemetry), CliError> {
        let (log, telemetry) = delivery_log(config, telemetry)?;
        let (outcomes, telemetry) = outcomes(config, telemetry)?;
        let (exporter, telemetry) = traces(config, telemetry)?;
        Ok((Self { log, outcomes, exporter }, telemetry))
    }

    /// Ends them, all at one time: each has some seconds for what is left.
    async fn stop(self) {
        let (log, outcomes, exporter) = (self.log.map(Writer::stop), self.outcomes.map(Sender::stop), self.exporter.map(Exporter::stop));
        join3(OptionFuture::from(log), OptionFuture::from(outcomes), OptionFuture::from(exporter)).await;
    }
}

/// The writer of the delivery log, where it is on, and telemetry that it sees.
fn delivery_log(config: &Config, telemetry: Telemetry) -> Result<(Option<Writer>, Telemetry), CliError> {
    let started = Writer::start(&config.delivery_log, worker_name(), &telemetry);
    match started.map_err(|error| CliError::Failed(format!("no thread for the delivery log: {error}")))? {
        Some((journal, writer)) => Ok((Some(writer), telemetry.observed_by(journal))),
        None => Ok((None, telemetry)),
    }
}

/// The sender of outcomes, where they are on, and telemetry that it sees.
fn outcomes(config: &Config, telemetry: Telemetry) -> Result<(Option<Sender>, Telemetry), CliError> {
    let started = Sender::start(config, worker_name(), &telemetry);
    match started.map_err(|error| CliError::Failed(format!("no thread for outcomes: {error}")))? {
        Some((outbox, sender)) => Ok((Some(sender), telemetry.observed_by(outbox))),
        None => Ok((None, telemetry)),
    }
}

/// The exporter of spans, where traces are on, and telemetry that it sees.
fn traces(config: &Config, telemetry: Telemetry) -> Result<(Option<Exporter>, Telemetry), CliError> {
    let started = Exporter::start(config, &worker_name(), &telemetry);
    match started.map_err(|error| CliError::Failed(error.to_string()))? {
        Some((tracer, exporter)) => Ok((Some(exporter), telemetry.observed_by(tracer))),
        None => Ok((None, telemetry)),
    }
}

/// What tells this process from others in the delivery log, in outcomes and in traces: the machine (in a container, the container), and the process.
fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

/// Waits for one more request to stop.
async fn second(signals: &mut Signals) {
    while signals.next().await != Request::Stop {}
}
