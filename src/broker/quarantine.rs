//! How fast a queue is read: at full prefetch, or one by one while a message in it breaks the connection.
//!
//! A message with a short string that is no UTF-8 is legal AMQP, and yet the client library cannot read it: the connection
//! dies, and everything that was sent beside it returns to the queue with one more return on its count. Read one by one, only
//! the poison itself is returned, until the queue's delivery limit makes the broker move it to the rejected.
//!
//! What it costs: until a prefetch window's worth of messages is settled, the queue is served strictly one at a time, each
//! message for as long as its whole attempt takes. With a prefetch of 1000 and endpoints that answer in 100 ms that is well
//! over a minute and a half, and one endpoint that runs into its timeout of 15 s holds up all others meanwhile. The source's
//! other queue and all other sources go on as ever. A smaller prefetch makes it shorter.

use std::time::Duration;

/// So many messages must have been settled one by one since the last poison.
const CLEAN: u64 = 20;
/// A queue that gives nothing for so long, with nothing unsettled, holds no poison.
const QUIET: Duration = Duration::from_secs(1);

/// How fast a queue is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As configured.
    Full,
    /// With a prefetch of one.
    OneByOne {
        /// Messages that are still to be settled of those that were sent beside the poison.
        window: u64,
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

    /// The pace after a session that ended on a poison, with `settled` messages settled before.
    ///
    /// A quorum queue puts what is returned behind what was returned before, and gives out all of that before anything new.
    /// So the poison comes once more only when the whole window that was sent beside it is settled, and reading at full pace
    /// any sooner would cost that window another return. After it, the poison comes again and again until it is gone.
    pub(super) fn after_poison(self, settled: u64, configured: u16) -> Self {
        match self {
            Self::Full => Self::OneByOne { window: configured.into() },
            Self::OneByOne { window } => Self::OneByOne { window: window.saturating_sub(settled) },
        }
    }

    /// Whether the danger is over, after `settled` messages of this session, with `unsettled` ones still out and the last one
    /// received `idle` ago.
    pub(super) fn is_over(self, settled: u64, unsettled: u64, idle: Duration) -> bool {
        match self {
            Self::Full => false,
            Self::OneByOne { window } => settled >= window.max(CLEAN) || (unsettled == 0 && idle >= QUIET),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_pace_returns_when_the_window_of_the_poison_is_settled() {
        let pace = Pace::Full.after_poison(700, 1000);
        assert_eq!((pace, pace.prefetch(1000)), (Pace::OneByOne { window: 1000 }, 1));
        assert!(!pace.is_over(999, 1, QUIET));
        assert!(pace.is_over(1000, 1, Duration::ZERO));
        let pace = pace.after_poison(600, 1000);
        assert!(!pace.is_over(399, 1, QUIET));
        assert!(pace.is_over(400, 1, Duration::ZERO));
    }

    #[test]
    fn full_pace_returns_only_after_some_clean_messages() {
        let pace = Pace::Full.after_poison(0, 5).after_poison(5, 5);
        assert!(!pace.is_over(19, 1, Duration::ZERO));
        assert!(pace.is_over(20, 1, Duration::ZERO));
    }

    #[test]
    fn full_pace_returns_when_the_queue_is_empty_but_not_while_a_message_is_out() {
        let pace = Pace::Full.after_poison(0, 1000);
        assert!(pace.is_over(0, 0, QUIET));
        assert!(!pace.is_over(0, 1, QUIET));
        assert!(!pace.is_over(0, 0, QUIET / 2));
        assert!(!Pace::Full.is_over(1000, 0, QUIET));
    }
}
