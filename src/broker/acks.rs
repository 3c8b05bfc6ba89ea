//! Acknowledgements in bursts: what is settled within a few milliseconds goes out together.
//!
//! One `multiple` for the contiguous beginning and a single acknowledgement for each of the others take a third off the
//! broker's work. Never the contiguous beginning alone: one hung request would hold back all that came after it until the
//! prefetch window is full. What is not contiguous waits for one more burst before it is acknowledged by itself: requests that
//! are made side by side end in almost any order, and most of the gaps between them are closed by then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{join, join_all};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicRejectOptions};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::telemetry::{Fact, Telemetry};

/// The longest that a settled message waits for its burst; twice as long, if one before it is not settled yet. Measured: at
/// this bound a worker at full load loses no throughput.
const COLLECT: Duration = Duration::from_millis(5);

/// What is to happen to a message.
#[derive(Debug)]
pub enum Settlement {
    /// The broker forgets it.
    Ack(u64),
    /// The broker moves it to the rejected.
    Reject(u64),
    /// It goes back to its queue, untouched. The broker counts that against the queue's delivery limit.
    GiveBack(u64),
    /// No message: answered when everything before it is written or counted as stale.
    Flush(oneshot::Sender<()>),
}

/// The acknowledgements of one channel. Ends when the session and the channel's last claim are gone.
#[derive(Debug)]
pub(super) struct Acks {
    settlements: UnboundedSender<Settlement>,
    progress: Arc<Progress>,
}

/// How far the acknowledgements are.
#[derive(Debug, Default)]
struct Progress {
    /// Messages settled, as far as we could write.
    written: AtomicU64,
    /// The tag up to which all messages are settled.
    contiguous: AtomicU64,
    /// Messages acknowledged one by one.
    singles: AtomicU64,
}

/// What all acknowledgements of one session need.
#[derive(Clone)]
pub(super) struct AcksOf {
    /// Its queue, for facts.
    pub(super) queue: String,
    /// Limit on writing one burst.
    pub(super) limit: Duration,
    /// Ends with the session: nothing can be written any more.
    pub(super) over: CancellationToken,
    /// Cancelled here when a burst cannot be written, which ends the session.
    pub(super) fault: CancellationToken,
    /// Where stale acknowledgements are told.
    pub(super) telemetry: Telemetry,
}

impl Acks {
    /// Starts the task that writes.
    pub(super) fn start(channel: Channel, of: AcksOf) -> Self {
        // Unbounded, and yet bounded: a message is settled once, and the broker hands out no more than the prefetch window on a channel.
        let (settlements, receiver) = mpsc::unbounded_channel();
        let progress = Arc::<Progress>::default();
        tokio::spawn(Writer { channel, of, ledger: Ledger::default(), progress: Arc::clone(&progress) }.run(receiver));
        Self { settlements, progress }
    }

    /// Where claims send what became of their message.
    pub(super) fn sender(&self) -> UnboundedSender<Settlement> {
        self.settlements.clone()
    }

    /// Messages settled so far, as far as we could write.
    pub(super) fn written(&self) -> u64 {
        self.progress.written.load(Ordering::Relaxed)
    }

    /// The tag up to which all messages are settled, and how many messages were acknowledged one by one so far.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.progress.contiguous.load(Ordering::Relaxed), self.progress.singles.load(Ordering::Relaxed))
    }

    /// Gives a message back to its queue. To be called only when the consumer's cancel is on its way: a consumer that still
    /// takes messages would get this one again at once, and again, until the queue's delivery limit is reached.
    pub(super) fn give_back(&self, tag: u64) {
        // The writer lives as long as this does.
        let _ = self.settlements.send(Settlement::GiveBack(tag));
    }

    /// Returns when everything settled before is written, or counted as stale.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.settlements.send(Settlement::Flush(done)).is_ok() {
            let _ = flushed.await;
        }
    }
}

