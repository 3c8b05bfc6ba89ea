//! What waits to go out beside the deliveries: bounded, and never waited for by who puts it there.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What has a place in a backlog.
pub(crate) trait Weighed {
    /// Bytes that it takes in memory, about; the same each time that it is asked.
    fn weight(&self) -> usize;
}

/// What was taken to go out. Boxed, as the list that holds items grows in the middle of deliveries: pointers are moved then, not items of
/// hundreds of bytes.
pub(crate) type Taken<T> = Vec<Box<T>>;

/// Items that wait to go out, oldest first. What finds no room is left out and counted.
pub(crate) struct Backlog<T> {
    waiting: Mutex<Waiting<T>>,
    /// Told when the first item comes after none were there.
    arrived: Notify,
    /// Bytes that items may take, those that are just going out included.
    limit: usize,
}

struct Waiting<T> {
    items: VecDeque<Box<T>>,
    /// Items that are not out yet, those that were taken included, and their bytes.
    held: usize,
    bytes: usize,
    /// Left out since there was last enough room again.
    dropped: u64,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), held: 0, bytes: 0, dropped: 0 }
    }
}

/// What became of an item.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits, and with it so many in all.
    Waits(usize),
    /// There was no room: it is gone. Whether it is the first one.
    LeftOut {
        /// The first since there was last enough room.
        is_first: bool,
    },
}

/// How things stand after items went out or were given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Released {
    /// Items that still wait.
    pub(crate) held: usize,
    /// How many were left out, where that is over: told once, when half of the room is free again, or each item that makes room for
    /// the next one would be an episode of its own.
    pub(crate) dropped: u64,
}

impl<T: Weighed> Backlog<T> {
    /// An empty one for so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), limit }
    }

    /// Adds an item, where there is room.
    pub(crate) fn push(&self, item: T) -> Pushed {
        let weight = item.weight();
        let mut waiting = self.lock();
        if waiting.bytes + weight > self.limit {
            waiting.dropped += 1;
            return Pushed::LeftOut { is_first: waiting.dropped == 1 };
        }
        waiting.bytes += weight;
        waiting.held += 1;
        waiting.items.push_back(Box::new(item));
        let (count, held) = (waiting.items.len(), waiting.held);
        drop(waiting);
        // Who takes them looks by itself as long as there are some: a thread woken for each item would cost more than the item.
        if count == 1 {
            self.arrived.notify_one();
        }
        Pushed::Waits(held)
    }

    /// Waits until there is something to take. Nothing is lost when it is not waited for to the end.
    pub(crate) async fn arrived(&self) {
        while self.lock().items.is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Takes the oldest items, so many at most. Their bytes count until [`Self::release`].
    pub(crate) fn take(&self, most: usize) -> Taken<T> {
        let mut waiting = self.lock();
        let count = most.min(waiting.items.len());
        waiting.items.drain(..count).collect()
    }

    /// Puts back what was taken and did not go out.
    pub(crate) fn put_back(&self, items: Taken<T>) {
        let mut waiting = self.lock();
        items.into_iter().rev().for_each(|item| waiting.items.push_front(item));
        drop(waiting);
        self.arrived.notify_one();
    }

    /// These items are done with.
    pub(crate) fn release(&self, items: &[Box<T>]) -> Released {
        let bytes: usize = items.iter().map(|item| item.weight()).sum();
        let mut waiting = self.lock();
        waiting.held = waiting.held.saturating_sub(items.len());
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        let has_room = waiting.bytes <= self.limit / 2;
        Released { held: waiting.held, dropped: if has_room { mem::take(&mut waiting.dropped) } else { 0 } }
    }

    /// Gives up everything, what was taken included: how many items that were, and how many had been left out before.
    pub(crate) fn give_up(&self) -> (u64, u64) {
        let Waiting { held, dropped, .. } = mem::take(&mut *self.lock());
        (held as u64, dropped)
    }

    /// Whether everything is out.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().held == 0
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weighed for usize {
        fn weight(&self) -> usize {
            *self
        }
    }

    #[test]
    fn what_finds_no_room_is_left_out_and_told_once_until_half_is_free() {
        let backlog = Backlog::new(100);
        assert_eq!([backlog.push(40), backlog.push(60)], [Pushed::Waits(1), Pushed::Waits(2)]);
        assert_eq!(backlog.push(1), Pushed::LeftOut { is_first: true });
        assert_eq!(backlog.push(1), Pushed::LeftOut { is_first: false });
        let first = backlog.take(1);
        assert_eq!(backlog.push(1), Pushed::LeftOut { is_first: false }, "what is taken still takes its room");
        assert_eq!(backlog.release(&first), Released { held: 1, dropped: 0 });
        assert_eq!(backlog.push(30), Pushed::Waits(2));
        let second = backlog.take(1);
        assert_eq!(backlog.release(&second), Released { held: 1, dropped: 3 });
        assert!(!backlog.is_empty());
        assert_eq!((backlog.give_up(), backlog.is_empty()), ((1, 0), true));
    }

    #[tokio::test]
    async fn what_is_put_back_is_the_oldest_again() {
        let backlog = Backlog::new(100);
        assert_eq!([1, 2, 3].map(|item| backlog.push(item)), [1, 2, 3].map(Pushed::Waits));
        let taken = backlog.take(2);
        backlog.put_back(taken);
        backlog.arrived().await;
        assert_eq!(backlog.take(9).into_iter().map(|item| *item).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
