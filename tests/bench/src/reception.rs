//! The receiver: answers every request with 204, at once, late or very late, and notes which events came when.
//!
//! It listens on a free port of 127.0.0.1 and writes it to a file. `/e/INTEGRATOR` takes events;
//! `/-/reset`, `/-/manner`, `/-/mark`, `/-/count` and `/-/latency` are for the benchmark.

use std::cell::RefCell;
use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::arrivals::{Arrivals, Manner};

/// What all connections share. One thread, so no lock.
struct Shared {
    arrivals: RefCell<Arrivals>,
    manner: RefCell<Manner>,
    /// Changes when whoever hangs is to be answered at once.
    released: watch::Sender<()>,
}

/// Receives until it is killed.
///
/// # Errors
/// It cannot listen, or not write the file.
#[tokio::main(flavor = "current_thread")]
pub async fn run(port_file: &Path) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let half = port_file.with_extension("new");
    std::fs::write(&half, listener.local_addr()?.port().to_string())?;
    std::fs::rename(half, port_file)?;
    let shared = Rc::new(Shared { arrivals: RefCell::default(), manner: RefCell::default(), released: watch::Sender::new(()) });
    LocalSet::new().run_until(accept(listener, shared)).await
}

async fn accept(listener: TcpListener, shared: Rc<Shared>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let shared = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| answer(Rc::clone(&shared), request));
            // A connection that breaks is the other side's business: it shows in what arrives.
            let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: Rc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answered = match request.uri().path().strip_prefix("/e/") {
        Some(_) => take(&shared, request).await.map(|()| Bytes::new()),
        None => admin(&shared, request).await,
    };
    let (status, body) = match answered {
        Ok(body) if body.is_empty() => (StatusCode::NO_CONTENT, body),
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (StatusCode::BAD_REQUEST, Bytes::from(format!("{error:#}"))),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    Ok(response)
}

async fn take(shared: &Shared, request: Request<Incoming>) -> anyhow::Result<()> {
    let (head, body) = request.into_parts();
    body.collect().await?;
    let integrator = head.uri.path().strip_prefix("/e/").unwrap_or_default();
    let (hangs, wait) = {
        let manner = shared.manner.borrow();
        let hangs = manner.hanging.contains(integrator);
        (hangs, if hangs { manner.hang_ms } else { manner.delay_ms })
    };
    let ids = head.headers.get("callback-event-ids").and_then(|ids| ids.to_str().ok()).unwrap_or_default();
    shared.arrivals.borrow_mut().note(ids, hangs);
    if wait > 0 {
        let mut released = shared.released.subscribe();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            _ = released.changed() => {}
        }
    }
    Ok(())
}

async fn admin(shared: &Shared, request: Request<Incoming>) -> anyhow::Result<Bytes> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let json = match head.uri.path() {
        "/-/reset" => {
            shared.arrivals.borrow_mut().reset();
            serde_json::to_vec(&())?
        }
        "/-/manner" => {
            *shared.manner.borrow_mut() = serde_json::from_slice(&body)?;
            shared.released.send_replace(());
            serde_json::to_vec(&())?
        }
        "/-/mark" => {
            shared.arrivals.borrow_mut().mark();
            serde_json::to_vec(&())?
        }
        "/-/count" => serde_json::to_vec(&shared.arrivals.borrow().count())?,
        "/-/latency" => serde_json::to_vec(&shared.arrivals.borrow_mut().latency())?,
        other => anyhow::bail!("there is no {other}"),
    };
    Ok(json.into())
}
