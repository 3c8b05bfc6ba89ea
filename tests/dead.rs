//! Dead deliveries and rejected events in an operator's hands, on a real broker.

mod support;

use std::time::Duration;

use callbackd::broker::headers::{self, Original, Trust, name};
use callbackd::cli::CliError;
use callbackd::cli::dead::Dead;
use callbackd::clock;
use callbackd::domain::dead::{DeadReason, RejectReason};
use callbackd::domain::decode::NoEvent;
use callbackd::domain::history::History;
use callbackd::domain::names::{EndpointId, SourceName};
use callbackd::domain::time::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use support::{Buried, DEAD, Stage, assert_numbers, dead, eventually, numbers, parsed};

const REJECTED: &str = "callbacks.rejected";
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn each_filter_filters() {
    let stage = Stage::set().await;
    let hour = Timestamp::from_millis(clock::now().millis() - 3_600_000);
    for letter in [
        Buried::new(1),
        Buried { integrator: "beta", ..Buried::new(2) },
        Buried { endpoint: "other", ..Buried::new(3) },
        Buried { reason: DeadReason::Expired, ..Buried::new(4) },
        Buried { at: hour, ..Buried::new(5) },
    ] {
        stage.bury(&letter).await;
    }
    let cases: [(&[&str], &[u32]); 9] = [
        (&[], &[1, 2, 3, 4, 5]),
        (&["--integrator", "beta"], &[2]),
        (&["--endpoint", "other"], &[3]),
        (&["--reason", "expired"], &[4]),
        (&["--event", "evt-1"], &[1]),
        (&["--until", "30m"], &[5]),
        (&["--since", "30m"], &[1, 2, 3, 4]),
        (&["--limit", "2"], &[1, 2]),
        (&["--since", "30m", "--integrator", "acme", "--reason", "gone"], &[1, 3]),
    ];
    for (arguments, expected) in cases {
        let expected: Vec<String> = expected.iter().map(|number| format!("evt-{number}")).collect();
        assert_eq!(stage.listed(arguments).await, expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_list_tells_everything_but_the_payload() {
    let stage = Stage::set().await;
    stage.bury(&Buried::new(1)).await;
    let row: serde_json::Value = serde_json::from_str(&stage.run(&["list", "--json"]).await).expect("one line of JSON");
    for (member, value) in [
        ("event", "evt-1"),
        ("integrator", "acme"),
        ("endpoint", "main"),
        ("topic", "identResult"),
        ("reason", "gone"),
        ("source", "compliance"),
        ("last_error", "gone for good"),
    ] {
        assert_eq!(row[member], value, "{member}");
    }
    assert_eq!((&row["attempts"], &row["last_status"], &row["position"]), (&12.into(), &410.into(), &1.into()));
    assert_eq!(row["size"], Buried::new(1).body().len());
    let table = stage.run(&["list"]).await;
    assert!(table.contains("evt-1") && table.contains("410") && !table.contains("payload"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
    let shown = stage.run(&["show", "--event", "evt-1"]).await;
    let first: Vec<&str> = shown.lines().take(5).map(|line| line.split_whitespace().last().unwrap_or_default()).collect();
    assert_eq!(first, ["evt-1", "acme", "main", "identResult", "gone"]);
    assert!(shown.contains("last answer      gone for good") && shown.contains("attempts         12"), "{shown}");
    assert!(shown.contains("x-callback-reason: gone") && shown.contains("upstream: 7") && !shown.contains("payload"), "{shown}");
    assert!(stage.run(&["show", "--event", "evt-1", "--body"]).await.ends_with("\n{\"secret\":\"payload-1\"}\n"));
    let absent = dead(&stage.config, &["show", "--event", "evt-2"]).await;
    assert!(matches!(absent, Err(CliError::Failed(_))), "{absent:?}");
}

#[tokio::test]
async fn a_hundred_looks_leave_order_and_bytes_as_they_are() {
    let stage = Stage::set().await;
    // Three windows of a pass, and more than a small map of the broker's holds.
    stage.bury_many(1100).await;
    for _ in 0..100 {
        let list = stage.run(&["list", "--json", "--integrator", "beta", "--limit", "3"]).await;
        assert_eq!(list.lines().count(), 3);
    }
    stage.amqp.wait_ready(DEAD, 1100, SOON).await;
    let all = stage.amqp.drain(DEAD).await;
    assert_numbers(&numbers(&all), 1..=1100);
    for (message, number) in all.iter().zip(1_u32..) {
        assert_eq!(message.header(name::EVENT_ID), Some(format!("evt-{number}")));
        assert_eq!(message.header(name::ATTEMPTS), Some("12".to_owned()));
        let fields = message.properties.headers().as_ref().expect("headers");
        assert_eq!(fields.inner().get("upstream"), Some(&AMQPValue::ShortInt(7)));
    }
}

#[tokio::test]
async fn a_partial_replay_leaves_the_others_in_order() {
    let stage = Stage::set().await;
    stage.bury_many(1100).await;
    for _ in 0..3 {
        stage.run(&["list", "--json"]).await;
    }
    assert_eq!(stage.run(&["replay", "--integrator", "beta"]).await, "replayed 550, failed 0\n");
    for _ in 0..3 {
        assert_eq!(stage.run(&["list", "--json"]).await.lines().count(), 550);
    }
    stage.amqp.wait_ready(DEAD, 550, SOON).await;
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), (1..=1100).step_by(2));
    let mut replayed = numbers(&stage.amqp.drain_when("callbacks.compliance.due", 550, SOON).await);
    replayed.sort_unstable();
    assert_numbers(&replayed, (2..=1100).step_by(2));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let stage = Stage::set().await;
    stage.bury_many(3).await;
    assert_eq!(stage.run(&["replay", "--dry-run"]).await, "would replay 3\n");
    assert_eq!(stage.run(&["discard", "--all", "--dry-run"]).await, "would discard 3\n");
    stage.amqp.wait_ready(DEAD, 3, SOON).await;
    assert_eq!(stage.amqp.ready("callbacks.compliance.due").await, 0);
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), 1..=3);
}

#[tokio::test]
async fn a_replay_keeps_the_event_id_and_the_endpoint_and_starts_a_new_history() {
    let stage = Stage::set().await;
    stage.bury(&Buried { source: "ident", ..Buried::new(1) }).await;
    let before = clock::now();
    assert_eq!(stage.run(&["replay"]).await, "replayed 1, failed 0\n");
    let message = stage.amqp.drain_when("callbacks.ident.due", 1, SOON).await.remove(0);
    assert_eq!(message.properties.message_id().as_ref().map(ToString::to_string), Some("evt-1".to_owned()));
    assert_eq!(message.body, Buried::new(1).body().as_bytes());
    let history = headers::read_history(&message.properties).expect("a history");
    let endpoint = Some(EndpointId::try_new("main").expect("an id"));
    assert_eq!(history, History { endpoint, replayed_at: history.replayed_at, ..History::new(history.received_at) });
    let replayed_at = history.replayed_at.expect("the time of the replay");
    assert!(replayed_at >= before && replayed_at <= clock::now() && history.received_at < before, "first receipt stays as it was");
    assert_eq!(message.header(name::REASON), None);
    assert_eq!(message.header(name::ORIG_EXCHANGE), Some("compliance.events".to_owned()));
    assert!(message.header(name::REPLAYED_AT).is_some());
    assert_eq!(stage.amqp.ready(DEAD).await, 0);
}

#[tokio::test]
async fn what_cannot_be_replayed_stays_and_the_rest_goes() {
    let stage = Stage::set().await;
    stage.bury(&Buried { source: "retired", ..Buried::new(1) }).await;
    stage.bury(&Buried { source: "ident", ..Buried::new(2) }).await;
    stage.bury(&Buried::new(3)).await;
    stage.amqp.delete_queue("callbacks.ident.due").await;
    let failed = dead(&stage.config, &["replay"]).await;
    assert!(matches!(&failed, Err(CliError::Failed(text)) if text.starts_with("2 could not be replayed")), "{failed:?}");
    stage.amqp.wait_ready(DEAD, 2, SOON).await;
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), 1..=2);
    assert_eq!(stage.amqp.drain_when("callbacks.compliance.due", 1, SOON).await.len(), 1);
}

