//! The topology on a real broker: declared, checked, refused, exported.

mod support;

use std::time::Instant;

use callbackd::broker::topology::Object;
use callbackd::broker::{OwnedConnection, Topology, TopologyError, connect, headers};
use callbackd::cli::CliError;
use callbackd::cli::topology::TopologyCommand;
use callbackd::config::Config;
use lapin::options::QueueDeleteOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use reqwest::Method;
use support::{Vhost, config_for, config_with, parsed};

async fn connection(config: &Config) -> OwnedConnection {
    connect(&config.broker, "test").await.expect("a connection")
}

#[tokio::test]
async fn declaring_twice_is_fine_and_fast() {
    let vhost = Vhost::create().await;
    let config = config_with(&vhost, "");
    let (topology, connection) = (Topology::new(&config), connection(&config).await);
    for round in ["new", "there already"] {
        let start = Instant::now();
        let declared = topology.declare(&connection, config.broker.timeout).await.expect("declared");
        println!("{declared} objects, {round}: {:?}", start.elapsed());
        assert_eq!(declared, topology.exchanges().len() + topology.queues().len() + topology.bindings().len());
    }
    let start = Instant::now();
    let checked = topology.check(&connection, config.broker.timeout).await.expect("all there");
    println!("{checked} objects checked: {:?}", start.elapsed());
    assert_eq!(checked, topology.exchanges().len() + topology.queues().len());
}

#[tokio::test]
async fn the_broker_keeps_every_argument() {
    let vhost = Vhost::create().await;
    let config = config_for(&vhost);
    let topology = Topology::new(&config);
    topology.declare(&*connection(&config).await, config.broker.timeout).await.expect("declared");
    let definitions = topology.definitions(None);
    let listed = vhost.queues().await;
    assert_eq!(listed.len(), topology.queues().len());
    for queue in definitions["queues"].as_array().expect("queues") {
        let found = listed.iter().find(|one| one["name"] == queue["name"]).expect("listed");
        assert_eq!(found["arguments"], queue["arguments"], "{}", queue["name"]);
        assert_eq!((&found["durable"], &found["type"]), (&true.into(), &"quorum".into()));
    }
}

#[tokio::test]
async fn a_queue_that_differs_is_named_and_left_alone() {
    let vhost = Vhost::create().await;
    let config = config_for(&vhost);
    let amqp = vhost.connect().await;
    let mut other = FieldTable::default();
    other.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    amqp.declare_queue("callbacks.dead", other.clone()).await;
    other.insert("x-message-ttl".into(), AMQPValue::LongInt(5));
    amqp.declare_queue("callbacks.ident.wait.2s", other).await;
    let connection = connection(&config).await;
    let error = Topology::new(&config).declare(&connection, config.broker.timeout).await.expect_err("two differ");
    let TopologyError::Differs(refusals) = &error else { panic!("{error:?}") };
    let mut named: Vec<String> = refusals.iter().map(|one| one.object.to_string()).collect();
    named.sort();
    assert_eq!(named, ["queue callbacks.dead", "queue callbacks.ident.wait.2s"]);
    let text = error.to_string();
    assert!(
        text.contains("queue callbacks.dead (broker says: PRECONDITION_FAILED - inequivalent arg")
            && text.starts_with("2 objects exist on the broker with other arguments"),
        "{text}"
    );
    assert!(connection.status().connected());
    assert!(vhost.queue_names().await.contains(&"callbacks.ident.wait.4s".to_owned()), "the others are declared");
}

#[tokio::test]
async fn an_exchange_of_another_type_is_named() {
    let vhost = Vhost::create().await;
    let config = config_for(&vhost);
    vhost.connect().await.declare_exchange("ident.events", ExchangeKind::Fanout).await;
    let error = Topology::new(&config).declare(&*connection(&config).await, config.broker.timeout).await.expect_err("differs");
    assert!(matches!(&error, TopologyError::Differs(all) if all[0].object == Object::Exchange("ident.events".to_owned())), "{error:?}");
}

#[tokio::test]
async fn a_check_lists_all_that_is_missing_and_makes_nothing() {
    let vhost = Vhost::create().await;
    let config = config_for(&vhost);
    let (topology, connection) = (Topology::new(&config), connection(&config).await);
    let error = topology.check(&connection, config.broker.timeout).await.expect_err("nothing is there");
    let TopologyError::Missing { objects: missing, of } = error else { panic!("{error:?}") };
    assert_eq!((missing.len(), of), (topology.exchanges().len() + topology.queues().len(), missing.len()));
    assert!(vhost.queue_names().await.is_empty());

    topology.declare(&connection, config.broker.timeout).await.expect("declared");
    let channel = connection.create_channel().await.expect("a channel");
    for queue in ["callbacks.dead", "callbacks.compliance.wait.1s"] {
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
    }
    let error = topology.check(&connection, config.broker.timeout).await.expect_err("two are gone");
    let TopologyError::Missing { objects: mut missing, .. } = error else { panic!("{error:?}") };
    missing.sort_by_key(Object::to_string);
    assert_eq!(missing, ["callbacks.compliance.wait.1s", "callbacks.dead"].map(|name| Object::Queue(name.to_owned())));
}

