//! How everything is, at a glance.

use axum::extract::{Extension, State};
use axum::response::Response;
use maud::{Markup, html};

use super::Console;
use super::endpoints::{Recent, UNKNOWN, table};
use super::page::{Frame, Place, card, fragment, moment, number, span};
use crate::admin::api::log::{When, report};
use crate::admin::api::{EndpointFilter, EndpointPage, Endpoints, Refusal, endpoint_page};
use crate::clock;
use crate::domain::integrator::Directory;
use crate::store::health::{Health, Report};

/// Of which time the figures are.
const TIME: &str = "15m";
/// Most endpoints that are listed here.
const MOST: usize = 20;
/// An endpoint that has failed more often than this is listed, though it is called as usual.
const GOOD: f64 = 0.9;

/// The page; its figures are made anew every few seconds.
pub(super) async fn page(State(console): State<Console>, Extension(frame): Extension<Frame>) -> Response {
    let refresh = frame.link("/overview/now");
    let body = html! {
        p.about { "This worker, version " (env!("CARGO_PKG_VERSION")) "; success and failure of the last 15 minutes, of all workers that share the delivery log." }
        div id="now" hx-get=(refresh) hx-trigger="every 5s" hx-swap="innerHTML" { (now(&console, &frame).await) }
        @if console.api.desk.is_some() {
            h2 { "The last hour" }
            div.charts {
                figure { figcaption { "Attempts a minute" } div.chart data-chart=(frame.link("/overview/chart?what=attempts&span=1h")) {} }
                figure { figcaption { "Duration, in milliseconds" } div.chart data-chart=(frame.link("/overview/chart?what=durations&span=1h")) {} }
            }
        }
    };
    frame.page(Place::Overview, "Overview", &body)
}

/// The figures alone.
pub(super) async fn refresh(State(console): State<Console>, Extension(frame): Extension<Frame>) -> Response {
    fragment(&now(&console, &frame).await)
}

async fn now(console: &Console, frame: &Frame) -> Markup {
    let api = &console.api;
    let missing = api.readiness.missing();
    let when = When { since: Some(TIME.to_owned()), ..When::default() };
    let report = report(api, &when, None).await;
    let asked = Endpoints { standing: Some(EndpointFilter::Attention), limit: Some(MOST), ..Endpoints::default() };
    let attention = endpoint_page(api, &asked).unwrap_or(EndpointPage { endpoints: Vec::new(), next: None });
    let directory = api.directory.borrow().clone();
    html! {
        @if !api.holds.is_known() { p.note.bad role="alert" { (UNKNOWN) } }
        @if missing.is_empty() { p.note.good role="status" { "Ready: every queue is consumed, and copies can be published." } }
        @else { div.note.bad role="alert" { b { "Not ready." } ul { @for line in &missing { li { (line) } } } } }
        p.about { "As of " (moment(&clock::now().to_string())) " UTC." }
        (figures(console, &directory, &report))
        h2 { "Endpoints that need a look" }
        (table(frame, &attention.endpoints, &Recent::of(&report), "This worker calls all endpoints as usual."))
        @if attention.next.is_some() { p { a href=(frame.link("/endpoints?attention=1")) { "All of them" } } }
        @if let Ok(report) = &report { (often_failing(frame, report)) }
    }
}

fn figures(console: &Console, directory: &Directory, report: &Result<Report, Refusal>) -> Markup {
    let api = &console.api;
    let (mut waiting, mut parked, mut oldest) = (0_usize, 0_usize, None);
    for (.., lane) in api.worker.lanes() {
        waiting += lane.waiting;
        parked += lane.parked;
        oldest = oldest.max(lane.oldest);
    }
    let count = |count: usize| number(u64::try_from(count).unwrap_or(u64::MAX));
    let oldest =
        oldest.map_or_else(String::new, |oldest| format!("the oldest for {}", span(u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX))));
    html! {
        div.cards {
            @match report {
                Ok(report) => { (traffic(report)) }
                Err(refusal) => { (card("Delivered", "?", &refusal.message)) }
            }
            (card("In flight", &count(api.telemetry.in_flight()), "requests"))
            (card("Waiting in line", &count(waiting), &oldest))
            (card("Parked", &count(parked), "as this worker knows"))
            (card("Endpoints", &count(directory.all().count()), &format!("of {} integrators", count(directory.len()))))
        }
    }
}

fn traffic(report: &Report) -> Markup {
    let sum = |of: fn(&Health) -> i64| report.endpoints.iter().map(of).sum::<i64>();
    let (delivered, failed, dead) = (sum(|one| one.delivered), sum(|one| one.retried + one.dead), sum(|one| one.given_up));
    let count = |count: i64| number(u64::try_from(count).unwrap_or(0));
    let rate = per_cent(failed, delivered + failed);
    html! {
        (card("Delivered", &count(delivered), "in 15 minutes"))
        (card("Failed", &rate, &format!("{} attempts in 15 minutes", count(failed))))
        (card("Dead letters", &count(dead), "in 15 minutes"))
    }
}

/// A share as it is said.
pub(super) fn per_cent(part: i64, whole: i64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    // Tenths of a percent, rounded.
    let tenths = (part * 1000 + whole / 2) / whole;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Endpoints that are called as usual and fail more often than is good.
fn often_failing(frame: &Frame, report: &Report) -> Markup {
    let mut bad: Vec<&Health> = report.endpoints.iter().filter(|one| one.success_rate.is_some_and(|rate| rate < GOOD)).collect();
    bad.sort_by(|one, other| one.success_rate.partial_cmp(&other.success_rate).unwrap_or(std::cmp::Ordering::Equal));
    bad.truncate(MOST);
    html! {
        @if !bad.is_empty() {
            h2 { "Most failures in 15 minutes" }
            div.scroll { table {
                thead { tr { th { "endpoint" } th.number { "succeeded" } th.number { "attempts" } th { "last failure" } } }
                tbody { @for one in bad { tr {
                    td { a href=(frame.link(&format!("/endpoints/{}", crate::admin::api::path_of(&one.integrator, &one.endpoint)))) { (one.integrator) " / " (one.endpoint) } }
                    td.number { (per_cent(one.delivered, one.attempts())) }
                    td.number { (one.attempts()) }
                    td { @if let Some(failure) = &one.last_failure { (moment(&failure.at)) " " (failure.error) } }
                } } }
            } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_to_tenths_of_a_percent() {
        assert_eq!(
            [(0, 0), (0, 7), (1, 3), (2, 3), (7, 7)].map(|(part, whole)| per_cent(part, whole)),
            ["-", "0.0 %", "33.3 %", "66.7 %", "100.0 %"]
        );
    }
}