#[tokio::test]
async fn rejected_events_go_back_to_where_our_headers_are_believed_unless_they_do_not_say_since_when() {
    let stage = Stage::set().await;
    let source = SourceName::try_new("ident").expect("a name");
    let upstream = BasicProperties::default().with_message_id("evt-9".into());
    let original = Original { properties: &upstream, exchange: "ident.events", routing_key: "key", source: &source, trust: Trust::Foreign };
    let now = clock::now();
    let rejected = |endpoint| {
        let reason = RejectReason::Undecodable(NoEvent::NotAnObject);
        headers::rejected_copy(&original, &History { endpoint, ..History::new(now) }, None, &reason, now)
    };
    let whole = rejected(None);
    let mut undated = whole.headers().clone().expect("headers");
    undated.insert(name::RECEIVED_AT.into(), AMQPValue::LongString("long ago".into()));
    let undated = whole.clone().with_headers(undated);
    for properties in [whole, rejected(Some(EndpointId::try_new("main").expect("an id"))), undated] {
        stage.amqp.publish("callbacks.publish", REJECTED, properties, b"[]").await;
    }
    assert_eq!(stage.listed(&["--queue", "rejected", "--reason", "undecodable"]).await, ["evt-9"; 3]);
    assert_eq!(stage.run(&["replay", "--queue", "rejected"]).await, "replayed 3, failed 0\n");
    let due = stage.amqp.drain_when("callbacks.ident.due", 2, SOON).await;
    let mut endpoints: Vec<_> = due.iter().map(|message| message.header(name::ENDPOINT)).collect();
    endpoints.sort();
    assert_eq!(endpoints, [None, Some("main".to_owned())]);
    assert!(due.iter().all(|message| headers::read_history(&message.properties).is_some()));
    assert_eq!(stage.amqp.drain_when("callbacks.ident", 1, SOON).await.len(), 1);
}

