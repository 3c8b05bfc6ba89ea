//! The process itself: how it is, what it runs on, and to load the integrators again.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Told, json, told};
use super::{Actor, Api};
use crate::telemetry::Fact;

/// How the process is.
#[derive(Debug, Serialize, ToSchema)]
struct Status {
    /// The version that runs.
    version: &'static str,
    /// Whether it can do its work: everything is consumed and copies can be published.
    ready: bool,
    /// What is missing to be ready, a line each.
    missing: Vec<String>,
    /// Integrators configured.
    integrators: usize,
    /// Their endpoints.
    endpoints: usize,
    /// Endpoints that operators have paused.
    paused: usize,
    /// Whether it is known which those are.
    pauses_known: bool,
    /// Requests in flight.
    in_flight: usize,
}

/// How the process is.
#[utoipa::path(get, path = "/api/v1/status", tag = "process", responses((status = OK, body = Status)))]
pub(super) async fn status(State(api): State<Api>) -> Response {
    let (missing, directory) = (api.readiness.missing(), Arc::clone(&api.directory.borrow()));
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        ready: missing.is_empty(),
        missing,
        integrators: directory.len(),
        endpoints: directory.all().count(),
        paused: api.holds.in_force().borrow().len(),
        pauses_known: api.holds.is_known(),
        in_flight: api.telemetry.in_flight(),
    };
    json(StatusCode::OK, &status)
}

/// The configuration in force: every key with its value, defaults included. Secrets are left out; of URLs stand scheme, host and port.
#[utoipa::path(get, path = "/api/v1/configuration", tag = "process", responses((status = OK, body = serde_json::Value)))]
pub(super) async fn configuration(State(api): State<Api>) -> Response {
    json(StatusCode::OK, &api.config.shown())
}

/// Loads the integrators again, as SIGHUP does. What came of it is told by the log and by `callbackd_config_last_reload_successful`.
#[utoipa::path(post, path = "/api/v1/reload", tag = "process", responses(
    (status = ACCEPTED, description = "They are being loaded.", body = Told),
    (status = TOO_MANY_REQUESTS, description = "One reload a second.", body = Told),
))]
pub(super) async fn reload(State(api): State<Api>, Extension(actor): Extension<Actor>) -> Response {
    // To load thousands of integrators takes a third of a second of the machine.
    if api.limits.reloads.check().is_err() {
        return told(StatusCode::TOO_MANY_REQUESTS, "one reload a second");
    }
    api.telemetry.record(&Fact::Audited { actor: actor.as_str(), action: "reload", detail: None });
    api.reload.reload();
    told(StatusCode::ACCEPTED, "the integrators are being loaded; the log and callbackd_config_last_reload_successful tell what came of it")
}
