//! What the delivery log knows: attempts, the story of an event, and how endpoints have been.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::answer::{Params, Refusal, Told, json};
use super::endpoints::Named;
use crate::clock;
use crate::config::parse_past;
use crate::domain::time::Timestamp;
use crate::store::entry::What;
use crate::store::health::{History, Report, Span};
use crate::store::listing::{Class, Cursor, Filter, Followed, PAGE_LIMIT, Page};
use crate::store::story::Story;
use crate::store::{Desk, StoreError};

/// Most events of one answer.
const MOST_EVENTS: usize = 100;

/// Which entries.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct Wanted {
    /// Of this integrator.
    pub integrator: Option<String>,
    /// Of endpoints by this name.
    pub endpoint: Option<String>,
    /// About this topic.
    pub topic: Option<String>,
    /// That tell this.
    #[param(inline)]
    pub what: Option<What>,
    /// Attempts that this followed from.
    #[param(inline)]
    pub verdict: Option<Followed>,
    /// Attempts that ended with this.
    #[param(inline)]
    pub class: Option<Class>,
    /// Attempts that were answered with this status.
    #[param(minimum = 100, maximum = 999)]
    pub status: Option<u16>,
    /// Recorded at this time or later: RFC 3339, or that long ago, such as `2h`.
    pub since: Option<String>,
    /// Recorded before this time: RFC 3339, or that long ago.
    pub until: Option<String>,
    /// Go on at this place: `next` of the page before.
    pub cursor: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 500, default = 100)]
    pub limit: Option<usize>,
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Search {
    /// The event's id, one of its keys, or the webhook-id of a message that told of it.
    q: String,
    /// Only events of this integrator.
    integrator: Option<String>,
    /// At most so many, the newest first.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<usize>,
}

/// Of which time.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct When {
    /// From this minute on: RFC 3339 (without offset: UTC), or that long ago, such as `2h`; at most 93 days. Default: an hour ago.
    pub since: Option<String>,
    /// To this minute: RFC 3339, or that long ago. Default: now.
    pub until: Option<String>,
    /// Minutes that one point of a history stands for.
    #[param(minimum = 1, maximum = 1440, default = 1)]
    pub step: Option<u32>,
}

/// Events that were found.
#[derive(Debug, Serialize, ToSchema)]
struct Found {
    /// Their stories, the newest first.
    events: Vec<Story>,
    /// Whether there are more.
    has_more: bool,
    /// Whether older lines of some of them are left out; `is_cut` of each says of which.
    is_cut: bool,
}

/// What was recorded, the newest first: attempts, and what else became of events. A page may be short, or empty, though there are more: `next`
/// says where to go on.
#[utoipa::path(get, path = "/api/v1/attempts", tag = "log", params(Wanted), responses(
    (status = OK, body = Page),
    (status = BAD_REQUEST, description = "A parameter is no good.", body = Told),
    (status = CONFLICT, description = "There is no delivery log.", body = Told),
    (status = SERVICE_UNAVAILABLE, description = "The delivery log cannot be read.", body = Told),
))]
pub(super) async fn attempts(State(api): State<Api>, Params(wanted): Params<Wanted>) -> Response {
    match listed(&api, wanted).await {
        Ok(page) => json(StatusCode::OK, &page),
        Err(refusal) => refusal.into_response(),
    }
}

