//! Reading one queue, for as long as the process lives.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::ShortString;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::claim::Claim;
use super::connection::{BrokerError, Pause};
use super::quarantine::Pace;
use super::session::{End, Feed, Tempo};
use super::share::{Share, Weight};
use super::topology::Topology;
use super::window::Window;
use crate::config::Config;
use crate::domain::names::SourceName;
use crate::telemetry::{Fact, Telemetry};

/// Messages between us and who takes them. Few: the broker's prefetch window is the buffer. Enough for several full batches.
pub const HANDED_OVER: usize = 64;
/// The pause before a poisoned queue is read again. Fixed, since nothing is wrong with the broker, and short, since it takes
/// as many returns as the queue's delivery limit (100) until the broker moves the poison away.
const POISON_PAUSE: Duration = Duration::from_millis(50);

/// Which queue is read, and what for.
#[derive(Debug, Clone)]
pub struct QueueRole {
    /// The source that it belongs to.
    pub source: SourceName,
    /// Its name on the broker.
    pub queue: String,
    /// It holds retries that are due, not first attempts.
    pub due: bool,
}

/// What must be there before a queue is consumed: a place for the copies of what cannot be delivered.
///
/// Without one, messages would pile up unsettled in our hands, and the broker's `consumer_timeout` (30 min) would take them
/// back with one more return on their count, again and again: an alarm over a weekend would make rejects of them.
#[derive(Debug, Clone)]
pub struct Ground {
    /// What is declared again, if we may, where the queue is missing.
    pub topology: Arc<Topology>,
    /// Whether copies can be published, as [`super::Publisher::able`] says. While they cannot, no session is opened and
    /// nothing is handed over.
    pub able: watch::Receiver<bool>,
    /// A session during which copies could not be published for longer than this gives its messages back and ends.
    pub patience: Duration,
}

impl Ground {
    /// Well above a restart of the broker and well under its `consumer_timeout` of 30 min, which counts from the delivery of
    /// the oldest unsettled message.
    pub const PATIENCE: Duration = Duration::from_secs(5 * 60);

    /// With the usual [`Self::PATIENCE`].
    #[must_use]
    pub const fn new(topology: Arc<Topology>, able: watch::Receiver<bool>) -> Self {
        Self { topology, able, patience: Self::PATIENCE }
    }
}

/// A message as it came, with the right to settle it.
#[derive(Debug)]
pub struct Inbound {
    /// Its body.
    pub body: Bytes,
    /// Its properties and headers.
    pub properties: BasicProperties,
    /// The exchange that it was last published to.
    pub exchange: ShortString,
    /// The routing key that it was last published with.
    pub routing_key: ShortString,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// The right to settle it.
    pub claim: Claim,
    /// What it takes of its queue's share of the memory, until this is dropped. To be kept as long as anything of the message
    /// is: no more messages come than fit beside it.
    pub weight: Weight,
}

/// One queue that is being read, on a connection of its own: a message that the client library cannot read breaks the
/// connection, and so breaks only this queue. A lost connection, channel or consumer is made again, for ever; its claims are
/// then over, and the broker delivers their messages again.
///
/// A message that the client library cannot read puts the queue into quarantine: it is then served one message at a time,
/// each through its complete delivery, for up to a prefetch window of messages. Until that is over the queue is slow (at
/// 100 ms a delivery, ten messages a second), and a hung endpoint holds up the rest of it.
///
/// Dropping it closes it in the background.
#[derive(Debug)]
pub struct Subscription {
    orders: Orders,
    live: watch::Receiver<bool>,
    quiet: CancellationToken,
    task: JoinHandle<()>,
    limit: Duration,
    _close_on_drop: DropGuard,
}

/// What the task is told.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    /// Say goodbye and end.
    pub(super) close: CancellationToken,
    /// Take no new messages. Implied by `close`.
    pub(super) cancel: CancellationToken,
}

impl Orders {
    fn new() -> Self {
        let close = CancellationToken::new();
        Self { cancel: close.child_token(), close }
    }
}

