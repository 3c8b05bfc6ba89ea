//! What must exist on the broker: exchanges, queues and bindings, as data; and how to declare it, check it and export it.

mod declare;
mod error;
mod permissions;

use std::fmt;
use std::time::Duration;

use lapin::types::AMQPValue;
use serde_json::{Value, json};

use crate::config::{Config, Source};
use crate::domain::ladder::Rung;

pub use error::{Object, Refusal, TopologyError};
pub use permissions::Users;

/// How often a message may come back to a work or due queue before the broker moves it to the rejected. Positive and
/// explicit: absent means 20 with silent loss on RabbitMQ 4, and -1 means "at once" on 3.10.
const WORK_DELIVERY_LIMIT: i64 = 100;

/// How often an operator may look at a dead, rejected or unroutable message: each look returns it once.
const BROWSED_DELIVERY_LIMIT: i64 = 1_000_000;

/// Everything that must exist on the broker. Pure data: making one does no I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    exchanges: Vec<Exchange>,
    queues: Vec<Queue>,
    bindings: Vec<Binding>,
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// How it routes.
    pub kind: Kind,
    /// Its arguments by name.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By the whole routing key.
    Direct,
    /// To every queue.
    Fanout,
    /// By a pattern.
    Topic,
}

/// A durable quorum queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Its arguments by name.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// First attempts of one source.
    Work,
    /// Retries that are due.
    Due,
    /// One delay of the ladder.
    Wait(Rung),
    /// Deliveries that were given up.
    Dead,
    /// Events that are no deliveries.
    Rejected,
    /// What found no queue.
    Unroutable,
}

/// A route from an exchange to a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// From here.
    pub exchange: String,
    /// To here.
    pub queue: String,
    /// Messages with this key or pattern.
    pub routing_key: String,
}

/// The value of an argument. The broker tells a number from a text, so the two are kept apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A text.
    Text(String),
    /// A whole number; 64 bits on the wire.
    Number(i64),
}

impl Topology {
    /// What the configuration asks for.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let names = &config.broker.names;
        let mut topology = Self { exchanges: shared_exchanges(config), queues: Vec::new(), bindings: Vec::new() };
        for source in &config.sources {
            topology.add_source(source, config);
        }
        let retention = [("x-message-ttl", Argument::millis(config.dead.retention))];
        topology.queues.push(Queue::browsed(&names.dead, Purpose::Dead, &retention));
        topology.queues.push(Queue::browsed(&names.rejected, Purpose::Rejected, &retention));
        for queue in &topology.queues {
            for exchange in [&names.route, &names.publish] {
                topology.bindings.push(Binding::new(exchange, &queue.name, &queue.name));
            }
        }
        topology.queues.push(Queue::browsed(&names.unroutable, Purpose::Unroutable, &[]));
        topology.bindings.push(Binding::new(&names.unroutable, &names.unroutable, ""));
        topology.exchanges.extend(outcomes_exchange(config));
        topology
    }

    /// What outcomes need alone: their exchange, where they are on.
    #[must_use]
    pub fn of_outcomes(config: &Config) -> Self {
        Self { exchanges: outcomes_exchange(config).into_iter().collect(), queues: Vec::new(), bindings: Vec::new() }
    }

    fn add_source(&mut self, source: &Source, config: &Config) {
        let names = &config.broker.names;
        if !self.exchanges.iter().any(|exchange| exchange.name == source.exchange) {
            self.exchanges.push(Exchange { name: source.exchange.clone(), kind: Kind::Topic, arguments: Vec::new() });
        }
        let limit = [("x-delivery-limit", Argument::Number(WORK_DELIVERY_LIMIT))];
        let due = source.due_queue();
        for (queue, purpose, is_due) in [(&source.queue, Purpose::Work, false), (&due, Purpose::Due, true)] {
            let key = source.rejection_key(is_due);
            self.queues.push(Queue::forwarding(queue, purpose, &names.route, &key, &limit));
            self.bindings.push(Binding::new(&names.route, &names.rejected, &key));
        }
        for rung in config.ladder.rungs() {
            let ttl = [("x-message-ttl", Argument::millis(rung.delay()))];
            self.queues.push(Queue::forwarding(&source.wait_queue(rung), Purpose::Wait(rung), &names.route, &due, &ttl));
        }
        self.bindings.push(Binding::new(&source.exchange, &source.queue, &source.binding));
    }

    /// The exchanges, in the order of declaration.
    pub fn exchanges(&self) -> impl ExactSizeIterator<Item = &Exchange> {
        self.exchanges.iter()
    }

    /// The queues, in the order of declaration.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = &Queue> {
        self.queues.iter()
    }

    /// The bindings, in the order of declaration.
    pub fn bindings(&self) -> impl ExactSizeIterator<Item = &Binding> {
        self.bindings.iter()
    }

    /// The same as a RabbitMQ definitions file, for `rabbitmqctl import_definitions` and `load_definitions`. Without a
    /// virtual host the file is for the import into one that the importer names.
    #[must_use]
    pub fn definitions(&self, vhost: Option<&str>) -> Value {
        let placed = |mut object: Value| {
            if let (Some(vhost), Value::Object(members)) = (vhost, &mut object) {
                members.insert("vhost".to_owned(), vhost.into());
            }
            object
        };
        // The broker makes `amq.*` itself and accepts them from nobody.
        let declared = self.exchanges.iter().filter(|exchange| !exchange.name.starts_with("amq."));
        let exchanges: Vec<Value> = declared.map(|exchange| placed(exchange.definition())).collect();
        let queues: Vec<Value> = self.queues.iter().map(|queue| placed(queue.definition())).collect();
        let bindings: Vec<Value> = self.bindings.iter().map(|binding| placed(binding.definition())).collect();
        json!({ "exchanges": exchanges, "queues": queues, "bindings": bindings })
    }
}

