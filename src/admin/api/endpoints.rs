//! Integrators and their endpoints: how they stand.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRef, FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::answer::{Params, Refusal, Told, json, told};
use super::log::not_empty;
use crate::clock;
use crate::domain::integrator::{Directory, Endpoint, Topics};
use crate::domain::lane::Standing as LaneStanding;
use crate::domain::names::{EndpointId, IntegratorKey};

/// Most endpoints of one answer.
const MOST: usize = 500;

/// What does not stand in a path as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// An endpoint and how it stands at this worker.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::admin) struct EndpointShown {
    /// Whose it is.
    pub integrator: String,
    /// Its name among those of its integrator.
    pub endpoint: String,
    /// Where it is: scheme, host and port. Paths and queries may hold secrets.
    pub host: String,
    /// `classic` or `topic`.
    pub format: &'static str,
    /// The topics that it wants; none: all that its format can carry.
    pub topics: Option<Vec<String>>,
    /// Whether it is called.
    pub standing: Standing,
    /// Since when its circuit is open, or it is paused. RFC 3339.
    pub since: Option<String>,
    /// When it is tried again, or its pause ends. RFC 3339.
    pub until: Option<String>,
    /// Who has paused it.
    pub paused_by: Option<String>,
    /// Why it was paused, in the operator's words.
    pub reason: Option<String>,
    /// Requests in flight from this worker.
    pub in_flight: u16,
    /// Deliveries that wait in this worker for their turn.
    pub waiting: usize,
    /// How long the first of them has waited, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// Deliveries that this worker has sent into the wait queues to make room and that are not back, as far as it knows.
    pub parked: usize,
    /// Limits and times by which it is told.
    pub policy: Policy,
}

/// The rules by which an endpoint is told.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::admin) struct Policy {
    /// Most requests at one time, by this worker.
    pub max_in_flight: u16,
    /// Most requests in a time, such as `50/1s`; none: as fast as it answers.
    pub rate: Option<String>,
    /// Limit on one attempt, in milliseconds.
    pub timeout_ms: u64,
    /// Most events in one request.
    pub batch: u16,
    /// How old an event may be at its last attempt, in seconds.
    pub max_age_s: u64,
}

/// Whether an endpoint is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::admin) enum Standing {
    /// It is.
    Working,
    /// One request at a time, to find out whether it takes requests again after a 410.
    Doubtful,
    /// It keeps failing: its circuit is open and its events wait.
    Failing,
    /// It answered 410: its events wait.
    Gone,
    /// An operator has paused it: its events wait.
    Paused,
}

/// An integrator.
#[derive(Debug, Serialize, ToSchema)]
struct IntegratorShown {
    /// Its key.
    integrator: String,
    /// The names of its endpoints.
    endpoints: Vec<String>,
}

/// A page of integrators.
#[derive(Debug, Serialize, ToSchema)]
struct IntegratorPage {
    /// In the order of their keys.
    integrators: Vec<IntegratorShown>,
    /// What to ask for as `after` to go on; none at the end.
    next: Option<String>,
}

/// Which integrators.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Integrators {
    /// Only those whose key begins with this.
    prefix: Option<String>,
    /// Only those whose key stands behind this one.
    after: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 500, default = 100)]
    limit: Option<usize>,
}

/// Which endpoints.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct Endpoints {
    /// Only those of this integrator.
    pub integrator: Option<String>,
    /// Only those that stand so.
    #[param(inline)]
    pub standing: Option<Filter>,
    /// Go on behind this place: `next` of the page before.
    pub after: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub limit: Option<usize>,
}

/// A standing that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::admin) enum Filter {
    /// As usual.
    Working,
    /// Any that needs a look: all but `working`.
    Attention,
}

/// A page of endpoints.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::admin) struct EndpointPage {
    /// In the order of integrators and names.
    pub endpoints: Vec<EndpointShown>,
    /// What to ask for as `after` to go on; none at the end.
    pub next: Option<String>,
}

/// The endpoint that a path names.
pub(in crate::admin) struct Named(pub Arc<Endpoint>);

