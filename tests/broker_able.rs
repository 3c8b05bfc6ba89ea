//! Consuming only while copies can be published: what a publisher takes as proof, and what a subscription makes of it.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use callbackd::broker::{Ground, Outgoing, Proof, Publisher, Topology};
use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::options::ExchangeDeleteOptions;
use lapin::types::FieldTable;
use reqwest::Method;
use serde_json::json;
use support::{Amqp, OwnLog, TcpProxy, Vhost, WORK, config, eventually, publisher, subscribe_on};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(30);

fn to(queue: &str, body: impl ToString) -> Outgoing {
    Outgoing { queue: queue.to_owned(), properties: BasicProperties::default(), body: Bytes::from(body.to_string()) }
}

async fn becomes(mut state: watch::Receiver<bool>, wanted: bool, what: &str) {
    tokio::time::timeout(SOON, state.wait_for(|now| *now == wanted)).await.expect(what).expect(what);
}

async fn fill(amqp: &Amqp, count: usize) {
    for n in 0..count {
        amqp.publish("compliance.events", "t", BasicProperties::default(), n.to_string().as_bytes()).await;
    }
}

/// A user of the broker who may do what `write` matches, and all else.
struct User<'a> {
    vhost: &'a Vhost,
    name: String,
}

impl<'a> User<'a> {
    async fn create(vhost: &'a Vhost) -> Self {
        let name = format!("user-{}", vhost.name());
        let user = json!({"password": "secret", "tags": ""});
        vhost.broker().api(Method::PUT, &format!("/api/users/{name}"), Some(user)).await.expect("a user");
        Self { vhost, name }
    }

    async fn may_write(&self, pattern: &str) {
        let permissions = json!({"configure": ".*", "write": pattern, "read": ".*"});
        let path = format!("/api/permissions/{}/{}", self.vhost.name(), self.name);
        self.vhost.broker().api(Method::PUT, &path, Some(permissions)).await.expect("permissions");
    }

    fn url(&self) -> String {
        self.vhost.url().replacen("guest:guest", &format!("{}:secret", self.name), 1)
    }

    async fn delete(self) {
        self.vhost.broker().api(Method::DELETE, &format!("/api/users/{}", self.name), None).await.expect("deleted");
    }
}

const ALL_BUT_PUBLISH: &str = "^(?!callbacks[.]publish$).*";

#[tokio::test]
async fn a_queue_is_not_touched_before_copies_can_be_published() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let config = config(&vhost.url_through(proxy.address()));
    let (able, is_able) = watch::channel(false);
    let (subscription, mut messages) = subscribe_on(&config, 10, Ground::new(Arc::new(Topology::new(&config)), is_able));
    // Started later, and connected earlier.
    let publisher = publisher(&config);
    becomes(publisher.able(), true, "the publisher is able").await;
    fill(&vhost.connect().await, 1).await;
    assert_eq!(proxy.accepted(), 1, "the subscription has connected");
    able.send_replace(true);
    becomes(subscription.live(), true, "the subscription is live").await;
    tokio::time::timeout(SOON, messages.recv()).await.expect("in time").expect("a message").claim.settle(Proof::Skipped);
    subscription.close().await;
}

#[tokio::test]
async fn nothing_is_handed_over_while_copies_cannot_be_published() {
    let vhost = Vhost::create().await;
    let config = config(&vhost.url());
    let (able, is_able) = watch::channel(true);
    let (subscription, mut messages) = subscribe_on(&config, 10, Ground::new(Arc::new(Topology::new(&config)), is_able));
    becomes(subscription.live(), true, "the subscription is live").await;
    able.send_replace(false);
    let amqp = vhost.connect().await;
    fill(&amqp, 5).await;
    eventually("the messages are with us", SOON, async || amqp.depth(WORK).await == (0, 1)).await;
    assert!(messages.try_recv().is_err(), "a message was handed over");
    able.send_replace(true);
    for _ in 0..5 {
        tokio::time::timeout(SOON, messages.recv()).await.expect("in time").expect("a message").claim.settle(Proof::Skipped);
    }
    subscription.close().await;
    assert_eq!(amqp.ready(WORK).await, 0);
}