struct Writer {
    channel: Channel,
    of: AcksOf,
    ledger: Ledger,
    progress: Arc<Progress>,
}

impl Writer {
    async fn run(mut self, mut receiver: UnboundedReceiver<Settlement>) {
        loop {
            let mut batch = Batch::default();
            if self.ledger.late.is_empty() {
                let Some(first) = receiver.recv().await else { return };
                batch.add(first);
            }
            if batch.flush.is_none() {
                // Nobody is woken for what comes meanwhile.
                sleep(COLLECT).await;
            }
            while batch.flush.is_none()
                && let Ok(settlement) = receiver.try_recv()
            {
                batch.add(settlement);
            }
            self.write(batch).await;
        }
    }

    async fn write(&mut self, batch: Batch) {
        let Batch { acks, rejects, returns, flush } = batch;
        let over = self.of.over.is_cancelled();
        let patience = if over || flush.is_some() { Patience::None } else { Patience::OneBurst };
        let burst = self.ledger.plan(acks, rejects, returns, patience);
        let stale = if over { burst.messages() } else { self.send(&burst).await };
        self.progress.written.fetch_add(burst.messages() - stale, Ordering::Relaxed);
        self.progress.singles.fetch_add(burst.singles.len() as u64, Ordering::Relaxed);
        self.progress.contiguous.store(self.ledger.contiguous(), Ordering::Relaxed);
        if stale > 0 {
            self.of.telemetry.record(&Fact::StaleAcks { queue: &self.of.queue, count: stale });
        }
        if let Some(done) = flush {
            let _ = done.send(());
        }
    }

    /// Writes a burst, all of it before any of it is awaited, and returns how many messages of it could not be written.
    async fn send(&self, burst: &Burst) -> u64 {
        let channel = &self.channel;
        let multiple = burst.multiple.iter().map(|(tag, covers)| (*tag, true, *covers));
        let acks = multiple.chain(burst.singles.iter().map(|tag| (*tag, false, 1))).map(|(tag, multiple, covers)| async move {
            channel.basic_ack(tag, BasicAckOptions { multiple }).await.map_or(covers, |()| 0)
        });
        let rejects = burst.rejects.iter().map(|tag| (*tag, false)).chain(burst.returns.iter().map(|tag| (*tag, true)));
        let rejects =
            rejects.map(|(tag, requeue)| async move { channel.basic_reject(tag, BasicRejectOptions { requeue }).await.map_or(1, |()| 0) });
        match timeout(self.of.limit, join(join_all(acks), join_all(rejects))).await {
            Ok((acks, rejects)) => acks.into_iter().chain(rejects).sum(),
            Err(_) => {
                self.of.fault.cancel();
                burst.messages()
            }
        }
    }
}

/// What was settled within one burst's time.
#[derive(Debug, Default)]
struct Batch {
    acks: Vec<u64>,
    rejects: Vec<u64>,
    returns: Vec<u64>,
    flush: Option<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, settlement: Settlement) {
        match settlement {
            Settlement::Ack(tag) => self.acks.push(tag),
            Settlement::Reject(tag) => self.rejects.push(tag),
            Settlement::GiveBack(tag) => self.returns.push(tag),
            Settlement::Flush(done) => self.flush = Some(done),
        }
    }
}

/// What goes out in one burst.
#[derive(Debug, Default, PartialEq, Eq)]
struct Burst {
    /// A tag that is acknowledged with all unsettled ones before it, and how many that are.
    multiple: Option<(u64, u64)>,
    /// Tags that are acknowledged one by one.
    singles: Vec<u64>,
    /// Tags that are rejected.
    rejects: Vec<u64>,
    /// Tags that go back to the queue.
    returns: Vec<u64>,
}

impl Burst {
    fn messages(&self) -> u64 {
        self.multiple.map_or(0, |(_, covers)| covers) + (self.singles.len() + self.rejects.len() + self.returns.len()) as u64
    }
}

