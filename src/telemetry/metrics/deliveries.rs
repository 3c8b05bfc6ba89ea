//! Counts of deliveries: attempts, skips, dead letters, and how long things took.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use prometheus::{Histogram, IntCounter, IntGauge};

use super::Maker;
use super::endpoints::{self, PerEndpoint};
use crate::domain::dead::DeadReason;
use crate::domain::decide::Verdict;
use crate::domain::integrator::Directory;
use crate::domain::names::{EndpointId, IntegratorKey};
use crate::telemetry::REMOVED;
use crate::telemetry::facts::Fact;

/// Upper ends in seconds, up to the longest time limit that an endpoint can have (120 s).
const DURATION: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 120.0];

/// Upper ends in seconds: from a delivery at once to the default `max_age` of three days, and a week beyond it.
const LATENCY: [f64; 20] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0, 259_200.0,
    604_800.0,
];

/// What [`crate::domain::reply::Reply::class`] can say; a test holds the two together.
pub(in crate::telemetry) const CLASSES: [&str; 19] = [
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "other_status",
    "timeout",
    "dns",
    "connect",
    "tls",
    "tls_expired",
    "tls_unknown_issuer",
    "tls_client_certificate",
    "blocked",
    "auth",
    "disconnected",
    "not_http",
    "local",
    "proxy",
    "other",
];

/// The place of `other_status` in [`CLASSES`].
pub(in crate::telemetry) const OTHER_STATUS: usize = 4;

/// What [`Verdict::as_str`] can say, in the order of [`verdict_index`].
pub(in crate::telemetry) const VERDICTS: [&str; 3] = ["delivered", "retry", "dead"];

/// What is counted per delivery.
pub(in crate::telemetry) struct Deliveries {
    duration: Histogram,
    latency: Histogram,
    pub(in crate::telemetry) in_flight: IntGauge,
    pub(in crate::telemetry) lane_waiting: IntGauge,
    tokens_granted: IntCounter,
    tokens_refused: IntCounter,
    endpoints: RwLock<Endpoints>,
    removed: PerEndpoint,
}

#[derive(Default)]
struct Endpoints {
    /// The directory has been told: who is not in `known` is not configured.
    complete: bool,
    known: HashMap<IntegratorKey, Vec<(EndpointId, Box<PerEndpoint>)>>,
}

impl Endpoints {
    fn find(&self, integrator: &IntegratorKey, id: &EndpointId) -> Option<&PerEndpoint> {
        self.known.get(integrator)?.iter().find(|(candidate, _)| candidate == id).map(|(_, series)| &**series)
    }
}

impl Deliveries {
    pub(super) fn new(maker: &Maker) -> Self {
        let removed = PerEndpoint::new(REMOVED, REMOVED);
        removed.dead(DeadReason::EndpointRemoved).show();
        let tokens = maker.counters(
            "callbackd_token_requests_total",
            "Requests for access tokens (OAuth 2.0), by what became of them: success or refused",
            &["result"],
        );
        Self {
            tokens_granted: tokens.with_label_values(&["success"]),
            tokens_refused: tokens.with_label_values(&["refused"]),
            duration: maker.histogram("callbackd_attempt_duration_seconds", "From the start of an HTTP request to its outcome", &DURATION),
            latency: maker.histogram(
                "callbackd_delivery_latency_seconds",
                "From AMQP timestamp (whole seconds), or first receipt where there is none, to the delivery",
                &LATENCY,
            ),
            in_flight: maker.gauge("callbackd_in_flight", "HTTP requests in flight"),
            lane_waiting: maker.gauge("callbackd_lane_waiting", "Deliveries that wait for their endpoint's turn"),
            endpoints: RwLock::default(),
            removed,
        }
    }

    /// Replaces the set of endpoints that have series of their own.
    pub(in crate::telemetry) fn configured(&self, directory: &Directory) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut endpoints.known);
        endpoints.complete = true;
        for endpoint in directory.all() {
            let of_integrator = before.get_mut(&endpoint.integrator);
            let kept = of_integrator.and_then(|all| all.iter().position(|(id, _)| *id == endpoint.id).map(|at| all.swap_remove(at).1));
            let series = kept.unwrap_or_else(|| Box::new(PerEndpoint::new(endpoint.integrator.as_str(), endpoint.id.as_str())));
            series.start_at_zero();
            endpoints.known.entry(endpoint.integrator.clone()).or_default().push((endpoint.id.clone(), series));
        }
    }

    pub(super) fn count(&self, fact: &Fact<'_>) {
        match *fact {
            Fact::Attempted { endpoint, place, reply, verdict, latency, .. } => {
                // One request, however many events are in it.
                if place.index == 0 {
                    self.duration.observe(reply.took.as_secs_f64());
                }
                if let Some(latency) = latency {
                    self.latency.observe(latency.as_secs_f64());
                }
                self.meet(&endpoint.integrator, &endpoint.id);
                self.with(&endpoint.integrator, &endpoint.id, |series| series.attempt(verdict, reply.class()));
            }
            Fact::Skipped { endpoint, reason, .. } => {
                self.meet(&endpoint.integrator, &endpoint.id);
                self.with(&endpoint.integrator, &endpoint.id, |series| series.skip(reason));
            }
            Fact::TokenGranted { .. } => self.tokens_granted.inc(),
            Fact::TokenRefused { .. } => self.tokens_refused.inc(),
            Fact::DeadLettered { event, endpoint, reason, .. } => {
                self.with(event.integrator, endpoint, |series| series.dead(reason).add_one());
            }
            _ => {}
        }
    }

    /// Before any directory was told, an endpoint that has a configuration is proof enough that it is configured.
    fn meet(&self, integrator: &IntegratorKey, id: &EndpointId) {
        let known = {
            let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
            endpoints.complete || endpoints.find(integrator, id).is_some()
        };
        if known {
            return;
        }
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        if !endpoints.complete && endpoints.find(integrator, id).is_none() {
            let series = Box::new(PerEndpoint::new(integrator.as_str(), id.as_str()));
            endpoints.known.entry(integrator.clone()).or_default().push((id.clone(), series));
        }
    }

    fn with(&self, integrator: &IntegratorKey, id: &EndpointId, count: impl FnOnce(&PerEndpoint)) {
        let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        count(endpoints.find(integrator, id).unwrap_or(&self.removed));
    }

    /// Appends the series of all endpoints to the text of the metrics.
    pub(super) fn write(&self, text: &mut String) {
        let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        let configured = endpoints.known.values().flatten().map(|(_, series)| &**series);
        endpoints::write(std::iter::once(&self.removed).chain(configured), text);
    }
}

pub(in crate::telemetry) const fn verdict_index(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Delivered => 0,
        Verdict::Retry(_) => 1,
        Verdict::Dead(_) => 2,
    }
}
