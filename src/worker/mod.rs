//! The worker: wires the pure core to broker and network. One direction: intake → lanes → delivery → settle.

mod delivery;
mod insight;
mod intake;
mod lanes;
mod parcel;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::{Ground, Publisher, QueueRole, Subscription, Topology};
use crate::config::{Config, Source};
use crate::domain::hold::Holds;
use crate::domain::integrator::Directory;
use crate::egress::{Egress, Tokens};
use crate::telemetry::{Fact, Telemetry};

pub use insight::Insight;
use intake::Intake;
use lanes::Lanes;
use parcel::Window;

/// The longest that a stop waits for the broker to take the last acknowledgements and to close the connections.
pub const GOODBYE: Duration = Duration::from_secs(4);

/// What every step of a delivery needs.
struct Shared {
    config: Arc<Config>,
    directory: watch::Receiver<Arc<Directory>>,
    holds: watch::Receiver<Arc<Holds>>,
    publisher: Publisher,
    egress: Egress,
    tokens: Tokens,
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
    intakes: JoinSet<()>,
}

/// The parts that a worker is made of.
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// The integrators, replaced on reload.
    pub directory: watch::Receiver<Arc<Directory>>,
    /// Endpoints that operators have paused.
    pub holds: watch::Receiver<Arc<Holds>>,
    /// The side that calls endpoints.
    pub egress: Egress,
    /// Where facts go.
    pub telemetry: Telemetry,
}

impl Worker {
    /// Connects to the broker and starts to work; the connections are made, and made again, in the background.
    #[must_use]
    pub fn start(parts: Parts) -> Self {
        let Parts { config, directory, holds, egress, telemetry } = parts;
        let topology = Arc::new(Topology::new(&config));
        let publisher = Publisher::start(&config, Arc::clone(&topology), telemetry.clone());
        let shared = Arc::new(Shared {
            config: Arc::clone(&config),
            directory,
            holds,
            publisher,
            tokens: Tokens::new(egress.clone(), telemetry.clone()),
            egress,
            telemetry: telemetry.clone(),
            lanes: Lanes::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            halt: CancellationToken::new(),
        });
        tokio::spawn(lanes::watch_lines(Arc::clone(&shared)));
        tokio::spawn(lanes::follow_directory(Arc::clone(&shared), shared.directory.clone()));
        tokio::spawn(lanes::follow_holds(Arc::clone(&shared), shared.holds.clone()));
        let mut subscriptions = Vec::new();
        let mut intakes = JoinSet::new();
        for source in &config.sources {
            let source = Arc::new(source.clone());
            for due in [false, true] {
                let role = role(&source, due);
                let name = role.queue.clone();
                let ground = Ground::new(Arc::clone(&topology), shared.publisher.able());
                let (subscription, inbox) = Subscription::start(role, source.prefetch, &config, ground, telemetry.clone());
                let window = Window::new(source.prefetch, &telemetry);
                let intake = Intake { source: Arc::clone(&source), due, window };
                intakes.spawn(intake.run(Arc::clone(&shared), inbox));
                tokio::spawn(lanes::drop_what_is_over(Arc::clone(&shared), subscription.live()));
                subscriptions.push((name, subscription));
            }
        }
        Self { shared, subscriptions, intakes }
    }

    /// What must hold for the worker to be ready: every queue is consumed and copies can be published.
    #[must_use]
    pub fn readiness(&self) -> Vec<(String, watch::Receiver<bool>)> {
        let queues = self.subscriptions.iter().map(|(queue, subscription)| (format!("consumer of {queue}"), subscription.live()));
        std::iter::once(("connection that publishes".to_owned(), self.shared.publisher.connected())).chain(queues).collect()
    }

    /// What others may see of it while it works.
    #[must_use]
    pub fn insight(&self) -> Insight {
        Insight::new(&self.shared)
    }

    /// Whether the broker refuses to take what we publish at present.
    #[must_use]
    pub fn blocked(&self) -> watch::Receiver<bool> {
        self.shared.publisher.blocked()
    }

    /// Returns only when a queue is not taken from any more though nobody asked for that: a fault of ours, after which the
    /// process is better started anew.
    pub async fn broken(&mut self) {
        let _ = self.intakes.join_next().await;
    }

    /// Stops: takes nothing new, finishes the requests in flight and gives the rest back. Whatever is not settled when
    /// `limit` is over goes back to the broker too, and may then be delivered twice. Takes at most [`GOODBYE`] longer.
    pub async fn stop(self, limit: Duration) {
        let Self { shared, subscriptions, intakes: _intakes } = self;
        shared.stopping.cancel();
        lanes::give_back(&shared);
        shared.tasks.close();
        shared.telemetry.record(&Fact::Stopping { open: shared.tasks.len(), limit });
        let cancelled = join_all(subscriptions.iter().map(|(_, subscription)| subscription.cancel()));
        let _ = timeout(limit, join(cancelled, shared.tasks.wait())).await;
        let abandoned = shared.tasks.len();
        shared.halt.cancel();
        // A broker that does not answer any more must not hold up the end.
        let closed = join_all(subscriptions.into_iter().map(|(_, subscription)| subscription.close()));
        let _ = timeout(GOODBYE, join(closed, shared.publisher.close())).await;
        shared.telemetry.record(&Fact::Stopped { abandoned });
    }
}

fn role(source: &Source, due: bool) -> QueueRole {
    let queue = if due { source.due_queue() } else { source.queue.clone() };
    QueueRole { source: source.name.clone(), queue, due }
}
