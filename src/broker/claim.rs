//! The right to settle a message, and what it takes to use it.

use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::acks::Settlement;
use super::verdict::Confirmed;
use crate::domain::reply::Reply;

/// The right to settle one message, once: it cannot be copied, and settling uses it up.
///
/// A claim that is dropped unsettled leaves the message with the broker, which delivers it again when the session ends.
#[derive(Debug)]
#[must_use = "a message whose claim is dropped comes again"]
pub struct Claim {
    tag: u64,
    settlements: UnboundedSender<Settlement>,
    over: CancellationToken,
}

impl Claim {
    pub(super) const fn new(tag: u64, settlements: UnboundedSender<Settlement>, over: CancellationToken) -> Self {
        Self { tag, settlements, over }
    }

    /// Acknowledges the message: the broker forgets it. Goes out with the next burst of acknowledgements, a few milliseconds
    /// later. Where the session has ended meanwhile, it is counted as stale and the message comes again.
    #[expect(clippy::needless_pass_by_value, reason = "a proof is used up, so that it cannot settle two messages")]
    pub fn settle(self, proof: Proof) {
        match proof {
            Proof::Delivered(_) | Proof::Copied(_) | Proof::Skipped => self.send(Settlement::Ack),
        }
    }

    /// Hands the message back for good: the broker itself moves it to the rejected, without our headers. The way out for
    /// what cannot be copied.
    pub fn reject(self) {
        self.send(Settlement::Reject);
    }

    /// Whether settling can still reach the broker.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.over.is_cancelled()
    }

    /// Ends with the session that this claim belongs to: from then on the broker delivers the message again.
    #[must_use]
    pub fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    fn send(&self, settlement: fn(u64) -> Settlement) {
        // The other end lives as long as any claim does; it is gone only when the whole runtime is.
        let _ = self.settlements.send(settlement(self.tag));
    }
}

/// Why a message may be forgotten by the broker.
#[derive(Debug)]
pub enum Proof {
    /// The endpoint has it.
    Delivered(Delivered),
    /// The broker has confirmed a copy of it in another queue.
    Copied(Confirmed),
    /// Nobody wants it.
    Skipped,
}

/// Proof that an endpoint took a delivery.
#[derive(Debug)]
pub struct Delivered(());

impl Delivered {
    /// Only a complete answer of 200 to 299 is one.
    #[must_use]
    #[allow(dead_code, reason = "made by egress alone")]
    pub(crate) fn from_reply(reply: &Reply) -> Option<Self> {
        reply.is_success().then_some(Self(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::reply::{Failure, Outcome};

    #[test]
    fn only_a_2xx_is_a_delivery() {
        for status in 100..=999 {
            let reply = Reply { outcome: Outcome::Answered { status, retry_after: None }, took: Duration::ZERO };
            assert_eq!(Delivered::from_reply(&reply).is_some(), (200..300).contains(&status), "{status}");
        }
        let timeout = Reply { outcome: Outcome::Failed(Failure::Timeout), took: Duration::ZERO };
        assert!(Delivered::from_reply(&timeout).is_none());
    }
}
