//! Something done with all letters that fit: counted, replayed or discarded, in as many passes as it takes.
//!
//! A message is copied and confirmed first and taken away after: cut off at any moment, it is in the one queue, the other or both, and
//! its event id is the same in both.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lapin::message::Delivery;

use super::filter::Filter;
use super::leash::Leash;
use super::letter::Letter;
use super::pass::{Broken, Grounds, Pass, Work, through};
use super::unreadable::Unreadable;
use crate::broker::{BrokerError, Confirmed, Letterhead, NotPublished, Outlet};
use crate::clock;
use crate::config::Config;

/// How long the queue is left to others between two passes.
const PAUSE: Duration = Duration::from_millis(500);

/// What is done.
pub(crate) enum Action {
    /// Nothing.
    Count,
    /// Back to where they are delivered from.
    Replay(Arc<Outlet>),
    /// Away for good.
    Discard,
}

/// What became of the letters that fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Messages that the latest pass has looked at.
    pub(crate) seen: usize,
    /// Those that fit, as far as they were looked at, and those that are done.
    pub(crate) fitting: usize,
    /// Replayed or discarded.
    pub(crate) done: usize,
    /// Stay where they are, though they should not.
    pub(crate) failed: usize,
}

/// Who sees how it goes on. Nothing here may wait.
pub(crate) trait Watch: Send + Sync {
    /// A pass over so many messages begins.
    fn begins(&self, _bound: u32) {}
    /// A message was looked at.
    fn looked(&self) {}
    /// A letter stays, and why.
    fn stays(&self, _letter: &Letter, _why: &str) {}
    /// So much has been done.
    fn counted(&self, _tally: Tally) {}
    /// A pass has come to its end.
    fn ends(&self) {}
}

/// Something done with all letters that fit.
pub(crate) struct Errand<'a> {
    config: &'a Config,
    filter: Filter,
    action: Action,
    leash: Leash,
    watch: &'a dyn Watch,
    tally: Tally,
    /// Letters that stayed in earlier passes, and how many of each are still to come in this one: they are not tried again.
    failed: HashMap<u64, usize>,
    still_failed: HashMap<u64, usize>,
    /// Those of this pass.
    fails: Vec<u64>,
    /// Some that fit were left for the next pass.
    has_more: bool,
    /// Messages that the pass before has returned.
    left: u32,
    /// Somebody else may have had letters in hand when the latest pass began.
    met_others: bool,
    /// A broker that is away is an error, and not a reason for a letter to stay.
    wants_broker: bool,
}

/// A letter that fits, in hand.
struct Chosen {
    letter: Letter,
    delivery: Delivery,
}

/// Does an errand to its end, or until it is stopped.
///
/// # Errors
/// [`Broken`]; everything that is not settled is then back in the queue, and the errand may be run again.
pub(crate) async fn run(errand: &mut Errand<'_>, queue: &str) -> Result<Option<Unreadable>, Broken> {
    loop {
        let gate = errand.leash.gate();
        let met = {
            let _way = match &gate {
                Some(gate) => Some(gate.enter().await),
                None => None,
            };
            errand.met_others = false;
            let done = through(&errand.config.broker, queue, errand).await;
            // Whatever was left is still to be done.
            errand.has_more |= done.is_err();
            done?
        };
        if !errand.has_more || errand.leash.is_stopped() {
            return Ok(met);
        }
        errand.leash.pause(PAUSE).await;
    }
}

impl<'a> Errand<'a> {
    /// Nothing is done yet. Of a filter with a limit, so many `done` were done before.
    pub(crate) fn new(config: &'a Config, filter: Filter, action: Action, leash: Leash, watch: &'a dyn Watch) -> Self {
        Self {
            config,
            filter,
            action,
            leash,
            watch,
            tally: Tally::default(),
            failed: HashMap::new(),
            still_failed: HashMap::new(),
            fails: Vec::new(),
            has_more: false,
            left: 0,
            met_others: false,
            wants_broker: false,
        }
    }

    /// The same, but a broker that is away ends it with an error, so that it can be run again later.
    pub(crate) const fn that_wants_its_broker(mut self, done: usize) -> Self {
        self.wants_broker = true;
        self.tally.done = done;
        self
    }

