//! The broker as the benchmark uses it: virtual hosts, filled queues, a paced publisher, what is left.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lapin::Confirmation;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::event::{Event, integrator};

/// Publishes whose confirms are waited for at one time.
const UNCONFIRMED: usize = 500;
/// Limit on everything that the broker is asked, and on the time without a confirm.
const LIMIT: Duration = Duration::from_secs(30);

/// One virtual host.
#[derive(Debug)]
pub struct Broker {
    port: u16,
    vhost: String,
    http: reqwest::Client,
    open: Option<(Connection, Channel)>,
}

/// Which integrators the events are for, in turn.
#[derive(Debug, Clone, Copy)]
pub struct Integrators {
    /// The first.
    pub first: usize,
    /// How many.
    pub count: usize,
}

impl Integrators {
    /// Only one.
    pub const ONE: Self = Self { first: 0, count: 1 };

    fn key(self, number: u64) -> String {
        integrator(self.first + usize::try_from(number).unwrap_or(0) % self.count)
    }
}

impl Broker {
    /// The default virtual host of the node at that port.
    #[must_use]
    pub fn at(port: u16) -> Self {
        Self { port, vhost: String::new(), http: reqwest::Client::new(), open: None }
    }

    /// Its AMQP URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{}", self.port, self.vhost)
    }

    /// Makes an empty virtual host of that name, and deletes the one before.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn fresh(&mut self, name: &str) -> anyhow::Result<()> {
        self.open = None;
        if !self.vhost.is_empty() {
            let before = std::mem::take(&mut self.vhost);
            self.manage(reqwest::Method::DELETE, &format!("vhosts/{before}"), None).await?;
        }
        self.manage(reqwest::Method::PUT, &format!("vhosts/{name}"), Some(json!({}))).await?;
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        self.manage(reqwest::Method::PUT, &format!("permissions/{name}/guest"), Some(all)).await?;
        name.clone_into(&mut self.vhost);
        Ok(())
    }

    async fn manage(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let url = format!("http://127.0.0.1:{}/api/{path}", self.port + 10_000);
        let mut request = self.http.request(method, url).basic_auth("guest", Some("guest")).timeout(LIMIT * 4);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        ensure!(answer.status().is_success(), "the broker answered {} to {path}", answer.status());
        let bytes = answer.bytes().await?;
        if bytes.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&bytes)?) }
    }

    /// Its version.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn version(&self) -> anyhow::Result<String> {
        let overview = self.manage(reqwest::Method::GET, "overview", None).await?;
        let text = |name: &str| overview[name].as_str().unwrap_or("?").to_owned();
        Ok(format!("RabbitMQ {}, Erlang {}", text("rabbitmq_version"), text("erlang_version")))
    }

    /// The one channel, which confirms. Made anew when it is gone.
    async fn channel(&mut self) -> anyhow::Result<Channel> {
        if let Some((_, channel)) = self.open.as_ref().filter(|(_, channel)| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let connection = timeout(LIMIT, Connection::connect(&self.url(), ConnectionProperties::default())).await??;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        self.open = Some((connection, channel.clone()));
        Ok(channel)
    }

    /// Publishes that many events as fast as the broker confirms, to the exchange.
    ///
    /// # Errors
    /// One is not confirmed, or not routed.
    pub async fn fill(&mut self, exchange: &str, numbers: std::ops::Range<u64>, to: Integrators) -> anyhow::Result<()> {
        let channel = self.channel().await?;
        let mut unconfirmed = FuturesUnordered::new();
        for number in numbers {
            unconfirmed.push(publish(&channel, exchange, number, to));
            if unconfirmed.len() >= UNCONFIRMED {
                timeout(LIMIT, unconfirmed.next()).await.context("no confirm")?.context("no confirm")??;
            }
        }
        while let Some(confirmed) = timeout(LIMIT, unconfirmed.next()).await.context("no confirm")? {
            confirmed?;
        }
        Ok(())
    }

    /// Publishes at `rate` events a second until `numbers` is used up.
    ///
    /// # Errors
    /// One is not confirmed, or not routed.
    pub async fn pace(&mut self, exchange: &str, numbers: std::ops::Range<u64>, (rate, to): (u32, Integrators)) -> anyhow::Result<()> {
        let channel = self.channel().await?;
        let mut unconfirmed = FuturesUnordered::new();
        let mut tick = interval(Duration::from_millis(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (start, mut next) = (Instant::now(), numbers.start);
        while next < numbers.end {
            tokio::select! {
                _ = tick.tick() => {
                    while next < numbers.end && start + Duration::from_secs(1) * u32::try_from(next - numbers.start)? / rate <= Instant::now() {
                        unconfirmed.push(publish(&channel, exchange, next, to));
                        next += 1;
                    }
                }
                Some(confirmed) = unconfirmed.next() => confirmed?,
            }
        }
        while let Some(confirmed) = timeout(LIMIT, unconfirmed.next()).await.context("no confirm")? {
            confirmed?;
        }
        Ok(())
    }

    /// Messages of a queue that are ready to be consumed.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn ready(&mut self, queue: &str) -> anyhow::Result<u64> {
        let channel = self.channel().await?;
        ready(&channel, queue).await
    }

    /// Messages in all queues of the virtual host, as soon as they are `expected`, or after `patience`: between which two numbers
    /// they are. Queues are asked one after the other. Without a worker, messages only move from queues for retries into queues of
    /// work, as they expire: who asks those of work first misses what moves meanwhile, who asks them last counts it twice. What the
    /// broker itself has in hand at that moment, up to 32 for each queue for retries, is in neither, so the upper number is a little low.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn left(&mut self, expected: u64, patience: Duration) -> anyhow::Result<RangeInclusive<u64>> {
        let listed = self.manage(reqwest::Method::GET, &format!("queues/{}?columns=name", self.vhost), None).await?;
        let Value::Array(listed) = listed else { bail!("no list of queues") };
        let mut queues: Vec<String> = listed.iter().filter_map(|queue| Some(queue["name"].as_str()?.to_owned())).collect();
        queues.sort_by_key(|queue| queue.contains(".wait."));
        let channel = self.channel().await?;
        let deadline = Instant::now() + patience;
        loop {
            let least = sum(&channel, queues.iter()).await?;
            if least == expected {
                return Ok(least..=least);
            }
            if Instant::now() >= deadline {
                return Ok(least..=sum(&channel, queues.iter().rev()).await?);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn sum(channel: &Channel, queues: impl Iterator<Item = &String>) -> anyhow::Result<u64> {
    let mut sum = 0;
    for queue in queues {
        sum += ready(channel, queue).await?;
    }
    Ok(sum)
}

async fn ready(channel: &Channel, queue: &str) -> anyhow::Result<u64> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = timeout(LIMIT, channel.queue_declare(queue.into(), passive, FieldTable::default())).await??;
    Ok(u64::from(queue.message_count()))
}

async fn publish(channel: &Channel, exchange: &str, number: u64, to: Integrators) -> anyhow::Result<()> {
    let event = Event::now(number);
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(ShortString::from(event.id()));
    let body = event.body(&to.key(number));
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm = channel.basic_publish(exchange.into(), "complianceRecord".into(), options, body.as_bytes(), properties).await?;
    match confirm.await? {
        Confirmation::Ack(None) => Ok(()),
        other => bail!("event {number} was not taken: {other:?}"),
    }
}
