//! The worker: wires the pure core to broker and network. One direction: intake → lanes → delivery → settle.

mod delivery;
mod intake;
mod lanes;
mod parcel;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::{Ground, Publisher, QueueRole, Subscription, Topology};
use crate::config::{Config, Source};
use crate::domain::integrator::Directory;
use crate::egress::Egress;
use crate::telemetry::{Fact, Telemetry};

use lanes::Lanes;

/// What every step of a delivery needs.
struct Shared {
    config: Arc<Config>,
    directory: watch::Receiver<Arc<Directory>>,
    publisher: Publisher,
    egress: Egress,
    telemetry: Telemetry,
    lanes: Lanes,
    /// Everything that runs for a message; a stop waits for it.
    tasks: TaskTracker,
    /// No new request is started once this is cancelled.
    stopping: CancellationToken,
    /// Everything is given up once this is cancelled: what is not settled goes back to the broker.
    halt: CancellationToken,
}

/// A running worker.
pub struct Worker {
    shared: Arc<Shared>,
    subscriptions: Vec<(String, Subscription)>,
}

/// The parts that a worker is made of.
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// The integrators, replaced on reload.
    pub directory: watch::Receiver<Arc<Directory>>,
    /// The side that calls endpoints.
    pub egress: Egress,
    /// Where facts go.
    pub telemetry: Telemetry,
}

impl Worker {
    /// Connects to the broker and starts to work; the connections are made, and made again, in the background.
    #[must_use]
    pub fn start(parts: Parts) -> Self {
        let Parts { config, directory, egress, telemetry } = parts;
        let topology = Arc::new(Topology::new(&config));
        let publisher = Publisher::start(&config, Arc::clone(&topology), telemetry.clone());
        let shared = Arc::new(Shared {
            config: Arc::clone(&config),
            directory,
            publisher,
            egress,
            telemetry: telemetry.clone(),
            lanes: Lanes::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            halt: CancellationToken::new(),
        });
        let mut subscriptions = Vec::new();
        for source in &config.sources {
            let source = Arc::new(source.clone());
            for due in [false, true] {
                let role = role(&source, due);
                let name = role.queue.clone();
                let ground = Ground::new(Arc::clone(&topology), shared.publisher.able());
                let (subscription, inbox) = Subscription::start(role, source.prefetch, &config, ground, telemetry.clone());
                tokio::spawn(intake::run(Arc::clone(&shared), Arc::clone(&source), due, inbox));
                tokio::spawn(lanes::forget_the_dead(Arc::clone(&shared), subscription.live()));
                subscriptions.push((name, subscription));
            }
        }
        Self { shared, subscriptions }
    }

    /// What must hold for the worker to be ready: every queue is consumed and copies can be published.
    #[must_use]
    pub fn readiness(&self) -> Vec<(String, watch::Receiver<bool>)> {
        let queues = self.subscriptions.iter().map(|(queue, subscription)| (format!("consumer of {queue}"), subscription.live()));
        std::iter::once(("connection that publishes".to_owned(), self.shared.publisher.connected())).chain(queues).collect()
    }

    /// Whether the broker refuses to take what we publish at present.
    #[must_use]
    pub fn blocked(&self) -> watch::Receiver<bool> {
        self.shared.publisher.blocked()
    }

    /// Stops: takes nothing new, finishes the requests in flight and gives the rest back. Whatever is not settled when
    /// `limit` is over goes back to the broker too, and may then be delivered twice.
    pub async fn stop(self, limit: Duration) {
        let Self { shared, subscriptions } = self;
        shared.stopping.cancel();
        shared.lanes.give_back(&shared.telemetry);
        shared.tasks.close();
        shared.telemetry.record(&Fact::Stopping { in_flight: shared.tasks.len(), limit });
        join_all(subscriptions.iter().map(|(_, subscription)| subscription.cancel())).await;
        let _ = tokio::time::timeout(limit, shared.tasks.wait()).await;
        let abandoned = shared.tasks.len();
        shared.halt.cancel();
        join_all(subscriptions.into_iter().map(|(_, subscription)| subscription.close())).await;
        shared.publisher.close().await;
        shared.telemetry.record(&Fact::Stopped { abandoned });
    }
}

fn role(source: &Source, due: bool) -> QueueRole {
    let queue = if due { source.due_queue() } else { source.queue.clone() };
    QueueRole { source: source.name.clone(), queue, due }
}
