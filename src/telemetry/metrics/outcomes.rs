//! How upstream is told what became of its events.

use prometheus::{IntCounter, IntGauge};

use super::Maker;

/// What is told about outcomes.
pub(in crate::telemetry) struct Outcomes {
    pub(in crate::telemetry) published: IntCounter,
    pub(in crate::telemetry) dropped: IntCounter,
    pub(in crate::telemetry) refused: IntCounter,
    pub(in crate::telemetry) waiting: IntGauge,
}

impl Outcomes {
    pub(super) fn new(maker: &Maker) -> Self {
        let outcomes = maker.counters(
            "callbackd_outcomes_total",
            "Outcomes for upstream, by what became of them: published, dropped (no room, or the process ended), or refused by the broker",
            &["result"],
        );
        Self {
            published: outcomes.with_label_values(&["published"]),
            dropped: outcomes.with_label_values(&["dropped"]),
            refused: outcomes.with_label_values(&["refused"]),
            waiting: maker.gauge("callbackd_outcomes_waiting", "Outcomes that wait to be published"),
        }
    }
}
