//! The frame of every page, and the pieces that several pages have.

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::assets;
use crate::admin::api::Refusal;

/// What a page may load: from here alone, and no script or style inside of it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";
/// htmx brings no style and no script of its own, and asks nobody else.
const HTMX: &str =
    r#"{"includeIndicatorStyles":false,"allowEval":false,"allowScriptTags":false,"selfRequestsOnly":true,"historyCacheSize":0}"#;

/// The places of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Overview,
    Endpoints,
    Events,
    Letters,
    Live,
    /// None of them.
    Other,
}

const MENU: [(Place, &str, &str); 5] = [
    (Place::Overview, "/", "Overview"),
    (Place::Endpoints, "/endpoints", "Endpoints"),
    (Place::Events, "/events", "Events"),
    (Place::Letters, "/letters/dead", "Dead letters"),
    (Place::Live, "/live", "Live"),
];

/// What a page needs to know of its surroundings.
#[derive(Debug, Clone)]
pub(in crate::admin) struct Frame {
    /// What stands before every path.
    pub prefix: String,
    /// Who is signed in; none where nobody has to be.
    pub actor: Option<String>,
}

impl Frame {
    /// A link within the console.
    pub(super) fn link(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// A whole page.
    pub(super) fn page(&self, place: Place, title: &str, body: &Markup) -> Response {
        self.page_with(StatusCode::OK, place, title, body)
    }

    /// A whole page with another status.
    pub(super) fn page_with(&self, status: StatusCode, place: Place, title: &str, body: &Markup) -> Response {
        let asset = |name| self.link(&assets::path(name));
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="htmx-config" content=(HTMX);
                    title { (title) " · callbackd" }
                    link rel="icon" href=(asset("icon.svg"));
                    link rel="stylesheet" href=(asset("uPlot-1.6.32.min.css"));
                    link rel="stylesheet" href=(asset("console.css"));
                    script src=(asset("htmx-2.0.11.min.js")) defer {}
                    script src=(asset("uPlot-1.6.32.iife.min.js")) defer {}
                    script src=(asset("console.js")) defer {}
                }
                body {
                    a.skip href="#main" { "To the content" }
                    header { div { (self.header(place)) } }
                    main id="main" { h1 { (title) } (body) }
                }
            }
        };
        fragment_with(status, &page)
    }

    fn header(&self, place: Place) -> Markup {
        html! {
            a.brand href=(self.link("/")) { "callbackd" }
            nav aria-label="Pages" {
                @for (known, path, name) in MENU {
                    a href=(self.link(path)) aria-current=[(known == place).then_some("page")] { (name) }
                }
            }
            @if let Some(actor) = &self.actor {
                form method="post" action=(self.link("/sign-out")) { button.plain { "Sign out " (actor) } }
            }
        }
    }

    /// A page that says why nothing was done.
    pub(super) fn refused(&self, place: Place, refusal: &Refusal) -> Response {
        let title = if refusal.status == StatusCode::NOT_FOUND { "Nothing here" } else { "Not done" };
        self.page_with(refusal.status, place, title, &html! { p.note.bad role="alert" { (refusal.message) } })
    }
}

/// A part of a page, or a whole one.
pub(super) fn fragment(markup: &Markup) -> Response {
    fragment_with(StatusCode::OK, markup)
}

fn fragment_with(status: StatusCode, markup: &Markup) -> Response {
    let PreEscaped(text) = markup;
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Without any, browsers send forms with `origin: null`, which could be anybody's.
        (header::REFERRER_POLICY, "same-origin"),
    ];
    (status, headers, text.clone()).into_response()
}

/// A moment, in UTC, to the second.
pub(super) fn moment(at: &str) -> Markup {
    let short = at.get(..19).map_or_else(|| at.to_owned(), |text| text.replace('T', " "));
    html! { time datetime=(at) title=(at) { (short) } }
}

/// A number with a space between thousands.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A time span as people say it.
pub(super) fn span(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..120_000 => format!("{} s", millis / 1000),
        120_000..7_200_000 => format!("{} min", millis / 60_000),
        7_200_000..172_800_000 => format!("{} h", millis / 3_600_000),
        _ => format!("{} d", millis / 86_400_000),
    }
}

/// The search for an event.
pub(super) fn found_by(event: &str, integrator: Option<&str>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("q", event).append_pair("integrator", integrator.unwrap_or_default()).finish()
}

/// One figure.
pub(super) fn card(label: &str, value: &str, more: &str) -> Markup {
    html! { div.card { div.label { (label) } div.value { (value) } div.more { (more) } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_spans_are_read_at_a_glance() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!([5, 1500, 119_999, 120_000, 7_200_000, 172_800_000].map(span), ["5 ms", "1 s", "119 s", "2 min", "2 h", "2 d"]);
    }

    #[test]
    fn what_comes_from_outside_is_text() {
        let PreEscaped(text) = html! { p title=("\"><script>") { ("<b>") } };
        assert_eq!(text, "<p title=\"&quot;&gt;&lt;script&gt;\">&lt;b&gt;</p>");
    }
}
