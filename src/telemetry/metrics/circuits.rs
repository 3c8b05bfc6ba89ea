//! Endpoints that are left alone, or were since the process started: the others have no series here and cost nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::Maker;
use crate::clock;
use crate::domain::circuit::TripCause;
use crate::domain::integrator::{Directory, Endpoint};
use crate::domain::names::{EndpointId, IntegratorKey};
use crate::domain::time::Timestamp;
use crate::telemetry::REMOVED;
use crate::telemetry::facts::Fact;

const LABELS: [&str; 2] = ["integrator", "endpoint"];

/// What is told about circuits and pauses.
pub(in crate::telemetry) struct Circuits {
    families: Families,
    /// Openings at endpoints that are not configured any more.
    removed: IntCounter,
    endpoints: Mutex<Endpoints>,
    /// Endpoints that operators have paused.
    pub(in crate::telemetry) held: IntGauge,
    /// Whether it is known which those are.
    pub(in crate::telemetry) holds_known: IntGauge,
}

struct Families {
    state: IntGaugeVec,
    since: IntGaugeVec,
    next_probe: IntGaugeVec,
    openings: IntCounterVec,
}

type Name = (IntegratorKey, EndpointId);

#[derive(Default)]
struct Endpoints {
    /// `None`: no directory has been told yet, and an endpoint that has a configuration is proof enough of it.
    configured: Option<HashSet<Name>>,
    /// Those that have series.
    met: HashMap<Name, Standing>,
}

/// What is known of one endpoint. A pause hides the circuit, as nothing is tried meanwhile.
#[derive(Clone, Copy)]
struct Standing {
    circuit: Stage,
    /// Since when the circuit is closed and nothing is paused, or the circuit is not closed: a probe ends no outage.
    since: Timestamp,
    pause: Option<Pause>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Closed,
    Open { next_probe_at: Timestamp },
    Probing,
}

#[derive(Clone, Copy)]
struct Pause {
    since: Timestamp,
    until: Timestamp,
}

impl Circuits {
    pub(super) fn new(maker: &Maker) -> Self {
        let families = Families {
            state: maker.gauges(
                "callbackd_circuit_state",
                "0 while an endpoint is told as usual, 1 while its circuit is open, 2 while one request probes it, 3 while it is paused by a 410",
                &LABELS,
            ),
            since: maker.gauges(
                "callbackd_circuit_since_timestamp_seconds",
                "Since when the endpoint is told as usual, or is not (a probe ends no outage), or is paused, in seconds since the Unix epoch",
                &LABELS,
            ),
            next_probe: maker.gauges(
                "callbackd_circuit_next_probe_timestamp_seconds",
                "When an endpoint whose circuit is open or that is paused is tried again, in seconds since the Unix epoch",
                &LABELS,
            ),
            openings: maker.counters(
                "callbackd_circuit_openings_total",
                "Times that an endpoint's circuit opened; probes that failed are not counted",
                &LABELS,
            ),
        };
        let removed = families.openings.with_label_values(&[REMOVED, REMOVED]);
        let held = maker.gauge("callbackd_endpoints_held", "Endpoints that operators have paused");
        let holds_known = maker.gauge(
            "callbackd_holds_known",
            "1 if it is known which endpoints operators have paused, 0 if that could not be read since the start: then none is",
        );
        Self { families, removed, endpoints: Mutex::default(), held, holds_known }
    }

    /// Takes away the series of endpoints that are not in `directory`.
    pub(in crate::telemetry) fn configured(&self, directory: &Directory) {
        let configured: HashSet<Name> = directory.all().map(|endpoint| name(endpoint)).collect();
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.met.retain(|name, _| {
            let stays = configured.contains(name);
            if !stays {
                self.families.remove(name);
            }
            stays
        });
        endpoints.configured = Some(configured);
    }

    pub(super) fn count(&self, fact: &Fact<'_>) {
        let now = clock::now();
        match *fact {
            Fact::CircuitOpened { endpoint, cause, next_probe_at, .. } => {
                // After a probe it stays as open as it was.
                let opens = !matches!(cause, TripCause::Probe | TripCause::ProbeLost);
                self.change(endpoint, opens, |standing| standing.turn(Stage::Open { next_probe_at }, now));
            }
            Fact::CircuitProbing { endpoint } => self.change(endpoint, false, |standing| standing.turn(Stage::Probing, now)),
            Fact::CircuitClosed { endpoint, .. } => self.change(endpoint, false, |standing| standing.turn(Stage::Closed, now)),
            Fact::EndpointPaused { endpoint, until } => {
                self.change(endpoint, false, |standing| standing.pause = Some(Pause { since: now, until }));
            }
            Fact::EndpointResumed { endpoint, .. } => self.change(endpoint, false, |standing| {
                standing.pause = None;
                standing.since = now;
            }),
            _ => {}
        }
    }

    /// Notes a change at an endpoint and shows it; of one that is not configured any more only an opening is counted.
    fn change(&self, endpoint: &Endpoint, opens: bool, change: impl FnOnce(&mut Standing)) {
        let name = name(endpoint);
        // Held until the series are made, so that those of a removed endpoint cannot come back.
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if endpoints.configured.as_ref().is_some_and(|configured| !configured.contains(&name)) {
            self.removed.inc_by(u64::from(opens));
            return;
        }
        if opens {
            self.families.openings.with_label_values(&labels(&name)).inc();
        }
        let standing = endpoints.met.entry(name.clone()).or_insert_with(|| Standing::new(clock::now()));
        change(standing);
        self.families.show(&name, standing);
    }
}

impl Standing {
    const fn new(now: Timestamp) -> Self {
        Self { circuit: Stage::Closed, since: now, pause: None }
    }

    fn turn(&mut self, stage: Stage, now: Timestamp) {
        if (self.circuit == Stage::Closed) != (stage == Stage::Closed) {
            self.since = now;
        }
        self.circuit = stage;
    }
}

impl Families {
    fn show(&self, name: &Name, standing: &Standing) {
        let (state, since, next) = match (standing.pause, standing.circuit) {
            (Some(pause), _) => (3, pause.since, Some(pause.until)),
            (None, Stage::Closed) => (0, standing.since, None),
            (None, Stage::Open { next_probe_at }) => (1, standing.since, Some(next_probe_at)),
            (None, Stage::Probing) => (2, standing.since, None),
        };
        let labels = labels(name);
        self.state.with_label_values(&labels).set(state);
        self.since.with_label_values(&labels).set(since.seconds());
        match next {
            Some(next) => self.next_probe.with_label_values(&labels).set(next.seconds()),
            None => drop(self.next_probe.remove_label_values(&labels)),
        }
    }

    /// Takes all series of an endpoint away. Those that were never made are not there to be removed: no failure.
    fn remove(&self, name: &Name) {
        let labels = labels(name);
        for family in [&self.state, &self.since, &self.next_probe] {
            let _ = family.remove_label_values(&labels);
        }
        let _ = self.openings.remove_label_values(&labels);
    }
}

fn name(endpoint: &Endpoint) -> Name {
    (endpoint.integrator.clone(), endpoint.id.clone())
}

fn labels((integrator, endpoint): &Name) -> [&str; 2] {
    [integrator.as_str(), endpoint.as_str()]
}
