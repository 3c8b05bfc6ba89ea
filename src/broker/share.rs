//! What one queue's messages weigh in our memory, and how much they may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use lapin::BasicProperties;

use super::headers;
use crate::telemetry::Telemetry;

/// What a message takes beyond body and headers: its properties as a structure, its place in a lane, its task. An estimate
/// on the safe side.
const BESIDES: usize = 1024;
/// Headers in memory against the same on the wire: each one is an entry of a tree with texts of its own. An estimate on the
/// safe side.
const HEADERS: usize = 4;

/// One queue's part of `worker.max_bytes_in_flight`, and what it holds of that. It outlives the sessions: what one session
/// leaves in hand narrows the next.
#[derive(Debug)]
pub(super) struct Share {
    limit: usize,
    held: AtomicUsize,
    /// Messages that were handed over and are not dropped.
    in_hand: AtomicUsize,
    /// Who waits for room.
    waiting: AtomicWaker,
    telemetry: Telemetry,
}

impl Share {
    pub(super) fn new(limit: usize, telemetry: Telemetry) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicUsize::new(0), in_hand: AtomicUsize::new(0), waiting: AtomicWaker::new(), telemetry })
    }

    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes held now.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether so many bytes more fit.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        self.held().saturating_add(bytes) <= self.limit
    }

    /// Returns when a message that is held already can be handed over: when there is room for what it will need then, or
    /// nothing else of its queue is in hand, so that one beyond all limits passes alone.
    pub(super) async fn room_for(&self, weight: &Weight) {
        self.wait_until(|| self.has_room_for(weight.body) || self.in_hand.load(Ordering::Relaxed) == 0).await;
    }

    /// Returns when no more than half of the share is held: a new window, which fits in the other half, can be opened.
    pub(super) async fn half_free(&self) {
        self.wait_until(|| self.held() <= self.limit / 2).await;
    }

    async fn wait_until(&self, holds: impl Fn() -> bool) {
        std::future::poll_fn(|context| {
            if holds() {
                return Poll::Ready(());
            }
            self.waiting.register(context.waker());
            // It may have come about meanwhile.
            if holds() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.telemetry.held_bytes_add(bytes);
    }
}

/// What one message weighs, from its receipt until nothing of it is left in our memory: until this is dropped.
#[derive(Debug)]
pub struct Weight {
    share: Arc<Share>,
    /// Counted so far.
    bytes: usize,
    /// Of the body alone.
    body: usize,
    in_hand: bool,
}

impl Weight {
    /// Counts a message that was received: so many bytes in all ([`weigh`]), and so many of its body.
    pub(super) fn new(share: &Arc<Share>, bytes: usize, body: usize) -> Self {
        share.add(bytes);
        Self { share: Arc::clone(share), bytes, body, in_hand: false }
    }

    /// The message is handed over: from now on it may need the room of its body once more, for the request that is rendered
    /// from it.
    pub(super) fn hand_over(&mut self) {
        self.in_hand = true;
        self.share.in_hand.fetch_add(1, Ordering::Relaxed);
        self.add(self.body);
    }

    /// The message is delivered to so many endpoints: each may have a request of its own rendered at the same time.
    pub(crate) fn for_deliveries(&mut self, count: usize) {
        self.add(self.body.saturating_mul(count.saturating_sub(1)));
    }

    /// How much of its queue's share is free, of a hundred.
    #[must_use]
    pub fn free_percent(&self) -> u8 {
        let used = self.share.held().saturating_mul(100) / self.share.limit().max(1);
        u8::try_from(100_usize.saturating_sub(used)).unwrap_or(0)
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.share.add(bytes);
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let share = &self.share;
        if self.in_hand {
            share.in_hand.fetch_sub(1, Ordering::Relaxed);
        }
        share.held.fetch_sub(self.bytes, Ordering::Relaxed);
        share.telemetry.held_bytes_sub(self.bytes);
        share.waiting.wake();
    }
}

/// Bytes that a message with this body and these properties holds.
pub(super) fn weigh(body: usize, properties: &BasicProperties) -> usize {
    BESIDES + body + HEADERS * headers::held_size(properties)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn share() -> Arc<Share> {
        Share::new(1_000_000, Telemetry::default())
    }

    fn weight(share: &Arc<Share>, body: usize) -> Weight {
        Weight::new(share, weigh(body, &BasicProperties::default()), body)
    }

    #[test]
    fn what_is_dropped_weighs_nothing() {
        let share = share();
        let mut weights: Vec<Weight> = (0..10).map(|n| weight(&share, n * 1000)).collect();
        assert!(share.held() >= 45_000);
        weights.iter_mut().for_each(Weight::hand_over);
        weights[9].for_deliveries(3);
        assert!(share.held() >= 2 * 45_000 + 2 * 9000);
        drop(weights);
        assert_eq!((share.held(), share.in_hand.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_message_is_handed_over_when_its_request_fits_too() {
        let share = share();
        let (mut first, second) = (weight(&share, 300_000), weight(&share, 300_000));
        assert!(share.room_for(&first).now_or_never().is_some());
        first.hand_over();
        assert!(share.room_for(&second).now_or_never().is_none(), "1.2 MB are too much");
        drop(first);
        assert!(share.room_for(&second).now_or_never().is_some());
    }

    #[test]
    fn one_message_beyond_all_limits_passes_alone() {
        let share = share();
        let (mut small, huge) = (weight(&share, 10), weight(&share, 5_000_000));
        small.hand_over();
        assert!(share.room_for(&huge).now_or_never().is_none());
        drop(small);
        assert!(share.room_for(&huge).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_waits_for_room_is_woken_when_there_is_some() {
        let share = share();
        let mut large = weight(&share, 450_000);
        large.hand_over();
        let waiting = {
            let share = Arc::clone(&share);
            tokio::spawn(async move { share.half_free().await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(large);
        waiting.await.unwrap();
    }
}
