//! Events that are no deliveries: each ends among the rejected, whole, with a reason.

mod scene;
mod support;

use std::time::Duration;

use lapin::types::AMQPValue;
use scene::{LIMIT, Scene, endpoint, event, headers, integrator, properties};
use support::{Receiver, eventually};

#[tokio::test]
async fn each_reason_with_the_bytes_and_properties_as_they_came() {
    let receiver = Receiver::start();
    let scene =
        Scene::start_with(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")]), &[("CALLBACKD__WORKER__MAX_BODY", "2KiB")])
            .await;
    let large = event(&"x".repeat(900)).replace("\"modified\":\"m\"", &format!("\"modified\":\"{}\"", "m".repeat(1500)));
    let cases: [(&str, &[u8], &str, &str); 8] = [
        ("not-json", b"{\"id\":", "undecodable", "the body is not JSON: it ends too early"),
        ("not-utf8", b"{\"id\":\"\xff\"}", "undecodable", "the body is not JSON: not UTF-8 at byte 7"),
        ("no-object", b"[1]", "undecodable", "the body is not a JSON object"),
        (
            "no-integrator",
            br#"{"topic":"t","data":[]}"#,
            "undecodable",
            "no integrator: neither member `integrator` nor AMQP header `integrator` is given",
        ),
        (
            "no-topic",
            br#"{"integrator":"acme","data":[]}"#,
            "undecodable",
            "no topic: neither member `topic` nor AMQP property `type` is given",
        ),
        ("scalar", br#"{"integrator":"acme","topic":"t","data":5}"#, "undecodable", "member `data` is neither an array nor an object"),
        ("too-large", large.as_bytes(), "too_large", "at most 2048 are allowed"),
        (
            "unrenderable",
            br#"{"integrator":"acme","topic":"complianceRecord","data":[{"status":"100","key":"k","modified":"m"}]}"#,
            "unrenderable",
            "record 0: `status` is not a number",
        ),
    ];
    for (id, body, _, _) in cases {
        let sent = properties()
            .with_message_id(id.into())
            .with_app_id("upstream".into())
            .with_correlation_id("c-1".into())
            .with_headers(headers(&[("x-own", "kept")]));
        scene.amqp.publish("compliance.events", "a.routing.key", sent, body).await;
    }
    let rejected = scene.amqp.drain_when("callbacks.rejected", 8, LIMIT).await;
    for (id, body, reason, detail) in cases {
        let message = rejected.iter().find(|message| message.properties.message_id().as_ref().is_some_and(|found| found.as_str() == id));
        let message = message.unwrap_or_else(|| panic!("{id} is not among the rejected"));
        assert_eq!(message.body, body, "{id}");
        assert_eq!(message.header("x-callback-reason").as_deref(), Some(reason), "{id}");
        let found = message.header("x-callback-detail").unwrap_or_default();
        assert!(found.ends_with(detail), "{id}: {found}");
        assert_eq!(message.properties.app_id().as_ref().map(|text| text.as_str()), Some("upstream"));
        assert_eq!(message.properties.correlation_id().as_ref().map(|text| text.as_str()), Some("c-1"));
        assert_eq!(message.properties.content_type().as_ref().map(|text| text.as_str()), Some("application/json"));
        assert_eq!(message.header("x-own").as_deref(), Some("kept"));
        assert_eq!(message.header("x-callback-orig-exchange").as_deref(), Some("compliance.events"));
        assert_eq!(message.header("x-callback-orig-routing-key").as_deref(), Some("a.routing.key"));
    }
    assert_eq!(receiver.count(), 0);
    scene.settled().await;
    assert_eq!(scene.worker.metric("callbackd_events_rejected_total", &[]).await, Some(8.0));
}

#[tokio::test]
async fn an_event_that_fits_one_of_two_endpoints_is_delivered_there_and_rejected_for_the_other() {
    let receiver = Receiver::start();
    let endpoints = [endpoint("classic", &receiver.url("/classic"), ""), endpoint("topic", &receiver.url("/topic"), "format = \"topic\"")];
    let scene = Scene::start(&integrator("acme", &endpoints)).await;
    scene.publish(r#"{"id":"evt-1","integrator":"acme","topic":"complianceRecord","data":[{"status":100,"key":5,"modified":"m"}]}"#).await;
    receiver.wait_for_at("/topic", 1, LIMIT).await;
    let rejected = scene.amqp.drain_when("callbacks.rejected", 1, LIMIT).await;
    assert_eq!(rejected[0].header("x-callback-endpoint").as_deref(), Some("classic"));
    assert_eq!(rejected[0].header("x-callback-detail").as_deref(), Some("record 0: `key` is not a string"));
    scene.settled().await;
    assert_eq!(receiver.seen_at("/classic").len(), 0);
}

#[tokio::test]
async fn an_unknown_integrator_that_appears_in_time_gets_its_event() {
    let receiver = Receiver::start();
    let scene = Scene::start_with("", &[("CALLBACKD__WORKER__UNKNOWN_INTEGRATOR_WAIT", "10m")]).await;
    scene.publish(&event("evt-1")).await;
    scene.worker.wait_for_metric("callbackd_waits_total", &[("cause", "configuration")], 2.0, LIMIT).await;
    assert_eq!(scene.amqp.ready("callbacks.rejected").await, 0);
    scene.worker.write_integrators(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")]));
    let seen = receiver.wait_for(1, LIMIT).await;
    assert_eq!(seen[0].header("callback-attempt"), "1", "waiting for the configuration is no attempt");
    scene.settled().await;
}

#[tokio::test]
async fn an_unknown_integrator_is_rejected_when_patience_ends() {
    let scene = Scene::start("").await;
    let body = event("evt-1");
    scene.publish(&body).await;
    let rejected = scene.amqp.drain_when("callbacks.rejected", 1, LIMIT).await;
    assert_eq!(rejected[0].body, body.as_bytes());
    assert_eq!(rejected[0].header("x-callback-reason").as_deref(), Some("unknown_integrator"));
    assert_eq!(rejected[0].header("x-callback-integrator").as_deref(), Some("acme"));
    let metrics = scene.worker.metrics().await;
    assert!(!metrics.contains("acme"), "a key that nobody configured is no label");
    scene.settled().await;
}

#[tokio::test]
async fn a_delivery_whose_endpoint_was_removed_becomes_a_dead_letter() {
    let receiver = Receiver::start();
    receiver.on_path("/", [503]);
    let endpoints = [endpoint("stays", &receiver.url("/ok"), ""), endpoint("goes", &receiver.url("/"), "")];
    let scene = Scene::start(&integrator("acme", &endpoints)).await;
    scene.publish(&event("evt-1")).await;
    receiver.wait_for_at("/", 1, LIMIT).await;
    scene.worker.write_integrators(&integrator("acme", &endpoints[..1]));
    let letters = scene.amqp.drain_when("callbacks.dead", 1, LIMIT).await;
    assert_eq!(letters[0].header("x-callback-reason").as_deref(), Some("endpoint_removed"));
    assert_eq!(letters[0].header("x-callback-endpoint").as_deref(), Some("goes"));
    assert_eq!(receiver.seen_at("/ok").len(), 1);
    scene.settled().await;
}

#[tokio::test]
async fn headers_of_upstream_that_look_like_ours_are_not_believed() {
    let receiver = Receiver::start();
    receiver.on_path("/", [503, 200]);
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "retry = { max_attempts = 2 }")])).await;
    let mut forged = headers(&[("x-callback-endpoint", "nowhere"), ("x-callback-reason", "gone")]);
    forged.insert("x-callback-attempts".into(), AMQPValue::LongLongInt(99));
    forged.insert("x-callback-received-at".into(), AMQPValue::LongLongInt(1));
    scene.amqp.publish("compliance.events", "k", properties().with_headers(forged), event("evt-1").as_bytes()).await;
    let seen = receiver.wait_for(2, LIMIT).await;
    assert_eq!(seen.iter().map(|one| one.header("callback-attempt")).collect::<Vec<_>>(), ["1", "2"]);
    scene.settled().await;
}

