//! What the ledger tells of one event.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Terms;

/// What a fault has touched shows for a while after its end: connections come back, and what was held goes out again.
const AFTERMATH_MICROS: u64 = 5_000_000;
/// Clocks and queues count in milliseconds.
const ROUNDING: Duration = Duration::from_millis(3);

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Receipt {
    pub(super) at: u64,
    pub(super) attempt: u32,
    pub(super) answer: u16,
}

/// A fault.
#[derive(Debug, Clone, Copy)]
pub(super) struct Struck {
    pub(super) began: u64,
    pub(super) ended: u64,
}

impl Struck {
    /// Whether it struck while something lived from one moment to the other.
    pub(super) const fn touches(self, from: u64, to: u64) -> bool {
        self.began <= to && self.ended.saturating_add(AFTERMATH_MICROS) >= from
    }
}

/// An event's life.
#[derive(Debug, Default)]
pub(super) struct Tale {
    /// When it was first published.
    pub(super) began: u64,
    /// Times that the broker may have taken it.
    pub(super) copies: u32,
    pub(super) confirmed: bool,
    pub(super) receipts: Vec<Receipt>,
    pub(super) dead: u32,
    pub(super) rejected: u32,
    pub(super) pending: u32,
}

impl Tale {
    pub(super) fn publishing(&mut self, at: u64) {
        if self.copies == 0 && self.receipts.is_empty() && self.began == 0 {
            self.began = at;
        }
        self.copies += 1;
    }

    pub(super) fn seen(&mut self, at: u64, attempt: u32, answer: u16) {
        self.receipts.push(Receipt { at, attempt, answer });
    }

    /// Times that it was answered with 2xx.
    pub(super) fn delivered(&self) -> u32 {
        u32::try_from(self.receipts.iter().filter(|seen| seen.answer / 100 == 2).count()).unwrap_or(u32::MAX)
    }

    /// When it was told first though its endpoint had it already, or the same attempt was made again.
    pub(super) fn first_repeat(&self) -> Option<u64> {
        let repeats = |(place, seen): (usize, &Receipt)| {
            let before = &self.receipts[..place];
            before.iter().any(|other| other.answer / 100 == 2 || other.attempt == seen.attempt).then_some(seen.at)
        };
        self.receipts.iter().enumerate().find_map(repeats)
    }

    /// Whether an attempt came before its time: sooner after the one before than the schedule's wait at its shortest. With
    /// copies under way an attempt cannot be told from that of the other copy, so only lives without any are looked at.
    pub(super) fn early(&self, terms: &Terms) -> bool {
        if self.copies > 1 || self.first_repeat().is_some() {
            return false;
        }
        let by_attempt: BTreeMap<u32, u64> = self.receipts.iter().map(|seen| (seen.attempt, seen.at)).collect();
        by_attempt.iter().any(|(attempt, at)| {
            let before = attempt.checked_sub(1).and_then(|before| by_attempt.get(&before));
            before.is_some_and(|before| Duration::from_micros(at.saturating_sub(*before)) + ROUNDING < terms.least_wait(attempt - 1))
        })
    }
}

impl Terms {
    /// The wait after that attempt, at its shortest.
    fn least_wait(&self, attempt: u32) -> Duration {
        let grown = self.multiplier.powi(i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX));
        let wait = (self.initial.as_secs_f64() * grown).min(self.max_delay.as_secs_f64());
        Duration::from_secs_f64(wait * (1.0 - self.jitter))
    }
}
