//! Endpoints: which there are, how one stands, and what can be done about it.

use std::collections::HashMap;

use axum::Form;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::Console;
use super::charts::SPANS;
use super::example::example;
use super::overview::per_cent;
use super::page::{Frame, Place, card, found_by, fragment, moment, span};
use crate::admin::access::Actor;
use crate::admin::api::log::{Wanted as Entries, When, listed, report};
use crate::admin::api::pauses;
use crate::admin::api::{
    EndpointFilter, EndpointPage, EndpointShown, Endpoints, Named, Params, Pause, Refusal, Standing, endpoint_page, hold, path_of, pinged,
    release, shown,
};
use crate::store::entry::What;
use crate::store::health::{Health, Report};
use crate::store::listing::Page;

/// Which endpoints are listed.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    integrator: String,
    #[serde(default)]
    attention: Option<String>,
    after: Option<String>,
}

/// Of which time a page shows the charts.
#[derive(Debug, Deserialize)]
pub(super) struct Shown {
    #[serde(default)]
    span: String,
}

/// How endpoints have been of late, where the delivery log knows.
#[derive(Default)]
pub(super) struct Recent<'a>(HashMap<(&'a str, &'a str), &'a Health>);

impl<'a> Recent<'a> {
    /// Those of a report.
    pub(super) fn of<E>(report: &'a Result<Report, E>) -> Self {
        let known = report.iter().flat_map(|report| &report.endpoints);
        Self(known.map(|health| ((health.integrator.as_str(), health.endpoint.as_str()), health)).collect())
    }

    fn on(&self, one: &EndpointShown) -> Option<&'a Health> {
        self.0.get(&(one.integrator.as_str(), one.endpoint.as_str())).copied()
    }
}

/// What the form of a pause sends.
#[derive(Debug, Deserialize)]
pub(super) struct PauseForm {
    #[serde(default)]
    until: String,
    #[serde(default)]
    reason: String,
}

/// All endpoints, a page at a time.
pub(super) async fn list(State(console): State<Console>, Extension(frame): Extension<Frame>, Params(wanted): Params<Wanted>) -> Response {
    let integrator = Some(wanted.integrator.trim().to_owned()).filter(|key| !key.is_empty());
    let standing = wanted.attention.as_ref().map(|_| EndpointFilter::Attention);
    let asked = Endpoints { integrator, standing, after: wanted.after.clone(), limit: Some(100) };
    let page = endpoint_page(&console.api, &asked).unwrap_or(EndpointPage { endpoints: Vec::new(), next: None });
    let when = When { since: Some("1h".to_owned()), ..When::default() };
    let report = report(&console.api, &when, None).await;
    let body = html! {
        form.row method="get" {
            label { "Integrator" br; input id="search" name="integrator" value=(wanted.integrator) placeholder="all"; }
            label { input type="checkbox" name="attention" value="1" checked[wanted.attention.is_some()]; " only what needs a look" }
            button { "Show" }
        }
        @if let Err(refusal) = &report { p.note { "How endpoints have been is not known: " (refusal.message) } }
        (table(&frame, &page.endpoints, &Recent::of(&report), "No endpoint fits."))
        @if let Some(next) = &page.next { p { a href=(frame.link(&format!("/endpoints?{}", query(&wanted, next)))) { "More" } } }
        (forgotten(&console, &frame))
    };
    frame.page(Place::Endpoints, "Endpoints", &body)
}

fn query(wanted: &Wanted, next: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("integrator", &wanted.integrator).append_pair("after", next);
    if wanted.attention.is_some() {
        query.append_pair("attention", "1");
    }
    query.finish()
}

/// Pauses of endpoints that are not configured any more: each would count again if its endpoint came back.
fn forgotten(console: &Console, frame: &Frame) -> Markup {
    let all = pauses::all(&console.api);
    let gone: Vec<_> = all.pauses.iter().filter(|pause| !pause.is_configured).collect();
    html! {
        @if !all.known { p.note.bad role="alert" { (UNKNOWN) } }
        @if !gone.is_empty() {
            h2 { "Paused, and not configured any more" }
            div.scroll { table { tbody { @for pause in gone { tr {
                td { (pause.integrator) " / " (pause.endpoint) }
                td { "since " (moment(&pause.since)) " by " (pause.paused_by) @if let Some(reason) = &pause.reason { ": " (reason) } }
                td { form method="post" action=(frame.link(&format!("/pauses/{}/end", path_of(&pause.integrator, &pause.endpoint)))) { button { "End the pause" } } }
            } } } } }
        }
    }
}

