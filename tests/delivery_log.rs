//! The delivery log: what became of each event, in SQLite and in PostgreSQL alike, and what it costs when it is slow or gone.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod scene;
mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lapin::BasicProperties;
use scene::{LIMIT, Scene, endpoint, event, event_for, integrator};
use serde_json::Value;
use sqlx::{Connection as _, Row as _};
use support::{Answer, Database, Receiver, TcpProxy, eventually, with_both};

const DATABASE: &str = "CALLBACKD__DELIVERY_LOG__DATABASE";

with_both!(
    the_whole_story_of_an_event_is_told_by_its_id_and_by_its_keys,
    what_waits_is_skipped_or_rejected_is_told_too,
    hashed_keys_are_found_and_cannot_be_read,
    payloads_are_stored_only_when_asked_for,
    workers_share_a_log_and_nothing_is_left_out_or_doubled,
    old_entries_leave_and_young_ones_stay,
    a_log_that_does_not_answer_holds_up_no_delivery_and_what_it_misses_is_counted,
    an_event_whose_id_no_database_takes_is_told_all_the_same,
    a_message_that_is_no_event_is_found_by_its_id,
    a_replay_is_told_and_so_is_the_delivery_before,
    one_id_at_two_integrators_and_of_two_topics_is_told_apart,
    an_event_of_many_records_is_found_by_each_and_by_the_message_that_told_of_it,
    what_one_worker_stores_another_one_does_not_remove,
    tables_that_cannot_be_written_are_said_again_and_again_but_not_more_and_more,
);

/// What a command of the program says about a scene.
fn callbackd(scene: &Scene, database: &str, arguments: &[&str]) -> Output {
    callbackd_with(scene, &[(DATABASE, database)], arguments)
}

fn callbackd_with(scene: &Scene, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbackd"));
    command.arg("--config").arg(scene.worker.folder().join("callbackd.toml")).args(arguments);
    command.envs(environment.iter().copied()).env_remove("RUST_LOG").output().expect("the program")
}

/// The stories that `explain` tells, once the writer has written so many entries of this worker.
async fn stories(scene: &Scene, database: &Database, wanted: &str, entries: f64) -> Vec<Value> {
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], entries, LIMIT).await;
    let output = callbackd(scene, &database.url(), &["explain", wanted, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn texts<'a>(story: &'a Value, field: &str) -> Vec<&'a str> {
    story["lines"].as_array().unwrap().iter().map(|line| line[field].as_str().unwrap_or("-")).collect()
}

