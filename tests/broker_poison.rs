//! A message that the client library cannot read: it ends among the rejected, and costs its neighbours nothing.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use callbackd::broker::{Inbound, Proof};
use lapin::BasicProperties;
use support::{Amqp, Vhost, WORK, config, eventually, publish_poison, subscribe};
use tokio::sync::mpsc;

/// A poison is returned 100 times before the broker moves it.
const PATIENCE: Duration = Duration::from_secs(90);

async fn next(messages: &mut mpsc::Receiver<Inbound>) -> Inbound {
    tokio::time::timeout(PATIENCE, messages.recv()).await.expect("a message in time").expect("a living subscription")
}

async fn good(amqp: &Amqp, numbers: std::ops::Range<u32>) {
    for n in numbers {
        amqp.publish("compliance.events", "t", BasicProperties::default(), n.to_string().as_bytes()).await;
    }
}

/// Settles what comes until each of these numbers was settled by a living claim.
async fn settle_all(messages: &mut mpsc::Receiver<Inbound>, count: u32) {
    let mut settled = BTreeSet::new();
    while settled.len() < count as usize {
        let message = next(messages).await;
        if message.claim.is_live() {
            settled.insert(message.body.clone());
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
    let (subscription, mut messages) = subscribe(&config, 100);
    settle_all(&mut messages, 100).await;
    amqp.wait_ready("callbacks.rejected", 2, PATIENCE).await;
    println!("two poisons took {:?}", started.elapsed());
    assert_eq!(amqp.ready("callbacks.rejected").await, 2, "a neighbour was rejected too");
    eventually("the prefetch is full again", PATIENCE, async || prefetch(&vhost).await == Some(100)).await;
    good(&amqp, 0..10).await;
    let mut held = Vec::new();
    while held.len() < 10 {
        let message = next(&mut messages).await;
        if message.claim.is_live() {
            held.push(message);
        }
    }
    for message in held {
        message.claim.settle(Proof::Skipped);
    }
    subscription.close().await;
    assert_eq!(amqp.ready(WORK).await, 0);
    assert_eq!(amqp.ready("callbacks.rejected").await, 2);
}
