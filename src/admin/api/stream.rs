//! What happens right now, as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use utoipa::IntoParams;

use super::Api;
use super::answer::{Params, Told, told};
use super::log::not_empty;
use crate::live::{Glimpse, Watch};

/// A stream ends after so long, before its connection does, and browsers go on where it ended.
const LIFE: Duration = Duration::from_secs(50);
/// How soon they come back.
const AGAIN: Duration = Duration::from_millis(500);
/// How often something is sent where nothing happens.
const SILENCE: Duration = Duration::from_secs(15);

/// What is watched.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Watched {
    /// Only what concerns this integrator.
    integrator: Option<String>,
    /// Only what concerns endpoints by this name.
    endpoint: Option<String>,
}

impl Watched {
    fn fits(&self, glimpse: &Glimpse) -> bool {
        let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        same(&self.integrator, &glimpse.integrator) && same(&self.endpoint, &glimpse.endpoint)
    }
}

/// What happens at this worker right now: an event `glimpse` for each attempt, dead letter, rejected or skipped event, at most a hundred a
/// second of what is asked for. A stream ends after 50 s; with `last-event-id` the next one goes on where it ended.
#[utoipa::path(get, path = "/api/v1/stream", tag = "live", params(Watched), responses(
    (status = OK, content_type = "text/event-stream", body = Glimpse),
    (status = BAD_REQUEST, description = "A parameter is no good.", body = Told),
    (status = SERVICE_UNAVAILABLE, description = "Too many watch already.", body = Told),
))]
pub(super) async fn stream(State(api): State<Api>, headers: HeaderMap, Params(watched): Params<Watched>) -> Response {
    let given = [("integrator", &watched.integrator), ("endpoint", &watched.endpoint)];
    if let Err(refusal) = given.into_iter().try_for_each(|(name, text)| not_empty(name, text.as_deref())) {
        return refusal.into_response();
    }
    let Ok(place) = api.limits.watchers.clone().try_acquire_owned() else {
        return told(StatusCode::SERVICE_UNAVAILABLE, "16 watch already; come back later");
    };
    let after = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let watch = api.live.watch(after);
    let end = Instant::now() + LIFE;
    let first = stream::iter([Ok::<_, Infallible>(Event::default().retry(AGAIN).comment("watching"))]);
    let rest = stream::unfold((watch, watched, place), move |(mut watch, watched, place)| async move {
        let glimpse = timeout_at(end, next(&mut watch, &watched)).await.ok()??;
        Some((Ok(glimpse), (watch, watched, place)))
    });
    Sse::new(futures_util::StreamExt::chain(first, rest)).keep_alive(KeepAlive::new().interval(SILENCE)).into_response()
}

async fn next(watch: &mut Watch, watched: &Watched) -> Option<Event> {
    let glimpse = watch.next(|glimpse| watched.fits(glimpse)).await?;
    // Nothing in it can fail to be JSON.
    let data = serde_json::to_string(&glimpse).unwrap_or_default();
    Some(Event::default().id(glimpse.id.to_string()).event("glimpse").data(data))
}
