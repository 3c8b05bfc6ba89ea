//! The state of the links to the broker, and what went wrong on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{Maker, Series};
use crate::telemetry::facts::Fact;

/// What is counted per link and per queue.
pub(super) struct Broker {
    connected: IntGaugeVec,
    reconnects: IntCounterVec,
    blocked: IntGauge,
    publish_failures: IntCounterVec,
    stale_acks: IntCounterVec,
    quarantined: IntGaugeVec,
    quarantines: IntCounterVec,
    prefetch: IntGaugeVec,
    narrowed: IntCounterVec,
    given_back: IntCounterVec,
    links: Series<String, Link>,
}

struct Link {
    connected: IntGauge,
    reconnects: IntCounter,
    /// Has been connected before: the next time is a reconnect.
    met: AtomicBool,
}

impl Broker {
    pub(super) fn new(maker: &Maker) -> Self {
        Self {
            connected: maker.gauges(
                "callbackd_broker_connected",
                "1 while the link to the broker is up; the link is the queue that it consumes, or publish",
                &["link"],
            ),
            reconnects: maker.counters(
                "callbackd_broker_reconnects_total",
                "Times a link to the broker came up again after it had been lost",
                &["link"],
            ),
            blocked: maker.gauge("callbackd_broker_blocked", "1 while the broker does not read what we publish (memory or disk alarm)"),
            publish_failures: maker.counters(
                "callbackd_publish_failures_total",
                "Copies that the broker did not confirm and that are published again, by the queue they were meant for",
                &["queue"],
            ),
            stale_acks: maker.counters(
                "callbackd_stale_acks_total",
                "Acknowledgements that came too late for their channel: the broker delivers these messages again",
                &["queue"],
            ),
            quarantined: maker.gauges(
                "callbackd_quarantined",
                "1 while the queue is consumed one by one because of a message that cannot be read",
                &["queue"],
            ),
            quarantines: maker.counters(
                "callbackd_quarantines_total",
                "Times that a message that cannot be read broke the connection of its queue, which is consumed one by one from then on",
                &["queue"],
            ),
            prefetch: maker.gauges(
                "callbackd_prefetch",
                "Messages that the queue may have with the worker at one time: as configured, or fewer where they are large",
                &["queue"],
            ),
            narrowed: maker.counters(
                "callbackd_window_narrowed_total",
                "Times that the queue's messages were too large for as many of them at one time as before",
                &["queue"],
            ),
            given_back: maker.counters(
                "callbackd_given_back_total",
                "Messages given back to the queue because there was no room for them; each counts against its delivery limit",
                &["queue"],
            ),
            links: Series::default(),
        }
    }

    /// Makes the series of the link that publishes.
    pub(super) fn publishes_through(&self, link: &str) {
        self.link(link);
    }

    /// Makes the series of a queue that is published to.
    pub(super) fn publishes_to(&self, queue: &str) {
        self.publish_failures.with_label_values(&[queue]);
    }

    /// Makes the series of a queue that is consumed.
    pub(super) fn consumes(&self, queue: &str) {
        self.link(queue);
        self.stale_acks.with_label_values(&[queue]);
        self.quarantined.with_label_values(&[queue]);
        self.quarantines.with_label_values(&[queue]);
        self.prefetch.with_label_values(&[queue]);
        self.narrowed.with_label_values(&[queue]);
        self.given_back.with_label_values(&[queue]);
    }

    pub(super) fn count(&self, fact: &Fact<'_>) {
        match *fact {
            Fact::BrokerConnected { link } => {
                let link = self.link(link);
                link.connected.set(1);
                if link.met.swap(true, Ordering::Relaxed) {
                    link.reconnects.inc();
                }
            }
            Fact::BrokerLost { link, .. } => self.link(link).connected.set(0),
            Fact::BrokerBlocked { .. } => self.blocked.set(1),
            Fact::BrokerUnblocked => self.blocked.set(0),
            Fact::Quarantined { queue } => {
                self.quarantined.with_label_values(&[queue]).set(1);
                self.quarantines.with_label_values(&[queue]).inc();
            }
            Fact::QuarantineOver { queue } => self.quarantined.with_label_values(&[queue]).set(0),
            Fact::Consuming { queue, prefetch } => self.prefetch.with_label_values(&[queue]).set(prefetch.into()),
            Fact::WindowNarrowed { queue, given_back, .. } => {
                self.narrowed.with_label_values(&[queue]).inc();
                self.given_back.with_label_values(&[queue]).inc_by(given_back);
            }
            Fact::PublishFailed { queue, .. } => self.publish_failures.with_label_values(&[queue]).inc(),
            Fact::StaleAcks { queue, count } => self.stale_acks.with_label_values(&[queue]).inc_by(count),
            _ => {}
        }
    }

    fn link(&self, name: &str) -> Arc<Link> {
        let make = || Link {
            connected: self.connected.with_label_values(&[name]),
            reconnects: self.reconnects.with_label_values(&[name]),
            met: AtomicBool::new(false),
        };
        self.links.of(name, || name.to_owned(), make)
    }
}
