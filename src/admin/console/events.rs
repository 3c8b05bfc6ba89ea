//! To find an event and see what became of it.

use axum::extract::{Extension, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::Console;
use super::endpoints::standing;
use super::page::{Frame, Place, moment};
use crate::admin::api::log::stories;
use crate::admin::api::{Params, Standing, path_of, shown};
use crate::domain::names::{EndpointId, IntegratorKey};
use crate::letters::Queue;
use crate::store::story::{Delivery, Line, State as Stands, Story, cause_in_words};

/// Most events of one answer.
const MOST: usize = 20;

/// What is looked for.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    q: String,
    #[serde(default)]
    integrator: String,
}

/// The search, and what it found.
pub(super) async fn search(State(console): State<Console>, Extension(frame): Extension<Frame>, Params(wanted): Params<Wanted>) -> Response {
    let q = wanted.q.trim();
    let integrator = Some(wanted.integrator.trim()).filter(|key| !key.is_empty());
    let found = if q.is_empty() { Ok((Vec::new(), false)) } else { stories(&console.api, q, integrator, MOST).await };
    let (stories, has_more) = match found {
        Ok(found) => found,
        Err(refusal) => return frame.refused(Place::Events, &refusal),
    };
    let body = html! {
        p.about { "By an event's id, one of its keys (of a record, a customer, a contract, a person), or the webhook-id of a message that told of it." }
        form.row method="get" role="search" {
            label { "Event or key" br; input id="search" type="search" name="q" value=(q) required autofocus[q.is_empty()]; }
            label { "Integrator" br; input name="integrator" value=(wanted.integrator) placeholder="any"; }
            button.main { "Search" }
        }
        @if has_more { p.note { "There are more than " (MOST) " events; the newest are shown. Name the integrator, or ask for an event by its id." } }
        @if !q.is_empty() && stories.is_empty() { (unknown(&console, &frame, q)) }
        @for story in &stories { (told(&console, &frame, story)) }
    };
    frame.page(Place::Events, "Events", &body)
}

fn unknown(console: &Console, frame: &Frame, wanted: &str) -> Markup {
    let log = &console.api.config.delivery_log;
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("event", wanted).finish();
    html! {
        p.note {
            "The delivery log knows nothing of it. It may be more than " (log.retention.as_secs() / 3600) " h old, on its way to a worker, in its first attempt, have been stored under \
             another " code { "hash_secret" } ", or have been left out while the log was down. Upper and lower case differ in values. Searched by: " (log.search_keys.names().join(", ")) "."
        }
        p { "Look among the letters too: "
            @for queue in Queue::ALL { a href=(frame.link(&format!("/letters/{}?{}", queue.as_str(), query))) { (queue.as_str()) } " " } }
    }
}

fn told(console: &Console, frame: &Frame, story: &Story) -> Markup {
    html! {
        section {
            h2 { span.mono { (story.event_id) } " of " (story.integrator) ", " (story.topic) }
            @if !story.keys.is_empty() { p.about { @for key in &story.keys { code { (key) } " " } } }
            div.sheet {
                @for delivery in &story.deliveries { p { (stands(console, frame, story, delivery)) } }
                @if story.is_cut { p.about { "Older lines are not shown." } }
                ol.story { @for line in &story.lines { li class=(colour(line)) { (moment(&line.at)) (of_endpoint(line)) (line.happened()) } } }
            }
        }
    }
}

fn of_endpoint(line: &Line) -> Markup {
    html! { @if let Some(endpoint) = &line.endpoint { b { (endpoint) } " " } }
}

fn colour(line: &Line) -> &'static str {
    match (line.what.as_str(), line.verdict.as_deref()) {
        ("attempt", Some("delivered")) => "good",
        ("dead" | "rejected", _) | ("attempt", Some("dead")) => "bad",
        ("attempt", _) => "warn",
        _ => "",
    }
}

