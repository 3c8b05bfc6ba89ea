//! Endpoints that operators have paused.

use std::collections::BTreeMap;

use super::names::{EndpointId, IntegratorKey};
use super::time::Timestamp;

/// That an endpoint is not called, because an operator wants it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Since when.
    pub since: Timestamp,
    /// Until when; without an end, until an operator lets it go on.
    pub until: Option<Timestamp>,
    /// Who wants it so, as audit lines name them.
    pub actor: String,
    /// Why, in the operator's words.
    pub reason: Option<String>,
}

/// All endpoints that are on hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds(BTreeMap<(IntegratorKey, EndpointId), Hold>);

impl Holds {
    /// Those of the given ones that are not over.
    #[must_use]
    pub fn in_force(all: impl IntoIterator<Item = (IntegratorKey, EndpointId, Hold)>, now: Timestamp) -> Self {
        let in_force = all.into_iter().filter(|(.., hold)| hold.until.is_none_or(|until| until > now));
        Self(in_force.map(|(integrator, endpoint, hold)| ((integrator, endpoint), hold)).collect())
    }

    /// The hold on an endpoint.
    #[must_use]
    pub fn on(&self, integrator: &IntegratorKey, endpoint: &EndpointId) -> Option<&Hold> {
        // Nearly always there are none, and then nothing has to be cloned to look.
        if self.0.is_empty() { None } else { self.0.get(&(integrator.clone(), endpoint.clone())) }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&IntegratorKey, &EndpointId, &Hold)> {
        self.0.iter().map(|((integrator, endpoint), hold)| (integrator, endpoint, hold))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_ends_at_its_time_and_one_without_end_does_not() {
        let name = |text: &str| (IntegratorKey::try_new(text).unwrap(), EndpointId::try_new("main").unwrap());
        let hold = |until| Hold { since: Timestamp::from_millis(1), until, actor: "ops".to_owned(), reason: None };
        let all = [("a", None), ("b", Some(5)), ("c", Some(6))].map(|(key, until)| {
            let (integrator, endpoint) = name(key);
            (integrator, endpoint, hold(until.map(Timestamp::from_millis)))
        });
        let holds = Holds::in_force(all, Timestamp::from_millis(5));
        let on = |key: &str| holds.on(&name(key).0, &name(key).1).is_some();
        assert_eq!((on("a"), on("b"), on("c"), on("d"), holds.len()), (true, false, true, false, 2));
    }
}
