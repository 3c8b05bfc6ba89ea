//! A part of the messages of a pass, taken at one time.

use lapin::Channel;

/// Messages of one window: the most that is in memory at one time. Passes over 20,000 messages took 2.9 to 4.3 s with
/// windows of 200, 500, 2,000 and 5,000 (debug build, busy machine), not clearly less with larger ones, which need more memory.
const WINDOW: u16 = 500;
/// The first window: nobody knows yet how large the messages are.
pub(super) const FIRST_WINDOW: u16 = 16;
/// Bytes of body that a window may hold, as far as the window before tells: rejected messages may have up to 128 MiB each.
const BUDGET: usize = 64 << 20;

/// How many messages the next window may hold after one of so many with so many bytes: eight times as many at most, and so many
/// that their bodies fit into the budget if they are alike.
pub(super) fn next_window(taken: u16, bytes: usize) -> u16 {
    let average = (bytes / usize::from(taken).max(1)).max(1);
    let most = taken.max(1).saturating_mul(8).min(WINDOW);
    u16::try_from(BUDGET / average).unwrap_or(WINDOW).clamp(1, most)
}

/// Messages in our hands, on a channel of their own.
pub(super) struct Window {
    pub(super) channel: Channel,
    pub(super) unsettled: u32,
    pub(super) has_settled: bool,
}
