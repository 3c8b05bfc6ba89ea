//! Publishing with proof, against a real broker: when a message counts as safe, and when it does not.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use callbackd::broker::headers::{LARGEST_COPY, encoded_size};
use callbackd::broker::{Confirmed, NotPublished, Outgoing, Publisher, Unpublished};
use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use support::{Amqp, OwnLog, PrivateNode, Side, TcpProxy, Vhost, WORK, config, eventually, publisher};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(30);
/// `basic.ack`, class 60 method 80: on a publisher's connection this is the broker's confirm.
const CONFIRM: [u8; 4] = [0, 60, 0, 80];

fn to(queue: &str, body: impl ToString) -> Outgoing {
    Outgoing { queue: queue.to_owned(), properties: BasicProperties::default(), body: Bytes::from(body.to_string()) }
}

async fn connected(publisher: &Publisher) {
    let mut connected = publisher.connected();
    tokio::time::timeout(SOON, connected.wait_for(|up| *up)).await.expect("connected in time").expect("a living publisher");
}

#[tokio::test]
async fn a_confirm_is_not_a_route() {
    let vhost = Vhost::create().await;
    let publisher = publisher(&config(&vhost.url()));
    let missing = publisher.publish(&to("no.such.queue", 1)).await;
    assert!(matches!(missing, Err(NotPublished::Returned { .. })), "{missing:?}");
    let _ = publisher.publish(&to(WORK, 2)).await.expect("the work queue exists");
    let arrived = vhost.connect().await.drain_when(WORK, 1, SOON).await;
    assert_eq!(arrived[0].body, b"2");
    assert_eq!(arrived[0].properties.delivery_mode(), &Some(2));
    publisher.close().await;
}

#[tokio::test]
async fn properties_beyond_a_frame_are_refused_and_the_largest_ones_pass() {
    let vhost = Vhost::create().await;
    let publisher = publisher(&config(&vhost.url()));
    let with_header = |size: usize| {
        let mut headers = FieldTable::default();
        headers.insert("x".into(), AMQPValue::LongString("y".repeat(size).into()));
        Outgoing { properties: BasicProperties::default().with_headers(headers), ..to(WORK, 1) }
    };
    let largest = LARGEST_COPY - encoded_size(&with_header(0).properties);
    let _ = publisher.publish(&with_header(largest)).await.expect("the largest fits");
    let refused = publisher.publish(&with_header(largest + 1)).await;
    assert!(matches!(refused, Err(NotPublished::TooLarge { .. })), "{refused:?}");
    let never = CancellationToken::new();
    let impossible = publisher.publish_until_confirmed(&with_header(largest + 1), &never).await;
    assert!(matches!(impossible, Err(Unpublished::Impossible(NotPublished::TooLarge { .. }))), "{impossible:?}");
    let long = publisher.publish_until_confirmed(&to(&"q".repeat(256), 1), &never).await;
    assert!(matches!(long, Err(Unpublished::Impossible(_))), "{long:?}");
    assert!(*publisher.connected().borrow());
}

#[tokio::test]
async fn a_full_queue_refuses_and_that_is_no_success() {
    let vhost = Vhost::create().await;
    let publisher = publisher(&config(&vhost.url()));
    connected(&publisher).await;
    declare_full_queue(&vhost).await;
    let refused = publisher.publish(&to("full", 2)).await;
    assert!(matches!(refused, Err(NotPublished::Refused)), "{refused:?}");
}

/// A queue `full` with one message, which takes no second one, bound like our own.
async fn declare_full_queue(vhost: &Vhost) {
    let amqp = vhost.connect().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    amqp.declare_queue("full", arguments).await;
    amqp.bind("full", "callbacks.publish", "full").await;
    amqp.publish("", "full", BasicProperties::default(), b"1").await;
    // The queue takes what comes before it has told its channels that it is full.
    eventually("the queue refuses", SOON, async || {
        let options = lapin::options::BasicPublishOptions::default();
        let confirm = amqp.channel().basic_publish("".into(), "full".into(), options, b"x", BasicProperties::default());
        confirm.await.expect("published").await.expect("a confirm").is_nack()
    })
    .await;
}

