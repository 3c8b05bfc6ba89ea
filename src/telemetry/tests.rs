//! Facts go in as the worker records them; what comes out is what operators see.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::logging::{Shape, beside, filter, subscriber};
use super::metrics::deliveries::{CLASSES, OTHER_STATUS, VERDICTS, verdict_index};
use super::{EventOutcome, EventRef, Fact, Place, WaitCause};
use super::{REMOVED, ResumeCause, Telemetry};
use crate::clock;
use crate::config::{self, Config};
use crate::domain::auth::{Auth, AuthFault};
use crate::domain::circuit::TripCause;
use crate::domain::dead::{DeadReason, RejectReason};
use crate::domain::decide::{Verdict, Wait};
use crate::domain::decode::{Metadata, decode};
use crate::domain::format::Format;
use crate::domain::integrator::{Directory, Endpoint, EndpointUrl, SkipReason};
use crate::domain::ladder::Ladder;
use crate::domain::names::{EndpointId, EventId, IntegratorKey, SourceName, Topic};
use crate::domain::reply::{Failure, Forbidden, Outcome, Reply, TlsFault};
use crate::domain::sign::SigningSecret;
use crate::domain::time::Timestamp;
use crate::letters::{Job, JobId, JobState, Progress};

const CANARY: &str = "CANARY";

/// One of everything that a fact can name.
struct Scene {
    source: SourceName,
    id: EventId,
    integrator: IntegratorKey,
    topic: Topic,
    endpoint: Arc<Endpoint>,
    wait: Wait,
}

impl Scene {
    fn new() -> Self {
        let now = clock::now();
        Self {
            source: SourceName::try_new("ident").unwrap(),
            id: EventId::try_new("evt-1").unwrap(),
            integrator: IntegratorKey::try_new("acme").unwrap(),
            topic: Topic::try_new("identResult").unwrap(),
            endpoint: endpoint("acme", "main"),
            wait: Wait::at_least(&ladder(), Duration::from_secs(60), now),
        }
    }

    fn event(&self) -> EventRef<'_> {
        EventRef { id: &self.id, integrator: &self.integrator, topic: &self.topic, whole: None, receipt: None }
    }

    fn attempt(&self, telemetry: &Telemetry, outcome: Outcome, verdict: Verdict) {
        telemetry.record(&Fact::Attempted {
            event: self.event(),
            endpoint: &self.endpoint,
            webhook_id: "msg_1",
            attempt: 2,
            replayed_at: None,
            place: Place::ALONE,
            started_at: Timestamp::from_millis(0),
            request_bytes: 321,
            reply: &Reply { outcome, took: Duration::from_millis(42) },
            verdict: &verdict,
            latency: (verdict == Verdict::Delivered).then_some(Duration::from_secs(7)),
        });
    }

    fn dead_letter(&self, telemetry: &Telemetry, reason: DeadReason) {
        telemetry.record(&Fact::DeadLettered {
            event: self.event(),
            endpoint: &self.endpoint.id,
            reason,
            attempts: 9,
            status: None,
            replayed_at: None,
        });
    }

    fn waits(&self, telemetry: &Telemetry, cause: WaitCause) {
        telemetry.record(&Fact::Waits {
            event: self.event(),
            endpoint: Some(&self.endpoint.id),
            cause,
            wait: self.wait,
            attempts: 1,
            parked: 0,
        });
    }

    fn opened(&self, telemetry: &Telemetry, cause: TripCause) {
        let wait = Duration::from_secs(5);
        let next_probe_at = clock::now().plus(wait);
        telemetry.record(&Fact::CircuitOpened { endpoint: &self.endpoint, cause, failures: 10, wait, next_probe_at });
    }

    fn paused(&self, telemetry: &Telemetry, time: Duration) {
        telemetry.record(&Fact::EndpointPaused { endpoint: &self.endpoint, until: clock::now().plus(time) });
    }

    /// Ends with an open circuit, which has a next probe to show.
    fn left_alone(&self, telemetry: &Telemetry) {
        self.paused(telemetry, Duration::from_secs(60));
        telemetry.record(&Fact::EndpointResumed { endpoint: &self.endpoint, cause: ResumeCause::ConfigurationChanged });
        telemetry.record(&Fact::CircuitProbing { endpoint: &self.endpoint });
        telemetry.record(&Fact::CircuitClosed { endpoint: &self.endpoint, open_for: Duration::from_secs(7) });
        self.opened(telemetry, TripCause::Consecutive);
    }

    /// Records each kind of fact once; returns the message of each line in order.
    fn record_everything(&self, telemetry: &Telemetry) -> Vec<&'static str> {
        let event = self.event();
        let queue = "callbacks.ident";
        telemetry.record(&Fact::Started { integrators: 1, endpoints: 1 });
        telemetry.record(&Fact::BrokerConnected { link: queue });
        telemetry.record(&Fact::BrokerLost { link: queue, error: "gone", retry_in: Duration::from_millis(250) });
        telemetry.record(&Fact::BrokerBlocked { reason: "low on memory" });
        telemetry.record(&Fact::BrokerUnblocked);
        telemetry.record(&Fact::Quarantined { queue });
        telemetry.record(&Fact::QuarantineOver { queue });
        telemetry.record(&Fact::Consuming { queue, prefetch: 8 });
        telemetry.record(&Fact::WindowNarrowed { queue, prefetch: 8, given_back: 5 });
        telemetry.record(&Fact::PublishFailed { queue: "callbacks.ident.wait.1s", error: "returned" });
        telemetry.record(&Fact::StaleAcks { queue, count: 3 });
        telemetry.record(&Fact::TopologyReady { objects: 70 });
        telemetry.record(&Fact::Received { source: &self.source, due: true, late_by: Some(Duration::from_millis(30)) });
        telemetry.record(&Fact::Settled { source: &self.source, event: Some(event), outcome: EventOutcome::Delivered });
        telemetry.record(&Fact::Skipped { event, endpoint: &self.endpoint, reason: SkipReason::TopicNotWanted });
        self.waits(telemetry, WaitCause::Configuration);
        self.attempt(telemetry, Outcome::Answered { status: 200, retry_after: None }, Verdict::Delivered);
        telemetry.record(&Fact::TokenGranted { url: &self.endpoint.url, life: Duration::from_secs(3600) });
        telemetry.record(&Fact::TokenRefused { url: &self.endpoint.url, fault: AuthFault::Refused(401) });
        self.dead_letter(telemetry, DeadReason::Gone);
        self.left_alone(telemetry);
        telemetry.record(&Fact::Rejected {
            source: &self.source,
            event: Some(event),
            message_id: None,
            endpoint: None,
            reason: &RejectReason::UnknownIntegrator,
            replayed_at: None,
        });
        telemetry.record(&Fact::Reloaded { integrators: 2, endpoints: 3 });
        telemetry.record(&Fact::ReloadRefused { problems: &["a: bad".to_owned(), "b: worse".to_owned()] });
        telemetry.record(&Fact::Audited { actor: "ops", action: "start job", detail: Some("replay dead") });
        telemetry.record(&Fact::JobsNotRecorded { error: "locked" });
        telemetry.record(&Fact::JobsRecorded);
        telemetry.record(&Fact::JobEnded { job: &job() });
        telemetry.record(&Fact::Stopping { open: 1, limit: Duration::from_secs(25) });
        telemetry.record(&Fact::Stopped { abandoned: 0 });
        ALL_MESSAGES.to_vec()
    }
}

