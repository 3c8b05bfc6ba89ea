//! What the worker tells about itself: facts in, log lines and metrics out.

pub mod facts;

pub use facts::{EventOutcome, EventRef, Fact};

/// Where facts are recorded. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {}

impl Telemetry {
    /// Records what happened: counts it and writes its log line.
    pub fn record(&self, _fact: &Fact<'_>) {}
}
