//! To sign in with a token, and to sign out.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use tokio::time::timeout;

use super::Console;
use super::page::{Frame, Place};
use crate::admin::access::{self, Actor};
use crate::admin::session::{is_same_origin, set_cookie};
use crate::telemetry::{ApiRefusal, Fact};

/// Most bytes of the form, and how long it may take to come.
const FORM_BYTES: usize = 4096;
const FORM_LIMIT: Duration = Duration::from_secs(5);

/// The form; who does not have to sign in is shown the console.
pub(super) async fn form(State(console): State<Console>) -> Response {
    let frame = console.frame(None);
    if console.access.is_open() {
        return Redirect::to(&frame.link("/")).into_response();
    }
    frame.page(Place::Other, "Sign in", &fields(&frame, None))
}

/// Signs in with a token. Anybody may send this, so it is judged by its head before anything of its body is read.
pub(super) async fn sign_in(State(console): State<Console>, request: Request) -> Response {
    let frame = console.frame(None);
    let again = |status, fault: &str| frame.page_with(status, Place::Other, "Sign in", &fields(&frame, Some(fault)));
    let headers = request.headers().clone();
    if !is_same_origin(&headers) {
        console.api.telemetry.record(&Fact::ApiRefused { reason: ApiRefusal::ForeignOrigin });
        return again(StatusCode::FORBIDDEN, access::message(ApiRefusal::ForeignOrigin));
    }
    let Some(token) = given(request).await else { return again(StatusCode::BAD_REQUEST, "The form did not come whole.") };
    match console.access.sign_in(token.trim()) {
        Ok((cookie, actor)) => {
            console.api.telemetry.record(&Fact::Audited { actor: actor.as_str(), action: "sign_in", detail: None });
            let cookie = set_cookie(&cookie, &frame.prefix, is_secure(&headers));
            ([(header::SET_COOKIE, cookie)], Redirect::to(&frame.link("/"))).into_response()
        }
        Err(refusal) => {
            console.api.telemetry.record(&Fact::ApiRefused { reason: refusal });
            again(access::status(refusal), access::message(refusal))
        }
    }
}

/// The token of the form.
async fn given(request: Request) -> Option<String> {
    let body = timeout(FORM_LIMIT, to_bytes(request.into_body(), FORM_BYTES)).await.ok()?.ok()?;
    url::form_urlencoded::parse(&body).find(|(name, _)| name == "token").map(|(_, token)| token.into_owned())
}

/// Ends a session.
pub(super) async fn sign_out(State(console): State<Console>, Extension(actor): Extension<Actor>, headers: HeaderMap) -> Response {
    console.api.telemetry.record(&Fact::Audited { actor: actor.as_str(), action: "sign_out", detail: None });
    console.access.sign_out(&headers);
    let frame = console.frame(None);
    ([(header::SET_COOKIE, set_cookie("", &frame.prefix, is_secure(&headers)))], Redirect::to(&frame.link("/sign-in"))).into_response()
}

/// Whether a proxy in front speaks TLS with the browser, which then is not to send the cookie without: the proxy says so, or the browser.
fn is_secure(headers: &HeaderMap) -> bool {
    let says = |name: &str, word: &str| headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|text| text.starts_with(word));
    says("x-forwarded-proto", "https") || says("origin", "https://")
}

fn fields(frame: &Frame, fault: Option<&str>) -> Markup {
    html! {
        p.about { "With a token of " code { "[[admin.token]]" } ". It is asked for again after twelve hours." }
        @if let Some(fault) = fault { p.note.bad role="alert" { (fault) } }
        form.row method="post" action=(frame.link("/sign-in")) {
            label { "Token" br; input type="password" name="token" autocomplete="current-password" required autofocus; }
            button.main { "Sign in" }
        }
    }
}
