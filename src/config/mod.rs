//! The configuration: raw text in, valid types out, all problems at once.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret as _, SecretString};

use crate::domain::ladder::{Ladder, Rung};
use crate::domain::names::SourceName;
use crate::domain::retry::RetryPolicy;

/// Everything `callbackd.toml` and its environment overrides say, valid.
#[derive(Debug, Clone)]
pub struct Config {
    /// Section `[broker]`.
    pub broker: Broker,
    /// Sections `[[source]]`, at least one.
    pub sources: Vec<Source>,
    /// Section `[wait]`.
    pub ladder: Arc<Ladder>,
    /// Section `[worker]`.
    pub worker: Worker,
    /// Section `[dead]`.
    pub dead: Dead,
    /// Section `[delivery]`.
    pub delivery: DeliveryDefaults,
    /// Section `[egress]`.
    pub egress: Egress,
    /// Section `[admin]`.
    pub admin: Admin,
    /// Key `file` of section `[integrators]`, made relative to the configuration file's folder.
    pub integrators_file: PathBuf,
    /// Section `[log]`.
    pub log: Log,
}

/// How to reach RabbitMQ and what to call things there.
#[derive(Debug, Clone)]
pub struct Broker {
    /// Where it is.
    pub url: BrokerUrl,
    /// Declare exchanges, queues and bindings at start; otherwise only check that they are there.
    pub declare: bool,
    /// Names of what all sources share.
    pub names: Names,
    /// The AMQP heartbeat: a silent connection is given up after twice this.
    pub heartbeat: Duration,
    /// Limit on every single operation.
    pub timeout: Duration,
    /// Channels that publish, one message in flight on each.
    pub publish_channels: usize,
}

/// The broker's address with its credentials. Prints without user, password and query.
#[derive(Clone)]
pub struct BrokerUrl(SecretString);

impl BrokerUrl {
    /// Wraps a URL that has been checked.
    #[must_use]
    pub fn new(url: String) -> Self {
        Self(url.into())
    }

    /// The whole URL, for the connection alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match url::Url::parse(self.expose()) {
            Ok(url) => write!(f, "{}://{}:{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.port().unwrap_or(5672), url.path()),
            Err(_) => f.write_str("(unreadable broker URL)"),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names on the broker that all sources share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The exchange through which the broker dead-letters, with [`Self::unroutable`] behind it.
    pub route: String,
    /// The exchange through which we publish; nothing behind it, so that a missing queue is returned to us.
    pub publish: String,
    /// The queue of dead deliveries.
    pub dead: String,
    /// The queue of rejected events.
    pub rejected: String,
    /// The exchange and queue of what found no queue.
    pub unroutable: String,
}

/// One stream of events.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, which labels metrics.
    pub name: SourceName,
    /// The exchange that upstream publishes to.
    pub exchange: String,
    /// The queue of first attempts.
    pub queue: String,
    /// The binding key between the two.
    pub binding: String,
    /// Most messages of each of the source's two queues in our hands at one time.
    pub prefetch: NonZeroU16,
}

impl Source {
    /// The queue of retries that are due.
    #[must_use]
    pub fn due_queue(&self) -> String {
        format!("{}.due", self.queue)
    }

    /// The queue of one rung of this source's ladder.
    #[must_use]
    pub fn wait_queue(&self, rung: Rung) -> String {
        format!("{}.wait.{rung}", self.queue)
    }
}

/// Limits of the worker.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    /// Bytes of body beyond which an event is rejected.
    pub max_body: usize,
    /// How long an event of an unknown integrator waits for its configuration.
    pub unknown_integrator_wait: Duration,
    /// How long a stop waits for requests in flight.
    pub stop_timeout: Duration,
}

/// What happens to what is not delivered.
#[derive(Debug, Clone, Copy)]
pub struct Dead {
    /// How long dead and rejected messages are kept.
    pub retention: Duration,
}

/// Defaults of every endpoint.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryDefaults {
    /// Limit on one attempt.
    pub timeout: Duration,
    /// Most requests at one time.
    pub max_in_flight: NonZeroU16,
    /// When to try again and when to stop.
    pub retry: RetryPolicy,
}

/// Where requests may go.
#[derive(Debug, Clone)]
pub struct Egress {
    /// Admit `http://` beside `https://`.
    pub allow_http: bool,
    /// Whether private and loopback addresses may be called.
    pub private: PrivateNetworks,
}

/// Which addresses that are not on the public internet may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivateNetworks {
    /// None.
    Denied,
    /// All.
    Allowed,
    /// Those in these networks.
    Only(Vec<IpNet>),
}

/// The side for operators and probes.
#[derive(Debug, Clone, Copy)]
pub struct Admin {
    /// Where to listen.
    pub listen: SocketAddr,
}

/// What the log looks like.
#[derive(Debug, Clone)]
pub struct Log {
    /// Its shape.
    pub format: LogFormat,
    /// A directive of `tracing_subscriber::EnvFilter`.
    pub level: String,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For eyes.
    Human,
    /// For machines, one object a line.
    Json,
}
