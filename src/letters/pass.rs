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
//!
//! A message that cannot be read cuts its pass off too, and hides what stands behind it. It is put behind everything then.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer, Queue};
use tokio::time::Instant;

use super::unreadable::{Unreadable, bring_forward, put_behind_returned, put_last};
use super::window::{FIRST_WINDOW, Window, next_window};
use crate::broker::Confirmed;
use crate::broker::connection::{short, within};
use crate::broker::{BrokerError, OwnedConnection, connect};
use crate::config::Broker;

/// After so long without a message we ask whether the queue has run empty: messages expire, and another operator may be at
/// work.
const QUIET: Duration = Duration::from_millis(500);
/// The longest wait for returned messages to be counted as ready again: it takes milliseconds, and never ends where they
/// expire or another consumer takes them.
const RETURNED: Duration = Duration::from_secs(1);
/// The longest wait for messages that somebody else holds: a look at many takes some seconds, and who has removed them never returns them.
const OTHERS: Duration = Duration::from_secs(30);
/// The least pause before they are counted again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Channels of one connection that hold windows: RabbitMQ's default `channel_max` is 2047 (its documentation, "channels").
const WINDOWS: usize = 2000;

/// Acknowledgements sent without a round trip: half of what a quorum queue's channel has on its way before it keeps some back
/// (RabbitMQ's `quorum_commands_soft_limit`, 32).
const BURST: u32 = 16;

/// The time for the queue to write a burst where [`Pass::flush`] cannot ask it: before a message that cannot be read.
const WRITTEN: Duration = Duration::from_millis(50);

/// A pass over one queue.
pub(crate) struct Pass {
    connection: OwnedConnection,
    queue: ShortString,
    limit: Duration,
    bound: u32,
    /// What was ready in the queue at the start.
    ready: u32,
    /// At the start, somebody else had messages of the queue in hand, or consumed it.
    met_others: bool,
    seen: u32,
    settled: u32,
    /// Messages of the next window.
    next: u16,
    /// Whether it takes all that is there.
    empties: bool,
    windows: Vec<Window>,
}

/// Why a message may leave its queue for good.
#[derive(Debug)]
pub(crate) enum Grounds {
    /// The broker has confirmed a copy of it in another queue.
    Copied(Confirmed),
    /// An operator wants it away.
    Discarded,
}

/// Why a pass could not go on. The broker has everything that was not settled.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// A step with the broker did not succeed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A message cannot be read, which has ended the connection.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// What is done with the messages of a queue.
pub(crate) trait Work: Send {
    /// Takes all windows of a pass. Called again for a new pass when a message was met that cannot be read; what is not settled comes
    /// again then.
    ///
    /// # Errors
    /// [`Broken`]; everything that is not settled is then back in the queue.
    fn pass(&mut self, pass: &mut Pass) -> impl Future<Output = Result<(), Broken>> + Send;

    /// Messages that must be in the queue. Where somebody else holds some of them, they are waited for, but not for ever.
    fn expected(&self) -> u32 {
        0
    }
}

/// Works through a queue. A message that cannot be read is put behind everything and returned; where there is another one, what
/// stands behind that is not looked at.
///
/// # Errors
/// [`Broken`]; everything that is not settled is then back in the queue.
pub(crate) async fn through(broker: &Broker, queue: &str, work: &mut impl Work) -> Result<Option<Unreadable>, Broken> {
    let mut pass = Pass::expecting(broker, queue, work.expected()).await?;
    let mut aside: Option<Unreadable> = None;
    loop {
        let met = match work.pass(&mut pass).await {
            Ok(()) => {
                let left = pass.left();
                pass.finish().await?;
                return match aside {
                    Some(aside) => Ok(Some(put_behind_returned(broker, aside, left).await?)),
                    None => Ok(None),
                };
            }
            Err(Broken::Unreadable(met)) => met,
            Err(broken) => return Err(broken),
        };
        drop(pass);
        let stands = match aside {
            None => put_last(broker, &met).await?,
            Some(_) => bring_forward(broker, &met).await?,
        };
        pass = Pass::before(broker, &stands).await?;
        aside = Some(stands);
    }
}

impl Pass {
    /// Starts a pass over what is in the queue now.
    ///
    /// # Errors
    /// [`Broken::Broker`] when the broker or the queue is not there.
    pub(crate) async fn start(broker: &Broker, queue: &str) -> Result<Self, Broken> {
        Self::expecting(broker, queue, 0).await
    }

    /// The same when so many messages are there, or were not for [`OTHERS`].
    async fn expecting(broker: &Broker, queue: &str, count: u32) -> Result<Self, Broken> {
        let mut pass = Self::open(broker, queue).await?;
        if count > 0 {
            pass.wait_until_ready(&pass.channel().await?, count, OTHERS).await?;
        }
        let consumers;
        (pass.ready, consumers) = pass.depth().await?;
        // A quorum queue counts a consumer that was cancelled for as long as it holds messages (RabbitMQ 3.10.8).
        pass.met_others = consumers > 0;
        pass.bound = pass.ready;
        Ok(pass)
    }