/// What is said where it is not known who is paused.
pub(super) const UNKNOWN: &str = "Which endpoints operators have paused is not known: the delivery log's database has been away since this worker started. Endpoints \
                                  that were paused before are called. Mend the database; the runbook CallbackdPausesUnknown says what else can be done.";

/// Ends the pause of an endpoint that is not configured any more.
pub(super) async fn end_pause(
    State(console): State<Console>,
    (Extension(frame), Extension(actor)): (Extension<Frame>, Extension<Actor>),
    Path(names): Path<(String, String)>,
) -> Response {
    match pauses::ended(&console.api, &actor, names).await {
        Ok(()) => Redirect::to(&frame.link("/endpoints")).into_response(),
        Err(refusal) => frame.refused(Place::Endpoints, &refusal),
    }
}

/// A table of endpoints.
pub(super) fn table(frame: &Frame, endpoints: &[EndpointShown], recent: &Recent<'_>, none: &str) -> Markup {
    html! {
        div.scroll {
            @if endpoints.is_empty() { p.none { (none) } } @else {
                table {
                    thead { tr { th { "endpoint" } th { "standing" } th { "host" } th.number { "succeeded" } th.number { "p99" } th.number { "in flight" } th.number { "waiting" } th.number { "parked" } } }
                    tbody { @for one in endpoints { tr {
                        td { a href=(frame.link(&format!("/endpoints/{}", path_of(&one.integrator, &one.endpoint)))) { (one.integrator) " / " (one.endpoint) } }
                        td { (standing(one)) }
                        td.mono { (one.host) }
                        @let health = recent.on(one);
                        td.number { (health.map_or_else(|| "-".to_owned(), |health| per_cent(health.delivered, health.attempts()))) }
                        td.number { (health.and_then(|health| health.p99_ms).map_or_else(|| "-".to_owned(), |millis| format!("{millis:.0} ms"))) }
                        td.number { (one.in_flight) }
                        td.number { (one.waiting) }
                        td.number { (one.parked) }
                    } } }
                }
            }
        }
    }
}

/// How an endpoint stands, in a word.
pub(super) fn standing(one: &EndpointShown) -> Markup {
    let (kind, word) = match one.standing {
        Standing::Working => ("good", "working"),
        Standing::Doubtful => ("warn", "trying again"),
        Standing::Failing => ("bad", "failing"),
        Standing::Gone => ("bad", "gone (410)"),
        Standing::Paused => ("warn", "paused"),
    };
    html! { span class={ "tag " (kind) } { (word) } }
}

/// One endpoint.
pub(super) async fn one(
    State(console): State<Console>,
    Extension(frame): Extension<Frame>,
    named: Result<Named, Response>,
    Params(shown_span): Params<Shown>,
) -> Response {
    let Ok(Named(endpoint)) = named else {
        return frame.refused(Place::Endpoints, &Refusal::new(StatusCode::NOT_FOUND, "No such endpoint is configured."));
    };
    let one = shown(&console.api, &endpoint);
    let chosen = SPANS.iter().find(|(span, _)| *span == shown_span.span).map_or("6h", |(span, _)| span);
    let when = When { since: Some(chosen.to_owned()), ..When::default() };
    let report = report(&console.api, &when, Some((&one.integrator, &one.endpoint))).await;
    let wanted = Entries {
        integrator: Some(one.integrator.clone()),
        endpoint: Some(one.endpoint.clone()),
        what: Some(What::Attempt),
        limit: Some(30),
        ..Entries::default()
    };
    let recent = listed(&console.api, wanted).await;
    let database = console.api.config.delivery_log.database.as_ref().map(ToString::to_string).unwrap_or_default();
    let path = format!("/endpoints/{}", path_of(&one.integrator, &one.endpoint));
    let body = html! {
        p.about { (standing(&one)) " " span.mono { (one.host) } ", " (one.format) ", "
            @match &one.topics { None => "all topics", Some(topics) => { (topics.join(", ")) } } }
        (explained(&one, &database))
        div.cards {
            (card("In flight", &one.in_flight.to_string(), &format!("at most {}", one.policy.max_in_flight)))
            (card("Waiting in line", &one.waiting.to_string(), &one.oldest_ms.map(|oldest| format!("the first for {}", span(oldest))).unwrap_or_default()))
            (card("Parked", &one.parked.to_string(), "as this worker knows"))
            (card("Rate limit", one.policy.rate.as_deref().unwrap_or("none"), &format!("batches of {}", one.policy.batch)))
        }
        (actions(&frame, &path, &one))
        (charts(&frame, &path, chosen, &report))
        h2 { "Recent attempts" }
        (attempts(&frame, &recent))
        @if let Some(example) = example(&endpoint) { h2 { "What a request to it looks like" } pre { (example) } }
    };
    frame.page(Place::Endpoints, &format!("{} / {}", one.integrator, one.endpoint), &body)
}