/// The exchanges that all sources share. `publish` has nothing behind it: with an alternate exchange the broker never
/// returns a message, and a retry for a missing queue would be stuck where nobody consumes.
fn shared_exchanges(config: &Config) -> Vec<Exchange> {
    let names = &config.broker.names;
    let alternate = vec![("alternate-exchange", Argument::text(&names.unroutable))];
    vec![
        Exchange { name: names.unroutable.clone(), kind: Kind::Fanout, arguments: Vec::new() },
        Exchange { name: names.route.clone(), kind: Kind::Direct, arguments: alternate },
        Exchange { name: names.publish.clone(), kind: Kind::Direct, arguments: Vec::new() },
    ]
}

/// Whoever wants to know binds a queue of its own to it.
fn outcomes_exchange(config: &Config) -> Option<Exchange> {
    let name = config.outcomes.exchange.clone()?;
    Some(Exchange { name, kind: Kind::Topic, arguments: Vec::new() })
}

impl Queue {
    /// A queue whose messages go on to `key` by way of `route` when they expire, are rejected or came back too often.
    /// At-least-once, and with it reject-publish (without which the broker silently falls back to at-most-once), because
    /// everything else loses messages when the broker restarts.
    fn forwarding(name: &str, purpose: Purpose, route: &str, key: &str, own: &[(&'static str, Argument)]) -> Self {
        let mut arguments = vec![
            ("x-queue-type", Argument::text("quorum")),
            ("x-dead-letter-exchange", Argument::text(route)),
            ("x-dead-letter-routing-key", Argument::text(key)),
            ("x-dead-letter-strategy", Argument::text("at-least-once")),
            ("x-overflow", Argument::text("reject-publish")),
        ];
        arguments.extend_from_slice(own);
        Self { name: name.to_owned(), purpose, arguments }
    }

    /// A queue that keeps its messages until an operator acts.
    fn browsed(name: &str, purpose: Purpose, own: &[(&'static str, Argument)]) -> Self {
        let mut arguments =
            vec![("x-queue-type", Argument::text("quorum")), ("x-delivery-limit", Argument::Number(BROWSED_DELIVERY_LIMIT))];
        arguments.extend_from_slice(own);
        Self { name: name.to_owned(), purpose, arguments }
    }

    fn definition(&self) -> Value {
        json!({ "name": self.name, "durable": true, "auto_delete": false, "arguments": definition(&self.arguments) })
    }
}

impl Exchange {
    fn definition(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind.as_str(), "durable": true, "auto_delete": false, "internal": false,
            "arguments": definition(&self.arguments),
        })
    }
}

impl Binding {
    fn new(exchange: &str, queue: &str, routing_key: &str) -> Self {
        Self { exchange: exchange.to_owned(), queue: queue.to_owned(), routing_key: routing_key.to_owned() }
    }

    fn definition(&self) -> Value {
        json!({
            "source": self.exchange, "destination": self.queue, "destination_type": "queue",
            "routing_key": self.routing_key, "arguments": {},
        })
    }
}

fn definition(arguments: &[(&'static str, Argument)]) -> Value {
    arguments.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value))).collect::<serde_json::Map<_, _>>().into()
}

impl Argument {
    fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    fn millis(duration: Duration) -> Self {
        Self::Number(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
    }
}

impl From<&Argument> for AMQPValue {
    fn from(argument: &Argument) -> Self {
        match argument {
            Argument::Text(text) => Self::LongString(text.as_bytes().into()),
            Argument::Number(number) => Self::LongLongInt(*number),
        }
    }
}

impl From<&Argument> for Value {
    fn from(argument: &Argument) -> Self {
        match argument {
            Argument::Text(text) => text.as_str().into(),
            Argument::Number(number) => (*number).into(),
        }
    }
}

impl Kind {
    /// The name that the broker knows it by.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
        }
    }
}

