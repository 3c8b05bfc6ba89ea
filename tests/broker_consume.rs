//! Reading a queue and settling, against a real broker: nothing is settled that must not be, nothing is lost, and what
//! breaks is made again.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use callbackd::broker::{HANDED_OVER, Inbound, Proof, Subscription};
use lapin::BasicProperties;
use reqwest::Method;
use serde_json::Value;
use support::{Amqp, OwnLog, TcpProxy, Vhost, WORK, config, eventually, publisher, subscribe};
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(30);

async fn live(subscription: &Subscription) {
    let mut live = subscription.live();
    tokio::time::timeout(SOON, live.wait_for(|live| *live)).await.expect("live in time").expect("a living subscription");
}

async fn next(messages: &mut mpsc::Receiver<Inbound>) -> Inbound {
    tokio::time::timeout(SOON, messages.recv()).await.expect("a message in time").expect("a living subscription")
}

/// The next message of a session that is not over, as a worker takes them.
async fn next_live(messages: &mut mpsc::Receiver<Inbound>) -> Inbound {
    loop {
        let message = next(messages).await;
        if message.claim.is_live() {
            return message;
        }
    }
}

async fn fill(amqp: &Amqp, count: usize) {
    let publishes = (0..count)
        .map(|n| async move { amqp.publish("compliance.events", "t", BasicProperties::default(), n.to_string().as_bytes()).await });
    // One after the other: the test's connection has a single channel.
    for publish in publishes {
        publish.await;
    }
}

fn number(message: &Inbound) -> usize {
    std::str::from_utf8(&message.body).expect("text").parse().expect("a number")
}

#[tokio::test]
async fn a_settled_message_is_gone_and_tells_where_it_came_from() {
    let vhost = Vhost::create().await;
    let (subscription, mut messages) = subscribe(&config(&vhost.url()), 10);
    live(&subscription).await;
    let amqp = vhost.connect().await;
    let properties = BasicProperties::default().with_message_id("evt-1".into());
    amqp.publish("compliance.events", "complianceRecord", properties, b"{}").await;
    let message = next(&mut messages).await;
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("compliance.events", "complianceRecord"));
    assert_eq!((&message.body[..], message.redelivered), (&b"{}"[..], false));
    assert_eq!(message.properties.message_id().as_ref().map(ToString::to_string), Some("evt-1".to_owned()));
    message.claim.settle(Proof::Skipped);
    subscription.close().await;
    assert_eq!(amqp.ready(WORK).await, 0);
}

#[tokio::test]
async fn a_hung_message_holds_back_no_other_and_comes_again() {
    let vhost = Vhost::create().await;
    let (subscription, mut messages) = subscribe(&config(&vhost.url()), 20);
    live(&subscription).await;
    let amqp = vhost.connect().await;
    fill(&amqp, 500).await;
    let mut hung = Vec::new();
    for _ in 0..500 {
        let message = next(&mut messages).await;
        if number(&message) % 100 == 7 { hung.push(message) } else { message.claim.settle(Proof::Skipped) }
    }
    assert_eq!(hung.len(), 5);
    drop(hung);
    subscription.close().await;
    let again: BTreeSet<Vec<u8>> = amqp.drain_when(WORK, 5, SOON).await.into_iter().map(|message| message.body).collect();
    assert_eq!(again, ["7", "107", "207", "307", "407"].map(|n| n.as_bytes().to_vec()).into());
}

#[tokio::test]
async fn no_more_than_the_prefetch_is_out_at_one_time() {
    let vhost = Vhost::create().await;
    let (subscription, mut messages) = subscribe(&config(&vhost.url()), 5);
    live(&subscription).await;
    let amqp = vhost.connect().await;
    fill(&amqp, 8).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(next(&mut messages).await);
    }
    // Where a sixth message goes is the broker's decision: it says that it has kept three.
    assert_eq!((amqp.ready(WORK).await, messages.try_recv().is_err()), (3, true));
    held.remove(3).claim.settle(Proof::Skipped);
    assert_eq!(number(&next(&mut messages).await), 5);
    assert_eq!((amqp.ready(WORK).await, messages.try_recv().is_err()), (2, true));
}

