//! The server over real connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::reload::ReloadTrigger;
use crate::config::{ApiToken, example_configuration};
use crate::holds::HoldKeeper;
use crate::letters::Jobs;
use crate::telemetry::Telemetry;
use crate::worker::Insight;

const TOKEN: &str = "a-token-of-at-least-thirty-two-characters";

/// A running server and the switches that it looks at.
struct Stage {
    address: SocketAddr,
    reload: ReloadTrigger,
    telemetry: Telemetry,
    consumes: watch::Sender<bool>,
    publishes: watch::Sender<bool>,
    blocked: watch::Sender<bool>,
    stopping: CancellationToken,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Stage {
    async fn start() -> Self {
        Self::start_within(LIMITS, &[]).await
    }

    async fn with_tokens() -> Self {
        Self::start_within(LIMITS, &[("ops", TOKEN)]).await
    }

    async fn start_within(limits: Limits, tokens: &[(&str, &str)]) -> Self {
        Self::start_behind("", limits, tokens).await
    }

    async fn start_behind(prefix: &str, limits: Limits, tokens: &[(&str, &str)]) -> Self {
        let ((consumes, up), (publishes, also_up)) = (watch::channel(true), watch::channel(true));
        let (blocked, is_blocked) = watch::channel(false);
        let (stopping, stop) = (CancellationToken::new(), CancellationToken::new());
        let links = vec![("callbacks.ident".to_owned(), up), ("publish".to_owned(), also_up)];
        let readiness = Readiness::new(links, is_blocked, stopping.clone());
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tokens = tokens
            .iter()
            .map(|(name, secret)| ApiToken { name: (*name).to_owned(), secret: (*secret).into(), is_read_only: false })
            .collect();
        let config = Admin { listen: address, api: true, console: true, path_prefix: prefix.to_owned(), tokens };
        let telemetry = Telemetry::default();
        let api = Api {
            readiness,
            directory: watch::channel(Arc::default()).1,
            reload: ReloadTrigger::default(),
            telemetry: telemetry.clone(),
            config: Arc::new(example_configuration()),
            worker: Insight::of_no_worker(),
            holds: HoldKeeper::new(None, telemetry.clone()),
            live: Arc::default(),
            desk: None,
            jobs: Jobs::new(Arc::new(example_configuration()), telemetry.clone(), "test".to_owned()),
            limits: Arc::default(),
        };
        let reload = api.reload.clone();
        let pulse = Pulse::default();
        tokio::spawn(pulse.clone().beat());
        let site = Site { router: router(&config, api, pulse), prefix: prefix.into() };
        let server = tokio::spawn(serve_within(limits, listener, site, stop.clone()));
        Self { reload, telemetry, address, consumes, publishes, blocked, stopping, stop, server }
    }

    /// Sends one request on a connection of its own and returns the whole answer.
    async fn ask(&self, method: &str, path: &str) -> String {
        self.send(&format!("{method} {path} HTTP/1.1\r\nhost: callbackd\r\nconnection: close\r\n\r\n")).await
    }

    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        answer(&mut stream).await
    }
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // The end may come as a reset where the server did not want the rest of what we sent.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.expect("the server closes");
    String::from_utf8(bytes).unwrap()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn says_that_it_lives_and_nothing_about_itself() {
    let stage = Stage::start().await;
    let answer = stage.ask("GET", "/livez").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("x-content-type-options: nosniff\r\n") && answer.contains("cache-control: no-store\r\n"), "{answer}");
    assert!(!answer.contains("server:"), "{answer}");
    assert_eq!(body(&answer), "ok\n");
}

