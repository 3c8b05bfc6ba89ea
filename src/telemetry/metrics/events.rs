//! Counts of events: in, out, refused.

use std::sync::Arc;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::{Maker, Series};
use crate::domain::dead::RejectReason;
use crate::domain::names::SourceName;
use crate::telemetry::{EventOutcome, Fact, WaitCause};

/// Upper ends in seconds: from the broker's own precision (tens of milliseconds) to the longest outage that is still told
/// apart (six hours, the longest rung).
const LATENESS: [f64; 12] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 21_600.0];

/// What is counted per message.
pub(in crate::telemetry) struct Events {
    received: IntCounterVec,
    settled: IntCounterVec,
    rejected: IntCounterVec,
    waits: [(WaitCause, IntCounter); WaitCause::ALL.len()],
    lateness: Histogram,
    pub(in crate::telemetry) held: IntGauge,
    pub(in crate::telemetry) held_bytes: IntGauge,
    sources: Series<SourceName, PerSource>,
}

/// The series of one source, so that counting a message looks up no label.
struct PerSource {
    work: IntCounter,
    due: IntCounter,
    settled: [(EventOutcome, IntCounter); EventOutcome::ALL.len()],
    rejected: [(&'static str, IntCounter); RejectReason::CODES.len()],
}

impl Events {
    pub(super) fn new(maker: &Maker) -> Self {
        let waits = maker.counters("callbackd_waits_total", "Events and single deliveries put into the wait queues, by cause", &["cause"]);
        Self {
            received: maker.counters(
                "callbackd_events_received_total",
                "Messages received, by source and by queue: work (first attempts) or due (retries)",
                &["source", "queue"],
            ),
            settled: maker.counters(
                "callbackd_events_settled_total",
                "Messages settled (acknowledgement handed to the connection), by source and by the furthest that any of their deliveries got",
                &["source", "outcome"],
            ),
            rejected: maker.counters(
                "callbackd_events_rejected_total",
                "Events that are no deliveries and were moved to the rejected, by source and reason",
                &["source", "reason"],
            ),
            waits: WaitCause::ALL.map(|cause| (cause, waits.with_label_values(&[cause.as_str()]))),
            lateness: maker.histogram(
                "callbackd_retry_lateness_seconds",
                "How much later than planned a retry came back from its wait queue",
                &LATENESS,
            ),
            held: maker.gauge("callbackd_held_events", "Messages taken from the broker by the worker and not yet settled or given up"),
            held_bytes: maker.gauge(
                "callbackd_held_bytes",
                "Bytes that messages taken from the broker are reckoned to take in memory, with the requests rendered from them",
            ),
            sources: Series::default(),
        }
    }

    /// Makes the series of a source.
    pub(super) fn comes_from(&self, source: &SourceName) {
        self.source(source);
    }

    pub(super) fn count(&self, fact: &Fact<'_>) {
        match *fact {
            Fact::Received { source, due, late_by } => {
                let series = self.source(source);
                if due { &series.due } else { &series.work }.inc();
                if let Some(late_by) = late_by {
                    self.lateness.observe(late_by.as_secs_f64());
                }
            }
            Fact::Settled { source, outcome, .. } => count_by(&self.source(source).settled, &outcome),
            Fact::Rejected { source, reason, .. } => count_by(&self.source(source).rejected, &reason.code()),
            Fact::Waits { cause, .. } => count_by(&self.waits, &cause),
            _ => {}
        }
    }

    fn source(&self, source: &SourceName) -> Arc<PerSource> {
        let name = source.as_str();
        let make = || PerSource {
            work: self.received.with_label_values(&[name, "work"]),
            due: self.received.with_label_values(&[name, "due"]),
            settled: EventOutcome::ALL.map(|outcome| (outcome, self.settled.with_label_values(&[name, outcome.as_str()]))),
            rejected: RejectReason::CODES.map(|code| (code, self.rejected.with_label_values(&[name, code]))),
        };
        self.sources.of(name, || source.clone(), make)
    }
}

/// Adds one to the counter beside `key`; the sets are closed, so it is always there.
fn count_by<K: PartialEq>(counters: &[(K, IntCounter)], key: &K) {
    if let Some((_, counter)) = counters.iter().find(|(candidate, _)| candidate == key) {
        counter.inc();
    }
}