/// What became of events: each attempt in the order of time, where each delivery stands, and what happens next. An answer has at most 5,000 lines: 2,000 of
/// one event, and 50 of each at least; the events are told in full from the newest on, as far as these lines go.
#[utoipa::path(get, path = "/api/v1/events", tag = "log", params(Search), responses(
    (status = OK, body = Found),
    (status = BAD_REQUEST, description = "A parameter is no good.", body = Told),
    (status = CONFLICT, description = "There is no delivery log.", body = Told),
    (status = SERVICE_UNAVAILABLE, description = "The delivery log cannot be read.", body = Told),
))]
pub(super) async fn events(State(api): State<Api>, Params(search): Params<Search>) -> Response {
    let limit = search.limit.unwrap_or(20);
    if !(1..=MOST_EVENTS).contains(&limit) {
        return bad("`limit` is 1 to 100").into_response();
    }
    match stories(&api, &search.q, search.integrator.as_deref(), limit).await {
        Ok((events, has_more)) => {
            let is_cut = events.iter().any(|story| story.is_cut);
            json(StatusCode::OK, &Found { events, has_more, is_cut })
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// How endpoints have been: success rate, durations, last success and last failure, of all workers that share the log.
#[utoipa::path(get, path = "/api/v1/health", tag = "log", params(When), responses(
    (status = OK, body = Report),
    (status = BAD_REQUEST, description = "A parameter is no good.", body = Told),
    (status = CONFLICT, description = "There is no delivery log.", body = Told),
    (status = SERVICE_UNAVAILABLE, description = "The delivery log cannot be read.", body = Told),
))]
pub(super) async fn health(State(api): State<Api>, Params(when): Params<When>) -> Response {
    match report(&api, &when, None).await {
        Ok(report) => json(StatusCode::OK, &report),
        Err(refusal) => refusal.into_response(),
    }
}

/// How all endpoints together have been over time, the oldest first: a point for each step in which something was tried.
#[utoipa::path(get, path = "/api/v1/history", tag = "log", params(When), responses(
    (status = OK, body = History),
    (status = BAD_REQUEST, description = "A parameter is no good.", body = Told),
    (status = CONFLICT, description = "There is no delivery log.", body = Told),
    (status = SERVICE_UNAVAILABLE, description = "The delivery log cannot be read.", body = Told),
))]
pub(super) async fn total_history(State(api): State<Api>, Params(when): Params<When>) -> Response {
    match history(&api, &when, None).await {
        Ok(points) => json(StatusCode::OK, &points),
        Err(refusal) => refusal.into_response(),
    }
}

/// How one endpoint has been.
#[utoipa::path(get, path = "/api/v1/endpoints/{integrator}/{endpoint}/health", tag = "log",
    params(("integrator" = String, Path, description = "The integrator's key", example = "acme"), ("endpoint" = String, Path, description = "The endpoint's name", example = "main"), When),
    responses((status = OK, body = Report), (status = BAD_REQUEST, description = "A parameter is no good.", body = Told),
        (status = NOT_FOUND, description = "There is no such endpoint.", body = Told), (status = CONFLICT, description = "There is no delivery log.", body = Told),
        (status = SERVICE_UNAVAILABLE, description = "The delivery log cannot be read.", body = Told)))]
pub(super) async fn endpoint_health(State(api): State<Api>, Named(endpoint): Named, Params(when): Params<When>) -> Response {
    match report(&api, &when, Some((endpoint.integrator.as_str(), endpoint.id.as_str()))).await {
        Ok(report) => json(StatusCode::OK, &report),
        Err(refusal) => refusal.into_response(),
    }
}

/// How one endpoint has been over time, the oldest first: a point for each step in which something was tried.
#[utoipa::path(get, path = "/api/v1/endpoints/{integrator}/{endpoint}/history", tag = "log",
    params(("integrator" = String, Path, description = "The integrator's key", example = "acme"), ("endpoint" = String, Path, description = "The endpoint's name", example = "main"), When),
    responses((status = OK, body = History), (status = BAD_REQUEST, description = "A parameter is no good.", body = Told),
        (status = NOT_FOUND, description = "There is no such endpoint.", body = Told), (status = CONFLICT, description = "There is no delivery log.", body = Told),
        (status = SERVICE_UNAVAILABLE, description = "The delivery log cannot be read.", body = Told)))]
pub(super) async fn endpoint_history(State(api): State<Api>, Named(endpoint): Named, Params(when): Params<When>) -> Response {
    match history(&api, &when, Some((endpoint.integrator.as_str(), endpoint.id.as_str()))).await {
        Ok(points) => json(StatusCode::OK, &points),
        Err(refusal) => refusal.into_response(),
    }
}

