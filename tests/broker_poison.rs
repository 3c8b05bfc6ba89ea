//! A message that the client library cannot read: it ends among the rejected, and costs its neighbours nothing.

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use callbackd::broker::{Inbound, Proof};
use lapin::BasicProperties;
use support::{Amqp, Vhost, WORK, config, eventually, publish_poison, subscribe};
use tokio::sync::mpsc;

/// A poison is returned 100 times before the broker moves it.
const PATIENCE: Duration = Duration::from_secs(90);

async fn good(amqp: &Amqp, numbers: std::ops::Range<u32>) {
    for n in numbers {
        amqp.publish("compliance.events", "t", BasicProperties::default(), n.to_string().as_bytes()).await;
    }
}

/// Settles all that comes, as a worker does, and notes it. What was settled may come again: its acknowledgement can be lost
/// with the connection that the poison breaks.
async fn settle_all(mut messages: mpsc::Receiver<Inbound>, settled: Arc<Mutex<BTreeSet<Vec<u8>>>>) {
    while let Some(message) = messages.recv().await {
        if message.claim.is_live() {
            settled.lock().expect("not poisoned").insert(message.body.to_vec());
            message.claim.settle(Proof::Skipped);
        }
    }
}

/// The prefetch of the one consumer.
async fn prefetch(vhost: &Vhost) -> Option<u64> {
    let consumers = vhost.broker().api(reqwest::Method::GET, &format!("/api/consumers/{}", vhost.name()), None).await.ok()?;
    match consumers.as_array()?.as_slice() {
        [consumer] => consumer["prefetch_count"].as_u64(),
        _ => None,
    }
}

#[tokio::test]
async fn a_poison_frame_reaches_rejected_and_its_neighbours_are_delivered() {
    let vhost = Vhost::create().await;
    let config = config(&vhost.url());
    let amqp = vhost.connect().await;
    let publisher = support::publisher(&config);
    eventually("the topology is there", PATIENCE, async || *publisher.connected().borrow()).await;
    good(&amqp, 0..40).await;
    publish_poison(&vhost.url(), WORK).await;
    good(&amqp, 40..60).await;
    publish_poison(&vhost.url(), WORK).await;
    good(&amqp, 60..100).await;
    let started = Instant::now();
    let (subscription, messages) = subscribe(&config, 100);
    let settled = Arc::default();
    tokio::spawn(settle_all(messages, Arc::clone(&settled)));
    let count = async || settled.lock().expect("not poisoned").len();
    eventually("all neighbours are delivered", PATIENCE, async || count().await == 100).await;
    amqp.wait_ready("callbacks.rejected", 2, PATIENCE).await;
    println!("two poisons took {:?}", started.elapsed());
    eventually("the prefetch is full again", PATIENCE, async || prefetch(&vhost).await == Some(100)).await;
    good(&amqp, 100..150).await;
    eventually("what follows is delivered", PATIENCE, async || count().await == 150).await;
    subscription.close().await;
    assert_eq!(amqp.ready(WORK).await, 0);
    assert_eq!(amqp.ready("callbacks.rejected").await, 2, "a neighbour was rejected too");
}
