//! The worker end to end: from the exchange to the integrator, with the built program, a real RabbitMQ and real HTTP.

mod scene;
mod support;

use std::time::Duration;

use scene::{LIMIT, Scene, endpoint, event, integrator};
use support::{Answer, Receiver, eventually};

#[tokio::test]
async fn an_event_is_delivered_to_its_integrator_in_the_format_it_chose() {
    let receiver = Receiver::start();
    let classic = endpoint("old", &receiver.url("/classic"), "");
    let topic = endpoint("new", &receiver.url("/topic"), r#"format = "topic""#);
    let scene = Scene::start(&integrator("acme", &[classic, topic])).await;
    let body =
        r#"{"id":"evt-1","integrator":"acme","topic":"complianceRecord","data":[{"risk":1.0,"status":100,"key":"k","modified":"m"}]}"#;
    scene.publish(body).await;
    receiver.wait_for(2, LIMIT).await;
    let body_at = |path: &str| String::from_utf8(receiver.seen_at(path)[0].body.to_vec()).unwrap();
    assert_eq!(body_at("/classic"), r#"[{"status":100,"key":"k","modified":"m"}]"#);
    assert_eq!(
        body_at("/topic"),
        r#"[{"topic":"complianceRecord","complianceRecord":[{"risk":1.0,"status":100,"key":"k","modified":"m"}]}]"#
    );
    let seen = &receiver.seen_at("/topic")[0];
    assert_eq!((seen.method.as_str(), seen.header("content-type")), ("POST", "application/json"));
    assert_eq!(seen.header("user-agent"), concat!("callbackd/", env!("CARGO_PKG_VERSION")));
    assert_eq!((seen.header("callback-event-ids"), seen.header("callback-attempt")), ("evt-1", "1"));
    assert_ne!(seen.webhook_id(), receiver.seen_at("/classic")[0].webhook_id(), "each endpoint has message ids of its own");
    scene.settled().await;
}

#[tokio::test]
async fn retries_after_503_then_delivers_under_the_same_id() {
    let receiver = Receiver::start();
    receiver.on_path("/", [503, 503, 200]);
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")])).await;
    scene.publish(&event("evt-1")).await;
    let seen = receiver.wait_for(3, LIMIT).await;
    assert!(seen.iter().all(|one| one.webhook_id() == seen[0].webhook_id() && one.body == seen[0].body));
    assert_eq!(seen.iter().map(|one| one.header("callback-attempt")).collect::<Vec<_>>(), ["1", "2", "3"]);
    let waits: Vec<Duration> = seen.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(waits[0] >= Duration::from_millis(160) && waits[1] >= Duration::from_millis(320), "200 ms and 400 ms less a fifth: {waits:?}");
    scene.settled().await;
    let attempts = scene.log_lines("attempt");
    let verdicts: Vec<_> = attempts.iter().map(|line| line["verdict"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(verdicts, ["retry", "retry", "delivered"], "one line for each attempt");
    assert_eq!(scene.worker.metric("callbackd_attempts_total", &[("class", "5xx")]).await, Some(2.0));
    assert_eq!(scene.worker.metric("callbackd_attempts_total", &[("verdict", "delivered")]).await, Some(1.0));
}

#[tokio::test]
async fn retry_after_is_never_undercut_in_seconds_or_as_a_date() {
    let receiver = Receiver::start();
    receiver.on_path("/seconds", [Answer::status(429).retry_after(2), Answer::status(200)]);
    let in_three = std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(callbackd::clock::now().seconds()).unwrap() + 3);
    receiver.on_path("/date", [Answer::status(503).retry_after(httpdate::fmt_http_date(in_three)), Answer::status(200)]);
    receiver.on_path("/other", [Answer::status(500).retry_after(3600), Answer::status(200)]);
    let endpoints = ["seconds", "date", "other"].map(|id| endpoint(id, &receiver.url(&format!("/{id}")), ""));
    let scene = Scene::start(&integrator("acme", &endpoints)).await;
    scene.publish(&event("evt-1")).await;
    for path in ["/seconds", "/date", "/other"] {
        receiver.wait_for_at(path, 2, LIMIT).await;
    }
    let seconds = receiver.seen_at("/seconds");
    assert!(seconds[1].at - seconds[0].at >= Duration::from_secs(2));
    let date = receiver.seen_at("/date");
    let asked = i64::try_from(in_three.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap();
    assert!(date[1].time.millis() >= asked, "came {} ms early", asked - date[1].time.millis());
    let other = receiver.seen_at("/other");
    assert!(other[1].at - other[0].at < Duration::from_secs(5), "only 429 and 503 count");
    scene.settled().await;
}

#[tokio::test]
async fn a_retry_after_longer_than_the_ladder_takes_several_hops_and_one_attempt() {
    let receiver = Receiver::start();
    receiver.on_path("/", [Answer::status(503).retry_after(5), Answer::status(200)]);
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")])).await;
    scene.publish(&event("evt-1")).await;
    let seen = receiver.wait_for(2, LIMIT).await;
    assert!(seen[1].at - seen[0].at >= Duration::from_secs(5), "the longest rung is 2 s");
    assert_eq!(seen[1].header("callback-attempt"), "2");
    scene.settled().await;
}

#[tokio::test]
async fn dead_after_exhaustion_with_its_history_and_its_bytes() {
    let receiver = Receiver::start();
    receiver.on_path("/", [500]);
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "retry = { max_attempts = 3 }")])).await;
    let body = event("evt-1");
    scene.publish(&body).await;
    let letters = scene.amqp.drain_when("callbacks.dead", 1, LIMIT).await;
    assert_eq!(receiver.count(), 3);
    assert_eq!(letters[0].body, body.as_bytes());
    for (header, value) in [
        ("x-callback-reason", "exhausted"),
        ("x-callback-endpoint", "main"),
        ("x-callback-integrator", "acme"),
        ("x-callback-event-id", "evt-1"),
        ("x-callback-attempts", "3"),
        ("x-callback-last-status", "500"),
        ("x-callback-last-error", "answered 500"),
        ("x-callback-source", "compliance"),
    ] {
        assert_eq!(letters[0].header(header).as_deref(), Some(value), "{header}");
    }
    let time = |header: &str| letters[0].header(header).and_then(|text| text.parse::<i64>().ok()).unwrap_or_else(|| panic!("{header}"));
    assert!(time("x-callback-first-attempt-at") < time("x-callback-last-attempt-at"));
    assert!(time("x-callback-last-attempt-at") <= time("x-callback-dead-at"));
    scene.settled().await;
}

