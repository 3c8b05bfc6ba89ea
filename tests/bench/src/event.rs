//! The events: about 320 bytes of enveloped JSON, whose id tells the receiver its number and when it was published.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch. Publisher and receiver run on one machine, so one clock.
#[must_use]
pub fn now_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// One event.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// Its number within the run, from 0.
    pub number: u64,
    /// When it is published.
    pub published_micros: u64,
}

impl Event {
    /// The event of that number, published now.
    #[must_use]
    pub fn now(number: u64) -> Self {
        Self { number, published_micros: now_micros() }
    }

    /// `7-1764000000000000`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{:07}-{}", self.number, self.published_micros)
    }

    /// The event with that id; nothing where it is none of ours.
    #[must_use]
    pub fn parse(id: &str) -> Option<Self> {
        let (number, published) = id.split_once('-')?;
        Some(Self { number: number.parse().ok()?, published_micros: published.parse().ok()? })
    }

    /// The message's body.
    #[must_use]
    pub fn body(&self, integrator: &str) -> String {
        let id = self.id();
        format!(
            r#"{{"id":"{id}","integrator":"{integrator}","topic":"complianceRecord","occurredAt":"2025-09-03T06:38:08Z","data":[{{"status":100,"key":"f283d8c84766484892cf097db8c5e2b5","modified":"2025-09-03T06:38:08","customerKey":"885eb2cc-12d6-49dd-b52a-a6634f510e17","riskClass":"low","comment":"nothing was found"}}]}}"#
        )
    }
}

/// The key of an integrator of that number, also the end of its endpoint's path.
#[must_use]
pub fn integrator(number: usize) -> String {
    format!("i{number}")
}
