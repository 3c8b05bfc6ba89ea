//! Section `[broker]`: how to reach RabbitMQ and what to call things there.

use std::fmt;
use std::time::Duration;

use lapin::uri::AMQPUri;
use secrecy::{ExposeSecret as _, SecretString};
use toml::Value;

use super::egress::OwnAddress;
use super::kinds::{Fault, boolean, duration, integer, text};
use super::secret::secret;
use super::section::Section;

/// How to reach RabbitMQ and what to call things there.
#[derive(Debug, Clone)]
pub struct Broker {
    /// Where it is.
    pub url: BrokerUrl,
    /// Declare exchanges, queues and bindings at start; otherwise only check that they are there.
    pub declare: bool,
    /// Names of what all sources share.
    pub names: Names,
    /// The AMQP heartbeat, whole seconds: a silent connection is given up after twice this.
    pub heartbeat: Duration,
    /// Limit on every single operation.
    pub timeout: Duration,
    /// Channels that publish, one message in flight on each.
    pub publish_channels: usize,
}

/// The broker's address with its credentials. Prints without user, password and query.
#[derive(Clone)]
pub struct BrokerUrl(SecretString);

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

impl BrokerUrl {
    /// Host and port of the broker, as an address that no endpoint has.
    #[must_use]
    pub fn address(&self) -> Option<OwnAddress> {
        let url = url::Url::parse(self.expose()).ok()?;
        let port = url.port().unwrap_or(if url.scheme() == "amqps" { 5671 } else { 5672 });
        Some(OwnAddress { host: url.host_str()?.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(url) = url::Url::parse(self.expose()) else { return f.write_str("(unreadable broker URL)") };
        let port = url.port().unwrap_or(if url.scheme() == "amqps" { 5671 } else { 5672 });
        write!(f, "{}://{}:{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The section, and the prefix of names, which the sources' queues share.
pub(super) fn read(section: &mut Section<'_>) -> (Option<Broker>, String) {
    let reading = section.reading();
    let url = section.required("url", |value| broker_url(&secret(reading)(value)?));
    let prefix = section.or("prefix", "callbacks".to_owned(), name(PREFIX_LIMIT));
    let names = section.section("names", |names| Names {
        route: names.or("route", format!("{prefix}.route"), name(NAME_LIMIT)),
        publish: names.or("publish", format!("{prefix}.publish"), name(NAME_LIMIT)),
        dead: names.or("dead", format!("{prefix}.dead"), name(NAME_LIMIT)),
        rejected: names.or("rejected", format!("{prefix}.rejected"), name(NAME_LIMIT)),
        unroutable: names.or("unroutable", format!("{prefix}.unroutable"), name(NAME_LIMIT)),
    });
    let declare = section.or("declare", true, boolean);
    let heartbeat = section.or("heartbeat", Duration::from_secs(10), whole_seconds);
    let timeout = section.or("timeout", Duration::from_secs(10), duration(Duration::from_millis(100)..=Duration::from_secs(120)));
    let publish_channels = section.or("publish_channels", 16, integer(1..=64));
    (url.map(|url| Broker { url, declare, names, heartbeat, timeout, publish_channels }), prefix)
}

/// Longest name of a queue or exchange, in bytes: AMQP allows 255, and `.wait.` with a rung comes behind a queue's name.
pub(super) const NAME_LIMIT: usize = 200;

/// Leaves room behind the prefix for `.` and a source's name.
const PREFIX_LIMIT: usize = 100;

/// A name for something that we declare: the broker keeps `amq.` for itself.
pub(super) fn name(limit: usize) -> impl Fn(&Value) -> Result<String, Fault> {
    let text = text(limit);
    move |value| match text(value)? {
        name if name.starts_with("amq.") => Err(Fault::content("starts with `amq.`, which the broker keeps for itself")),
        name => Ok(name),
    }
}

/// AMQP counts heartbeats in whole seconds.
fn whole_seconds(value: &Value) -> Result<Duration, Fault> {
    let heartbeat = duration(Duration::from_secs(1)..=Duration::from_secs(120))(value)?;
    if heartbeat.subsec_millis() == 0 { Ok(heartbeat) } else { Err(Fault::content("AMQP counts heartbeats in whole seconds")) }
}

/// Checks what the client library would otherwise silently read in another way than it is meant.
fn broker_url(secret: &SecretString) -> Result<BrokerUrl, Fault> {
    let text = secret.expose_secret();
    let hint = "write for example amqp://user:password@rabbitmq:5672/%2f";
    let refuse = |what: &str| Err(Fault::content(format!("{what}; {hint}")));
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("has a space, control or non-ASCII character");
    }
    let (Ok(url), Ok(uri)) = (url::Url::parse(text), text.parse::<AMQPUri>()) else { return refuse("is no AMQP URL") };
    match url.host() {
        None => refuse("has no host"),
        // The client library would connect to localhost instead.
        Some(url::Host::Ipv6(_)) => refuse("has an IPv6 address, which is not supported; write a host name"),
        // Everything on the broker has a limit already; this one would be read by nobody.
        Some(_) if uri.query.connection_timeout.is_some() => {
            Err(Fault::content("names a connection_timeout, which has no effect; set broker.timeout instead"))
        }
        Some(_) if uri.vhost.is_empty() => refuse("ends with a slash, which names a virtual host without a name"),
        Some(_) => Ok(BrokerUrl::new(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_url_prints_without_credentials_and_query() {
        let url = BrokerUrl::new("amqps://CANARY:CANARY@rabbit.example/%2f?auth_mechanism=CANARY".to_owned());
        assert_eq!(format!("{url} {url:?}"), "amqps://rabbit.example:5671/%2f amqps://rabbit.example:5671/%2f");
        assert_eq!(BrokerUrl::new("amqp://h".to_owned()).to_string(), "amqp://h:5672");
    }

    #[test]
    fn refuses_urls_that_the_client_would_read_in_another_way() {
        for good in ["amqp://guest:guest@127.0.0.1:5672/%2f", "amqps://h", "amqp://h/v?heartbeat=5&frame_max=8192"] {
            assert!(broker_url(&good.to_owned().into()).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://CANARY@h/", "is no AMQP URL"),
            ("CANARY", "is no AMQP URL"),
            ("amqp:CANARY", "is no AMQP URL"),
            ("amqp://h/v?heartbeat=CANARY", "is no AMQP URL"),
            ("amqp://CANARY@h:99999/v", "is no AMQP URL"),
            ("amqp://CAN ARY@h/v", "has a space"),
            ("amqp:///v", "has no host"),
            ("amqp://CANARY@[::1]/v", "has an IPv6 address"),
            ("amqp://CANARY@h/", "ends with a slash"),
            ("amqp://CANARY@h/v?connection_timeout=1000", "names a connection_timeout, which has no effect; set broker.timeout"),
        ] {
            let problem = broker_url(&bad.to_owned().into()).unwrap_err().into_text();
            assert!(problem.starts_with(why) && !problem.contains("CANARY"), "{bad}: {problem}");
        }
    }
}
