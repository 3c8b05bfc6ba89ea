//! The server over real connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;

/// A running server and the switches that it looks at.
struct Stage {
    address: SocketAddr,
    consumes: watch::Sender<bool>,
    publishes: watch::Sender<bool>,
    blocked: watch::Sender<bool>,
    stopping: CancellationToken,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Stage {
    async fn start() -> Self {
        Self::start_within(LIMITS).await
    }

    async fn start_within(limits: Limits) -> Self {
        let ((consumes, up), (publishes, also_up)) = (watch::channel(true), watch::channel(true));
        let (blocked, is_blocked) = watch::channel(false);
        let (stopping, stop) = (CancellationToken::new(), CancellationToken::new());
        let links = vec![("callbacks.ident".to_owned(), up), ("publish".to_owned(), also_up)];
        let readiness = Readiness::new(links, is_blocked, stopping.clone());
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_within(limits, listener, router(readiness, Telemetry::default()), stop.clone()));
        Self { address, consumes, publishes, blocked, stopping, stop, server }
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
async fn knows_three_paths_and_reads_only() {
    let stage = Stage::start().await;
    for path in ["/", "/metrics/", "/livez/x", "/%2e%2e/etc/passwd"] {
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
    let stage = Stage::start_within(limits).await;
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
    let stage = Stage::start_within(limits).await;
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
