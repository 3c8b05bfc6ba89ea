//! The side for operators and probes over plain HTTP: `/livez`, `/readyz` and `/metrics` for everybody who reaches it, `/api` and the console
//! for those with a token. It runs on a thread of its own: what operators ask for takes nothing from the thread that delivers.

mod access;
mod api;
mod console;
mod readiness;
mod scrape;
mod session;
mod thread;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::Uri;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use api::Api;
pub use readiness::Readiness;
pub use thread::{AdminThread, start};

use access::Access;
use scrape::Scrape;

use crate::config::Admin;
use crate::pulse::Pulse;

/// Limits on those who ask.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections served at one time; more wait to be accepted.
    connections: usize,
    /// A connection that has not sent a request's head after this is closed, idle ones too.
    head: Duration,
    /// No connection lives longer: a reader that never reads its answer is rid of by this.
    connection: Duration,
}

/// Probes and two scrapers need a handful of connections, a console two for each page that is open, of which 16 may watch the stream. A head is waited for less long than the shortest usual interval
/// between probes, so that nobody can occupy all places for long.
const LIMITS: Limits = Limits { connections: 64, head: Duration::from_secs(5), connection: Duration::from_secs(60) };

/// Bytes of a request's head; hyper's least.
const HEAD_BYTES: usize = 8192;

/// How long answers under way may take once the server is told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// A thread that has not run for so long is stuck. A reload of ten thousand integrators takes it less than a second.
const STUCK: Duration = Duration::from_secs(15);

/// The pause after a failed accept (out of file descriptors, say): the failure would otherwise repeat at full speed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens the port.
///
/// # Errors
/// Names the address and the key that holds it; the kind is the operating system's.
pub async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(listen)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("admin.listen: cannot listen on {listen}: {error}; choose a free address")))
}

/// Answers until `stop`, then for at most a second more. Readiness has a stop of its own, so that it can say "not ready"
/// while the process finishes its work.
pub async fn serve(listener: TcpListener, config: Admin, api: Api, pulse: Pulse, stop: CancellationToken) {
    let site = Site { router: router(&config, api, pulse), prefix: config.path_prefix.into() };
    serve_within(LIMITS, listener, site, stop).await;
}

/// What is served, and what a proxy may put before its paths.
#[derive(Clone)]
struct Site {
    router: Router,
    prefix: Arc<str>,
}

async fn serve_within(limits: Limits, listener: TcpListener, site: Site, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            // The semaphore is never closed, so there always is a place in the end.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = stop.cancelled() => break,
            // Takes finished ones away, as they would pile up.
            Some(_) = connections.join_next() => {}
            (place, accepted) = accept => match accepted {
                Ok((stream, _)) => {
                    let (site, stop) = (site.clone(), stop.clone());
                    connections.spawn(async move {
                        let _place = place;
                        connection(limits, stream, site, stop).await;
                    });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(STOP_LIMIT, async { while connections.join_next().await.is_some() {} }).await;
}

/// Serves one connection to its end. What goes wrong on it is the client's business and is not told.
async fn connection(limits: Limits, stream: TcpStream, site: Site, stop: CancellationToken) {
    let Site { router, prefix } = site;
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |mut request| {
        if let Some(uri) = without_prefix(request.uri(), &prefix) {
            *request.uri_mut() = uri;
        }
        inner.call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let _ = tokio::time::timeout(limits.connection, async {
        tokio::select! {
            ended = serving.as_mut() => ended,
            () = stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    })
    .await;
}

/// The same place without the prefix of a proxy that leaves it in; `None` where there is none.
fn without_prefix(uri: &Uri, prefix: &str) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(prefix).filter(|_| !prefix.is_empty())?;
    match rest.as_bytes().first() {
        Some(b'/') => rest.parse().ok(),
        None | Some(b'?') => format!("/{rest}").parse().ok(),
        Some(_) => None,
    }
}

fn router(config: &Admin, api: Api, pulse: Pulse) -> Router {
    let (readiness, telemetry) = (api.readiness.clone(), api.telemetry.clone());
    let ready = get(|State(readiness): State<Readiness>| async move { ready(&readiness) }).with_state(readiness);
    let metrics = get(|State(scrape): State<Arc<Scrape>>| async move { metrics(&scrape) }).with_state(Arc::new(Scrape::new(telemetry)));
    let probes = Router::new().route("/livez", get(async move || live(&pulse))).route("/readyz", ready).route("/metrics", metrics);
    let access = Arc::new(Access::new(config));
    let all = if config.api { probes.merge(api::router(api.clone(), Arc::clone(&access))) } else { probes };
    let all = if config.console { all.merge(console::router(api, access)) } else { all };
    all.layer(map_response(guarded))
}

/// Whether the thread that delivers runs, as this one does if it answers.
fn live(pulse: &Pulse) -> Response {
    let silence = pulse.silence();
    if silence < STUCK {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("the thread that delivers has not run for {} s\n", silence.as_secs())).into_response()
}

fn ready(readiness: &Readiness) -> Response {
    let missing = readiness.missing();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
}

fn metrics(scrape: &Scrape) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], scrape.text()).into_response()
}

/// Headers of every answer.
const GUARDS: [(HeaderName, &str); 7] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Answers are for now, for what they say they are, and for no frame or script.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in GUARDS {
        // A page says itself what it needs.
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
