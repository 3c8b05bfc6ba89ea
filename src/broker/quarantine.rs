//! How fast a queue is read: at full prefetch, or one by one while a message in it breaks the connection.
//!
//! A message with a short string that is no UTF-8 is legal AMQP, and yet the client library cannot read it: the connection
//! dies, and everything that was sent beside it returns to the queue with one more return on its count. Read one by one, only
//! the poison itself is returned, until the queue's delivery limit makes the broker move it to the rejected.

use std::time::Duration;

/// So many messages must have been settled one by one, and more if more stood before the poison.
const CLEAN: u64 = 20;
/// A queue that gives nothing for so long, with nothing unsettled, holds no poison.
const QUIET: Duration = Duration::from_secs(1);

/// How fast a queue is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As configured.
    Full,
    /// With a prefetch of one, until so many messages are settled in one session.
    OneByOne {
        /// How many.
        needed: u64,
    },
}

impl Pace {
    /// The prefetch at this pace.
    pub(super) const fn prefetch(self, configured: u16) -> u16 {
        match self {
            Self::Full => configured,
            Self::OneByOne { .. } => 1,
        }
    }

    /// The pace after a poison came with `unsettled` readable messages before it. These come again before the poison does,
    /// since the broker gives out returned messages first and in order: reading at full pace any sooner would cost them, and
    /// what follows them, one more return.
    pub(super) fn after_poison(unsettled: u64) -> Self {
        Self::OneByOne { needed: unsettled.saturating_add(1).max(CLEAN) }
    }

    /// Whether the danger is over, after `settled` messages of this session, with `unsettled` ones still out and the last one
    /// received `idle` ago.
    pub(super) fn is_over(self, settled: u64, unsettled: u64, idle: Duration) -> bool {
        match self {
            Self::Full => false,
            Self::OneByOne { needed } => settled >= needed || (unsettled == 0 && idle >= QUIET),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_pace_returns_when_all_that_stood_before_the_poison_is_settled() {
        let pace = Pace::after_poison(500);
        assert_eq!(pace.prefetch(1000), 1);
        assert!(!pace.is_over(500, 1, QUIET));
        assert!(pace.is_over(501, 1, Duration::ZERO));
        assert!(!Pace::after_poison(0).is_over(19, 1, Duration::ZERO));
        assert!(Pace::after_poison(0).is_over(20, 1, Duration::ZERO));
    }

    #[test]
    fn full_pace_returns_when_the_queue_is_empty_but_not_while_a_message_is_out() {
        let pace = Pace::after_poison(0);
        assert!(pace.is_over(0, 0, QUIET));
        assert!(!pace.is_over(0, 1, QUIET));
        assert!(!pace.is_over(0, 0, QUIET / 2));
        assert!(!Pace::Full.is_over(1000, 0, QUIET));
    }
}