fn job() -> Job {
    Job {
        id: JobId::parse("01939cbb5c7e3d2a90bf14e6").unwrap(),
        spec: serde_json::from_str(r#"{"kind":"replay","queue":"dead"}"#).unwrap(),
        asked_by: "ops".to_owned(),
        asked_at: clock::now(),
        state: JobState::Failed { why: "the broker is away".to_owned() },
        progress: Progress::default(),
        note: None,
        worker: "host:1".to_owned(),
        run: 1,
        started_at: None,
        ended_at: None,
    }
}

/// The messages of the lines of `record_everything`.
const ALL_MESSAGES: [&str; 34] = [
    "started",
    "broker connected",
    "broker lost",
    "broker blocked",
    "broker unblocked",
    "quarantined",
    "quarantine over",
    "consuming",
    "window narrowed",
    "publish failed",
    "stale acks",
    "topology ready",
    "received",
    "settled",
    "skipped",
    "waits",
    "attempt",
    "token granted",
    "token refused",
    "dead letter",
    "endpoint paused",
    "endpoint resumed",
    "circuit probing",
    "circuit closed",
    "circuit opened",
    "rejected",
    "reloaded",
    "reload refused",
    "audit",
    "jobs not recorded",
    "jobs recorded",
    "job ended",
    "stopping",
    "stopped",
];

fn ladder() -> Ladder {
    Ladder::try_new(Duration::from_secs(1), Duration::from_secs(6 * 3600)).unwrap()
}

fn endpoint(integrator: &str, id: &str) -> Arc<Endpoint> {
    let mut headers = HeaderMap::new();
    let mut secret = HeaderValue::from_static(CANARY);
    secret.set_sensitive(true);
    headers.insert("x-acme-signature", secret);
    Arc::new(Endpoint {
        format: Format::Topic,
        signing: vec![SigningSecret::parse("whsec_Q0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZ").unwrap()],
        headers,
        auth: Auth::basic(CANARY, &CANARY.into()),
        ..Endpoint::new(
            IntegratorKey::try_new(integrator).unwrap(),
            EndpointId::try_new(id).unwrap(),
            EndpointUrl::parse("https://acme.example/CANARY?token=CANARY", false).unwrap(),
        )
    })
}

fn directory(endpoints: &[(&str, &str)]) -> Directory {
    let mut directory = Directory::new();
    for integrator in endpoints.iter().map(|(integrator, _)| *integrator).collect::<BTreeSet<_>>() {
        let of_integrator = endpoints.iter().filter(|(owner, _)| *owner == integrator).map(|(owner, id)| endpoint(owner, id)).collect();
        directory.insert(IntegratorKey::try_new(integrator).unwrap(), of_integrator);
    }
    directory
}

fn config() -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("callbackd.toml");
    let url = "amqp://guest:CANARY@127.0.0.1:5672/%2f";
    std::fs::write(&path, format!("broker.url = '{url}'\n[[source]]\nname = 'ident'\nexchange = 'ident.events'")).unwrap();
    config::load(&path, []).unwrap()
}