impl<S: Send + Sync> FromRequestParts<S> for Named
where
    Api: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let api = Api::from_ref(state);
        let nobody = || told(StatusCode::NOT_FOUND, "no such endpoint is configured");
        let Path((integrator, endpoint)) = Path::<(String, String)>::from_request_parts(parts, state).await.map_err(|_| nobody())?;
        let names = IntegratorKey::try_new(integrator).ok().zip(EndpointId::try_new(endpoint).ok());
        let found = names.and_then(|(integrator, endpoint)| api.directory.borrow().endpoint(&integrator, &endpoint).cloned());
        found.map(Self).ok_or_else(nobody)
    }
}

/// All integrators, in the order of their keys.
#[utoipa::path(get, path = "/api/v1/integrators", tag = "endpoints", params(Integrators), responses(
    (status = OK, body = IntegratorPage),
    (status = BAD_REQUEST, description = "A parameter is no good.", body = Told),
))]
pub(super) async fn integrators(State(api): State<Api>, Params(wanted): Params<Integrators>) -> Response {
    let Some(limit) = limit(wanted.limit) else { return bad_limit().into_response() };
    let directory = Arc::clone(&api.directory.borrow());
    let mut all = sorted(&directory);
    all.sort_by(|one, other| one.integrator.cmp(&other.integrator));
    let prefix = wanted.prefix.unwrap_or_default();
    let fits = |key: &str| key.starts_with(&prefix) && wanted.after.as_deref().is_none_or(|after| key > after);
    let mut integrators: Vec<IntegratorShown> = Vec::new();
    let mut has_more = false;
    for endpoint in all.iter().filter(|endpoint| fits(endpoint.integrator.as_str())) {
        let is_full = integrators.len() == limit;
        match integrators.last_mut().filter(|last| last.integrator == endpoint.integrator.as_str()) {
            Some(last) => last.endpoints.push(endpoint.id.to_string()),
            None if is_full => {
                has_more = true;
                break;
            }
            None => {
                integrators.push(IntegratorShown { integrator: endpoint.integrator.to_string(), endpoints: vec![endpoint.id.to_string()] })
            }
        }
    }
    let next = integrators.last().filter(|_| has_more).map(|last| last.integrator.clone());
    json(StatusCode::OK, &IntegratorPage { integrators, next })
}

/// Endpoints and how they stand, in the order of integrators and names.
#[utoipa::path(get, path = "/api/v1/endpoints", tag = "endpoints", params(Endpoints), responses(
    (status = OK, body = EndpointPage),
    (status = BAD_REQUEST, description = "A parameter is no good.", body = Told),
))]
pub(super) async fn endpoints(State(api): State<Api>, Params(wanted): Params<Endpoints>) -> Response {
    match page(&api, &wanted) {
        Ok(page) => json(StatusCode::OK, &page),
        Err(refusal) => refusal.into_response(),
    }
}

/// One endpoint and how it stands.
#[utoipa::path(get, path = "/api/v1/endpoints/{integrator}/{endpoint}", tag = "endpoints",
    params(("integrator" = String, Path, description = "The integrator's key", example = "acme"), ("endpoint" = String, Path, description = "The endpoint's name", example = "main")),
    responses((status = OK, body = EndpointShown), (status = NOT_FOUND, description = "There is no such endpoint.", body = Told)))]
pub(super) async fn endpoint(State(api): State<Api>, Named(endpoint): Named) -> Response {
    json(StatusCode::OK, &shown(&api, &endpoint))
}

/// A page of endpoints.
pub(in crate::admin) fn page(api: &Api, wanted: &Endpoints) -> Result<EndpointPage, Refusal> {
    let limit = limit(wanted.limit).ok_or_else(bad_limit)?;
    not_empty("integrator", wanted.integrator.as_deref())?;
    let directory = Arc::clone(&api.directory.borrow());
    let of_integrator = |endpoint: &Endpoint| wanted.integrator.as_deref().is_none_or(|key| key == endpoint.integrator.as_str());
    let is_behind = |endpoint: &Endpoint| wanted.after.as_deref().is_none_or(|after| place(endpoint).as_str() > after);
    let mut all = if wanted.standing == Some(Filter::Attention) { restless(api, &directory) } else { directory.all().cloned().collect() };
    all.retain(|endpoint| of_integrator(endpoint) && is_behind(endpoint));
    all.sort_by_cached_key(|endpoint| place(endpoint));
    let shown = all.iter().map(|endpoint| shown(api, endpoint)).filter(|shown| match wanted.standing {
        None => true,
        Some(Filter::Working) => shown.standing == Standing::Working,
        Some(Filter::Attention) => shown.standing != Standing::Working,
    });
    let mut endpoints: Vec<EndpointShown> = shown.take(limit + 1).collect();
    let has_more = endpoints.len() > limit;
    endpoints.truncate(limit);
    let next = endpoints.last().filter(|_| has_more).map(|last| path_of(&last.integrator, &last.endpoint));
    Ok(EndpointPage { endpoints, next })
}

