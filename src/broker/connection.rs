//! Connections to RabbitMQ: the one place that makes them, what can go wrong, and the pause before the next try.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use lapin::tcp::{AsyncTcpStream, TLSConfig};
use lapin::types::ShortString;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, ErrorKind};

use super::fuse::{Fuse, Wire};
use super::headers;
use super::valve::{Dial, Valve};
use crate::config::Broker;

/// What the broker calls a missing exchange or queue (AMQP 0-9-1, reply code `not-found`).
const NOT_FOUND: u16 = 404;
/// What the broker calls a missing permission (AMQP 0-9-1, reply code `access-refused`).
const ACCESS_REFUSED: u16 = 403;

/// A step with the broker that did not succeed. No text of it holds the broker's user or password.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL is none that AMQP knows. The configuration's check lets none of these pass.
    #[error("the broker's URL is no AMQP URL")]
    BadUrl,
    /// There is no connection.
    #[error("cannot connect to {broker} (broker.url): {why}")]
    Unreachable {
        /// Scheme, host, port and virtual host.
        broker: String,
        /// What went wrong.
        why: String,
    },
    /// A name does not fit into AMQP's short string. Nothing was sent.
    #[error("{what} is longer than the 255 bytes that AMQP allows")]
    LongName {
        /// What has the name.
        what: &'static str,
    },
    /// The broker did not answer in time; whether it did its part is unknown.
    #[error("{step}: no answer within {limit:?}")]
    TimedOut {
        /// What was asked of it.
        step: &'static str,
        /// The configured limit.
        limit: Duration,
    },
    /// The broker refused, or the connection broke.
    #[error("{step}: {source}")]
    Failed {
        /// What was asked of it.
        step: &'static str,
        /// The client library's words.
        source: lapin::Error,
    },
    /// The connection ended without a word.
    #[error("the connection ended")]
    Ended,
    /// The broker ended the consumer, as it does when its queue is deleted.
    #[error("the broker ended the consumer")]
    ConsumerEnded,
    /// A burst of acknowledgements could not be written within the limit.
    #[error("acknowledgements could not be written in time")]
    AcksStuck,
    /// Nothing can be published through the exchange that our copies go through.
    #[error("cannot publish through exchange {exchange}: {why}")]
    CannotPublish {
        /// Its name.
        exchange: String,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// Copies could not be published for so long that the queue was given back.
    #[error("copies could not be published for {0:?}: unsettled messages go back to the queue until they can")]
    GivenBack(Duration),
    /// Exchanges, queues or bindings are missing or different.
    #[error("{0}")]
    Topology(String),
}

impl BrokerError {
    /// The broker sent a frame that the client library cannot read: a message with a short string that is no UTF-8.
    #[must_use]
    pub fn is_poison(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if matches!(source.kind(), ErrorKind::ParsingError(_)))
    }

    /// The exchange or queue does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.has_code(NOT_FOUND)
    }

    /// The broker's user lacks the permission.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.has_code(ACCESS_REFUSED)
    }

    fn has_code(&self, code: u16) -> bool {
        matches!(self, Self::Failed { source, .. }
            if matches!(source.kind(), ErrorKind::ProtocolError(error) if error.get_id() == code))
    }
}

/// Makes one connection, named `callbackd <link>` in the broker's lists, that lasts until something goes wrong: nothing in
/// it recovers by itself, since the client library's own recovery hides lost sessions from their consumers.
///
/// The configured heartbeat holds where the URL's query names none.
///
/// # Errors
/// [`BrokerError`] when there is no usable connection within the configured limit.
pub async fn connect(broker: &Broker, link: &str) -> Result<OwnedConnection, BrokerError> {
    let valve = Valve::default();
    valve.stay_open();
    Ok(OwnedConnection { connection: connect_behind(valve.clone(), broker, link).await?, valve })
}

/// A connection that ends at the latest when this is dropped: what it holds is then back in its queues.
///
/// The library's own close waits for the last of its channels too, and one whose answer never comes is held by the library
/// itself: in one of 36 runs of a test that drops passes in the middle, on a busy machine, a pass kept 500 messages, and would have
/// as long as the process lives (lapin 4.12.3).
#[derive(Debug)]
pub struct OwnedConnection {
    connection: Connection,
    valve: Valve,
}

impl Deref for OwnedConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for OwnedConnection {
    fn drop(&mut self) {
        self.valve.cut();
    }
}

/// As [`connect`], but what is read from the broker goes through a valve, and who has that ends it.
pub(super) async fn connect_behind(valve: Valve, broker: &Broker, link: &str) -> Result<Connection, BrokerError> {
    // Another part of the process may have been first: the same provider is then in place already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut uri: AMQPUri = broker.url.expose().parse().map_err(|_| BrokerError::BadUrl)?;
    uri.query.heartbeat.get_or_insert_with(|| whole_seconds(broker.heartbeat));
    // Two buffers of 32 frames (4 MiB) come with each connection. Asked for beforehand, their pages are taken when first used;
    // grown to what the broker offers, they are taken at once: 7 MiB more for a connection that is hardly used.
    uri.query.frame_max.get_or_insert(headers::FRAME_MAX);
    let properties = ConnectionProperties::default().with_connection_name(format!("callbackd {link}").into());
    let fuse = Fuse::default();
    let opening = open(uri, properties, (fuse.wire(), valve), broker.timeout);
    let unreachable = |why| BrokerError::Unreachable { broker: broker.url.to_string(), why };
    let connection = tokio::time::timeout(broker.timeout, opening)
        .await
        .map_err(|_| unreachable(format!("no answer within {:?}", broker.timeout)))?
        .map_err(|error| unreachable(words(&error)))?;
    fuse.remove();
    Ok(connection)
}