/// Standard error, but readable.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written while `work` runs, line by line.
fn lines(shape: Shape, directive: &str, work: impl FnOnce()) -> Vec<String> {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = subscriber(shape, false, filter("test", directive).unwrap(), move || writer.clone());
    tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_series(telemetry: &Telemetry, expected: &[&str]) {
    let text = telemetry.metrics_text();
    for line in expected {
        assert!(text.lines().any(|candidate| candidate == *line), "missing: {line}\n{text}");
    }
}

#[test]
fn every_fact_about_events_and_deliveries_counts_in_its_series() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    scene.record_everything(&telemetry);
    scene.attempt(&telemetry, Outcome::Answered { status: 503, retry_after: None }, Verdict::Retry(scene.wait));
    scene.attempt(&telemetry, Outcome::Failed(Failure::Timeout), Verdict::Dead(DeadReason::Exhausted));
    assert_series(
        &telemetry,
        &[
            r#"callbackd_events_received_total{queue="due",source="ident"} 1"#,
            r#"callbackd_events_received_total{queue="work",source="ident"} 0"#,
            r#"callbackd_retry_lateness_seconds_bucket{le="0.05"} 1"#,
            r#"callbackd_events_settled_total{outcome="delivered",source="ident"} 1"#,
            r#"callbackd_events_settled_total{outcome="dead",source="ident"} 0"#,
            r#"callbackd_events_rejected_total{reason="unknown_integrator",source="ident"} 1"#,
            r#"callbackd_waits_total{cause="configuration"} 1"#,
            r#"callbackd_waits_total{cause="parked"} 0"#,
            r#"callbackd_deliveries_skipped_total{endpoint="main",integrator="acme",reason="topic_not_wanted"} 1"#,
            r#"callbackd_attempts_total{class="2xx",endpoint="main",integrator="acme",verdict="delivered"} 1"#,
            r#"callbackd_attempts_total{class="5xx",endpoint="main",integrator="acme",verdict="retry"} 1"#,
            r#"callbackd_attempts_total{class="timeout",endpoint="main",integrator="acme",verdict="dead"} 1"#,
            r#"callbackd_attempt_duration_seconds_count 3"#,
            r#"callbackd_attempt_duration_seconds_bucket{le="0.05"} 3"#,
            r#"callbackd_delivery_latency_seconds_sum 7"#,
            r#"callbackd_dead_letters_total{endpoint="main",integrator="acme",reason="gone"} 1"#,
        ],
    );
}

