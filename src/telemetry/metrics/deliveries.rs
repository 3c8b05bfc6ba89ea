//! Counts of deliveries: attempts, skips, dead letters, and how long things took.

use std::collections::HashMap;
use std::sync::{OnceLock, PoisonError, RwLock};

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};

use super::Maker;
use crate::domain::dead::DeadReason;
use crate::domain::decide::Verdict;
use crate::domain::integrator::{Directory, SkipReason};
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
pub(in crate::telemetry) const CLASSES: [&str; 14] = [
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "other_status",
    "timeout",
    "dns",
    "connect",
    "tls",
    "blocked",
    "disconnected",
    "not_http",
    "local",
    "other",
];

/// The place of `other_status` in [`CLASSES`].
pub(in crate::telemetry) const OTHER_STATUS: usize = 4;

/// What [`Verdict::as_str`] can say, in the order of [`verdict_index`].
pub(in crate::telemetry) const VERDICTS: [&str; 3] = ["delivered", "retry", "dead"];

/// What is counted per delivery.
pub(in crate::telemetry) struct Deliveries {
    families: Families,
    duration: Histogram,
    latency: Histogram,
    pub(in crate::telemetry) in_flight: IntGauge,
    pub(in crate::telemetry) lane_waiting: IntGauge,
    /// Held for reading while a fact is counted, so that a removed series cannot come back.
    endpoints: RwLock<Endpoints>,
    removed: PerEndpoint,
}

/// The metrics that are labelled by endpoint.
struct Families {
    attempts: IntCounterVec,
    skipped: IntCounterVec,
    dead: IntCounterVec,
}

#[derive(Default)]
struct Endpoints {
    /// The directory has been told: who is not in `known` is not configured.
    complete: bool,
    known: HashMap<IntegratorKey, HashMap<EndpointId, PerEndpoint>>,
}

/// The series of one endpoint, each made when first needed, so that counting an attempt looks up no label.
struct PerEndpoint {
    integrator: String,
    endpoint: String,
    attempts: [[OnceLock<IntCounter>; CLASSES.len()]; VERDICTS.len()],
    skipped: [OnceLock<IntCounter>; SkipReason::ALL.len()],
    dead: [OnceLock<IntCounter>; DeadReason::ALL.len()],
}

impl Deliveries {
    pub(super) fn new(maker: &Maker) -> Self {
        let families = Families::new(maker);
        let removed = PerEndpoint::new(REMOVED, REMOVED);
        removed.dead(&families, DeadReason::EndpointRemoved);
        Self {
            families,
            duration: maker.histogram("callbackd_attempt_duration_seconds", "From the start of an HTTP attempt to its outcome", &DURATION),
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
            let kept = before.get_mut(&endpoint.integrator).and_then(|of_integrator| of_integrator.remove(&endpoint.id));
            let series = kept.unwrap_or_else(|| PerEndpoint::new(endpoint.integrator.as_str(), endpoint.id.as_str()));
            series.start_at_zero(&self.families);
            endpoints.known.entry(endpoint.integrator.clone()).or_default().insert(endpoint.id.clone(), series);
        }
        for gone in before.into_values().flat_map(HashMap::into_values) {
            gone.remove(&self.families);
        }
    }

    pub(super) fn count(&self, fact: &Fact<'_>) {
        match *fact {
            Fact::Attempted { endpoint, reply, verdict, latency, .. } => {
                self.duration.observe(reply.took.as_secs_f64());
                if let Some(latency) = latency {
                    self.latency.observe(latency.as_secs_f64());
                }
                self.meet(&endpoint.integrator, &endpoint.id);
                self.with(&endpoint.integrator, &endpoint.id, |series| series.attempt(&self.families, verdict, reply.class()));
            }
            Fact::Skipped { endpoint, reason, .. } => {
                self.meet(&endpoint.integrator, &endpoint.id);
                self.with(&endpoint.integrator, &endpoint.id, |series| series.skip(&self.families, reason));
            }
            Fact::DeadLettered { event, endpoint, reason, .. } => {
                self.with(event.integrator, endpoint, |series| series.dead(&self.families, reason).inc());
            }
            _ => {}
        }
    }

