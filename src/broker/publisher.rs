//! Publishing with proof: a copy counts as safe when the broker has confirmed it and has not returned it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{BrokerError, Pause, short};
use super::headers::{LARGEST_COPY, encoded_size};
use super::publish_link::{Link, Session};
use super::topology::Topology;
use crate::config::Config;
use crate::telemetry::{Fact, Telemetry};

/// A topology that was just declared is not declared again: a thousand messages may find the same queue missing.
const DECLARED_ENOUGH: Duration = Duration::from_secs(1);
/// AMQP's `persistent`: the message survives a restart of the broker.
const PERSISTENT: u8 = 2;

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

/// Proof that a copy is safe: the broker has confirmed it, and it is in a queue. Made in this file alone.
#[derive(Debug)]
pub struct Confirmed(());

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
    declared: Option<Mutex<Option<Instant>>>,
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
    /// Starts to connect, and keeps at it until [`Self::close`]. Counts as connected once the topology is declared or found.
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn start(config: &Config, topology: Arc<Topology>, telemetry: Telemetry) -> Self {
        Self(Arc::new(Inner {
            link: Link::start(config.broker.clone(), topology, telemetry.clone()),
            exchange: config.broker.names.publish.clone(),
            slots: Semaphore::new(config.broker.publish_channels.max(1)),
            limit: config.broker.timeout,
            declared: config.broker.declare.then(Mutex::default),
            telemetry,
        }))
    }

    /// Publishes once. Waits for a free channel, for a connection up to the limit, and as long as the broker blocks us.
    ///
    /// # Errors
    /// [`NotPublished`] is never proof that the message is *not* there. Dropping the future has the same meaning.
    pub async fn publish(&self, message: &Outgoing) -> Result<Confirmed, NotPublished> {
        let inner = &*self.0;
        // No limit of its own: every holder of a slot is limited. The semaphore is never closed.
        let _slot = inner.slots.acquire().await;
        let session = tokio::time::timeout(inner.limit, inner.link.session()).await.map_err(|_| NotPublished::NotConnected(inner.limit))?;
        let attempt = inner.publish_on(&session, message);
        let result = while_unblocked(attempt, inner.link.blocked(), inner.limit).await;
        let result = result.unwrap_or(Err(NotPublished::TimedOut(inner.limit)));
        if matches!(result, Err(NotPublished::Lost(_) | NotPublished::TimedOut(_))) {
            session.suspect.notify_one();
        }
        result
    }

    /// Publishes until the broker confirms, with growing pauses, each failure recorded. Where a message was returned, the
    /// topology is declared again first, if we may. `None` only when `give_up` is cancelled; the message may be in its queue
    /// even then.
    pub async fn publish_until_confirmed(&self, message: &Outgoing, give_up: &CancellationToken) -> Option<Confirmed> {
        give_up.run_until_cancelled(self.publish_for_ever(message)).await
    }

    async fn publish_for_ever(&self, message: &Outgoing) -> Confirmed {
        let mut pause = Pause::new();
        loop {
            // A lost connection is told once by the link, not once for every message that waits for it.
            drop(self.0.link.session().await);
            match self.publish(message).await {
                Ok(confirmed) => return confirmed,
                Err(error) => {
                    self.0.record_failure(message, &error.to_string());
                    if matches!(error, NotPublished::Returned { .. }) {
                        self.0.declare_again(message).await;
                    }
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

    /// Whether there is a connection with its topology in place.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.0.link.connected()
    }

    /// Closes the connection, for all clones. What is in flight is not waited for.
    pub async fn close(&self) {
        self.0.link.close().await;
    }
}

impl Inner {
    /// The channel goes back to the pool only after a clean verdict: on any other way out, a late confirm of this message
    /// could meet the channel's next one.
    async fn publish_on(&self, session: &Session, message: &Outgoing) -> Result<Confirmed, NotPublished> {
        let size = encoded_size(&message.properties);
        if size > LARGEST_COPY {
            return Err(NotPublished::TooLarge { size });
        }
        let lost = |step| move |source| NotPublished::Lost(BrokerError::Failed { step, source });
        let exchange = short("the name of the exchange", &self.exchange)?;
        let routing_key = short("the name of the queue", &message.queue)?;
        let channel = match session.idle_channel() {
            Some(channel) => channel,
            None => confirming_channel(session).await.map_err(lost("open a channel"))?,
        };
        let properties = message.properties.clone().with_delivery_mode(PERSISTENT);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = channel.basic_publish(exchange, routing_key, options, &message.body, properties).await.map_err(lost("publish"))?;
        match confirm.await.map_err(lost("confirm"))? {
            Confirmation::Ack(None) => {
                session.give_back(channel);
                Ok(Confirmed(()))
            }
            Confirmation::Ack(Some(returned)) => {
                session.give_back(channel);
                Err(NotPublished::Returned { reply: returned.reply_text.to_string() })
            }
            Confirmation::Nack(_) => {
                session.give_back(channel);
                Err(NotPublished::Refused)
            }
            Confirmation::NotRequested => Err(NotPublished::Unconfirmed),
        }
    }

    async fn declare_again(&self, message: &Outgoing) {
        let Some(declared) = &self.declared else { return };
        let mut last = declared.lock().await;
        if last.is_some_and(|at| at.elapsed() < DECLARED_ENOUGH) {
            return;
        }
        let session = self.link.session().await;
        if let Err(error) = self.link.ready(&session.connection).await {
            self.record_failure(message, &error.to_string());
        }
        *last = Some(Instant::now());
    }

    fn record_failure(&self, message: &Outgoing, error: &str) {
        self.telemetry.record(&Fact::PublishFailed { queue: &message.queue, error });
    }
}

async fn confirming_channel(session: &Session) -> lapin::Result<Channel> {
    let channel = session.connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Awaits a step; `None` when `limit` has passed, in which only the time counts during which `blocked` was false.
async fn while_unblocked<T>(step: impl Future<Output = T>, mut blocked: watch::Receiver<bool>, limit: Duration) -> Option<T> {
    tokio::pin!(step);
    let mut left = limit;
    loop {
        let waits = *blocked.borrow_and_update();
        let since = Instant::now();
        tokio::select! {
            biased;
            value = &mut step => return Some(value),
            Ok(()) = blocked.changed() => {}
            () = tokio::time::sleep(left), if !waits => return None,
        }
        if !waits {
            left = left.saturating_sub(since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn only_unblocked_time_counts_against_the_limit() {
        let (block, blocked) = watch::channel(true);
        let waiting = tokio::spawn(while_unblocked(std::future::pending::<()>(), blocked, LIMIT));
        tokio::time::sleep(LIMIT * 3).await;
        assert!(!waiting.is_finished());
        let unblocked = Instant::now();
        block.send_replace(false);
        assert!(waiting.await.unwrap().is_none());
        assert!(unblocked.elapsed() >= LIMIT);
    }

    #[tokio::test]
    async fn an_answer_during_a_block_is_an_answer() {
        let (_block, blocked) = watch::channel(true);
        let answer = while_unblocked(tokio::time::sleep(LIMIT * 2), blocked, LIMIT).await;
        assert!(answer.is_some());
    }
}
