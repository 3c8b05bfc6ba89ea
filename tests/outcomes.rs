//! Upstream is told what became of its events: each kind as it is described, through the end of a connection, within its memory, and
//! never at the cost of a delivery.

mod scene;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use callbackd::domain::outcome::{OutcomeKind, delivery_outcome_id};
use callbackd::domain::time::Timestamp;
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions};
use lapin::types::FieldTable;
use scene::{LIMIT, Scene, endpoint, event, event_for, integrator};
use serde_json::{Value, json};
use support::{Answer, Fetched, Receiver, TcpProxy, Vhost, config_for, dead, eventually};

const EXCHANGE: &str = "callbacks.outcomes";
const TOLD: &str = "told";
const ON: (&str, &str) = ("CALLBACKD__OUTCOMES__EXCHANGE", EXCHANGE);

/// Binds a queue to everything, as upstream would.
async fn listen(scene: &Scene) {
    scene.amqp.declare_queue(TOLD, FieldTable::default()).await;
    scene.amqp.bind(TOLD, EXCHANGE, "#").await;
}

/// The body with its times taken out, which must be ones.
fn untimed(message: &Fetched) -> Value {
    let mut body = message.json();
    for member in ["at", "since", "until", "replayedAt"] {
        if let Some(time) = body.get_mut(member).filter(|time| !time.is_null()) {
            let text = time.as_str().expect("a text");
            assert!(Timestamp::parse(text).is_some() && text.ends_with('Z'), "{text}");
            *time = "T".into();
        }
    }
    body
}

/// What the worker calls itself.
fn worker_name(scene: &Scene) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name");
    format!("{}:{}", host.trim(), scene.worker.pid())
}

fn by_routing_key(told: &[Fetched]) -> BTreeMap<&str, Vec<&Fetched>> {
    told.iter().fold(BTreeMap::new(), |mut all, one| {
        all.entry(one.routing_key.as_str()).or_insert_with(Vec::new).push(one);
        all
    })
}

fn of_kind<'a>(told: &'a [Fetched], kind: &str) -> Vec<&'a Fetched> {
    told.iter().filter(|one| one.json()["type"] == kind).collect()
}

fn assert_properties(message: &Fetched) {
    let (properties, body) = (&message.properties, message.json());
    let texts = [properties.content_type(), properties.app_id(), properties.kind(), properties.message_id()];
    let texts = texts.map(|text| text.as_ref().map(|text| text.as_str().to_owned()));
    let text = |text: &Value| text.as_str().map(str::to_owned);
    assert_eq!(texts, [Some("application/json".into()), Some("callbackd".into()), text(&body["type"]), text(&body["id"])]);
    assert_eq!(*properties.delivery_mode(), Some(2));
    let at = Timestamp::parse(body["at"].as_str().expect("a text")).expect("a time");
    assert_eq!(*properties.timestamp(), u64::try_from(at.seconds()).ok());
    assert!(body["id"].as_str().is_some_and(|id| id.len() == 36 && id.starts_with("out_")), "{body}");
}

