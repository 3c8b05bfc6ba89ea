//! How many messages a queue may have with us at one time: as many as configured, or fewer where they are large.

/// The first prefetch of a queue whose messages nobody has seen: enough to tell their size, too few to hurt.
const FIRST: u16 = 32;
/// So many times wider at most with each step, so that the first small messages do not open the window for a run of large ones.
const STEP: u16 = 8;
/// So many of the last messages say whether the prefetch is to change: many, so that it does not at every turn of a mix.
const LONG: f64 = 1024.0;
/// So many of the last messages say what it changes to, where they are larger than the long run has them.
const RECENT: f64 = 128.0;
/// Standard deviations beyond the mean that still fit.
const MARGIN: f64 = 2.0;

/// The prefetch of one queue, chosen by the sizes of its messages: what the window holds is to fit into half of the queue's
/// share of the memory. The other half is for what a message needs beyond itself once it is in hand, its rendered request
/// above all.
///
/// Changing the prefetch means another consumer, so it is changed only where that makes a difference by half or double, and
/// widened only when a whole window of messages has been received. Pure: it knows no clock and no broker.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    /// As configured.
    most: u16,
    /// Bytes that the messages of a window may have together.
    room: f64,
    now: u16,
    /// Messages since the last change.
    since: u32,
    recent: Sizes,
    long: Sizes,
}

/// What the last messages were like: means in which each further message counts for less.
#[derive(Debug, Clone, PartialEq)]
struct Sizes {
    /// How many messages count.
    memory: f64,
    /// How many have been seen, up to that.
    seen: f64,
    mean: f64,
    mean_square: f64,
}

/// Why the prefetch changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The sizes seen say so.
    Sizes,
    /// More came than there was room for.
    Overrun,
}

impl Window {
    /// The window of a queue that may hold `share` bytes and at most `most` messages.
    pub(super) fn new(most: u16, share: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB, and rounded beyond")]
        let room = share as f64 / 2.0;
        let (recent, long) = (Sizes::of_the_last(RECENT), Sizes::of_the_last(LONG));
        Self { most, room, now: FIRST.min(most), since: 0, recent, long }
    }

    /// The prefetch in force.
    pub(super) const fn now(&self) -> u16 {
        self.now
    }

    /// Takes note of a message with so many bytes.
    pub(super) fn saw(&mut self, bytes: usize) {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB, and rounded beyond")]
        let bytes = bytes as f64;
        self.since = self.since.saturating_add(1);
        self.recent.saw(bytes);
        self.long.saw(bytes);
    }

    /// Whether the messages have become too large for half of this prefetch.
    pub(super) fn is_too_wide(&self) -> bool {
        self.now > 1 && !self.long.fit(self.now / 2 + 1, self.room)
    }

    /// Whether a whole window of messages was so small that twice as many would fit.
    pub(super) fn is_too_narrow(&self) -> bool {
        // What has become narrower than at first was so for a reason that may come again soon.
        let patience = if self.now < FIRST { LONG } else { self.now.into() };
        self.now < self.most && f64::from(self.since) >= patience && self.fits(self.now.saturating_mul(2).min(self.most))
    }

    /// Changes the prefetch to what fits, and returns it.
    pub(super) fn change(&mut self, cause: Cause) -> u16 {
        let fitting = self.fitting().min(self.now.saturating_mul(STEP));
        self.now = match cause {
            Cause::Sizes => fitting,
            // Whatever the sizes say, it was too much.
            Cause::Overrun => fitting.min(self.now / 2).max(1),
        };
        self.since = 0;
        self.now
    }

    /// The most messages like those seen that fit, and at least one.
    fn fitting(&self) -> u16 {
        let (mut fits, mut too_many) = (1, self.most.saturating_add(1));
        while too_many - fits > 1 {
            let middle = fits.midpoint(too_many);
            if self.fits(middle) { fits = middle } else { too_many = middle }
        }
        fits
    }

    /// Whether so many messages like those seen fit.
    fn fits(&self, messages: u16) -> bool {
        self.recent.fit(messages, self.room) && self.long.fit(messages, self.room)
    }
}

impl Sizes {
    const fn of_the_last(memory: f64) -> Self {
        Self { memory, seen: 0.0, mean: 0.0, mean_square: 0.0 }
    }

    fn saw(&mut self, bytes: f64) {
        self.seen = (self.seen + 1.0).min(self.memory);
        self.mean += (bytes - self.mean) / self.seen;
        self.mean_square += (bytes * bytes - self.mean_square) / self.seen;
    }

