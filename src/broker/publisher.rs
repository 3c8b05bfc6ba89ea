//! Publishing with proof: a copy counts as safe when the broker has confirmed it and has not returned it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lapin::BasicProperties;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::complaints::Complaints;
use super::connection::{BrokerError, Pause, short};
use super::headers::LARGEST_COPY;
use super::publish_link::{Link, Session};
use super::topology::Topology;
use super::unblocked::while_unblocked;
use super::verdict::{self, Address, Confirmed};
use super::write_path::confirming_channel;
use crate::config::Config;
use crate::telemetry::{Fact, Telemetry};

/// A message on its way to one of our own queues.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The queue, which is also the routing key on the exchange that we publish to.
    pub queue: String,
    /// What goes with it; the delivery mode is always set to persistent.
    pub properties: BasicProperties,
    /// What it says.
    pub body: Bytes,
}

/// Why there is no proof that a message is safe. It may be in its queue nevertheless, unless it was returned: publishing it
/// again can make a duplicate, never a loss.
#[derive(Debug, thiserror::Error)]
pub enum NotPublished {
    /// No queue takes it; the broker has dropped it.
    #[error("returned: no queue takes it ({reply})")]
    Returned {
        /// The broker's words, such as `NO_ROUTE`.
        reply: String,
    },
    /// The broker has refused it, as a full queue does.
    #[error("refused by the broker")]
    Refused,
    /// No confirm came within the limit, in which time spent blocked does not count.
    #[error("no confirm within {0:?}")]
    TimedOut(Duration),
    /// There was no connection within the limit.
    #[error("no connection to the broker within {0:?}")]
    NotConnected(Duration),
    /// The connection or the channel broke before the confirm came.
    #[error("{0}")]
    Lost(#[from] BrokerError),
    /// The properties do not fit into one frame: sending them would end the connection. Nothing was sent, and trying again
    /// is of no use.
    #[error("properties of {size} bytes are larger than the {LARGEST_COPY} that a copy may have")]
    TooLarge {
        /// Bytes that they would take on the wire.
        size: usize,
    },
    /// The channel was not asked to confirm: a mistake of ours.
    #[error("the channel does not confirm")]
    Unconfirmed,
}

impl NotPublished {
    /// Publishing the same message again is of no use, now or later.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Lost(BrokerError::LongName { .. }))
    }

    /// No new try mends it: an exchange, a queue, a binding or a permission is missing.
    fn wants_proof(&self) -> bool {
        match self {
            Self::Returned { .. } => true,
            Self::Lost(error) => error.is_missing() || error.is_denied(),
            _ => false,
        }
    }
}

/// Why trying to publish has ended without proof.
#[derive(Debug, thiserror::Error)]
pub enum Unpublished {
    /// We were told to stop trying. The message may be in its queue nevertheless.
    #[error("given up")]
    GivenUp,
    /// It can never be published. Nothing was sent.
    #[error("{0}")]
    Impossible(NotPublished),
}

/// Publishes to our own queues. Cheap to clone; all clones share one connection, which mends itself, and a pool of channels
/// with one message in flight on each: only then is a confirm sure to be that of its message.
///
/// The connection closes when the last clone is dropped or one of them is told to [`Self::close`].
#[derive(Clone)]
pub struct Publisher(Arc<Inner>);