#[tokio::test]
async fn is_ready_only_while_nothing_is_missing_and_says_what_is() {
    let stage = Stage::start().await;
    assert_eq!(body(&stage.ask("GET", "/readyz").await), "ready\n");
    stage.consumes.send_replace(false);
    stage.blocked.send_replace(true);
    stage.stopping.cancel();
    let answer = stage.ask("GET", "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(body(&answer), "stopping\nthe broker blocks what is published\ncallbacks.ident: not connected\n");
    assert!(stage.ask("GET", "/livez").await.starts_with("HTTP/1.1 200 "), "stopping is no reason to be killed");
}

#[tokio::test]
async fn a_link_whose_owner_is_gone_is_down_whatever_it_said_last() {
    let stage = Stage::start().await;
    drop(stage.publishes);
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert_eq!(body(&answer(&mut stream).await), "publish: not connected\n");
}

#[tokio::test]
async fn shows_the_metrics_in_the_text_format() {
    let stage = Stage::start().await;
    let answer = stage.ask("GET", "/metrics").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert!(body(&answer).contains("\n# TYPE callbackd_in_flight gauge\ncallbackd_in_flight 0\n"), "{answer}");
}

#[tokio::test]
async fn knows_few_paths_and_reads_only() {
    let stage = Stage::start().await;
    for path in ["/nothing", "/metrics/", "/livez/x", "/%2e%2e/etc/passwd"] {
        assert!(stage.ask("GET", path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = stage.ask(method, path).await;
            assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("cache-control: no-store\r\n"), "{method} {path}: {answer}");
        }
        let head = stage.ask("HEAD", path).await;
        assert!(head.starts_with("HTTP/1.1 200 ") && body(&head).is_empty(), "{head}");
    }
}

#[tokio::test]
async fn refuses_a_head_without_end() {
    let stage = Stage::start().await;
    let request = format!("GET /livez HTTP/1.1\r\nx-long: {}\r\n\r\n", "x".repeat(2 * HEAD_BYTES));
    let answer = stage.send(&request).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(stage.ask("GET", "/livez").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_read() {
    let stage = Stage::start().await;
    let answer = stage.send("GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\nabc").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn silent_connections_lose_their_place_to_those_who_ask() {
    let limits = Limits { connections: 4, head: Duration::from_millis(400), ..LIMITS };
    let stage = Stage::start_within(limits, &[]).await;
    let asked = tokio::time::Instant::now();
    let mut silent = Vec::new();
    for _ in 0..limits.connections {
        silent.push(TcpStream::connect(stage.address).await.unwrap());
    }
    assert!(stage.ask("GET", "/livez").await.starts_with("HTTP/1.1 200 "));
    let waited = asked.elapsed();
    assert!(waited >= limits.head, "no more than {limits:?} at one time, but the answer came after {waited:?}");
}

#[tokio::test]
async fn no_connection_lives_for_ever() {
    let limits = Limits { connection: Duration::from_millis(200), ..LIMITS };
    let stage = Stage::start_within(limits, &[]).await;
    let mut idle = TcpStream::connect(stage.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let opened = tokio::time::Instant::now();
    assert!(answer(&mut idle).await.starts_with("HTTP/1.1 200 "));
    assert!(opened.elapsed() < LIMITS.head, "the end came from the limit on heads: {:?}", opened.elapsed());
}

#[tokio::test]
async fn ends_soon_after_it_is_told_to_though_connections_idle() {
    let stage = Stage::start().await;
    let mut idle = TcpStream::connect(stage.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    stage.stop.cancel();
    tokio::time::timeout(STOP_LIMIT * 5, stage.server).await.unwrap().unwrap();
    assert!(TcpStream::connect(stage.address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn a_port_in_use_names_the_address_and_the_key() {
    let stage = Stage::start().await;
    let error = bind(stage.address).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(text.starts_with(&format!("admin.listen: cannot listen on {}: ", stage.address)), "{text}");
}

#[tokio::test]
async fn nobody_uses_the_api_without_a_token() {
    let stage = Stage::with_tokens().await;
    let wrong =
        ["", "authorization: Bearer x\r\n", "authorization: Basic YTpi\r\n", "cookie: token=x\r\n", "x-http-method-override: GET\r\n"];
    for (method, path) in [
        ("GET", "/api/v1/status"),
        ("POST", "/api/v1/reload"),
        ("GET", "/api/v1/reload"),
        ("PUT", "/api/v1/status"),
        ("GET", "/api/v1/nothing"),
        ("GET", "/api/v1/status?token=a-token-of-at-least-thirty-two-characters"),
        ("GET", "//api/v1/status"),
        ("GET", "/api/../api/v1/status"),
        ("GET", "/%61pi/v1/status"),
        ("GET", "/api/v1/status;x"),
        ("OPTIONS", "/api/v1/status"),
    ] {
        for header in wrong {
            let answer = stage.send(&format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\r\n")).await;
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(matches!(status, "401" | "404" | "405" | "429"), "{method} {path} {header}: {answer}");
        }
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), stage.reload.asked()).await.is_err(), "nothing was reloaded");
    assert!(stage.telemetry.metrics_text().contains("callbackd_api_refusals_total{reason=\"no_token\"}"));
}

#[tokio::test]
async fn a_token_may_ask_and_change_and_its_answers_are_guarded() {
    let stage = Stage::with_tokens().await;
    let ask = async |line: &str, more: &str| {
        stage.send(&format!("{line} HTTP/1.1\r\nhost: callbackd\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n{more}\r\n")).await
    };
    let answer = ask("GET /api/v1/status", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for header in ["x-content-type-options: nosniff", "cache-control: no-store", "x-frame-options: DENY", "referrer-policy: no-referrer"] {
        assert!(answer.contains(&format!("{header}\r\n")), "{header}: {answer}");
    }
    assert!(answer.contains("content-security-policy: default-src 'none'"), "{answer}");
    let status: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!((&status["ready"], &status["integrators"]), (&true.into(), &0.into()));
    let answer = ask("POST /api/v1/reload", "content-length: 0\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 202 Accepted\r\n"), "{answer}");
    tokio::time::timeout(Duration::from_secs(10), stage.reload.asked()).await.expect("a reload");
    assert!(ask("GET /api/v1/reload", "").await.starts_with("HTTP/1.1 405 "));
    assert!(ask("GET /api/nothing", "").await.starts_with("HTTP/1.1 404 "));
    assert!(ask("POST /api/v1/reload", "content-length: 65537\r\n").await.starts_with("HTTP/1.1 413 "));
    assert!(ask("POST /api/v1/reload", "transfer-encoding: chunked\r\n").await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn without_tokens_a_page_from_elsewhere_changes_nothing() {
    let stage = Stage::start().await;
    let ask = async |head: &str| {
        stage.send(&format!("POST /api/v1/reload HTTP/1.1\r\n{head}connection: close\r\ncontent-length: 0\r\n\r\n")).await
    };
    assert!(ask("host: localhost:9464\r\norigin: https://evil.example\r\n").await.starts_with("HTTP/1.1 403 "));
    assert!(ask("host: evil.example:9464\r\n").await.starts_with("HTTP/1.1 403 "));
    assert!(tokio::time::timeout(Duration::from_millis(50), stage.reload.asked()).await.is_err(), "nothing was reloaded");
    assert!(ask("host: localhost:9464\r\n").await.starts_with("HTTP/1.1 202 "));
}

#[tokio::test]
async fn a_proxy_may_leave_its_prefix_in_the_path() {
    let stage = Stage::start_behind("/ops/callbackd", LIMITS, &[]).await;
    for (path, status) in [
        ("/ops/callbackd/livez", "200"),
        ("/livez", "200"),
        ("/ops/callbackd/api/v1/status", "200"),
        ("/ops/callbackdlivez", "404"),
        ("/ops/livez", "404"),
        ("/ops/callbackd/ops/callbackd/livez", "404"),
    ] {
        let answer = stage.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_thread_that_does_not_run_is_not_alive() {
    let pulse = Pulse::default();
    assert_eq!(live(&pulse).status(), StatusCode::OK);
    assert_eq!(live(&pulse.silent_for(STUCK)).status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_document_of_the_api_names_every_path_and_needs_a_token_too() {
    let stage = Stage::with_tokens().await;
    let answer = stage.ask("GET", "/api/openapi.json").await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let request = format!("GET /api/openapi.json HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n");
    let document: serde_json::Value = serde_json::from_str(body(&stage.send(&request).await)).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    for path in ["/api/v1/status", "/api/v1/endpoints/{integrator}/{endpoint}/pause", "/api/v1/stream"] {
        assert!(document["paths"].get(path).is_some(), "{path}: {document}");
    }
}
