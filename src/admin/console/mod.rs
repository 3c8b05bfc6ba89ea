//! The console: pages for operators, made here, over the same functions as `/api`. Whoever may use that may use this: a browser signs in
//! with a token, once. Every page works without a script but for charts, what moves and what is loaded later.

mod assets;
mod charts;
mod endpoints;
mod events;
mod example;
mod letters;
mod live;
mod overview;
mod page;
mod sign_in;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};

use super::access::{self, Access, Actor};
use super::api::{Api, Refusal};
use crate::telemetry::{ApiRefusal, Fact};
use page::{Frame, Place};

/// Most bytes of a form.
const FORM_BYTES: usize = 64 * 1024;

/// What pages are made from.
#[derive(Clone)]
pub(in crate::admin) struct Console {
    /// What may be asked and changed.
    pub api: Api,
    /// Who may.
    pub access: Arc<Access>,
}

impl FromRef<Console> for Api {
    fn from_ref(console: &Console) -> Self {
        console.api.clone()
    }
}

impl Console {
    fn frame(&self, actor: Option<&Actor>) -> Frame {
        let actor = actor.filter(|_| !self.access.is_open()).map(|actor| actor.as_str().to_owned());
        Frame { prefix: self.api.config.admin.path_prefix.clone(), actor }
    }
}

/// The pages. Those to sign in and what they are made of are for everybody.
pub(super) fn router(api: Api, access: Arc<Access>) -> Router {
    let console = Console { api, access };
    let pages = Router::new()
        .route("/", get(overview::page))
        .route("/overview/now", get(overview::refresh))
        .route("/overview/chart", get(charts::total))
        .route("/endpoints", get(endpoints::list))
        .route("/endpoints/{integrator}/{endpoint}", get(endpoints::one))
        .route("/endpoints/{integrator}/{endpoint}/pause", post(endpoints::pause))
        .route("/endpoints/{integrator}/{endpoint}/resume", post(endpoints::resume))
        .route("/endpoints/{integrator}/{endpoint}/ping", post(endpoints::ping))
        .route("/endpoints/{integrator}/{endpoint}/chart", get(charts::chart))
        .route("/pauses/{integrator}/{endpoint}/end", post(endpoints::end_pause))
        .route("/events", get(events::search))
        .route("/letters/{queue}", get(letters::list))
        .route("/letters/{queue}/ask", post(letters::asked))
        .route("/jobs", get(letters::jobs))
        .route("/jobs/{id}", get(letters::job))
        .route("/jobs/{id}/progress", get(letters::progress))
        .route("/jobs/{id}/cancel", post(letters::cancel))
        .route("/jobs/{id}/resume", post(letters::resume))
        .route("/live", get(live::page))
        .route("/sign-out", post(sign_in::sign_out))
        .route_layer(from_fn_with_state(console.clone(), admit));
    let open =
        Router::new().route("/sign-in", get(sign_in::form).post(sign_in::sign_in)).route("/assets/{version}/{name}", get(assets::asset));
    pages.merge(open).fallback(nothing).layer(DefaultBodyLimit::max(FORM_BYTES)).with_state(console)
}

/// Judges who asks, and shows who may not where to sign in.
async fn admit(State(console): State<Console>, mut request: Request, next: Next) -> Response {
    match console.access.judge(request.method(), request.headers()) {
        Ok(actor) => {
            request.extensions_mut().insert(console.frame(Some(&actor)));
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(ApiRefusal::NoToken) => to_sign_in(&console.frame(None), request.headers()),
        Err(refusal) => {
            console.api.telemetry.record(&Fact::ApiRefused { reason: refusal });
            let refusal = Refusal::new(access::status(refusal), access::message(refusal));
            console.frame(None).refused(Place::Other, &refusal)
        }
    }
}

/// A part of a page cannot show a form to sign in: the whole page goes there.
fn to_sign_in(frame: &Frame, headers: &HeaderMap) -> Response {
    let path = frame.link("/sign-in");
    if headers.contains_key("hx-request") {
        return (StatusCode::UNAUTHORIZED, [("hx-redirect", path)]).into_response();
    }
    Redirect::to(&path).into_response()
}

async fn nothing(State(console): State<Console>, request: Request) -> Response {
    let is_read = request.method().is_safe();
    let wants_page =
        request.headers().get(header::ACCEPT).is_some_and(|kinds| kinds.to_str().is_ok_and(|kinds| kinds.contains("text/html")));
    if is_read && wants_page {
        return console.frame(None).refused(Place::Other, &Refusal::new(StatusCode::NOT_FOUND, "There is no page by this path."));
    }
    StatusCode::NOT_FOUND.into_response()
}