#[tokio::test]
async fn confirms_of_concurrent_publishes_are_never_swapped() {
    let vhost = Vhost::create().await;
    let publisher = publisher(&config(&vhost.url()));
    connected(&publisher).await;
    declare_full_queue(&vhost).await;
    let results = join_all((0..6000).map(|n| {
        let publisher = publisher.clone();
        async move {
            let queue = ["no.such.queue", "full", WORK, WORK][fastrand::usize(..4)];
            (n, queue, publisher.publish(&to(queue, n)).await)
        }
    }))
    .await;
    let mut good = Vec::new();
    for (n, queue, result) in results {
        match (queue, result) {
            ("no.such.queue", Err(NotPublished::Returned { .. })) | ("full", Err(NotPublished::Refused)) => {}
            (WORK, Ok(_)) => good.push(n.to_string()),
            (queue, result) => panic!("{n} to {queue}: {result:?}"),
        }
    }
    let arrived = vhost.connect().await.drain_when(WORK, good.len(), SOON).await;
    let mut arrived: Vec<String> = arrived.into_iter().map(|message| String::from_utf8(message.body).unwrap()).collect();
    arrived.sort();
    good.sort();
    assert_eq!(arrived, good);
}

#[tokio::test]
async fn a_deleted_queue_is_declared_again_and_the_copy_arrives() {
    let vhost = Vhost::create().await;
    let publisher = publisher(&config(&vhost.url()));
    connected(&publisher).await;
    let amqp = vhost.connect().await;
    amqp.delete_queue("callbacks.dead").await;
    let (copies, never) = (["1", "2", "3"].map(|n| to("callbacks.dead", n)), CancellationToken::new());
    for confirmed in join_all(copies.iter().map(|copy| publisher.publish_until_confirmed(copy, &never))).await {
        let _ = confirmed.expect("only a cancelled token makes it give up");
    }
    assert_eq!(amqp.ready("callbacks.dead").await, 3);
}

#[tokio::test]
async fn a_deleted_exchange_costs_channels_and_no_connection() {
    let vhost = Vhost::create().await;
    let publisher = publisher(&config(&vhost.url()));
    connected(&publisher).await;
    let delete = lapin::options::ExchangeDeleteOptions::default();
    vhost.connect().await.channel().exchange_delete("callbacks.publish".into(), delete).await.unwrap();
    for _ in 0..40 {
        let lost = publisher.publish(&to(WORK, 1)).await;
        assert!(matches!(lost, Err(NotPublished::Lost(_))), "{lost:?}");
    }
    assert!(*publisher.connected().borrow());
    let published = publisher.publish_until_confirmed(&to(WORK, 2), &CancellationToken::new()).await;
    let _ = published.expect("declared again and confirmed");
}

#[tokio::test]
async fn a_cut_connection_with_a_pending_confirm_publishes_again() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let publisher = publisher(&config(&vhost.url_through(proxy.address())));
    connected(&publisher).await;
    for round in 0..6 {
        proxy.cut_before(Side::Target, &CONFIRM);
        let copies: Vec<Outgoing> = (0..8).map(|n| to(WORK, format!("{round}-{n}"))).collect();
        let (started, never) = (Instant::now(), CancellationToken::new());
        for confirmed in join_all(copies.iter().map(|copy| publisher.publish_until_confirmed(copy, &never))).await {
            let _ = confirmed.expect("only a cancelled token makes it give up");
        }
        assert!(!proxy.is_armed() && started.elapsed() < SOON, "round {round} took {:?}", started.elapsed());
    }
    let mut bodies: Vec<Vec<u8>> = vhost.connect().await.drain(WORK).await.into_iter().map(|message| message.body).collect();
    assert!(bodies.len() >= 48, "lost {}", 48 - bodies.len());
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 48);
}

#[tokio::test]
async fn a_silent_connection_ends_a_publish_in_time_and_is_replaced() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let mut config = config(&vhost.url_through(proxy.address()));
    config.broker.timeout = Duration::from_secs(1);
    let publisher = publisher(&config);
    connected(&publisher).await;
    proxy.blackhole(true);
    let result = tokio::time::timeout(SOON, publisher.publish(&to(WORK, 1))).await.expect("it ends");
    assert!(matches!(result, Err(NotPublished::TimedOut(_))), "{result:?}");
    // The heartbeat of a second makes the silence a loss.
    eventually("the loss is noticed", SOON, async || !*publisher.connected().borrow()).await;
    let result = publisher.publish(&to(WORK, 2)).await;
    assert!(matches!(result, Err(NotPublished::NotConnected(_))), "{result:?}");
    proxy.blackhole(false);
    connected(&publisher).await;
    let _ = publisher.publish(&to(WORK, 3)).await.expect("connected again");
}

#[tokio::test]
async fn comes_back_after_close_all_connections() {
    let vhost = Vhost::create().await;
    let publisher = publisher(&config(&vhost.url()));
    let never = CancellationToken::new();
    for round in 0..3 {
        connected(&publisher).await;
        vhost.close_all_connections().await;
        let copy = to(WORK, round);
        let _ = publisher.publish_until_confirmed(&copy, &never).await.expect("only a cancelled token makes it give up");
    }
    assert!(vhost.connect().await.ready(WORK).await >= 3);
}