/// A page of entries.
pub(in crate::admin) async fn listed(api: &Api, wanted: Wanted) -> Result<Page, Refusal> {
    let limit = wanted.limit.unwrap_or(100);
    if !(1..=PAGE_LIMIT).contains(&limit) {
        return Err(bad("`limit` is 1 to 500"));
    }
    for (name, text) in [("integrator", &wanted.integrator), ("endpoint", &wanted.endpoint), ("topic", &wanted.topic)] {
        not_empty(name, text.as_deref())?;
    }
    if wanted.status.is_some_and(|status| !(100..=999).contains(&status)) {
        return Err(bad("`status` is 100 to 999"));
    }
    let now = clock::now();
    let cursor = wanted.cursor.map(|text| text.parse::<Cursor>()).transpose().map_err(|fault| bad(&format!("`cursor` {fault}")))?;
    let filter = Filter {
        integrator: wanted.integrator,
        endpoint: wanted.endpoint,
        topic: wanted.topic,
        what: wanted.what,
        followed: wanted.verdict,
        class: wanted.class,
        status: wanted.status,
        since: time("since", wanted.since.as_deref(), now)?,
        until: time("until", wanted.until.as_deref(), now)?,
    };
    desk(api)?.attempts(&filter, cursor, limit).await.map_err(|error| unread(&error))
}

/// The stories of events.
pub(in crate::admin) async fn stories(
    api: &Api,
    wanted: &str,
    integrator: Option<&str>,
    limit: usize,
) -> Result<(Vec<Story>, bool), Refusal> {
    desk(api)?.explain(wanted, integrator, limit).await.map_err(|error| unread(&error))
}

/// How endpoints, or one of them, have been.
pub(in crate::admin) async fn report(api: &Api, when: &When, endpoint: Option<(&str, &str)>) -> Result<Report, Refusal> {
    let (span, _) = span(when)?;
    desk(api)?.health(span, endpoint).await.map_err(|error| unread(&error))
}

/// How an endpoint, or all of them together, has been over time.
pub(in crate::admin) async fn history(api: &Api, when: &When, endpoint: Option<(&str, &str)>) -> Result<History, Refusal> {
    let (span, step) = span(when)?;
    desk(api)?.history(endpoint, span, step).await.map_err(|error| unread(&error))
}

fn span(when: &When) -> Result<(Span, u32), Refusal> {
    let now = clock::now();
    let since = time("since", Some(when.since.as_deref().unwrap_or("1h")), now)?.unwrap_or(now);
    let until = time("until", when.until.as_deref(), now)?.unwrap_or(now);
    let step = when.step.unwrap_or(1);
    if !(1..=1440).contains(&step) {
        return Err(bad("`step` is 1 to 1440"));
    }
    Span::new(since, until).map(|span| (span, step)).ok_or_else(|| bad("`until` is before `since`"))
}

/// A time as operators write it: RFC 3339, or that long ago.
pub(in crate::admin) fn time(name: &str, text: Option<&str>, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    parse_past(text, now)
        .map(Some)
        .ok_or_else(|| bad(&format!("`{name}` is neither a time such as 2026-01-31T08:00:00Z nor a duration such as 2h")))
}

fn desk(api: &Api) -> Result<&Desk, Refusal> {
    api.desk.as_ref().ok_or_else(|| Refusal::new(StatusCode::CONFLICT, "there is no delivery log: set `delivery_log.enabled = true`"))
}

fn unread(error: &StoreError) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("the delivery log cannot be read: {error}"))
}

/// Nothing is called so, and everything is not meant: a script whose variable is not set is to learn so.
pub(in crate::admin) fn not_empty(name: &str, text: Option<&str>) -> Result<(), Refusal> {
    if text == Some("") { Err(bad(&format!("`{name}` is empty; leave it out for any"))) } else { Ok(()) }
}

fn bad(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}
