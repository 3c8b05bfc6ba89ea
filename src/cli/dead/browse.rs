//! One pass over a queue: every message is seen once, and what is not settled is back in its place afterwards.
//!
//! Quorum queues put returned messages behind those returned earlier. So a pass takes *all* messages before it returns
//! any, and it takes them through consumers: a channel that closes returns what its consumer got in the order of the queue.
//! Negative acknowledgements were seen to return more than 32 messages in no order, and a close those of `basic.get` in the
//! alphabetical order of their tags (RabbitMQ 3.10.8 and 4.0.5).
//!
//! A consumer takes one window and is cancelled, which leaves its messages in our hands; the next window is taken by
//! another, on a channel of its own. At the end the channels are closed one after another. A pass that is cut off (a crash, a
//! lost connection) loses nothing, but may leave the windows in another order.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};
use tokio::time::Instant;

use crate::broker::{BrokerError, connect};
use crate::cli::CliError;
use crate::config::{Broker, Config};

/// Messages of one window: the most that is in memory at one time. Passes over 20,000 messages took 2.9 to 4.3 s with
/// windows of 200, 500, 2,000 and 5,000 (debug build, busy machine), not clearly less with larger ones, which need more memory.
const WINDOW: u16 = 500;
/// After so long without a message we ask whether the queue has run empty: messages expire, and another operator may be at
/// work.
const QUIET: Duration = Duration::from_millis(500);
/// The longest wait for returned messages to be counted as ready again: it takes milliseconds, and never ends where they
/// expire or another consumer takes them.
const RETURNED: Duration = Duration::from_secs(1);
/// The pause before they are counted again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Channels of one connection that hold windows: RabbitMQ's default `channel_max` is 2047 (its documentation, "channels").
const WINDOWS: usize = 2000;

/// A pass over one queue.
pub(super) struct Pass {
    connection: Connection,
    queue: ShortString,
    limit: Duration,
    bound: u32,
    /// What was ready in the queue at the start.
    ready: u32,
    seen: u32,
    settled: u32,
    windows: Vec<Window>,
}

/// Messages in our hands, on a channel of their own.
struct Window {
    channel: Channel,
    unsettled: u32,
}

/// Why a pass could not go on. The broker has everything that was not settled.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// A step with the broker did not succeed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A message cannot be read, which has ended the connection.
    #[error(
        "message {position} of {queue} cannot be read: one of its property texts or header names is not UTF-8. Nothing is lost. \
         Take it out with another client, such as the broker's management page (Queues, {queue}, Get messages)"
    )]
    Poison {
        /// The queue.
        queue: String,
        /// Its place, from 1.
        position: u32,
        /// How many messages before it are unsettled.
        before: u32,
    },
}

impl From<Broken> for CliError {
    fn from(broken: Broken) -> Self {
        Self::Failed(broken.to_string())
    }
}

impl Pass {
    /// Starts a pass over what is in the queue now, or over no more than `most` of it.
    ///
    /// # Errors
    /// [`Broken::Broker`] when the broker or the queue is not there.
    pub(super) async fn start(config: &Config, queue: &str, most: Option<u32>) -> Result<Self, Broken> {
        let Broker { timeout: limit, .. } = config.broker;
        let connection = connect(&config.broker, "dead").await?;
        let queue = ShortString::try_new(queue).map_err(|_| BrokerError::LongName { what: "the name of the queue" })?;
        let mut pass = Self { connection, queue, limit, bound: 0, ready: 0, seen: 0, settled: 0, windows: Vec::new() };
        pass.ready = pass.ready().await?;
        pass.bound = pass.ready.min(most.unwrap_or(u32::MAX));
        Ok(pass)
    }

    /// Messages that the pass will see, if nobody takes one meanwhile.
    pub(super) const fn bound(&self) -> u32 {
        self.bound
    }

    /// Takes the next window and shows each of its messages, with its place in the queue. `false` when the pass is over.
    ///
    /// # Errors
    /// [`Broken`]; everything that is not settled is then back in the queue.
    pub(super) async fn window(&mut self, mut each: impl FnMut(u32, Delivery)) -> Result<bool, Broken> {
        let left = self.bound - self.seen;
        if left == 0 {
            return Ok(false);
        }
        if self.windows.len() == WINDOWS {
            return Err(BrokerError::Topology(format!("more than {} messages cannot be looked at in one pass", self.seen)).into());
        }
        let size = u16::try_from(left).unwrap_or(WINDOW).min(WINDOW);
        let channel = within(self.limit, "open a channel", self.connection.create_channel()).await?;
        let mut consumer = self.consume(&channel, size).await?;
        self.windows.push(Window { channel: channel.clone(), unsettled: 0 });
        let before = self.seen;
        let mut taken = 0;
        while taken < size {
            match tokio::time::timeout(QUIET, consumer.next()).await {
                Ok(Some(Ok(delivery))) => {
                    taken += 1;
                    self.seen += 1;
                    each(self.seen, delivery);
                }
                Ok(Some(Err(error))) => return Err(self.broken("look at the queue", error)),
                Ok(None) => return Err(BrokerError::ConsumerEnded.into()),
                Err(_) if self.ready().await? == 0 => break,
                Err(_) => {}
            }
        }
        self.cancel(&channel, consumer, &mut each).await?;
        if let Some(window) = self.windows.last_mut() {
            window.unsettled = self.seen - before;
        }
        if taken < size {
            self.bound = self.seen;
        }
        Ok(true)
    }

