//! Dead letters, and a vhost to bury them in.

use callbackd::broker::headers::{self, Original, Trust};
use callbackd::broker::{Topology, connect};
use callbackd::clock;
use callbackd::config::Config;
use callbackd::domain::dead::DeadReason;
use callbackd::domain::history::History;
use callbackd::domain::names::{EndpointId, EventId, IntegratorKey, SourceName, Topic};
use callbackd::domain::time::Timestamp;
use callbackd::telemetry::EventRef;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::{Amqp, Fetched, Vhost, config_for, dead};

/// The queue of what was given up.
pub const DEAD: &str = "callbacks.dead";

/// A vhost with the topology in it.
pub struct Stage {
    pub vhost: Vhost,
    pub config: Config,
    pub amqp: Amqp,
}

impl Stage {
    pub async fn set() -> Self {
        let vhost = Vhost::create().await;
        let config = config_for(&vhost);
        let amqp = vhost.connect().await;
        let stage = Self { vhost, config, amqp };
        stage.declare().await;
        stage
    }

    pub async fn declare(&self) {
        let connection = connect(&self.config.broker, "test").await.expect("a connection");
        Topology::new(&self.config).declare(&connection, self.config.broker.timeout).await.expect("declared");
    }

    pub async fn bury(&self, letter: &Buried) {
        self.amqp.publish("callbacks.publish", DEAD, letter.properties(), letter.body().as_bytes()).await;
    }

    /// Buries letters 1 to `count`, the odd ones of acme, the others of beta.
    pub async fn bury_many(&self, count: u32) {
        for number in 1..=count {
            let integrator = if number % 2 == 1 { "acme" } else { "beta" };
            self.bury(&Buried { integrator, ..Buried::new(number) }).await;
        }
    }

    pub async fn run(&self, arguments: &[&str]) -> String {
        dead(&self.config, arguments).await.unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// The event ids that a list shows.
    pub async fn listed(&self, arguments: &[&str]) -> Vec<String> {
        let out = self.run(&[&["list", "--json"], arguments].concat()).await;
        let rows = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        rows.map(|row| row["event"].as_str().expect("an id").to_owned()).collect()
    }
}

/// A dead letter to be made.
#[derive(Clone)]
pub struct Buried {
    pub number: u32,
    pub source: &'static str,
    pub integrator: &'static str,
    pub endpoint: &'static str,
    pub reason: DeadReason,
    pub at: Timestamp,
}

impl Buried {
    pub fn new(number: u32) -> Self {
        Self { number, source: "compliance", integrator: "acme", endpoint: "main", reason: DeadReason::Gone, at: clock::now() }
    }

    pub fn id(&self) -> String {
        format!("evt-{}", self.number)
    }

    pub fn body(&self) -> String {
        format!("{{\"secret\":\"payload-{}\"}}", self.number)
    }

    pub fn properties(&self) -> BasicProperties {
        let source = SourceName::try_new(self.source).expect("a name");
        let (id, integrator, topic) = (
            EventId::try_new(self.id()).expect("an id"),
            IntegratorKey::try_new(self.integrator).expect("a key"),
            Topic::try_new("identResult").expect("a topic"),
        );
        let mut fields = FieldTable::default();
        fields.insert("upstream".into(), AMQPValue::ShortInt(7));
        let upstream = BasicProperties::default().with_message_id(self.id().into()).with_headers(fields);
        let original =
            Original { properties: &upstream, exchange: "compliance.events", routing_key: "key", source: &source, trust: Trust::Foreign };
        let history = History {
            endpoint: Some(EndpointId::try_new(self.endpoint).expect("an id")),
            attempts: 12,
            first_attempt_at: Some(self.at),
            last_attempt_at: Some(self.at),
            last_status: Some(410),
            last_error: Some("gone for good".to_owned()),
            due_at: Some(self.at),
            hold_until: Some(self.at),
            ..History::new(self.at)
        };
        let event = EventRef { id: &id, integrator: &integrator, topic: &topic, whole: None, receipt: None };
        headers::dead_copy(&original, &history, event, self.reason, self.at)
    }
}

/// The numbers of the letters whose bodies these are.
pub fn numbers(messages: &[Fetched]) -> Vec<u32> {
    let number = |message: &Fetched| {
        let number = std::str::from_utf8(&message.body).ok()?.strip_prefix("{\"secret\":\"payload-")?.strip_suffix("\"}")?;
        number.parse().ok()
    };
    messages.iter().map(|message| number(message).expect("the body of a letter")).collect()
}

/// Fails with the first place that differs, not with a thousand numbers.
pub fn assert_numbers(found: &[u32], expected: impl Iterator<Item = u32>) {
    let expected: Vec<u32> = expected.collect();
    let differs = found.iter().zip(&expected).position(|(found, expected)| found != expected);
    assert_eq!(found.len(), expected.len());
    assert!(differs.is_none(), "place {differs:?} of {}, where {:?} stands", found.len(), differs.map(|at| found[at]));
}