    /// Whether so many of these fit, also where there are some more of the large ones among them than usual: the sum of n
    /// messages lies, n times the variance taken, around n times the mean.
    fn fit(&self, messages: u16, room: f64) -> bool {
        let messages = f64::from(messages);
        let variance = (self.mean_square - self.mean * self.mean).max(0.0);
        let left = room - messages * self.mean;
        left >= 0.0 && MARGIN * MARGIN * messages * variance <= left * left
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    /// Lets so many messages come in, changing the prefetch as a session does; returns how often it changed.
    fn ride(window: &mut Window, sizes: impl IntoIterator<Item = usize>) -> usize {
        let mut changes = 0;
        for bytes in sizes {
            window.saw(bytes);
            if window.is_too_wide() || window.is_too_narrow() {
                window.change(Cause::Sizes);
                changes += 1;
            }
        }
        changes
    }

    fn a_window() -> impl Strategy<Value = Window> {
        (1..=u16::MAX, 1_usize..1024).prop_map(|(most, mib)| Window::new(most, mib * MIB))
    }

    fn any_sizes() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(prop_oneof![0_usize..2000, 0_usize..100_000, 0_usize..(128 * MIB)], 0..400)
    }

    proptest! {
        #[test]
        fn is_never_empty_and_never_wider_than_configured(
            window in a_window(), sizes in any_sizes(), overruns in prop::collection::vec(any::<bool>(), 0..20),
        ) {
            let mut window = window;
            ride(&mut window, sizes);
            for overrun in overruns {
                let now = window.change(if overrun { Cause::Overrun } else { Cause::Sizes });
                prop_assert!((1..=window.most).contains(&now));
            }
        }

        #[test]
        fn messages_of_one_size_fit_in_their_window(window in a_window(), size in 1_usize..(32 * MIB)) {
            let mut window = window;
            ride(&mut window, std::iter::repeat_n(size, 20_000));
            let now = usize::from(window.change(Cause::Sizes));
            prop_assert!(now == 1 || now as f64 * size as f64 <= window.room * 1.001, "{window:?}");
            // And the window is as wide as that: nothing is given away.
            let wider = f64::from(window.now) + 1.0;
            prop_assert!(window.now == window.most || wider * size as f64 >= window.room * 0.999, "{window:?}");
        }

        #[test]
        fn an_overrun_always_narrows(window in a_window(), sizes in any_sizes()) {
            let mut window = window;
            ride(&mut window, sizes);
            let before = window.now;
            prop_assert!(window.change(Cause::Overrun) <= (before / 2).max(1));
        }

        #[test]
        fn small_messages_open_it_again_whatever_came_before(most in 1..=2000_u16, sizes in any_sizes(), overruns in 0..12_u8) {
            let mut window = Window::new(most, 64 * MIB);
            ride(&mut window, sizes);
            for _ in 0..overruns {
                window.change(Cause::Overrun);
            }
            ride(&mut window, std::iter::repeat_n(1000, 16_000));
            prop_assert_eq!(window.now, most);
        }

        #[test]
        fn a_steady_mix_soon_leaves_it_alone(
            large in 100_000_usize..(4 * MIB), small in 0_usize..5000, one_in in 1_usize..400, share in 1_usize..256,
        ) {
            let mut window = Window::new(1000, share * MIB);
            let mut mix = (0..).map(|n: usize| if n.is_multiple_of(one_in) { large } else { small });
            ride(&mut window, mix.by_ref().take(5000));
            let changes = ride(&mut window, mix.take(20_000));
            // A large one every now and then may move it, but not at every turn of the mix.
            prop_assert!(changes <= 20_000 / 400, "{changes} changes, {window:?}");
        }
    }

    #[test]
    fn a_message_beyond_the_whole_share_every_now_and_then_does_not_change_it_each_time() {
        let mut window = Window::new(1000, MIB);
        let mix = (0..25_000).map(|n: usize| if n.is_multiple_of(261) { 3 * MIB } else { 3374 });
        assert!(ride(&mut window, mix) <= 60, "{window:?}");
    }

    #[test]
    fn a_queue_of_small_messages_is_wide_after_three_steps() {
        let mut window = Window::new(1000, 64 * MIB);
        assert_eq!(window.now(), 32);
        assert_eq!(ride(&mut window, std::iter::repeat_n(1000, 31)), 0);
        assert_eq!(ride(&mut window, [1000]), 1);
        assert_eq!(window.now(), 256);
        assert_eq!(ride(&mut window, std::iter::repeat_n(1000, 10_000)), 1);
        assert_eq!(window.now(), 1000);
    }

    #[test]
    fn one_large_message_among_many_small_ones_changes_nothing() {
        let mut window = Window::new(1000, 64 * MIB);
        ride(&mut window, std::iter::repeat_n(1000, 5000));
        assert_eq!(ride(&mut window, [2 * MIB]), 0);
    }

    #[test]
    fn a_run_of_large_messages_narrows_it_to_what_fits() {
        let mut window = Window::new(1000, 64 * MIB);
        ride(&mut window, std::iter::repeat_n(1000, 5000));
        ride(&mut window, std::iter::repeat_n(2 * MIB, 1000));
        assert!((8..=32).contains(&window.now()), "{window:?}");
    }
}