    /// Starts a pass over what stands before a message that cannot be read, when the broker has put back what the broken
    /// connection held.
    ///
    /// # Errors
    /// [`Broken::Broker`] when the broker or the queue is not there.
    pub(super) async fn before(broker: &Broker, unreadable: &Unreadable) -> Result<Self, Broken> {
        let mut pass = Self::open(broker, &unreadable.queue).await?;
        pass.wait_until_ready(&pass.channel().await?, unreadable.position + unreadable.behind, RETURNED).await?;
        pass.ready = pass.ready().await?;
        pass.bound = pass.ready.min(unreadable.position - 1);
        pass.empties = false;
        Ok(pass)
    }

    async fn open(broker: &Broker, queue: &str) -> Result<Self, Broken> {
        let connection = connect(broker, "dead").await?;
        let queue = short("the name of the queue", queue)?;
        let limit = broker.timeout;
        Ok(Self {
            connection,
            queue,
            limit,
            bound: 0,
            ready: 0,
            met_others: false,
            seen: 0,
            settled: 0,
            next: FIRST_WINDOW,
            empties: true,
            windows: Vec::new(),
        })
    }

    /// Messages that the pass will see, if nobody takes one meanwhile; at its end, those that it has seen.
    pub(crate) const fn bound(&self) -> u32 {
        self.bound
    }

    /// Takes the next window and shows each of its messages, with its place in the queue. `false` when the pass is over.
    ///
    /// # Errors
    /// [`Broken`]; everything that is not settled is then back in the queue.
    pub(crate) async fn window(&mut self, each: impl FnMut(u32, Delivery)) -> Result<bool, Broken> {
        self.take(self.next, each).await
    }

    /// Finds the first message that cannot be read. All are taken in one window, since only then all keep their places; none is
    /// kept in memory.
    ///
    /// # Errors
    /// [`Broken::Broker`] when it does not answer, or the queue has more messages than fit into one window.
    pub(crate) async fn scout(broker: &Broker, queue: &str) -> Result<Option<Unreadable>, Broken> {
        let mut pass = Self::start(broker, queue).await?;
        if pass.bound > u32::from(u16::MAX) {
            return Err(BrokerError::Topology(format!("{queue} has more than {} messages, too many to find one in", u16::MAX)).into());
        }
        match pass.take(u16::MAX, |_, _| {}).await {
            Ok(_) => pass.finish().await.map(|()| None),
            Err(Broken::Unreadable(unreadable)) => Ok(Some(unreadable)),
            Err(broken) => Err(broken),
        }
    }

    /// Takes all windows.
    ///
    /// # Errors
    /// [`Broken`]; everything is then back in the queue, though a message that cannot be read may stand in another place.
    pub(super) async fn hold(&mut self) -> Result<(), Broken> {
        while self.take(self.next, |_, _| {}).await? {}
        Ok(())
    }