impl From<Kind> for lapin::ExchangeKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Direct => Self::Direct,
            Kind::Fanout => Self::Fanout,
            Kind::Topic => Self::Topic,
        }
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Admin, Broker, BrokerUrl, Dead, Egress, Log, LogFormat, Names, Worker};
    use crate::domain::ladder::Ladder;
    use crate::domain::names::SourceName;
    use crate::domain::policy::DeliveryPolicy;
    use std::num::NonZeroU16;

    fn source(name: &str, exchange: &str) -> Source {
        Source {
            name: SourceName::try_new(name).unwrap(),
            exchange: exchange.to_owned(),
            queue: format!("callbacks.{name}"),
            binding: "#".to_owned(),
            prefetch: NonZeroU16::new(1000).unwrap(),
        }
    }

    fn config(sources: Vec<Source>) -> Config {
        let named = |name: &str| format!("callbacks.{name}");
        Config {
            broker: Broker {
                url: BrokerUrl::new("amqp://127.0.0.1".to_owned()),
                declare: true,
                names: Names {
                    route: named("route"),
                    publish: named("publish"),
                    dead: named("dead"),
                    rejected: named("rejected"),
                    unroutable: named("unroutable"),
                },
                heartbeat: Duration::from_secs(10),
                timeout: Duration::from_secs(10),
                publish_channels: 16,
            },
            sources,
            ladder: Ladder::try_new(Duration::from_secs(1), Duration::from_secs(6 * 3600)).unwrap().into(),
            worker: Worker {
                max_body: 16 << 20,
                max_bytes_in_flight: 256 << 20,
                unknown_integrator_wait: Duration::from_secs(600),
                stop_timeout: Duration::from_secs(25),
            },
            dead: Dead { retention: Duration::from_secs(14 * 24 * 3600) },
            delivery: DeliveryPolicy::default(),
            egress: Egress::default(),
            delivery_log: crate::config::DeliveryLog::off(),
            outcomes: crate::config::Outcomes::off(),
            traces: crate::config::Traces::off(),
            admin: Admin {
                listen: "127.0.0.1:9464".parse().unwrap(),
                api: false,
                console: false,
                path_prefix: String::new(),
                tokens: Vec::new(),
            },
            integrators_file: "integrators.toml".into(),
            secrets_dir: None,
            log: Log { format: LogFormat::Auto, level: "info".to_owned() },
        }
    }

    fn topology() -> Topology {
        Topology::new(&config(vec![source("compliance", "compliance.events"), source("ident", "ident.events")]))
    }

    fn arguments(topology: &Topology, queue: &str) -> Vec<String> {
        let queue = topology.queues().find(|one| one.name == queue).unwrap();
        let mut arguments: Vec<String> = queue.arguments.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        arguments.sort();
        arguments
    }

    /// The broker accepts an argument that it does not know, so a slip of the pen shows nowhere but here.
    #[test]
    fn every_queue_has_exactly_these_arguments() {
        let topology = topology();
        let forwarding = |key: &str, own: &str| {
            let mut expected = vec![
                r#"x-dead-letter-exchange=Text("callbacks.route")"#.to_owned(),
                format!(r#"x-dead-letter-routing-key=Text("{key}")"#),
                r#"x-dead-letter-strategy=Text("at-least-once")"#.to_owned(),
                r#"x-overflow=Text("reject-publish")"#.to_owned(),
                r#"x-queue-type=Text("quorum")"#.to_owned(),
                own.to_owned(),
            ];
            expected.sort();
            expected
        };
        let ladder = Ladder::try_new(Duration::from_secs(1), Duration::from_secs(6 * 3600)).unwrap();
        for source in ["callbacks.compliance", "callbacks.ident"] {
            let due = format!("{source}.due");
            for queue in [source, &due] {
                let key = format!("{queue}.rejected");
                assert_eq!(arguments(&topology, queue), forwarding(&key, "x-delivery-limit=Number(100)"));
                let binding = Binding::new("callbacks.route", "callbacks.rejected", &key);
                assert_eq!(topology.bindings().filter(|one| **one == binding).count(), 1, "{binding:?}");
            }
            for rung in ladder.rungs() {
                let expected = forwarding(&due, &format!("x-message-ttl=Number({})", rung.delay().as_millis()));
                assert_eq!(arguments(&topology, &format!("{source}.wait.{rung}")), expected);
            }
        }
        let browsed = ["x-delivery-limit=Number(1000000)", r#"x-queue-type=Text("quorum")"#];
        let kept = ["x-delivery-limit=Number(1000000)", "x-message-ttl=Number(1209600000)", r#"x-queue-type=Text("quorum")"#];
        assert_eq!(arguments(&topology, "callbacks.dead"), kept);
        assert_eq!(arguments(&topology, "callbacks.rejected"), kept);
        assert_eq!(arguments(&topology, "callbacks.unroutable"), browsed);
        assert_eq!(topology.queues().len(), 2 * (2 + 59) + 3);
    }

    #[test]
    fn only_what_the_broker_forwards_has_an_exchange_behind_it() {
        let topology = topology();
        let exchange = |name: &str| topology.exchanges().find(|one| one.name == name).unwrap();
        assert_eq!(exchange("callbacks.route").arguments, [("alternate-exchange", Argument::text("callbacks.unroutable"))]);
        assert_eq!(exchange("callbacks.publish").arguments, []);
        assert_eq!(exchange("callbacks.unroutable").kind, Kind::Fanout);
        assert_eq!(exchange("compliance.events").kind, Kind::Topic);
        assert_eq!(topology.exchanges().len(), 5);
    }

    #[test]
    fn every_queue_is_bound_under_its_own_name_to_both_exchanges() {
        let topology = topology();
        for queue in topology.queues().filter(|queue| queue.purpose != Purpose::Unroutable) {
            for exchange in ["callbacks.route", "callbacks.publish"] {
                let binding = Binding::new(exchange, &queue.name, &queue.name);
                assert_eq!(topology.bindings().filter(|one| **one == binding).count(), 1, "{binding:?}");
            }
        }
        let upstream = Binding::new("ident.events", "callbacks.ident", "#");
        assert!(topology.bindings().any(|one| *one == upstream));
        let unroutable: Vec<_> = topology.bindings().filter(|one| one.queue == "callbacks.unroutable").collect();
        assert_eq!(unroutable, [&Binding::new("callbacks.unroutable", "callbacks.unroutable", "")]);
    }

    #[test]
    fn two_sources_may_share_an_exchange() {
        let topology = Topology::new(&config(vec![source("one", "events"), source("two", "events")]));
        assert_eq!(topology.exchanges().filter(|one| one.name == "events").count(), 1);
        assert_eq!(topology.bindings().filter(|one| one.exchange == "events").count(), 2);
    }

    #[test]
    fn definitions_hold_everything_with_and_without_a_virtual_host() {
        let topology = topology();
        let bare = topology.definitions(None);
        assert_eq!(bare["queues"].as_array().unwrap().len(), topology.queues().len());
        assert_eq!(bare["bindings"].as_array().unwrap().len(), topology.bindings().len());
        assert_eq!(bare["exchanges"].as_array().unwrap().len(), topology.exchanges().len());
        assert!(bare["queues"][0].get("vhost").is_none());
        let placed = topology.definitions(Some("/"));
        for kind in ["queues", "bindings", "exchanges"] {
            assert!(placed[kind].as_array().unwrap().iter().all(|one| one["vhost"] == "/"));
        }
        assert_eq!(placed["queues"][0]["arguments"]["x-delivery-limit"], 100);
        assert_eq!(placed["queues"][0]["arguments"]["x-queue-type"], "quorum");
    }
}
