//! How far a job is, as its errand tells it from letter to letter.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::errand::{Tally, Watch};
use super::job::Progress;
use super::letter::Letter;

/// Longest note, in characters.
const NOTE_LIMIT: usize = 300;

/// Counts that anybody may read at any time.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    fitting: AtomicUsize,
    done: AtomicUsize,
    failed: AtomicUsize,
    why: Mutex<Option<String>>,
}

impl Meter {
    /// So many were done in earlier runs.
    pub(crate) fn starting_at(progress: Progress) -> Self {
        let done = usize::try_from(progress.done).unwrap_or(usize::MAX);
        Self { done: AtomicUsize::new(done), fitting: AtomicUsize::new(done), ..Self::default() }
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Progress {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed) as u64;
        Progress { fitting: count(&self.fitting), done: count(&self.done), failed: count(&self.failed) }
    }

    /// Why letters stay, by the example of the latest.
    pub(crate) fn note(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Watch for Meter {
    fn stays(&self, letter: &Letter, why: &str) {
        let event = letter.event.as_deref().unwrap_or("without event id");
        let note = format!("letters stay, the latest of them {event}: {why}");
        let note = note.chars().take(NOTE_LIMIT).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(note);
    }

    fn counted(&self, tally: Tally) {
        self.fitting.store(tally.fitting, Ordering::Relaxed);
        self.done.store(tally.done, Ordering::Relaxed);
        self.failed.store(tally.failed, Ordering::Relaxed);
    }
}
