//! A bar that shows how an errand goes on, and a line for each letter that stays.

use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

use crate::cli::terminal::{plain, progress};
use crate::letters::{Letter, Watch};

/// On standard error.
#[derive(Debug, Default)]
pub(super) struct Bar(Mutex<Option<ProgressBar>>);

impl Bar {
    fn with(&self, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            act(bar);
        }
    }
}

impl Watch for Bar {
    fn begins(&self, bound: u32) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress(bound.into()));
    }

    fn looked(&self) {
        self.with(|bar| bar.inc(1));
    }

    fn stays(&self, letter: &Letter, why: &str) {
        let event = letter.event.as_deref().map_or_else(|| "without event id".to_owned(), plain);
        self.with(|bar| bar.suspend(|| eprintln!("message {} ({event}) stays: {why}", letter.position)));
    }

    fn ends(&self) {
        self.with(ProgressBar::finish_and_clear);
    }
}
