//! Who is told of an event.

use std::sync::Arc;

use super::event::Event;
use super::integrator::{Directory, Endpoint, SkipReason};
use super::names::EndpointId;

/// Where an event goes.
#[derive(Debug, Clone)]
pub enum Route {
    /// To these endpoints, each a delivery of its own; the others of the integrator are passed over.
    Deliveries {
        /// Who is told.
        to: Vec<Arc<Endpoint>>,
        /// Who is not, and why.
        skipped: Vec<(Arc<Endpoint>, SkipReason)>,
    },
    /// Nobody has the integrator's key.
    UnknownIntegrator,
    /// The delivery names an endpoint that the integrator does not have (any more).
    UnknownEndpoint,
}

/// Finds the endpoints of an event, or the one that `only` names.
#[must_use]
pub fn route(directory: &Directory, event: &Event, only: Option<&EndpointId>) -> Route {
    let Some(endpoints) = directory.endpoints(&event.integrator) else {
        return if only.is_some() { Route::UnknownEndpoint } else { Route::UnknownIntegrator };
    };
    let (mut to, mut skipped) = (Vec::new(), Vec::new());
    for endpoint in endpoints.iter().filter(|endpoint| only.is_none_or(|id| *id == endpoint.id)) {
        match endpoint.takes(&event.topic) {
            Ok(()) => to.push(Arc::clone(endpoint)),
            Err(reason) => skipped.push((Arc::clone(endpoint), reason)),
        }
    }
    if only.is_some() && to.is_empty() && skipped.is_empty() {
        return Route::UnknownEndpoint;
    }
    Route::Deliveries { to, skipped }
}
