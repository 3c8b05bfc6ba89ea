//! What the worker tells about itself: facts in, log lines and metrics out.

pub(crate) mod backlog;
pub mod causes;
pub mod event_ref;
pub mod facts;
mod json;
mod lines;
pub mod logging;
mod metrics;
mod spool;

use std::fmt;
use std::sync::Arc;

pub use causes::{ApiRefusal, EventOutcome, ResumeCause, WaitCause};
pub use event_ref::{EventRef, Place, Receipt};
pub use facts::Fact;

use crate::config::Config;
use crate::domain::integrator::Directory;
use metrics::Metrics;

/// Where facts are recorded. Cheap to clone; all clones count into the same metrics, which belong to no global.
#[derive(Clone, Default)]
pub struct Telemetry {
    metrics: Arc<Metrics>,
    observers: Arc<[Arc<dyn Observer>]>,
}

/// Who sees every fact beside log and metrics.
pub trait Observer: Send + Sync {
    /// Something has happened. Called where it happens, so this must be quick and must not wait for anything.
    fn see(&self, fact: &Fact<'_>);
}

impl Telemetry {
    /// Metrics in which every source, queue and link of the configuration starts at zero. [`Telemetry::default`] is the
    /// same without that: what it meets first then makes its series.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let telemetry = Self::default();
        telemetry.metrics.start_at_zero(config);
        telemetry
    }

    /// Records what happened: counts it and writes its log line. Cannot fail; a log that cannot be written is lost.
    pub fn record(&self, fact: &Fact<'_>) {
        self.metrics.count(fact);
        lines::write(fact);
        for observer in &*self.observers {
            observer.see(fact);
        }
    }

    /// The same, seen by one more observer. What is recorded through other clones it does not see.
    #[must_use]
    pub fn observed_by(&self, observer: Arc<dyn Observer>) -> Self {
        let observers = self.observers.iter().cloned().chain([observer]).collect();
        Self { metrics: Arc::clone(&self.metrics), observers }
    }

    /// From now on the endpoints of `directory`, and no others, have series of their own: new ones start at zero, the
    /// series of removed ones go. What still happens to a removed endpoint is counted under [`REMOVED`].
    ///
    /// To be called at start and after every reload. Until the first call, an endpoint that is attempted or skipped
    /// counts as configured.
    pub fn configured(&self, directory: &Directory) {
        self.metrics.deliveries.configured(directory);
        self.metrics.circuits.configured(directory);
    }

    /// A request begins; it is in flight until the guard is dropped.
    #[must_use]
    pub fn in_flight_started(&self) -> InFlight {
        self.metrics.deliveries.in_flight.inc();
        InFlight { metrics: Arc::clone(&self.metrics) }
    }

    /// Requests in flight now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.metrics.deliveries.in_flight.get()).unwrap_or(0)
    }

    /// So many more deliveries wait for their endpoint's turn.
    pub fn lane_waiting_add(&self, count: usize) {
        self.metrics.deliveries.lane_waiting.add(signed(count));
    }

    /// So many fewer deliveries wait for their endpoint's turn.
    pub fn lane_waiting_sub(&self, count: usize) {
        self.metrics.deliveries.lane_waiting.sub(signed(count));
    }

    /// So many more messages are in our hands: taken from the broker and not yet settled or given up.
    pub fn held_add(&self, count: usize) {
        self.metrics.events.held.add(signed(count));
    }

    /// So many messages left our hands.
    pub fn held_sub(&self, count: usize) {
        self.metrics.events.held.sub(signed(count));
    }

    /// So many more bytes are held by messages.
    pub fn held_bytes_add(&self, bytes: usize) {
        self.metrics.events.held_bytes.add(signed(bytes));
    }

    /// So many bytes fewer are held by messages.
    pub fn held_bytes_sub(&self, bytes: usize) {
        self.metrics.events.held_bytes.sub(signed(bytes));
    }

    /// So many endpoints are paused by operators.
    pub fn endpoints_held(&self, count: usize) {
        self.metrics.circuits.held.set(signed(count));
    }

    /// Whether it is known which endpoints operators have paused.
    pub fn holds_known(&self, is_known: bool) {
        self.metrics.circuits.holds_known.set(i64::from(is_known));
    }

    /// So many entries of the delivery log were left out: too many wait already, the database does not take them, or the process ends.
    pub fn delivery_log_dropped(&self, entries: u64) {
        self.metrics.delivery_log.dropped.inc_by(entries);
    }

    /// So many entries wait to be written to the delivery log.
    pub fn delivery_log_waiting(&self, entries: usize) {
        self.metrics.delivery_log.waiting.set(signed(entries));
    }

    /// An outcome was published.
    pub fn outcome_published(&self) {
        self.metrics.outcomes.published.inc();
    }

    /// So many outcomes were left out: too many wait already, or the process ends.
    pub fn outcomes_dropped(&self, outcomes: u64) {
        self.metrics.outcomes.dropped.inc_by(outcomes);
    }

    /// The broker has refused an outcome.
    pub fn outcome_refused(&self) {
        self.metrics.outcomes.refused.inc();
    }

    /// So many outcomes wait to be published.
    pub fn outcomes_waiting(&self, outcomes: usize) {
        self.metrics.outcomes.waiting.set(signed(outcomes));
    }

    /// So many spans were exported.
    pub fn trace_spans_exported(&self, spans: u64) {
        self.metrics.traces.exported.inc_by(spans);
    }

    /// So many spans were left out: too many wait already, or the process ends.
    pub fn trace_spans_dropped(&self, spans: u64) {
        self.metrics.traces.dropped.inc_by(spans);
    }

    /// The collector has refused so many spans.
    pub fn trace_spans_refused(&self, spans: u64) {
        self.metrics.traces.refused.inc_by(spans);
    }

    /// So many spans wait to be exported.
    pub fn trace_spans_waiting(&self, spans: usize) {
        self.metrics.traces.waiting.set(signed(spans));
    }

    /// All metrics in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        self.metrics.text()
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

/// The label value that stands for an endpoint, and its integrator, that are not configured (any more). A key that only
/// a message names never labels a metric.
pub const REMOVED: &str = "(removed)";

/// One request in flight, until dropped.
pub struct InFlight {
    metrics: Arc<Metrics>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.deliveries.in_flight.dec();
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").finish_non_exhaustive()
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
