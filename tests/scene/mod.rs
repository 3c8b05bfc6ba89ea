//! The usual scene of a test of the worker: a vhost, the built program on it with short waits, and a connection to publish.

#![allow(dead_code, unreachable_pub, reason = "each test file compiles this module for itself and uses a part of it")]

use std::time::Duration;

use futures_util::StreamExt as _;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::support::{Amqp, Vhost, Worker, eventually};

/// The limit on anything that a test waits for: far beyond what it takes, so that only a fault reaches it.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A worker at work.
pub struct Scene {
    pub worker: Worker,
    pub amqp: Amqp,
    pub vhost: Vhost,
}

impl Scene {
    /// Starts a worker with these integrators and waits until it is ready.
    pub async fn start(integrators: &str) -> Self {
        Self::start_with(integrators, &[]).await
    }

    /// The same with more environment variables, such as overrides of the configuration.
    pub async fn start_with(integrators: &str, environment: &[(&str, &str)]) -> Self {
        let vhost = Vhost::create().await;
        let url = vhost.url();
        Self::start_at(vhost, &url, integrators, environment).await
    }

    /// The same with the worker's broker at `url`, such as a proxy.
    pub async fn start_at(vhost: Vhost, url: &str, integrators: &str, environment: &[(&str, &str)]) -> Self {
        let mut worker = Worker::start_with(&config(url), integrators, environment);
        worker.wait_ready().await;
        let amqp = vhost.connect().await;
        Self { worker, amqp, vhost }
    }

    /// Publishes an event as the compliance source does.
    pub async fn publish(&self, body: &str) {
        self.amqp.publish_event("compliance.events", "event", body).await;
    }

    /// Publishes events of the compliance source, as many as are given, without waiting for each.
    pub async fn publish_all(&self, bodies: impl IntoIterator<Item = String>) {
        futures_util::stream::iter(bodies)
            .for_each_concurrent(64, async |body| self.amqp.publish_event("compliance.events", "event", &body).await)
            .await;
    }

    /// Waits until no queue of work holds a message that is ready and the worker holds none. Counted by the broker itself at
    /// that moment: what the management API lists lags by seconds.
    ///
    /// # Panics
    /// When that does not come about.
    pub async fn settled(&self) {
        let names = self.open_queues().await;
        eventually("everything is settled", LIMIT, async || {
            let held = self.worker.metric("callbackd_held_events", &[]).await;
            let mut open = Vec::new();
            for name in &names {
                let ready = self.amqp.ready(name).await;
                if ready > 0 {
                    open.push(format!("{name}: {ready}"));
                }
            }
            if open.is_empty() && held == Some(0.0) { Ok(()) } else { Err(format!("held {held:?}, {open:?}")) }
        })
        .await;
    }

    /// Messages that are ready in some queue of deliveries that are not over.
    pub async fn left(&self) -> usize {
        let mut left = 0;
        for name in self.open_queues().await {
            left += self.amqp.ready(&name).await;
        }
        usize::try_from(left).expect("a count")
    }

    async fn open_queues(&self) -> Vec<String> {
        let kept = ["callbacks.dead", "callbacks.rejected"];
        self.vhost.queue_names().await.into_iter().filter(|name| !kept.contains(&name.as_str())).collect()
    }

    /// The log lines with this message.
    pub fn log_lines(&self, message: &str) -> Vec<serde_json::Value> {
        self.worker.log_lines().into_iter().filter(|line| line["message"] == message).collect()
    }
}

/// A `callbackd.toml` with waits of 100 ms to 2 s.
pub fn config(url: &str) -> String {
    format!(
        r#"
broker = {{ url = "{url}" }}
wait = {{ shortest = "100ms", longest = "2s" }}
worker = {{ unknown_integrator_wait = "3s" }}
egress = {{ allow_http = true, allow_private_networks = true }}

[[source]]
name = "compliance"
exchange = "compliance.events"

[[source]]
name = "ident"
exchange = "ident.events"

[delivery]
timeout = "5s"
retry = {{ initial = "200ms", multiplier = 2.0, max_delay = "2s", max_age = "10m", jitter = 0.2 }}
"#
    )
}

/// One endpoint in `integrators.toml`, with more keys in `more`.
pub fn endpoint(id: &str, url: &str, more: &str) -> String {
    format!("[[integrator.endpoint]]\nid = \"{id}\"\nurl = \"{url}\"\n{more}\n")
}

/// One integrator in `integrators.toml`.
pub fn integrator(key: &str, endpoints: &[String]) -> String {
    format!("[[integrator]]\nkey = \"{key}\"\n{}\n", endpoints.concat())
}

/// An event of one compliance record for the integrator `acme`.
pub fn event(id: &str) -> String {
    format!(r#"{{"id":"{id}","integrator":"acme","topic":"complianceRecord","data":[{{"status":100,"key":"{id}","modified":"m"}}]}}"#)
}

/// An event of a topic with these fields, for this integrator.
pub fn event_for(integrator: &str, id: &str, topic: &str, data: &str) -> String {
    format!(r#"{{"id":"{id}","integrator":"{integrator}","topic":"{topic}","data":{data}}}"#)
}

/// AMQP headers with texts.
pub fn headers(pairs: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    table
}

/// Persistent JSON.
pub fn properties() -> BasicProperties {
    BasicProperties::default().with_content_type("application/json".into()).with_delivery_mode(2)
}