#[test]
fn every_fact_about_the_broker_and_the_process_shows() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    telemetry.record(&Fact::BrokerBlocked { reason: "disk" });
    telemetry.record(&Fact::Quarantined { queue: "callbacks.ident" });
    telemetry.record(&Fact::BrokerConnected { link: "publish" });
    assert_series(
        &telemetry,
        &[
            "callbackd_broker_blocked 1",
            r#"callbackd_quarantined{queue="callbacks.ident"} 1"#,
            r#"callbackd_broker_connected{link="publish"} 1"#,
            r#"callbackd_broker_reconnects_total{link="publish"} 0"#,
        ],
    );
    scene.record_everything(&telemetry);
    telemetry.record(&Fact::BrokerConnected { link: "callbacks.ident" });
    assert_series(
        &telemetry,
        &[
            "callbackd_broker_blocked 0",
            r#"callbackd_quarantined{queue="callbacks.ident"} 0"#,
            r#"callbackd_quarantines_total{queue="callbacks.ident"} 2"#,
            r#"callbackd_prefetch{queue="callbacks.ident"} 8"#,
            r#"callbackd_window_narrowed_total{queue="callbacks.ident"} 1"#,
            r#"callbackd_given_back_total{queue="callbacks.ident"} 5"#,
            r#"callbackd_broker_connected{link="callbacks.ident"} 1"#,
            r#"callbackd_broker_reconnects_total{link="callbacks.ident"} 1"#,
            r#"callbackd_publish_failures_total{queue="callbacks.ident.wait.1s"} 1"#,
            r#"callbackd_stale_acks_total{queue="callbacks.ident"} 3"#,
            r#"callbackd_jobs_ended_total{kind="replay",state="failed"} 1"#,
            r#"callbackd_jobs_ended_total{kind="discard",state="done"} 0"#,
            "callbackd_jobs_not_recorded_total 1",
            r#"callbackd_config_reloads_total{result="success"} 1"#,
            r#"callbackd_config_reloads_total{result="refused"} 1"#,
            "callbackd_config_last_reload_successful 0",
            "callbackd_integrators 2",
            "callbackd_endpoints 3",
            concat!(r#"callbackd_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ],
    );
    let text = telemetry.metrics_text();
    let at = text.lines().find_map(|line| line.strip_prefix("callbackd_config_last_reload_success_timestamp_seconds ")).unwrap();
    assert!(clock::now().seconds() - at.parse::<i64>().unwrap() < 60, "{at}");
    assert!(text.contains("process_resident_memory_bytes "), "{text}");
}

#[test]
fn what_the_configuration_knows_starts_at_zero() {
    let telemetry = Telemetry::new(&config());
    telemetry.configured(&directory(&[("acme", "main")]));
    assert_series(
        &telemetry,
        &[
            r#"callbackd_events_received_total{queue="work",source="ident"} 0"#,
            r#"callbackd_events_rejected_total{reason="undecodable",source="ident"} 0"#,
            r#"callbackd_broker_connected{link="publish"} 0"#,
            r#"callbackd_broker_connected{link="callbacks.ident.due"} 0"#,
            r#"callbackd_quarantined{queue="callbacks.ident"} 0"#,
            r#"callbackd_quarantines_total{queue="callbacks.ident.due"} 0"#,
            r#"callbackd_prefetch{queue="callbacks.ident.due"} 0"#,
            r#"callbackd_given_back_total{queue="callbacks.ident.due"} 0"#,
            r#"callbackd_window_narrowed_total{queue="callbacks.ident.due"} 0"#,
            r#"callbackd_stale_acks_total{queue="callbacks.ident.due"} 0"#,
            r#"callbackd_publish_failures_total{queue="callbacks.dead"} 0"#,
            r#"callbackd_publish_failures_total{queue="callbacks.ident.wait.6h"} 0"#,
            r#"callbackd_attempts_total{class="2xx",endpoint="main",integrator="acme",verdict="delivered"} 0"#,
            r#"callbackd_dead_letters_total{endpoint="main",integrator="acme",reason="exhausted"} 0"#,
            r#"callbackd_dead_letters_total{endpoint="(removed)",integrator="(removed)",reason="endpoint_removed"} 0"#,
            r#"callbackd_config_reloads_total{result="refused"} 0"#,
        ],
    );
}

#[test]
fn a_removed_endpoint_loses_its_series_and_never_gets_them_back() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    telemetry.configured(&directory(&[("acme", "main"), ("acme", "other"), ("umbrella", "main")]));
    scene.record_everything(&telemetry);
    telemetry.configured(&directory(&[("acme", "other"), ("umbrella", "main")]));
    let of_acme_main = |text: &str| text.lines().filter(|line| line.contains(r#"endpoint="main",integrator="acme""#)).count();
    assert_eq!(of_acme_main(&telemetry.metrics_text()), 0);
    scene.record_everything(&telemetry);
    assert_eq!(of_acme_main(&telemetry.metrics_text()), 0, "an attempt that was in flight during the reload");
    assert_series(
        &telemetry,
        &[
            r#"callbackd_attempts_total{class="2xx",endpoint="(removed)",integrator="(removed)",verdict="delivered"} 1"#,
            r#"callbackd_dead_letters_total{endpoint="main",integrator="umbrella",reason="gone"} 0"#,
            r#"callbackd_dead_letters_total{endpoint="other",integrator="acme",reason="gone"} 0"#,
        ],
    );
}

#[test]
fn a_reload_that_keeps_an_endpoint_keeps_its_counts() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    for _ in 0..2 {
        telemetry.configured(&directory(&[("acme", "main")]));
        scene.dead_letter(&telemetry, DeadReason::Gone);
    }
    assert_series(&telemetry, &[r#"callbackd_dead_letters_total{endpoint="main",integrator="acme",reason="gone"} 2"#]);
}

#[test]
fn a_key_that_only_a_message_names_never_becomes_a_label() {
    let (mut scene, telemetry) = (Scene::new(), Telemetry::default());
    scene.integrator = IntegratorKey::try_new("stranger").unwrap();
    scene.record_everything(&telemetry);
    scene.dead_letter(&telemetry, DeadReason::EndpointRemoved);
    let text = telemetry.metrics_text();
    assert!(!text.contains("stranger"), "{text}");
    assert!(
        text.contains(&format!(
            r#"callbackd_dead_letters_total{{endpoint="{REMOVED}",integrator="{REMOVED}",reason="endpoint_removed"}} 1"#
        ))
    );
}

/// The value of a metric's series at the scene's endpoint, where there is one.
fn at_the_endpoint(telemetry: &Telemetry, metric: &str) -> Option<i64> {
    let series = format!(r#"callbackd_circuit_{metric}{{endpoint="main",integrator="acme"}} "#);
    telemetry.metrics_text().lines().find_map(|line| line.strip_prefix(&series)).map(|value| value.parse().unwrap())
}

#[test]
fn a_circuit_shows_its_state_since_when_and_its_next_probe() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    telemetry.configured(&directory(&[("acme", "main")]));
    let shown = |metric| at_the_endpoint(&telemetry, metric);
    assert_eq!((shown("state"), shown("openings_total")), (None, None), "an endpoint without trouble has no series");
    let before = clock::now().seconds();
    scene.opened(&telemetry, TripCause::FailureRate);
    assert_eq!((shown("state"), shown("openings_total")), (Some(1), Some(1)));
    assert!((before..before + 60).contains(&shown("since_timestamp_seconds").unwrap()));
    assert!((before + 5..before + 65).contains(&shown("next_probe_timestamp_seconds").unwrap()));
    telemetry.record(&Fact::CircuitProbing { endpoint: &scene.endpoint });
    assert_eq!((shown("state"), shown("next_probe_timestamp_seconds")), (Some(2), None));
    scene.opened(&telemetry, TripCause::Probe);
    assert_eq!((shown("state"), shown("openings_total")), (Some(1), Some(1)), "a probe that failed opens nothing anew");
    scene.paused(&telemetry, Duration::from_secs(600));
    assert_eq!(shown("state"), Some(3));
    assert!((before + 600..before + 660).contains(&shown("next_probe_timestamp_seconds").unwrap()));
    telemetry.record(&Fact::EndpointResumed { endpoint: &scene.endpoint, cause: ResumeCause::TimeOver });
    assert_eq!(shown("state"), Some(1), "what the pause has hidden");
    telemetry.record(&Fact::CircuitClosed { endpoint: &scene.endpoint, open_for: Duration::from_secs(5) });
    assert_eq!((shown("state"), shown("next_probe_timestamp_seconds"), shown("openings_total")), (Some(0), None, Some(1)));
}

#[test]
fn a_removed_endpoint_has_no_circuit_to_show() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    telemetry.configured(&directory(&[("acme", "main")]));
    scene.opened(&telemetry, TripCause::Consecutive);
    telemetry.configured(&directory(&[("acme", "other")]));
    scene.opened(&telemetry, TripCause::Consecutive);
    scene.paused(&telemetry, Duration::from_secs(60));
    for metric in ["state", "since_timestamp_seconds", "next_probe_timestamp_seconds", "openings_total"] {
        assert_eq!(at_the_endpoint(&telemetry, metric), None, "{metric}");
    }
    assert_series(&telemetry, &[r#"callbackd_circuit_openings_total{endpoint="(removed)",integrator="(removed)"} 1"#]);
    telemetry.configured(&directory(&[("acme", "main")]));
    scene.paused(&telemetry, Duration::from_secs(60));
    assert_eq!((at_the_endpoint(&telemetry, "state"), at_the_endpoint(&telemetry, "openings_total")), (Some(3), None));
}

#[test]
fn a_circuit_and_a_pause_say_everything_about_themselves() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let json = lines(Shape::Json, "info", || {
        scene.opened(&telemetry, TripCause::Consecutive);
        scene.paused(&telemetry, Duration::from_secs(60));
        telemetry.record(&Fact::EndpointResumed { endpoint: &scene.endpoint, cause: ResumeCause::TimeOver });
        telemetry.record(&Fact::CircuitClosed { endpoint: &scene.endpoint, open_for: Duration::from_secs(7) });
    });
    let read = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let [opened, paused, resumed, closed] = json.iter().map(read).collect::<Vec<_>>().try_into().unwrap();
    for line in [&opened, &paused, &resumed, &closed] {
        assert_eq!((&line["integrator"], &line["endpoint"]), (&"acme".into(), &"main".into()), "{line}");
    }
    let expected = (&"WARN".into(), &"consecutive".into(), &10.into(), &5000.into());
    assert_eq!((&opened["level"], &opened["cause"], &opened["failures"], &opened["wait_ms"]), expected, "{opened}");
    for at in [&opened["next_probe_at"], &paused["until"]] {
        assert!(at.as_str().is_some_and(|at| at.ends_with('Z') && Timestamp::parse(at).is_some()), "{at}");
    }
    assert_eq!((&paused["level"], &resumed["level"], &resumed["cause"]), (&"WARN".into(), &"INFO".into(), &"time_over".into()));
    assert_eq!((&closed["level"], &closed["open_for_ms"]), (&"INFO".into(), &7000.into()), "{closed}");
}

#[test]
fn every_class_of_reply_is_counted() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let answers = [200, 301, 404, 500, 100].map(|status| Outcome::Answered { status, retry_after: None });
    for outcome in answers.into_iter().chain(failures().map(Outcome::Failed)) {
        scene.attempt(&telemetry, outcome, Verdict::Dead(DeadReason::Expired));
    }
    let text = telemetry.metrics_text();
    let counted = |class: &&str| text.lines().any(|line| line.contains(&format!("class=\"{class}\"")) && line.ends_with(" 1"));
    assert_eq!(CLASSES.iter().filter(|class| counted(class)).count(), CLASSES.len(), "{text}");
}

#[test]
fn the_labels_of_attempts_are_exactly_what_replies_and_verdicts_can_say() {
    let answers = (0..=u16::MAX).map(|status| Outcome::Answered { status, retry_after: None });
    let replies = answers.chain(failures().map(Outcome::Failed)).map(|outcome| Reply { outcome, took: Duration::ZERO });
    let said: BTreeSet<&str> = replies.map(|reply| reply.class()).collect();
    assert_eq!(said, CLASSES.into_iter().collect());
    assert_eq!(CLASSES[OTHER_STATUS], "other_status");
    for verdict in [Verdict::Delivered, Verdict::Retry(Scene::new().wait), Verdict::Dead(DeadReason::Gone)] {
        assert_eq!(VERDICTS[verdict_index(&verdict)], verdict.as_str());
    }
}

/// Every failure there is: a new one does not compile until it stands here too.
fn failures() -> impl Iterator<Item = Failure> {
    std::iter::successors(Some(Failure::Timeout), |failure| match failure {
        Failure::Timeout => Some(Failure::Dns),
        Failure::Dns => Some(Failure::Connect),
        Failure::Connect => Some(Failure::Tls(TlsFault::Other)),
        Failure::Tls(TlsFault::Other) => Some(Failure::Tls(TlsFault::Expired)),
        Failure::Tls(TlsFault::Expired) => Some(Failure::Tls(TlsFault::UnknownIssuer)),
        Failure::Tls(TlsFault::UnknownIssuer) => Some(Failure::Tls(TlsFault::ClientCertificateMissing)),
        Failure::Tls(_) => Some(Failure::Blocked(Forbidden::Url)),
        Failure::Blocked(_) => Some(Failure::Auth(AuthFault::NoToken)),
        Failure::Auth(_) => Some(Failure::Disconnected),
        Failure::Disconnected => Some(Failure::NotHttp),
        Failure::NotHttp => Some(Failure::Local),
        Failure::Local => Some(Failure::Proxy),
        Failure::Proxy => Some(Failure::Other),
        Failure::Other => None,
    })
}

#[test]
fn gauges_go_up_and_down() {
    let telemetry = Telemetry::default();
    let (first, second) = (telemetry.in_flight_started(), telemetry.clone().in_flight_started());
    telemetry.lane_waiting_add(5);
    telemetry.lane_waiting_sub(2);
    telemetry.held_add(3);
    telemetry.held_bytes_add(3000);
    telemetry.held_bytes_sub(1000);
    telemetry.held_sub(1);
    drop(first);
    assert_eq!(telemetry.in_flight(), 1);
    assert_series(
        &telemetry,
        &["callbackd_in_flight 1", "callbackd_lane_waiting 3", "callbackd_held_events 2", "callbackd_held_bytes 2000"],
    );
    drop(second);
    assert_series(&telemetry, &["callbackd_in_flight 0"]);
}

#[test]
fn the_table_for_operators_lists_exactly_the_metrics_there_are() {
    let (scene, telemetry) = (Scene::new(), Telemetry::new(&config()));
    scene.record_everything(&telemetry);
    let text = telemetry.metrics_text();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let kind = text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
            let labels = labels(&text, name).into_iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            rows.insert(name, format!("| `{name}` | {kind} | {labels} | {help} |"));
        }
    }
    let document = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/METRICS.md"));
    let documented: BTreeSet<&str> =
        document.lines().filter(|line| line.starts_with("| `callbackd_") || line.starts_with("| `process_")).collect();
    let actual: BTreeSet<&str> = rows.values().map(String::as_str).collect();
    let all = rows.values().cloned().collect::<Vec<_>>().join("\n");
    assert_eq!(documented, actual, "the rows of deploy/METRICS.md must be these:\n{all}");
}