#[tokio::test]
async fn an_expired_wait_and_a_rejected_message_arrive_where_the_topology_says() {
    let vhost = Vhost::create().await;
    let config = config_for(&vhost);
    Topology::new(&config).declare(&*connection(&config).await, config.broker.timeout).await.expect("declared");
    let amqp = vhost.connect().await;
    amqp.publish("callbacks.publish", "callbacks.ident.wait.1s", BasicProperties::default(), b"waited").await;
    amqp.publish("ident.events", "any", BasicProperties::default(), b"new").await;
    amqp.publish("callbacks.route", "nowhere", BasicProperties::default(), b"lost").await;
    let soon = std::time::Duration::from_secs(15);
    assert_eq!(amqp.drain_when("callbacks.ident.due", 1, soon).await[0].body, b"waited");
    assert_eq!(amqp.drain_when("callbacks.ident", 1, soon).await[0].body, b"new");
    assert_eq!(amqp.drain_when("callbacks.unroutable", 1, soon).await[0].body, b"lost");
}

/// The sizes are computed, and the broker is who counts.
#[tokio::test]
async fn the_largest_copy_goes_through_the_broker_and_a_wait_queue() {
    let vhost = Vhost::create().await;
    let config = config_for(&vhost);
    Topology::new(&config).declare(&*connection(&config).await, config.broker.timeout).await.expect("declared");
    let filled = |fill: usize| {
        let mut fields = FieldTable::default();
        fields.insert("filler".into(), AMQPValue::LongString("x".repeat(fill).into()));
        BasicProperties::default().with_delivery_mode(2).with_headers(fields)
    };
    let largest = filled(headers::LARGEST_COPY - headers::encoded_size(&filled(0)));
    assert_eq!(headers::encoded_size(&largest), headers::LARGEST_COPY);
    let amqp = vhost.connect().await;
    amqp.publish("callbacks.publish", "callbacks.ident.wait.1s", largest, b"{}").await;
    let arrived = amqp.drain_when("callbacks.ident.due", 1, std::time::Duration::from_secs(15)).await;
    let size = headers::encoded_size(&arrived[0].properties);
    assert!(size > headers::LARGEST_COPY, "the broker has added its account of the wait");
    assert!(size < headers::LARGEST_COPY + 4096);
}

#[tokio::test]
async fn definitions_are_imported_and_are_then_what_would_have_been_declared() {
    let vhost = Vhost::create().await;
    let config = config_for(&vhost);
    let exported = run(&config, &["export"]).await.expect("exported");
    let definitions: serde_json::Value = serde_json::from_str(&exported).expect("JSON");
    let path = format!("/api/definitions/{}", vhost.name());
    vhost.broker().api(Method::POST, &path, Some(definitions)).await.expect("imported");
    assert!(run(&config, &["apply"]).await.expect("nothing differs").ends_with("objects are in place\n"));
}

#[tokio::test]
async fn show_tells_numbers_and_what_is_missing() {
    let vhost = Vhost::create().await;
    let config = config_for(&vhost);
    let before = run(&config, &["show"]).await;
    assert!(matches!(before, Err(CliError::Failed(text)) if text.contains("queue callbacks.dead")));
    run(&config, &["apply"]).await.expect("applied");
    vhost.connect().await.publish("callbacks.publish", "callbacks.dead", BasicProperties::default(), b"{}").await;
    let shown = run(&config, &["show"]).await.expect("all there");
    let dead = shown.lines().find(|line| line.starts_with("queue     callbacks.dead ")).expect("a line for the dead");
    assert!(dead.contains("1 msg") && dead.contains("0 con") && dead.contains("x-delivery-limit=1000000"), "{dead}");
    assert!(shown.lines().any(|line| line.starts_with("exchange  callbacks.publish")));
}

async fn run(config: &Config, arguments: &[&str]) -> Result<String, CliError> {
    let mut out = Vec::new();
    parsed::<TopologyCommand>(arguments).run_to(config, &mut out).await?;
    Ok(String::from_utf8(out).expect("text"))
}