async fn the_whole_story_of_an_event_is_told_by_its_id_and_by_its_keys(database: Database) {
    let receiver = Receiver::start();
    receiver.on_path("/main", [503, 503, 200]);
    receiver.on_path("/audit", [410]);
    let endpoints = [endpoint("main", &receiver.url("/main"), ""), endpoint("audit", &receiver.url("/audit"), "")];
    let scene = Scene::start_with(&integrator("acme", &endpoints), &[(DATABASE, &database.url())]).await;
    let record = r#"[{"status":100,"key":"k-1","modified":"m","customerKey":"c-1"}]"#;
    scene.publish(&event_for("acme", "evt-1", "complianceRecord", record)).await;
    receiver.wait_for(4, LIMIT).await;
    scene.settled().await;

    let by_id = stories(&scene, &database, "evt-1", 5.0).await;
    let [story] = by_id.as_slice() else { panic!("{by_id:?}") };
    assert_eq!((&story["integrator"], &story["topic"]), (&"acme".into(), &"complianceRecord".into()));
    assert_eq!(story["keys"], serde_json::json!(["key=k-1", "customerKey=c-1"]));
    let of = |endpoint: &str, field: &str| -> Vec<String> {
        let lines = story["lines"].as_array().unwrap().iter().filter(|line| line["endpoint"] == endpoint);
        lines.map(|line| line[field].to_string()).collect()
    };
    assert_eq!(of("main", "verdict"), [r#""retry""#, r#""retry""#, r#""delivered""#]);
    assert_eq!(of("main", "status"), ["503", "503", "200"]);
    assert_eq!(of("main", "attempt"), ["1", "2", "3"]);
    assert_eq!(of("audit", "what"), [r#""attempt""#, r#""dead""#]);
    let times = texts(story, "at");
    assert!(times.is_sorted(), "{times:?}");
    assert!(story["lines"][0]["worker"].as_str().unwrap().contains(':'));
    let ids: Vec<&str> = receiver.seen_at("/main").iter().map(|seen| seen.webhook_id().to_owned().leak() as &str).collect();
    assert_eq!(of("main", "webhook_id"), ids.iter().map(|id| format!("{id:?}")).collect::<Vec<_>>());
    let main = story["deliveries"].as_array().unwrap().iter().find(|delivery| delivery["endpoint"] == "main").unwrap();
    assert_eq!((&main["state"], &main["attempt"], &main["status"]), (&"delivered".into(), &3.into(), &200.into()));

    for key in ["k-1", "c-1"] {
        let by_key = stories(&scene, &database, key, 5.0).await;
        assert_eq!(by_key.len(), 1, "{key}");
        assert_eq!(by_key[0]["lines"], story["lines"], "{key}");
    }
    let shown = callbackd(&scene, &database.url(), &["explain", "k-1"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("attempt 3: answered 200 in ") && text.contains(": delivered at "), "{text}");
    assert!(
        text.contains("given up at ") && text.contains("callbackd dead show --integrator=acme --endpoint=audit --event=evt-1"),
        "{text}"
    );
    let nothing = callbackd(&scene, &database.url(), &["explain", "evt-2"]);
    assert_eq!((nothing.status.code(), nothing.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("knows nothing of \"evt-2\""), "{nothing:?}");
    let other = callbackd(&scene, &database.url(), &["explain", "evt-1", "--integrator", "globex"]);
    assert_eq!(other.status.code(), Some(1), "a filter filters");
}

async fn what_waits_is_skipped_or_rejected_is_told_too(database: Database) {
    let receiver = Receiver::start();
    let endpoints = [endpoint("main", &receiver.url("/"), r#"topics = ["complianceRecord"]"#)];
    let scene = Scene::start_with(&integrator("acme", &endpoints), &[(DATABASE, &database.url())]).await;
    scene.publish(&event_for("acme", "evt-skipped", "identResult", r#"{"identId":"315"}"#)).await;
    scene.publish(&event_for("nobody", "evt-unknown", "complianceRecord", "[]")).await;
    let waits = stories(&scene, &database, "evt-unknown", 2.0).await;
    assert_eq!((texts(&waits[0], "what")[0], texts(&waits[0], "reason")[0]), ("waits", "configuration"));
    assert_eq!((&waits[0]["deliveries"][0]["state"], &waits[0]["deliveries"][0]["endpoint"]), (&"waiting".into(), &Value::Null));
    let skipped = stories(&scene, &database, "315", 2.0).await;
    assert_eq!(texts(&skipped[0], "what"), ["skipped"]);
    eventually("the unknown one is rejected", LIMIT, async || {
        let told = stories(&scene, &database, "evt-unknown", 2.0).await;
        if told[0]["deliveries"][0]["state"] == "rejected" { Ok(()) } else { Err(told) }
    })
    .await;
}

async fn hashed_keys_are_found_and_cannot_be_read(database: Database) {
    let receiver = Receiver::start();
    let hashed = [(DATABASE, database.url()), ("CALLBACKD__DELIVERY_LOG__HASH_SECRET", "a-secret-of-this-test".to_owned())];
    let environment: Vec<(&str, &str)> = hashed.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let scene = Scene::start_with(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")]), &environment).await;
    let record = r#"[{"status":100,"key":"k","modified":"m","customerKey":"CANARY-customer"}]"#;
    scene.publish(&event_for("acme", "evt-1", "complianceRecord", record)).await;
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], 1.0, LIMIT).await;
    let found = callbackd_with(&scene, &environment, &["explain", "CANARY-customer"]);
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    assert!(String::from_utf8(found.stdout).unwrap().starts_with("evt-1 of acme"));
    let without = callbackd(&scene, &database.url(), &["explain", "CANARY-customer"]);
    assert_eq!(without.status.code(), Some(1), "another secret, another hash");
    assert!(!everything(&database).await.contains("CANARY"));
}

/// All that a database holds, as text.
async fn everything(database: &Database) -> String {
    let mut text = String::new();
    if database.is_file() {
        for file in std::fs::read_dir(database.file().parent().unwrap()).unwrap() {
            text += &String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap());
        }
        return text;
    }
    for table in ["entry", "finder", "payload", "tally", "worker"] {
        for row in database.rows(&format!("SELECT CAST(t.* AS TEXT) FROM {table} t")).await {
            text += &row.try_get::<String, _>(0).unwrap();
        }
    }
    text
}

async fn payloads_are_stored_only_when_asked_for(database: Database) {
    let receiver = Receiver::start();
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), r#"format = "topic""#)]);
    let scene = Scene::start_with(&integrators, &[(DATABASE, &database.url())]).await;
    let body = event_for("acme", "evt-1", "identResult", r#"{"identId":"315","name":"CANARY"}"#);
    scene.publish(&body).await;
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], 1.0, LIMIT).await;
    assert!(!everything(&database).await.contains("CANARY"));
    let shown = callbackd(&scene, &database.url(), &["explain", "evt-1", "--payload"]);
    assert!(String::from_utf8(shown.stdout).unwrap().ends_with("(the event is not stored)\n"));
    drop(scene);

    let stored = [(DATABASE, database.url()), ("CALLBACKD__DELIVERY_LOG__STORE_PAYLOADS", "true".to_owned())];
    let environment: Vec<(&str, &str)> = stored.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let scene = Scene::start_with(&integrators, &environment).await;
    scene.publish(&body.replace("evt-1", "evt-2")).await;
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], 1.0, LIMIT).await;
    let shown = callbackd_with(&scene, &environment, &["explain", "evt-2", "--payload"]);
    assert!(String::from_utf8(shown.stdout).unwrap().ends_with(&format!("{}\n", body.replace("evt-1", "evt-2"))));
}

async fn workers_share_a_log_and_nothing_is_left_out_or_doubled(database: Database) {
    let receiver = Receiver::start();
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let environment = [(DATABASE, database.url())];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let scene = Scene::start_with(&integrators, &environment).await;
    let mut second = support::Worker::start_with(&scene::config(&scene.vhost.url()), &integrators, &environment);
    second.wait_ready().await;
    let count = 600;
    scene.publish_all((0..count).map(|number| event(&format!("evt-{number}")))).await;
    receiver.wait_for(count, LIMIT).await;
    let written = async |worker: &support::Worker| {
        worker.metric("callbackd_delivery_log_entries_total", &[("result", "written")]).await.unwrap_or_default()
    };
    // A full lane may have sent some away for a moment, which is told too.
    eventually("both have written everything", LIMIT, async || {
        let both = written(&scene.worker).await + written(&second).await;
        let attempts = database.numbers("SELECT COUNT(*) FROM entry WHERE what = 'attempt'").await;
        if both >= 600.0 && attempts == [600] { Ok(()) } else { Err((both, attempts)) }
    })
    .await;
    assert_eq!(database.numbers("SELECT COUNT(DISTINCT event_id) FROM entry WHERE verdict = 'delivered'").await, [600]);
    let shares = database.numbers("SELECT COUNT(*) FROM entry GROUP BY worker").await;
    assert_eq!(shares.len(), 2, "both took part: {shares:?}");
    assert_eq!(scene.worker.metric("callbackd_delivery_log_entries_total", &[("result", "dropped")]).await, Some(0.0));
}

async fn old_entries_leave_and_young_ones_stay(database: Database) {
    let receiver = Receiver::start();
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let url = database.url();
    let kept = ["CALLBACKD__DELIVERY_LOG__RETENTION", "CALLBACKD__DELIVERY_LOG__PAYLOAD_RETENTION"];
    let environment = [(DATABASE, url.as_str()), (kept[0], "2d"), (kept[1], "1d")];
    let mut scene = Scene::start_with(&integrators, &environment).await;
    scene.publish(&event("evt-young")).await;
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], 1.0, LIMIT).await;
    scene.worker.sigterm();
    scene.worker.wait_exit(LIMIT).await;
    // 5,000 of three days ago: more than leave at one time.
    let now = callbackd::clock::now().millis();
    let (at, day) = (now - 3 * 86_400_000, now / 86_400_000 - 3);
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)";
    let id = at << 21;
    database
        .run(&format!(
            "{numbers} INSERT INTO entry (id, at, what, event_id, worker) SELECT {id} + i, {at}, 'attempt', 'evt-old', 1 FROM n;
             {numbers} INSERT INTO finder (day, term, entry) SELECT {day}, 7, {id} + i FROM n;
             INSERT INTO payload (day, event_id, integrator, topic, body) VALUES ({day}, 'evt-old', 'acme', 't', '');"
        ))
        .await;
    scene.worker.start_again();
    scene.worker.wait_ready().await;
    eventually("the old ones are gone", LIMIT, async || {
        let left = [
            database.numbers("SELECT COUNT(*) FROM entry WHERE event_id = 'evt-old'").await,
            database.numbers("SELECT COUNT(*) FROM finder WHERE term = 7").await,
            database.numbers("SELECT COUNT(*) FROM payload").await,
        ];
        if left.iter().all(|count| *count == [0]) { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(database.numbers("SELECT COUNT(*) FROM entry WHERE event_id = 'evt-young'").await, [1]);
    assert_eq!(database.numbers("SELECT COUNT(*) FROM finder").await, [3], "the young one's id, message and key");
}

async fn a_log_that_does_not_answer_holds_up_no_delivery_and_what_it_misses_is_counted(database: Database) {
    let receiver = Receiver::start();
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let proxy = (!database.is_file()).then(|| TcpProxy::to(database.address()));
    let url = proxy.as_ref().map_or_else(|| database.url(), |proxy| database.url_at(&proxy.address().to_string()));
    let environment = [(DATABASE, url.as_str()), ("CALLBACKD__DELIVERY_LOG__MEMORY", "1MiB")];
    let scene = Scene::start_with(&integrators, &environment).await;
    scene.publish(&event("evt-before")).await;
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], 1.0, LIMIT).await;

    // Whoever else writes keeps the file; a server takes everything and says nothing.
    let mut lock = None;
    match &proxy {
        Some(proxy) => proxy.blackhole(true),
        None => {
            let mut connection = database.connect().await;
            sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut connection).await.unwrap();
            lock = Some(connection);
        }
    }
    let (count, start) = (4000, Instant::now());
    scene.publish_all((0..count).map(|number| event(&format!("evt-{number}")))).await;
    receiver.wait_for(count + 1, LIMIT).await;
    scene.settled().await;
    let dropped = [("result", "dropped")];
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &dropped, 1.0, LIMIT).await;
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    scene.worker.wait_for_log("it fills up", LIMIT, |line| line["message"] == "delivery log full: entries are left out").await;

    match (&proxy, lock) {
        (Some(proxy), _) => proxy.blackhole(false),
        (None, Some(lock)) => drop(lock.close().await),
        (None, None) => unreachable!("one of the two was made"),
    }
    // What waited is written, what found no room is not, and together they are all.
    eventually("everything is accounted for", Duration::from_secs(60), async || {
        let result =
            async |result| scene.worker.metric("callbackd_delivery_log_entries_total", &[("result", result)]).await.unwrap_or_default();
        let (written, dropped) = (result("written").await, result("dropped").await);
        if written > 1.0 && written + dropped >= 4001.0 { Ok(()) } else { Err((written, dropped)) }
    })
    .await;
    let rows = database.numbers("SELECT COUNT(*) FROM entry").await[0];
    let written = scene.worker.metric("callbackd_delivery_log_entries_total", &[("result", "written")]).await;
    assert_eq!(written.map(|written| written.to_string()), Some(rows.to_string()), "what it says that it wrote is there, once");
    assert_eq!(scene.worker.metric("callbackd_attempts_total", &[("verdict", "delivered")]).await, Some(4001.0));
}

