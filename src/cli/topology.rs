//! `callbackd topology`: what is, what should be, and the same as a file for RabbitMQ.

use std::io::Write;

use lapin::Connection;
use lapin::options::QueueDeclareOptions;
use lapin::types::{FieldTable, ShortString};

use super::CliError;
use super::terminal::{Out, line};
use crate::broker::topology::{Exchange, Object, Queue, Users};
use crate::broker::{OwnedConnection, Topology, TopologyError, connect};
use crate::config::Config;

/// Shows, makes or exports the exchanges, queues and bindings on the broker.
#[derive(Debug, clap::Args)]
pub struct TopologyCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Exchanges and queues, with the numbers of messages and consumers where the broker can be reached.
    Show,
    /// Declares everything that is not there yet. Changes and deletes nothing.
    Apply,
    /// Prints a definitions file for `rabbitmqctl import_definitions`. Needs no broker.
    Export {
        /// The virtual host that the objects are for; without it the file is imported into one that the importer names.
        #[arg(long)]
        vhost: Option<String>,
    },
    /// Prints the least permissions of each user for `broker.declare = false`, also for `rabbitmqctl import_definitions`. Needs no
    /// broker; the users must be there before the import.
    Permissions {
        /// The virtual host that the permissions are for.
        #[arg(long, default_value = "/")]
        vhost: String,
        /// The user of `callbackd run`.
        #[arg(long, default_value = "callbackd", value_name = "USER")]
        worker: String,
        /// The user of `callbackd dead`.
        #[arg(long, default_value = "callbackd-operator", value_name = "USER")]
        operator: String,
        /// The user who publishes events.
        #[arg(long, default_value = "platform", value_name = "USER")]
        publisher: String,
    },
}

impl TopologyCommand {
    /// Does what is asked for.
    ///
    /// # Errors
    /// [`CliError::Failed`] when the broker cannot be reached (apply), refuses an object (apply), or an object is missing (show).
    pub async fn run(self, config: &Config) -> Result<(), CliError> {
        self.run_to(config, &mut std::io::stdout()).await
    }

    /// The same with the results written elsewhere than to standard output.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_to(self, config: &Config, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let topology = Topology::new(config);
        match self.action {
            Action::Show => show(config, &topology, out).await,
            Action::Apply => apply(config, &topology, out).await,
            Action::Export { vhost } => {
                let definitions = topology.definitions(vhost.as_deref());
                line(out, &format!("{definitions:#}"))
            }
            Action::Permissions { vhost, worker, operator, publisher } => {
                let users = Users { worker: &worker, operator: &operator, publisher: &publisher };
                line(out, &format!("{:#}", topology.permissions(config, &vhost, &users)))
            }
        }
    }
}

async fn apply(config: &Config, topology: &Topology, out: Out<'_>) -> Result<(), CliError> {
    let connection = connect(&config.broker, "topology").await?;
    let objects = topology.declare(&connection, config.broker.timeout).await.map_err(|error| CliError::Failed(error.to_string()))?;
    close(connection, config).await;
    line(out, &format!("{objects} objects are in place"))
}

/// Without a broker the plan is shown all the same, and the reason why there are no numbers.
async fn show(config: &Config, topology: &Topology, out: Out<'_>) -> Result<(), CliError> {
    let connection = match connect(&config.broker, "topology").await {
        Ok(connection) => Some(connection),
        Err(error) => {
            eprintln!("no numbers from {}: {error}", config.broker.url);
            None
        }
    };
    let missing = match &connection {
        Some(connection) => missing(topology, connection, config).await?,
        None => Vec::new(),
    };
    for exchange in topology.exchanges() {
        let is_missing = missing.contains(&Object::Exchange(exchange.name.clone()));
        line(out, &exchange_line(exchange, connection.is_some(), is_missing))?;
    }
    for queue in topology.queues() {
        let found = match &connection {
            Some(_) if missing.contains(&Object::Queue(queue.name.clone())) => Found::Missing,
            Some(connection) => count(connection, queue, config).await?,
            None => Found::Unknown,
        };
        line(out, &queue_line(queue, found))?;
    }
    if let Some(connection) = connection {
        close(connection, config).await;
    }
    let of = topology.exchanges().len() + topology.queues().len();
    if missing.is_empty() { Ok(()) } else { Err(CliError::Failed(TopologyError::Missing { objects: missing, of }.to_string())) }
}

/// Nothing is under way any more: a broker that does not answer costs the limit, and nothing else.
async fn close(connection: OwnedConnection, config: &Config) {
    let _ = tokio::time::timeout(config.broker.timeout, connection.close(200, "done".into())).await;
}

async fn missing(topology: &Topology, connection: &Connection, config: &Config) -> Result<Vec<Object>, CliError> {
    match topology.check(connection, config.broker.timeout).await {
        Ok(_) => Ok(Vec::new()),
        Err(TopologyError::Missing { objects, .. }) => Ok(objects),
        Err(error) => Err(CliError::Failed(error.to_string())),
    }
}

#[derive(Clone, Copy)]
enum Found {
    Unknown,
    Missing,
    There { messages: u32, consumers: u32 },
}

/// A channel for each queue: one that is deleted meanwhile closes it.
async fn count(connection: &Connection, queue: &Queue, config: &Config) -> Result<Found, CliError> {
    let name = ShortString::try_new(queue.name.as_str()).map_err(|error| CliError::Usage(error.to_string()))?;
    let look = async {
        let channel = connection.create_channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name, options, FieldTable::default()).await
    };
    match tokio::time::timeout(config.broker.timeout, look).await {
        Ok(Ok(queue)) => Ok(Found::There { messages: queue.message_count(), consumers: queue.consumer_count() }),
        Ok(Err(error)) if error.is_amqp_soft_error() => Ok(Found::Missing),
        Ok(Err(error)) => Err(CliError::Failed(format!("queue {}: {error}", queue.name))),
        Err(_) => Err(CliError::Failed(format!("queue {}: no answer within {:?}", queue.name, config.broker.timeout))),
    }
}

fn exchange_line(exchange: &Exchange, asked: bool, missing: bool) -> String {
    let state = match (asked, missing) {
        (false, _) => "",
        (true, true) => "MISSING",
        (true, false) => "there",
    };
    let arguments = arguments(&exchange.arguments);
    format!("exchange  {:<40}  {:>9}  {:>9}  {} {arguments}", exchange.name, state, "", exchange.kind.as_str()).trim_end().to_owned()
}

fn queue_line(queue: &Queue, found: Found) -> String {
    let (messages, consumers) = match found {
        Found::Unknown => (String::new(), String::new()),
        Found::Missing => ("MISSING".to_owned(), String::new()),
        Found::There { messages, consumers } => (format!("{messages} msg"), format!("{consumers} con")),
    };
    format!("queue     {:<40}  {messages:>9}  {consumers:>9}  {}", queue.name, arguments(&queue.arguments))
}

fn arguments(arguments: &[(&'static str, crate::broker::topology::Argument)]) -> String {
    arguments.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
