//! Section `[outcomes]`: where upstream is told what became of its events.

use super::broker::{NAME_LIMIT, Names, name};
use super::kinds::{choice, size};
use super::reading::Reading;
use super::section::Section;
use super::source::Source;
use crate::domain::outcome::OutcomeKind;

/// Where upstream is told what became of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    /// The exchange; `None` when it is off.
    pub exchange: Option<String>,
    /// What is told.
    pub events: Vec<OutcomeKind>,
    /// Bytes that may wait to be published; what comes on top is left out.
    pub memory: usize,
}

impl Outcomes {
    /// None.
    #[must_use]
    pub fn off() -> Self {
        Self { exchange: None, events: OutcomeKind::ALL.to_vec(), memory: 8 << 20 }
    }
}

const KINDS: [(&str, OutcomeKind); 5] = [
    (OutcomeKind::Delivered.as_str(), OutcomeKind::Delivered),
    (OutcomeKind::Dead.as_str(), OutcomeKind::Dead),
    (OutcomeKind::Rejected.as_str(), OutcomeKind::Rejected),
    (OutcomeKind::EndpointFailing.as_str(), OutcomeKind::EndpointFailing),
    (OutcomeKind::EndpointRecovered.as_str(), OutcomeKind::EndpointRecovered),
];

pub(super) fn read(section: &mut Section<'_>) -> Outcomes {
    let off = Outcomes::off();
    Outcomes {
        exchange: section.optional("exchange", name(NAME_LIMIT)),
        events: section.list("events", KINDS.len(), choice(&KINDS)).unwrap_or(off.events),
        // Some hundreds of outcomes, and more than any machine has.
        memory: section.or("memory", off.memory, size(64 << 10..=1 << 40)),
    }
}

/// Refuses an exchange that something else has: outcomes would come in as events, or into a queue of ours.
pub(super) fn refuse_shared_exchange(reading: &Reading<'_>, outcomes: &Outcomes, names: &Names, sources: &[Source]) {
    let ours = [("route", &names.route), ("publish", &names.publish), ("unroutable", &names.unroutable)];
    let ours = ours.map(|(key, name)| (format!("broker.names.{key}"), name));
    let of_sources = sources.iter().map(|source| (format!("source[{:?}].exchange", source.name.as_str()), &source.exchange));
    let other = of_sources.chain(ours).find(|(_, name)| outcomes.exchange.as_ref() == Some(*name));
    if let Some((other, name)) = other {
        reading.problem("outcomes.exchange", &format!("the exchange {name:?} is also that of {other}"));
    }
}
