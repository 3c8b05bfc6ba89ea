//! How the export of spans fares.

use prometheus::{IntCounter, IntGauge};

use super::Maker;

/// What is told about traces.
pub(in crate::telemetry) struct Traces {
    pub(in crate::telemetry) exported: IntCounter,
    pub(in crate::telemetry) dropped: IntCounter,
    pub(in crate::telemetry) refused: IntCounter,
    pub(in crate::telemetry) waiting: IntGauge,
}

impl Traces {
    pub(super) fn new(maker: &Maker) -> Self {
        let spans = maker.counters(
            "callbackd_trace_spans_total",
            "Spans of sampled traces, by what became of them: exported, dropped (no room, or the process ended), or refused by the collector",
            &["result"],
        );
        Self {
            exported: spans.with_label_values(&["exported"]),
            dropped: spans.with_label_values(&["dropped"]),
            refused: spans.with_label_values(&["refused"]),
            waiting: maker.gauge("callbackd_trace_spans_waiting", "Spans that wait to be exported"),
        }
    }
}
