//! The lines of endpoints that are left alone for a while.

use tracing::{info, warn};

use super::{NAME_LIMIT, TEXT_LIMIT, cut, ms};
use crate::telemetry::facts::Fact;

pub(super) fn write(fact: &Fact<'_>) {
    match *fact {
        Fact::CircuitOpened { endpoint, cause, failures, wait, next_probe_at } => warn!(
            target: "callbackd",
            integrator = &*cut(endpoint.integrator.as_str(), NAME_LIMIT),
            endpoint = endpoint.id.as_str(),
            cause = cause.as_str(),
            failures,
            wait_ms = ms(wait),
            next_probe_at = next_probe_at.to_string(),
            "circuit opened"
        ),
        Fact::CircuitProbing { endpoint } => info!(
            target: "callbackd",
            integrator = &*cut(endpoint.integrator.as_str(), NAME_LIMIT),
            endpoint = endpoint.id.as_str(),
            "circuit probing"
        ),
        Fact::CircuitClosed { endpoint, open_for } => info!(
            target: "callbackd",
            integrator = &*cut(endpoint.integrator.as_str(), NAME_LIMIT),
            endpoint = endpoint.id.as_str(),
            open_for_ms = ms(open_for),
            "circuit closed"
        ),
        Fact::EndpointPaused { endpoint, until } => warn!(
            target: "callbackd",
            integrator = &*cut(endpoint.integrator.as_str(), NAME_LIMIT),
            endpoint = endpoint.id.as_str(),
            until = until.to_string(),
            "endpoint paused"
        ),
        Fact::EndpointResumed { endpoint, cause } => info!(
            target: "callbackd",
            integrator = &*cut(endpoint.integrator.as_str(), NAME_LIMIT),
            endpoint = endpoint.id.as_str(),
            cause = cause.as_str(),
            "endpoint resumed"
        ),
        Fact::EndpointHeld { integrator, endpoint, hold } => warn!(
            target: "callbackd",
            integrator = &*cut(integrator.as_str(), NAME_LIMIT),
            endpoint = endpoint.as_str(),
            actor = &*hold.actor,
            since = hold.since.to_string(),
            until = hold.until.map(|until| until.to_string()),
            "endpoint held"
        ),
        Fact::EndpointReleased { integrator, endpoint } => info!(
            target: "callbackd",
            integrator = &*cut(integrator.as_str(), NAME_LIMIT),
            endpoint = endpoint.as_str(),
            "endpoint released"
        ),
        Fact::HoldsUnread { error } => warn!(target: "callbackd", error = &*cut(error, TEXT_LIMIT), "holds unread"),
        Fact::HoldsRead { count } => info!(target: "callbackd", count, "holds read"),
        _ => {}
    }
}
