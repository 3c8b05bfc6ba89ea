//! The Prometheus metrics: what is counted and under which names. `deploy/METRICS.md` is the table for operators; a test
//! compares the two.

mod broker;
mod circuits;
pub(super) mod deliveries;
pub(super) mod delivery_log;
mod endpoints;
pub(super) mod events;
mod jobs;
pub(super) mod outcomes;
mod service;
pub(super) mod traces;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::facts::Fact;
use super::logging;
use crate::config::Config;
use broker::Broker;
use circuits::Circuits;
use deliveries::Deliveries;
use delivery_log::DeliveryLog;
use events::Events;
use jobs::Jobs;
use outcomes::Outcomes;
use service::Service;
use traces::Traces;

/// The link of [`Fact::BrokerConnected`] that publishes; every other link is the queue that it consumes.
const PUBLISH_LINK: &str = "publish";

/// All metrics of one process, in a registry of their own.
pub(super) struct Metrics {
    registry: Registry,
    pub(super) events: Events,
    pub(super) deliveries: Deliveries,
    pub(super) circuits: Circuits,
    pub(super) delivery_log: DeliveryLog,
    pub(super) outcomes: Outcomes,
    pub(super) traces: Traces,
    broker: Broker,
    jobs: Jobs,
    service: Service,
}

impl Default for Metrics {
    fn default() -> Self {
        let maker = Maker { registry: Registry::new() };
        valid(maker.registry.register(Box::new(ProcessCollector::for_self())));
        Self {
            events: Events::new(&maker),
            deliveries: Deliveries::new(&maker),
            circuits: Circuits::new(&maker),
            delivery_log: DeliveryLog::new(&maker),
            outcomes: Outcomes::new(&maker),
            traces: Traces::new(&maker),
            broker: Broker::new(&maker),
            jobs: Jobs::new(&maker),
            service: Service::new(&maker),
            registry: maker.registry,
        }
    }
}

impl Metrics {
    /// Makes the series whose labels the configuration already knows.
    pub(super) fn start_at_zero(&self, config: &Config) {
        let names = &config.broker.names;
        self.broker.publishes_through(PUBLISH_LINK);
        self.broker.publishes_to(&names.dead);
        self.broker.publishes_to(&names.rejected);
        for source in &config.sources {
            self.events.comes_from(&source.name);
            self.broker.consumes(&source.queue);
            self.broker.consumes(&source.due_queue());
            for rung in config.ladder.rungs() {
                self.broker.publishes_to(&source.wait_queue(rung));
            }
        }
    }

    /// Counts a fact. Each fact belongs to exactly one group; the others pass it over.
    pub(super) fn count(&self, fact: &Fact<'_>) {
        match fact {
            Fact::Received { .. } | Fact::Settled { .. } | Fact::Rejected { .. } | Fact::Waits { .. } => {
                self.events.count(fact);
            }
            Fact::Attempted { .. }
            | Fact::Skipped { .. }
            | Fact::DeadLettered { .. }
            | Fact::TokenGranted { .. }
            | Fact::TokenRefused { .. } => self.deliveries.count(fact),
            Fact::CircuitOpened { .. }
            | Fact::CircuitProbing { .. }
            | Fact::CircuitClosed { .. }
            | Fact::EndpointPaused { .. }
            | Fact::EndpointResumed { .. } => self.circuits.count(fact),
            Fact::DeliveryLogReady { .. }
            | Fact::DeliveryLogFailed { .. }
            | Fact::DeliveryLogFull
            | Fact::DeliveryLogWritten { .. }
            | Fact::DeliveryLogNotTrimmed { .. }
            | Fact::DeliveryLogTrimmed { .. } => self.delivery_log.count(fact),
            Fact::BrokerConnected { .. }
            | Fact::BrokerLost { .. }
            | Fact::BrokerBlocked { .. }
            | Fact::BrokerUnblocked
            | Fact::Quarantined { .. }
            | Fact::QuarantineOver { .. }
            | Fact::Consuming { .. }
            | Fact::WindowNarrowed { .. }
            | Fact::PublishFailed { .. }
            | Fact::StaleAcks { .. } => self.broker.count(fact),
            Fact::Started { .. } | Fact::Reloaded { .. } | Fact::ReloadRefused { .. } | Fact::ApiRefused { .. } => self.service.count(fact),
            Fact::EndpointHeld { .. } | Fact::EndpointReleased { .. } | Fact::HoldsUnread { .. } | Fact::HoldsRead { .. } => {}
            Fact::JobEnded { .. } | Fact::JobsNotRecorded { .. } | Fact::JobsRecorded => self.jobs.count(fact),
            // What they say is counted one by one, where it happens.
            Fact::OutcomesReady { .. }
            | Fact::OutcomesFailed { .. }
            | Fact::OutcomesFull
            | Fact::OutcomesRefused { .. }
            | Fact::OutcomesDropped { .. }
            | Fact::TracesReady { .. }
            | Fact::TracesFailed { .. }
            | Fact::TracesFull
            | Fact::TracesRefused { .. }
            | Fact::TracesDropped { .. } => {}
            Fact::Audited { .. } | Fact::TopologyReady { .. } | Fact::Stopping { .. } | Fact::Stopped { .. } => {}
        }
    }

    /// All metrics in the text format.
    pub(super) fn text(&self) -> String {
        self.service.log_lines_dropped(logging::dropped_lines());
        // Fails only for a family without samples, which the registry leaves out; a scrape then shows why it is empty.
        let text = TextEncoder::new().encode_to_string(&self.registry.gather());
        let mut text = text.unwrap_or_else(|error| format!("# {error}\n"));
        self.deliveries.write(&mut text);
        text
    }
}

/// Makes metrics and registers them.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.registered(valid(IntCounter::new(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.registered(valid(IntCounterVec::new(Opts::new(name, help), labels)))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.registered(valid(IntGauge::new(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.registered(valid(IntGaugeVec::new(Opts::new(name, help), labels)))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.registered(valid(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))))
    }

    fn registered<C: Collector + Clone + 'static>(&self, metric: C) -> C {
        valid(self.registry.register(Box::new(metric.clone())));
        metric
    }
}

/// Names, labels and buckets are constants of this module, and every test makes them all: a bad one never leaves the desk.
fn valid<T>(made: prometheus::Result<T>) -> T {
    made.unwrap_or_else(|error| panic!("the table of metrics is wrong: {error}"))
}

/// Series by a configured name, made when first met.
struct Series<K, V>(RwLock<HashMap<K, Arc<V>>>);

impl<K, V> Default for Series<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Eq + Hash + Borrow<str>, V> Series<K, V> {
    /// The series of `name`; only the first time allocates.
    fn of(&self, name: &str, owned: impl FnOnce() -> K, make: impl FnOnce() -> V) -> Arc<V> {
        if let Some(found) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Arc::clone(found);
        }
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(owned()).or_insert_with(|| Arc::new(make())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_the_log_dropped_are_counted_once() {
        let metrics = Metrics::default();
        for (total, shown) in [(0, 0), (3, 3), (3, 3), (2, 3), (7, 7)] {
            metrics.service.log_lines_dropped(total);
            let line = format!("callbackd_log_lines_dropped_total {shown}");
            assert!(metrics.text().lines().any(|candidate| candidate == line), "{line}");
        }
    }
}
