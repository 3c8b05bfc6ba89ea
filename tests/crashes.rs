//! Nothing is lost: worker and broker are killed, stopped and cut off while events flow.

mod scene;
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use scene::{LIMIT, Scene, endpoint, event, integrator};
use support::{Answer, Exit, PrivateNode, Receiver, Seen, TcpProxy, Vhost, Worker, eventually};

/// The limit on delivering some thousand events on a machine that does other things too.
const LONG: Duration = Duration::from_secs(120);
const MAX_IN_FLIGHT: usize = 32;
/// Settled deliveries whose acknowledgement may not have reached the broker: one burst collected, one on its way.
const ACKS_ON_THEIR_WAY: usize = 2 * 64;

fn busy_endpoint(receiver: &Receiver) -> String {
    integrator("acme", &[endpoint("main", &receiver.url("/"), &format!("max_in_flight = {MAX_IN_FLIGHT}"))])
}

async fn publish(scene: &Scene, ids: std::ops::Range<usize>) {
    for n in ids {
        scene.publish(&event(&format!("evt-{n}"))).await;
    }
}

/// How often the receiver said 200 to each event.
fn delivered(seen: &[Seen]) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for one in seen {
        *times.entry(one.header("callback-event-ids").to_owned()).or_default() += 1;
    }
    times
}

async fn all_arrive(receiver: &Receiver, count: usize) -> usize {
    receiver.wait(&format!("{count} distinct events"), LONG, |seen| delivered(seen).len() == count).await;
    let times = delivered(&receiver.seen());
    times.values().sum::<usize>() - times.len()
}

#[tokio::test]
async fn a_worker_killed_while_5000_events_flow_loses_none_and_doubles_only_what_was_in_flight() {
    let receiver = Receiver::start();
    receiver.on_path("/", [Answer::status(200).after(Duration::from_millis(5))]);
    let mut scene = Scene::start(&busy_endpoint(&receiver)).await;
    let (total, kills) = (5000, 3);
    publish(&scene, 0..total).await;
    for kill in 1..=kills {
        receiver.wait("a share of the events", LONG, |seen| delivered(seen).len() >= kill * total / (kills + 1)).await;
        scene.worker.sigkill();
        scene.worker.start_again();
    }
    let duplicates = all_arrive(&receiver, total).await;
    scene.settled().await;
    let duplicates = duplicates.max(delivered(&receiver.seen()).values().sum::<usize>() - total);
    println!("{duplicates} duplicates over {kills} kills");
    assert!(duplicates <= kills * (MAX_IN_FLIGHT + ACKS_ON_THEIR_WAY), "{duplicates} duplicates");
}

#[tokio::test]
async fn pending_retries_survive_the_death_of_the_worker() {
    let receiver = Receiver::start();
    // What speaks of the event does not open the endpoint's circuit, so each is attempted.
    receiver.on_path("/", [422]);
    let mut scene = Scene::start(&busy_endpoint(&receiver)).await;
    publish(&scene, 0..200).await;
    receiver.wait("a first attempt of each", LONG, |seen| delivered(seen).len() == 200).await;
    scene.worker.sigkill();
    receiver.on_path("/", [200]);
    receiver.forget();
    scene.worker.start_again();
    all_arrive(&receiver, 200).await;
    scene.settled().await;
}

#[tokio::test]
async fn sigterm_under_load_finishes_what_is_in_flight_doubles_nothing_and_exits_with_0() {
    let receiver = Receiver::start();
    receiver.on_path("/", [Answer::status(200).after(Duration::from_millis(20))]);
    let mut scene = Scene::start(&busy_endpoint(&receiver)).await;
    let total = 1000;
    publish(&scene, 0..total).await;
    for stop in 1..=3 {
        receiver.wait("a share of the events", LONG, |seen| delivered(seen).len() >= stop * total / 4).await;
        scene.worker.sigterm();
        assert_eq!(scene.worker.wait_exit(LIMIT).await, Exit::Code(0));
        let told = delivered(&receiver.seen()).len();
        // The broker counts what came back a moment after the connection is gone. On a busy machine the endpoint may have been
        // slow enough for some to wait in the ladder.
        eventually("told and left over are all there is", LIMIT, async || {
            let left = scene.left().await;
            if told + left == total { Ok(()) } else { Err((told, left)) }
        })
        .await;
        scene.worker.start_again();
        scene.worker.wait_ready().await;
    }
    assert_eq!(all_arrive(&receiver, total).await, 0, "no event was told twice");
    scene.settled().await;
}

