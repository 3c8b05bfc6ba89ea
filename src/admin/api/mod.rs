//! `/api/v1`: what operators may ask and change. Everything here is for whoever [`Access`] admits, and whatever changes something
//! leaves an audit line with the name of the token before it is answered.

mod actions;
mod answer;
mod endpoints;
pub(super) mod letters;
pub(super) mod log;
pub(super) mod pauses;
mod process;
mod stream;

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{Semaphore, watch};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use self::actions::{Pause, hold, pinged, release};
use self::answer::told;
pub(super) use self::answer::{Params, Refusal};
pub(super) use self::endpoints::{
    EndpointPage, EndpointShown, Endpoints, Filter as EndpointFilter, Named, Standing, page as endpoint_page, path_of, shown,
};
use super::access::{self, Access, Actor};
use super::readiness::Readiness;
use crate::config::Config;
use crate::config::reload::ReloadTrigger;
use crate::domain::integrator::Directory;
use crate::holds::HoldKeeper;
use crate::letters::Jobs;
use crate::live::Live;
use crate::store::Desk;
use crate::telemetry::{ApiRefusal, Fact, Telemetry};
use crate::worker::Insight;

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
    /// The configuration in force.
    pub config: Arc<Config>,
    /// The worker at its work.
    pub worker: Insight,
    /// Endpoints that operators have paused.
    pub holds: Arc<HoldKeeper>,
    /// What happens right now.
    pub live: Arc<Live>,
    /// The delivery log, where there is one.
    pub desk: Option<Desk>,
    /// What is done with letters.
    pub jobs: Jobs,
    /// What may be done how often.
    pub limits: Arc<Limits>,
}

/// What may be done how often, by everybody together.
pub struct Limits {
    /// Loading the integrators: once a second.
    reloads: DefaultDirectRateLimiter,
    /// Looking at a queue of letters: ten times, and once more a second. Each look counts against the delivery limit of every message.
    looks: DefaultDirectRateLimiter,
    /// Pinging: once a second.
    pings: DefaultDirectRateLimiter,
    /// Watching what happens: 16 at one time, a quarter of all connections.
    watchers: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        const TEN: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
        let once_a_second = || Quota::per_second(NonZeroU32::MIN);
        Self {
            reloads: RateLimiter::direct(once_a_second()),
            looks: RateLimiter::direct(once_a_second().allow_burst(TEN)),
            pings: RateLimiter::direct(once_a_second()),
            watchers: Arc::new(Semaphore::new(16)),
        }
    }
}

/// What the document of the API says of it as a whole.
#[derive(OpenApi)]
#[openapi(
    info(title = "callbackd", description = "What operators may ask and change. Where tokens are configured, each request carries one: `authorization: Bearer …`; \
        without, it must come from the machine itself. A token makes at most 50 requests a second, with bodies of at most 64 KiB. Whatever changes something leaves a line `audit` in the log."),
    tags((name = "process"), (name = "endpoints"), (name = "live"), (name = "log"), (name = "letters")),
    security(("token" = []), ()),
    modifiers(&Scheme),
)]
struct Document;

struct Scheme;

impl utoipa::Modify for Scheme {
    /// Adds what holds for every operation: the token, and what the gate answers.
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// What the gate answers, whatever is asked.
const OF_THE_GATE: [(&str, &str); 4] = [
    ("401", "There is no token, or a wrong one."),
    ("403", "The token may change nothing, or a page from elsewhere asks."),
    ("413", "The body has more than 64 KiB, or does not say how many."),
    ("429", "More than 50 requests a second with this token, or too many wrong tokens; or more of this kind than may be."),
];

/// The document with what the gate answers in every operation.
fn with_the_gate(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
            for (status, description) in OF_THE_GATE {
                let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Told"))).build();
                let response = ResponseBuilder::new().description(description).content("application/json", content).build();
                operation.responses.responses.entry(status.to_owned()).or_insert(RefOr::T(response));
            }
        }
    }
    document
}

struct Gate {
    access: Arc<Access>,
    telemetry: Telemetry,
}

/// The routes, behind the gate. A path that does not exist is behind it too: nobody learns without a token what there is.
pub(super) fn router(api: Api, access: Arc<Access>) -> Router {
    let gate = Arc::new(Gate { access, telemetry: api.telemetry.clone() });
    let (routes, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(process::status))
        .routes(routes!(process::configuration))
        .routes(routes!(process::reload))
        .routes(routes!(endpoints::integrators))
        .routes(routes!(endpoints::endpoints))
        .routes(routes!(endpoints::endpoint))
        .routes(routes!(actions::pause))
        .routes(routes!(actions::resume))
        .routes(routes!(actions::ping))
        .routes(routes!(pauses::pauses))
        .routes(routes!(pauses::end))
        .routes(routes!(stream::stream))
        .routes(routes!(log::attempts))
        .routes(routes!(log::events))
        .routes(routes!(log::health))
        .routes(routes!(log::total_history))
        .routes(routes!(log::endpoint_health))
        .routes(routes!(log::endpoint_history))
        .routes(routes!(letters::letters))
        .routes(routes!(letters::start, letters::jobs))
        .routes(routes!(letters::job))
        .routes(routes!(letters::cancel))
        .routes(routes!(letters::resume))
        .split_for_parts();
    let document: Arc<str> = with_the_gate(document).to_json().unwrap_or_default().into();
    routes
        .route("/api/openapi.json", get(async move || ([(header::CONTENT_TYPE, "application/json")], document.to_string()).into_response()))
        .route("/api/{*path}", axum::routing::any(nothing))
        .with_state(api)
        .route_layer(from_fn_with_state(gate, admit))
}

/// Judges a request by its head, before anything of its body is read.
async fn admit(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    match gate.access.judge(request.method(), request.headers()) {
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

async fn nothing() -> Response {
    told(StatusCode::NOT_FOUND, "there is nothing by this path")
}