struct Inner {
    link: Arc<Link>,
    exchange: String,
    slots: Semaphore,
    limit: Duration,
    complaints: Complaints,
    telemetry: Telemetry,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.stop();
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("connected", &*self.0.link.connected().borrow()).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Starts to connect, and keeps at it until [`Self::close`]. Counts as connected once the topology is declared or found,
    /// and a message that no queue takes has come back. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(config: &Config, topology: Arc<Topology>, telemetry: Telemetry) -> Self {
        Self(Arc::new(Inner {
            link: Link::start(config.broker.clone(), topology, telemetry.clone()),
            exchange: config.broker.names.publish.clone(),
            slots: Semaphore::new(config.broker.publish_channels.max(1)),
            limit: config.broker.timeout,
            complaints: Complaints::default(),
            telemetry,
        }))
    }

    /// Publishes once. Waits for a free channel, for a connection up to the limit, and as long as the broker blocks us.
    ///
    /// # Errors
    /// [`NotPublished`] is never proof that the message is *not* there. Dropping the future has the same meaning.
    pub async fn publish(&self, message: &Outgoing) -> Result<Confirmed, NotPublished> {
        self.0.publish(message).await.map_err(|failure| failure.error)
    }

    /// Publishes until the broker confirms, with growing pauses; failures are recorded about once a second for each queue.
    /// Where an exchange, a queue or a permission turns out to be missing, the topology is declared or checked again.
    ///
    /// # Errors
    /// [`Unpublished::GivenUp`] only when `give_up` is cancelled; the message may be in its queue even then.
    /// [`Unpublished::Impossible`] when it can never be published.
    pub async fn publish_until_confirmed(&self, message: &Outgoing, give_up: &CancellationToken) -> Result<Confirmed, Unpublished> {
        let published = give_up.run_until_cancelled(self.publish_for_ever(message)).await;
        published.unwrap_or(Err(Unpublished::GivenUp))
    }

    async fn publish_for_ever(&self, message: &Outgoing) -> Result<Confirmed, Unpublished> {
        let mut pause = Pause::new();
        loop {
            // A lost connection is told once by the link, not once for every message that waits for it.
            drop(self.0.link.session().await);
            match self.0.publish(message).await {
                Ok(confirmed) => return Ok(confirmed),
                Err(Failure { error, .. }) if error.is_permanent() => return Err(Unpublished::Impossible(error)),
                Err(Failure { error, session }) => {
                    let text = error.to_string();
                    if let Some(session) = session.filter(|_| error.wants_proof()) {
                        session.doubt(&format!("publishing to {}: {text}", message.queue));
                    }
                    self.0.record_failure(&message.queue, &text);
                }
            }
            tokio::time::sleep(pause.next(fastrand::f64())).await;
        }
    }

    /// Whether the broker has stopped to read what we publish.
    #[must_use]
    pub fn blocked(&self) -> watch::Receiver<bool> {
        self.0.link.blocked()
    }

    /// Whether there is a connection with its topology in place, on which what we publish arrives.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.0.link.connected()
    }

    /// Whether a copy could be published now: connected and not blocked. Without that nothing should be consumed.
    #[must_use]
    pub fn able(&self) -> watch::Receiver<bool> {
        self.0.link.able()
    }

    /// Closes the connection, for all clones. What is in flight is not waited for.
    pub async fn close(&self) {
        self.0.link.close().await;
    }
}

/// A publish that has no proof, and the session that it went through.
struct Failure {
    error: NotPublished,
    session: Option<Arc<Session>>,
}

impl Inner {
    async fn publish(&self, message: &Outgoing) -> Result<Confirmed, Failure> {
        // No limit of its own: every holder of a slot is limited. The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let not_connected = |_| Failure { error: NotPublished::NotConnected(self.limit), session: None };
        let session = tokio::time::timeout(self.limit, self.link.session()).await.map_err(not_connected)?;
        let attempt = while_unblocked(self.publish_on(&session, message), self.link.blocked(), self.limit).await;
        attempt.unwrap_or(Err(NotPublished::TimedOut(self.limit))).map_err(|error| {
            if matches!(error, NotPublished::Lost(_) | NotPublished::TimedOut(_)) {
                session.suspect();
            }
            Failure { error, session: Some(session) }
        })
    }

    async fn publish_on(&self, session: &Session, message: &Outgoing) -> Result<Confirmed, NotPublished> {
        let exchange = short("the name of the exchange", &self.exchange)?;
        let routing_key = short("the name of the queue", &message.queue)?;
        let channel = match session.idle_channel() {
            Some(channel) => channel,
            None => {
                confirming_channel(session.connection()).await.map_err(|source| BrokerError::Failed { step: "open a channel", source })?
            }
        };
        let verdict = verdict::publish(&channel, Address { exchange, routing_key }, message.properties.clone(), &message.body).await;
        if verdict::may_be_used_again(&verdict) {
            session.give_back(channel);
        }
        verdict
    }

    fn record_failure(&self, queue: &str, error: &str) {
        if let Some(text) = self.complaints.about(queue, error, Instant::now()) {
            self.telemetry.record(&Fact::PublishFailed { queue, error: &text });
        }
    }
}