#[tokio::test]
async fn a_long_alarm_gives_the_messages_back_once_and_consuming_goes_on_after_it() {
    let log = OwnLog::listen();
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let config = config(&vhost.url_through(proxy.address()));
    let (able, is_able) = watch::channel(true);
    let patience = Duration::from_millis(500);
    let ground = Ground { patience, ..Ground::new(Arc::new(Topology::new(&config)), is_able) };
    let (subscription, mut messages) = subscribe_on(&config, 10, ground);
    becomes(subscription.live(), true, "the subscription is live").await;
    let amqp = vhost.connect().await;
    fill(&amqp, 5).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(tokio::time::timeout(SOON, messages.recv()).await.expect("in time").expect("a message"));
    }
    able.send_replace(false);
    held.remove(0).claim.settle(Proof::Skipped);
    tokio::time::timeout(SOON, held[0].claim.over().cancelled()).await.expect("the session ends");
    assert!(!*subscription.live().borrow());
    eventually("the rest is back", SOON, async || amqp.depth(WORK).await == (4, 0)).await;
    assert_eq!(log.lines("copies could not be published for 500ms").len(), 1);
    assert_eq!(proxy.accepted(), 1, "the subscription has connected again");
    able.send_replace(true);
    for _ in 0..4 {
        let message = tokio::time::timeout(SOON, messages.recv()).await.expect("in time").expect("a message");
        let count = message.properties.headers().as_ref().and_then(|headers| headers.inner().get("x-delivery-count").cloned());
        assert_eq!(count.and_then(|count| count.as_long_long_int()), Some(1), "returned once");
        message.claim.settle(Proof::Skipped);
    }
    subscription.close().await;
    assert_eq!(amqp.ready(WORK).await, 0);
}

#[tokio::test]
async fn a_user_who_may_not_write_makes_no_able_publisher() {
    let log = OwnLog::listen();
    let vhost = Vhost::create().await;
    let user = User::create(&vhost).await;
    user.may_write(ALL_BUT_PUBLISH).await;
    let publisher = publisher(&config(&user.url()));
    let told = "cannot publish through exchange callbacks.publish: give the broker's user the permission to write to it";
    eventually("the failure is told twice", SOON, async || log.lines(told).len() >= 2).await;
    assert!(!*publisher.connected().borrow() && !*publisher.able().borrow());
    user.may_write(".*").await;
    becomes(publisher.able(), true, "able").await;
    user.delete().await;
}

#[tokio::test]
async fn an_exchange_that_returns_nothing_makes_no_able_publisher() {
    let log = OwnLog::listen();
    let vhost = Vhost::create().await;
    let policy =
        json!({"pattern": "^callbacks.publish$", "apply-to": "exchanges", "definition": {"alternate-exchange": "callbacks.unroutable"}});
    let path = format!("/api/policies/{}/alternate", vhost.name());
    vhost.broker().api(Method::PUT, &path, Some(policy)).await.expect("a policy");
    let publisher = publisher(&config(&vhost.url()));
    eventually("the failure is told", SOON, async || !log.lines("callbacks.publish: it must return what no queue takes").is_empty()).await;
    assert!(!*publisher.connected().borrow());
    vhost.broker().api(Method::DELETE, &path, None).await.expect("no policy");
    becomes(publisher.able(), true, "able").await;
}