#[tokio::test]
async fn gives_up_only_when_told() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    proxy.refuse(true);
    let publisher = publisher(&config(&vhost.url_through(proxy.address())));
    let (give_up, copy) = (CancellationToken::new(), to(WORK, 1));
    let publishing = publisher.publish_until_confirmed(&copy, &give_up);
    tokio::pin!(publishing);
    tokio::select! {
        ended = &mut publishing => panic!("it gave up by itself: {ended:?}"),
        () = eventually("several tries", SOON, async || proxy.accepted() > 3) => {}
    }
    give_up.cancel();
    assert!(matches!(publishing.await, Err(Unpublished::GivenUp)));
    proxy.refuse(false);
    connected(&publisher).await;
    assert_eq!(vhost.connect().await.ready(WORK).await, 0);
}

#[tokio::test]
async fn a_closed_or_dropped_publisher_leaves_no_connection() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let (closed, dropped) =
        (publisher(&config(&vhost.url_through(proxy.address()))), publisher(&config(&vhost.url_through(proxy.address()))));
    connected(&closed).await;
    connected(&dropped).await;
    assert_eq!(proxy.open(), 2);
    closed.close().await;
    drop(dropped);
    eventually("all connections are gone", SOON, async || proxy.open() == 0).await;
    assert_eq!(proxy.accepted(), 2);
}

#[tokio::test]
async fn a_broker_that_takes_connections_and_says_nothing_costs_no_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&format!("amqp://guest:guest@{}/%2f", listener.local_addr().unwrap()));
    config.broker.timeout = Duration::from_millis(200);
    let publisher = publisher(&config);
    for _ in 0..4 {
        let (mut socket, _) = tokio::time::timeout(SOON, listener.accept()).await.expect("a try").unwrap();
        let mut hello = Vec::new();
        tokio::time::timeout(SOON, socket.read_to_end(&mut hello)).await.expect("the try is ended").expect("in order");
        assert_eq!(hello, b"AMQP\x00\x00\x09\x01");
    }
    publisher.close().await;
}

/// Tests that start a broker of their own.
mod private_node {
    use super::*;

    #[tokio::test]
    async fn a_blocked_connection_pauses_and_does_not_fail() {
        let node = PrivateNode::start().await;
        let mut config = config(&node.url());
        config.broker.timeout = Duration::from_secs(1);
        let publisher = publisher(&config);
        connected(&publisher).await;
        node.ctl(&["set_vm_memory_high_watermark", "0.0000001"]).await;
        let mut pending = publish_all(&publisher, 0..50);
        eventually("the alarm reaches us", SOON, async || *publisher.blocked().borrow()).await;
        assert!(!*publisher.able().borrow());
        // A limit that counted during the alarm would have passed several times over.
        let alarm = config.broker.timeout * 4;
        assert!(tokio::time::timeout(alarm, pending.join_next()).await.is_err(), "a publish ended during the alarm");
        assert!(*publisher.blocked().borrow() && *publisher.connected().borrow());
        node.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
        while let Some(published) = pending.join_next().await {
            let _ = published.expect("no panic").expect("published when the alarm was over");
        }
        eventually("the alarm is over", SOON, async || *publisher.able().borrow()).await;
        assert_eq!(Amqp::connect(&node.url()).await.ready(WORK).await, 50);
    }

    #[tokio::test]
    async fn a_publisher_that_starts_during_an_alarm_waits_for_its_end() {
        let node = PrivateNode::start().await;
        node.ctl(&["set_vm_memory_high_watermark", "0.0000001"]).await;
        let mut config = config(&node.url());
        config.broker.timeout = Duration::from_secs(2);
        let log = OwnLog::listen();
        let publisher = publisher(&config);
        eventually("the alarm reaches us", SOON, async || *publisher.blocked().borrow()).await;
        let mut able = publisher.able();
        let early = tokio::time::timeout(config.broker.timeout * 2, able.wait_for(|able| *able)).await;
        assert!(early.is_err(), "able during an alarm");
        assert_eq!(log.lines("broker lost"), Vec::<String>::new());
        node.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
        eventually("able", SOON, async || *publisher.able().borrow()).await;
        let _ = publisher.publish(&to(WORK, 1)).await.expect("published");
    }
}

/// Single tries at one time.
fn publish_all(publisher: &Publisher, numbers: std::ops::Range<u32>) -> JoinSet<Result<Confirmed, NotPublished>> {
    numbers
        .map(|n| {
            let publisher = publisher.clone();
            async move { publisher.publish(&to(WORK, n)).await }
        })
        .collect()
}
