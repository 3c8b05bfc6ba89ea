//! The tests' own tools work: each against the real thing, before other tests trust them.

mod support;

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use support::{Amqp, Answer, Exit, PrivateNode, Receiver, Side, TcpProxy, Vhost, Worker, eventually, short_waits};

const SOON: Duration = Duration::from_secs(15);
/// `basic.ack`, class 60 method 80: on a publisher's connection this is the broker's confirm.
const CONFIRM: [u8; 4] = [0, 60, 0, 80];

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}

#[tokio::test]
async fn what_is_published_is_drained_with_its_properties() {
    let vhost = Vhost::create().await;
    let amqp = vhost.connect().await;
    amqp.declare_queue("work", quorum()).await;
    let mut headers = FieldTable::default();
    headers.insert("x-callback-attempts".into(), AMQPValue::LongLongInt(3));
    let properties = BasicProperties::default().with_message_id("evt-1".into()).with_headers(headers);
    amqp.publish("", "work", properties, b"[1]").await;
    amqp.publish("", "work", BasicProperties::default(), b"[2]").await;
    let drained = amqp.drain_when("work", 2, SOON).await;
    assert_eq!(drained.iter().map(|message| message.body.clone()).collect::<Vec<_>>(), [b"[1]".to_vec(), b"[2]".to_vec()]);
    assert_eq!(drained[0].properties.message_id().as_ref().map(ToString::to_string), Some("evt-1".to_owned()));
    assert_eq!(drained[0].properties.delivery_mode(), &Some(2));
    assert_eq!(drained[0].header("x-callback-attempts"), Some("3".to_owned()));
    assert_eq!(amqp.depth("work").await, (0, 0));
}

#[tokio::test]
async fn two_tests_share_no_queue_and_a_vhost_is_gone_after_its_test() {
    let (one, other) = (Vhost::create().await, Vhost::create().await);
    one.connect().await.declare_queue("work", quorum()).await;
    assert_eq!(one.queue_names().await, ["work"]);
    assert!(other.queue_names().await.is_empty());
    let (broker, path) = (one.broker().clone(), format!("/api/vhosts/{}", one.name()));
    assert!(broker.api(reqwest::Method::GET, &path, None).await.is_ok());
    drop(one);
    let gone = broker.api(reqwest::Method::GET, &path, None).await.expect_err("deleted");
    assert_eq!(gone.0, Some(reqwest::StatusCode::NOT_FOUND));
}

#[tokio::test]
async fn an_operator_can_close_all_connections_of_a_vhost() {
    let vhost = Vhost::create().await;
    let amqp = vhost.connect().await;
    assert_eq!(vhost.close_all_connections().await, 1);
    eventually("the connection is closed", SOON, async || !amqp.channel().status().connected()).await;
}

#[tokio::test]
async fn a_receiver_notes_requests_and_plays_its_script() {
    let receiver = Receiver::start();
    receiver.on_path("/a", [Answer::status(503).retry_after(7), Answer::status(200)]);
    receiver.on_id("evt-2", [418]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = async |path: &str, id: &str| client.post(receiver.url(path)).header("webhook-id", id).body("[]").send().await.unwrap();
    let first = post("/a", "evt-1").await;
    assert_eq!((first.status().as_u16(), first.headers()["retry-after"].to_str().unwrap()), (503, "7"));
    assert_eq!(post("/a", "evt-1").await.status(), 200);
    assert_eq!(post("/a", "evt-1").await.status(), 200, "the last answer stays");
    assert_eq!(post("/a", "evt-2").await.status(), 418);
    assert_eq!(post("/b", "evt-1").await.status(), 200);
    let seen = receiver.wait_for(5, SOON).await;
    assert_eq!(seen.iter().map(|seen| seen.path.as_str()).collect::<Vec<_>>(), ["/a", "/a", "/a", "/a", "/b"]);
    assert_eq!((seen[3].webhook_id(), seen[0].body.as_ref(), seen[0].at_once), ("evt-2", b"[]".as_slice(), 1));
}

#[tokio::test]
async fn a_receiver_can_close_and_hang_and_has_noted_the_request() {
    let receiver = Receiver::start();
    receiver.on_path("/close", [Answer::close()]);
    receiver.on_path("/hang", [Answer::hang()]);
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(300)).build().unwrap();
    let closed = client.post(receiver.url("/close")).send().await.expect_err("no answer");
    assert!(!closed.is_timeout(), "{closed:?}");
    let hung = client.post(receiver.url("/hang")).send().await.expect_err("no answer");
    assert!(hung.is_timeout(), "{hung:?}");
    assert_eq!((receiver.seen_at("/close").len(), receiver.seen_at("/hang").len()), (1, 1));
}

