//! One of everything that a fact can name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::clock;
use crate::config::{self, Config};
use crate::domain::auth::{Auth, AuthFault};
use crate::domain::circuit::TripCause;
use crate::domain::dead::{DeadReason, RejectReason};
use crate::domain::decide::{Verdict, Wait};
use crate::domain::format::Format;
use crate::domain::integrator::{Directory, Endpoint, EndpointUrl, SkipReason};
use crate::domain::ladder::Ladder;
use crate::domain::names::{EndpointId, EventId, IntegratorKey, SourceName, Topic};
use crate::domain::reply::{Outcome, Reply};
use crate::domain::sign::SigningSecret;
use crate::domain::time::Timestamp;
use crate::letters::{Job, JobId, JobState, Progress};
use crate::telemetry::{EventOutcome, EventRef, Fact, Place, ResumeCause, Telemetry, WaitCause};

pub(super) const CANARY: &str = "CANARY";

/// One of everything that a fact can name.
pub(super) struct Scene {
    pub(super) source: SourceName,
    pub(super) id: EventId,
    pub(super) integrator: IntegratorKey,
    pub(super) topic: Topic,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) wait: Wait,
}

impl Scene {
    pub(super) fn new() -> Self {
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

    pub(super) fn event(&self) -> EventRef<'_> {
        EventRef { id: &self.id, integrator: &self.integrator, topic: &self.topic, whole: None, receipt: None }
    }

    pub(super) fn attempt(&self, telemetry: &Telemetry, outcome: Outcome, verdict: Verdict) {
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

    pub(super) fn dead_letter(&self, telemetry: &Telemetry, reason: DeadReason) {
        telemetry.record(&Fact::DeadLettered {
            event: self.event(),
            endpoint: &self.endpoint.id,
            reason,
            attempts: 9,
            status: None,
            replayed_at: None,
        });
    }

    pub(super) fn waits(&self, telemetry: &Telemetry, cause: WaitCause) {
        telemetry.record(&Fact::Waits {
            event: self.event(),
            endpoint: Some(&self.endpoint.id),
            cause,
            wait: self.wait,
            attempts: 1,
            parked: 0,
        });
    }

    pub(super) fn opened(&self, telemetry: &Telemetry, cause: TripCause) {
        let wait = Duration::from_secs(5);
        let next_probe_at = clock::now().plus(wait);
        telemetry.record(&Fact::CircuitOpened { endpoint: &self.endpoint, cause, failures: 10, wait, next_probe_at });
    }

    pub(super) fn paused(&self, telemetry: &Telemetry, time: Duration) {
        telemetry.record(&Fact::EndpointPaused { endpoint: &self.endpoint, until: clock::now().plus(time) });
    }

    /// Ends with an open circuit, which has a next probe to show.
    pub(super) fn left_alone(&self, telemetry: &Telemetry) {
        self.paused(telemetry, Duration::from_secs(60));
        telemetry.record(&Fact::EndpointResumed { endpoint: &self.endpoint, cause: ResumeCause::ConfigurationChanged });
        telemetry.record(&Fact::CircuitProbing { endpoint: &self.endpoint });
        telemetry.record(&Fact::CircuitClosed { endpoint: &self.endpoint, open_for: Duration::from_secs(7) });
        self.opened(telemetry, TripCause::Consecutive);
    }

    /// Records each kind of fact once; returns the message of each line in order.
    pub(super) fn record_everything(&self, telemetry: &Telemetry) -> Vec<&'static str> {
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
pub(super) const ALL_MESSAGES: [&str; 34] = [
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

pub(super) fn endpoint(integrator: &str, id: &str) -> Arc<Endpoint> {
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

pub(super) fn directory(endpoints: &[(&str, &str)]) -> Directory {
    let mut directory = Directory::new();
    for integrator in endpoints.iter().map(|(integrator, _)| *integrator).collect::<BTreeSet<_>>() {
        let of_integrator = endpoints.iter().filter(|(owner, _)| *owner == integrator).map(|(owner, id)| endpoint(owner, id)).collect();
        directory.insert(IntegratorKey::try_new(integrator).unwrap(), of_integrator);
    }
    directory
}

pub(super) fn config() -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("callbackd.toml");
    let url = "amqp://guest:CANARY@127.0.0.1:5672/%2f";
    std::fs::write(&path, format!("broker.url = '{url}'\n[[source]]\nname = 'ident'\nexchange = 'ident.events'")).unwrap();
    config::load(&path, []).unwrap()
}