#[tokio::test]
async fn a_retry_whose_due_queue_was_missing_goes_on_where_it_was() {
    let stage = Stage::set().await;
    let source = SourceName::try_new("ident").expect("a name");
    let upstream = BasicProperties::default().with_message_id("evt-5".into());
    let original = Original { properties: &upstream, exchange: "ident.events", routing_key: "key", source: &source, trust: Trust::Foreign };
    let history = History {
        endpoint: Some(EndpointId::try_new("main").expect("an id")),
        attempts: 3,
        first_attempt_at: Some(clock::now()),
        last_attempt_at: Some(clock::now()),
        last_status: Some(503),
        last_error: Some("status 503".to_owned()),
        due_at: Some(clock::now()),
        hold_until: Some(Timestamp::from_millis(clock::now().millis() + 3_600_000)),
        ..History::new(Timestamp::from_millis(1_700_000_000_000))
    };
    let body = br#"{"id":"evt-5","integrator":"acme","topic":"identResult","data":{}}"#;
    stage.amqp.delete_queue("callbacks.ident.due").await;
    stage.amqp.publish("callbacks.publish", "callbacks.ident.wait.1s", headers::retry_copy(&original, &history), body).await;
    stage.amqp.wait_ready("callbacks.unroutable", 1, SOON).await;

    let queue = ["--queue", "unroutable"];
    let list = stage.run(&[&["list", "--json", "--reason", "expired"], &queue[..]].concat()).await;
    let row: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    for (member, value) in [("event", "evt-5"), ("integrator", "acme"), ("endpoint", "main"), ("source", "ident")] {
        assert_eq!(row[member], value, "{member}");
    }
    assert_eq!((&row["attempts"], &row["last_status"]), (&3.into(), &503.into()));
    assert!(row["dead_at"].is_string() && row["detail"].as_str().is_some_and(|detail| detail.contains("callbacks.ident.due was missing")));
    let shown = stage.run(&[&["show"], &queue[..]].concat()).await;
    assert!(shown.contains("x-callback-attempts: 3"), "{shown}");
    let missing = dead(&stage.config, &[&["replay"], &queue[..]].concat()).await;
    assert!(matches!(&missing, Err(CliError::Failed(text)) if text.starts_with("1 could not be replayed")), "{missing:?}");

    stage.declare().await;
    assert_eq!(stage.run(&[&["replay"], &queue[..]].concat()).await, "replayed 1, failed 0\n");
    let due = stage.amqp.drain_when("callbacks.ident.due", 1, SOON).await.remove(0);
    assert_eq!(headers::read_history(&due.properties), Some(history));
    assert_eq!((due.body.as_slice(), due.header("x-death")), (body.as_slice(), None));
    assert_eq!(due.header(name::ORIG_EXCHANGE), Some("ident.events".to_owned()));
    assert_eq!(stage.amqp.ready("callbacks.unroutable").await, 0);
}

