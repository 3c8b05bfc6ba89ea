//! Sends spans to a collector, on a thread of its own.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::tls::Version;
use reqwest::{Client, StatusCode};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Tracer;
use super::otlp::{Response, Writer};
use super::span::Span;
use crate::config::{Collector, Config, Traces};
use crate::egress::EgressError;
use crate::side_thread::{SideRuntime, SideThread};
use crate::telemetry::{Fact, Telemetry};

/// How long spans gather before they are sent.
const GATHER: Duration = Duration::from_millis(500);

/// Most spans of one request, some 200 KiB: as OpenTelemetry's own exporters send.
const BATCH: usize = 512;

/// Most bytes that are read of an answer.
const ANSWER_LIMIT: usize = 64 * 1024;

/// The pause after a failure: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How long a stop waits for what is not sent yet.
pub const STOP_LIMIT: Duration = Duration::from_secs(2);

/// The exporter's end of traces.
#[derive(Debug)]
pub struct Exporter(SideThread);

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
pub enum NoExporter {
    /// TLS cannot be set up.
    #[error(transparent)]
    Client(#[from] EgressError),
    /// The system has no thread for it.
    #[error("no thread for traces: {0}")]
    Thread(#[from] std::io::Error),
}

impl Exporter {
    /// Starts an exporter, and the tracer that it empties; `None` where traces are off. Whether there is a collector, it finds out by itself.
    ///
    /// # Errors
    /// [`NoExporter`] when this machine cannot have one.
    pub fn start(config: &Config, worker: &str, telemetry: &Telemetry) -> Result<Option<(Arc<Tracer>, Self)>, NoExporter> {
        let Some(collector) = config.traces.endpoint.clone() else { return Ok(None) };
        let tracer = Arc::new(Tracer::new(config.traces.ratio, config.traces.memory, telemetry.clone()));
        let stop = CancellationToken::new();
        let exporting = Exporting {
            tracer: Arc::clone(&tracer),
            writer: Writer::new(&config.sources, worker),
            client: client(&config.traces)?,
            collector,
            telemetry: telemetry.clone(),
            stop: stop.clone(),
            failing: Cell::new(false),
            refusing: Cell::new(false),
        };
        let thread = SideRuntime::new()?.start("traces", stop, move || exporting.run())?;
        Ok(Some((tracer, Self(thread))))
    }

    /// Sends what waits and ends; what the collector does not take within [`STOP_LIMIT`] is lost, and counted.
    pub async fn stop(self) {
        self.0.stop(STOP_LIMIT + GATHER).await;
    }
}

/// The collector is ours, so its address is not judged as that of an endpoint; all else that a client might do by itself is off.
fn client(traces: &Traces) -> Result<Client, EgressError> {
    // An Err says that a provider is installed already, and there is only this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = Client::builder()
        .tls_backend_rustls()
        .tls_version_min(Version::TLS_1_2)
        .http1_only()
        .no_proxy()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .user_agent(concat!("callbackd/", env!("CARGO_PKG_VERSION")))
        .default_headers(traces.headers.clone())
        .timeout(traces.timeout)
        .connect_timeout(traces.timeout)
        .pool_max_idle_per_host(1);
    // No request, so no URL in these errors.
    client.build().map_err(|error| EgressError::Client(error.to_string()))
}

struct Exporting {
    tracer: Arc<Tracer>,
    writer: Writer,
    client: Client,
    collector: Collector,
    telemetry: Telemetry,
    stop: CancellationToken,
    /// That spans cannot be sent, or that the collector refuses them, has been told.
    failing: Cell<bool>,
    refusing: Cell<bool>,
}

/// What a collector has done with a request.
enum Answer {
    /// It has all but so many of the spans.
    Taken { rejected: u64 },
    /// It never takes this request.
    Refused(String),
    /// It may take it later.
    NotNow(String),
}

impl Exporting {
    /// Ends when it is told to stop and everything is sent, or cannot be in time.
    async fn run(self) {
        let late = async {
            self.stop.cancelled().await;
            sleep(STOP_LIMIT).await;
        };
        tokio::select! {
            biased;
            () = self.keep_up() => {}
            () = late => {}
        }
        self.tracer.give_up();
    }

    async fn keep_up(&self) {
        let mut pause = PAUSE.0;
        let mut is_behind = false;
        loop {
            // With a full request behind it and more to come, it does not wait for still more.
            if !is_behind && self.stop.run_until_cancelled(self.tracer.backlog().arrived()).await.is_some() {
                let _ = self.stop.run_until_cancelled(sleep(GATHER)).await;
            }
            let spans = self.tracer.backlog().take(BATCH);
            is_behind = spans.len() == BATCH;
            if spans.is_empty() {
                if self.stop.is_cancelled() {
                    return;
                }
                continue;
            }
            match self.send(&spans).await {
                Answer::Taken { rejected } => {
                    pause = PAUSE.0;
                    self.taken(&spans, rejected);
                }
                Answer::Refused(error) => self.refused(&spans, &error),
                Answer::NotNow(error) => {
                    self.tracer.backlog().put_back(spans);
                    self.tell_failed(&error, pause);
                    if self.stop.run_until_cancelled(sleep(pause)).await.is_none() {
                        sleep(PAUSE.0).await;
                    }
                    pause = (pause * 2).min(PAUSE.1).mul_f64(0.75 + fastrand::f64() / 4.0);
                }
            }
        }
    }

    /// Sends one request and judges the answer as OTLP says: 429, 502, 503 and 504 may be taken later, any other failure never.
    async fn send(&self, spans: &[Box<Span>]) -> Answer {
        let request = self.client.post(self.collector.expose()).header(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let mut response = match request.body(self.writer.request(spans)).send().await {
            Ok(response) => response,
            Err(error) => return Answer::NotNow(words(&error).to_owned()),
        };
        match response.status() {
            status if status.is_success() => Answer::Taken { rejected: rejected(&mut response).await },
            status @ (StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT) => Answer::NotNow(format!("answered {}", status.as_u16())),
            status => Answer::Refused(format!("answered {}", status.as_u16())),
        }
    }

    fn taken(&self, spans: &[Box<Span>], rejected: u64) {
        let rejected = rejected.min(spans.len() as u64);
        self.telemetry.trace_spans_exported(spans.len() as u64 - rejected);
        self.refusing.set(false);
        if self.failing.replace(false) {
            self.telemetry.record(&Fact::TracesReady { collector: &self.collector.to_string() });
        }
        if rejected > 0 {
            self.tell_refused(rejected, "it left some out");
        }
        self.tracer.release(spans);
    }

    fn refused(&self, spans: &[Box<Span>], error: &str) {
        self.tell_refused(spans.len() as u64, error);
        self.tracer.release(spans);
    }

    fn tell_refused(&self, spans: u64, error: &str) {
        self.telemetry.trace_spans_refused(spans);
        if !self.refusing.replace(true) {
            self.telemetry.record(&Fact::TracesRefused { error: &format!("{}: {error}", self.collector) });
        }
    }

    fn tell_failed(&self, error: &str, retry_in: Duration) {
        if !self.failing.replace(true) {
            self.telemetry.record(&Fact::TracesFailed { error: &format!("{}: {error}", self.collector), retry_in });
        }
    }
}

/// How many spans the collector says that it has left out; an answer that says nothing that can be read has left out none.
async fn rejected(response: &mut reqwest::Response) -> u64 {
    let mut answer = Vec::new();
    while let Ok(Some(part)) = response.chunk().await {
        answer.extend_from_slice(&part);
        if answer.len() > ANSWER_LIMIT {
            return 0;
        }
    }
    let partial = Response::decode(answer.as_slice()).ok().and_then(|response| response.partial);
    partial.and_then(|partial| u64::try_from(partial.rejected).ok()).unwrap_or(0)
}

/// Why a request failed, without the URL that the library's own words hold.
fn words(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "the request failed"
    }
}