async fn an_event_whose_id_no_database_takes_is_told_all_the_same(database: Database) {
    let receiver = Receiver::start();
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let scene = Scene::start_with(&integrators, &[(DATABASE, &database.url())]).await;
    let record = r#"[{"status":100,"key":"k\u0000'\"--","modified":"m","customerKey":"\ud83d\ude00"}]"#;
    let nul = BasicProperties::default().with_message_id("evt-'; DROP TABLE entry; --".into());
    let body = format!(r#"{{"integrator":"acme","topic":"complianceRecord","data":{record}}}"#);
    scene.amqp.publish("compliance.events", "event", nul, body.as_bytes()).await;
    scene.publish(&event_for("acme", r"evt\u0000", "complianceRecord", record)).await;
    let told = stories(&scene, &database, "\u{1f600}", 2.0).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|story| story["event_id"] == "evt-'; DROP TABLE entry; --"), "{told:?}");
    assert!(told.iter().any(|story| story["event_id"] == "evt\u{1a}"), "{told:?}");
    assert_eq!(stories(&scene, &database, "evt\u{1a}", 2.0).await.len(), 1);
}

async fn a_message_that_is_no_event_is_found_by_its_id(database: Database) {
    let receiver = Receiver::start();
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let scene = Scene::start_with(&integrators, &[(DATABASE, &database.url())]).await;
    let properties = BasicProperties::default().with_message_id("msg-'7".into());
    scene.amqp.publish("compliance.events", "event", properties, b"{").await;
    let told = stories(&scene, &database, "msg-'7", 1.0).await;
    assert_eq!((told.len(), &told[0]["integrator"], &told[0]["deliveries"][0]["state"]), (1, &"".into(), &"rejected".into()), "{told:?}");
    let shown = callbackd(&scene, &database.url(), &["explain", "msg-'7"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.starts_with("msg-'7 is a message that is no event\n") && text.contains("(undecodable)"), "{text}");
    assert!(text.contains(r"`callbackd dead show --queue rejected --event='msg-'\''7'`"), "{text}");
    let letter = callbackd(&scene, &database.url(), &["dead", "show", "--queue", "rejected", "--event=msg-'7"]);
    assert!(letter.status.success() && !letter.stdout.is_empty(), "{letter:?}");
}

async fn a_replay_is_told_and_so_is_the_delivery_before(database: Database) {
    let receiver = Receiver::start();
    receiver.on_path("/", [Answer::status(410), Answer::status(200)]);
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let scene = Scene::start_with(&integrators, &[(DATABASE, &database.url())]).await;
    scene.publish(&event("evt-1")).await;
    receiver.wait_for(1, LIMIT).await;
    let dead = stories(&scene, &database, "evt-1", 2.0).await;
    assert_eq!(dead[0]["deliveries"][0]["state"], "dead");
    // A changed configuration lets the endpoint be told again.
    scene.worker.write_integrators(&integrators.replace("id = \"main\"", "id = \"main\"\nmax_in_flight = 3"));
    scene.worker.wait_for_log("resumed", LIMIT, |line| line["message"] == "endpoint resumed").await;
    let replayed = callbackd(&scene, &database.url(), &["dead", "replay", "--event", "evt-1"]);
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    receiver.wait_for(2, LIMIT).await;
    let told = stories(&scene, &database, "evt-1", 3.0).await;
    assert_eq!(told[0]["deliveries"][0]["state"], "delivered");
    let last = told[0]["lines"].as_array().unwrap().last().unwrap();
    assert!(last["replayed_at"].is_string() && last["attempt"] == 1, "{last}");
}

async fn one_id_at_two_integrators_and_of_two_topics_is_told_apart(database: Database) {
    let receiver = Receiver::start();
    receiver.on_path("/acme", [200, 200]);
    receiver.on_path("/globex", [410]);
    let to = |key: &str| integrator(key, &[endpoint("main", &receiver.url(&format!("/{key}")), r#"format = "topic""#)]);
    let scene = Scene::start_with(&(to("acme") + &to("globex")), &[(DATABASE, &database.url())]).await;
    for (integrator, topic) in [("acme", "identResult"), ("acme", "identStarted"), ("globex", "identResult")] {
        scene.publish(&event_for(integrator, "evt-1", topic, r#"{"identId":"315"}"#)).await;
    }
    let told = stories(&scene, &database, "evt-1", 4.0).await;
    let names: Vec<_> =
        told.iter().map(|story| (story["integrator"].as_str().unwrap(), story["lines"].as_array().unwrap().len())).collect();
    assert_eq!(names.iter().filter(|(integrator, lines)| *integrator == "acme" && *lines == 1).count(), 2, "{names:?}");
    assert_eq!(names.iter().filter(|(integrator, lines)| *integrator == "globex" && *lines == 2).count(), 1, "{names:?}");
    let globex = callbackd(&scene, &database.url(), &["explain", "315", "--integrator", "globex"]);
    let text = String::from_utf8(globex.stdout).unwrap();
    assert!(text.starts_with("evt-1 of globex, topic identResult\n") && !text.contains("acme"), "{text}");
    assert!(text.contains("callbackd dead replay --integrator=globex --endpoint=main --event=evt-1`"), "{text}");
}

async fn an_event_of_many_records_is_found_by_each_and_by_the_message_that_told_of_it(database: Database) {
    let receiver = Receiver::start();
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let scene = Scene::start_with(&integrators, &[(DATABASE, &database.url())]).await;
    let record = |number: usize| format!(r#"{{"status":100,"key":"k-{number}","modified":"m","customerKey":"c-{number}"}}"#);
    let records: Vec<String> = (0..250).map(record).collect();
    scene.publish(&event_for("acme", "evt-many", "complianceRecord", &format!("[{}]", records.join(",")))).await;
    let seen = receiver.wait_for(1, LIMIT).await;
    for wanted in ["k-0", "c-249", seen[0].webhook_id()] {
        let told = stories(&scene, &database, wanted, 1.0).await;
        assert_eq!((told.len(), told[0]["event_id"].as_str()), (1, Some("evt-many")), "{wanted}");
        assert_eq!(told[0]["keys"].as_array().unwrap().len(), 500, "{wanted}");
    }
}

async fn what_one_worker_stores_another_one_does_not_remove(database: Database) {
    let receiver = Receiver::start();
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let url = database.url();
    let storing = [(DATABASE, url.as_str()), ("CALLBACKD__DELIVERY_LOG__STORE_PAYLOADS", "true")];
    let mut scene = Scene::start_with(&integrators, &storing).await;
    scene.publish(&event("evt-1")).await;
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], 1.0, LIMIT).await;
    scene.worker.sigterm();
    scene.worker.wait_exit(LIMIT).await;
    let mut other = support::Worker::start_with(&scene::config(&scene.vhost.url()), &integrators, &storing[..1]);
    other.wait_ready().await;
    scene.publish(&event("evt-2")).await;
    other.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], 1.0, LIMIT).await;
    assert_eq!(database.numbers("SELECT COUNT(*) FROM payload").await, [1], "it has looked for old ones before it wrote");
}

async fn tables_that_cannot_be_written_are_said_again_and_again_but_not_more_and_more(database: Database) {
    let receiver = Receiver::start();
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let scene = Scene::start_with(&integrators, &[(DATABASE, &database.url())]).await;
    scene.publish(&event("evt-1")).await;
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], 1.0, LIMIT).await;
    database.run("ALTER TABLE finder RENAME TO hidden").await;
    scene.publish(&event("evt-2")).await;
    receiver.wait_for(2, LIMIT).await;
    scene.worker.wait_for_metric("callbackd_delivery_log_failures_total", &[], 3.0, LIMIT).await;
    let pauses: Vec<u64> = scene.log_lines("delivery log failed").iter().map(|line| line["retry_in_ms"].as_u64().unwrap()).collect();
    assert!(pauses.len() >= 2 && pauses.windows(2).all(|pair| pair[1] == 2 * pair[0]), "{pauses:?}");
    let error = scene.log_lines("delivery log failed")[0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("finder") && (error.starts_with("sqlite:/") || error.starts_with("postgres://127.0.0.1")), "{error}");
    database.run("ALTER TABLE hidden RENAME TO finder").await;
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], 2.0, LIMIT).await;
    assert_eq!(database.numbers("SELECT COUNT(*) FROM worker").await, [1], "one process, one number");
    assert_eq!(stories(&scene, &database, "evt-2", 2.0).await.len(), 1);
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone_and_outlives_a_kill() {
    let (database, receiver) = (Database::sqlite(), Receiver::start());
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let mut scene = Scene::start_with(&integrators, &[(DATABASE, &database.url())]).await;
    scene.publish(&event("evt-1")).await;
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], 1.0, LIMIT).await;
    for file in std::fs::read_dir(database.file().parent().unwrap()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    scene.publish_all((0..500).map(|number| event(&format!("evt-k{number}")))).await;
    scene.worker.sigkill();
    scene.worker.start_again();
    scene.worker.wait_ready().await;
    assert_eq!(stories(&scene, &database, "evt-1", 0.0).await.len(), 1);
    scene.publish(&event("evt-2")).await;
    scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], 1.0, LIMIT).await;
    assert_eq!(stories(&scene, &database, "evt-2", 1.0).await.len(), 1);
}