#[tokio::test]
async fn a_deleted_exchange_is_declared_again_on_the_same_connection() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let publisher = publisher(&config(&vhost.url_through(proxy.address())));
    becomes(publisher.able(), true, "able").await;
    let (amqp, never) = (vhost.connect().await, CancellationToken::new());
    amqp.channel().exchange_delete("callbacks.publish".into(), ExchangeDeleteOptions::default()).await.expect("deleted");
    let copies: Vec<Outgoing> = (0..100).map(|n| to(WORK, n)).collect();
    for confirmed in join_all(copies.iter().map(|copy| publisher.publish_until_confirmed(copy, &never))).await {
        let _ = confirmed.expect("confirmed");
    }
    assert_eq!(amqp.ready(WORK).await, 100);
    becomes(publisher.able(), true, "able").await;
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn a_permission_that_is_taken_away_is_noticed_and_told_without_a_flood() {
    let log = OwnLog::listen();
    let vhost = Vhost::create().await;
    let user = User::create(&vhost).await;
    user.may_write(".*").await;
    let publisher = publisher(&config(&user.url()));
    becomes(publisher.able(), true, "able").await;
    user.may_write(ALL_BUT_PUBLISH).await;
    let waiting = publish_all(&publisher, WORK, 1000);
    becomes(publisher.connected(), false, "the publisher is not ready").await;
    assert!(!*publisher.able().borrow());
    eventually("the pauses grow", SOON, async || log.lines("permission to write").len() >= 4).await;
    assert!(log.lines("publish failed").len() <= 4, "{:#?}", log.lines("publish failed"));
    user.may_write(".*").await;
    becomes(publisher.able(), true, "able").await;
    waiting.await.expect("all are confirmed");
    assert_eq!(vhost.connect().await.ready(WORK).await, 1000);
    user.delete().await;
}

#[tokio::test]
async fn a_binding_that_stays_missing_is_told_and_holds_back_no_other_queue() {
    let log = OwnLog::listen();
    let vhost = Vhost::create().await;
    let mut config = config(&vhost.url());
    let declaring = publisher(&config);
    becomes(declaring.able(), true, "able").await;
    declaring.close().await;
    config.broker.declare = false;
    let publisher = publisher(&config);
    becomes(publisher.able(), true, "able").await;
    let amqp = vhost.connect().await;
    let (dead, exchange) = ("callbacks.dead", "callbacks.publish");
    amqp.channel().queue_unbind(dead.into(), exchange.into(), dead.into(), FieldTable::default()).await.expect("unbound");
    let waiting = publish_all(&publisher, dead, 1000);
    eventually("the pauses grow", SOON, async || {
        log.lines("broker lost").iter().filter(|line| line.contains("publishing to callbacks.dead: returned")).count() >= 3
    })
    .await;
    publish_all(&publisher, WORK, 100).await.expect("confirmed although others are not");
    assert_eq!(amqp.ready(WORK).await, 100);
    becomes(publisher.connected(), false, "not ready while it lasts").await;
    amqp.bind(dead, exchange, dead).await;
    waiting.await.expect("all are confirmed");
    assert_eq!(amqp.ready(dead).await, 1000);
    becomes(publisher.able(), true, "able").await;
    println!("{} lines about failed copies", log.lines("publish failed").len());
}

#[tokio::test]
async fn a_lost_connection_is_told_with_the_brokers_words() {
    let log = OwnLog::listen();
    let vhost = Vhost::create().await;
    let publisher = publisher(&config(&vhost.url()));
    becomes(publisher.able(), true, "able").await;
    vhost.close_all_connections().await;
    eventually("the loss is told", SOON, async || !log.lines("broker lost").is_empty()).await;
    let told = log.lines("broker lost").remove(0);
    assert!(told.contains("the connection ended: ") && told.contains("CONNECTION_FORCED"), "{told}");
    becomes(publisher.able(), true, "able").await;
}

/// So many copies to one queue at one time; ends when all are confirmed.
fn publish_all(publisher: &Publisher, queue: &str, count: usize) -> tokio::task::JoinHandle<()> {
    let copies = (0..count).map(|n| {
        let (publisher, copy) = (publisher.clone(), to(queue, n));
        async move {
            let _ = publisher.publish_until_confirmed(&copy, &CancellationToken::new()).await.expect("confirmed");
        }
    });
    let all = join_all(copies.collect::<Vec<_>>());
    tokio::spawn(async move {
        all.await;
    })
}
