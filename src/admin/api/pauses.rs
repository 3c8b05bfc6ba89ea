//! All pauses of operators, those of endpoints that are not configured any more among them.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::actions::release;
use super::answer::{Refusal, Told, json, told};
use super::{Actor, Api};
use crate::domain::names::{EndpointId, IntegratorKey};

/// Which endpoints operators have paused.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct Pauses {
    /// Whether that is known: not, if the delivery log's database was away since the worker started. Then endpoints that were paused before are called.
    pub known: bool,
    /// Each of them.
    pub pauses: Vec<PauseShown>,
}

/// A pause.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct PauseShown {
    /// Whose the endpoint is.
    pub integrator: String,
    /// Its name.
    pub endpoint: String,
    /// Whether there is such an endpoint. A pause stays when its endpoint is removed, and counts when it comes back.
    pub is_configured: bool,
    /// Since when. RFC 3339.
    pub since: String,
    /// Until when; none: until it is resumed. RFC 3339.
    pub until: Option<String>,
    /// Who wanted it so.
    pub paused_by: String,
    /// Why, in their words.
    pub reason: Option<String>,
}

/// Which endpoints operators have paused, configured or not.
#[utoipa::path(get, path = "/api/v1/pauses", tag = "endpoints", responses((status = OK, body = Pauses)))]
pub(super) async fn pauses(State(api): State<Api>) -> Response {
    json(StatusCode::OK, &all(&api))
}

/// Ends a pause, also one of an endpoint that is not configured any more.
#[utoipa::path(delete, path = "/api/v1/pauses/{integrator}/{endpoint}", tag = "endpoints",
    params(("integrator" = String, Path, description = "The integrator's key", example = "acme"), ("endpoint" = String, Path, description = "The endpoint's name", example = "main")),
    responses((status = OK, description = "It is ended.", body = Told), (status = NOT_FOUND, description = "There is no such pause.", body = Told),
        (status = CONFLICT, description = "There is no delivery log to keep any.", body = Told),
        (status = SERVICE_UNAVAILABLE, description = "The delivery log does not take it.", body = Told)))]
pub(super) async fn end(State(api): State<Api>, Extension(actor): Extension<Actor>, Path(names): Path<(String, String)>) -> Response {
    match ended(&api, &actor, names).await {
        Ok(()) => told(StatusCode::OK, "the pause is ended"),
        Err(refusal) => refusal.into_response(),
    }
}

/// Ends a pause by the names of its endpoint.
pub(in crate::admin) async fn ended(api: &Api, actor: &Actor, (integrator, endpoint): (String, String)) -> Result<(), Refusal> {
    let names = IntegratorKey::try_new(integrator).ok().zip(EndpointId::try_new(endpoint).ok());
    let holds = Arc::clone(&api.holds.in_force().borrow());
    let Some((integrator, endpoint)) = names.filter(|(integrator, endpoint)| holds.on(integrator, endpoint).is_some()) else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "there is no such pause"));
    };
    release(api, actor, (&integrator, &endpoint)).await
}

/// All pauses.
pub(in crate::admin) fn all(api: &Api) -> Pauses {
    let (holds, directory) = (Arc::clone(&api.holds.in_force().borrow()), Arc::clone(&api.directory.borrow()));
    let shown = holds.iter().map(|(integrator, endpoint, hold)| PauseShown {
        integrator: integrator.to_string(),
        endpoint: endpoint.to_string(),
        is_configured: directory.endpoint(integrator, endpoint).is_some(),
        since: hold.since.to_string(),
        until: hold.until.map(|until| until.to_string()),
        paused_by: hold.actor.clone(),
        reason: hold.reason.clone(),
    });
    Pauses { known: api.holds.is_known(), pauses: shown.collect() }
}