/// Where a delivery stands, and what can be done about it.
fn stands(console: &Console, frame: &Frame, story: &Story, delivery: &Delivery) -> Markup {
    let endpoint = delivery.endpoint.as_deref().unwrap_or("all endpoints");
    let (kind, word) = match &delivery.state {
        Stands::Delivered { .. } => ("good", "delivered"),
        Stands::Waiting { .. } => ("warn", "waits"),
        Stands::Dead { .. } => ("bad", "dead"),
        Stands::Rejected { .. } => ("bad", "rejected"),
        Stands::Skipped { .. } => ("", "not told"),
    };
    html! {
        span class={ "tag " (kind) } { (word) } " "
        @match &delivery.endpoint {
            Some(id) => { a href=(frame.link(&format!("/endpoints/{}", path_of(&story.integrator, id)))) { b { (endpoint) } } }
            None => { b { (endpoint) } }
        }
        ": "
        @match &delivery.state {
            Stands::Delivered { at, attempt, status } => { "at " (moment(at)) " by attempt " (attempt) ", answered " (status) }
            Stands::Waiting { cause, due_at: Some(due_at), overdue_s: 0, .. } => { "(" (cause_in_words(cause)) ") goes on at " (moment(due_at)) "." (now(console, frame, story, delivery)) }
            Stands::Waiting { cause, since, due_at, .. } if comes_and_goes(cause) => {
                "(" (cause_in_words(cause)) ") since " (moment(since)) ": it comes back now and then, and not each time is told" @if let Some(due_at) = due_at { ", last for " (moment(due_at)) } "."
                (now(console, frame, story, delivery))
            }
            Stands::Waiting { cause, since, due_at, overdue_s } => {
                "(" (cause_in_words(cause)) ") since " (moment(since))
                @if let Some(due_at) = due_at { ", was to go on at " (moment(due_at)) ", " (overdue_s) " s ago: it is on its way, no worker runs, or its story was left out of the log" } "."
                (now(console, frame, story, delivery))
            }
            Stands::Dead { at, reason } => { "given up at " (moment(at)) " (" (reason) "). " (letters(frame, story, delivery, "dead")) }
            Stands::Rejected { at, reason } => { "at " (moment(at)) " (" (reason) "). " (letters(frame, story, delivery, "rejected")) }
            Stands::Skipped { reason } => { "on purpose (" (reason) ")" }
        }
        @if let Some(id) = &delivery.webhook_id { " " span.mono { (id) } }
        @if let Some(at) = &delivery.delivered_before { " It was delivered at " (moment(at)) " before." }
    }
}

/// Whether what waits so comes back now and then.
fn comes_and_goes(cause: &str) -> bool {
    matches!(cause, "parked" | "circuit" | "paused" | "held")
}

/// How the endpoint of a delivery that waits stands at this moment, where that explains it.
fn now(console: &Console, frame: &Frame, story: &Story, delivery: &Delivery) -> Markup {
    let names = IntegratorKey::try_new(&story.integrator).ok().zip(delivery.endpoint.as_ref().and_then(|id| EndpointId::try_new(id).ok()));
    let Some((integrator, id)) = names else { return html! {} };
    let endpoint = console.api.directory.borrow().endpoint(&integrator, &id).cloned();
    let Some(endpoint) = endpoint else { return html! { " Its endpoint is not configured any more." } };
    let one = shown(&console.api, &endpoint);
    html! {
        @if one.standing != Standing::Working {
            " Its endpoint now: " (standing(&one)) @if let Some(until) = &one.until { " until " (moment(until)) }
            " " a href=(frame.link(&format!("/endpoints/{}", path_of(&one.integrator, &one.endpoint)))) { "see it" } "."
        }
    }
}

/// A link to the letter of a delivery.
fn letters(frame: &Frame, story: &Story, delivery: &Delivery, queue: &str) -> Markup {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("event", &story.event_id).append_pair("integrator", &story.integrator);
    if let Some(endpoint) = &delivery.endpoint {
        query.append_pair("endpoint", endpoint);
    }
    html! { a href=(frame.link(&format!("/letters/{queue}?{}", query.finish()))) { "Look at its letter, replay it" } }
}
