//! `/api/v1` of a running worker: endpoints are paused, pinged and watched.

mod scene;
mod support;

use std::time::Duration;

use scene::{LIMIT, Scene, endpoint, event, integrator};
use serde_json::{Value, json};
use support::{Answer, Exit, Receiver, eventually};

/// Asks the worker's API; the answer and its status.
async fn ask(scene: &Scene, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut request = client.request(method.parse().expect("a method"), scene.worker.admin_url(path));
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a text");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test]
async fn a_paused_endpoint_is_not_called_not_even_after_a_restart_and_loses_nothing() {
    let receiver = Receiver::start();
    let endpoints = [endpoint("main", &receiver.url("/main"), ""), endpoint("other", &receiver.url("/other"), "")];
    let mut scene = Scene::start(&integrator("acme", &endpoints)).await;
    let (status, paused) =
        ask(&scene, "POST", "/api/v1/endpoints/acme/main/pause", Some(json!({ "reason": "their maintenance", "until": "2h" }))).await;
    assert_eq!((status, &paused["standing"], &paused["paused_by"]), (200, &json!("paused"), &json!("local")), "{paused}");
    scene.publish_all((0..20).map(|n| event(&format!("evt-{n}")))).await;
    receiver.wait_for_at("/other", 20, LIMIT).await;
    scene.worker.wait_for_metric("callbackd_waits_total", &[("cause", "held")], 20.0, LIMIT).await;
    assert_eq!(scene.worker.metric("callbackd_endpoints_held", &[]).await, Some(1.0));

    scene.worker.sigterm();
    assert_eq!(scene.worker.wait_exit(LIMIT).await, Exit::Code(0));
    scene.worker.start_again();
    scene.worker.wait_ready().await;
    let held = scene.worker.wait_for_log("the hold is known", LIMIT, |line| line["message"] == "endpoint held").await;
    assert_eq!((&held["integrator"], &held["endpoint"], &held["actor"]), (&json!("acme"), &json!("main"), &json!("local")));
    scene.publish(&event("evt-20")).await;
    receiver.wait_for_at("/other", 21, LIMIT).await;
    let (_, page) = ask(&scene, "GET", "/api/v1/endpoints?standing=attention", None).await;
    assert_eq!(page["endpoints"].as_array().unwrap().len(), 1, "{page}");
    assert_eq!(page["endpoints"][0]["reason"], "their maintenance");
    assert_eq!(receiver.seen_at("/main").len(), 0, "it was called though it was paused");

    let (status, resumed) = ask(&scene, "POST", "/api/v1/endpoints/acme/main/resume", None).await;
    assert_eq!((status, &resumed["standing"]), (200, &json!("working")));
    receiver.wait_for_at("/main", 21, Duration::from_secs(60)).await;
    scene.settled().await;
    let audits: Vec<Value> = scene.log_lines("audit");
    let said: Vec<(&str, &str)> = audits.iter().map(|line| (line["action"].as_str().unwrap(), line["detail"].as_str().unwrap())).collect();
    assert!(
        said[0].0 == "pause" && said[0].1.starts_with("acme/main until=") && said[0].1.ends_with("reason=\"their maintenance\""),
        "{said:?}"
    );
    assert_eq!(said[1..], [("resume", "acme/main")]);
}

#[tokio::test]
async fn a_pause_ends_at_its_time_and_one_that_makes_no_sense_is_refused() {
    let receiver = Receiver::start();
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")])).await;
    for (body, why) in [
        (json!({ "until": "yesterday" }), "neither a time"),
        (json!({ "until": "2020-01-01T00:00:00Z" }), "has passed"),
        (json!({ "reason": "x".repeat(301) }), "300 bytes"),
        (json!({ "reason": "a\nb" }), "control character"),
        (json!({ "for": "2h" }), "unknown field"),
        (json!(["x"]), "no good"),
    ] {
        let (status, answer) = ask(&scene, "POST", "/api/v1/endpoints/acme/main/pause", Some(body)).await;
        assert!(status == 400 && answer["message"].as_str().unwrap().contains(why), "{why}: {status} {answer}");
    }
    assert_eq!(ask(&scene, "POST", "/api/v1/endpoints/acme/nobody/pause", None).await.0, 404);
    assert_eq!(ask(&scene, "POST", "/api/v1/endpoints/nobody/main/pause", None).await.0, 404);
    assert_eq!(ask(&scene, "POST", "/api/v1/endpoints/acme/main/pause", Some(json!({ "until": "1s" }))).await.0, 200);
    scene.publish(&event("evt-1")).await;
    receiver.wait_for(1, LIMIT).await;
    assert_eq!(scene.log_lines("endpoint released").len(), 1);
    scene.settled().await;
}

#[tokio::test]
async fn a_pause_without_a_database_is_refused_and_says_why() {
    let receiver = Receiver::start();
    let off = [("CALLBACKD__DELIVERY_LOG__ENABLED", "false")];
    let scene = Scene::start_with(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")]), &off).await;
    let (status, answer) = ask(&scene, "POST", "/api/v1/endpoints/acme/main/pause", None).await;
    assert_eq!(status, 409);
    assert!(answer["message"].as_str().unwrap().contains("delivery_log.enabled"), "{answer}");
    assert!(scene.log_lines("audit").is_empty(), "nothing was done");
    assert_eq!(scene.worker.metric("callbackd_holds_known", &[]).await, Some(1.0), "there are none");
}

#[tokio::test]
async fn pauses_that_cannot_be_read_are_said_to_be_unknown_and_deliveries_go_on() {
    let receiver = Receiver::start();
    // Nobody listens there.
    let away = [("CALLBACKD__DELIVERY_LOG__DATABASE", "postgres://callbackd@127.0.0.1:9/callbackd")];
    let scene = Scene::start_with(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")]), &away).await;
    scene.publish(&event("evt-1")).await;
    receiver.wait_for(1, LIMIT).await;
    assert_eq!(scene.worker.metric("callbackd_holds_known", &[]).await, Some(0.0));
    assert_eq!(scene.log_lines("holds unread").len(), 1, "once");
    let (_, status) = ask(&scene, "GET", "/api/v1/status", None).await;
    assert_eq!(status["pauses_known"], false);
    let (status, answer) = ask(&scene, "POST", "/api/v1/endpoints/acme/main/pause", None).await;
    assert!(status == 503 && answer["message"].as_str().unwrap().starts_with("nothing was changed"), "{status} {answer}");
    assert!(scene.log_lines("audit").is_empty());
    for path in ["/api/v1/attempts", "/api/v1/events?q=x", "/api/v1/health", "/api/v1/endpoints/acme/main/history"] {
        assert_eq!(ask(&scene, "GET", path, None).await.0, 503, "{path}");
    }
    let (status, page) = ask(&scene, "GET", "/", None).await;
    assert!(status == 200 && page.as_str().unwrap().contains("is not known"), "{page}");
}

#[tokio::test]
async fn the_pause_of_an_endpoint_that_was_removed_is_seen_and_can_be_ended() {
    let receiver = Receiver::start();
    let both = integrator("acme", &[endpoint("main", &receiver.url("/main"), ""), endpoint("old", &receiver.url("/old"), "")]);
    let scene = Scene::start(&both).await;
    assert_eq!(ask(&scene, "POST", "/api/v1/endpoints/acme/old/pause", None).await.0, 200);
    scene.worker.write_integrators(&integrator("acme", &[endpoint("main", &receiver.url("/main"), "")]));
    scene.worker.wait_for_metric("callbackd_config_reloads_total", &[("result", "success")], 1.0, LIMIT).await;
    let (_, pauses) = ask(&scene, "GET", "/api/v1/pauses", None).await;
    assert_eq!((&pauses["known"], &pauses["pauses"][0]["is_configured"]), (&json!(true), &json!(false)), "{pauses}");
    assert_eq!(ask(&scene, "POST", "/api/v1/endpoints/acme/old/resume", None).await.0, 404);
    assert_eq!(ask(&scene, "DELETE", "/api/v1/pauses/acme/old", None).await.0, 200);
    assert_eq!(ask(&scene, "DELETE", "/api/v1/pauses/acme/old", None).await.0, 404);
    scene.worker.write_integrators(&both);
    scene.worker.wait_for_metric("callbackd_config_reloads_total", &[("result", "success")], 2.0, LIMIT).await;
    scene.publish(&event("evt-1")).await;
    receiver.wait_for_at("/old", 1, LIMIT).await;
}

#[tokio::test]
async fn a_token_that_may_only_look_sees_everything_and_changes_nothing() {
    const TOKEN: &str = "a-token-of-at-least-32-characters-to-look";
    let receiver = Receiver::start();
    let token = [
        ("CALLBACKD__ADMIN__TOKEN__0__NAME", "support"),
        ("CALLBACKD__ADMIN__TOKEN__0__SECRET", TOKEN),
        ("CALLBACKD__ADMIN__TOKEN__0__READ_ONLY", "true"),
    ];
    let scene = Scene::start_with(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")]), &token).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |method: reqwest::Method, path: &str| {
        client.request(method, scene.worker.admin_url(path)).bearer_auth(TOKEN).send().await.unwrap().status().as_u16()
    };
    for path in
        ["/api/v1/status", "/api/v1/endpoints", "/api/v1/letters/dead", "/api/v1/jobs", "/api/openapi.json", "/", "/endpoints/acme/main"]
    {
        assert_eq!(ask(reqwest::Method::GET, path).await, 200, "{path}");
    }
    for path in
        ["/api/v1/reload", "/api/v1/jobs", "/api/v1/endpoints/acme/main/pause", "/api/v1/endpoints/acme/main/ping", "/letters/dead/ask"]
    {
        assert_eq!(ask(reqwest::Method::POST, path).await, 403, "{path}");
    }
    assert!(scene.log_lines("audit").is_empty() && receiver.count() == 0);
    assert_eq!(scene.worker.metric("callbackd_api_refusals_total", &[("reason", "read_only")]).await, Some(5.0));
}

#[tokio::test]
async fn a_ping_is_signed_tells_of_nothing_and_counts_for_no_circuit() {
    let receiver = Receiver::start();
    receiver.on_path("/", [503]);
    let signed = "signing_secrets = [{ env = \"PING_SECRET\" }]";
    let secret = [("PING_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
    let scene = Scene::start_with(&integrator("acme", &[endpoint("main", &receiver.url("/"), signed)]), &secret).await;
    let (status, pong) = ask(&scene, "POST", "/api/v1/endpoints/acme/main/ping", None).await;
    assert_eq!((status, &pong["ok"], &pong["status"], &pong["error"]), (200, &json!(false), &json!(503), &json!("answered 503")));
    let seen = &receiver.seen()[0];
    assert_eq!((&*seen.body, seen.header("callback-ping"), seen.header("callback-integrator")), (&b"[]"[..], "1", "acme"));
    assert!(seen.header("webhook-id").starts_with("msg_ping_") && seen.header("webhook-signature").starts_with("v1,"));
    assert!(!seen.headers.contains_key("callback-event-ids"));
    let (_, shown) = ask(&scene, "GET", "/api/v1/endpoints/acme/main", None).await;
    assert_eq!(shown["standing"], "working");
    assert_eq!(scene.worker.metric("callbackd_circuit_openings_total", &[("integrator", "acme")]).await, None);
}

#[tokio::test]
async fn what_happens_is_watched_as_it_happens_and_a_failing_endpoint_is_seen_as_one() {
    let receiver = Receiver::start();
    receiver.on_path("/bad", [500]);
    let quick = "retry = { initial = \"100ms\", jitter = 0.0 }";
    let endpoints = [endpoint("good", &receiver.url("/good"), ""), endpoint("bad", &receiver.url("/bad"), quick)];
    let scene = Scene::start(&integrator("acme", &endpoints)).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut stream = client.get(scene.worker.admin_url("/api/v1/stream?endpoint=bad")).send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    scene.publish_all((0..12).map(|n| event(&format!("evt-{n}")))).await;
    let mut text = String::new();
    while text.matches("\"verdict\":\"retry\"").count() < 5 {
        let chunk = tokio::time::timeout(LIMIT, stream.chunk()).await.expect("something happens").unwrap().expect("the stream goes on");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(text.contains("event: glimpse\n") && !text.contains("\"endpoint\":\"good\""), "{text}");
    eventually("its circuit is open", LIMIT, async || {
        let (_, shown) = ask(&scene, "GET", "/api/v1/endpoints/acme/bad", None).await;
        if shown["standing"] == "failing" && shown["until"].is_string() { Ok(()) } else { Err(shown) }
    })
    .await;
    receiver.on_path("/bad", [Answer::status(200)]);
    receiver.wait_for_at("/good", 12, LIMIT).await;
}

#[tokio::test]
async fn the_configuration_is_shown_without_secrets_and_a_slip_in_a_query_is_told() {
    let receiver = Receiver::start();
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/CANARY?token=CANARY"), "")])).await;
    let (status, shown) = ask(&scene, "GET", "/api/v1/configuration", None).await;
    assert_eq!((status, &shown["delivery_log"]["enabled"]), (200, &json!(true)));
    let (_, page) = ask(&scene, "GET", "/api/v1/endpoints", None).await;
    assert!(!page.to_string().contains("CANARY") && page["endpoints"][0]["host"] == receiver.url("").trim_end_matches('/'), "{page}");
    for path in ["/api/v1/endpoints?limit=0", "/api/v1/endpoints?limit=501", "/api/v1/endpoints?limt=5", "/api/v1/stream?x=1"] {
        let (status, answer) = ask(&scene, "GET", path, None).await;
        assert!(status == 400 && answer["message"].is_string(), "{path}: {status} {answer}");
    }
    let (_, integrators) = ask(&scene, "GET", "/api/v1/integrators", None).await;
    assert_eq!(integrators, json!({ "integrators": [{ "integrator": "acme", "endpoints": ["main"] }], "next": null }));
    for path in
        ["/api/v1/attempts?integrator=", "/api/v1/endpoints?integrator=", "/api/v1/letters/dead?integrator=", "/api/v1/stream?endpoint="]
    {
        let (status, answer) = ask(&scene, "GET", path, None).await;
        assert!(status == 400 && answer["message"].as_str().unwrap().contains("is empty"), "{path}: {status} {answer}");
    }
}
