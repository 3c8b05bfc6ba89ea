//! To sign in with a token, and to sign out.

use axum::Form;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::Console;
use super::page::{Frame, Place};
use crate::admin::access;
use crate::admin::session::set_cookie;
use crate::telemetry::Fact;

/// What the form sends.
#[derive(Deserialize)]
pub(super) struct Given {
    token: String,
}

/// The form; who does not have to sign in is shown the console.
pub(super) async fn form(State(console): State<Console>) -> Response {
    let frame = console.frame(None);
    if console.access.is_open() {
        return Redirect::to(&frame.link("/")).into_response();
    }
    frame.page(Place::Other, "Sign in", &fields(&frame, None))
}

/// Opens a session for a token.
pub(super) async fn sign_in(
    State(console): State<Console>,
    headers: HeaderMap,
    given: Result<Form<Given>, axum::extract::rejection::FormRejection>,
) -> Response {
    let frame = console.frame(None);
    let Ok(Form(Given { token })) = given else {
        return frame.page_with(StatusCode::BAD_REQUEST, Place::Other, "Sign in", &fields(&frame, Some("The form did not come whole.")));
    };
    match console.access.sign_in(token.trim(), &headers) {
        Ok((secret, actor)) => {
            console.api.telemetry.record(&Fact::Audited { actor: actor.as_str(), action: "sign_in", detail: None });
            let cookie = set_cookie(&secret, &frame.prefix, is_secure(&headers));
            ([(header::SET_COOKIE, cookie)], Redirect::to(&frame.link("/"))).into_response()
        }
        Err(refusal) => {
            console.api.telemetry.record(&Fact::ApiRefused { reason: refusal });
            frame.page_with(access::status(refusal), Place::Other, "Sign in", &fields(&frame, Some(access::message(refusal))))
        }
    }
}

/// Ends a session.
pub(super) async fn sign_out(State(console): State<Console>, headers: HeaderMap) -> Response {
    console.access.sign_out(&headers);
    let frame = console.frame(None);
    ([(header::SET_COOKIE, set_cookie("", &frame.prefix, is_secure(&headers)))], Redirect::to(&frame.link("/sign-in"))).into_response()
}

/// Whether a proxy in front speaks TLS with the browser, which then is not to send the cookie without.
fn is_secure(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https")
}

fn fields(frame: &Frame, fault: Option<&str>) -> Markup {
    html! {
        p.about { "With a token of " code { "[[admin.token]]" } ". It is asked for again after twelve hours, or when this process ends." }
        @if let Some(fault) = fault { p.note.bad role="alert" { (fault) } }
        form.row method="post" action=(frame.link("/sign-in")) {
            label { "Token" br; input type="password" name="token" autocomplete="current-password" required autofocus; }
            button.main { "Sign in" }
        }
    }
}
