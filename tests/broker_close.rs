//! A graceful end loses no acknowledgement: what was settled does not come again.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use callbackd::broker::{Outgoing, Proof, connect};
use futures_util::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use support::{Buried, DEAD, Stage, Vhost, WORK, config, publisher, subscribe};

const SOON: Duration = Duration::from_secs(60);
const RUNS: usize = 20;
const MESSAGES: usize = 3000;

/// The client library keeps a connection for as long as one of its channels lives, wherever that is.
#[tokio::test]
async fn what_a_dropped_connection_held_is_back_though_a_channel_of_it_lives() {
    let stage = Stage::set().await;
    stage.bury(&Buried::new(1)).await;
    let connection = connect(&stage.config.broker, "test").await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    channel.basic_qos(1, BasicQosOptions::default()).await.expect("a window");
    let consume = channel.basic_consume(DEAD.into(), "held".into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = consume.await.expect("a consumer");
    consumer.next().await.expect("a message").expect("a message");
    assert_eq!(stage.amqp.ready(DEAD).await, 0);
    drop(connection);
    stage.amqp.wait_ready(DEAD, 1, SOON).await;
    drop((consumer, channel));
}

/// As a worker stops: who takes messages is gone in the same moment in which the subscription is told to cancel.
#[tokio::test]
async fn a_cancel_with_nobody_left_to_take_messages_keeps_the_claims_that_are_out() {
    const BACKLOG: usize = 500;
    const HELD: usize = 20;
    let vhost = Vhost::create().await;
    let config = config(&vhost.url());
    let (publisher, amqp) = (publisher(&config), vhost.connect().await);
    for n in 0..BACKLOG {
        let copy = Outgoing { queue: WORK.to_owned(), properties: BasicProperties::default(), body: Bytes::from(n.to_string()) };
        let _ = publisher.publish(&copy).await.expect("published");
    }
    let mut settled = BTreeSet::new();
    for round in 0..RUNS {
        let (subscription, mut messages) = subscribe(&config, 50);
        let mut held = Vec::new();
        for _ in 0..HELD {
            held.push(tokio::time::timeout(SOON, messages.recv()).await.expect("in time").expect("a message"));
        }
        drop(messages);
        subscription.cancel().await;
        for message in held {
            assert!(message.claim.is_live(), "round {round}: the session has ended");
            assert!(settled.insert(message.body.clone()), "round {round}: {:?} came again", message.body);
            message.claim.settle(Proof::Skipped);
        }
        subscription.close().await;
    }
    let left = BACKLOG - RUNS * HELD;
    let rest: BTreeSet<Bytes> = amqp.drain_when(WORK, left, SOON).await.into_iter().map(|message| message.body.into()).collect();
    assert_eq!((rest.len(), rest.intersection(&settled).count()), (left, 0));
    assert_eq!(amqp.ready(WORK).await, 0);
}

#[tokio::test]
async fn acks_reach_the_broker_before_the_connection_closes() {
    let vhost = Vhost::create().await;
    let config = config(&vhost.url());
    let (publisher, amqp) = (publisher(&config), vhost.connect().await);
    let mut leftovers = Vec::new();
    for _ in 0..RUNS {
        futures_util::stream::iter(0..MESSAGES)
            .for_each_concurrent(32, |n| {
                let copy = Outgoing { queue: WORK.to_owned(), properties: BasicProperties::default(), body: Bytes::from(n.to_string()) };
                let publisher = publisher.clone();
                async move {
                    let _ = publisher.publish(&copy).await.expect("published");
                }
            })
            .await;
        let (subscription, mut messages) = subscribe(&config, 1000);
        // Settled out of order, as answers of endpoints come: every burst is then full of single acknowledgements.
        let mut held = Vec::new();
        for _ in 0..MESSAGES {
            held.push(tokio::time::timeout(SOON, messages.recv()).await.expect("in time").expect("a message"));
            if held.len() == 500 {
                fastrand::shuffle(&mut held);
                for message in held.drain(..) {
                    message.claim.settle(Proof::Skipped);
                }
            }
        }
        for message in held.drain(..) {
            message.claim.settle(Proof::Skipped);
        }
        subscription.close().await;
        leftovers.push(amqp.ready(WORK).await);
        amqp.drain(WORK).await;
    }
    println!("leftovers {leftovers:?}");
    assert_eq!(leftovers, vec![0; RUNS]);
}
