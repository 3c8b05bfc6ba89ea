//! The channels of one session: the one that messages come in on, and those that were left because a message on them takes
//! long.
//!
//! Only a contiguous beginning can be acknowledged with one frame, and each acknowledgement of a single message costs the
//! broker more the more unsettled ones stand before it. So when a message at a slow endpoint holds up all that came after it,
//! the rest goes on, on another channel, and the slow one is settled on its own in its time.

use futures_util::future::join_all;
use lapin::options::{BasicGetOptions, BasicQosOptions};
use lapin::types::ShortString;
use lapin::{Channel, Connection};

use super::acks::{Acks, AcksOf};
use super::connection::{BrokerError, within};

/// Channels of one session at most.
const MOST: usize = 8;
/// Messages acknowledged singly between two looks that are worth another channel: to change takes a few round trips.
const SINGLES: u64 = 250;
/// No change sooner than so many looks after the one before.
const LOOKS: u32 = 4;

/// All channels of one session.
pub(super) struct Channels {
    of: AcksOf,
    current: Line,
    left: Vec<Line>,
    /// Of the current one, at the last look: what was contiguous, and how many messages were acknowledged singly.
    last: (u64, u64),
    /// Looks until the next change may be.
    rest: u32,
    /// The broker or the connection gives us no more of them.
    is_refused: bool,
}

/// A channel and what has become of its messages.
struct Line {
    channel: Channel,
    acks: Acks,
    received: u64,
}

impl Line {
    fn new(channel: Channel, of: AcksOf) -> Self {
        Self { acks: Acks::start(channel.clone(), of), channel, received: 0 }
    }

    /// Messages received and not settled.
    fn unsettled(&self) -> u64 {
        self.received.saturating_sub(self.acks.written())
    }

    /// Returns when the broker has taken in all acknowledgements. A quorum queue's channel keeps those back that come faster
    /// than the queue writes them, and forgets what it has kept back when it closes: of 3,000 messages settled right before
    /// the close, up to 416 came again in 11 of 20 runs, and after a plain round trip up to 223 in 4 of 20. Getting a message
    /// is the one question whose answer goes through the queue's own log, behind what the channel has sent; the round trip
    /// after it finds the rest sent too (0 in 40 runs). A message that is got goes back when the connection closes.
    async fn barrier(&self, queue: &ShortString, of: &AcksOf) -> Result<(), BrokerError> {
        within(of.limit, "get", self.channel.basic_get(queue.clone(), BasicGetOptions { no_ack: false })).await?;
        within(of.limit, "set the prefetch", self.channel.basic_qos(1, BasicQosOptions { global: false })).await
    }
}

impl Channels {
    /// Starts with one channel.
    pub(super) fn new(channel: Channel, of: AcksOf) -> Self {
        Self { current: Line::new(channel, of.clone()), of, left: Vec::new(), last: (0, 0), rest: 0, is_refused: false }
    }

    fn all(&self) -> impl Iterator<Item = &Line> {
        std::iter::once(&self.current).chain(&self.left)
    }

    /// Counts a message that came in on the current channel.
    pub(super) const fn received(&mut self) {
        self.current.received += 1;
    }

    /// The acknowledgements of the current channel.
    pub(super) const fn acks(&self) -> &Acks {
        &self.current.acks
    }

    /// Messages settled so far, as far as we could write.
    pub(super) fn written(&self) -> u64 {
        self.all().map(|line| line.acks.written()).sum()
    }

    /// Messages received and not settled.
    pub(super) fn unsettled(&self) -> u64 {
        self.all().map(Line::unsettled).sum()
    }

    /// Whether all channels are open.
    pub(super) fn are_open(&self) -> bool {
        self.all().all(|line| line.channel.status().connected())
    }

    /// To be asked at every look: whether messages on the current channel had to be acknowledged one by one since the last
    /// look, because one before them is not settled, and another channel can be had.
    pub(super) fn is_held_up(&mut self) -> bool {
        let now = self.current.acks.progress();
        let (before, singles) = std::mem::replace(&mut self.last, now);
        self.rest = self.rest.saturating_sub(1);
        let may_be_new = self.left.len() + 1 < MOST && !self.is_refused;
        now.0 == before && now.1.saturating_sub(singles) >= SINGLES && self.rest == 0 && (may_be_new || self.idle().is_some())
    }

    /// Makes another channel the current one, whose acknowledgements begin anew: one that was left and has nothing out any
    /// more, or a new one. `None` when there is none to be had, as `channel_max` or a limit of the user may have it: then it is not
    /// asked for again. To be called when no more messages come in on the current one.
    pub(super) async fn change(&mut self, connection: &Connection) -> Option<Channel> {
        self.rest = LOOKS;
        let next = match self.idle() {
            Some(index) => self.left.swap_remove(index),
            None => match within(self.of.limit, "open a channel", connection.create_channel()).await {
                Ok(channel) => Line::new(channel, self.of.clone()),
                Err(_) => {
                    self.is_refused = true;
                    return None;
                }
            },
        };
        self.last = next.acks.progress();
        let channel = next.channel.clone();
        self.left.push(std::mem::replace(&mut self.current, next));
        Some(channel)
    }

    fn idle(&self) -> Option<usize> {
        self.left.iter().position(|line| line.unsettled() == 0)
    }

    /// Returns when everything settled is written, or counted as stale.
    pub(super) async fn flush(&self) {
        join_all(self.all().map(|line| line.acks.flush())).await;
    }

    /// Returns when the broker has taken in all acknowledgements, or could not be asked.
    pub(super) async fn barrier(&self, queue: &ShortString) {
        join_all(self.all().map(|line| line.barrier(queue, &self.of))).await;
    }
}
