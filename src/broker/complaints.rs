//! Failed copies, told once in a while: a thousand that wait for the same queue must not write a thousand lines.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time between two complaints about the same queue.
const QUIET: Duration = Duration::from_secs(1);

/// What was told about each queue. Bounded by the queues that we publish to.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<HashMap<String, Told>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    unsaid: u64,
}

impl Complaints {
    /// The text to tell about a failed copy, with the number of failures that were not told before it; `None` where it is
    /// too soon to tell anything.
    pub(super) fn about(&self, queue: &str, error: &str, now: Instant) -> Option<String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(told) = all.get_mut(queue) else {
            all.insert(queue.to_owned(), Told { at: now, unsaid: 0 });
            return Some(error.to_owned());
        };
        if now.duration_since(told.at) < QUIET {
            told.unsaid += 1;
            return None;
        }
        told.at = now;
        match std::mem::take(&mut told.unsaid) {
            0 => Some(error.to_owned()),
            unsaid => Some(format!("{error} ({unsaid} more failed since the last such line)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_complained_about_once_a_second_and_the_rest_is_counted() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        assert_eq!(complaints.about("a", "returned", start).as_deref(), Some("returned"));
        for _ in 0..130 {
            assert_eq!(complaints.about("a", "returned", start + QUIET / 2), None);
        }
        assert_eq!(complaints.about("b", "refused", start + QUIET / 2).as_deref(), Some("refused"));
        let later = complaints.about("a", "returned", start + QUIET);
        assert_eq!(later.as_deref(), Some("returned (130 more failed since the last such line)"));
        assert_eq!(complaints.about("a", "refused", start + 2 * QUIET).as_deref(), Some("refused"));
    }
}