    /// Before any directory was told, an endpoint that has a configuration is proof enough that it is configured.
    fn meet(&self, integrator: &IntegratorKey, id: &EndpointId) {
        let known = {
            let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
            endpoints.complete || endpoints.known.get(integrator).is_some_and(|of_integrator| of_integrator.contains_key(id))
        };
        if known {
            return;
        }
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        if !endpoints.complete {
            let of_integrator = endpoints.known.entry(integrator.clone()).or_default();
            of_integrator.entry(id.clone()).or_insert_with(|| PerEndpoint::new(integrator.as_str(), id.as_str()));
        }
    }

    fn with(&self, integrator: &IntegratorKey, id: &EndpointId, count: impl FnOnce(&PerEndpoint)) {
        let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        count(endpoints.known.get(integrator).and_then(|of_integrator| of_integrator.get(id)).unwrap_or(&self.removed));
    }
}

impl Families {
    fn new(maker: &Maker) -> Self {
        Self {
            attempts: maker.counters(
                "callbackd_attempts_total",
                "HTTP attempts, by endpoint, by what follows and by what the endpoint did",
                &["integrator", "endpoint", "verdict", "class"],
            ),
            skipped: maker.counters(
                "callbackd_deliveries_skipped_total",
                "Events that an endpoint is not told of, on purpose, by reason",
                &["integrator", "endpoint", "reason"],
            ),
            dead: maker.counters(
                "callbackd_dead_letters_total",
                "Deliveries given up and moved to the dead letters, by reason",
                &["reason", "integrator", "endpoint"],
            ),
        }
    }
}

impl PerEndpoint {
    fn new(integrator: &str, endpoint: &str) -> Self {
        Self {
            integrator: integrator.to_owned(),
            endpoint: endpoint.to_owned(),
            attempts: Default::default(),
            skipped: Default::default(),
            dead: Default::default(),
        }
    }

    /// Makes the few series whose first count must be seen as a rise; all of every endpoint would be too many.
    fn start_at_zero(&self, families: &Families) {
        self.attempt_counter(families, 0, 0);
        for reason in DeadReason::ALL {
            // A removed endpoint has no series any more: that reason is counted elsewhere.
            if reason != DeadReason::EndpointRemoved {
                self.dead(families, reason);
            }
        }
    }

    fn attempt(&self, families: &Families, verdict: &Verdict, class: &str) {
        let known = CLASSES.iter().position(|candidate| *candidate == class);
        debug_assert!(known.is_some(), "CLASSES lacks {class}");
        // An attempt that is counted in the wrong place is still better than one that is not counted.
        self.attempt_counter(families, verdict_index(verdict), known.unwrap_or(OTHER_STATUS)).inc();
    }

    fn attempt_counter(&self, families: &Families, verdict: usize, class: usize) -> &IntCounter {
        let labels = || [self.integrator.as_str(), &self.endpoint, VERDICTS[verdict], CLASSES[class]];
        self.attempts[verdict][class].get_or_init(|| families.attempts.with_label_values(&labels()))
    }

    fn skip(&self, families: &Families, reason: SkipReason) {
        let labels = || [self.integrator.as_str(), &self.endpoint, reason.as_str()];
        let index = SkipReason::ALL.iter().position(|candidate| *candidate == reason).unwrap_or_default();
        self.skipped[index].get_or_init(|| families.skipped.with_label_values(&labels())).inc();
    }

    fn dead(&self, families: &Families, reason: DeadReason) -> &IntCounter {
        let labels = || [reason.as_str(), &self.integrator, &self.endpoint];
        let index = DeadReason::ALL.iter().position(|candidate| *candidate == reason).unwrap_or_default();
        self.dead[index].get_or_init(|| families.dead.with_label_values(&labels()))
    }

    /// Takes all series of the endpoint away. Those that were never made are not there to be removed: no failure.
    fn remove(&self, families: &Families) {
        let (integrator, endpoint) = (self.integrator.as_str(), self.endpoint.as_str());
        for verdict in VERDICTS {
            for class in CLASSES {
                let _ = families.attempts.remove_label_values(&[integrator, endpoint, verdict, class]);
            }
        }
        for reason in SkipReason::ALL {
            let _ = families.skipped.remove_label_values(&[integrator, endpoint, reason.as_str()]);
        }
        for reason in DeadReason::ALL {
            let _ = families.dead.remove_label_values(&[reason.as_str(), integrator, endpoint]);
        }
    }
}

pub(in crate::telemetry) const fn verdict_index(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Delivered => 0,
        Verdict::Retry(_) => 1,
        Verdict::Dead(_) => 2,
    }
}
