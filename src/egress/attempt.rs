//! One attempt: a request goes out, a reply comes back, whatever the endpoint does.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response};
use tokio::time::Instant;
use url::Url;

use super::client::{self, EgressError};
use super::failure::classify;
use super::guard::Guard;
use crate::config;
use crate::domain::reply::{Failure, Outcome, Reply, RetryAfter};
use crate::domain::request::CallbackRequest;

/// Bytes of an answer's body that are read. Nothing in it matters to us; it is read so that the connection can be used
/// again and so that an answer which breaks off is noticed.
const ANSWER_LIMIT: usize = 16 * 1024;

/// Speaks HTTP to endpoints, within the rules on where requests may go. Clones share one pool of connections.
#[derive(Debug, Clone)]
pub struct Egress {
    client: Client,
    guard: Guard,
}

impl Egress {
    /// Makes the client. A new version of the rules needs a new client, since pooled connections outlive their check.
    ///
    /// # Errors
    /// [`EgressError`]: TLS cannot be set up; there is no way to deliver anything.
    pub fn new(config: &config::Egress) -> Result<Self, EgressError> {
        let guard = Guard::new(config);
        Ok(Self { client: client::build(config, guard.clone())?, guard })
    }

    /// Makes one attempt, which takes at most `timeout`: name, connection, request and the whole answer together.
    ///
    /// A bad answer is a [`Reply`] like any other. An answer that does not arrive completely is a failure even where its
    /// status said 200: it proves nothing. An answer with more than 16 KiB of body counts as complete; its connection is
    /// dropped.
    pub async fn attempt(&self, request: CallbackRequest, timeout: Duration) -> Reply {
        let start = Instant::now();
        let outcome = match self.guard.judge_url(&request.url) {
            Ok(()) => tokio::time::timeout(timeout, self.exchange(request)).await.unwrap_or(Outcome::Failed(Failure::Timeout)),
            Err(_) => Outcome::Failed(Failure::Blocked),
        };
        Reply { outcome, took: start.elapsed() }
    }

    /// Asks whether anybody answers at an endpoint's URL, without telling it anything: a `HEAD` without body, secrets or
    /// signature. Whatever status comes back, it was reached.
    ///
    /// # Errors
    /// Why nobody answered within `timeout`.
    pub async fn reach(&self, url: &Url, timeout: Duration) -> Result<u16, Failure> {
        self.guard.judge_url(url).map_err(|_| Failure::Blocked)?;
        let answer = tokio::time::timeout(timeout, self.client.head(url.clone()).send()).await.map_err(|_| Failure::Timeout)?;
        answer.map(|response| response.status().as_u16()).map_err(|error| classify(&error))
    }

    async fn exchange(&self, request: CallbackRequest) -> Outcome {
        let sent = self.client.post(request.url).headers(request.headers).body(request.body).send().await;
        let read = match sent {
            Ok(response) => read(response).await,
            Err(error) => Err(error),
        };
        read.unwrap_or_else(|error| Outcome::Failed(classify(&error)))
    }
}

async fn read(mut response: Response) -> Result<Outcome, reqwest::Error> {
    let answered = Outcome::Answered { status: response.status().as_u16(), retry_after: retry_after(&response) };
    let mut read = 0;
    while let Some(chunk) = response.chunk().await? {
        read += chunk.len();
        if read > ANSWER_LIMIT {
            break;
        }
    }
    Ok(answered)
}

/// Several values say nothing, like none.
fn retry_after(response: &Response) -> Option<RetryAfter> {
    let mut values = response.headers().get_all(RETRY_AFTER).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() { None } else { RetryAfter::parse(value) }
}