/// How long what is not contiguous is kept back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// It is told at once.
    None,
    /// It is told with the burst after the one that it was settled for.
    OneBurst,
}

/// What the broker has been told and what it has yet to be told.
#[derive(Debug, Default)]
struct Ledger {
    /// Which delivery tags of a session are settled, as disjoint intervals that do not touch (first to last). Tags are counted
    /// from 1, so there are never more intervals than unsettled messages plus one.
    settled: BTreeMap<u64, u64>,
    /// To be acknowledged, and kept back once.
    late: Vec<u64>,
}

impl Ledger {
    /// Decides how the broker is told of newly settled tags and of those that were kept back, and takes as told what is in the
    /// burst.
    ///
    /// The tag of `multiple` has not been told before, since the broker refuses one that it knows as settled. What is rejected
    /// or given back in the same burst is never below it: the order of frames within a burst is not ours, and a message that
    /// is acknowledged before its reject comes would be lost.
    fn plan(&mut self, acks: Vec<u64>, rejects: Vec<u64>, returns: Vec<u64>, patience: Patience) -> Burst {
        for tag in &acks {
            self.insert(*tag);
        }
        let contiguous = self.contiguous();
        for tag in rejects.iter().chain(&returns) {
            self.insert(*tag);
        }
        let is_contiguous = |tag: &u64| *tag <= contiguous;
        let (covered, mut singles): (Vec<u64>, Vec<u64>) = std::mem::take(&mut self.late).into_iter().partition(is_contiguous);
        let (newly_covered, apart): (Vec<u64>, Vec<u64>) = acks.into_iter().partition(is_contiguous);
        match patience {
            Patience::None => singles.extend(apart),
            Patience::OneBurst => self.late = apart,
        }
        let covers = (covered.len() + newly_covered.len()) as u64;
        Burst { multiple: covered.into_iter().chain(newly_covered).max().map(|tag| (tag, covers)), singles, rejects, returns }
    }

    /// The tag up to which all messages are settled.
    fn contiguous(&self) -> u64 {
        self.settled.first_key_value().filter(|(first, _)| **first == 1).map_or(0, |(_, last)| *last)
    }

