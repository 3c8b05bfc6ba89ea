//! Endpoints that mean harm: whatever they send, an attempt ends in time, takes little memory, and ends as something that is counted.
//! What `tests/egress.rs` shows of ordinary misbehaviour is not repeated here.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

#[path = "hostile/crowd.rs"]
mod crowd;
#[path = "hostile/worker.rs"]
mod proxied;
#[path = "egress/proxies.rs"]
mod proxies;
mod scene;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use callbackd::config::Egress as EgressConfig;
use callbackd::domain::reply::{Failure, Outcome, Reply, RetryAfter, TlsFault};
use callbackd::domain::request::CallbackRequest;
use callbackd::domain::time::Timestamp;
use callbackd::egress::Egress;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// The limit of an attempt here, and how much longer than it one may take.
const TIMEOUT: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(1);

/// Attempts at each behaviour, all at one time.
const AT_ONCE: usize = 20;

/// What an endpoint can have sent of which nobody has read more than 16 KiB: what fits into the buffers of two sockets.
const BUFFERS: usize = 8 << 20;

/// What an endpoint does once it has read the request: it sends something, and then goes on with something.
#[derive(Clone)]
struct Behaviour {
    sends: Bytes,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    Close,
    Reset,
    Hang,
    /// Sends this over and over as fast as it is taken.
    Repeat(&'static [u8]),
    /// Sends one byte a second.
    Drip,
}

/// A server that behaves in one way and counts connections and the bytes that it got rid of.
struct Endpoint {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
}

impl Endpoint {
    async fn start(behaviour: Behaviour) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(64 << 10).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let endpoint = Self { address: listener.local_addr().unwrap(), accepted: Arc::default(), sent: Arc::default() };
        let (accepted, sent) = (Arc::clone(&endpoint.accepted), Arc::clone(&endpoint.sent));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(behave(behaviour.clone(), stream, Arc::clone(&sent)));
            }
        });
        endpoint
    }

    async fn attempt(&self, egress: &Egress) -> Reply {
        attempt(egress, &format!("http://{}/hook", self.address)).await
    }
}

async fn behave(behaviour: Behaviour, mut stream: TcpStream, sent: Arc<AtomicUsize>) -> std::io::Result<()> {
    read_request(&mut stream).await?;
    stream.write_all(&behaviour.sends).await?;
    sent.fetch_add(behaviour.sends.len(), Ordering::SeqCst);
    match behaviour.then {
        Then::Close => stream.shutdown().await?,
        Then::Reset => {
            stream.set_zero_linger()?;
            return Ok(());
        }
        Then::Hang => {}
        Then::Repeat(bytes) => {
            let many = bytes.repeat(4096 / bytes.len() + 1);
            loop {
                stream.write_all(&many).await?;
                sent.fetch_add(many.len(), Ordering::SeqCst);
            }
        }
        Then::Drip => loop {
            stream.write_all(b"x").await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        },
    }
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

/// Reads a request that carries the body `[1]`.
async fn read_request(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n[1]") {
        read.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&read).into_owned())
}

fn egress() -> Egress {
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

async fn attempt(egress: &Egress, url: &str) -> Reply {
    egress.attempt(request(url), TIMEOUT).await
}

/// Bytes of memory that this process holds.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

const fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, retry_after: None }
}

const fn incomplete(failure: Failure) -> Outcome {
    Outcome::Incomplete { status: 200, failure }
}

