//! What must exist on the broker: exchanges, queues and bindings, as data; and how to declare it, check it and export it.

use std::fmt;
use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ErrorKind};
use serde_json::{Value, json};

use crate::config::{Config, Source};
use crate::domain::ladder::Rung;

/// How often a message may come back to a work or due queue before the broker moves it to the rejected. Positive and
/// explicit: absent means 20 with silent loss on RabbitMQ 4, and -1 means "at once" on 3.10.
const WORK_DELIVERY_LIMIT: i64 = 100;

/// How often an operator may look at a dead, rejected or unroutable message: each look returns it once.
const BROWSED_DELIVERY_LIMIT: i64 = 1_000_000;

/// Channels that declare at one time. New quorum queues cost the broker several milliseconds each, so one after another
/// would make a first start slow; more than this gains nothing on two cores.
const CHANNELS: usize = 8;

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

/// Something on the broker, as errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// An exchange by its name.
    Exchange(String),
    /// A queue by its name.
    Queue(String),
    /// A binding.
    Binding(Binding),
}

/// An object that the broker refused, and its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was declared.
    pub object: Object,
    /// What the broker said.
    pub broker_says: String,
}

/// Why the topology is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// These do not exist: all that are missing.
    #[error("missing on the broker: {}; create them with `callbackd topology apply` or by importing `callbackd topology export`", list(.0))]
    Missing(Vec<Object>),
    /// These exist, but not as declared. Nothing was changed about them.
    #[error("{}", differing(.0))]
    Differs(Vec<Refusal>),
    /// The broker's user may not declare these.
    #[error("{}; give the user the permission, or create the objects yourself (`callbackd topology export`) and set `broker.declare = false`", refused(.0))]
    Denied(Vec<Refusal>),
    /// The broker refused for another reason, or the connection ended.
    #[error("{}", refused(.0))]
    Failed(Vec<Refusal>),
    /// The broker did not answer within the limit.
    #[error("no answer from the broker within {}.{:03} s about {object}", .limit.as_secs(), .limit.subsec_millis())]
    TimedOut {
        /// What was asked for.
        object: Object,
        /// The limit.
        limit: Duration,
    },
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
        topology
    }

    fn add_source(&mut self, source: &Source, config: &Config) {
        let names = &config.broker.names;
        if !self.exchanges.iter().any(|exchange| exchange.name == source.exchange) {
            self.exchanges.push(Exchange { name: source.exchange.clone(), kind: Kind::Topic, arguments: Vec::new() });
        }
        let limit = [("x-delivery-limit", Argument::Number(WORK_DELIVERY_LIMIT))];
        let due = source.due_queue();
        self.queues.push(Queue::forwarding(&source.queue, Purpose::Work, &names.route, &names.rejected, &limit));
        self.queues.push(Queue::forwarding(&due, Purpose::Due, &names.route, &names.rejected, &limit));
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

    /// Declares everything, or finds it already there and the same; returns how many objects that is. `limit` is for
    /// each single operation.
    ///
    /// # Errors
    /// [`TopologyError::Differs`] and [`TopologyError::Denied`] name every object of the first kind (exchanges, then
    /// queues, then bindings) that has one; the others of that kind have been declared. Nothing is ever deleted or changed.
    pub async fn declare(&self, connection: &Connection, limit: Duration) -> Result<usize, TopologyError> {
        let exchanges: Vec<Step<'_>> = self.exchanges.iter().map(Step::DeclareExchange).collect();
        let queues: Vec<Step<'_>> = self.queues.iter().map(Step::DeclareQueue).collect();
        let bindings: Vec<Step<'_>> = self.bindings.iter().map(Step::Bind).collect();
        for steps in [&exchanges, &queues, &bindings] {
            verdict(take_all(connection, steps, limit).await?)?;
        }
        Ok(exchanges.len() + queues.len() + bindings.len())
    }

    /// Checks that every exchange and queue exists and returns how many there are. Their arguments and the bindings cannot
    /// be seen through AMQP. Needs no permission.
    ///
    /// # Errors
    /// [`TopologyError::Missing`] lists everything that is missing.
    pub async fn check(&self, connection: &Connection, limit: Duration) -> Result<usize, TopologyError> {
        let exchanges = self.exchanges.iter().map(Step::FindExchange);
        let steps: Vec<Step<'_>> = exchanges.chain(self.queues.iter().map(Step::FindQueue)).collect();
        verdict(take_all(connection, &steps, limit).await?)?;
        Ok(steps.len())
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

/// One request to the broker.
#[derive(Clone, Copy)]
enum Step<'a> {
    DeclareExchange(&'a Exchange),
    DeclareQueue(&'a Queue),
    Bind(&'a Binding),
    FindExchange(&'a Exchange),
    FindQueue(&'a Queue),
}

/// What the broker refused, and why.
struct Refused {
    refusal: Refusal,
    kind: RefusalKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RefusalKind {
    Missing,
    Differs,
    Denied,
    Other,
}

/// Takes the steps on several channels at once; the order between them does not matter.
async fn take_all(connection: &Connection, steps: &[Step<'_>], limit: Duration) -> Result<Vec<Refused>, TopologyError> {
    let channels = CHANNELS.min(steps.len());
    let lanes = (0..channels).map(|first| take_in_turn(connection, steps.iter().skip(first).step_by(channels), limit));
    Ok(try_join_all(lanes).await?.into_iter().flatten().collect())
}

/// Takes steps one after another on a channel of its own. A refusal closes the channel, so that the next step gets a new one.
async fn take_in_turn<'a>(
    connection: &Connection,
    steps: impl Iterator<Item = &'a Step<'a>>,
    limit: Duration,
) -> Result<Vec<Refused>, TopologyError> {
    let mut refused = Vec::new();
    let mut open: Option<Channel> = None;
    for step in steps {
        let one = async {
            let channel = match open.take() {
                Some(channel) => channel,
                None => connection.create_channel().await?,
            };
            step.take(&channel).await.map(|()| channel)
        };
        match tokio::time::timeout(limit, one).await {
            Err(_) => return Err(TopologyError::TimedOut { object: step.object(), limit }),
            Ok(Ok(channel)) => open = Some(channel),
            Ok(Err(error)) => {
                let refusal = Refusal { object: step.object(), broker_says: broker_words(&error) };
                if !error.is_amqp_soft_error() {
                    return Err(TopologyError::Failed(vec![refusal]));
                }
                refused.push(Refused { refusal, kind: RefusalKind::of(&error) });
            }
        }
    }
    if let Some(channel) = open {
        // The work is done; a channel that does not close in time goes with its connection.
        let _ = tokio::time::timeout(limit, channel.close(200, ShortString::from("done"))).await;
    }
    Ok(refused)
}

impl Step<'_> {
    async fn take(self, channel: &Channel) -> lapin::Result<()> {
        match self {
            Self::DeclareExchange(exchange) => {
                let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
                channel.exchange_declare(short(&exchange.name)?, exchange.kind.into(), options, table(&exchange.arguments)?).await
            }
            Self::DeclareQueue(queue) => {
                let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(short(&queue.name)?, options, table(&queue.arguments)?).await.map(drop)
            }
            Self::Bind(binding) => {
                let (queue, exchange, key) = (short(&binding.queue)?, short(&binding.exchange)?, short(&binding.routing_key)?);
                channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await
            }
            Self::FindExchange(exchange) => {
                let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                channel.exchange_declare(short(&exchange.name)?, exchange.kind.into(), options, FieldTable::default()).await
            }
            Self::FindQueue(queue) => {
                let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(short(&queue.name)?, options, FieldTable::default()).await.map(drop)
            }
        }
    }

    fn object(self) -> Object {
        match self {
            Self::DeclareExchange(exchange) | Self::FindExchange(exchange) => Object::Exchange(exchange.name.clone()),
            Self::DeclareQueue(queue) | Self::FindQueue(queue) => Object::Queue(queue.name.clone()),
            Self::Bind(binding) => Object::Binding(binding.clone()),
        }
    }
}

/// The worst kind of refusal decides what the error is; the others come to light when it is repaired.
fn verdict(refused: Vec<Refused>) -> Result<(), TopologyError> {
    let all = |kind| -> Vec<Refusal> { refused.iter().filter(|one| one.kind == kind).map(|one| one.refusal.clone()).collect() };
    let (failed, denied, differs, missing) =
        (all(RefusalKind::Other), all(RefusalKind::Denied), all(RefusalKind::Differs), all(RefusalKind::Missing));
    if !failed.is_empty() {
        Err(TopologyError::Failed(failed))
    } else if !denied.is_empty() {
        Err(TopologyError::Denied(denied))
    } else if !differs.is_empty() {
        Err(TopologyError::Differs(differs))
    } else if !missing.is_empty() {
        Err(TopologyError::Missing(missing.into_iter().map(|refusal| refusal.object).collect()))
    } else {
        Ok(())
    }
}

impl RefusalKind {
    fn of(error: &lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(error) => match error.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Self::Missing,
                AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => Self::Differs,
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::Denied,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

fn broker_words(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        _ => error.to_string(),
    }
}

/// A text that AMQP carries in at most 255 bytes. The library's own conversion panics on a longer one.
fn short(text: &str) -> lapin::Result<ShortString> {
    ShortString::try_new(text).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error.to_string()).into())
}

fn table(arguments: &[(&'static str, Argument)]) -> lapin::Result<FieldTable> {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(short(name)?, value.into());
    }
    Ok(table)
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

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(name) => write!(f, "exchange {name}"),
            Self::Queue(name) => write!(f, "queue {name}"),
            Self::Binding(binding) => write!(f, "binding of {} to {}", binding.queue, binding.exchange),
        }
    }
}

fn list(objects: &[Object]) -> String {
    objects.iter().map(Object::to_string).collect::<Vec<_>>().join(", ")
}

fn differing(refusals: &[Refusal]) -> String {
    let line = |one: &Refusal| {
        format!(
            "{} exists with other arguments (broker says: {}); delete it when empty or change the configuration",
            one.object, one.broker_says
        )
    };
    refusals.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn refused(refusals: &[Refusal]) -> String {
    refusals.iter().map(|one| format!("{} could not be declared or found: {}", one.object, one.broker_says)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Admin, Broker, BrokerUrl, Dead, DeliveryDefaults, Egress, Log, LogFormat, Names, PrivateNetworks, Worker};
    use crate::domain::ladder::Ladder;
    use crate::domain::names::SourceName;
    use crate::domain::retry::RetryPolicy;
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
            worker: Worker { max_body: 16 << 20, unknown_integrator_wait: Duration::from_secs(600), stop_timeout: Duration::from_secs(25) },
            dead: Dead { retention: Duration::from_secs(14 * 24 * 3600) },
            delivery: DeliveryDefaults {
                timeout: Duration::from_secs(15),
                max_in_flight: NonZeroU16::new(16).unwrap(),
                retry: RetryPolicy::default(),
            },
            egress: Egress { allow_http: false, private: PrivateNetworks::Denied },
            admin: Admin { listen: "127.0.0.1:9464".parse().unwrap() },
            integrators_file: "integrators.toml".into(),
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
            assert_eq!(arguments(&topology, source), forwarding("callbacks.rejected", "x-delivery-limit=Number(100)"));
            assert_eq!(arguments(&topology, &due), forwarding("callbacks.rejected", "x-delivery-limit=Number(100)"));
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

    #[test]
    fn errors_name_the_object_and_the_remedy() {
        let queue = |name: &str| Object::Queue(name.to_owned());
        let missing = TopologyError::Missing(vec![queue("a"), Object::Exchange("b".to_owned())]).to_string();
        assert!(missing.starts_with("missing on the broker: queue a, exchange b; create them with"), "{missing}");
        let refusal = Refusal { object: queue("callbacks.dead"), broker_says: "inequivalent arg".to_owned() };
        let differs = TopologyError::Differs(vec![refusal]).to_string();
        assert_eq!(
            differs,
            "queue callbacks.dead exists with other arguments (broker says: inequivalent arg); delete it when empty or change the configuration"
        );
    }
}