fn explained(one: &EndpointShown, database: &str) -> Markup {
    let until = |text: &str| html! { @if let Some(until) = &one.until { (text) (moment(until)) } };
    html! {
        @match one.standing {
            Standing::Working => {}
            Standing::Doubtful => { p.note { "It said that it was gone, and is tried with one request at a time." } }
            Standing::Failing => { p.note.bad { "It keeps failing and is left alone" @if let Some(since) = &one.since { " since " (moment(since)) } "; its events wait." (until(" One request tries it at ")) } }
            Standing::Gone => { p.note.bad { "It answered 410; its events wait." (until(" It is tried again when its configuration changes, or at ")) } }
            Standing::Paused => { p.note {
                "Paused by " (one.paused_by.as_deref().unwrap_or("?")) @if let Some(since) = &one.since { " at " (moment(since)) } (until(", until "))
                @if let Some(reason) = &one.reason { ": " (reason) } ". Its events wait, and are given up when they are " (span(one.policy.max_age_s.saturating_mul(1000)))
                " old; after it goes on, the last of them may come as much as a quarter of the pause later. It holds for all workers that share " code { (database) } "."
            } }
        }
    }
}

fn charts(frame: &Frame, path: &str, chosen: &str, report: &Result<Report, Refusal>) -> Markup {
    let source = |what: &str| frame.link(&format!("{path}/chart?what={what}&span={chosen}"));
    html! {
        div.row role="navigation" aria-label="Span" { @for (span, _) in SPANS {
            a.button href=(frame.link(&format!("{path}?span={span}"))) aria-current=[(span == chosen).then_some("page")] { (span) }
        } }
        @match report {
            Err(refusal) => { p.note { (refusal.message) } }
            Ok(report) => {
                @if let Some(health) = report.endpoints.first() { (figures(health)) } @else { p.about { "Nothing was tried in this time." } }
                div.charts {
                    figure { figcaption { "Attempts" } div.chart data-chart=(source("attempts")) {} }
                    figure { figcaption { "Duration, in milliseconds" } div.chart data-chart=(source("durations")) {} }
                }
            }
        }
    }
}

fn figures(health: &Health) -> Markup {
    let millis = |millis: Option<f64>| millis.map_or_else(|| "-".to_owned(), |millis| format!("{millis:.0} ms"));
    let classes = health.classes.iter().map(|(class, count)| format!("{class}: {count}")).collect::<Vec<_>>().join(", ");
    html! {
        div.cards {
            (card("Succeeded", &per_cent(health.delivered, health.attempts()), &format!("of {} attempts", health.attempts())))
            (card("Half take", &millis(health.p50_ms), &format!("99 % take {}", millis(health.p99_ms))))
            (card("Dead letters", &health.given_up.to_string(), &format!("{} rejected", health.rejected)))
        }
        dl {
            dt { "Answers" } dd { (classes) }
            @if let Some(at) = &health.last_success_at { dt { "Last success" } dd { (moment(at)) } }
            @if let Some(failure) = &health.last_failure { dt { "Last failure" } dd { (moment(&failure.at)) " " (failure.error) } }
        }
    }
}

