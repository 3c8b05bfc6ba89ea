//! `/api/v1`: what operators may ask and change. Everything here is for whoever [`Access`] admits, and whatever changes something
//! leaves an audit line with the name of the token before it is answered.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::Serialize;
use tokio::sync::watch;

use super::access::{self, Access, Actor};
use super::readiness::Readiness;
use crate::config::reload::ReloadTrigger;
use crate::domain::integrator::Directory;
use crate::telemetry::{ApiRefusal, Fact, Telemetry};

/// Most bytes of a request's body.
const BODY_BYTES: u64 = 64 * 1024;

/// What the API tells about and acts upon.
#[derive(Clone)]
pub struct Api {
    /// Whether the process can do its work.
    pub readiness: Readiness,
    /// The integrators in force.
    pub directory: watch::Receiver<Arc<Directory>>,
    /// Loads the integrators again.
    pub reload: ReloadTrigger,
    /// Where facts go.
    pub telemetry: Telemetry,
    /// Limits how often they are loaded.
    pub reloads: Arc<DefaultDirectRateLimiter>,
}

impl Api {
    /// One reload a second.
    #[must_use]
    pub fn one_reload_a_second() -> Arc<DefaultDirectRateLimiter> {
        Arc::new(RateLimiter::direct(Quota::per_second(NonZeroU32::MIN)))
    }
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    ready: bool,
    missing: Vec<String>,
    integrators: usize,
    endpoints: usize,
}

#[derive(Serialize)]
struct Told {
    message: &'static str,
}

struct Gate {
    access: Access,
    telemetry: Telemetry,
}

/// The routes, behind the gate. A path that does not exist is behind it too: nobody learns without a token what there is.
pub(super) fn router(api: Api, access: Access) -> Router {
    let gate = Arc::new(Gate { access, telemetry: api.telemetry.clone() });
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/reload", post(reload))
        .route("/api/{*path}", axum::routing::any(nothing))
        .with_state(api)
        .route_layer(from_fn_with_state(gate, admit))
}

/// Judges a request by its head, before anything of its body is read.
async fn admit(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    match gate.access.judge(request.headers()) {
        Err(refusal) => {
            gate.telemetry.record(&Fact::ApiRefused { reason: refusal });
            refused(refusal)
        }
        Ok(_) if is_too_large(&request) => told(StatusCode::PAYLOAD_TOO_LARGE, "the body has more than 64 KiB or does not say how many"),
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
    }
}

fn is_too_large(request: &Request) -> bool {
    let length = request.headers().get(header::CONTENT_LENGTH).map(|length| length.to_str().ok().and_then(|length| length.parse().ok()));
    match length {
        Some(length) => length.is_none_or(|length: u64| length > BODY_BYTES),
        None => request.headers().contains_key(header::TRANSFER_ENCODING),
    }
}

fn refused(refusal: ApiRefusal) -> Response {
    let mut response = told(access::status(refusal), access::message(refusal));
    let (name, value) = match access::status(refusal) {
        StatusCode::UNAUTHORIZED => (header::WWW_AUTHENTICATE, "Bearer realm=\"callbackd\""),
        StatusCode::TOO_MANY_REQUESTS => (header::RETRY_AFTER, "1"),
        _ => (HeaderName::from_static("connection"), "close"),
    };
    response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    response
}

fn told(status: StatusCode, message: &'static str) -> Response {
    json(status, &Told { message })
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // Nothing that is told here can fail to be JSON.
    let text = serde_json::to_string(value).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

async fn nothing() -> Response {
    told(StatusCode::NOT_FOUND, "there is nothing by this path")
}

async fn status(State(api): State<Api>) -> Response {
    let (missing, directory) = (api.readiness.missing(), Arc::clone(&api.directory.borrow()));
    let (integrators, endpoints) = (directory.len(), directory.all().count());
    let status = Status { version: env!("CARGO_PKG_VERSION"), ready: missing.is_empty(), missing, integrators, endpoints };
    json(StatusCode::OK, &status)
}

async fn reload(State(api): State<Api>, Extension(actor): Extension<Actor>) -> Response {
    // To load thousands of integrators takes a third of a second of the machine.
    if api.reloads.check().is_err() {
        return told(StatusCode::TOO_MANY_REQUESTS, "one reload a second");
    }
    api.telemetry.record(&Fact::Audited { actor: actor.as_str(), action: "reload", detail: None });
    api.reload.reload();
    told(StatusCode::ACCEPTED, "the integrators are being loaded; the log and callbackd_config_last_reload_successful tell what came of it")
}
