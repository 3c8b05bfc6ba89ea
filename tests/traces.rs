//! Traces as a collector gets them: what happens to an event is one trace over attempts and retries, nothing of the event itself is in it,
//! and a collector that hangs, refuses or is away costs spans and no delivery. Judged by the types that OpenTelemetry generates.

mod scene;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use scene::{LIMIT, Scene, endpoint, event, event_for, headers, integrator, properties};
use support::{Answer, Exit, Receiver, Seen, eventually};

const COLLECTOR: &str = "/v1/traces?key=CANARY-COLLECTOR";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn to(collector: &Receiver) -> String {
    collector.url(COLLECTOR)
}

/// The spans of some requests, each whole and with all that it must have.
fn spans(seen: &[Seen]) -> Vec<Span> {
    let mut all = Vec::new();
    for request in seen {
        assert_eq!((request.method.as_str(), request.header("content-type")), ("POST", "application/x-protobuf"));
        let decoded = ExportTraceServiceRequest::decode(request.body.clone()).expect("a request of OTLP");
        for resource in decoded.resource_spans {
            let named = resource.resource.expect("a resource").attributes;
            assert!(named.iter().any(|pair| pair.key == "service.name" && format!("{:?}", pair.value).contains("callbackd")), "{named:?}");
            all.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    for span in &all {
        let is_whole = span.trace_id.len() == 16 && span.span_id.len() == 8 && matches!(span.parent_span_id.len(), 0 | 8);
        assert!(is_whole && span.start_time_unix_nano > 0 && span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        assert_eq!(span.flags & 0x101, 0x101, "sampled, and whether the parent is remote is known: {span:?}");
    }
    let ids: BTreeSet<&[u8]> = all.iter().map(|span| span.span_id.as_slice()).collect();
    assert_eq!(ids.len(), all.len(), "each span has an id of its own");
    all
}

/// Waits for so many spans, and for the names of all.
async fn exported(collector: &Receiver, count: usize) -> Vec<Span> {
    eventually(&format!("{count} spans"), LIMIT, async || {
        let spans = spans(&collector.seen_at(COLLECTOR));
        if spans.len() >= count { Ok(spans) } else { Err(spans.into_iter().map(|span| span.name).collect::<Vec<_>>()) }
    })
    .await
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(span: &Span) -> BTreeMap<&str, String> {
    let shown = |value: &Any| match value {
        Any::StringValue(text) => text.clone(),
        Any::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let value = |pair: &'_ opentelemetry_proto::tonic::common::v1::KeyValue| {
        pair.value.as_ref().and_then(|value| value.value.as_ref()).map(shown).expect("a value")
    };
    span.attributes.iter().map(|pair| (pair.key.as_str(), value(pair))).collect()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == 2)
}

async fn publish(scene: &Scene, body: &str, traceparent: &str) {
    let headers = headers(&[("traceparent", traceparent), ("tracestate", "vendor=x")]);
    scene.amqp.publish("compliance.events", "event", properties().with_headers(headers), body.as_bytes()).await;
}

/// The spans of an event that is delivered by its second attempt.
struct Story<'a> {
    first: &'a Span,
    failed: &'a Span,
    wait: &'a Span,
    due: &'a Span,
    delivered: &'a Span,
    delivery: &'a Span,
}

impl<'a> Story<'a> {
    fn of(all: &'a [Span]) -> Self {
        assert_eq!(all.len(), 6, "{all:#?}");
        assert!(all.iter().all(|span| hex(&span.trace_id) == TRACE && span.trace_state == "vendor=x"), "{all:#?}");
        let one = |name: &str, parent: &str| {
            let fits: Vec<&Span> = all.iter().filter(|span| span.name == name && hex(&span.parent_span_id) == parent).collect();
            let [span] = fits[..] else { panic!("{} spans {name} below {parent}: {all:#?}", fits.len()) };
            span
        };
        let id = |span: &Span| hex(&span.span_id);
        let (first, due) = (one("process callbacks.compliance", PARENT), one("process callbacks.compliance.due", PARENT));
        let (failed, wait, delivered) = (one("POST", &id(first)), one("wait", &id(first)), one("POST", &id(due)));
        Self { first, failed, wait, due, delivered, delivery: one("deliver", PARENT) }
    }

    fn assert_kinds_and_times(&self) {
        let Self { first, failed, wait, due, delivered, delivery } = *self;
        let kinds = [first, failed, wait, delivery].map(Span::kind);
        assert_eq!(kinds, [SpanKind::Consumer, SpanKind::Client, SpanKind::Internal, SpanKind::Internal]);
        assert_eq!([first, failed, wait, due, delivered, delivery].map(is_error), [false, true, false, false, false, false]);
        let times = [
            (first.start_time_unix_nano, failed.start_time_unix_nano),
            (failed.end_time_unix_nano, wait.start_time_unix_nano),
            (failed.end_time_unix_nano, first.end_time_unix_nano),
            (wait.end_time_unix_nano, due.start_time_unix_nano),
            (due.start_time_unix_nano, delivered.start_time_unix_nano),
            (delivered.end_time_unix_nano, due.end_time_unix_nano),
            (delivered.end_time_unix_nano, delivery.end_time_unix_nano),
        ];
        assert!(times.iter().all(|(earlier, later)| earlier <= later), "{times:?}");
        assert_eq!(delivery.start_time_unix_nano, first.start_time_unix_nano);
    }

    fn assert_attributes(&self, port: &str, bytes: &str) {
        let Self { first, failed, wait, due, delivered, delivery } = *self;
        let text = |name: &'static str, value: &str| (name, value.to_owned());
        let common = [text("callbackd.integrator", "acme"), text("callbackd.topic", "mismatches")];
        let with = |own: &[(&'static str, String)]| common.iter().chain(own).cloned().collect::<BTreeMap<&str, String>>();
        let request = |own: &[(&'static str, String)]| {
            let shared = [text("http.request.method", "POST"), text("server.address", "127.0.0.1"), text("server.port", port)];
            with(&[&shared[..], &[text("callbackd.endpoint", "main")], own].concat())
        };
        let status = "http.response.status_code";
        let of_first = [text(status, "503"), text("error.type", "503"), text("callbackd.attempt", "1"), text("callbackd.verdict", "retry")];
        assert_eq!(attributes(failed), request(&of_first));
        let of_second = [
            text(status, "200"),
            text("http.request.resend_count", "1"),
            text("callbackd.attempt", "2"),
            text("callbackd.verdict", "delivered"),
        ];
        assert_eq!(attributes(delivered), request(&of_second));
        let consumed = |queue: &str, outcome: &str| {
            with(&[
                text("messaging.system", "rabbitmq"),
                text("messaging.operation.type", "process"),
                text("messaging.operation.name", "process"),
                text("messaging.destination.name", queue),
                text("messaging.message.id", "evt-1"),
                text("messaging.message.body.size", bytes),
                text("callbackd.outcome", outcome),
            ])
        };
        assert_eq!(attributes(first), consumed("callbacks.compliance", "waiting"));
        assert_eq!(attributes(due), consumed("callbacks.compliance.due", "delivered"));
        assert_eq!(attributes(wait), with(&[text("callbackd.endpoint", "main"), text("callbackd.wait.cause", "retry")]));
        let ended = [text("callbackd.endpoint", "main"), text("callbackd.outcome", "delivered"), text("callbackd.attempts", "2")];
        assert_eq!(attributes(delivery), with(&ended));
    }
}

#[tokio::test]
async fn a_publishers_trace_holds_the_failed_attempt_the_wait_the_retry_and_the_end() {
    let (receiver, collector) = (Receiver::start(), Receiver::start());
    receiver.on_path("/CANARY-PATH?token=CANARY-QUERY", [503, 200]);
    let acme = integrator("acme", &[endpoint("main", &receiver.url("/CANARY-PATH?token=CANARY-QUERY"), "format = \"topic\"")]);
    let environment = [("CALLBACKD__TRACES__ENDPOINT", to(&collector)), ("CALLBACKD__TRACES__HEADERS", "{ x-key = \"K\" }".to_owned())];
    let scene = Scene::start_with(&acme, &environment.each_ref().map(|(name, value)| (*name, value.as_str()))).await;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let published = event_for("acme", "evt-1", "mismatches", "[\"CANARY-PAYLOAD\"]");
    publish(&scene, &published, &traceparent).await;

    let all = exported(&collector, 6).await;
    scene.settled().await;
    let story = Story::of(&all);
    story.assert_kinds_and_times();
    story.assert_attributes(&receiver.address().port().to_string(), &published.len().to_string());
    for request in collector.seen() {
        assert!(!request.body.windows(6).any(|bytes| bytes == b"CANARY"), "{request:?}");
        assert_eq!(request.header("x-key"), "K");
    }
    assert!(!scene.worker.log_text().contains("CANARY"));
    // What the endpoint is shown is what the publisher wrote.
    assert!(receiver.seen().iter().all(|seen| seen.header("traceparent") == traceparent));
}

#[tokio::test]
async fn a_parent_of_a_later_version_is_followed_and_shown_as_it_was_written() {
    let (receiver, collector) = (Receiver::start(), Receiver::start());
    let acme = integrator("acme", &[endpoint("main", &receiver.url("/"), "format = \"topic\"")]);
    let scene = Scene::start_with(&acme, &[("CALLBACKD__TRACES__ENDPOINT", &to(&collector))]).await;
    let traceparent = format!("cc-{TRACE}-{PARENT}-01-What-The_Future-\"Will\"-be-like");
    publish(&scene, &event_for("acme", "evt-1", "a", "[]"), &traceparent).await;

    let all = exported(&collector, 3).await;
    assert!(all.len() == 3 && all.iter().all(|span| hex(&span.trace_id) == TRACE), "{all:#?}");
    assert!(all.iter().any(|span| hex(&span.parent_span_id) == PARENT), "{all:#?}");
    let seen = receiver.seen();
    assert_eq!((seen.len(), seen[0].header("traceparent"), seen[0].header("tracestate")), (1, traceparent.as_str(), "vendor=x"));
}

#[tokio::test]
async fn without_a_parent_an_event_has_a_trace_of_its_own_and_an_unsampled_one_has_none() {
    let (receiver, collector) = (Receiver::start(), Receiver::start());
    receiver.on_path("/main", [500, 200]);
    receiver.on_path("/dead", [500]);
    let endpoints = [
        endpoint("main", &receiver.url("/main"), "topics = [\"a\"]\nformat = \"topic\""),
        endpoint("dead", &receiver.url("/dead"), "topics = [\"b\"]\nformat = \"topic\"\nretry = { max_attempts = 1 }"),
    ];
    let scene = Scene::start_with(&integrator("acme", &endpoints), &[("CALLBACKD__TRACES__ENDPOINT", &to(&collector))]).await;
    publish(&scene, &event_for("acme", "unsampled", "a", "[]"), &format!("00-{TRACE}-{PARENT}-00")).await;
    receiver.wait_for_at("/main", 2, LIMIT).await;
    scene.settled().await;
    receiver.on_path("/main", [500, 200]);
    scene.publish(&event_for("acme", "evt-a", "a", "[]")).await;
    scene.publish(&event_for("acme", "evt-b", "b", "[]")).await;

    let all = exported(&collector, 6 + 3).await;
    assert_eq!(all.len(), 9, "{all:#?}");
    let mut traces: BTreeMap<&[u8], Vec<&Span>> = BTreeMap::new();
    all.iter().for_each(|span| traces.entry(&span.trace_id).or_default().push(span));
    assert_eq!(traces.values().map(Vec::len).collect::<BTreeSet<_>>(), BTreeSet::from([3, 6]));
    for spans in traces.values() {
        let roots: Vec<&&Span> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
        assert!(matches!(roots[..], [root] if root.name == "process callbacks.compliance"), "{roots:?}");
        for span in spans.iter().filter(|span| !span.parent_span_id.is_empty()) {
            assert!(spans.iter().any(|parent| parent.span_id == span.parent_span_id), "{span:?} has no parent here");
        }
    }
    let dead: Vec<&Span> =
        all.iter().filter(|span| attributes(span).get("callbackd.outcome").is_some_and(|outcome| outcome == "dead")).collect();
    assert_eq!(dead.len(), 2, "its receipt and its delivery");
    assert!(dead.iter().all(|span| is_error(span)));
    assert!(dead.iter().any(|span| attributes(span).get("error.type").is_some_and(|reason| reason == "exhausted")));
}

#[tokio::test]
async fn another_worker_goes_on_in_the_same_trace() {
    let (receiver, collector) = (Receiver::start(), Receiver::start());
    receiver.on_path("/", [503, 503, 200]);
    let acme = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let to = to(&collector);
    let environment = [("CALLBACKD__TRACES__ENDPOINT", to.as_str()), ("CALLBACKD__DELIVERY__RETRY__INITIAL", "2s")];
    let mut scene = Scene::start_with(&acme, &environment).await;
    scene.publish(&event("without a parent")).await;
    publish(&scene, &event("with one"), &format!("00-{TRACE}-{PARENT}-01")).await;
    exported(&collector, 6).await;
    scene.worker.sigkill();
    scene.worker.start_again();
    scene.worker.wait_ready().await;

    let all = exported(&collector, 12).await;
    let mut traces: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    all.iter().for_each(|span| {
        traces.entry(hex(&span.trace_id)).or_default().insert(&span.name);
    });
    assert!(traces.len() == 2 && traces.contains_key(TRACE), "{traces:?}");
    let whole = BTreeSet::from(["process callbacks.compliance", "POST", "wait", "process callbacks.compliance.due", "deliver"]);
    assert!(traces.values().all(|names| *names == whole), "{traces:?}");
    for span in &all {
        let is_known = span.parent_span_id.is_empty() || hex(&span.parent_span_id) == PARENT;
        assert!(is_known || all.iter().any(|parent| parent.span_id == span.parent_span_id), "{span:?} has no parent");
    }
}

#[tokio::test]
async fn events_that_share_a_request_have_a_span_each_in_their_own_traces() {
    let (receiver, collector) = (Receiver::start(), Receiver::start());
    let batches = "format = \"topic\"\nbatch = { max_events = 2, max_wait = \"10s\" }";
    let acme = integrator("acme", &[endpoint("main", &receiver.url("/"), batches)]);
    let scene = Scene::start_with(&acme, &[("CALLBACKD__TRACES__ENDPOINT", &to(&collector))]).await;
    let other = TRACE.replace('0', "f");
    for (id, trace) in [("evt-1", TRACE), ("evt-2", other.as_str())] {
        publish(&scene, &event_for("acme", id, "t", "[]"), &format!("00-{trace}-{PARENT}-01")).await;
    }
    let all = exported(&collector, 6).await;
    assert_eq!(receiver.count(), 1);
    let posts: Vec<&Span> = all.iter().filter(|span| span.name == "POST").collect();
    assert_eq!(posts.iter().map(|span| hex(&span.trace_id)).collect::<BTreeSet<_>>(), BTreeSet::from([TRACE.to_owned(), other]));
    assert!(posts.iter().all(|span| attributes(span)["messaging.batch.message_count"] == "2"), "{posts:?}");
}

#[tokio::test]
async fn a_collector_that_hangs_costs_spans_and_no_delivery_and_is_told_of_once() {
    const EVENTS: usize = 300;
    let (receiver, collector) = (Receiver::start(), Receiver::start());
    collector.on_path(COLLECTOR, [Answer::hang()]);
    let acme = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let to = to(&collector);
    let environment =
        [("CALLBACKD__TRACES__ENDPOINT", to.as_str()), ("CALLBACKD__TRACES__TIMEOUT", "1s"), ("CALLBACKD__TRACES__MEMORY", "64KiB")];
    let mut scene = Scene::start_with(&acme, &environment).await;
    scene.publish(&event("first")).await;
    collector.wait_for(1, LIMIT).await;
    scene.publish_all((1..EVENTS).map(|n| event(&format!("evt-{n}")))).await;
    receiver.wait_for(EVENTS, LIMIT).await;
    scene.settled().await;
    scene.worker.wait_for_log("the collector hangs", LIMIT, |line| line["message"] == "traces failed").await;
    let count = async |name: &str, labels: &[(&str, &str)]| scene.worker.metric(name, labels).await.expect("a metric") as usize;
    // A receipt, an attempt and a delivery each; more where a busy machine's endpoint had some wait.
    let dropped = count("callbackd_trace_spans_total", &[("result", "dropped")]).await;
    let waiting = count("callbackd_trace_spans_waiting", &[]).await;
    assert!(dropped > 0 && waiting > 0 && dropped + waiting >= 3 * EVENTS, "{dropped} were left out, {waiting} wait");

    collector.on_path(COLLECTOR, [Answer::status(503), Answer::status(200)]);
    scene.worker.wait_for_metric("callbackd_trace_spans_total", &[("result", "exported")], waiting as f64, LIMIT).await;
    scene.worker.wait_for_log("it is back", LIMIT, |line| line["message"] == "traces ready").await;
    let left_out = scene.worker.wait_for_log("what was left out", LIMIT, |line| line["message"] == "traces left out").await;
    assert_eq!(left_out["spans"], dropped);
    for message in ["traces failed", "traces full: spans that come are left out"] {
        assert_eq!(scene.log_lines(message).len(), 1, "{message}");
    }
    assert!(!scene.worker.log_text().contains("CANARY"));

    // A stop waits for it, but not for long.
    collector.on_path(COLLECTOR, [Answer::hang()]);
    scene.publish(&event("last")).await;
    receiver.wait_for(EVENTS + 1, LIMIT).await;
    scene.worker.sigterm();
    assert_eq!(scene.worker.wait_exit(Duration::from_secs(15)).await, Exit::Code(0));
}

#[tokio::test]
async fn what_a_collector_refuses_is_not_sent_again_and_a_stop_sends_what_waits() {
    let (receiver, collector) = (Receiver::start(), Receiver::start());
    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "CANARY".to_owned() };
    let partial = ExportTraceServiceResponse { partial_success: Some(partial) };
    collector.on_path(COLLECTOR, [Answer::status(400), Answer::status(200).body(partial.encode_to_vec()), Answer::status(200)]);
    let acme = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let mut scene = Scene::start_with(&acme, &[("CALLBACKD__TRACES__ENDPOINT", &to(&collector))]).await;
    let [refused, exported] = [[("result", "refused")], [("result", "exported")]];
    scene.publish(&event("refused")).await;
    scene.worker.wait_for_metric("callbackd_trace_spans_total", &refused, 3.0, LIMIT).await;
    scene.publish(&event("in part")).await;
    scene.worker.wait_for_metric("callbackd_trace_spans_total", &exported, 2.0, LIMIT).await;
    assert_eq!(scene.worker.metric("callbackd_trace_spans_total", &refused).await, Some(4.0));
    assert!(scene.log_lines("traces refused").iter().all(|line| !line.to_string().contains("CANARY")));

    scene.publish(&event("at the end")).await;
    receiver.wait_for(3, LIMIT).await;
    scene.worker.sigterm();
    scene.worker.wait_exit(LIMIT).await;
    assert_eq!(spans(&collector.seen()[2..]).len(), 3);
    assert_eq!(collector.count(), 3);
}