fn attempts(frame: &Frame, recent: &Result<Page, Refusal>) -> Markup {
    html! {
        div.scroll { @match recent {
            Err(refusal) => { p.none { (refusal.message) } }
            Ok(page) if page.entries.is_empty() => { p.none { "No attempt is recorded." } }
            Ok(page) => { table.stack {
                thead { tr { th { "time (UTC)" } th { "event" } th { "what happened" } } }
                tbody { @for entry in &page.entries { tr {
                    td.time { (moment(&entry.line.at)) }
                    td.mono { @if let Some(event) = &entry.event_id { a href=(frame.link(&format!("/events?{}", found_by(event, entry.integrator.as_deref())))) { (event) } } }
                    td { (entry.line.happened()) }
                } } }
            } }
        } }
    }
}

fn actions(frame: &Frame, path: &str, one: &EndpointShown) -> Markup {
    let query = |pairs: &[(&str, &str)]| url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let letters = query(&[("integrator", &one.integrator), ("endpoint", &one.endpoint)]);
    let live = query(&[("integrator", &one.integrator)]);
    html! {
        div.row {
            form method="post" action=(frame.link(&format!("{path}/ping"))) hx-post=(frame.link(&format!("{path}/ping"))) hx-target="#pong" hx-swap="innerHTML" {
                button { "Ping" }
            }
            a.button href=(frame.link(&format!("/letters/dead?{letters}"))) { "Its dead letters" }
            a.button href=(frame.link(&format!("/live?{live}"))) { "Watch it" }
            @if one.standing == Standing::Paused {
                form method="post" action=(frame.link(&format!("{path}/resume"))) { button.main { "Resume" } }
            }
        }
        div id="pong" role="status" {}
        @if one.standing != Standing::Paused {
            details {
                summary { "Pause it" }
                form.row method="post" action=(frame.link(&format!("{path}/pause"))) {
                    label { "For how long" br; input name="until" placeholder="2h, or until resumed"; }
                    label { "Why" br; input name="reason" maxlength="300" placeholder="for other operators"; }
                    button.danger { "Pause" }
                }
            }
        }
    }
}

/// Pauses an endpoint.
pub(super) async fn pause(
    State(console): State<Console>,
    (Extension(frame), Extension(actor)): (Extension<Frame>, Extension<Actor>),
    Named(endpoint): Named,
    Form(form): Form<PauseForm>,
) -> Response {
    let given = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let pause = Pause { until: given(form.until), reason: given(form.reason) };
    match hold(&console.api, &actor, &endpoint, pause).await {
        Ok(()) => back(&frame, &endpoint),
        Err(refusal) => frame.refused(Place::Endpoints, &refusal),
    }
}

/// Lets an endpoint go on.
pub(super) async fn resume(
    State(console): State<Console>,
    (Extension(frame), Extension(actor)): (Extension<Frame>, Extension<Actor>),
    Named(endpoint): Named,
) -> Response {
    match release(&console.api, &actor, (&endpoint.integrator, &endpoint.id)).await {
        Ok(()) => back(&frame, &endpoint),
        Err(refusal) => frame.refused(Place::Endpoints, &refusal),
    }
}

/// Pings an endpoint.
pub(super) async fn ping(State(console): State<Console>, Extension(actor): Extension<Actor>, Named(endpoint): Named) -> Response {
    let result = match pinged(&console.api, &actor, &endpoint).await {
        Ok(pong) if pong.ok => html! { p.note.good { "It answered " (pong.status.unwrap_or_default()) " after " (pong.took_ms) " ms." } },
        Ok(pong) => html! { p.note.bad { (pong.error.as_deref().unwrap_or("It did not answer")) " after " (pong.took_ms) " ms." } },
        Err(refusal) => html! { p.note.bad { (refusal.message) } },
    };
    fragment(&result)
}

fn back(frame: &Frame, endpoint: &crate::domain::integrator::Endpoint) -> Response {
    Redirect::to(&frame.link(&format!("/endpoints/{}", path_of(endpoint.integrator.as_str(), endpoint.id.as_str())))).into_response()
}