/// The labels of a metric's samples, without a histogram's `le`.
fn labels(text: &str, name: &str) -> BTreeSet<String> {
    let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once('}'));
    samples.flat_map(|(labels, _)| labels.split("\",").map(|label| label.split('=').next().unwrap_or_default().to_owned())).collect()
}

#[test]
fn every_fact_writes_exactly_one_line_in_both_shapes() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let mut expected = Vec::new();
    let json = lines(Shape::Json, "debug", || expected = scene.record_everything(&telemetry));
    let messages: Vec<String> =
        json.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(messages, expected);
    let human = lines(Shape::Human, "debug", || drop(scene.record_everything(&telemetry)));
    assert_eq!(human.len(), expected.len(), "{human:#?}");
    for (line, message) in human.iter().zip(expected) {
        let target = if message == "audit" { "callbackd::audit" } else { "callbackd" };
        assert!(line.contains(&format!(" {target}: {message}")), "{line}");
    }
}

#[test]
fn an_attempt_says_everything_about_itself() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let json = lines(Shape::Json, "info", || {
        scene.attempt(&telemetry, Outcome::Answered { status: 503, retry_after: None }, Verdict::Retry(scene.wait));
        scene.attempt(&telemetry, Outcome::Answered { status: 204, retry_after: None }, Verdict::Delivered);
    });
    let [retry, delivered] = json.as_slice() else { panic!("{json:#?}") };
    let retry: serde_json::Value = serde_json::from_str(retry).unwrap();
    for (field, expected) in [
        ("level", "INFO"),
        ("target", "callbackd"),
        ("event_id", "evt-1"),
        ("integrator", "acme"),
        ("endpoint", "main"),
        ("topic", "identResult"),
        ("webhook_id", "msg_1"),
        ("class", "5xx"),
        ("verdict", "retry"),
    ] {
        assert_eq!(retry[field], expected, "{field} in {retry}");
    }
    assert_eq!((&retry["attempt"], &retry["status"], &retry["took_ms"]), (&2.into(), &503.into(), &42.into()), "{retry}");
    // The rung for a minute is 64 s.
    assert!((60_000..=64_000).contains(&retry["retry_in_ms"].as_u64().unwrap()), "{retry}");
    for at in ["due_at", "timestamp"] {
        assert!(retry[at].as_str().is_some_and(|at| at.ends_with('Z') && Timestamp::parse(at).is_some()), "{at} in {retry}");
    }
    let delivered: serde_json::Value = serde_json::from_str(delivered).unwrap();
    assert_eq!((&delivered["latency_ms"], delivered.get("due_at")), (&7000.into(), None), "{delivered}");
}

