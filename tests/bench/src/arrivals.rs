//! What the receiver knows: which events arrived, how often and how late.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::event::{Event, now_micros};

/// How the receiver answers from now on, and what it forgets.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manner {
    /// Milliseconds before each answer.
    pub delay_ms: u64,
    /// Integrators (last part of the path) whose requests hang.
    pub hanging: BTreeSet<String>,
    /// Milliseconds before the answer to these.
    pub hang_ms: u64,
}

/// What has arrived since the last reset.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Count {
    /// Requests.
    pub requests: u64,
    /// Events, duplicates included.
    pub events: u64,
    /// Different events.
    pub distinct: u64,
    /// Different events for integrators that do not hang.
    pub healthy: u64,
    /// When the last healthy event arrived for the first time.
    pub last_healthy_micros: u64,
    /// Events whose id is none of ours, or without id.
    pub unknown: u64,
}

/// Publish to arrival of the healthy events since the last mark, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many events.
    pub count: u64,
    /// The median.
    pub p50: f64,
    /// 99 of 100 are faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// The receiver's memory.
#[derive(Debug, Default)]
pub struct Arrivals {
    count: Count,
    times: Vec<u8>,
    latencies: Vec<u32>,
}

impl Arrivals {
    /// Notes the events of one request; their ids are separated by commas.
    pub fn note(&mut self, ids: &str, hangs: bool) {
        let now = now_micros();
        self.count.requests += 1;
        for id in ids.split(',').map(str::trim) {
            self.count.events += 1;
            match Event::parse(id) {
                Some(event) => self.note_event(event, hangs, now),
                None => self.count.unknown += 1,
            }
        }
    }

    fn note_event(&mut self, event: Event, hangs: bool, now: u64) {
        let number = usize::try_from(event.number).unwrap_or(usize::MAX);
        if number >= self.times.len() {
            self.times.resize(number + 1, 0);
        }
        let times = &mut self.times[number];
        *times = times.saturating_add(1);
        if *times > 1 {
            return;
        }
        self.count.distinct += 1;
        if !hangs {
            self.count.healthy += 1;
            self.count.last_healthy_micros = now;
            self.latencies.push(u32::try_from(now.saturating_sub(event.published_micros)).unwrap_or(u32::MAX));
        }
    }

    /// What has arrived.
    #[must_use]
    pub fn count(&self) -> Count {
        self.count
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Forgets the latencies, and nothing else.
    pub fn mark(&mut self) {
        self.latencies.clear();
    }

    /// The latencies since the last mark.
    pub fn latency(&mut self) -> Latency {
        self.latencies.sort_unstable();
        let at = |share: f64| {
            let last = self.latencies.len().saturating_sub(1);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a list")]
            let place = (last as f64 * share).round() as usize;
            self.latencies.get(place).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
        };
        Latency { count: self.latencies.len() as u64, p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}
