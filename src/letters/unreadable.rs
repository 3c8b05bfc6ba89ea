//! Messages that are legal AMQP and that the client library cannot read: each that comes ends the connection.
//!
//! One can be moved and removed all the same, since that takes only the broker: what a connection held that ends goes back
//! behind what was returned earlier, and what is taken without acknowledgement is gone.

use std::future::ready;
use std::pin::pin;

use futures_util::StreamExt as _;
use lapin::Event;
use lapin::message::Delivery;
use lapin::options::BasicGetOptions;

use super::pass::{Broken, Pass};
use crate::broker::connection::{short, within};
use crate::broker::{BrokerError, connect};
use crate::config::Broker;

/// How many messages in a row that cannot be read are put back in search of one that can.
const ROUNDS: usize = 16;

/// A message that the client library cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a message of {queue} cannot be read: a property text or a header name in it is not UTF-8. Nothing is lost. It stands last now, as \
     message {position}{}. `dead discard --unreadable` takes it out; to see it first, use the broker's management page (Queues, {queue}, \
     Get messages)",
    unseen(*.behind)
)]
pub struct Unreadable {
    /// The queue.
    pub queue: String,
    /// Its place, from 1.
    pub position: u32,
    /// How many messages stand behind it; of one that was put last, how many did and have not been looked at.
    pub behind: u32,
}

fn unseen(count: u32) -> String {
    if count == 0 { String::new() } else { format!("; {count} that stood behind it were not looked at, run the command again for them") }
}

impl Unreadable {
    const fn total(&self) -> u32 {
        self.position + self.behind
    }
}

/// Puts the first message that cannot be read behind all others, after a pass has met it; `behind` of the answer is 0. The
/// others keep their order, unless a pass of several windows was cut off or there is another such message.
///
/// # Errors
/// [`Broken::Broker`]; nothing is lost.
pub(crate) async fn put_last(broker: &Broker, met: &Unreadable) -> Result<Unreadable, Broken> {
    let stands = find_again(broker, met).await?;
    let mut before = Pass::before(broker, &stands).await?;
    before.hold().await?;
    // Returned, they stand behind it; and then it is returned behind them.
    before.finish().await?;
    let last = Unreadable { position: stands.total(), behind: 0, queue: stands.queue.clone() };
    first_to_the_end(broker, &last).await?;
    if stands.position == 1 || stands.behind == 0 {
        return Ok(last);
    }
    let mut others = Pass::before(broker, &last).await?;
    others.shorten(stands.behind);
    let held = match others.hold().await {
        Ok(()) => {
            others.extend(stands.position - 1);
            others.hold().await
        }
        another => another,
    };
    match held {
        Ok(()) => {
            others.finish_behind(stands.behind).await?;
            first_to_the_end(broker, &last).await?;
        }
        Err(Broken::Unreadable(_)) => {}
        Err(broken) => return Err(broken),
    }
    Ok(last)
}

/// Where the first message that cannot be read stands, after a pass has met it.
///
/// # Errors
/// [`Broken::Broker`] when the broker does not answer, or somebody has taken the message away.
pub(super) async fn find_again(broker: &Broker, met: &Unreadable) -> Result<Unreadable, Broken> {
    // The broker has to be done with the connection that broke.
    drop(Pass::before(broker, met).await?);
    let found = Pass::scout(broker, &met.queue).await?;
    found.ok_or_else(|| Broken::Broker(BrokerError::Topology(format!("{} has changed meanwhile, try again", met.queue))))
}

/// After a pass has met one more: puts those back that stand first, so that what can be read before the next one comes forward.
///
/// # Errors
/// As [`find_again`].
pub(super) async fn bring_forward(broker: &Broker, met: &Unreadable) -> Result<Unreadable, Broken> {
    let mut stands = find_again(broker, met).await?;
    for _ in 0..ROUNDS {
        if stands.position > 1 {
            break;
        }
        first_to_the_end(broker, &stands).await?;
        stands = find_again(broker, &stands).await?;
    }
    Ok(stands)
}

/// Puts it behind the `left` messages that stood before it and have been returned.
///
/// # Errors
/// [`Broken::Broker`]; nothing is lost.
pub(super) async fn put_behind_returned(broker: &Broker, stands: Unreadable, left: u32) -> Result<Unreadable, Broken> {
    let stands = Unreadable { position: left + 1, ..stands };
    first_to_the_end(broker, &stands).await?;
    Ok(Unreadable { position: stands.total(), ..stands })
}

/// Removes it for good. What stands before it is in our hands meanwhile. When somebody else works with the queue at the same
/// time, another message can be removed instead, which is then returned.
///
/// # Errors
/// [`Broken`] when it is not where it was.
pub(crate) async fn take_out(broker: &Broker, unreadable: &Unreadable) -> Result<Option<Delivery>, Broken> {
    let queue = &unreadable.queue;
    let moved = || Broken::Broker(BrokerError::Topology(format!("{queue} has changed meanwhile; nothing was taken out")));
    let mut before = Pass::before(broker, unreadable).await?;
    before.hold().await?;
    if before.seen() + 1 != unreadable.position {
        return Err(moved());
    }
    let taken = match head(broker, queue, BasicGetOptions { no_ack: true }).await? {
        Head::Unreadable => None,
        Head::Readable(delivery) => Some(*delivery),
        Head::Empty => return Err(moved()),
    };
    // Those behind it are taken too, so that all go back in their order. Another one that cannot be read ends this.
    before.extend(unreadable.behind);
    match before.hold().await {
        Ok(()) => before.finish().await?,
        Err(Broken::Unreadable(_)) => {}
        Err(broken) => return Err(broken),
    }
    Ok(taken)
}

/// Takes the first message and returns it behind the others, and waits until the broker has it back.
async fn first_to_the_end(broker: &Broker, queue_with: &Unreadable) -> Result<(), Broken> {
    head(broker, &queue_with.queue, BasicGetOptions::default()).await?;
    drop(Pass::before(broker, queue_with).await?);
    Ok(())
}

/// The first message of a queue.
enum Head {
    Empty,
    Readable(Box<Delivery>),
    Unreadable,
}

async fn head(broker: &Broker, queue: &str, options: BasicGetOptions) -> Result<Head, BrokerError> {
    let connection = connect(broker, "dead head").await?;
    let mut broken = pin!(connection.events_listener().filter_map(|event| {
        ready(match event {
            Event::Error(source) => Some(BrokerError::Failed { step: "get a message", source }),
            _ => None,
        })
    }));
    let channel = within(broker.timeout, "open a channel", connection.create_channel()).await?;
    // Its own answer never comes when the connection breaks over it.
    let got = tokio::select! {
        got = within(broker.timeout, "get a message", channel.basic_get(short("the name of the queue", queue)?, options)) => got,
        Some(error) = broken.next() => Err(error),
    };
    if got.is_ok() {
        let _ = tokio::time::timeout(broker.timeout, connection.close(200, "done".into())).await;
    }
    match got {
        Ok(Some(message)) => Ok(Head::Readable(Box::new(message.delivery))),
        Ok(None) => Ok(Head::Empty),
        Err(error) if error.is_poison() => Ok(Head::Unreadable),
        Err(error) => Err(error),
    }
}
