//! What this process is and which configuration it runs on.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::Maker;
use crate::clock;
use crate::telemetry::{ApiRefusal, Fact};

/// What is told about the process as a whole.
pub(super) struct Service {
    reloaded: IntCounter,
    refused: IntCounter,
    last_successful: IntGauge,
    last_success_at: IntGauge,
    integrators: IntGauge,
    endpoints: IntGauge,
    api_refusals: IntCounterVec,
    log_lines_dropped: IntCounter,
    /// How much of the total that others count is in the counter already.
    dropped_before: AtomicU64,
}

impl Service {
    pub(super) fn new(maker: &Maker) -> Self {
        let build = maker.gauges("callbackd_build_info", "Always 1; the label says which version runs", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let reloads = maker.counters(
            "callbackd_config_reloads_total",
            "New versions of the integrators, by what became of them: success or refused",
            &["result"],
        );
        let api_refusals = maker.counters("callbackd_api_refusals_total", "Requests to /api that were turned away, by reason", &["reason"]);
        for reason in ApiRefusal::ALL {
            api_refusals.with_label_values(&[reason.as_str()]);
        }
        Self {
            reloaded: reloads.with_label_values(&["success"]),
            refused: reloads.with_label_values(&["refused"]),
            last_successful: maker.gauge(
                "callbackd_config_last_reload_successful",
                "1 if the newest version of the integrators is in force, 0 if it was refused",
            ),
            last_success_at: maker.gauge(
                "callbackd_config_last_reload_success_timestamp_seconds",
                "When the integrators in force were loaded, in seconds since the Unix epoch",
            ),
            integrators: maker.gauge("callbackd_integrators", "Integrators configured"),
            endpoints: maker.gauge("callbackd_endpoints", "Endpoints configured"),
            api_refusals,
            log_lines_dropped: maker.counter(
                "callbackd_log_lines_dropped_total",
                "Log lines that were dropped because standard error did not take them in time",
            ),
            dropped_before: AtomicU64::new(0),
        }
    }

    pub(super) fn count(&self, fact: &Fact<'_>) {
        match *fact {
            Fact::Started { integrators, endpoints } => self.in_force(integrators, endpoints),
            Fact::Reloaded { integrators, endpoints } => {
                self.reloaded.inc();
                self.in_force(integrators, endpoints);
            }
            Fact::ApiRefused { reason } => self.api_refusals.with_label_values(&[reason.as_str()]).inc(),
            Fact::ReloadRefused { .. } => {
                self.refused.inc();
                self.last_successful.set(0);
            }
            _ => {}
        }
    }

    /// Brings the counter up to a total that others count. Several at one time add no line twice.
    pub(super) fn log_lines_dropped(&self, total: u64) {
        let before = self.dropped_before.fetch_max(total, Ordering::Relaxed);
        self.log_lines_dropped.inc_by(total.saturating_sub(before));
    }

    fn in_force(&self, integrators: usize, endpoints: usize) {
        self.last_successful.set(1);
        self.last_success_at.set(clock::now().seconds());
        self.integrators.set(i64::try_from(integrators).unwrap_or(i64::MAX));
        self.endpoints.set(i64::try_from(endpoints).unwrap_or(i64::MAX));
    }
}
