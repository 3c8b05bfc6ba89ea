//! How the delivery log fares.

use prometheus::{IntCounter, IntGauge};

use super::Maker;
use crate::telemetry::facts::Fact;

/// What is told about the delivery log.
pub(in crate::telemetry) struct DeliveryLog {
    written: IntCounter,
    pub(in crate::telemetry) dropped: IntCounter,
    failures: IntCounter,
    pub(in crate::telemetry) waiting: IntGauge,
    up: IntGauge,
}

impl DeliveryLog {
    pub(super) fn new(maker: &Maker) -> Self {
        let entries = maker.counters(
            "callbackd_delivery_log_entries_total",
            "Entries for the delivery log, by what became of them: written, or dropped as it was too slow or not there",
            &["result"],
        );
        Self {
            written: entries.with_label_values(&["written"]),
            dropped: entries.with_label_values(&["dropped"]),
            failures: maker.counter(
                "callbackd_delivery_log_failures_total",
                "Times that the delivery log could not be opened or written; tried again each time",
            ),
            waiting: maker.gauge("callbackd_delivery_log_waiting", "Entries that wait to be written to the delivery log"),
            up: maker
                .gauge("callbackd_delivery_log_up", "1 if the delivery log can be written, 0 if it cannot, is not open yet, or is off"),
        }
    }

    pub(super) fn count(&self, fact: &Fact<'_>) {
        match *fact {
            Fact::DeliveryLogReady { .. } => self.up.set(1),
            Fact::DeliveryLogFailed { .. } => {
                self.failures.inc();
                self.up.set(0);
            }
            Fact::DeliveryLogWritten { entries, .. } => self.written.inc_by(entries),
            _ => {}
        }
    }
}
