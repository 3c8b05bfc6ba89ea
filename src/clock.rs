//! The one place that reads the wall clock.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::domain::time::Timestamp;

/// The time now.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from_millis(i64::try_from(since_epoch().as_millis()).unwrap_or(i64::MAX))
}

/// The time now as log lines show it: RFC 3339 in UTC with microseconds.
#[must_use]
pub fn to_the_microsecond() -> impl fmt::Display {
    let now = jiff::Timestamp::from_duration(jiff::SignedDuration::try_from(since_epoch()).unwrap_or_default()).unwrap_or_default();
    ToTheMicrosecond(now)
}

struct ToTheMicrosecond(jiff::Timestamp);

impl fmt::Display for ToTheMicrosecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.0)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
