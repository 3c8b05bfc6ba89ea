//! What goes in and out of `/api`: JSON, and a message where nothing was done.

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::ToSchema;

use super::BODY_BYTES;

/// What was done, or why nothing was.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Told {
    /// For people.
    message: String,
}

/// Why nothing is done, for whoever asked: `/api` says it in JSON, the console on a page.
#[derive(Debug)]
pub(in crate::admin) struct Refusal {
    /// The status of the answer.
    pub status: StatusCode,
    /// Why, for people.
    pub message: String,
}

impl Refusal {
    /// A refusal with a message.
    pub(in crate::admin) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        told(self.status, self.message)
    }
}

/// An answer that is a message.
pub(super) fn told(status: StatusCode, message: impl Into<String>) -> Response {
    json(status, &Told { message: message.into() })
}

/// An answer that is a value.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    // Nothing that is told here can fail to be JSON.
    let text = serde_json::to_string(value).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// The parameters of a query.
pub(in crate::admin) struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(told(StatusCode::BAD_REQUEST, rejection.body_text())),
        }
    }
}

/// A body in JSON; an empty one is an empty object.
pub(super) struct Sent<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Sent<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let limit = usize::try_from(BODY_BYTES).unwrap_or(usize::MAX);
        let bytes = to_bytes(request.into_body(), limit).await.map_err(|_| told(StatusCode::BAD_REQUEST, "the body did not come whole"))?;
        let text = if bytes.is_empty() { &b"{}"[..] } else { &bytes[..] };
        let bad = |why: String| told(StatusCode::BAD_REQUEST, format!("the body is no good: {why}"));
        let value: Value = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        // What is derived takes a list of the members' values for an object, which the document does not.
        if has_list(&value) {
            return Err(bad("a list stands where an object is meant".to_owned()));
        }
        let value = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        Ok(Self(value))
    }
}

/// No body that is sent here has a list in it.
fn has_list(value: &Value) -> bool {
    match value {
        Value::Array(_) => true,
        Value::Object(members) => members.values().any(has_list),
        _ => false,
    }
}