impl Subscription {
    /// Starts to connect and to read as soon as copies can be published, and keeps at it. At most `prefetch` messages are
    /// unsettled at one time, and fewer where they are large: what is received and not dropped takes no more than an equal
    /// part of `worker.max_bytes_in_flight`, and one message more. When that window is changed, or goes on on another channel
    /// because a message takes long, what is still out of the one before does not count. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(
        queue: QueueRole,
        prefetch: NonZeroU16,
        config: &Config,
        ground: Ground,
        telemetry: Telemetry,
    ) -> (Self, mpsc::Receiver<Inbound>) {
        let (messages, receiver) = mpsc::channel(HANDED_OVER);
        let (orders, quiet) = (Orders::new(), CancellationToken::new());
        let live = watch::Sender::new(false);
        let feed = Feed {
            queue: queue.queue,
            prefetch: prefetch.get(),
            // Each source has two: first attempts, and retries that are due.
            share: Share::new(config.worker.max_bytes_in_flight / (2 * config.sources.len()).max(1), telemetry.clone()),
            broker: config.broker.clone(),
            ground,
            telemetry,
            messages,
            live,
            orders: orders.clone(),
            quiet: quiet.clone(),
        };
        let live = feed.live.subscribe();
        let limit = config.broker.timeout;
        let task = tokio::spawn(Reader { feed, pause: Pause::new(), told_connected: false }.run());
        let _close_on_drop = orders.close.clone().drop_guard();
        (Self { orders, live, quiet, task, limit, _close_on_drop }, receiver)
    }

    /// Whether messages can come in at this moment.
    #[must_use]
    pub fn live(&self) -> watch::Receiver<bool> {
        self.live.clone()
    }

    /// Takes no new messages; claims that are out stay good. What the broker had sent already and was not handed over goes
    /// back when the subscription closes. Returns when the broker has agreed, at the latest after the configured limit.
    pub async fn cancel(&self) {
        self.orders.cancel.cancel();
        let _ = tokio::time::timeout(self.limit, self.quiet.cancelled()).await;
    }

    /// Makes sure that the broker has processed every acknowledgement, then closes the connection. To be called when all is
    /// settled: what is unsettled goes back to the queue. Takes a few round trips, and at most a few times the configured
    /// limit.
    pub async fn close(self) {
        self.orders.close.cancel();
        // An error would be a panic of the task, which the runtime has told already.
        let _ = self.task.await;
    }
}

/// Makes sessions of one queue, one after the other.
struct Reader {
    feed: Feed,
    pause: Pause,
    told_connected: bool,
}

impl Reader {
    async fn run(mut self) {
        let stop = self.feed.orders.cancel.clone();
        let mut tempo = Tempo { pace: Pace::Full, window: Window::new(self.feed.prefetch, self.feed.share.limit()) };
        while let Some(opened) = stop.run_until_cancelled(self.feed.open(&tempo)).await {
            let started = Instant::now();
            let end = match opened {
                Ok(session) => {
                    if !std::mem::replace(&mut self.told_connected, true) {
                        self.feed.telemetry.record(&Fact::BrokerConnected { link: &self.feed.queue });
                    }
                    session.serve(&mut tempo).await
                }
                Err(error) => End::lost(error, 0),
            };
            let retry_in = match end {
                End::Told => break,
                End::Lost(error) => self.tell_lost(&error, started.elapsed()),
                End::Poisoned { settled } => self.tell_poisoned(&mut tempo.pace, settled),
            };
            if stop.run_until_cancelled(sleep(retry_in)).await.is_none() {
                break;
            }
        }
        self.feed.quiet.cancel();
    }

    fn tell_lost(&mut self, error: &BrokerError, lasted: Duration) -> Duration {
        let retry_in = self.pause.after(lasted);
        self.told_connected = false;
        let Feed { queue, telemetry, .. } = &self.feed;
        telemetry.record(&Fact::BrokerLost { link: queue, error: &error.to_string(), retry_in });
        retry_in
    }

    /// A poison takes a hundred sessions until it is gone: they are told as one quarantine, not as a hundred losses.
    fn tell_poisoned(&self, pace: &mut Pace, settled: u64) -> Duration {
        let before = *pace;
        *pace = before.after_poison(settled, self.feed.prefetch);
        if before == Pace::Full {
            self.feed.telemetry.record(&Fact::Quarantined { queue: &self.feed.queue });
        }
        POISON_PAUSE
    }
}
