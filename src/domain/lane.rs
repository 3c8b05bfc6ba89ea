//! The order of work at one endpoint: so many at a time, the others in line.

use std::collections::VecDeque;
use std::num::NonZeroU16;

/// Who is being served at an endpoint and who waits. Order of arrival.
#[derive(Debug)]
pub struct Lane<T> {
    waiting: VecDeque<T>,
    in_flight: u16,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), in_flight: 0 }
    }
}

impl<T> Lane<T> {
    /// Puts work at the end of the line.
    pub fn push(&mut self, work: T) {
        self.waiting.push_back(work);
    }

    /// Takes the work whose turn it is, if fewer than `max_in_flight` are being served. Each piece that is taken must be
    /// given back by [`Self::finish`].
    pub fn start(&mut self, max_in_flight: NonZeroU16) -> Option<T> {
        if self.in_flight >= max_in_flight.get() {
            return None;
        }
        let work = self.waiting.pop_front()?;
        self.in_flight += 1;
        Some(work)
    }

    /// The work whose turn is next.
    #[must_use]
    pub fn peek(&self) -> Option<&T> {
        self.waiting.front()
    }

    /// Takes out of the line what `keep` refuses; says how many that were.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(keep);
        before - self.waiting.len()
    }

    /// Takes work from the head of the line as long as `leaves` says so.
    pub fn take_while(&mut self, mut leaves: impl FnMut(&T) -> bool) -> Vec<T> {
        let count = self.waiting.iter().take_while(|work| leaves(work)).count();
        self.waiting.drain(..count).collect()
    }

    /// One piece of work is done.
    pub fn finish(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Takes everything that waits; what is being served goes on.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.waiting.drain(..)
    }

    /// Whether nobody waits and nobody is being served: the lane can go.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.waiting.is_empty()
    }

    /// How many are being served.
    #[must_use]
    pub const fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serves_in_order_of_arrival_and_never_more_than_the_limit() {
        let two = NonZeroU16::new(2).unwrap();
        let mut lane = Lane::default();
        (1..=4).for_each(|n| lane.push(n));
        assert_eq!((lane.start(two), lane.start(two), lane.start(two)), (Some(1), Some(2), None));
        lane.finish();
        assert_eq!((lane.start(two), lane.start(two)), (Some(3), None));
        assert_eq!((lane.in_flight(), lane.waiting()), (2, 1));
        assert_eq!(lane.drain().collect::<Vec<_>>(), [4]);
        lane.finish();
        assert!(!lane.is_idle());
        lane.finish();
        assert!(lane.is_idle());
    }
}