/// As somebody does who looks with `sqlite3`: whoever closes a file last takes its write-ahead log away.
fn entries_seen_by_another_program(database: &Database) -> String {
    let python = std::env::var("CALLBACKD_TEST_PYTHON").expect("CALLBACKD_TEST_PYTHON: run `bash tests/run.sh`");
    let look = "import sqlite3, sys; log = sqlite3.connect(sys.argv[1]); print(log.execute('SELECT COUNT(*) FROM entry').fetchone()[0]); log.close()";
    let output = Command::new(python).args(["-c", look]).arg(database.file()).output().expect("Python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn another_program_that_looks_at_the_file_takes_nothing_away() {
    let (database, receiver) = (Database::sqlite(), Receiver::start());
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let scene = Scene::start_with(&integrators, &[(DATABASE, &database.url())]).await;
    for number in 1..=2 {
        scene.publish(&event(&format!("evt-{number}"))).await;
        let written = f64::from(number);
        scene.worker.wait_for_metric("callbackd_delivery_log_entries_total", &[("result", "written")], written, LIMIT).await;
        assert_eq!(entries_seen_by_another_program(&database), number.to_string());
        assert!(database.file().with_extension("db-wal").exists(), "the worker still writes to it");
    }
}

#[tokio::test]
async fn what_waits_at_a_stop_is_written() {
    let (database, receiver) = (Database::sqlite(), Receiver::start());
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let mut scene = Scene::start_with(&integrators, &[(DATABASE, &database.url())]).await;
    scene.publish_all((0..300).map(|number| event(&format!("evt-{number}")))).await;
    receiver.wait_for(300, LIMIT).await;
    scene.worker.sigterm();
    scene.worker.wait_exit(LIMIT).await;
    assert_eq!(database.numbers("SELECT COUNT(*) FROM entry WHERE what = 'attempt'").await, [300]);
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_is_said_and_stops_nothing() {
    let receiver = Receiver::start();
    let integrators = integrator("acme", &[endpoint("main", &receiver.url("/"), "")]);
    let nowhere = "postgres://callbackd:CANARY-password@127.0.0.1:1/log?sslmode=disable";
    let scene = Scene::start_with(&integrators, &[(DATABASE, nowhere)]).await;
    scene.publish(&event("evt-1")).await;
    receiver.wait_for(1, LIMIT).await;
    let line = scene.worker.wait_for_log("it fails", LIMIT, |line| line["message"] == "delivery log failed").await;
    assert!(line["error"].as_str().unwrap().contains("refused"), "{line}");
    assert_eq!(scene.worker.metric("callbackd_delivery_log_up", &[]).await, Some(0.0));
    let output = callbackd(&scene, nowhere, &["explain", "evt-1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("delivery log: ") && !said.contains("CANARY") && !scene.worker.log_text().contains("CANARY"), "{said}");
    let missing = callbackd(&scene, "sqlite:/nowhere/log.db", &["explain", "evt-1"]);
    assert!(String::from_utf8(missing.stderr).unwrap().contains("/nowhere/log.db does not exist"));
}
