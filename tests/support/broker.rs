//! A running RabbitMQ and, for each test, a vhost of its own on it.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::amqp::Amqp;
use super::background::block_on;
use super::eventually::eventually;

/// The limit on one call of the management API: it is slow right after a node's start.
const API_LIMIT: Duration = Duration::from_secs(20);

/// Where a RabbitMQ answers.
#[derive(Debug, Clone)]
pub struct Broker {
    amqp: String,
    management: String,
}

impl Broker {
    /// The node that all tests share, from `CALLBACKD_TEST_AMQP` (such as `amqp://guest:guest@127.0.0.1:5672`) and
    /// `CALLBACKD_TEST_MANAGEMENT` (such as `http://guest:guest@127.0.0.1:15672`).
    ///
    /// # Panics
    /// When a variable is missing: tests are run by `bash tests/run.sh`.
    pub fn shared() -> Self {
        let variable = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: this test needs a RabbitMQ. Run `bash tests/run.sh`"))
        };
        Self::at(&variable("CALLBACKD_TEST_AMQP"), &variable("CALLBACKD_TEST_MANAGEMENT"))
    }

    /// A broker at these two URLs, credentials in both, no path.
    pub fn at(amqp: &str, management: &str) -> Self {
        Self { amqp: amqp.trim_end_matches('/').to_owned(), management: management.trim_end_matches('/').to_owned() }
    }

    /// Makes a vhost that no other test knows.
    pub async fn vhost(&self) -> Vhost {
        let name = format!("test-{}-{:08x}", std::process::id(), fastrand::u32(..));
        self.expect_done(Method::PUT, &format!("/api/vhosts/{name}"), None).await;
        let permissions = json!({"configure": ".*", "write": ".*", "read": ".*"});
        let user = self.user();
        self.expect_done(Method::PUT, &format!("/api/permissions/{name}/{user}"), Some(permissions)).await;
        Vhost { broker: self.clone(), name }
    }

    /// The AMQP URL of a vhost.
    pub fn url(&self, vhost: &str) -> String {
        format!("{}/{}", self.amqp, percent_encoding::utf8_percent_encode(vhost, percent_encoding::NON_ALPHANUMERIC))
    }

    /// The host and port at which AMQP is spoken, for a proxy in front of it.
    pub fn amqp_address(&self) -> String {
        let url = url::Url::parse(&self.amqp).expect("an AMQP URL");
        format!("{}:{}", url.host_str().expect("a host"), url.port().unwrap_or(5672))
    }

    /// Calls the management API; the body as JSON, `Null` where there is none.
    ///
    /// # Errors
    /// The status and text of an answer that is no success, or why there is none.
    pub async fn api(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, (Option<StatusCode>, String)> {
        let client = reqwest::Client::builder().no_proxy().timeout(API_LIMIT).build().expect("a client");
        let mut request = client.request(method, format!("{}{path}", self.management)).header("content-type", "application/json");
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let response = request.send().await.map_err(|error| (None, error.to_string()))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| (Some(status), error.to_string()))?;
        if !status.is_success() {
            return Err((Some(status), text));
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// The broker's version, such as `3.10.8`.
    pub async fn version(&self) -> String {
        let overview = self.api(Method::GET, "/api/overview", None).await.expect("the management API's overview");
        overview["rabbitmq_version"].as_str().expect("a version").to_owned()
    }

    fn user(&self) -> String {
        url::Url::parse(&self.management).expect("a management URL").username().to_owned()
    }

    async fn expect_done(&self, method: Method, path: &str, body: Option<Value>) {
        self.api(method.clone(), path, body).await.unwrap_or_else(|(status, text)| panic!("{method} {path}: {status:?} {text}"));
    }
}

/// A vhost of one test. Deleted, with all in it, when dropped.
#[derive(Debug)]
pub struct Vhost {
    broker: Broker,
    name: String,
}

impl Vhost {
    /// A new vhost on the shared node.
    ///
    /// # Panics
    /// When no node is running for the tests.
    pub async fn create() -> Self {
        Broker::shared().vhost().await
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Its AMQP URL, with credentials.
    pub fn url(&self) -> String {
        self.broker.url(&self.name)
    }

    /// The same vhost through a proxy at `address` (host and port).
    pub fn url_through(&self, address: std::net::SocketAddr) -> String {
        self.url().replacen(&self.broker.amqp_address(), &address.to_string(), 1)
    }

    /// A connection for the test's own use.
    pub async fn connect(&self) -> Amqp {
        Amqp::connect(&self.url()).await
    }

    /// Every queue of the vhost as the management API lists it. Counts lag seconds behind; arguments do not.
    pub async fn queues(&self) -> Vec<Value> {
        match self.broker.api(Method::GET, &format!("/api/queues/{}", self.name), None).await {
            Ok(Value::Array(queues)) => queues,
            other => panic!("queues of {}: {other:?}", self.name),
        }
    }

    /// The names of the vhost's queues.
    pub async fn queue_names(&self) -> Vec<String> {
        let queues = self.queues().await;
        let mut names: Vec<String> = queues.iter().filter_map(|queue| Some(queue["name"].as_str()?.to_owned())).collect();
        names.sort();
        names
    }

    /// Waits until the queue holds `messages` in all, those that a consumer has not settled yet included, as the
    /// management API counts. For a count of what is ready ask [`Amqp::ready`]: it does not lag.
    ///
    /// # Panics
    /// After `limit`.
    pub async fn wait_for_messages(&self, queue: &str, messages: u64, limit: Duration) {
        eventually(&format!("{messages} messages in {queue}"), limit, async || {
            let queues = self.queues().await;
            let found = queues.iter().find(|listed| listed["name"] == queue).ok_or("no such queue".to_owned())?;
            let count = found["messages"].as_u64().ok_or("not counted yet".to_owned())?;
            if count == messages { Ok(()) } else { Err(format!("{count} messages")) }
        })
        .await;
    }

    /// Makes the broker close every connection of this vhost, as an operator can. Waits until the API, which learns of
    /// connections late, has shown at least one.
    ///
    /// # Panics
    /// When no connection shows up within 15 s.
    pub async fn close_all_connections(&self) -> usize {
        let path = format!("/api/vhosts/{}/connections", self.name);
        let open = eventually("the API lists connections", Duration::from_secs(15), async || {
            match self.broker.api(Method::GET, &path, None).await {
                Ok(Value::Array(open)) if !open.is_empty() => Ok(open),
                other => Err(other),
            }
        })
        .await;
        let mut closed = 0;
        for name in open.iter().filter_map(|connection| connection["name"].as_str()) {
            let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
            closed += usize::from(self.broker.api(Method::DELETE, &format!("/api/connections/{name}"), None).await.is_ok());
        }
        closed
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let (broker, path) = (self.broker.clone(), format!("/api/vhosts/{}", self.name));
        // A broker that the test has killed cannot delete, and a failing test must show its own failure.
        let _ = block_on(async move { broker.api(Method::DELETE, &path, None).await });
    }
}