#[tokio::test]
async fn properties_that_must_not_be_copied_are_moved_and_the_retry_survives() {
    let receiver = Receiver::start();
    receiver.on_path("/", [503]);
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "retry = { max_attempts = 2 }")])).await;
    let mut table = headers(&[("x-own", "kept")]);
    table.insert("CC".into(), AMQPValue::FieldArray(vec![AMQPValue::LongString("nowhere".into())].into()));
    // The broker lets a publisher set only its own name; that copy, published by another user, would be refused.
    let sent = properties().with_expiration("60000".into()).with_priority(9).with_user_id("guest".into()).with_headers(table);
    scene.amqp.publish("compliance.events", "k", sent, event("evt-1").as_bytes()).await;
    let letter = scene.amqp.drain_when("callbacks.dead", 1, LIMIT).await.remove(0);
    let kept = &letter.properties;
    assert!(kept.expiration().is_none() && kept.user_id().is_none() && kept.priority().is_none(), "{kept:?}");
    for (header, value) in [("x-callback-orig-expiration", "60000"), ("x-callback-orig-user-id", "guest"), ("x-own", "kept")] {
        assert_eq!(letter.header(header).as_deref(), Some(value), "{header}");
    }
    for stripped in ["CC", "x-death", "x-first-death-queue"] {
        assert!(!kept.headers().as_ref().is_some_and(|table| table.inner().keys().any(|key| key.as_str() == stripped)), "{stripped}");
    }
    assert_eq!(*kept.delivery_mode(), Some(2));
    scene.settled().await;
}