/// Every behaviour with the only outcome that is right.
fn behaviours() -> Vec<(&'static str, &'static str, Then, Outcome)> {
    use Then::{Close, Drip, Hang, Repeat};
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let not_http = Outcome::Failed(Failure::NotHttp);
    vec![
        ("headers without end", OK, Repeat(b"x-a: b\r\n"), not_http),
        ("a header line without end", "HTTP/1.1 200 OK\r\nx-a: ", Repeat(b"b"), not_http),
        ("a header name without end", OK, Repeat(b"x"), not_http),
        ("a reason without end", "HTTP/1.1 200 ", Repeat(b"a"), not_http),
        ("interim answers without end", "", Repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), Outcome::Failed(Failure::Timeout)),
        (
            "interim answers with headers without end",
            "",
            Repeat(b"HTTP/1.1 103 x\r\nlink: </a>\r\n\r\n"),
            Outcome::Failed(Failure::Timeout),
        ),
        ("a body without end", "HTTP/1.1 200 OK\r\n\r\n", Repeat(b"x"), answered(200)),
        ("a long body that is announced", "HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n", Repeat(b"x"), answered(200)),
        ("chunks without end", CHUNKED, Repeat(b"1\r\nx\r\n"), answered(200)),
        ("a large chunk without end", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffff\r\n", Repeat(b"x"), answered(200)),
        (
            "a chunk extension without end",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;",
            Repeat(b"a"),
            incomplete(Failure::NotHttp),
        ),
        ("a chunk size without end", CHUNKED, Repeat(b"0"), incomplete(Failure::Timeout)),
        (
            "trailers without end",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
            Repeat(b"x: y\r\n"),
            incomplete(Failure::NotHttp),
        ),
        (
            "a chunk beyond numbers",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            Hang,
            incomplete(Failure::NotHttp),
        ),
        ("one byte a second of a head", "HTTP/1.1 200 OK\r\nx-a: ", Drip, Outcome::Failed(Failure::Timeout)),
        ("one byte a second of a body", "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", Drip, incomplete(Failure::Timeout)),
        ("nothing", "", Hang, Outcome::Failed(Failure::Timeout)),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", Close, not_http),
        ("a length beyond numbers", "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nx", Close, not_http),
        ("more than announced", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nmore than that", Close, answered(200)),
        ("a 204 with a body", "HTTP/1.1 204 x\r\ncontent-length: 5\r\n\r\nhello", Close, answered(204)),
        ("a 304 with a body", "HTTP/1.1 304 x\r\ncontent-length: 5\r\n\r\nhello", Close, answered(304)),
        ("another protocol", "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", Hang, answered(101)),
        ("HTTP/0.9", "<html>thanks</html>", Close, not_http),
        ("HTTP/2", "\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64", Hang, not_http),
        ("a NUL in a header", "HTTP/1.1 200 OK\r\nx-a: \0\r\ncontent-length: 0\r\n\r\n", Close, not_http),
        ("a folded header", "HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\ncontent-length: 0\r\n\r\n", Close, not_http),
        ("a status of two digits", "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n", Close, not_http),
        ("a status of four digits", "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n", Close, not_http),
        ("a cookie", "HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n", Close, answered(200)),
    ]
}

#[tokio::test]
async fn every_behaviour_ends_in_time_with_its_own_outcome_and_takes_little_memory() {
    let egress = egress();
    let before = resident();
    for (name, sends, then, expected) in behaviours() {
        let endpoint = Endpoint::start(Behaviour { sends: Bytes::from_static(sends.as_bytes()), then }).await;
        let replies = join_all((0..AT_ONCE).map(|_| endpoint.attempt(&egress))).await;
        for reply in replies {
            assert_eq!(reply.outcome, expected, "{name}");
            assert!(reply.took < TIMEOUT + GRACE, "{name}: {:?}", reply.took);
        }
        let sent = endpoint.sent.load(Ordering::SeqCst) / AT_ONCE;
        // What says nothing for as long as it likes is read until the time is over, and none of it is kept.
        let is_timeout = matches!(expected, Outcome::Failed(Failure::Timeout) | Outcome::Incomplete { failure: Failure::Timeout, .. });
        assert!(is_timeout || sent < BUFFERS, "{name}: {sent} bytes were taken");
        let grown = resident().saturating_sub(before);
        assert!(grown < 64 << 20, "{name}: {} KiB more", grown >> 10);
    }
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 4\r\n\r\nbody";

#[tokio::test]
async fn an_answer_that_ends_at_any_byte_but_the_last_is_no_success() {
    let egress = egress();
    let head = ANSWER.len() - 4;
    for end in 0..ANSWER.len() {
        let sends = Bytes::from_static(&ANSWER.as_bytes()[..end]);
        let closing = Endpoint::start(Behaviour { sends: sends.clone(), then: Then::Close }).await.attempt(&egress).await;
        let expected = if end < head { Outcome::Failed(Failure::Disconnected) } else { incomplete(Failure::Disconnected) };
        assert_eq!(closing.outcome, expected, "closed at {end}");
        // A reset may overtake what was sent before it.
        let reset = Endpoint::start(Behaviour { sends, then: Then::Reset }).await.attempt(&egress).await;
        assert_eq!((reset.class(), reset.is_success()), ("disconnected", false), "reset at {end}: {:?}", reset.outcome);
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_within_the_request_is_disconnected() {
    let egress = egress();
    for bytes in [0, 1, 4, 20] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut vec![0; bytes]).await.unwrap();
            stream.set_zero_linger().unwrap();
        });
        assert_eq!(attempt(&egress, &url).await.outcome, Outcome::Failed(Failure::Disconnected), "after {bytes} bytes");
    }
}