#[tokio::test]
async fn what_nobody_of_us_sent_into_the_void_is_discarded_but_not_replayed() {
    let stage = Stage::set().await;
    let mut forged = FieldTable::default();
    forged.insert(name::SOURCE.into(), AMQPValue::LongString("ident".into()));
    let properties = BasicProperties::default().with_headers(forged);
    stage.amqp.publish("callbacks.route", "nowhere", properties, b"{}").await;
    stage.amqp.wait_ready("callbacks.unroutable", 1, SOON).await;
    let replayed = dead(&stage.config, &["replay", "--queue", "unroutable"]).await;
    assert!(matches!(&replayed, Err(CliError::Failed(text)) if text.starts_with("1 could not be replayed")), "{replayed:?}");
    assert_eq!(stage.run(&["discard", "--queue", "unroutable", "--all", "--yes"]).await, "discarded 1\n");
    assert_eq!(stage.amqp.ready("callbacks.unroutable").await, 0);
}

#[tokio::test]
async fn what_the_broker_itself_rejected_is_read_from_its_own_account_and_no_forged_header_is_believed() {
    let stage = Stage::set().await;
    let mut forged = FieldTable::default();
    forged.insert(name::SOURCE.into(), AMQPValue::LongString("ident".into()));
    forged.insert(name::ENDPOINT.into(), AMQPValue::LongString("forged".into()));
    let properties = BasicProperties::default().with_headers(forged);
    let body = br#"{"id":"evt-7","integrator":"acme","topic":"identResult","data":{}}"#;
    stage.amqp.publish("compliance.events", "key", properties, body).await;
    let channel = stage.amqp.channel();
    let got = channel.basic_get("callbacks.compliance".into(), lapin::options::BasicGetOptions::default()).await.expect("got");
    let tag = got.expect("a message").delivery.delivery_tag;
    channel.basic_reject(tag, lapin::options::BasicRejectOptions { requeue: false }).await.expect("rejected");
    stage.amqp.wait_ready(REJECTED, 1, SOON).await;
    let queue = ["--queue", "rejected"];
    let list = stage.run(&[&["list", "--json"], &queue[..]].concat()).await;
    let row: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    for (member, value) in [("event", "evt-7"), ("integrator", "acme"), ("source", "compliance"), ("reason", "rejected")] {
        assert_eq!(row[member], value, "{member}");
    }
    assert_eq!(row["endpoint"], serde_json::Value::Null);
    assert!(row["dead_at"].is_string());
    assert_eq!(stage.run(&[&["replay", "--reason", "rejected"], &queue[..]].concat()).await, "replayed 1, failed 0\n");
    let back = stage.amqp.drain_when("callbacks.compliance", 1, SOON).await.remove(0);
    assert_eq!((back.body.as_slice(), back.header(name::ENDPOINT)), (body.as_slice(), None));
    assert_eq!(back.header("x-death"), None);
}