#[tokio::test]
async fn sigterm_with_two_endpoints_does_not_tell_the_one_again_that_has_it() {
    let receiver = Receiver::start();
    receiver.on_path("/slow", [Answer::status(200).after(Duration::from_secs(2))]);
    let endpoints = [endpoint("fast", &receiver.url("/fast"), ""), endpoint("slow", &receiver.url("/slow"), "max_in_flight = 1")];
    let mut scene = Scene::start(&integrator("acme", &endpoints)).await;
    publish(&scene, 0..50).await;
    receiver.wait_for_at("/fast", 50, LIMIT).await;
    receiver.on_path("/slow", [200]);
    scene.worker.sigterm();
    assert_eq!(scene.worker.wait_exit(LIMIT).await, Exit::Code(0));
    scene.worker.start_again();
    receiver
        .wait("every event at the slow endpoint", LONG, |seen| {
            let slow: Vec<Seen> = seen.iter().filter(|one| one.path == "/slow").cloned().collect();
            delivered(&slow).len() == 50
        })
        .await;
    scene.settled().await;
    assert_eq!((receiver.seen_at("/fast").len(), receiver.seen_at("/slow").len()), (50, 50));
}

#[tokio::test]
async fn sigterm_waits_for_a_slow_answer_and_a_second_signal_does_not() {
    let receiver = Receiver::start();
    receiver.on_path("/", [Answer::status(200).after(Duration::from_secs(2))]);
    let mut scene = Scene::start(&busy_endpoint(&receiver)).await;
    publish(&scene, 0..1).await;
    receiver.wait_for(1, LIMIT).await;
    scene.worker.sigterm();
    scene.worker.wait_for_log("stopping", LIMIT, |line| line.to_string().contains("stopping")).await;
    assert_eq!(scene.worker.admin("/readyz").await.unwrap().0, 503, "a stopping worker is not ready");
    assert_eq!(scene.worker.wait_exit(LIMIT).await, Exit::Code(0));
    assert_eq!(receiver.count(), 1, "the answer was waited for");

    receiver.on_path("/", [Answer::hang()]);
    scene.worker.start_again();
    scene.worker.wait_ready().await;
    publish(&scene, 1..2).await;
    receiver.wait_for(2, LIMIT).await;
    scene.worker.sigterm();
    scene.worker.wait_for_log("stopping twice", LIMIT, |_| scene.log_lines("stopping").len() == 2).await;
    let asked = std::time::Instant::now();
    scene.worker.sigterm();
    assert_eq!(scene.worker.wait_exit(Duration::from_secs(3)).await, Exit::Code(1));
    assert!(asked.elapsed() < Duration::from_secs(3));
    scene.amqp.wait_ready("callbacks.compliance", 1, LIMIT).await;
}

#[tokio::test]
async fn a_stop_limit_that_ends_gives_the_event_back() {
    let receiver = Receiver::start();
    receiver.on_path("/", [Answer::hang()]);
    let mut scene = Scene::start_with(&busy_endpoint(&receiver), &[("CALLBACKD__WORKER__STOP_TIMEOUT", "1s")]).await;
    publish(&scene, 0..1).await;
    receiver.wait_for(1, LIMIT).await;
    scene.worker.sigterm();
    assert_eq!(scene.worker.wait_exit(LIMIT).await, Exit::Code(0));
    scene.amqp.wait_ready("callbacks.compliance", 1, LIMIT).await;
}

#[tokio::test]
async fn a_connection_cut_while_a_confirm_is_pending_loses_no_retry() {
    let receiver = Receiver::start();
    receiver.on_path("/", [503, 200]);
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let url = vhost.url_through(proxy.address());
    let slow = "retry = { initial = \"2s\", jitter = 0.0 }";
    let scene = Scene::start_at(vhost, &url, &integrator("acme", &[endpoint("main", &receiver.url("/"), slow)]), &[]).await;
    // The first retry opens the channel that the second one is published on.
    scene.publish(&event("evt-0")).await;
    receiver.wait_for(2, LIMIT).await;
    scene.settled().await;
    receiver.on_path("/", [Answer::status(503).after(Duration::from_secs(1)), Answer::status(200)]);
    receiver.forget();
    scene.publish(&event("evt-1")).await;
    receiver.wait_for(1, LIMIT).await;
    // From here on the broker hears the worker, and the worker does not hear the broker: its copy is stored, the confirm is not told.
    proxy.hold_from_target(true);
    eventually("the copy is in the broker", LIMIT, async || scene.amqp.ready("callbacks.compliance.wait.2s").await == 1).await;
    proxy.cut();
    proxy.hold_from_target(false);
    let seen = receiver.wait_for(2, LONG).await;
    assert!(seen.iter().all(|one| one.webhook_id() == seen[0].webhook_id()));
    scene.settled().await;
    let lost = scene.worker.metric("callbackd_broker_reconnects_total", &[]).await.unwrap_or_default();
    assert!(lost >= 1.0, "the cut was noticed");
    assert!(receiver.count() <= 4, "the original and its copy at most: {}", receiver.count());
}

