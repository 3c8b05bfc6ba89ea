//! What an attempt makes of endpoints that misbehave, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

#[path = "egress/answers.rs"]
mod answers;
#[path = "egress/own_faults.rs"]
mod own_faults;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use callbackd::config::{Egress as EgressConfig, Ports};
use callbackd::domain::reply::{Failure, Forbidden, Outcome, Reply, TlsFault};
use callbackd::domain::request::CallbackRequest;
use callbackd::egress::Egress;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything here should take; an attempt that ends by it has not ended by itself.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

fn anywhere() -> Egress {
    Egress::new(&EgressConfig::anywhere()).unwrap()
}

fn request(url: &str) -> CallbackRequest {
    CallbackRequest {
        url: url.parse().unwrap(),
        headers: http::HeaderMap::new(),
        body: Bytes::from_static(b"[1]"),
        webhook_id: "msg_1".into(),
        tls: None,
    }
}

/// A server of raw bytes on 127.0.0.1.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Runs `serve` on every connection.
    async fn start<F: Future<Output = ()> + Send + 'static>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream));
            }
        });
        Self { address, accepted }
    }

    /// Answers each connection's first request with these bytes and closes.
    async fn answering(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::start(move |mut stream| {
            let bytes = bytes.clone();
            async move {
                read_request(&mut stream).await;
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                drain(stream).await;
            }
        })
        .await
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    async fn attempt(&self, timeout: Duration) -> Reply {
        anywhere().attempt(request(&self.url()), timeout).await
    }
}

/// Reads up to the end of a request that carries the body `[1]`; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n[1]") {
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        read.push(byte[0]);
    }
    String::from_utf8(read).ok()
}

/// Waits for the other side to close, so that closing here is no reset.
async fn drain(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

async fn drip(stream: &mut TcpStream) {
    while stream.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, retry_after: None }
}

fn incomplete(status: u16, failure: Failure) -> Outcome {
    Outcome::Incomplete { status, failure }
}

fn assert_timely_timeout(reply: &Reply) {
    assert_eq!(reply.outcome, Outcome::Failed(Failure::Timeout));
    assert_timely(reply);
}

fn assert_timely(reply: &Reply) {
    assert!(reply.took >= SHORT && reply.took < SHORT + Duration::from_secs(2), "{:?}", reply.took);
}

#[tokio::test]
async fn the_limit_covers_an_endpoint_that_never_answers() {
    let server = Server::start(drain).await;
    assert_timely_timeout(&server.attempt(SHORT).await);
}

#[tokio::test]
async fn the_limit_covers_a_dripping_head() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-drip: ").await;
        drip(&mut stream).await;
    })
    .await;
    assert_timely_timeout(&server.attempt(SHORT).await);
}

#[tokio::test]
async fn the_limit_covers_a_dripping_body() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n").await;
        drip(&mut stream).await;
    })
    .await;
    let reply = server.attempt(SHORT).await;
    assert_eq!(reply.outcome, incomplete(200, Failure::Timeout));
    assert_timely(&reply);
}

#[tokio::test]
async fn the_limit_covers_interim_answers_without_end() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await;
        while stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").await.is_ok() {}
    })
    .await;
    assert_timely_timeout(&server.attempt(SHORT).await);
}

#[tokio::test]
async fn an_endless_body_is_left_and_its_status_stands() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let server = Server::start(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 202 Accepted\r\n\r\n").await;
            while stream.write_all(&[b'x'; 1024]).await.is_ok() {
                counter.fetch_add(1024, Ordering::SeqCst);
            }
        }
    })
    .await;
    let reply = server.attempt(LONG).await;
    assert_eq!(reply.outcome, answered(202));
    assert!(reply.took < Duration::from_secs(5), "{:?}", reply.took);
    // What else was sent fits into the buffers of two sockets and of the client.
    assert!(sent.load(Ordering::SeqCst) < 16 * 1024 * 1024);
}

/// Answers every request of a connection with a body of so many bytes.
async fn server_with_body(bytes: usize) -> Server {
    Server::start(move |mut stream| async move {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n{}", "x".repeat(bytes));
        while read_request(&mut stream).await.is_some() {
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await
}

#[tokio::test]
async fn connections_are_used_again_up_to_the_limit_of_the_body_and_not_beyond() {
    for (bytes, connections) in [(0, 1), (16 * 1024, 1), (4 * 1024 * 1024, 5)] {
        let server = server_with_body(bytes).await;
        let egress = anywhere();
        for _ in 0..5 {
            assert_eq!(egress.clone().attempt(request(&server.url()), LONG).await.outcome, answered(200));
        }
        assert_eq!(server.accepted.load(Ordering::SeqCst), connections, "{bytes} bytes");
    }
}

#[tokio::test]
async fn a_refused_connection_an_unknown_name_and_a_failed_handshake_have_their_names() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listener.local_addr().unwrap();
    drop(listener);
    let closing = Server::start(|stream| async move { drop(stream) }).await;
    let egress = anywhere();
    for (url, expected) in [
        (format!("http://{free}/"), Failure::Connect),
        ("http://does-not-exist.invalid/".to_owned(), Failure::Dns),
        (format!("https://{}/", closing.address), Failure::Tls(TlsFault::Other)),
    ] {
        assert_eq!(egress.attempt(request(&url), LONG).await.outcome, Outcome::Failed(expected), "{url}");
    }
    // An alert is what a server says of TLS that it does not speak.
    for (bytes, expected) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), TlsFault::Other),
        (b"\x15\x03\x01\x00\x02\x02\x46", TlsFault::Version), // protocol_version
        (b"\x15\x03\x03\x00\x02\x02\x28", TlsFault::Version), // handshake_failure
        (b"\x15\x03\x03\x00\x02\x02\x50", TlsFault::Other),   // internal_error
    ] {
        let server = Server::start(move |mut stream| async move {
            let _ = stream.write_all(bytes).await;
            drain(stream).await;
        })
        .await;
        let url = format!("https://{}/", server.address);
        let failed = Outcome::Failed(Failure::Tls(expected));
        assert_eq!(egress.attempt(request(&url), LONG).await.outcome, failed, "{bytes:?}");
        assert_eq!(egress.reach(&url.parse().unwrap(), None, LONG).await, Err(Failure::Tls(expected)), "{bytes:?}");
    }
}