/// RabbitMQ 3.10 goes on with an `x-death` that the publisher has begun, of whatever type, so that nothing in it can be believed.
#[tokio::test]
async fn a_publisher_that_writes_x_death_itself_is_not_believed() {
    let stage = Stage::set().await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut entry = FieldTable::default();
    entry.insert("queue".into(), text("callbacks.compliance.due"));
    entry.insert("reason".into(), text("rejected"));
    let mut odd = FieldTable::default();
    odd.insert("queue".into(), AMQPValue::ByteArray(b"callbacks.compliance".to_vec().into()));
    odd.insert("reason".into(), text("rejected"));
    for death in [entry, odd] {
        let mut forged = FieldTable::default();
        forged.insert("x-death".into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()));
        for (name, value) in [(name::SOURCE, "ident"), (name::ENDPOINT, "forged"), (name::INTEGRATOR, "victim"), (name::REASON, "gone")] {
            forged.insert(name.into(), text(value));
        }
        forged.insert(name::RECEIVED_AT.into(), AMQPValue::LongLongInt(1));
        let body = br#"{"id":"evt-8","integrator":"acme","topic":"identResult","data":{}}"#;
        stage.amqp.publish("compliance.events", "key", BasicProperties::default().with_headers(forged), body).await;
        let channel = stage.amqp.channel();
        let got = channel.basic_get("callbacks.compliance".into(), lapin::options::BasicGetOptions::default()).await.expect("got");
        let tag = got.expect("a message").delivery.delivery_tag;
        channel.basic_reject(tag, lapin::options::BasicRejectOptions { requeue: false }).await.expect("rejected");
        stage.amqp.wait_ready(REJECTED, 1, SOON).await;
        let list = stage.run(&["list", "--json", "--queue", "rejected"]).await;
        let row: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        assert_eq!((&row["integrator"], &row["source"]), (&"acme".into(), &"compliance".into()), "{row}");
        assert_eq!(row["endpoint"], serde_json::Value::Null, "{row}");
        assert_eq!(stage.run(&["replay", "--event", "evt-8", "--queue", "rejected"]).await, "replayed 1, failed 0\n");
        let back = stage.amqp.drain_when("callbacks.compliance", 1, SOON).await.remove(0);
        assert_eq!(back.header(name::ENDPOINT), None);
    }
}

#[tokio::test]
async fn discard_wants_to_know_which_and_takes_only_those() {
    let stage = Stage::set().await;
    stage.bury_many(6).await;
    let unasked = dead(&stage.config, &["discard", "--yes"]).await;
    assert!(matches!(unasked, Err(CliError::Usage(_))), "{unasked:?}");
    assert_eq!(stage.run(&["discard", "--integrator", "beta", "--limit", "2", "--yes"]).await, "discarded 2\n");
    stage.amqp.wait_ready(DEAD, 4, SOON).await;
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), [1, 3, 5, 6].into_iter());
    stage.bury_many(2).await;
    assert_eq!(stage.run(&["discard", "--all", "--yes"]).await, "discarded 2\n");
    assert_eq!(stage.amqp.ready(DEAD).await, 0);
}

/// Acknowledgements in a row right before a close were seen to come back.
#[tokio::test]
async fn what_is_discarded_does_not_come_back() {
    let stage = Stage::set().await;
    for round in 0..10 {
        stage.bury_many(700).await;
        assert_eq!(stage.run(&["discard", "--integrator", "acme", "--yes"]).await, "discarded 350\n");
        stage.amqp.wait_ready(DEAD, 350, SOON).await;
        let left = numbers(&stage.amqp.drain(DEAD).await);
        assert!(left.len() == 350 && left.iter().all(|number| number % 2 == 0), "round {round}: {} left", left.len());
        assert_eq!(stage.amqp.ready(DEAD).await, 0);
    }
}

