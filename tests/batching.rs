//! Several events in one callback: what shares a request, in which order, and how the guilty one of a failing batch is found.

mod scene;
mod support;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use scene::{LIMIT, Scene, endpoint, event, event_for, integrator};
use support::{Answer, Receiver, Seen};

/// The ids of the events of a request.
fn ids(seen: &Seen) -> Vec<String> {
    seen.header("callback-event-ids").split(',').map(str::to_owned).collect()
}

fn all_ids(seen: &[Seen]) -> BTreeSet<String> {
    seen.iter().flat_map(ids).collect()
}

/// One request at a time, the first of which takes long enough for a line to form.
fn slow_first(receiver: &Receiver) {
    receiver.on_path("/", [Answer::status(200).after(Duration::from_millis(1500)), Answer::status(200)]);
}

#[tokio::test]
async fn a_busy_endpoint_gets_what_waits_in_one_callback_in_order_and_of_all_topics() {
    let receiver = Receiver::start();
    slow_first(&receiver);
    let more = "format = \"topic\"\nmax_in_flight = 1\nbatch = { max_events = 10 }";
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), more)])).await;
    scene.publish(&event("first")).await;
    receiver.wait_for(1, LIMIT).await;
    for n in 0..4 {
        scene.publish(&event(&format!("record-{n}"))).await;
        scene.publish(&event_for("acme", &format!("result-{n}"), "identResult", &format!(r#"{{"n":{n}}}"#))).await;
    }
    let seen = receiver.wait_for(2, LIMIT).await;
    scene.settled().await;
    assert_eq!(receiver.count(), 2);
    assert_eq!(ids(&seen[0]), ["first"], "an idle endpoint is told at once");
    let expected: Vec<String> = (0..4).flat_map(|n| [format!("record-{n}"), format!("result-{n}")]).collect();
    assert_eq!(ids(&seen[1]), expected);
    let entries: Vec<String> = (0..4)
        .flat_map(|n| {
            [
                format!(r#"{{"topic":"complianceRecord","complianceRecord":[{{"status":100,"key":"record-{n}","modified":"m"}}]}}"#),
                format!(r#"{{"topic":"identResult","n":{n}}}"#),
            ]
        })
        .collect();
    assert_eq!(seen[1].body, format!("[{}]", entries.join(",")));
    assert_ne!(seen[0].webhook_id(), seen[1].webhook_id());
}

#[tokio::test]
async fn a_classic_batch_has_the_records_side_by_side_and_skips_what_has_none() {
    let receiver = Receiver::start();
    slow_first(&receiver);
    let more = "max_in_flight = 1\nbatch = { max_events = 10 }";
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), more)])).await;
    scene.publish(&event("first")).await;
    receiver.wait_for(1, LIMIT).await;
    scene.publish(&event("a")).await;
    scene.publish(&event_for("acme", "empty", "complianceRecord", "[]")).await;
    scene.publish(&event_for("acme", "broken", "complianceRecord", "[1]")).await;
    scene.publish(&event("b")).await;
    let seen = receiver.wait_for(2, LIMIT).await;
    scene.amqp.drain_when("callbacks.rejected", 1, LIMIT).await;
    scene.settled().await;
    assert_eq!(seen[1].body, r#"[{"status":100,"key":"a","modified":"m"},{"status":100,"key":"b","modified":"m"}]"#);
    assert_eq!((ids(&seen[1]), receiver.count()), (vec!["a".to_owned(), "b".to_owned()], 2));
}

#[tokio::test]
async fn a_request_waits_for_more_only_as_long_as_it_may() {
    let receiver = Receiver::start();
    let more = "format = \"topic\"\nbatch = { max_events = 3, max_wait = \"1s\" }";
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), more)])).await;
    scene.publish_all((0..5).map(|n| event(&format!("evt-{n}")))).await;
    let seen = receiver.wait_for(2, LIMIT).await;
    scene.settled().await;
    assert_eq!(seen.iter().map(|one| ids(one).len()).collect::<Vec<_>>(), [3, 2], "a full one goes at once");
    assert!(seen[1].at - seen[0].at >= Duration::from_millis(800), "{:?}", seen[1].at - seen[0].at);
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes_and_a_large_event_goes_alone() {
    let receiver = Receiver::start();
    slow_first(&receiver);
    let more = "format = \"topic\"\nmax_in_flight = 1\nbatch = { max_events = 100, max_bytes = \"10KiB\" }";
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), more)])).await;
    let sized = |id: &str, size: usize| event_for("acme", id, "identResult", &format!(r#"{{"x":"{}"}}"#, "x".repeat(size)));
    scene.publish(&event("first")).await;
    receiver.wait_for(1, LIMIT).await;
    for (id, size) in [("a", 4000), ("b", 4000), ("c", 4000), ("large", 50_000), ("d", 100)] {
        scene.publish(&sized(id, size)).await;
    }
    let seen = receiver.wait_for(5, LIMIT).await;
    scene.settled().await;
    let batches: Vec<String> = seen[1..].iter().map(|one| ids(one).join(" ")).collect();
    assert_eq!(batches, ["a b", "c", "large", "d"]);
}

#[tokio::test]
async fn halving_isolates_the_poison_event_and_its_neighbours_are_delivered() {
    for (status, attempts) in [(422, 2), (500, 3)] {
        let receiver = Receiver::start();
        slow_first(&receiver);
        receiver.on_text("poison", status);
        let more = format!(
            "format = \"topic\"\nmax_in_flight = 1\nbatch = {{ max_events = 16 }}\nretry = {{ max_attempts = {attempts}, max_delay = \"400ms\" }}"
        );
        let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), &more)])).await;
        scene.publish(&event("first")).await;
        receiver.wait_for(1, LIMIT).await;
        for n in 0..15 {
            scene.publish(&event(&format!("evt-{n}"))).await;
            if n == 6 {
                scene.publish(&event("poison")).await;
            }
        }
        let letters = scene.amqp.drain_when("callbacks.dead", 1, LIMIT).await;
        scene.settled().await;
        assert_eq!(letters[0].header("x-callback-event-id").as_deref(), Some("poison"));
        let seen = receiver.seen();
        let good: Vec<&Seen> = seen.iter().filter(|one| !one.header("callback-event-ids").contains("poison")).collect();
        let mut told: HashMap<String, usize> = HashMap::new();
        good.iter().flat_map(|one| ids(one)).for_each(|id| *told.entry(id).or_default() += 1);
        assert_eq!(told.len(), 16, "all but the poison: {told:?}");
        assert!(told.values().all(|times| *times == 1), "{told:?}");
        let last = seen.iter().rfind(|one| one.header("callback-event-ids").contains("poison")).unwrap();
        assert_eq!(ids(last), ["poison"], "it is given up only when it stood alone");
        assert_eq!(scene.amqp.ready("callbacks.dead").await, 0, "none of its neighbours died with it");
        assert_eq!(all_ids(&seen).len(), 17);
    }
}