#[tokio::test]
async fn a_rejected_message_is_among_the_rejected_and_never_acknowledged_by_its_neighbours() {
    let vhost = Vhost::create().await;
    let (subscription, mut messages) = subscribe(&config(&vhost.url()), 50);
    live(&subscription).await;
    let amqp = vhost.connect().await;
    fill(&amqp, 300).await;
    for _ in 0..300 {
        let message = next(&mut messages).await;
        if number(&message).is_multiple_of(3) { message.claim.reject() } else { message.claim.settle(Proof::Skipped) }
    }
    let rejected: BTreeSet<Vec<u8>> =
        amqp.drain_when("callbacks.rejected", 100, SOON).await.into_iter().map(|message| message.body).collect();
    assert_eq!(rejected, (0..300).step_by(3).map(|n| n.to_string().into_bytes()).collect());
    subscription.close().await;
    assert_eq!(amqp.ready(WORK).await, 0);
}

#[tokio::test]
async fn a_lost_session_ends_its_claims_and_its_messages_come_again() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let (subscription, mut messages) = subscribe(&config(&vhost.url_through(proxy.address())), 10);
    live(&subscription).await;
    let amqp = vhost.connect().await;
    fill(&amqp, 3).await;
    let (first, second) = (next(&mut messages).await, next(&mut messages).await);
    first.claim.settle(Proof::Skipped);
    eventually("the first is acknowledged", SOON, async || {
        let queues = vhost.queues().await;
        queues.iter().any(|queue| queue["name"] == WORK && queue["messages"] == 2)
    })
    .await;
    proxy.cut();
    tokio::time::timeout(SOON, second.claim.over().cancelled()).await.expect("the claim is over");
    assert!(!second.claim.is_live());
    // Too late: this must not acknowledge a message of the next session, whose tags are counted from 1 again.
    second.claim.settle(Proof::Skipped);
    let again: BTreeSet<usize> = [next_live(&mut messages).await, next_live(&mut messages).await]
        .map(|message| {
            assert!(message.redelivered);
            let number = number(&message);
            message.claim.settle(Proof::Skipped);
            number
        })
        .into();
    assert_eq!(again, [1, 2].into());
    subscription.close().await;
    assert_eq!(amqp.ready(WORK).await, 0);
}

#[tokio::test]
async fn a_deleted_queue_is_declared_again_and_consumed() {
    let vhost = Vhost::create().await;
    let (subscription, mut messages) = subscribe(&config(&vhost.url()), 10);
    let amqp = vhost.connect().await;
    for _ in 0..3 {
        live(&subscription).await;
        amqp.delete_queue(WORK).await;
        eventually("the loss is noticed", SOON, async || !*subscription.live().borrow()).await;
        live(&subscription).await;
        fill(&amqp, 1).await;
        next_live(&mut messages).await.claim.settle(Proof::Skipped);
    }
    subscription.close().await;
    assert_eq!(amqp.ready(WORK).await, 0);
}

#[tokio::test]
async fn a_missing_queue_is_waited_for_where_it_may_not_be_declared() {
    let vhost = Vhost::create().await;
    let mut config = config(&vhost.url());
    config.broker.declare = false;
    let log = OwnLog::listen();
    let (subscription, mut messages) = subscribe(&config, 10);
    let publisher = publisher(&config);
    for link in [WORK, "publish"] {
        let told = format!("link=\"{link}\"");
        eventually("several tries", SOON, async || log.lines("broker lost").iter().filter(|line| line.contains(&told)).count() >= 3).await;
    }
    assert!(!*subscription.live().borrow() && !*publisher.connected().borrow());
    assert!(vhost.queue_names().await.is_empty());
    config.broker.declare = true;
    let declaring = support::publisher(&config);
    live(&subscription).await;
    let mut connected = publisher.connected();
    tokio::time::timeout(SOON, connected.wait_for(|up| *up)).await.expect("connected in time").expect("a living publisher");
    fill(&vhost.connect().await, 1).await;
    next(&mut messages).await.claim.settle(Proof::Skipped);
    declaring.close().await;
}