/// Endpoints that may need a look. There are few of them, where there are thousands in all.
fn restless(api: &Api, directory: &Directory) -> Vec<Arc<Endpoint>> {
    let holds = Arc::clone(&api.holds.in_force().borrow());
    let lanes = api.worker.lanes().into_iter().filter(|(.., view)| view.standing != LaneStanding::Working);
    let lanes = lanes.map(|(integrator, endpoint, _)| (integrator, endpoint));
    let held = holds.iter().map(|(integrator, endpoint, _)| (integrator.clone(), endpoint.clone()));
    let names: BTreeSet<_> = lanes.chain(held).collect();
    names.iter().filter_map(|(integrator, endpoint)| directory.endpoint(integrator, endpoint).cloned()).collect()
}

/// An endpoint and how it stands.
pub(in crate::admin) fn shown(api: &Api, endpoint: &Endpoint) -> EndpointShown {
    let view = api.worker.lane(endpoint);
    let holds = api.holds.in_force();
    let hold = holds.borrow().on(&endpoint.integrator, &endpoint.id).cloned();
    let now = clock::now();
    let (standing, since, until) = match (&hold, view.standing) {
        (Some(hold), _) => (Standing::Paused, Some(hold.since), hold.until),
        // The lane has not heard yet that the hold is over.
        (None, LaneStanding::Working | LaneStanding::Held) => (Standing::Working, None, None),
        (None, LaneStanding::Doubtful) => (Standing::Doubtful, None, None),
        (None, LaneStanding::Gone { remaining }) => (Standing::Gone, None, Some(now.plus(remaining))),
        (None, LaneStanding::Failing { since, next_try }) => {
            (Standing::Failing, Some(now.minus(since)), next_try.map(|wait| now.plus(wait)))
        }
    };
    EndpointShown {
        integrator: endpoint.integrator.to_string(),
        endpoint: endpoint.id.to_string(),
        host: endpoint.url.to_string(),
        format: endpoint.format.as_str(),
        topics: match &endpoint.topics {
            Topics::All => None,
            Topics::Named(topics) => Some(topics.iter().map(ToString::to_string).collect()),
        },
        standing,
        since: since.map(|at| at.to_string()),
        until: until.map(|at| at.to_string()),
        paused_by: hold.as_ref().map(|hold| hold.actor.clone()),
        reason: hold.and_then(|hold| hold.reason),
        in_flight: view.in_flight,
        waiting: view.waiting,
        oldest_ms: view.oldest.map(millis),
        parked: view.parked,
        policy: policy(endpoint),
    }
}

fn policy(endpoint: &Endpoint) -> Policy {
    let policy = &endpoint.policy;
    Policy {
        max_in_flight: policy.max_in_flight.get(),
        rate: policy.rate.map(|rate| format!("{}/{}s", rate.requests, rate.per.as_secs_f64())),
        timeout_ms: millis(policy.timeout),
        batch: policy.batch.max_events.get(),
        max_age_s: policy.retry.max_age.as_secs(),
    }
}

fn sorted(directory: &Directory) -> Vec<Arc<Endpoint>> {
    let mut all: Vec<Arc<Endpoint>> = directory.all().cloned().collect();
    all.sort_by_cached_key(|endpoint| place(endpoint));
    all
}

/// Where an endpoint stands among all: its path.
fn place(endpoint: &Endpoint) -> String {
    path_of(endpoint.integrator.as_str(), endpoint.id.as_str())
}

/// An endpoint in a path: both names percent-encoded, with a slash between them.
pub(in crate::admin) fn path_of(integrator: &str, endpoint: &str) -> String {
    format!("{}/{}", utf8_percent_encode(integrator, PATH), utf8_percent_encode(endpoint, PATH))
}

fn limit(limit: Option<usize>) -> Option<usize> {
    limit.map_or(Some(100), |limit| (1..=MOST).contains(&limit).then_some(limit))
}

fn bad_limit() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "`limit` is 1 to 500")
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