#[tokio::test]
async fn each_kind_is_told_once_as_it_is_described() {
    let receiver = Receiver::start();
    receiver.on_path("/main", [503, 200]);
    receiver.on_path("/dead", [500]);
    receiver.on_path("/down", [500, 500, 200]);
    let endpoints = [
        endpoint("main", &receiver.url("/main"), "topics = [\"a\"]\nformat = \"topic\""),
        endpoint("dead", &receiver.url("/dead"), "topics = [\"b\"]\nformat = \"topic\"\nretry = { max_attempts = 1 }"),
    ];
    let circuit = "format = \"topic\"\nmax_in_flight = 1\ncircuit = { consecutive = 2, initial_wait = \"300ms\" }";
    let others = integrator("glo.bex", &[endpoint("down", &receiver.url("/down"), circuit)]);
    let scene = Scene::start_with(&format!("{}{others}", integrator("acme", &endpoints)), &[ON]).await;
    listen(&scene).await;

    scene.publish(&event_for("acme", "evt-1", "a", "[{}]")).await;
    scene.publish(&event_for("acme", "evt-2", "b", "[{}]")).await;
    let nameless = scene::properties().with_message_id("upstream's own\r\n".into());
    scene.amqp.publish("compliance.events", "event", nameless, b"no event, CANARY").await;
    scene.publish(&event_for("glo.bex", "evt-3", "c", "[{}]")).await;
    let told = scene.amqp.drain_when(TOLD, 6, LIMIT).await;
    scene.settled().await;

    told.iter().for_each(assert_properties);
    let by_key = by_routing_key(&told);
    let one = |key: &str| match by_key.get(key).map(Vec::as_slice) {
        Some([one]) => untimed(one),
        other => panic!("{key}: {other:?} of {:?}", by_key.keys()),
    };
    let webhook_id = |path: &str| receiver.seen_at(path)[0].webhook_id().to_owned();
    for (key, kind, path, names, attempt, status, reason) in [
        ("delivered.acme", OutcomeKind::Delivered, "/main", ("evt-1", "acme", "a", "main"), 2, 200, json!(null)),
        ("dead.acme", OutcomeKind::Dead, "/dead", ("evt-2", "acme", "b", "dead"), 1, 500, json!("exhausted")),
        ("delivered.glo%2Ebex", OutcomeKind::Delivered, "/down", ("evt-3", "glo.bex", "c", "down"), 3, 200, json!(null)),
    ] {
        let (webhook_id, (id, integrator, topic, endpoint)) = (webhook_id(path), names);
        let expected = json!({
            "type": kind.as_str(), "id": delivery_outcome_id(kind, &webhook_id, None), "at": "T",
            "event": {"id": id, "integrator": integrator, "topic": topic}, "source": null, "messageId": null, "replayedAt": null,
            "endpoint": endpoint, "webhookId": webhook_id, "attempt": attempt, "status": status, "reason": reason,
        });
        assert_eq!(one(key), expected);
    }
    let rejected = one("rejected");
    let expected = json!({
        "type": "rejected", "id": rejected["id"], "at": "T", "event": null, "source": "compliance", "messageId": "upstream's own\r\n",
        "endpoint": null, "webhookId": null, "attempt": null, "status": null, "reason": "undecodable", "replayedAt": null,
    });
    assert_eq!(rejected, expected);
    let worker = worker_name(&scene);
    for (kind, until, failures, reason) in
        [("endpoint.failing", json!("T"), json!(2), json!("consecutive")), ("endpoint.recovered", json!(null), json!(null), json!(null))]
    {
        let told = one(&format!("{kind}.glo%2Ebex"));
        let expected = json!({
            "type": kind, "id": told["id"], "at": "T", "worker": worker, "integrator": "glo.bex", "endpoint": "down", "since": "T",
            "until": until, "failures": failures, "reason": reason,
        });
        assert_eq!(told, expected);
    }
    assert!(!told.iter().any(|one| String::from_utf8_lossy(&one.body).contains("CANARY")));
    assert_eq!(scene.amqp.ready(TOLD).await, 0);
    scene.worker.wait_for_metric("callbackd_outcomes_total", &[("result", "published")], 6.0, LIMIT).await;
    assert_eq!(scene.worker.metric("callbackd_outcomes_waiting", &[]).await, Some(0.0));
}

