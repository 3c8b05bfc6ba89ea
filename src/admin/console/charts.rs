//! The series of charts, as the console's script draws them.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Console;
use crate::admin::api::log::{When, history};
use crate::admin::api::{Named, Params, Refusal};
use crate::clock;
use crate::config::parse_duration;
use crate::domain::time::Timestamp;
use crate::store::health::{History, Point};

/// Spans that can be looked at: how they are called, and how many minutes one point of each stands for.
pub(super) const SPANS: [(&str, u32); 4] = [("1h", 1), ("6h", 5), ("24h", 15), ("7d", 120)];

/// What is drawn.
#[derive(Debug, Deserialize)]
pub(super) struct Drawn {
    what: What,
    span: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Attempts,
    Durations,
}

#[derive(Debug, Serialize)]
struct Series {
    label: &'static str,
    colour: &'static str,
    unit: &'static str,
}

/// The series of an endpoint.
pub(super) async fn chart(State(console): State<Console>, Named(endpoint): Named, Params(drawn): Params<Drawn>) -> Response {
    answer(&console, &drawn, Some((endpoint.integrator.as_str(), endpoint.id.as_str()))).await
}

/// The series of all endpoints together.
pub(super) async fn total(State(console): State<Console>, Params(drawn): Params<Drawn>) -> Response {
    answer(&console, &drawn, None).await
}

async fn answer(console: &Console, drawn: &Drawn, endpoint: Option<(&str, &str)>) -> Response {
    let Some((span, step)) = SPANS.into_iter().find(|(span, _)| *span == drawn.span) else {
        return Refusal::new(StatusCode::BAD_REQUEST, "`span` is 1h, 6h, 24h or 7d").into_response();
    };
    let when = When { since: Some(span.to_owned()), until: None, step: Some(step) };
    let until = clock::now().seconds();
    let length = parse_duration(span).map_or(0, |span| i64::try_from(span.as_secs()).unwrap_or(0));
    match history(&console.api, &when, endpoint).await {
        Ok(History { points, .. }) => {
            let text = drawn_by(drawn.what, &points, (until - length, until), i64::from(step) * 60).to_string();
            ([(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// Points of a history as columns over a whole span: seconds, then one for each series. Steps in which nothing was tried are counted as
/// zero, and have no duration.
fn drawn_by(what: What, points: &[Point], (from, until): (i64, i64), step: i64) -> Value {
    let known: HashMap<i64, &Point> =
        points.iter().filter_map(|point| Some((Timestamp::parse(&point.at)?.seconds().div_euclid(step), point))).collect();
    let mut columns: [Vec<Value>; 3] = Default::default();
    for place in from.div_euclid(step)..=until.div_euclid(step) {
        let values = match (what, known.get(&place)) {
            (What::Attempts, Some(point)) => [json!(point.delivered), json!(point.failed)],
            (What::Attempts, None) => [json!(0), json!(0)],
            (What::Durations, Some(point)) => [rounded(point.p50_ms), rounded(point.p99_ms)],
            (What::Durations, None) => [Value::Null, Value::Null],
        };
        push(&mut columns, place * step, values);
    }
    let series = match what {
        What::Attempts => [("delivered", "--good", ""), ("failed", "--bad", "")],
        What::Durations => [("p50", "--accent", " ms"), ("p99", "--warn", " ms")],
    };
    json!({ "series": series.map(|(label, colour, unit)| Series { label, colour, unit }), "data": columns })
}

fn push(columns: &mut [Vec<Value>; 3], seconds: i64, [first, second]: [Value; 2]) {
    let [times, firsts, seconds_column] = columns;
    times.push(json!(seconds));
    firsts.push(first);
    seconds_column.push(second);
}

fn rounded(millis: Option<f64>) -> Value {
    millis.map_or(Value::Null, |millis| json!(millis.round()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_without_attempts_are_zero_and_have_no_duration() {
        let point = |at: &str| Point { at: at.to_owned(), delivered: 3, failed: 1, p50_ms: Some(4.6), p99_ms: None };
        let points = [point("1970-01-01T00:01:00Z"), point("1970-01-01T00:04:00Z")];
        let drawn = |what| drawn_by(what, &points, (65, 305), 60)["data"].clone();
        assert_eq!(drawn(What::Attempts), json!([[60, 120, 180, 240, 300], [3, 0, 0, 3, 0], [1, 0, 0, 1, 0]]));
        assert_eq!(drawn(What::Durations), json!([[60, 120, 180, 240, 300], [5.0, null, null, 5.0, null], [null, null, null, null, null]]));
    }
}
