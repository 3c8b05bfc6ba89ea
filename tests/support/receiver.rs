//! An integrator's side: an HTTP server that notes every request before it answers, and answers by a script.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use bytes::Bytes;
use callbackd::domain::time::Timestamp;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::answer::{Answer, Ending};
use super::background::Background;
use super::eventually::eventually;

/// More than the largest event.
const BODY_LIMIT: usize = 64 << 20;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When its body was read, for measuring.
    pub at: Instant,
    /// The same by the wall clock.
    pub time: Timestamp,
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// How many requests to this path were unanswered at that moment, this one included.
    pub at_once: usize,
}

impl Seen {
    /// A header's text; empty where it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The message's id: the same for every attempt.
    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// A receiver on 127.0.0.1. Answers 200 where no script says otherwise; the last answer of a script stays in force.
/// Ends when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
    _server: Background,
}

#[derive(Debug, Default)]
struct Book {
    seen: Vec<Seen>,
    open: HashMap<String, usize>,
    by_id: HashMap<String, VecDeque<Answer>>,
    by_path: HashMap<String, VecDeque<Answer>>,
    /// A text and the answer to every request whose body holds it.
    by_text: Vec<(String, Answer)>,
}

impl Receiver {
    /// Starts on a port that the kernel gives.
    pub fn start() -> Self {
        Self::start_on(0)
    }

    /// Starts on this port, such as one where nobody listened until now.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn start_on(port: u16) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a port to listen on");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let book = Arc::new(Mutex::new(Book::default()));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&book));
        let server = Background::run(async move {
            let listener = Wires(TcpListener::from_std(listener).expect("a listener"));
            let _ = axum::serve(listener, router.into_make_service_with_connect_info::<Scissors>()).await;
        });
        Self { address, book, _server: server }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL with this path, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The answers to requests for this path (with its query), one after the other; the last one stays.
    pub fn on_path<A: Into<Answer>>(&self, path: &str, answers: impl IntoIterator<Item = A>) {
        let answers = answers.into_iter().map(Into::into).collect();
        self.book().by_path.insert(path.to_owned(), answers);
    }

    /// The answers to the attempts of one message; before those by path.
    pub fn on_id<A: Into<Answer>>(&self, webhook_id: &str, answers: impl IntoIterator<Item = A>) {
        let answers = answers.into_iter().map(Into::into).collect();
        self.book().by_id.insert(webhook_id.to_owned(), answers);
    }

    /// The answer to every request whose body holds this text; before those by path.
    pub fn on_text(&self, text: &str, answer: impl Into<Answer>) {
        self.book().by_text.push((text.to_owned(), answer.into()));
    }

    /// Every request so far, in the order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.book().seen.clone()
    }

    /// Every request for this path so far.
    pub fn seen_at(&self, path: &str) -> Vec<Seen> {
        self.book().seen.iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// How many requests there were.
    pub fn count(&self) -> usize {
        self.book().seen.len()
    }

    /// Forgets the requests so far; scripts go on where they are.
    pub fn forget(&self) {
        self.book().seen.clear();
    }

    /// Waits until there were at least `count` requests and returns them all.
    ///
    /// # Panics
    /// After `limit`.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> Vec<Seen> {
        self.wait(&format!("{count} requests"), limit, |seen| seen.len() >= count).await
    }

    /// Waits until there were at least `count` requests for this path and returns these.
    ///
    /// # Panics
    /// After `limit`.
    pub async fn wait_for_at(&self, path: &str, count: usize, limit: Duration) -> Vec<Seen> {
        let at_path = |seen: &[Seen]| seen.iter().filter(|seen| seen.path == path).count() >= count;
        self.wait(&format!("{count} requests for {path}"), limit, at_path).await;
        self.seen_at(path)
    }

    /// Waits until what was seen is enough and returns it.
    ///
    /// # Panics
    /// After `limit`, with `what` and the paths seen.
    pub async fn wait(&self, what: &str, limit: Duration, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        eventually(what, limit, async || {
            let seen = self.seen();
            if enough(&seen) { Ok(seen) } else { Err(seen.iter().map(|seen| seen.path.clone()).collect::<Vec<_>>()) }
        })
        .await
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

async fn answer(State(book): State<Arc<Mutex<Book>>>, ConnectInfo(wire): ConnectInfo<Scissors>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let open = Open::count(&book, &path);
    let Ok(body) = to_bytes(body, BODY_LIMIT).await else {
        return reply(&Answer::status(400));
    };
    let answer = {
        let mut book = lock(&book);
        let at_once = book.open[&path];
        let id = parts.headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        let answer = book.next(id, &path, &String::from_utf8_lossy(&body));
        let (method, headers) = (parts.method.to_string(), parts.headers);
        book.seen.push(Seen { at: Instant::now(), time: callbackd::clock::now(), method, path, headers, body, at_once });
        answer
    };
    tokio::time::sleep(answer.delay).await;
    match answer.ending {
        Ending::Complete => {}
        Ending::Hang => std::future::pending().await,
        Ending::Close => wire.0.store(true, Ordering::Release),
    }
    drop(open);
    reply(&answer)
}

fn reply(answer: &Answer) -> Response {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.body.clone())).expect("an answer of a script is valid HTTP")
}

impl Book {
    fn next(&mut self, id: &str, path: &str, body: &str) -> Answer {
        if let Some((_, answer)) = self.by_text.iter().find(|(text, _)| body.contains(text)) {
            return answer.clone();
        }
        let script = match self.by_id.get_mut(id) {
            Some(script) => Some(script),
            None => self.by_path.get_mut(path),
        };
        match script {
            Some(script) if script.len() > 1 => script.pop_front(),
            Some(script) => script.front().cloned(),
            None => None,
        }
        .unwrap_or_else(|| Answer::status(200))
    }
}

/// Counts a request as unanswered until dropped, also when its client goes away.
struct Open {
    book: Arc<Mutex<Book>>,
    path: String,
}

impl Open {
    fn count(book: &Arc<Mutex<Book>>, path: &str) -> Self {
        *lock(book).open.entry(path.to_owned()).or_default() += 1;
        Self { book: Arc::clone(book), path: path.to_owned() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(open) = lock(&self.book).open.get_mut(&self.path) {
            *open -= 1;
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Accepts connections that can be cut from inside a request.
struct Wires(TcpListener);

/// A connection whose writes fail, and which resets its peer, once it is cut.
struct Wire {
    stream: TcpStream,
    cut: Arc<AtomicBool>,
}

/// What cuts the connection that a request came on.
#[derive(Debug, Clone)]
struct Scissors(Arc<AtomicBool>);

impl Listener for Wires {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.0).await;
        let _ = stream.set_nodelay(true);
        (Wire { stream, cut: Arc::default() }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, Wires>> for Scissors {
    fn connect_info(stream: IncomingStream<'_, Wires>) -> Self {
        Self(Arc::clone(&stream.io().cut))
    }
}

impl Wire {
    fn check(&self) -> io::Result<()> {
        if self.cut.load(Ordering::Acquire) {
            let _ = self.stream.set_zero_linger();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