#[tokio::test]
async fn what_comes_of_a_replay_is_told_as_news() {
    let receiver = Receiver::start();
    receiver.on_path("/", [500, 500, 200]);
    let acme = integrator("acme", &[endpoint("main", &receiver.url("/"), "retry = { max_attempts = 1 }")]);
    let scene = Scene::start_with(&acme, &[ON]).await;
    listen(&scene).await;
    let cannot_be_made = event_for("acme", "evt-2", "complianceRecord", "[{}]");
    scene.publish(&event("evt-1")).await;
    scene.publish(&cannot_be_made).await;
    scene.amqp.publish("compliance.events", "event", scene::properties().with_message_id("msg-3".into()), b"no event").await;
    let mut told = scene.amqp.drain_when(TOLD, 3, LIMIT).await;
    let config = config_for(&scene.vhost);
    for queue in ["dead", "rejected", "dead"] {
        let letters = if queue == "dead" { 1 } else { 2 };
        scene.amqp.wait_ready(&format!("callbacks.{queue}"), letters, LIMIT).await;
        let replayed = dead(&config, &["replay", "--queue", queue]).await.expect("replayed");
        assert_eq!(replayed, format!("replayed {letters}, failed 0\n"));
        told.extend(scene.amqp.drain_when(TOLD, usize::try_from(letters).expect("a count"), LIMIT).await);
    }

    let ids: BTreeSet<String> = told.iter().map(|one| one.json()["id"].to_string()).collect();
    assert_eq!((ids.len(), told.len()), (7, 7), "{told:?}");
    for (found, expected) in [
        (json!({"event": {"id": "evt-1", "integrator": "acme", "topic": "complianceRecord"}}), ["dead", "dead", "delivered"].as_slice()),
        (json!({"event": {"id": "evt-2", "integrator": "acme", "topic": "complianceRecord"}}), &["rejected", "rejected"]),
        (json!({"messageId": "msg-3"}), &["rejected", "rejected"]),
    ] {
        let is_found = |body: &Value| found.as_object().is_some_and(|found| found.iter().all(|(member, value)| body[member] == *value));
        let bodies: Vec<Value> = told.iter().map(Fetched::json).filter(is_found).collect();
        assert_eq!(bodies.iter().map(|body| body["type"].as_str().expect("a text")).collect::<Vec<_>>(), expected, "{found}");
        let replays: Vec<Option<Timestamp>> = bodies.iter().map(|body| body["replayedAt"].as_str().and_then(Timestamp::parse)).collect();
        assert!(
            replays[0].is_none() && replays.is_sorted() && replays.iter().collect::<BTreeSet<_>>().len() == replays.len(),
            "{replays:?}"
        );
        assert!(bodies.iter().all(|body| body["webhookId"] == bodies[0]["webhookId"]), "{bodies:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_told_once_however_many_requests_it_answers_so() {
    let receiver = Receiver::start();
    receiver.on_path("/", [Answer::status(410).after(std::time::Duration::from_secs(2))]);
    let acme = integrator("acme", &[endpoint("main", &receiver.url("/"), "max_in_flight = 8")]);
    let mut scene = Scene::start_with(&acme, &[ON]).await;
    listen(&scene).await;
    scene.publish_all((0..8).map(|n| event(&format!("evt-{n}")))).await;
    scene.amqp.wait_ready("callbacks.dead", 8, LIMIT).await;
    assert_eq!(receiver.count(), 8);
    let worker = worker_name(&scene);
    // Whatever is to be told is told when the process ends.
    scene.worker.sigterm();
    scene.worker.wait_exit(LIMIT).await;
    let told = scene.amqp.drain(TOLD).await;
    assert_eq!((of_kind(&told, "dead").len(), told.len()), (8, 9), "{told:?}");
    let failing = of_kind(&told, "endpoint.failing")[0].json();
    assert_eq!((&failing["reason"], &failing["failures"], &failing["worker"]), (&json!("gone"), &json!(null), &json!(worker)));
    let time = |member: &str| failing[member].as_str().and_then(Timestamp::parse).expect("a time");
    let lasts = time("until").since(time("at"));
    assert!(lasts.abs_diff(std::time::Duration::from_secs(600)) < std::time::Duration::from_secs(5), "{lasts:?}");
    assert_eq!(scene.log_lines("endpoint paused").len(), 1);
}

#[tokio::test]
async fn what_happens_while_the_broker_is_away_is_told_when_it_is_back() {
    let vhost = Vhost::create().await;
    let proxy = TcpProxy::to(vhost.broker().amqp_address());
    let url = vhost.url().replace(&vhost.broker().amqp_address(), &proxy.address().to_string());
    let receiver = Receiver::start();
    receiver.on_text("slow", Answer::status(200).after(std::time::Duration::from_secs(1)));
    let acme = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let scene = Scene::start_at(vhost, &url, &acme, &[ON]).await;
    listen(&scene).await;
    scene.publish(&event("first")).await;
    scene.amqp.drain_when(TOLD, 1, LIMIT).await;

    scene.publish(&event("slow")).await;
    receiver.wait_for(2, LIMIT).await;
    proxy.refuse(true);
    proxy.cut();
    let is_slow = |line: &Value| line["message"] == "attempt" && line["event_id"] == "slow";
    scene.worker.wait_for_log("delivered without a broker", LIMIT, is_slow).await;
    scene.worker.wait_for_log("told", LIMIT, |line| line["message"] == "outcomes failed").await;
    proxy.refuse(false);

    // The event comes again, as it could not be acknowledged, and so does what became of it.
    let mut told = scene.amqp.drain_when(TOLD, 2, LIMIT).await;
    scene.worker.wait_for_log("told", LIMIT, |line| line["message"] == "outcomes ready").await;
    assert_eq!(scene.log_lines("outcomes failed").len(), 1, "an episode is told once");

    // The broker itself ends all connections.
    scene.vhost.close_all_connections().await;
    let amqp = scene.vhost.connect().await;
    amqp.publish_event("compliance.events", "event", &event("last")).await;
    eventually("the last one is told", LIMIT, async || {
        told.extend(amqp.drain(TOLD).await);
        told.iter().any(|one| one.json()["event"]["id"] == "last")
    })
    .await;
    let mut ids: Vec<(String, String)> =
        told.iter().map(|one| (one.json()["event"]["id"].to_string(), one.json()["id"].to_string())).collect();
    ids.dedup();
    assert_eq!(ids.iter().map(|(event, _)| event.as_str()).collect::<Vec<_>>(), ["\"slow\"", "\"last\""], "{ids:?}");
}

#[tokio::test]
async fn with_nobody_bound_or_no_room_deliveries_go_on_and_what_is_left_out_is_counted() {
    const EVENTS: usize = 600;
    let receiver = Receiver::start();
    let acme = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let scene = Scene::start_with(&acme, &[ON, ("CALLBACKD__OUTCOMES__MEMORY", "64KiB")]).await;
    scene.publish(&event("unheard")).await;
    scene.worker.wait_for_metric("callbackd_outcomes_total", &[("result", "published")], 1.0, LIMIT).await;

    // An exchange that takes nothing, by the same name.
    let channel = scene.amqp.channel();
    channel.exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default()).await.expect("deleted");
    let internal = ExchangeDeclareOptions { durable: true, internal: true, ..Default::default() };
    channel.exchange_declare(EXCHANGE.into(), lapin::ExchangeKind::Topic, internal, FieldTable::default()).await.expect("declared");
    scene.publish_all((0..EVENTS).map(|n| event(&format!("evt-{n}")))).await;
    receiver.wait_for(1 + EVENTS, LIMIT).await;
    scene.settled().await;
    let text = scene.worker.metrics().await;
    let count = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok()).unwrap_or_default();
    let (waiting, dropped) = (count("callbackd_outcomes_waiting"), count("callbackd_outcomes_total{result=\"dropped\"}"));
    assert!(waiting > 0 && dropped > 0 && waiting + dropped == EVENTS, "{waiting} wait, {dropped} were left out");
    for message in ["outcomes full: those that come are left out", "outcomes failed"] {
        assert_eq!(scene.log_lines(message).len(), 1, "{message}");
    }

    channel.exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default()).await.expect("deleted");
    scene.worker.wait_for_metric("callbackd_outcomes_total", &[("result", "published")], (1 + waiting) as f64, LIMIT).await;
    let left_out = scene.worker.wait_for_log("what was left out", LIMIT, |line| line["message"] == "outcomes left out").await;
    assert_eq!(left_out["outcomes"], dropped);
}