/// Every letter must be among the dead or among the due afterwards; some may be in both.
async fn assert_nothing_lost(stage: &Stage, count: u32) {
    let present = eventually("everything is back", SOON, async || {
        let (dead, due) = (stage.amqp.ready(DEAD).await, stage.amqp.ready("callbacks.compliance.due").await);
        if dead + due >= count { Ok((dead, due)) } else { Err((dead, due)) }
    })
    .await;
    let mut found = numbers(&stage.amqp.drain(DEAD).await);
    found.extend(numbers(&stage.amqp.drain("callbacks.compliance.due").await));
    println!("{present:?} dead and due, {} copies too many", found.len() - count as usize);
    found.sort_unstable();
    found.dedup();
    assert_numbers(&found, 1..=count);
}

#[tokio::test]
async fn a_replay_that_is_dropped_in_the_middle_loses_nothing() {
    let stage = Stage::set().await;
    for round in 0..3 {
        stage.bury_many(1000).await;
        let replay = dead(&stage.config, &["replay"]);
        let some_are_through =
            eventually("some are replayed", SOON, async || stage.amqp.ready("callbacks.compliance.due").await >= 100 + round * 150);
        tokio::select! {
            done = replay => panic!("it was too fast to be dropped: {done:?}"),
            () = some_are_through => {}
        }
        assert_nothing_lost(&stage, 1000).await;
    }
}

/// Not a test of its own: what the next test runs in a process that it kills.
#[tokio::test]
#[ignore = "started by the test that kills it"]
async fn replays_until_it_is_killed() {
    let Ok(url) = std::env::var("CALLBACKD_TEST_KILLED_URL") else { return };
    let vhost_config = support::config_at(&url);
    let replay: Dead = parsed(&["replay"]);
    replay.run(&vhost_config).await.expect("replayed");
}

/// A process that does not outlive its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_replay_that_is_killed_loses_nothing() {
    let stage = Stage::set().await;
    for round in 0..3 {
        stage.bury_many(1000).await;
        let mut process = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--ignored", "--exact", "replays_until_it_is_killed"])
            .env("CALLBACKD_TEST_KILLED_URL", stage.vhost.url())
            .stdout(std::process::Stdio::null())
            .spawn()
            .map(Killed)
            .expect("a process");
        eventually("some are replayed", SOON, async || stage.amqp.ready("callbacks.compliance.due").await >= 50 + round * 200).await;
        process.0.kill().expect("killed");
        let status = process.0.wait().expect("ended");
        assert!(!status.success(), "it was too fast to be killed");
        assert_nothing_lost(&stage, 1000).await;
    }
}

/// Figures for the documentation: `cargo test --test dead -- --ignored --nocapture how_fast`.
#[tokio::test]
#[ignore = "measures"]
async fn how_fast_it_is() {
    let stage = Stage::set().await;
    let count: u32 = std::env::var("COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(20_000);
    let body = vec![b'x'; std::env::var("BODY").ok().and_then(|size| size.parse().ok()).unwrap_or(320)];
    let body = &body;
    let outlets = futures_util::future::join_all((0..32).map(|_| stage.vhost.connect())).await;
    let parts = outlets.iter().zip(0_u32..).map(|(outlet, part)| async move {
        for number in (part + 1..=count).step_by(32) {
            let letter = Buried::new(number);
            outlet.publish("callbacks.publish", DEAD, letter.properties(), body).await;
        }
    });
    futures_util::future::join_all(parts).await;
    for arguments in [&["list", "--json", "--limit", "1"][..], &["list", "--json", "--limit", "1"], &["replay", "--dry-run"], &["replay"]] {
        let start = std::time::Instant::now();
        stage.run(arguments).await;
        let took = start.elapsed();
        let memory = std::fs::read_to_string("/proc/self/status").expect("this process");
        let peak = memory.lines().find(|line| line.starts_with("VmHWM")).expect("its peak").to_owned();
        println!("{arguments:?}: {count} in {took:?}, {:.0}/s, {peak}", f64::from(count) / took.as_secs_f64());
    }
}