#[tokio::test]
async fn headers_that_leave_no_room_for_ours_are_moved_by_the_broker() {
    let receiver = Receiver::start();
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")])).await;
    let sent = properties().with_headers(headers(&[("x-huge", &"h".repeat(126_000))]));
    scene.amqp.publish("compliance.events", "k", sent, event("evt-1").as_bytes()).await;
    scene.publish(&event("evt-2")).await;
    receiver.wait_for(1, LIMIT).await;
    let rejected = scene.amqp.drain_when("callbacks.rejected", 1, LIMIT).await;
    assert_eq!(rejected[0].body, event("evt-1").as_bytes());
    scene.settled().await;
    assert_eq!(
        scene.worker.metric("callbackd_broker_reconnects_total", &[]).await.unwrap_or_default(),
        0.0,
        "no connection was lost over it"
    );
}

#[tokio::test]
async fn a_poison_frame_is_moved_to_the_rejected_and_good_events_keep_flowing() {
    let receiver = Receiver::start();
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")])).await;
    let before = 20;
    for n in 0..before {
        scene.publish(&event(&format!("evt-{n}"))).await;
    }
    support::publish_poison(&scene.vhost.url(), "callbacks.compliance").await;
    for n in before..2 * before {
        scene.publish(&event(&format!("evt-{n}"))).await;
    }
    let limit = Duration::from_secs(90);
    let distinct =
        |seen: &[support::Seen]| seen.iter().map(|one| one.webhook_id().to_owned()).collect::<std::collections::BTreeSet<_>>().len();
    receiver.wait("all good events", limit, |seen| distinct(seen) == 2 * before).await;
    eventually("the poison is rejected", limit, async || (scene.amqp.ready("callbacks.rejected").await == 1).then_some(())).await;
}

#[tokio::test]
async fn headers_nested_as_deep_as_a_frame_allows_end_nothing_but_their_message() {
    let receiver = Receiver::start();
    let mut scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")])).await;
    for depth in [30, 300, 3000, 20_000] {
        support::publish_nested(&scene.vhost.url(), "callbacks.compliance", depth).await;
    }
    scene.publish(&event("evt-1")).await;
    receiver.wait_for(1, LIMIT).await;
    eventually("all four are rejected", LIMIT, async || scene.amqp.ready("callbacks.rejected").await == 4).await;
    assert_eq!(scene.worker.exit(), None, "the process lives");
    let lost = scene.worker.metric("callbackd_broker_reconnects_total", &[]).await.unwrap_or_default();
    assert_eq!(lost, 0.0, "no connection was lost over it");
}
