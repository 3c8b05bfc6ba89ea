//! The receiver: checks every request, writes it down, and only then answers as its script says.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::event::{Character, Event};
use crate::ledger::{Entry, Flaw, Ledger, now};
use crate::signature::Signed;

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The status; 0: none, and the connection stays open.
    pub status: u16,
    /// Only after this long.
    pub after: Duration,
}

impl Answer {
    /// At once.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self { status, after: Duration::ZERO }
    }
}

/// What follows a request: from the endpoint, the event, and how often that event has come there before.
pub type Script = fn(Character, Event, u32) -> Answer;

/// How the characters answer.
#[must_use]
pub fn by_character(character: Character, event: Event, before: u32) -> Answer {
    let first = before == 0;
    match character {
        Character::Prompt => Answer::status(200),
        Character::Steady => Answer { status: 200, after: Duration::from_millis(5) },
        Character::SecondTry if first && event.0.is_multiple_of(3) => Answer::status(500),
        Character::SecondTry => Answer::status(200),
        Character::Flapping if now() / 1_000_000 % 4 == 3 => Answer::status(503),
        Character::Flapping => Answer::status(200),
        Character::Slow => Answer { status: 200, after: Duration::from_millis(100) },
        Character::Hanging if first && (event.0 / 50).is_multiple_of(10) => Answer::status(0),
        Character::Hanging => Answer::status(200),
        Character::Refusing => Answer::status(422),
    }
}

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    ledger: Arc<Ledger>,
    script: Script,
    times: Mutex<HashMap<(Character, Event), u32>>,
    /// Signing keys up to this generation are in use.
    generation: AtomicU32,
    /// Seconds by which a worker's clock may be off.
    clock_off: AtomicI64,
    /// Requests since then that were signed by that clock.
    by_stepped_clock: AtomicU64,
    last_seen: AtomicU64,
}

/// A running receiver.
#[derive(Debug, Clone)]
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Receiver {
    /// Starts it on a port that the kernel gives. It ends with the runtime.
    ///
    /// # Errors
    /// It cannot listen.
    pub async fn start(ledger: Arc<Ledger>, script: Script) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (generation, last_seen) = (AtomicU32::new(0), AtomicU64::new(0));
        let (clock_off, by_stepped_clock) = (AtomicI64::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { ledger, script, times: Mutex::default(), generation, clock_off, by_stepped_clock, last_seen });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes signing keys up to this generation from now on.
    pub fn take_keys_up_to(&self, generation: u32) {
        self.shared.generation.store(generation, Ordering::Release);
    }

    /// Takes signatures by a clock that is off by so many seconds too from now on.
    pub fn take_clock(&self, seconds: i64) {
        self.shared.clock_off.store(seconds, Ordering::Release);
        self.shared.by_stepped_clock.store(0, Ordering::Release);
    }

    /// Requests since then that were signed by that clock.
    #[must_use]
    pub fn signed_by_stepped_clock(&self) -> u64 {
        self.shared.by_stepped_clock.load(Ordering::Acquire)
    }

    /// When the last request came; 0: none has.
    #[must_use]
    pub fn last_seen(&self) -> u64 {
        self.shared.last_seen.load(Ordering::Acquire)
    }

    /// How many different events have come.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.shared.times.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // Out of descriptors for a moment, say.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&shared, request));
            // A connection that breaks is what this suite is for.
            let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    let (head, body) = request.into_parts();
    // Half a request is none: its sender cannot take it for told.
    let Ok(body) = body.collect().await else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let answer = shared.note(&head, &body.to_bytes());
    tokio::time::sleep(answer.after).await;
    if answer.status == 0 {
        // Longer than anybody waits; the task goes with the connection.
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::GATEWAY_TIMEOUT);
    Ok(response)
}

impl Shared {
    /// Checks and writes down a request. Returns its answer.
    fn note(&self, head: &hyper::http::request::Parts, body: &[u8]) -> Answer {
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let event = Event::parse(text("callback-event-ids"));
        let path = Character::of_path(head.uri.path());
        let answer = match (path, event) {
            (Some(path), Some(event)) => (self.script)(path, event, self.count(path, event)),
            _ => Answer::status(400),
        };
        let flaw = self.flaw(head, body, (path, event));
        let attempt = text("callback-attempt").parse().unwrap_or(0);
        self.ledger.write(Entry::Seen { event: event.map(|event| event.0), attempt, answer: answer.status, flaw });
        self.last_seen.store(now(), Ordering::Release);
        answer
    }

    fn count(&self, path: Character, event: Event) -> u32 {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let times = times.entry((path, event)).or_default();
        *times += 1;
        *times - 1
    }

    fn flaw(&self, head: &hyper::http::request::Parts, body: &[u8], (path, event): (Option<Character>, Option<Event>)) -> Option<Flaw> {
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (path, event) = (path?, event?);
        let signed = Signed { id: text("webhook-id"), seconds: text("webhook-timestamp"), signatures: text("webhook-signature"), body };
        // The worker signs with the newest key and the one before: an older one alone says that it missed a rotation.
        let newest = self.generation.load(Ordering::Acquire);
        let by = |character: Character| (newest.saturating_sub(1)..=newest).any(|one| signed.by(&character.secret(one)));
        if event.character() != Some(path) || text("callback-integrator") != path.key() {
            return Some(Flaw::Misdelivered);
        }
        if body != event.golden().as_bytes() {
            return Some(Flaw::Corrupted);
        }
        if by(path) && self.is_timely(&signed) {
            return None;
        }
        let others = Character::ALL.into_iter().filter(|other| *other != path);
        Some(if others.into_iter().any(by) { Flaw::Misdelivered } else { Flaw::BadSignature })
    }

    /// Signed lately, by the right clock or by the one that is known to be off.
    fn is_timely(&self, signed: &Signed<'_>) -> bool {
        let (now, off) = (now() / 1_000_000, self.clock_off.load(Ordering::Acquire));
        if signed.is_fresh(now) {
            return true;
        }
        let is_stepped = off != 0 && signed.is_fresh(now.saturating_add_signed(off));
        self.by_stepped_clock.fetch_add(u64::from(is_stepped), Ordering::AcqRel);
        is_stepped
    }
}