    async fn take(&mut self, most: u16, mut each: impl FnMut(u32, Delivery)) -> Result<bool, Broken> {
        let left = self.bound - self.seen;
        if left == 0 {
            return Ok(false);
        }
        if self.windows.len() == WINDOWS {
            return Err(BrokerError::Topology(format!("more than {} messages cannot be looked at in one pass", self.seen)).into());
        }
        let size = u16::try_from(left).unwrap_or(most).min(most);
        let channel = self.channel().await?;
        let mut consumer = self.consume(&channel, size).await?;
        self.windows.push(Window { channel: channel.clone(), unsettled: 0, has_settled: false });
        let before = self.seen;
        let (mut taken, mut bytes) = (0, 0);
        while taken < size {
            match tokio::time::timeout(QUIET, consumer.next()).await {
                Ok(Some(Ok(delivery))) => {
                    taken += 1;
                    bytes += delivery.data.len();
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
        self.next = next_window(taken, bytes);
        Ok(true)
    }

    /// Settles a message of the latest window for good.
    ///
    /// # Errors
    /// [`Broken::Broker`]; the message is then still in the queue, or not: a copy of it may exist twice, never not at all.
    pub(crate) async fn settle(&mut self, tag: u64, grounds: Grounds) -> Result<(), Broken> {
        match grounds {
            Grounds::Copied(_) | Grounds::Discarded => {}
        }
        let Some(window) = self.windows.last_mut() else { return Ok(()) };
        within(self.limit, "acknowledge", window.channel.basic_ack(tag, BasicAckOptions::default())).await?;
        window.unsettled -= 1;
        window.has_settled = true;
        self.settled += 1;
        if self.settled.is_multiple_of(BURST) {
            let channel = window.channel.clone();
            self.count(&channel).await?;
            if !self.empties {
                tokio::time::sleep(WRITTEN).await;
            }
        }
        Ok(())
    }

    /// Returns what is not settled, in order, and closes.
    ///
    /// # Errors
    /// [`Broken::Broker`] when the broker does not answer; everything not settled then goes back with the connection.
    pub(crate) async fn finish(mut self) -> Result<(), Broken> {
        if self.settled > 0 {
            self.flush().await?;
        }
        let counter = self.channel().await?;
        let mut back = self.ready.saturating_sub(self.seen);
        for window in std::mem::take(&mut self.windows) {
            within(self.limit, "return the messages", window.channel.close(200, ShortString::from("done"))).await?;
            back += window.unsettled;
            self.wait_until_ready(&counter, back, RETURNED).await?;
        }
        let _ = tokio::time::timeout(self.limit, self.connection.close(200, "done".into())).await;
        Ok(())
    }

    /// Goes on for `more` messages.
    pub(super) const fn extend(&mut self, more: u32) {
        self.bound += more;
    }

    /// Ends after `count` messages instead.
    pub(super) const fn shorten(&mut self, count: u32) {
        self.bound = count;
    }

    /// Returns what is held, but the first `count` messages, which end with a window, behind the others.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub(super) async fn finish_behind(mut self, count: u32) -> Result<(), Broken> {
        let mut sum = 0;
        let first = self.windows.iter().take_while(|window| {
            sum += window.unsettled;
            sum <= count
        });
        let first = first.count();
        self.windows.rotate_left(first);
        self.finish().await
    }

    /// Messages that it has seen and will return.
    pub(crate) const fn left(&self) -> u32 {
        self.seen - self.settled
    }

    /// Messages of the queue that it has not settled, seen or not.
    pub(super) const fn unsettled(&self) -> u32 {
        self.bound.saturating_sub(self.settled)
    }

    /// Whether somebody else may have had messages of the queue in hand, which are not seen then.
    pub(super) const fn met_others(&self) -> bool {
        self.met_others
    }

    /// Messages that it has seen.
    pub(crate) const fn seen(&self) -> u32 {
        self.seen
    }

    /// The messages that are ready in the queue.
    async fn ready(&self) -> Result<u32, Broken> {
        Ok(self.depth().await?.0)
    }

    /// The same, and those who consume the queue.
    async fn depth(&self) -> Result<(u32, u32), Broken> {
        // A channel of its own: a queue that is gone closes it.
        let channel = self.channel().await?;
        let queue = self.declared(&channel).await?;
        within(self.limit, "close a channel", channel.close(200, ShortString::from("done"))).await?;
        Ok((queue.message_count(), queue.consumer_count()))
    }

    async fn channel(&self) -> Result<Channel, Broken> {
        Ok(within(self.limit, "open a channel", self.connection.create_channel()).await?)
    }

    async fn count(&self, channel: &Channel) -> Result<u32, Broken> {
        Ok(self.declared(channel).await?.message_count())
    }

    async fn declared(&self, channel: &Channel) -> Result<Queue, Broken> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(self.queue.clone(), options, FieldTable::default());
        Ok(within(self.limit, "count the messages", declared).await?)
    }

    /// The broker answers that a channel is closed before its messages are back in the queue. The next channel's must not
    /// overtake them, and whoever comes after us must find them all.
    async fn wait_until_ready(&self, counter: &Channel, back: u32, limit: Duration) -> Result<(), Broken> {
        let start = Instant::now();
        while self.count(counter).await? < back && start.elapsed() < limit {
            // The longer it takes, the less often it is asked.
            tokio::time::sleep(LOOK_AGAIN.max(start.elapsed() / 16)).await;
        }
        Ok(())
    }

    /// Returns when the broker has taken in all acknowledgements: a quorum queue's channel keeps those back that come faster than
    /// the queue writes them, and forgets them when it closes. The answer to a get comes through the queue's log, behind what was
    /// sent; the round trip after it finds the rest sent too. The queue is empty in general, since all is in our hands, and what
    /// has come meanwhile goes back. Where a message stands that cannot be read, a get would end the connection: there, time has to do.
    async fn flush(&self) -> Result<(), Broken> {
        for window in self.windows.iter().filter(|window| window.has_settled) {
            if self.empties {
                let got = window.channel.basic_get(self.queue.clone(), BasicGetOptions::default());
                within(self.limit, "get a message", got).await?;
            }
            self.count(&window.channel).await?;
            if !self.empties {
                tokio::time::sleep(WRITTEN).await;
            }
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
        let behind = self.ready.saturating_sub(self.seen + 1);
        Broken::Unreadable(Unreadable { queue: self.queue.to_string(), position: self.seen - self.settled + 1, behind })
    }
}
