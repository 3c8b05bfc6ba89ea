//! What operators do about an endpoint: pause it, let it go on, ping it.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Refusal, Sent, Told, json};
use super::endpoints::{EndpointShown, Named, millis, shown};
use super::{Actor, Api};
use crate::clock;
use crate::config::parse_future;
use crate::domain::hold::Hold;
use crate::domain::integrator::Endpoint;
use crate::domain::names::{EndpointId, IntegratorKey};
use crate::holds::HoldError;
use crate::telemetry::Fact;

/// Longest reason of a pause, in bytes.
const REASON_LIMIT: usize = 300;

/// How an endpoint is paused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct Pause {
    /// Until when: RFC 3339, or so long from now, such as `2h`. Without it, until it is resumed.
    pub until: Option<String>,
    /// Why, for other operators. At most 300 bytes.
    #[schema(max_length = 300)]
    pub reason: Option<String>,
}

/// What came of a ping.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct Pong {
    /// Whether it answered with a 2xx, completely.
    pub ok: bool,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Why there was none, or none that counts.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Pauses an endpoint: it is not called, and its events wait, until it is resumed or the time is over. Holds for every worker that shares
/// the delivery log's database within some seconds, and across restarts. What is in flight goes on. An event that grows too old meanwhile
/// is given up as any other. After a long pause the last of what waited comes at most about a quarter of the pause later.
#[utoipa::path(post, path = "/api/v1/endpoints/{integrator}/{endpoint}/pause", tag = "endpoints",
    params(("integrator" = String, Path, description = "The integrator's key", example = "acme"), ("endpoint" = String, Path, description = "The endpoint's name", example = "main")),
    request_body = Option<Pause>,
    responses((status = OK, body = EndpointShown), (status = BAD_REQUEST, description = "The body is no good.", body = Told),
        (status = NOT_FOUND, description = "There is no such endpoint.", body = Told),
        (status = CONFLICT, description = "There is no delivery log to keep it.", body = Told),
        (status = SERVICE_UNAVAILABLE, description = "The delivery log does not take it.", body = Told)))]
pub(super) async fn pause(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Named(endpoint): Named,
    Sent(pause): Sent<Option<Pause>>,
) -> Response {
    match hold(&api, &actor, &endpoint, pause.unwrap_or_default()).await {
        Ok(()) => json(StatusCode::OK, &shown(&api, &endpoint)),
        Err(refusal) => refusal.into_response(),
    }
}

/// Lets a paused endpoint go on. Does nothing to one that is not paused; a pause that the endpoint asked for itself (410) ends when its
/// configuration changes.
#[utoipa::path(post, path = "/api/v1/endpoints/{integrator}/{endpoint}/resume", tag = "endpoints",
    params(("integrator" = String, Path, description = "The integrator's key", example = "acme"), ("endpoint" = String, Path, description = "The endpoint's name", example = "main")),
    responses((status = OK, body = EndpointShown), (status = NOT_FOUND, description = "There is no such endpoint.", body = Told),
        (status = CONFLICT, description = "There is no delivery log to keep it.", body = Told),
        (status = SERVICE_UNAVAILABLE, description = "The delivery log does not take it.", body = Told)))]
pub(super) async fn resume(State(api): State<Api>, Extension(actor): Extension<Actor>, Named(endpoint): Named) -> Response {
    match release(&api, &actor, (&endpoint.integrator, &endpoint.id)).await {
        Ok(()) => json(StatusCode::OK, &shown(&api, &endpoint)),
        Err(refusal) => refusal.into_response(),
    }
}

/// Calls an endpoint with an empty callback (`[]`, signed and authorized as any other, with the header `callback-ping: 1`) and says what
/// came of it. Counts for no circuit. An endpoint that answers with a 4xx or 5xx may still take callbacks: not each is made for an array without
/// entries.
#[utoipa::path(post, path = "/api/v1/endpoints/{integrator}/{endpoint}/ping", tag = "endpoints",
    params(("integrator" = String, Path, description = "The integrator's key", example = "acme"), ("endpoint" = String, Path, description = "The endpoint's name", example = "main")),
    responses((status = OK, body = Pong), (status = NOT_FOUND, description = "There is no such endpoint.", body = Told),
        (status = TOO_MANY_REQUESTS, description = "One ping a second.", body = Told),
        (status = SERVICE_UNAVAILABLE, description = "The worker stops.", body = Told)))]
pub(super) async fn ping(State(api): State<Api>, Extension(actor): Extension<Actor>, Named(endpoint): Named) -> Response {
    match pinged(&api, &actor, &endpoint).await {
        Ok(pong) => json(StatusCode::OK, &pong),
        Err(refusal) => refusal.into_response(),
    }
}

/// Puts an endpoint on hold as asked for.
pub(in crate::admin) async fn hold(api: &Api, actor: &Actor, endpoint: &Endpoint, pause: Pause) -> Result<(), Refusal> {
    let bad = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, message);
    let now = clock::now();
    let until = match pause.until.as_deref().map(|text| parse_future(text, now)) {
        Some(None) => return Err(bad("`until` is neither a time such as 2026-01-31T08:00:00Z nor a duration such as 2h")),
        Some(Some(until)) if until <= now => return Err(bad("`until` has passed")),
        until => until.flatten(),
    };
    let reason = pause.reason.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty());
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_LIMIT || reason.contains(char::is_control)) {
        return Err(bad("`reason` has more than 300 bytes, or a control character"));
    }
    let hold = Hold { since: now, until, actor: actor.as_str().to_owned(), reason };
    api.holds.hold(&endpoint.integrator, &endpoint.id, &hold).await.map_err(|error| unheld(&error))?;
    let until = hold.until.map(|until| format!(" until={until}")).unwrap_or_default();
    let reason = hold.reason.map(|reason| format!(" reason={reason:?}")).unwrap_or_default();
    audit(api, actor, "pause", &format!("{}/{}{until}{reason}", endpoint.integrator, endpoint.id));
    Ok(())
}

/// Lets an endpoint go on, configured or not.
pub(in crate::admin) async fn release(
    api: &Api,
    actor: &Actor,
    (integrator, endpoint): (&IntegratorKey, &EndpointId),
) -> Result<(), Refusal> {
    api.holds.release(integrator, endpoint).await.map_err(|error| unheld(&error))?;
    audit(api, actor, "resume", &format!("{integrator}/{endpoint}"));
    Ok(())
}

/// Pings an endpoint.
pub(in crate::admin) async fn pinged(api: &Api, actor: &Actor, endpoint: &Arc<Endpoint>) -> Result<Pong, Refusal> {
    if api.limits.pings.check().is_err() {
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "one ping a second"));
    }
    audit(api, actor, "ping", &format!("{}/{}", endpoint.integrator, endpoint.id));
    match api.worker.ping(Arc::clone(endpoint)).await {
        Some(reply) => Ok(Pong { ok: reply.is_success(), status: reply.status(), error: reply.error(), took_ms: millis(reply.took) }),
        None => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the worker stops")),
    }
}

fn audit(api: &Api, actor: &Actor, action: &'static str, detail: &str) {
    api.telemetry.record(&Fact::Audited { actor: actor.as_str(), action, detail: Some(detail) });
}

fn unheld(error: &HoldError) -> Refusal {
    let status = match error {
        HoldError::NoDatabase => StatusCode::CONFLICT,
        HoldError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Refusal::new(status, error.to_string())
}
