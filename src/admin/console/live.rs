//! What happens right now, as it happens.

use axum::extract::Extension;
use axum::response::Response;
use maud::html;
use serde::Deserialize;

use super::page::{Frame, Place};
use crate::admin::api::Params;

/// What is watched.
#[derive(Debug, Deserialize)]
pub(super) struct Watched {
    #[serde(default)]
    integrator: String,
}

/// The page; rows come with a script.
pub(super) async fn page(Extension(frame): Extension<Frame>, Params(watched): Params<Watched>) -> Response {
    let filter = match &*watched.integrator {
        "" => String::new(),
        key => format!("?{}", url::form_urlencoded::Serializer::new(String::new()).append_pair("integrator", key).finish()),
    };
    let body = html! {
        p.about { "Attempts, dead letters and rejected events of this worker, the newest first; a hundred a second at most." }
        form.row method="get" {
            label { "Integrator" br; input name="integrator" value=(watched.integrator) placeholder="all"; }
            button { "Watch" }
            button type="button" id="live-pause" { "Pause" }
            span id="live-state" role="status" { "connecting" }
        }
        div.scroll {
            table.stack data-live=(frame.link(&format!("/api/v1/stream{filter}"))) data-link=(frame.link("/events?q=")) {
                thead { tr { th { "time (UTC)" } th { "what" } th { "who" } th { "event" } th { "answer" } th.number { "took" } } }
                tbody {}
            }
        }
        noscript { p.note { "This page needs JavaScript." } }
    };
    frame.page(Place::Live, "Live", &body)
}