    fn insert(&mut self, tag: u64) {
        let before = self.settled.range(..tag).next_back().map(|(first, last)| (*first, *last)).filter(|(_, last)| last + 1 == tag);
        let last = self.settled.remove(&(tag + 1)).unwrap_or(tag);
        self.settled.insert(before.map_or(tag, |(first, _)| first), last);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What the broker does with a burst, or why it would close the channel.
    #[derive(Debug)]
    struct BrokerSide {
        unsettled: BTreeSet<u64>,
        acknowledged: BTreeSet<u64>,
        returned: BTreeSet<u64>,
    }

    impl BrokerSide {
        fn take(&mut self, burst: &Burst, rejects_first: bool) {
            if rejects_first {
                self.reject(burst);
            }
            if let Some((tag, covers)) = burst.multiple {
                assert!(self.unsettled.contains(&tag), "the broker knows no unsettled {tag}");
                let all: Vec<u64> = self.unsettled.range(..=tag).copied().collect();
                assert_eq!(all.len() as u64, covers);
                for tag in all {
                    self.ack(tag);
                }
            }
            for tag in &burst.singles {
                self.ack(*tag);
            }
            if !rejects_first {
                self.reject(burst);
            }
        }

        fn ack(&mut self, tag: u64) {
            assert!(self.unsettled.remove(&tag), "{tag} is settled twice");
            self.acknowledged.insert(tag);
        }

        fn reject(&mut self, burst: &Burst) {
            for tag in burst.rejects.iter().chain(&burst.returns) {
                assert!(self.unsettled.remove(tag), "{tag} is settled twice");
            }
            self.returned.extend(&burst.returns);
        }
    }

    proptest! {
        #[test]
        fn acknowledges_every_settled_message_once_and_no_other(
            order in Just((1_u64..=200).collect::<Vec<_>>()).prop_shuffle(),
            sizes in prop::collection::vec(1_usize..20, 1..40),
            rejected in prop::collection::btree_set(1_u64..=200, 0..30),
            given_back in prop::collection::btree_set(1_u64..=200, 0..60),
            flushes in prop::collection::vec(any::<bool>(), 40),
            rejects_first: bool,
        ) {
            let rejected: BTreeSet<u64> = rejected.difference(&given_back).copied().collect();
            let unwanted: BTreeSet<u64> = rejected.union(&given_back).copied().collect();
            let mut broker = BrokerSide { unsettled: (1..=200).collect(), acknowledged: BTreeSet::new(), returned: BTreeSet::new() };
            let mut ledger = Ledger::default();
            let (mut settled, mut rest) = (BTreeSet::new(), order.as_slice());
            for (size, flush) in sizes.into_iter().zip(flushes) {
                let before = settled.clone();
                let (now, later) = rest.split_at(size.min(rest.len()));
                rest = later;
                settled.extend(now.iter().copied());
                let (unwanted_now, acks): (Vec<u64>, Vec<u64>) = now.iter().partition(|tag| unwanted.contains(tag));
                let (returns, rejects) = unwanted_now.into_iter().partition(|tag| given_back.contains(tag));
                let burst = ledger.plan(acks, rejects, returns, if flush { Patience::None } else { Patience::OneBurst });
                let unsettled = broker.unsettled.len();
                broker.take(&burst, rejects_first);
                prop_assert_eq!(burst.messages(), (unsettled - broker.unsettled.len()) as u64);
                let to_be_told = |settled: &BTreeSet<u64>| settled.difference(&unwanted).copied().collect::<BTreeSet<_>>();
                prop_assert!(broker.acknowledged.is_subset(&to_be_told(&settled)));
                prop_assert!(broker.acknowledged.is_superset(&to_be_told(if flush { &settled } else { &before })), "kept back longer than a burst");
                prop_assert_eq!(&broker.returned, &settled.intersection(&given_back).copied().collect::<BTreeSet<_>>());
                prop_assert!(ledger.settled.len() <= broker.unsettled.len() + 1);
            }
        }
    }

    #[test]
    fn a_hung_message_holds_back_no_other_for_longer_than_a_burst() {
        let mut ledger = Ledger::default();
        let burst = ledger.plan(vec![3, 2, 5], vec![], vec![], Patience::OneBurst);
        assert_eq!(burst, Burst::default());
        let burst = ledger.plan(vec![], vec![], vec![], Patience::OneBurst);
        assert_eq!(burst, Burst { multiple: None, singles: vec![3, 2, 5], ..Burst::default() });
        let burst = ledger.plan(vec![1], vec![4], vec![], Patience::OneBurst);
        assert_eq!(burst, Burst { multiple: Some((1, 1)), rejects: vec![4], ..Burst::default() });
        let burst = ledger.plan(vec![7, 6, 9], vec![], vec![8], Patience::None);
        assert_eq!(burst, Burst { multiple: Some((7, 2)), singles: vec![9], returns: vec![8], ..Burst::default() });
    }

    #[test]
    fn what_becomes_contiguous_in_the_next_burst_needs_no_acknowledgement_of_its_own() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.plan(vec![4, 1, 3], vec![], vec![], Patience::OneBurst), Burst { multiple: Some((1, 1)), ..Burst::default() });
        assert_eq!(ledger.plan(vec![2, 6], vec![], vec![], Patience::OneBurst), Burst { multiple: Some((4, 3)), ..Burst::default() });
        assert_eq!(ledger.plan(vec![5], vec![], vec![], Patience::OneBurst), Burst { multiple: Some((6, 2)), ..Burst::default() });
    }
}