#[tokio::test]
async fn a_proxy_cuts_both_ends_and_takes_new_connections() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let amqp = Amqp::connect(&vhost.url_through(proxy.address())).await;
    assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
    proxy.cut();
    eventually("the client sees the cut", SOON, async || !amqp.channel().status().connected()).await;
    eventually("the connection is counted out", SOON, async || proxy.open() == 0).await;
    let _again = Amqp::connect(&vhost.url_through(proxy.address())).await;
    assert_eq!((proxy.accepted(), proxy.open()), (2, 1));
    proxy.refuse(true);
    let refused = reqwest::Client::builder().no_proxy().build().unwrap().get(format!("http://{}", proxy.address())).send().await;
    assert!(refused.is_err());
    assert_eq!((proxy.accepted(), proxy.open()), (3, 1));
}

#[tokio::test]
async fn a_proxy_holds_back_in_silence_and_then_lets_go() {
    let receiver = Receiver::start();
    let proxy = TcpProxy::to(receiver.address().to_string());
    let url = format!("http://{}/", proxy.address());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    proxy.hold_from_target(true);
    let request = tokio::spawn(client.post(&url).send());
    receiver.wait_for(1, SOON).await;
    assert!(!request.is_finished(), "the answer is held back");
    proxy.hold_from_target(false);
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    proxy.blackhole(true);
    let start = Instant::now();
    let silent = client.post(&url).timeout(Duration::from_millis(300)).send().await.expect_err("silence");
    assert!(silent.is_timeout() && start.elapsed() >= Duration::from_millis(300), "{silent:?}");
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_cut_before_the_confirm_leaves_the_message_at_the_broker() {
    let vhost = Vhost::create().await;
    let direct = vhost.connect().await;
    direct.declare_queue("work", quorum()).await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let amqp = Amqp::connect(&vhost.url_through(proxy.address())).await;
    proxy.cut_before(Side::Target, &CONFIRM);
    let options = lapin::options::BasicPublishOptions::default();
    let confirm = amqp.channel().basic_publish("".into(), "work".into(), options, b"1", BasicProperties::default()).await;
    let confirmed = match confirm {
        Ok(confirm) => tokio::time::timeout(SOON, confirm).await.expect("an end of the wait"),
        Err(error) => Err(error),
    };
    assert!(confirmed.is_err(), "{confirmed:?}");
    assert!(!proxy.is_armed());
    assert_eq!(direct.drain_when("work", 1, SOON).await.len(), 1);
}

#[tokio::test]
async fn a_worker_is_watched_stopped_killed_and_started_again() {
    let vhost = Vhost::create().await;
    let integrators = "[[integrator]]\nkey = \"acme\"\n[[integrator.endpoint]]\nid = \"main\"\nurl = \"http://127.0.0.1:9/\"\n";
    let mut worker = Worker::start(&short_waits(&vhost), integrators);
    worker.wait_ready().await;
    let connected = |link: &'static str| [("link", link)];
    assert_eq!(worker.metric("callbackd_broker_connected", &connected("publish")).await, Some(1.0));
    assert_eq!(worker.metric("callbackd_broker_connected", &connected("pub")).await, None, "no part of a label fits");
    assert_eq!(worker.metric("callbackd_broker_connected", &[]).await, Some(5.0), "two queues of two sources, and publishing");
    worker.wait_for_log("it started", SOON, |line| line["message"] == "started").await;
    worker.sigterm();
    assert_eq!(worker.wait_exit(SOON).await, Exit::Code(0));
    worker.start_again();
    worker.wait_ready().await;
    worker.sigkill();
    assert_eq!(worker.exit(), Some(Exit::Signal(9)));
}

#[tokio::test]
#[should_panic(expected = "the worker ended before it was ready: exit status: 64")]
async fn a_worker_with_a_bad_configuration_is_not_waited_for() {
    Worker::start("[broker]\nurl = 7\n", "").wait_ready().await;
}

#[tokio::test]
#[should_panic(expected = "not within 100ms: pigs fly; last seen: \"3 on the ground\"")]
async fn waiting_in_vain_tells_what_for_and_what_was_seen() {
    eventually("pigs fly", Duration::from_millis(100), async || Err::<(), _>("3 on the ground")).await;
}

mod private_node {
    use super::*;

    #[tokio::test]
    async fn a_confirmed_message_outlives_the_kill_of_a_private_node() {
        let node = PrivateNode::start().await;
        let amqp = Amqp::connect(&node.url()).await;
        amqp.declare_queue("work", quorum()).await;
        node.flush_declarations().await;
        amqp.publish("", "work", BasicProperties::default(), b"1").await;
        node.kill().await;
        eventually("the client sees the end", SOON, async || !amqp.channel().status().connected()).await;
        node.start_again().await;
        let amqp = Amqp::connect(&node.url()).await;
        assert_eq!(amqp.drain_when("work", 1, Duration::from_secs(30)).await.len(), 1);
        node.stop().await;
        assert!(node.broker().api(reqwest::Method::GET, "/api/overview", None).await.is_err());
        node.start_again().await;
        assert!(node.ctl(&["-q", "list_queues", "name"]).await.contains("work"));
    }
}