#[tokio::test]
async fn dead_when_the_next_attempt_would_be_too_late() {
    let receiver = Receiver::start();
    receiver.on_path("/", [500]);
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), r#"retry = { max_age = "1s" }"#)])).await;
    scene.publish(&event("evt-1")).await;
    let letters = scene.amqp.drain_when("callbacks.dead", 1, LIMIT).await;
    assert_eq!(letters[0].header("x-callback-reason").as_deref(), Some("expired"));
    let seen = receiver.seen();
    assert!(seen.len() >= 2 && seen[seen.len() - 1].at - seen[0].at <= Duration::from_millis(1500), "{} attempts", seen.len());
    scene.settled().await;
}

#[tokio::test]
async fn a_410_is_final_at_once() {
    let receiver = Receiver::start();
    receiver.on_path("/", [410]);
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")])).await;
    scene.publish(&event("evt-1")).await;
    let letters = scene.amqp.drain_when("callbacks.dead", 1, LIMIT).await;
    assert_eq!(letters[0].header("x-callback-reason").as_deref(), Some("gone"));
    assert_eq!(receiver.count(), 1);
    scene.settled().await;
}

#[tokio::test]
async fn of_two_endpoints_the_one_that_has_it_is_not_called_again() {
    let receiver = Receiver::start();
    receiver.on_path("/bad", [503, 503, 503, 200]);
    let endpoints = [endpoint("good", &receiver.url("/good"), ""), endpoint("bad", &receiver.url("/bad"), "")];
    let scene = Scene::start(&integrator("acme", &endpoints)).await;
    scene.publish(&event("evt-1")).await;
    receiver.wait_for_at("/bad", 4, LIMIT).await;
    scene.settled().await;
    assert_eq!((receiver.seen_at("/good").len(), receiver.seen_at("/bad").len()), (1, 4));
}

#[tokio::test]
async fn no_more_requests_at_one_time_than_the_endpoint_allows() {
    let receiver = Receiver::start();
    receiver.on_path("/", [Answer::status(200).after(Duration::from_millis(30))]);
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "max_in_flight = 3")])).await;
    for n in 0..40 {
        scene.publish(&event(&format!("evt-{n}"))).await;
    }
    let seen = receiver.wait_for(40, LIMIT).await;
    let most = seen.iter().map(|one| one.at_once).max();
    assert_eq!(most, Some(3), "as many as allowed and not one more");
    scene.settled().await;
}