/// Without the library's own prefix where the system's words say it all.
fn words(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    }
}

/// As the client library does it, but with the socket behind a fuse and a valve, and the limit also on the thread that opens it.
async fn open(uri: AMQPUri, properties: ConnectionProperties, (wire, valve): (Wire, Valve), limit: Duration) -> lapin::Result<Connection> {
    let (host, port) = (uri.authority.host.clone(), uri.authority.port);
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let reactor = Dial::behind(valve);
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), reactor.clone()));
    let dial = async move |uri: AMQPUri, _| {
        let connecting = AsyncTcpStream::connect(&reactor, addresses.clone());
        let stream = tokio::time::timeout(limit, connecting).await.map_err(io::Error::from)??;
        if let AsyncTcpStream::Plain(plain) = &stream {
            wire.protect(plain.socket.get_ref())?;
        }
        Ok(match uri.scheme {
            AMQPScheme::AMQP => stream,
            AMQPScheme::AMQPS => stream.into_tls(&uri.authority.host, TLSConfig::default()).await?,
        })
    };
    Connection::connector(uri, runtime, dial, properties).await
}

/// AMQP counts heartbeats in seconds, and 0 would turn them off.
fn whole_seconds(heartbeat: Duration) -> u16 {
    u16::try_from(heartbeat.as_millis().div_ceil(1000)).unwrap_or(u16::MAX).max(1)
}

/// Awaits one step of the broker, but not for ever: awaits of the client library were seen to hang.
///
/// # Errors
/// [`BrokerError::TimedOut`] and [`BrokerError::Failed`], both naming the step.
pub(crate) async fn within<T>(
    limit: Duration,
    step: &'static str,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(BrokerError::Failed { step, source }),
        Err(_) => Err(BrokerError::TimedOut { step, limit }),
    }
}

/// A name as AMQP wants it; the library's own conversion panics where this one fails.
///
/// # Errors
/// [`BrokerError::LongName`] above 255 bytes.
pub(crate) fn short(what: &'static str, name: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(name).map_err(|_| BrokerError::LongName { what })
}

/// The growing, jittered pause between two tries. It never ends: reconnecting is what this service is for.
#[derive(Debug)]
pub(crate) struct Pause {
    longest_now: Duration,
}

impl Pause {
    /// No pause is shorter.
    pub(crate) const SHORTEST: Duration = Duration::from_millis(100);
    /// No pause is longer, however long the broker has been away: within five seconds of its return events are delivered again, and
    /// connecting, declaring and proving take their share of these.
    pub(crate) const LONGEST: Duration = Duration::from_secs(3);

    /// Starts with the shortest pause.
    pub(crate) const fn new() -> Self {
        Self { longest_now: Self::SHORTEST.saturating_mul(2) }
    }

    /// The pause after something that held for so long; one that held longer than the longest pause was good, and the
    /// pauses start anew.
    pub(crate) fn after(&mut self, lasted: Duration) -> Duration {
        if lasted > Self::LONGEST {
            *self = Self::new();
        }
        self.next(fastrand::f64())
    }

    /// The next pause, between half and all of a bound that doubles each time; `dice` is 0 (included) to 1 (excluded).
    pub(crate) fn next(&mut self, dice: f64) -> Duration {
        let bound = self.longest_now;
        self.longest_now = bound.saturating_mul(2).min(Self::LONGEST);
        bound.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BrokerUrl, Names};

    fn broker(url: &str) -> Broker {
        let name = String::new;
        Broker {
            url: BrokerUrl::new(url.to_owned()),
            declare: true,
            names: Names { route: name(), publish: name(), dead: name(), rejected: name(), unroutable: name() },
            heartbeat: Duration::from_secs(10),
            timeout: Duration::from_millis(500),
            publish_channels: 1,
        }
    }

    #[test]
    fn the_pause_grows_from_100_ms_to_3_s_and_stays_there() {
        let mut pause = Pause::new();
        let shortest: Vec<u128> = (0..9).map(|_| pause.next(0.0).as_millis()).collect();
        assert_eq!(shortest, [100, 200, 400, 800, 1500, 1500, 1500, 1500, 1500]);
        let mut pause = Pause::new();
        let longest: Vec<u128> = (0..9).map(|_| pause.next(1.0).as_millis()).collect();
        assert_eq!(longest, [200, 400, 800, 1600, 3000, 3000, 3000, 3000, 3000]);
    }

    #[test]
    fn the_pause_starts_anew_after_what_held_for_long() {
        let mut pause = Pause::new();
        for _ in 0..9 {
            pause.after(Pause::LONGEST);
        }
        assert!(pause.after(Pause::LONGEST) >= Pause::LONGEST / 2);
        assert!(pause.after(Pause::LONGEST + Duration::from_millis(1)) <= Duration::from_millis(200));
    }

    #[test]
    fn a_heartbeat_is_whole_seconds_and_never_off() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1001)), 2);
        assert_eq!(whole_seconds(Duration::from_secs(1_000_000)), u16::MAX);
    }

    #[tokio::test]
    async fn a_failed_connection_names_the_broker_and_the_key() {
        let error = connect(&broker("amqp://user:hunter2@127.0.0.1:1/%2f"), "test").await.unwrap_err().to_string();
        assert!(error.starts_with("cannot connect to amqp://127.0.0.1:1/%2f (broker.url): Connection refused"), "{error}");
    }

    #[tokio::test]
    async fn no_error_tells_the_user_or_the_password() {
        for url in ["amqp://user:hunter2@127.0.0.1:1/%2f", "hunter2", "http://hunter2@x", "amqp://user:hunter2@host.invalid/%2f"] {
            let error = connect(&broker(url), "test").await.unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hunter2") && !text.contains("user:"), "{text}");
        }
    }
}
