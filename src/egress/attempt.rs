//! One attempt: a request goes out, a reply comes back, whatever the endpoint does.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, HeaderMap, RETRY_AFTER, TRANSFER_ENCODING};
use reqwest::{Method, Request, Response};
use tokio::time::{Instant, timeout_at};
use url::{Host, Url};

use super::client::EgressError;
use super::clients::Clients;
use super::failure::{classify, ends_early};
use super::guard::Guard;
use crate::config;
use crate::domain::integrator::Directory;
use crate::domain::reply::{Failure, Outcome, Reply, RetryAfter};
use crate::domain::request::CallbackRequest;
use crate::domain::tls::EndpointTls;

/// Bytes of an answer's body that are read. Nothing in it matters to us; it is read so that the connection can be used
/// again and so that an answer which breaks off is noticed.
const ANSWER_LIMIT: usize = 16 * 1024;

/// Speaks HTTP to endpoints, within the rules on where requests may go. Clones share one pool of connections.
#[derive(Debug, Clone)]
pub struct Egress {
    clients: Clients,
    guard: Guard,
    through_proxy: bool,
}

impl Egress {
    /// Makes the client. A new version of the rules needs a new client, since pooled connections outlive their check.
    ///
    /// # Errors
    /// [`EgressError`]: TLS cannot be set up; there is no way to deliver anything.
    pub fn new(config: &config::Egress) -> Result<Self, EgressError> {
        let guard = Guard::new(config);
        Ok(Self { clients: Clients::new(config, guard.clone())?, guard, through_proxy: config.proxy.is_some() })
    }

    /// Forgets the connections made with certificates that no endpoint names any more. Attempts in flight end undisturbed.
    pub fn keep_only(&self, directory: &Directory) {
        self.clients.keep_only(&directory.all().filter_map(|endpoint| endpoint.tls.as_deref()).map(EndpointTls::fingerprint).collect());
    }

    /// Makes one attempt, which takes at most `timeout`: name, connection, request and the whole answer together.
    ///
    /// A bad answer is a [`Reply`] like any other. A status that is no success stands as soon as the head has come,
    /// whatever becomes of the body. A 2xx counts only when its answer is complete: one that breaks off or is not all
    /// there in time is [`Outcome::Incomplete`]. More than 16 KiB of body count as complete; the connection is dropped.
    pub async fn attempt(&self, request: CallbackRequest, timeout: Duration) -> Reply {
        let start = Instant::now();
        let deadline = start + timeout;
        let outcome = match self.judge(&request.url, deadline).await {
            Ok(()) => self.exchange(request, deadline).await,
            Err(failure) => Outcome::Failed(failure),
        };
        Reply { outcome, took: start.elapsed() }
    }

    /// Asks whether anybody answers at an endpoint's URL, without telling it anything: a `HEAD` without body, secrets or
    /// signature. Whatever status comes back, it was reached.
    ///
    /// # Errors
    /// Why nobody answered within `timeout`.
    pub async fn reach(&self, url: &Url, tls: Option<&Arc<EndpointTls>>, timeout: Duration) -> Result<u16, Failure> {
        let deadline = Instant::now() + timeout;
        self.judge(url, deadline).await?;
        let client = self.clients.get(url, tls).await?;
        let answer = timeout_at(deadline, client.head(url.clone()).send()).await.map_err(|_| Failure::Timeout)?;
        answer.map(|response| response.status().as_u16()).map_err(|error| classify(&error, self.through_proxy))
    }

    /// Sends a request that tells nobody of an event, such as one for an access token, by the same rules and without a certificate
    /// of ours. The caller limits the time that it takes.
    pub(super) async fn send(&self, request: Request, deadline: Instant) -> Result<Response, Failure> {
        self.judge(request.url(), deadline).await?;
        let client = self.clients.get(request.url(), None).await?;
        client.execute(request).await.map_err(|error| classify(&error, self.through_proxy))
    }

    /// Judges what can be judged before anything is dialled; a name's addresses are judged by the client's resolver.
    async fn judge(&self, url: &Url, deadline: Instant) -> Result<(), Failure> {
        self.guard.judge_url(url).map_err(Failure::Blocked)?;
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::from(address),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        match url.port_or_known_default().filter(|port| self.guard.is_own_port(*port)) {
            Some(port) => {
                let judged = timeout_at(deadline, self.guard.judge_named(&[literal], port)).await;
                judged.map_err(|_| Failure::Timeout)?.map_err(Failure::Blocked)
            }
            None => Ok(()),
        }
    }

    async fn exchange(&self, request: CallbackRequest, deadline: Instant) -> Outcome {
        let client = match timeout_at(deadline, self.clients.get(&request.url, request.tls.as_ref())).await {
            Ok(Ok(client)) => client,
            Ok(Err(failure)) => return Outcome::Failed(failure),
            // This machine was too slow for its own files.
            Err(_) => return Outcome::Failed(Failure::Local),
        };
        // Put together by hand: the client's builder would merge the headers one by one into a map of its own.
        let mut post = Request::new(Method::POST, request.url);
        *post.headers_mut() = request.headers;
        *post.body_mut() = Some(request.body.into());
        let response = match timeout_at(deadline, client.execute(post)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Outcome::Failed(classify(&error, self.through_proxy)),
            Err(_) => return Outcome::Failed(Failure::Timeout),
        };
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let body = timeout_at(deadline, read_body(response)).await.unwrap_or(Err(Failure::Timeout));
        match body {
            Err(failure) if status.is_success() => Outcome::Incomplete { status: status.as_u16(), failure },
            Ok(()) | Err(_) => Outcome::Answered { status: status.as_u16(), retry_after },
        }
    }
}

async fn read_body(mut response: Response) -> Result<(), Failure> {
    let unframed = is_unframed(response.headers());
    let mut read = 0;
    while read <= ANSWER_LIMIT {
        match response.chunk().await {
            Ok(Some(chunk)) => read += chunk.len(),
            Ok(None) => break,
            // TLS that ends without a word of farewell, as old servers do it. Where the body has a length, one that was
            // cut is noticed all the same; here the end of the connection is all there is to go by.
            Err(error) if unframed && ends_early(&error) => break,
            Err(error) => return Err(classify(&error, false)),
        }
    }
    Ok(())
}

/// Whether the body ends where the connection does (RFC 9112, section 6.3).
fn is_unframed(headers: &HeaderMap) -> bool {
    match headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        Some(codings) => !codings.as_bytes().trim_ascii_end().to_ascii_lowercase().ends_with(b"chunked"),
        None => !headers.contains_key(CONTENT_LENGTH),
    }
}

/// The first value that can be read.
fn retry_after(headers: &HeaderMap) -> Option<RetryAfter> {
    headers.get_all(RETRY_AFTER).iter().find_map(|value| RetryAfter::parse(value.to_str().ok()?))
}