    /// Settles a message of the latest window for good.
    ///
    /// # Errors
    /// [`Broken::Broker`]; the message is then still in the queue, or not: a copy of it may exist twice, never not at all.
    pub(super) async fn settle(&mut self, tag: u64) -> Result<(), Broken> {
        let Some(window) = self.windows.last_mut() else { return Ok(()) };
        within(self.limit, "acknowledge", window.channel.basic_ack(tag, BasicAckOptions::default())).await?;
        window.unsettled -= 1;
        self.settled += 1;
        Ok(())
    }

    /// Returns what is not settled, in order, and closes.
    ///
    /// # Errors
    /// [`Broken::Broker`] when the broker does not answer; everything not settled then goes back with the connection.
    pub(super) async fn finish(mut self) -> Result<(), Broken> {
        if self.settled > 0 {
            self.flush().await?;
        }
        let counter = within(self.limit, "open a channel", self.connection.create_channel()).await?;
        let mut back = self.ready.saturating_sub(self.seen);
        for window in std::mem::take(&mut self.windows) {
            within(self.limit, "return the messages", window.channel.close(200, ShortString::from("done"))).await?;
            back += window.unsettled;
            self.wait_until_ready(&counter, back).await?;
        }
        let _ = tokio::time::timeout(self.limit, self.connection.close(200, "done".into())).await;
        Ok(())
    }

    /// The messages that are ready in the queue.
    async fn ready(&self) -> Result<u32, Broken> {
        // A channel of its own: a queue that is gone closes it.
        let channel = within(self.limit, "open a channel", self.connection.create_channel()).await?;
        let count = self.count(&channel).await?;
        within(self.limit, "close a channel", channel.close(200, ShortString::from("done"))).await?;
        Ok(count)
    }

    async fn count(&self, channel: &Channel) -> Result<u32, Broken> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(self.queue.clone(), options, FieldTable::default());
        Ok(within(self.limit, "count the messages", declared).await?.message_count())
    }

    /// The broker answers that a channel is closed before its messages are back in the queue. The next channel's must not
    /// overtake them, and whoever comes after us must find them all.
    async fn wait_until_ready(&self, counter: &Channel, back: u32) -> Result<(), Broken> {
        let end = Instant::now() + RETURNED;
        while self.count(counter).await? < back && Instant::now() < end {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// A close right after acknowledgements was seen to overtake some of them inside the broker. A question to the queue on the
    /// same channel stands behind them.
    async fn flush(&self) -> Result<(), Broken> {
        for window in &self.windows {
            self.count(&window.channel).await?;
        }
        Ok(())
    }

    async fn consume(&self, channel: &Channel, size: u16) -> Result<Consumer, Broken> {
        within(self.limit, "set the window", channel.basic_qos(size, BasicQosOptions::default())).await?;
        let tag = ShortString::from("window");
        let consume = channel.basic_consume(self.queue.clone(), tag, BasicConsumeOptions::default(), FieldTable::default());
        Ok(within(self.limit, "look at the queue", consume).await?)
    }

    /// After this the consumer gets nothing more, whatever is settled; what came in between is shown too.
    async fn cancel(&mut self, channel: &Channel, mut consumer: Consumer, each: &mut impl FnMut(u32, Delivery)) -> Result<(), Broken> {
        within(self.limit, "end the window", channel.basic_cancel(consumer.tag(), BasicCancelOptions::default())).await?;
        while let Ok(Some(late)) = tokio::time::timeout(self.limit, consumer.next()).await {
            self.seen += 1;
            each(self.seen, late.map_err(|error| self.broken("end the window", error))?);
        }
        Ok(())
    }

    fn broken(&self, step: &'static str, source: lapin::Error) -> Broken {
        let error = BrokerError::Failed { step, source };
        if !error.is_poison() {
            return Broken::Broker(error);
        }
        Broken::Poison { queue: self.queue.to_string(), position: self.seen + 1, before: self.seen - self.settled }
    }
}

async fn within<T>(limit: Duration, step: &'static str, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, BrokerError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(BrokerError::Failed { step, source }),
        Err(_) => Err(BrokerError::TimedOut { step, limit }),
    }
}