#[tokio::test]
async fn a_topic_that_the_endpoint_does_not_take_is_skipped_counted_and_logged() {
    let receiver = Receiver::start();
    let endpoints = [
        endpoint("classic", &receiver.url("/"), ""),
        endpoint("some", &receiver.url("/"), "format = \"topic\"\ntopics = [\"mismatches\"]"),
    ];
    let scene = Scene::start(&integrator("acme", &endpoints)).await;
    scene.publish(r#"{"id":"evt-1","integrator":"acme","topic":"identResult","data":{"status":"success"}}"#).await;
    scene.publish(r#"{"id":"evt-2","integrator":"acme","topic":"complianceRecord","data":[]}"#).await;
    for reason in ["no_classic_form", "no_records"] {
        scene.worker.wait_for_metric("callbackd_deliveries_skipped_total", &[("reason", reason)], 1.0, LIMIT).await;
    }
    scene.worker.wait_for_metric("callbackd_deliveries_skipped_total", &[("reason", "topic_not_wanted")], 2.0, LIMIT).await;
    scene.settled().await;
    assert_eq!(receiver.count(), 0);
    assert_eq!(scene.log_lines("skipped").len(), 4);
}

#[tokio::test]
async fn trace_context_and_metadata_travel_in_headers_and_signatures_verify() {
    let receiver = Receiver::start();
    let secrets = r#"signing_secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
headers = { x-acme-signature = "static-secret" }"#;
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), &format!("format = \"topic\"\n{secrets}"))])).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = scene::headers(&[("integrator", "acme"), ("traceparent", parent), ("tracestate", "a=b")]);
    let properties =
        lapin::BasicProperties::default().with_message_id("evt-bare".into()).with_timestamp(1_756_881_488).with_headers(headers);
    let body = br#"{"topic":"identResult","kyc":"WEBID","reason":null,"status":"success"}"#;
    scene.amqp.publish("ident.events", "identResult", properties, body).await;
    let seen = receiver.wait_for(1, LIMIT).await.remove(0);
    assert_eq!(seen.body, format!("[{}]", std::str::from_utf8(body).unwrap()));
    assert_eq!((seen.header("traceparent"), seen.header("tracestate")), (parent, "a=b"));
    assert_eq!((seen.header("callback-event-ids"), seen.header("callback-integrator")), ("evt-bare", "acme"));
    assert_eq!(seen.header("callback-occurred-at"), "2025-09-03T06:38:08.000Z");
    assert_eq!(seen.header("x-acme-signature"), "static-secret");
    let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];
    let secrets = secrets.map(|text| callbackd::domain::sign::SigningSecret::parse(text).unwrap());
    let at = callbackd::domain::time::Timestamp::from_millis(seen.header("webhook-timestamp").parse::<i64>().unwrap() * 1000);
    let expected = callbackd::domain::sign::sign(&secrets, seen.webhook_id(), at, &seen.body);
    assert_eq!(Some(seen.header("webhook-signature").to_owned()), expected);
    scene.settled().await;
}

#[tokio::test]
async fn nothing_personal_and_no_secret_is_written_to_the_log_or_the_metrics() {
    let receiver = Receiver::start();
    receiver.on_path("/hook/PATHCANARY?token=QUERYCANARY", [Answer::status(500).body("ANSWERCANARY"), Answer::status(200)]);
    let url = receiver.url("/hook/PATHCANARY?token=QUERYCANARY");
    let more = "format = \"topic\"\nheaders = { x-acme-signature = \"HEADERCANARY\" }\nsigning_secrets = [\"whsec_Q0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZ\"]";
    let down = endpoint("down", "http://127.0.0.1:1/hook/PATHCANARY?token=QUERYCANARY", "retry = { max_attempts = 2 }");
    let scene = Scene::start_with(&integrator("acme", &[endpoint("main", &url, more), down]), &[("RUST_LOG", "trace")]).await;
    scene
        .publish(r#"{"id":"evt-1","integrator":"acme","topic":"complianceRecord","data":[{"status":1,"key":"BODYCANARY","modified":"m"}]}"#)
        .await;
    scene.publish("BODYCANARY no json").await;
    receiver.wait_for(2, LIMIT).await;
    scene.amqp.wait_ready("callbacks.dead", 1, LIMIT).await;
    scene.amqp.wait_ready("callbacks.rejected", 1, LIMIT).await;
    let written = format!("{}{}", scene.worker.log_text(), scene.worker.metrics().await);
    assert!(written.contains("evt-1"), "the event's id is there");
    for canary in ["PATHCANARY", "QUERYCANARY", "BODYCANARY", "HEADERCANARY", "ANSWERCANARY", "Q0FOQVJZ", "guest:guest"] {
        assert!(!written.contains(canary), "{canary} is in the log or the metrics");
    }
    let letter = scene.amqp.drain("callbacks.dead").await.remove(0);
    let headers = format!("{:?}", letter.properties);
    assert!(!headers.contains("CANARY"), "a dead letter's headers hold no secrets: {headers}");
}

#[tokio::test]
async fn probes_say_how_it_is() {
    let scene = Scene::start("").await;
    assert_eq!(scene.worker.admin("/livez").await.unwrap().0, 200);
    assert_eq!(scene.worker.admin("/readyz").await.unwrap().0, 200);
    // The API may list connections that are gone, and not yet those that are meant.
    eventually("a connection is made again", LIMIT, async || {
        scene.vhost.close_all_connections().await;
        scene.worker.metric("callbackd_broker_reconnects_total", &[]).await.is_some_and(|count| count >= 1.0)
    })
    .await;
    eventually("ready again", LIMIT, async || scene.worker.admin("/readyz").await.is_ok_and(|(status, _)| status == 200)).await;
}