#[tokio::test]
async fn a_deleted_queue_is_made_again_and_consumed() {
    let receiver = Receiver::start();
    let scene = Scene::start(&busy_endpoint(&receiver)).await;
    scene.amqp.delete_queue("callbacks.compliance").await;
    scene.worker.wait_for_metric("callbackd_broker_reconnects_total", &[("link", "callbacks.compliance")], 1.0, LIMIT).await;
    eventually("ready again", LIMIT, async || scene.worker.admin("/readyz").await.is_ok_and(|(status, _)| status == 200)).await;
    publish(&scene, 0..1).await;
    receiver.wait_for(1, LIMIT).await;
    scene.settled().await;
}

#[tokio::test]
async fn a_deleted_rung_is_made_again_and_the_retry_is_not_lost() {
    let receiver = Receiver::start();
    receiver.on_path("/", [503, 200]);
    let scene = Scene::start(&busy_endpoint(&receiver)).await;
    for queue in scene.vhost.queue_names().await.iter().filter(|name| name.starts_with("callbacks.compliance.wait.")) {
        scene.amqp.delete_queue(queue).await;
    }
    publish(&scene, 0..1).await;
    receiver.wait_for(2, LIMIT).await;
    scene.settled().await;
    assert!(scene.worker.metric("callbackd_publish_failures_total", &[]).await.unwrap_or_default() >= 1.0, "the return was noticed");
}

/// Tests that start a broker of their own: one at a time, see `.config/nextest.toml`.
mod private_node {
    use super::*;

    async fn on_a_node_of_its_own(receiver: &Receiver) -> (PrivateNode, Worker, String) {
        let node = PrivateNode::start().await;
        let url = node.url();
        let mut worker = Worker::start(&scene::config(&url), &busy_endpoint(receiver));
        worker.wait_ready().await;
        (node, worker, url)
    }

    async fn publish_to(url: &str, ids: std::ops::Range<usize>) {
        let amqp = support::Amqp::connect(url).await;
        for n in ids {
            amqp.publish_event("compliance.events", "event", &event(&format!("evt-{n}"))).await;
        }
    }

    #[tokio::test]
    async fn a_broker_stopped_or_killed_under_load_and_started_again_loses_nothing() {
        let receiver = Receiver::start();
        receiver.on_path("/", [Answer::status(200).after(Duration::from_millis(5))]);
        let (node, mut worker, url) = on_a_node_of_its_own(&receiver).await;
        let (each, mut total, mut faults) = (1500, 0, 0);
        for kill in [false, true] {
            publish_to(&url, total..total + each).await;
            receiver.wait("a third of the events", LONG, |seen| delivered(seen).len() >= total + each / 3).await;
            if kill {
                node.kill().await
            } else {
                node.stop().await
            }
            eventually("readiness is red", LIMIT, async || worker.admin("/readyz").await.is_ok_and(|(status, _)| status == 503)).await;
            node.start_again().await;
            worker.wait_ready().await;
            total += each;
            faults += 1;
            let duplicates = all_arrive(&receiver, total).await;
            println!("{duplicates} duplicates after {faults} faults");
            assert!(duplicates <= faults * (MAX_IN_FLIGHT + ACKS_ON_THEIR_WAY), "{duplicates} duplicates");
        }
        let amqp = support::Amqp::connect(&url).await;
        eventually("the queue is empty", LIMIT, async || amqp.ready("callbacks.compliance").await == 0).await;
        assert_eq!(worker.exit(), None, "the worker never ended");
    }

    #[tokio::test]
    async fn a_broker_alarm_pauses_the_worker_and_fails_nothing() {
        let receiver = Receiver::start();
        receiver.on_path("/", [503]);
        let (node, worker, url) = on_a_node_of_its_own(&receiver).await;
        publish_to(&url, 0..1).await;
        receiver.wait_for(1, LIMIT).await;
        node.ctl(&["set_vm_memory_high_watermark", "0.00001"]).await;
        worker.wait_for_metric("callbackd_broker_blocked", &[], 1.0, LONG).await;
        assert_eq!(worker.admin("/readyz").await.unwrap().0, 503);
        receiver.on_path("/", [200]);
        receiver.forget();
        node.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await;
        receiver.wait_for(1, LONG).await;
        eventually("ready again", LIMIT, async || worker.admin("/readyz").await.is_ok_and(|(status, _)| status == 200)).await;
        assert_eq!(worker.metric("callbackd_publish_failures_total", &[]).await.unwrap_or_default(), 0.0, "an alarm is no failure");
    }
}
