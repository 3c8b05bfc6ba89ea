//! Waiting for a fact instead of for time to pass.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// The pause between two looks: short against any limit that a test sets, long enough not to load the machine.
const PAUSE: Duration = Duration::from_millis(20);

/// What a look at the world may give: a value, or the state that is not it yet.
pub trait Fact {
    /// What is waited for.
    type Value;

    /// The value, or what was seen instead.
    fn settle(self) -> Result<Self::Value, String>;
}

impl<T> Fact for Option<T> {
    type Value = T;

    fn settle(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing yet".to_owned())
    }
}

impl<T, E: Debug> Fact for Result<T, E> {
    type Value = T;

    fn settle(self) -> Result<T, String> {
        self.map_err(|state| format!("{state:?}"))
    }
}

impl Fact for bool {
    type Value = ();

    fn settle(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("not so".to_owned()) }
    }
}

/// Looks again and again until there is the fact, and returns it. One look may take longer than the limit only if it
/// hangs: it is then cut off.
///
/// # Panics
/// After `limit`, with `what` and the last state seen.
pub async fn eventually<F: Fact>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> F) -> F::Value {
    let end = Instant::now() + limit;
    let mut last = "never looked".to_owned();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left.max(PAUSE), look()).await.map(Fact::settle) {
            Ok(Ok(value)) => return value,
            Ok(Err(state)) => last = state,
            Err(_) => last = format!("{last}; then a look that did not end"),
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}; last seen: {last}");
        tokio::time::sleep(PAUSE).await;
    }
}
