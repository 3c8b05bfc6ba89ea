//! One queue's messages on one channel: one consumer after the other, each with a prefetch of its own.
//!
//! The prefetch of a consumer cannot be changed, and a global one kills the connection of a quorum queue. So another prefetch
//! is another consumer on the same channel: what is out stays out, and nothing has to come again.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Fuse};
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::time::Instant;

use super::connection::{BrokerError, short, within};
use super::valve::Valve;

/// What closing is called in errors.
pub(super) const CANCEL: &str = "cancel the consumer";

/// Where messages come from. Dropping it ends the connection, if it has not been closed.
pub(super) struct Tap {
    channel: Channel,
    queue: String,
    /// On every answer of the broker.
    limit: Duration,
    consumer: Consumer,
    state: State,
    valve: Valve,
}

enum State {
    Open,
    /// The cancel is on its way: what the broker has sent before it hears of it still comes.
    Closing {
        answer: Fuse<BoxFuture<'static, lapin::Result<()>>>,
        /// When it was sent, or a message came after it.
        since: Instant,
    },
    Closed,
}

/// What comes out of a tap.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is used up at once")]
pub(super) enum Flow {
    /// A message.
    Message(Delivery),
    /// Nothing more, as was asked for.
    Dry,
    /// Nothing more, though nobody asked for that.
    Broken(BrokerError),
}

impl Tap {
    /// Starts to consume.
    pub(super) async fn open(channel: Channel, queue: &str, prefetch: u16, limit: Duration, valve: Valve) -> Result<Self, BrokerError> {
        let consumer = consume(&channel, queue, prefetch, limit).await?;
        Ok(Self { channel, queue: queue.to_owned(), limit, consumer, state: State::Open, valve })
    }

    pub(super) const fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Nothing more comes until it is opened again.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether the broker has neither answered a cancel in time nor sent what comes before the answer.
    pub(super) fn is_stuck(&self) -> bool {
        matches!(self.state, State::Closing { since, .. } if since.elapsed() > self.limit)
    }

    /// What comes next; never anything from a closed tap.
    pub(super) async fn next(&mut self) -> Flow {
        let Self { valve, consumer, state, .. } = self;
        std::future::poll_fn(|context| valve.poll_taking(context, |context| state.poll_next(consumer, context))).await
    }

    /// Closes and takes what still comes with `take`. Returns when nothing comes any more.
    pub(super) async fn run_dry(&mut self, mut take: impl FnMut(Delivery)) -> Result<(), BrokerError> {
        self.close();
        let limit = self.limit;
        while !self.is_closed() {
            match tokio::time::timeout(limit, self.next()).await {
                Ok(Flow::Message(delivery)) => take(delivery),
                Ok(Flow::Dry) => {}
                Ok(Flow::Broken(error)) => return Err(error),
                Err(_) => return Err(BrokerError::TimedOut { step: CANCEL, limit }),
            }
        }
        Ok(())
    }

    /// Opens the connection's valve for good: for answers that nobody takes from here.
    pub(super) fn let_through(&self) {
        self.valve.stay_open();
    }

    /// Another channel is consumed from then on. To be called when it is closed.
    pub(super) fn move_to(&mut self, channel: Channel) {
        self.channel = channel;
    }

    /// Consumes again. To be called when it is closed.
    pub(super) async fn open_again(&mut self, prefetch: u16) -> Result<(), BrokerError> {
        self.consumer = consume(&self.channel, &self.queue, prefetch, self.limit).await?;
        self.state = State::Open;
        Ok(())
    }

    /// Begins to close: what the broker has sent before it hears of that still comes. The cancel is among the channel's frames
    /// when this returns, ahead of whatever is written later, so that what is given back from now on does not come to the same
    /// consumer again.
    pub(super) fn close(&mut self) {
        if !self.is_open() {
            return;
        }
        let (channel, tag) = (self.channel.clone(), self.consumer.tag());
        let mut answer = async move { channel.basic_cancel(tag, BasicCancelOptions::default()).await }.boxed().fuse();
        // The first look writes the frame. An answer cannot be there yet; a failure is told by the stream too.
        let _ = (&mut answer).now_or_never();
        self.state = State::Closing { answer, since: Instant::now() };
    }
}

impl State {
    fn poll_next(&mut self, consumer: &mut Consumer, context: &mut Context<'_>) -> Poll<Flow> {
        match self {
            Self::Open => {}
            Self::Closed => return Poll::Pending,
            Self::Closing { answer, .. } => {
                if let Poll::Ready(Err(source)) = answer.poll_unpin(context) {
                    return Poll::Ready(Flow::Broken(BrokerError::Failed { step: CANCEL, source }));
                }
            }
        }
        Poll::Ready(match (std::task::ready!(consumer.poll_next_unpin(context)), &*self) {
            (Some(Ok(delivery)), _) => {
                if let Self::Closing { since, .. } = self {
                    *since = Instant::now();
                }
                Flow::Message(delivery)
            }
            (Some(Err(source)), _) => Flow::Broken(BrokerError::Failed { step: "consume", source }),
            (None, Self::Open) => Flow::Broken(BrokerError::ConsumerEnded),
            (None, _) => {
                *self = Self::Closed;
                Flow::Dry
            }
        })
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.valve.cut();
    }
}

async fn consume(channel: &Channel, queue: &str, prefetch: u16, limit: Duration) -> Result<Consumer, BrokerError> {
    let queue = short("the name of the queue", queue)?;
    within(limit, "set the prefetch", channel.basic_qos(prefetch, BasicQosOptions { global: false })).await?;
    let consume = channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default());
    within(limit, "consume", consume).await
}