#[tokio::test]
async fn comes_back_after_close_all_connections() {
    let vhost = Vhost::create().await;
    let (subscription, mut messages) = subscribe(&config(&vhost.url()), 10);
    for _ in 0..3 {
        live(&subscription).await;
        let mut changes = subscription.live();
        changes.mark_unchanged();
        // The API may list connections that are gone, and not yet the one that is meant.
        eventually("the loss is noticed", SOON, async || {
            vhost.close_all_connections().await;
            changes.has_changed().expect("a subscription")
        })
        .await;
        live(&subscription).await;
        fill(&vhost.connect().await, 1).await;
        next_live(&mut messages).await.claim.settle(Proof::Skipped);
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_yet_is_waited_for() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    proxy.refuse(true);
    let (subscription, _messages) = subscribe(&config(&vhost.url_through(proxy.address())), 10);
    eventually("several tries", SOON, async || proxy.accepted() >= 3).await;
    assert!(!*subscription.live().borrow());
    proxy.refuse(false);
    live(&subscription).await;
}

#[tokio::test]
async fn a_silent_connection_is_given_up_and_made_again() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let (subscription, mut messages) = subscribe(&config(&vhost.url_through(proxy.address())), 10);
    live(&subscription).await;
    fill(&vhost.connect().await, 2).await;
    let first = next(&mut messages).await;
    proxy.blackhole(true);
    first.claim.settle(Proof::Skipped);
    eventually("the loss is noticed", SOON, async || !*subscription.live().borrow()).await;
    // What was held back must not get through late.
    proxy.refuse(true);
    proxy.cut();
    eventually("what was held back is gone", SOON, async || proxy.open() == 0).await;
    proxy.blackhole(false);
    proxy.refuse(false);
    live(&subscription).await;
    assert_eq!(number(&next_live(&mut messages).await), 0, "what could not be acknowledged comes again, in order");
}

#[tokio::test]
async fn a_message_that_takes_long_makes_the_rest_go_on_on_another_channel() {
    const COUNT: usize = 6000;
    let vhost = Vhost::create().await;
    let (subscription, mut messages) = subscribe(&config(&vhost.url()), 300);
    live(&subscription).await;
    let amqp = vhost.connect().await;
    fill(&amqp, COUNT).await;
    let hung = next(&mut messages).await;
    for _ in 1..COUNT {
        next(&mut messages).await.claim.settle(Proof::Skipped);
    }
    let path = format!("/api/vhosts/{}/connections", vhost.name());
    eventually("the connection has another channel", SOON, async || {
        let connections = vhost.broker().api(Method::GET, &path, None).await.map_err(|(_, text)| text)?;
        let named = |one: &&Value| one["client_properties"]["connection_name"].as_str().is_some_and(|name| name.ends_with(WORK));
        let channels = connections.as_array().and_then(|all| all.iter().find(named)).and_then(|one| one["channels"].as_u64());
        if channels.is_some_and(|channels| (2..=8).contains(&channels)) { Ok(()) } else { Err(format!("{channels:?}")) }
    })
    .await;
    assert!(hung.claim.is_live());
    hung.claim.settle(Proof::Skipped);
    subscription.close().await;
    assert_eq!(amqp.depth(WORK).await, (0, 0), "what was settled on either channel is gone");
}

#[tokio::test]
async fn a_cancelled_subscription_hands_over_nothing_and_its_claims_stay_good() {
    let vhost = Vhost::create().await;
    let (subscription, mut messages) = subscribe(&config(&vhost.url()), 100);
    live(&subscription).await;
    let amqp = vhost.connect().await;
    fill(&amqp, 160).await;
    let held = [next(&mut messages).await, next(&mut messages).await];
    subscription.cancel().await;
    assert!(!*subscription.live().borrow());
    for n in 200..205_u32 {
        amqp.publish("compliance.events", "t", BasicProperties::default(), n.to_string().as_bytes()).await;
    }
    for message in held {
        assert!(message.claim.is_live());
        message.claim.settle(Proof::Skipped);
    }
    subscription.close().await;
    // The channel has ended with the subscription. What was on its way stays in the hands of who drops it: at most what the
    // channel between us holds, and nothing that came after the cancel.
    let mut on_its_way = Vec::new();
    while let Some(message) = messages.recv().await {
        on_its_way.push(number(&message));
    }
    assert!(on_its_way.len() <= HANDED_OVER && on_its_way.iter().all(|n| (2..160).contains(n)), "{on_its_way:?}");
    eventually("all the others are back", SOON, async || amqp.depth(WORK).await == (163, 0)).await;
}

#[tokio::test]
async fn a_dropped_subscription_closes_by_itself() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let (subscription, messages) = subscribe(&config(&vhost.url_through(proxy.address())), 100);
    live(&subscription).await;
    drop(subscription);
    eventually("the connection is gone", SOON, async || proxy.open() == 0).await;
    drop(messages);
    let (subscription, messages) = subscribe(&config(&vhost.url_through(proxy.address())), 100);
    live(&subscription).await;
    drop(messages);
    fill(&vhost.connect().await, 1).await;
    eventually("nobody takes messages", SOON, async || proxy.open() == 0).await;
    assert!(!*subscription.live().borrow());
}