#[tokio::test]
async fn no_spelling_of_an_inner_address_is_dialled() {
    let canary = server_with_body(0).await;
    let port = canary.address.port();
    let denied = Egress::new(&EgressConfig { allow_http: true, ports: Ports::Any, ..EgressConfig::default() }).unwrap();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "%31%32%37.0.0.1",
        "127.0.0.1.",
        "[::1]",
        "[::]",
        "[::ffff:7f00:1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
    ] {
        let reply = denied.attempt(request(&format!("http://{host}:{port}/")), LONG).await;
        let expected = if host.eq_ignore_ascii_case("localhost") || host == "localhost." { Forbidden::Name } else { Forbidden::Address };
        assert_eq!(reply.outcome, Outcome::Failed(Failure::Blocked(expected)), "{host}");
    }
    assert_eq!(canary.accepted.load(Ordering::SeqCst), 0);
    // The canary can sing.
    let allow_cidrs = vec!["127.0.0.0/8".parse().unwrap()];
    let some = Egress::new(&EgressConfig { allow_http: true, ports: Ports::Any, allow_cidrs, ..EgressConfig::default() }).unwrap();
    assert_eq!(some.attempt(request(&canary.url()), LONG).await.outcome, answered(200));
    assert_eq!(canary.accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn plain_http_is_refused_unless_allowed() {
    let canary = server_with_body(0).await;
    let egress = Egress::new(&EgressConfig { allow_http: false, ..EgressConfig::anywhere() }).unwrap();
    let blocked = Failure::Blocked(Forbidden::PlainHttp);
    assert_eq!(egress.attempt(request(&canary.url()), LONG).await.outcome, Outcome::Failed(blocked));
    assert_eq!(egress.reach(&canary.url().parse().unwrap(), None, LONG).await, Err(blocked));
    assert_eq!(canary.accepted.load(Ordering::SeqCst), 0);
}

/// Set for the process in which the next test runs itself again.
const PROXIED: &str = "CALLBACKD_TEST_PROXIED";

#[tokio::test]
async fn a_proxy_in_the_environment_is_not_used() {
    if std::env::var_os(PROXIED).is_some() {
        let server = server_with_body(0).await;
        assert_eq!(server.attempt(LONG).await.outcome, answered(200));
        assert_eq!(server.accepted.load(Ordering::SeqCst), 1);
        return;
    }
    // The environment of a process is read before its threads start, so the test is a process of its own.
    let proxy = server_with_body(0).await;
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["a_proxy_in_the_environment_is_not_used", "--exact"]).env(PROXIED, "1").env_remove("NO_PROXY").env_remove("no_proxy");
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        again.env(name, format!("http://{}", proxy.address));
    }
    let output = tokio::task::spawn_blocking(move || again.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert_eq!(proxy.accepted.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_attempt_makes_one_request() {
    // A connection that is closed right after the request: a client that tries again on its own would be back.
    let server = Server::start(|mut stream| async move { _ = read_request(&mut stream).await }).await;
    let start = Instant::now();
    assert_eq!(server.attempt(LONG).await.outcome, Outcome::Failed(Failure::Disconnected));
    assert!(start.elapsed() < LONG);
    assert_eq!(server.accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn attempts_given_up_leave_no_connection_behind() {
    let open = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&open);
    let server = Server::start(move |stream| {
        let counter = Arc::clone(&counter);
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            drain(stream).await;
            counter.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let egress = anywhere();
    for _ in 0..10 {
        assert_eq!(egress.attempt(request(&server.url()), Duration::from_millis(50)).await.outcome, Outcome::Failed(Failure::Timeout));
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    assert_eq!((server.accepted.load(Ordering::SeqCst), open.load(Ordering::SeqCst)), (10, 0));
}

#[tokio::test]
async fn what_is_sent_is_what_render_shows() {
    let (sender, mut seen) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |mut stream| {
        let sender = sender.clone();
        async move {
            sender.send(read_request(&mut stream).await.unwrap()).await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 204 x\r\n\r\n").await;
            drain(stream).await;
        }
    })
    .await;
    let mut request = request(&format!("{}/a%20b?x=1&y", server.url()));
    for (name, value) in [("content-type", "application/json"), ("accept", "*/*"), ("user-agent", "callbackd/x"), ("webhook-id", "msg_1")] {
        request.headers.insert(name, value.parse().unwrap());
    }
    let shown = String::from_utf8(callbackd::egress::as_sent(&request, false)).unwrap();
    assert_eq!(anywhere().attempt(request, LONG).await.outcome, answered(204));
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.split("\r\n").map(str::to_owned).collect();
        lines[1..].sort();
        lines
    };
    assert_eq!(sorted(&seen.recv().await.unwrap()), sorted(&shown));
}