#[test]
fn what_waits_has_a_line_and_a_count_and_only_the_unusual_is_told_by_default() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let told = |directive| {
        let json = lines(Shape::Json, directive, || WaitCause::ALL.into_iter().for_each(|cause| scene.waits(&telemetry, cause)));
        let read = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
        json.iter().map(read).inspect(|line| assert_eq!(line["message"], "waits")).collect::<Vec<_>>()
    };
    let causes = |told: &[serde_json::Value]| told.iter().map(|line| line["cause"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let all = told("debug");
    assert_eq!(causes(&all), WaitCause::ALL.map(WaitCause::as_str));
    for (field, expected) in [("event_id", "evt-1"), ("integrator", "acme"), ("endpoint", "main"), ("topic", "identResult")] {
        assert_eq!(all[0][field], expected, "{field} in {}", all[0]);
    }
    assert!((60_000..=64_000).contains(&all[0]["retry_in_ms"].as_u64().unwrap()), "{}", all[0]);
    assert_eq!(causes(&told("info")), ["configuration", "stopping"]);
    for cause in WaitCause::ALL {
        assert_series(&telemetry, &[&format!(r#"callbackd_waits_total{{cause="{}"}} 2"#, cause.as_str())]);
    }
}

#[test]
fn a_settled_message_names_its_event_where_it_has_one() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let json = lines(Shape::Json, "debug", || {
        for event in [Some(scene.event()), None] {
            telemetry.record(&Fact::Settled { source: &scene.source, event, outcome: EventOutcome::Rejected });
        }
    });
    let read = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
    assert_eq!((read(&json[0]).get("event_id"), read(&json[1]).get("event_id")), (Some(&"evt-1".into()), None));
}

#[test]
fn text_from_outside_breaks_no_line_and_reaches_no_terminal() {
    let (mut scene, telemetry) = (Scene::new(), Telemetry::default());
    let evil = "a\nb\r\x1b[31mred\x07\u{9b}2J\u{7f}\u{2028}\u{202e}z";
    scene.id = EventId::try_new(evil).unwrap();
    scene.topic = Topic::try_new(evil).unwrap();
    scene.integrator = IntegratorKey::try_new(evil).unwrap();
    let record = || {
        scene.attempt(&telemetry, Outcome::Answered { status: 200, retry_after: None }, Verdict::Delivered);
        scene.dead_letter(&telemetry, DeadReason::Gone);
        telemetry.record(&Fact::BrokerLost { link: "publish", error: evil, retry_in: Duration::ZERO });
        telemetry.record(&Fact::ReloadRefused { problems: &[evil.to_owned()] });
        // The words of a library, as message and as field.
        tracing::warn!(target: "library", error = %evil, "{evil}");
    };
    for shape in [Shape::Human, Shape::Json] {
        let written = lines(shape, "info", record);
        assert_eq!(written.len(), 5, "{written:#?}");
        for line in &written[..4] {
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }
    let human = lines(Shape::Human, "info", record);
    assert!(!human[4].chars().any(|c| c.is_control() || c == '\u{2028}'), "{:?}", human[4]);
    let json: serde_json::Value = serde_json::from_str(&lines(Shape::Json, "info", record)[1]).unwrap();
    assert_eq!(json["event_id"], evil.replace(['\u{9b}', '\u{7f}'], "\u{fffd}"), "all else is as it came in");
}

#[test]
fn long_ids_are_cut_at_a_character() {
    let (mut scene, telemetry) = (Scene::new(), Telemetry::default());
    scene.id = EventId::try_new(format!("x{}", "ä".repeat(500))).unwrap();
    let json = lines(Shape::Json, "info", || scene.dead_letter(&telemetry, DeadReason::Gone));
    let line: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(line["event_id"], format!("x{}…", "ä".repeat(99)));
}

#[test]
fn the_reason_for_a_lost_link_may_be_long() {
    let json = lines(Shape::Json, "info", || {
        for length in [2000, 2001] {
            Telemetry::default().record(&Fact::BrokerLost { link: "publish", error: &"e".repeat(length), retry_in: Duration::ZERO });
        }
    });
    let shown = json.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["error"].as_str().unwrap().to_owned());
    assert_eq!(shown.collect::<Vec<_>>(), ["e".repeat(2000), format!("{}…", "e".repeat(2000))]);
}

#[test]
fn payloads_secrets_and_urls_get_neither_into_the_log_nor_into_the_metrics() {
    let (scene, telemetry) = (Scene::new(), Telemetry::new(&config()));
    telemetry.configured(&directory(&[("acme", "main")]));
    let bodies: [&'static [u8]; 6] = [
        br#"CANARY"#,
        br#"{"topic":"t","integrator":"acme","data":"CANARY"}"#,
        br#"{"topic":{"CANARY":1},"integrator":"acme","data":[]}"#,
        br#"{"topic":"t","topic":"CANARY","data":[]}"#,
        br#"{"topic":"t","CANARY":"CANARY"}"#,
        b"{\"CANARY\xff\":1}",
    ];
    for shape in [Shape::Human, Shape::Json] {
        let written = lines(shape, "debug", || {
            scene.record_everything(&telemetry);
            for body in bodies {
                let fault = decode(Bytes::from_static(body), &Metadata::default()).unwrap_err();
                telemetry.record(&Fact::Rejected {
                    source: &scene.source,
                    event: None,
                    message_id: Some(CANARY),
                    endpoint: None,
                    reason: &RejectReason::Undecodable(fault),
                    replayed_at: None,
                });
            }
        });
        assert!(written.len() > bodies.len());
        let leaks: Vec<&String> = written.iter().filter(|line| line.contains(CANARY)).collect();
        assert!(leaks.is_empty(), "{leaks:#?}");
    }
    assert!(!telemetry.metrics_text().contains(CANARY));
    assert!(
        !format!("{telemetry:?} {:?}", Fact::Skipped { event: scene.event(), endpoint: &scene.endpoint, reason: SkipReason::NoRecords })
            .contains(CANARY)
    );
}

#[test]
fn returned_messages_and_frames_of_the_client_library_are_never_printed() {
    for directive in ["trace", "lapin=trace,debug", "lapin::returned_messages=warn"] {
        let written = lines(Shape::Json, directive, || {
            tracing::warn!(target: "lapin::returned_messages", message = CANARY);
            tracing::trace!(target: "lapin::io_loop", frame = CANARY);
            tracing::trace!(target: "callbackd", frame = CANARY);
        });
        assert_eq!(written, Vec::<String>::new(), "{directive}");
    }
}

#[test]
fn a_bare_level_is_ours_and_libraries_only_warn() {
    let all = || {
        tracing::debug!(target: "callbackd", "ours");
        tracing::info!(target: "hyper", "chatty");
        tracing::error!(target: "lapin::channel", "what we tell as a fact");
        tracing::warn!(target: "hyper", "serious");
    };
    assert_eq!(lines(Shape::Human, "debug", all).len(), 2);
    assert_eq!(lines(Shape::Human, "error", all).len(), 0);
    assert_eq!(lines(Shape::Human, "off", all).len(), 0);
    assert_eq!(lines(Shape::Human, "lapin=info,hyper=info,off", all).len(), 3);
    let fault = filter("log.level", "callbackd=loud").unwrap_err().to_string();
    assert!(fault.starts_with("log.level: `callbackd=loud` is no log level"), "{fault}");
}

#[test]
fn colour_is_only_in_what_we_add() {
    let captured = Captured::default();
    let writer = captured.clone();
    let coloured = subscriber(Shape::Human, true, filter("test", "info").unwrap(), move || writer.clone());
    tracing::subscriber::with_default(coloured, || {
        Telemetry::default().record(&Fact::BrokerBlocked { reason: "\x1b[31mCANARY" });
    });
    let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains('\x1b') && text.contains(r"\u{1b}[31mCANARY"), "{text:?}");
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_and_no_time() {
    let (unread, pipe) = io::pipe().unwrap();
    let (spool, guard) = beside(pipe, 8 * 1024).unwrap();
    let stalled = subscriber(Shape::Json, false, filter("test", "info").unwrap(), spool.clone());
    let started = std::time::Instant::now();
    tracing::subscriber::with_default(stalled, || {
        let long = "x".repeat(400);
        // More than a pipe holds (64 KiB on Linux) by far.
        for _ in 0..2000 {
            Telemetry::default().record(&Fact::BrokerBlocked { reason: &long });
        }
    });
    assert!(spool.dropped() > 500, "{}", spool.dropped());
    drop(guard);
    // The end waits for the writer a second and a half, not for ever; the pipe is open until here.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    drop(unread);
}

#[test]
fn every_line_is_written_before_the_end() {
    let captured = Captured::default();
    let (spool, guard) = beside(captured.clone(), 1 << 20).unwrap();
    let subscriber = subscriber(Shape::Json, false, filter("test", "info").unwrap(), spool);
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..1000 {
            Telemetry::default().record(&Fact::BrokerUnblocked);
        }
    });
    drop(guard);
    assert_eq!(captured.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count(), 1000);
}