    /// What was done so far.
    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }

    /// Whether everything was looked at to the end of the queue, and nothing left for later.
    pub(crate) fn is_complete(&self, came_to: &Result<Option<Unreadable>, Broken>) -> bool {
        matches!(came_to, Ok(None)) && !self.has_more
    }

    /// Whether letters may not have been seen because somebody else had them in hand.
    pub(crate) const fn met_others(&self) -> bool {
        self.met_others
    }

    /// From now on with this action.
    pub(crate) fn through_another(&mut self, action: Action) {
        self.action = action;
    }

    fn begin(&mut self, bound: u32) {
        self.watch.begins(bound);
        self.leash.pass_begins();
        for key in self.fails.drain(..) {
            *self.failed.entry(key).or_default() += 1;
        }
        self.still_failed.clone_from(&self.failed);
        self.tally = Tally { seen: 0, fitting: self.tally.done + self.tally.failed, ..self.tally };
        self.has_more = false;
    }

    fn look(&mut self, position: u32, delivery: Delivery, chosen: &mut Vec<Chosen>) {
        self.watch.looked();
        self.tally.seen += 1;
        let letter = Letter::read(&delivery, position, self.config);
        if !self.filter.fits(&letter) {
            return;
        }
        if let Some(count) = self.still_failed.get_mut(&key(&letter)).filter(|count| **count > 0) {
            *count -= 1;
            return;
        }
        if !self.filter.admits_another_after(self.tally.fitting) {
            return;
        }
        self.tally.fitting += 1;
        match &self.action {
            Action::Count => {}
            Action::Replay(_) | Action::Discard if self.leash.is_enough() => self.has_more = true,
            Action::Replay(_) | Action::Discard => chosen.push(Chosen { letter, delivery }),
        }
    }

    async fn all_windows(&mut self, pass: &mut Pass) -> Result<(), Broken> {
        loop {
            let mut chosen = Vec::new();
            // All windows are taken even when it is enough, since only then all messages keep their order.
            if !pass.window(|position, delivery| self.look(position, delivery, &mut chosen)).await? {
                return Ok(());
            }
            self.act(chosen, pass).await?;
        }
    }

    async fn act(&mut self, chosen: Vec<Chosen>, pass: &mut Pass) -> Result<(), Broken> {
        self.watch.counted(self.tally);
        self.leash.work_begins();
        let done = match &self.action {
            Action::Count => Ok(()),
            Action::Replay(outlet) => self.replay(chosen, &Arc::clone(outlet), pass).await,
            Action::Discard => self.discard(chosen, pass).await,
        };
        self.leash.work_ends();
        done
    }

    /// Sends a window's letters, several at one time, and takes away each one whose copy is confirmed. Those that are in hand when it is
    /// enough are brought to their end.
    async fn replay(&mut self, chosen: Vec<Chosen>, outlet: &Outlet, pass: &mut Pass) -> Result<(), Broken> {
        let (config, most) = (self.config, self.config.broker.publish_channels.max(1));
        let mut copies = FuturesUnordered::new();
        let (mut chosen, mut admits_more) = (chosen.into_iter(), true);
        loop {
            tokio::select! {
                biased;
                Some((letter, tag, copied)) = copies.next() => self.judge(&letter, tag, copied, pass).await?,
                is_admitted = self.leash.admits(), if admits_more && copies.len() < most && chosen.len() > 0 => {
                    admits_more = is_admitted;
                    if let Some(next) = is_admitted.then(|| chosen.next()).flatten() {
                        copies.push(copy(next, config, outlet));
                    }
                }
                else => break,
            }
        }
        self.has_more |= chosen.len() > 0;
        Ok(())
    }

    async fn judge(&mut self, letter: &Letter, tag: u64, copied: Result<Confirmed, Uncopied>, pass: &mut Pass) -> Result<(), Broken> {
        match copied {
            Ok(safe) => {
                pass.settle(tag, Grounds::Copied(safe)).await?;
                self.tally.done += 1;
            }
            Err(Uncopied::Lost(error)) if self.wants_broker => return Err(error.into()),
            Err(why) => {
                self.tally.failed += 1;
                self.fails.push(key(letter));
                self.watch.stays(letter, &why.to_string());
            }
        }
        self.watch.counted(self.tally);
        Ok(())
    }

    /// Counts each as soon as it is gone, so that the count is right on every way out.
    async fn discard(&mut self, chosen: Vec<Chosen>, pass: &mut Pass) -> Result<(), Broken> {
        for Chosen { delivery, .. } in chosen {
            if !self.leash.admits().await {
                self.has_more = true;
                break;
            }
            pass.settle(delivery.delivery_tag, Grounds::Discarded).await?;
            self.tally.done += 1;
            self.watch.counted(self.tally);
        }
        Ok(())
    }
}

impl Work for Errand<'_> {
    async fn pass(&mut self, pass: &mut Pass) -> Result<(), Broken> {
        self.met_others |= pass.met_others();
        self.begin(pass.bound());
        let done = self.all_windows(pass).await;
        self.left = pass.unsettled();
        self.leash.pass_is_over();
        self.watch.counted(self.tally);
        self.watch.ends();
        done
    }

    /// What the pass before has left. The broker may not have it back yet, or another process may look at it at this moment.
    fn expected(&self) -> u32 {
        if self.has_more { self.left } else { 0 }
    }
}

/// What tells a letter from others from one pass to the next. Of two that are alike one is as good as the other.
fn key(letter: &Letter) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&letter.event, &letter.integrator, &letter.endpoint, &letter.topic, &letter.source, &letter.reason).hash(&mut hasher);
    (letter.dead_at, letter.replayed_at, letter.size).hash(&mut hasher);
    hasher.finish()
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
enum Uncopied {
    /// Another try would end in the same way.
    #[error("{0}")]
    Never(String),
    /// The broker is away.
    #[error("{0}")]
    Lost(BrokerError),
}

async fn copy(chosen: Chosen, config: &Config, outlet: &Outlet) -> (Letter, u64, Result<Confirmed, Uncopied>) {
    let Chosen { letter, delivery } = chosen;
    let copied = match letter.replay(&delivery, config, clock::now()) {
        Ok((queue, properties)) => {
            let head = Letterhead { exchange: &config.broker.names.publish, routing_key: &queue, properties };
            outlet.publish(head, &delivery.data).await.map_err(|error| uncopied(&queue, error))
        }
        Err(why) => Err(Uncopied::Never(why)),
    };
    (letter, delivery.delivery_tag, copied)
}

fn uncopied(queue: &str, error: NotPublished) -> Uncopied {
    let told = format!("{queue}: {error}");
    match error {
        NotPublished::Lost(error) if error.is_missing() || error.is_denied() => Uncopied::Never(told),
        NotPublished::Lost(BrokerError::LongName { .. }) => Uncopied::Never(told),
        NotPublished::Lost(_) | NotPublished::TimedOut(_) | NotPublished::NotConnected(_) => Uncopied::Lost(BrokerError::Topology(told)),
        _ => Uncopied::Never(told),
    }
}