#[tokio::test]
async fn a_stop_publishes_what_waits_and_what_is_not_wanted_is_not_told() {
    let receiver = Receiver::start();
    let acme = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let mut scene = Scene::start_with(&acme, &[ON, ("CALLBACKD__OUTCOMES__EVENTS", "[\"delivered\"]")]).await;
    listen(&scene).await;
    scene.publish("no event").await;
    scene.amqp.wait_ready("callbacks.rejected", 1, LIMIT).await;
    scene.publish_all((0..200).map(|n| event(&format!("evt-{n}")))).await;
    receiver.wait_for(200, LIMIT).await;
    scene.worker.sigterm();
    scene.worker.wait_exit(LIMIT).await;
    let told = scene.amqp.drain(TOLD).await;
    let delivered = scene.log_lines("attempt").len();
    assert_eq!(told.len(), delivered, "each attempt was a delivery, and each was told");
    assert!(told.iter().all(|one| one.routing_key == "delivered.acme"));
}

#[tokio::test]
async fn nothing_is_declared_or_told_unless_an_exchange_is_named() {
    let receiver = Receiver::start();
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")])).await;
    scene.publish(&event("evt-1")).await;
    scene.settled().await;
    let path = format!("/api/exchanges/{}", scene.vhost.name());
    let exchanges = eventually("the exchanges", LIMIT, async || scene.vhost.broker().api(reqwest::Method::GET, &path, None).await).await;
    let names: Vec<&str> = exchanges.as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
    assert!(names.contains(&"callbacks.publish") && !names.iter().any(|name| name.contains("outcomes")), "{names:?}");
    assert_eq!(scene.worker.metric("callbackd_outcomes_total", &[]).await, Some(0.0));
}
