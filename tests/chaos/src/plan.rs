//! The plan: what is broken, in which order and for how long. The same seed makes the same plan.

use std::fmt;
use std::time::Duration;

use crate::event::Character;

/// Worker processes.
pub const WORKERS: usize = 2;

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a worker, which is started again.
    KillWorker(usize),
    /// SIGTERM of a worker, which is started again.
    StopWorker(usize),
    /// The broker is stopped in order and started.
    StopBroker,
    /// The broker is killed and started.
    KillBroker,
    /// The worker's connections to the broker are reset.
    CutLink(usize),
    /// What the broker sends to a worker is held back, then comes.
    DelayLink(usize),
    /// Nothing passes between a worker and the broker, silently, until the worker has given up these connections.
    HalfOpenLink(usize),
    /// Wait queues are deleted while they are empty.
    DeleteWaitQueues,
    /// The dead or the rejected queue is deleted, after what was in it has been noted.
    DeleteKeptQueue(Kept),
    /// The work queue is deleted while it is empty.
    DeleteWorkQueue,
    /// The exchange through which workers publish is deleted.
    DeleteExchange,
    /// The broker says that it has no memory left.
    MemoryAlarm,
    /// The broker says that its disk is full.
    DiskAlarm,
    /// The connections of an endpoint are reset.
    CutReceiver(Character),
    /// An endpoint's answers are held back, then come.
    DelayReceiver(Character),
    /// An endpoint's connections are silent for longer than an attempt may take, then reset.
    HalfOpenReceiver(Character),
    /// An endpoint's new connections are reset, and the old ones too.
    RefuseReceiver(Character),
    /// A new version of the integrators with another signing key.
    ReloadGood,
    /// A version of the integrators that must be refused.
    ReloadBad,
    /// A worker's clock is an hour fast or slow, then right again.
    StepClock(usize, Step),
}

/// Which way a clock is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Fast.
    Ahead,
    /// Slow.
    Back,
}

/// A queue that keeps messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Of dead letters.
    Dead,
    /// Of rejected events.
    Rejected,
}

/// Number of kinds.
const KINDS: usize = 20;

impl Fault {
    fn of_kind(kind: usize, dice: &mut fastrand::Rng) -> Self {
        let worker = dice.usize(..WORKERS);
        let character = Character::ALL[dice.usize(..Character::ALL.len())];
        let kept = if dice.bool() { Kept::Dead } else { Kept::Rejected };
        let step = if dice.bool() { Step::Ahead } else { Step::Back };
        [
            Self::KillWorker(worker),
            Self::StopWorker(worker),
            Self::StopBroker,
            Self::KillBroker,
            Self::CutLink(worker),
            Self::DelayLink(worker),
            Self::HalfOpenLink(worker),
            Self::DeleteWaitQueues,
            Self::DeleteKeptQueue(kept),
            Self::DeleteWorkQueue,
            Self::DeleteExchange,
            Self::MemoryAlarm,
            Self::DiskAlarm,
            Self::CutReceiver(character),
            Self::DelayReceiver(character),
            Self::HalfOpenReceiver(character),
            Self::RefuseReceiver(character),
            Self::ReloadGood,
            Self::ReloadBad,
            Self::StepClock(worker, step),
        ][kind % KINDS]
    }

    /// The kind, without its target.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::KillWorker(_) => "SIGKILL of a worker",
            Self::StopWorker(_) => "SIGTERM of a worker",
            Self::StopBroker => "broker stopped and started",
            Self::KillBroker => "broker killed and started",
            Self::CutLink(_) => "worker's broker connections reset",
            Self::DelayLink(_) => "broker's answers delayed",
            Self::HalfOpenLink(_) => "worker's broker connections half-open",
            Self::DeleteWaitQueues => "wait queues deleted",
            Self::DeleteKeptQueue(_) => "dead or rejected queue deleted",
            Self::DeleteWorkQueue => "work queue deleted",
            Self::DeleteExchange => "exchange deleted",
            Self::MemoryAlarm => "memory alarm",
            Self::DiskAlarm => "disk alarm",
            Self::CutReceiver(_) => "endpoint's connections reset",
            Self::DelayReceiver(_) => "endpoint's answers delayed",
            Self::HalfOpenReceiver(_) => "endpoint's connections half-open",
            Self::RefuseReceiver(_) => "endpoint refuses connections",
            Self::ReloadGood => "good reload",
            Self::ReloadBad => "bad reload",
            Self::StepClock(..) => "worker's clock an hour off",
        }
    }

    /// How many workers it strikes.
    #[must_use]
    pub const fn workers(self) -> u32 {
        match self {
            Self::KillWorker(_) | Self::StopWorker(_) | Self::CutLink(_) | Self::DelayLink(_) | Self::HalfOpenLink(_) => 1,
            Self::StopBroker
            | Self::KillBroker
            | Self::DeleteWaitQueues
            | Self::DeleteKeptQueue(_)
            | Self::DeleteWorkQueue
            | Self::DeleteExchange
            | Self::MemoryAlarm
            | Self::DiskAlarm => 2,
            Self::CutReceiver(_) | Self::DelayReceiver(_) | Self::HalfOpenReceiver(_) | Self::RefuseReceiver(_) => 2,
            Self::ReloadGood | Self::ReloadBad | Self::StepClock(..) => 0,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::KillWorker(worker) | Self::StopWorker(worker) => write!(f, " ({worker})"),
            Self::CutLink(worker) | Self::DelayLink(worker) | Self::HalfOpenLink(worker) => write!(f, " ({worker})"),
            Self::CutReceiver(character)
            | Self::DelayReceiver(character)
            | Self::HalfOpenReceiver(character)
            | Self::RefuseReceiver(character) => write!(f, " ({})", character.key()),
            Self::DeleteKeptQueue(kept) => write!(f, " ({kept:?})"),
            Self::StepClock(worker, step) => write!(f, " ({worker}, {step:?})"),
            _ => Ok(()),
        }
    }
}

/// A fault and how long it lasts, where that can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub fault: Fault,
    /// How long.
    pub lasts: Duration,
}

/// So many faults. Every kind comes up once before any comes up again.
#[must_use]
pub fn plan(seed: u64, faults: usize) -> Vec<Planned> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut planned = Vec::with_capacity(faults);
    while planned.len() < faults {
        let mut kinds: Vec<usize> = (0..KINDS).collect();
        dice.shuffle(&mut kinds);
        for kind in kinds {
            let fault = Fault::of_kind(kind, &mut dice);
            planned.push(Planned { fault, lasts: Duration::from_millis(dice.u64(300..2000)) });
        }
    }
    planned.truncate(faults);
    planned
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_plan_and_another_seed_another() {
        assert_eq!(plan(7, 200), plan(7, 200));
        assert_ne!(plan(7, 200), plan(8, 200));
        assert_eq!(plan(7, 10), plan(7, 200)[..10]);
    }

    #[test]
    fn every_kind_comes_up_before_any_comes_up_again() {
        let kinds: BTreeSet<&str> = plan(1, KINDS).iter().map(|planned| planned.fault.kind()).collect();
        assert_eq!(kinds.len(), KINDS);
    }
}