#[tokio::test]
async fn a_bomb_of_gzip_is_not_unpacked_and_not_asked_for() {
    // 64 MiB of zeros in 64 KiB.
    let packed = std::process::Command::new("sh").args(["-c", "head -c 67108864 /dev/zero | gzip -c"]).output().unwrap().stdout;
    assert!(packed.starts_with(&[0x1f, 0x8b]) && packed.len() < 128 << 10, "gzip is needed for this test");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", packed.len());
    let endpoint = Endpoint::start(Behaviour { sends: [head.as_bytes(), &packed].concat().into(), then: Then::Close }).await;
    let (egress, before) = (egress(), resident());
    for reply in join_all((0..AT_ONCE).map(|_| endpoint.attempt(&egress))).await {
        assert_eq!(reply.outcome, answered(200));
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{} KiB more", grown >> 10);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let seen = tokio::spawn(async move { read_request(&mut listener.accept().await.unwrap().0).await.unwrap() });
    let _ = attempt(&egress, &url).await;
    assert!(!seen.await.unwrap().to_ascii_lowercase().contains("accept-encoding"));
}

#[tokio::test]
async fn an_answer_that_is_sent_ahead_is_not_taken_for_that_of_the_next_request() {
    let ahead = "HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let endpoint = Endpoint::start(Behaviour { sends: Bytes::from_static(ahead.as_bytes()), then: Then::Hang }).await;
    let egress = egress();
    for made in 1..=5 {
        assert_eq!(endpoint.attempt(&egress).await.outcome, answered(503));
        assert_eq!(endpoint.accepted.load(Ordering::SeqCst), made);
    }
}

#[tokio::test]
async fn a_retry_after_beyond_all_measure_is_a_time_or_nothing() {
    let now = Timestamp::from_millis(1_750_000_000_000);
    let seconds = |seconds| Some(RetryAfter::Delay(Duration::from_secs(seconds)));
    let at = |millis| Some(RetryAfter::At(Timestamp::from_millis(millis)));
    let egress = egress();
    for (value, expected) in [
        ("0", seconds(0)),
        ("99999999999999999999999999", seconds(u64::from(u32::MAX))),
        ("18446744073709551615", seconds(u64::MAX)),
        ("-1", None),
        ("1e30", None),
        ("NaN", None),
        ("inf", None),
        ("0x10", None),
        ("1.5", None),
        ("+5", None),
        ("", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", at(0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", at(253_402_300_799_000)),
        ("Wed, 31 Dec 1969 23:59:59 GMT", None),
        ("Fri, 31 Feb 2025 00:00:00 GMT", None),
        ("120, 999999999", seconds(120)),
    ] {
        let answer = format!("HTTP/1.1 503 x\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n");
        let reply = Endpoint::start(Behaviour { sends: answer.into(), then: Then::Close }).await.attempt(&egress).await;
        assert_eq!(reply.outcome, Outcome::Answered { status: 503, retry_after: expected }, "{value}");
        // However long, it is a time that can be compared.
        let wait = expected.map_or(Duration::ZERO, |retry_after| retry_after.wait(now));
        assert!(wait.min(Duration::from_secs(86_400)) <= Duration::from_secs(86_400));
    }
}

/// A server of TLS that speaks old versions alone: it answers the greeting with its own, of this version.
async fn old_tls(version: [u8; 2]) -> SocketAddr {
    let hello = [&[2, 0, 0, 38], &version[..], &[7; 32], &[0], &[0xc0, 0x13], &[0]].concat();
    let length = u16::try_from(hello.len()).unwrap().to_be_bytes();
    let record = [&[0x16], &version[..], &length, &hello].concat();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let record = record.clone();
            tokio::spawn(async move {
                stream.read_exact(&mut [0; 5]).await?;
                stream.write_all(&record).await?;
                stream.read_to_end(&mut Vec::new()).await
            });
        }
    });
    address
}

#[tokio::test]
async fn tls_before_1_2_is_called_a_version() {
    let egress = egress();
    for version in [[3, 0], [3, 1], [3, 2]] {
        let reply = attempt(&egress, &format!("https://localhost:{}/", old_tls(version).await.port())).await;
        assert_eq!(reply.outcome, Outcome::Failed(Failure::Tls(TlsFault::Version)), "{version:?}");
    }
}

#[tokio::test]
async fn tls_that_stops_in_the_middle_of_the_handshake_ends_in_time() {
    let egress = egress();
    for (sends, then, expected) in [
        (&b""[..], Then::Hang, Failure::Timeout),
        (b"\x16\x03\x03", Then::Hang, Failure::Timeout),
        (b"\x16\x03\x03\x40\x00", Then::Repeat(b"x"), Failure::Tls(TlsFault::Other)),
        (b"\x16\x03\x03\x00\x04\x02\xff\xff\xff", Then::Repeat(b"\x16\x03\x03\x00\x01x"), Failure::Tls(TlsFault::Other)),
        (b"\x16\x03\x03\x00", Then::Close, Failure::Tls(TlsFault::Other)),
        (b"\x16\x03\x03\x00", Then::Reset, Failure::Tls(TlsFault::Other)),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            stream.read_exact(&mut [0; 5]).await?;
            stream.write_all(sends).await?;
            match then {
                Then::Repeat(bytes) => loop {
                    stream.write_all(bytes).await?;
                },
                Then::Reset => stream.set_zero_linger()?,
                Then::Close => stream.shutdown().await?,
                Then::Hang | Then::Drip => {}
            }
            if !matches!(then, Then::Reset) {
                stream.read_to_end(&mut Vec::new()).await?;
            }
            std::io::Result::Ok(())
        });
        let reply = attempt(&egress, &url).await;
        assert_eq!(reply.outcome, Outcome::Failed(expected), "{sends:?}");
        assert!(reply.took < TIMEOUT + GRACE, "{sends:?}: {:?}", reply.took);
    }
}
