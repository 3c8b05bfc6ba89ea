//! One canary of every kind of secret, and of what is as good as one, is planted; then everything that was written is searched.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod scene;
mod support;

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use scene::{LIMIT, Scene, endpoint, integrator};
use support::{Answer, Receiver, eventually};

/// With a digit behind it, the 32 bytes of a key.
const KEY: &str = "CANARY-of-the-signing-secret-n-";

/// Every text that must not be found: each canary, and what it becomes in base64 or in a form.
fn canaries() -> Vec<String> {
    let plain = [
        "PATHCANARY",
        "QUERYCANARY",
        "BODYCANARY",
        "HEADERCANARY",
        "BASICCANARY",
        "CLIENTCANARY",
        "TOKENCANARY",
        "TOKENPATHCANARY",
        "ANSWERCANARY",
        "CANARY-of-the-signing",
        "guest:guest",
    ];
    let encoded = ["acme:BASICCANARY", "acme:CLIENTCANARY", &format!("{KEY}1"), &format!("{KEY}2")].map(|text| {
        // Without its end, which depends on what follows.
        let mut text = STANDARD.encode(text);
        text.truncate(12);
        text
    });
    plain.map(str::to_owned).into_iter().chain(encoded).collect()
}

/// Those of [`canaries`] that stand in what somebody asked to see: `render` shows bodies and whole URLs, `dead show` bodies.
const ASKED_FOR: [&str; 3] = ["PATHCANARY", "QUERYCANARY", "BODYCANARY"];

fn assert_clean(what: &str, text: &str, but: &[&str]) {
    for canary in canaries().iter().filter(|canary| !but.contains(&canary.as_str())) {
        let found = text.find(canary.as_str()).map(|at| text[..at].rfind('\n').map_or(0, |start| start + 1));
        assert!(found.is_none(), "{canary} is in {what}: {}", text[found.unwrap()..].lines().next().unwrap_or_default());
    }
}

/// The integrators with a secret of every kind, each in its place.
fn integrators(receiver: &Receiver) -> String {
    let key = |number: u8| STANDARD.encode(format!("{KEY}{number}"));
    let more = format!(
        r#"format = "topic"
headers = {{ x-acme-signature = "HEADERCANARY" }}
signing_secrets = ["whsec_{}", "whsk_{}"]
auth = {{ basic = {{ username = "acme", password = "BASICCANARY" }} }}"#,
        key(1),
        key(2)
    );
    let oauth2 = |path: &str, client_auth: &str| {
        let token_url = receiver.url(path);
        format!(
            r#"auth = {{ oauth2 = {{ token_url = "{token_url}", client_id = "acme", client_secret = "CLIENTCANARY", client_auth = "{client_auth}" }} }}
retry = {{ max_attempts = 1 }}"#
        )
    };
    let dead = "http://127.0.0.1:1/hook/PATHCANARY?token=QUERYCANARY";
    let endpoints = [
        endpoint("main", &receiver.url("/hook/PATHCANARY?token=QUERYCANARY"), &more),
        endpoint("token", &receiver.url("/other/PATHCANARY"), &oauth2("/token/TOKENPATHCANARY", "basic")),
        endpoint("post", &receiver.url("/other/PATHCANARY"), &oauth2("/token/TOKENPATHCANARY", "post")),
        endpoint("refused", &receiver.url("/PATHCANARY"), &oauth2("/refused/TOKENPATHCANARY", "basic")),
        endpoint("unreachable", dead, "retry = { max_attempts = 1 }"),
    ];
    integrator("acme", &endpoints)
}

#[tokio::test]
async fn no_secret_of_any_kind_is_written_anywhere_at_any_level_of_the_log() {
    let receiver = Receiver::start();
    receiver.on_path("/hook/PATHCANARY?token=QUERYCANARY", [Answer::status(500).body("ANSWERCANARY"), Answer::status(200)]);
    receiver.on_path("/other/PATHCANARY", [Answer::status(401).body("ANSWERCANARY")]);
    let token = r#"{"access_token":"TOKENCANARY","token_type":"Bearer"}"#;
    receiver.on_path("/token/TOKENPATHCANARY", [Answer::status(200).body(token)]);
    receiver.on_path("/refused/TOKENPATHCANARY", [Answer::status(400).body(r#"{"error":"ANSWERCANARY"}"#)]);
    let everything = "trace,callbackd=trace,hyper=trace,hyper_util=trace,reqwest=trace,lapin=trace,rustls=trace";
    for directive in ["trace", everything] {
        receiver.forget();
        let scene = Scene::start_with(&integrators(&receiver), &[("RUST_LOG", directive)]).await;
        let record = r#"{"status":1,"key":"BODYCANARY","modified":"m"}"#;
        scene.publish(&format!(r#"{{"id":"evt-1","integrator":"acme","topic":"complianceRecord","data":[{record}]}}"#)).await;
        scene.publish("BODYCANARY no json").await;
        eventually("what is delivered arrives", LIMIT, async || {
            receiver.seen().iter().any(|one| one.header("authorization") == "Bearer TOKENCANARY")
        })
        .await;
        // All but `main`, which has it in the end.
        scene.amqp.wait_ready("callbacks.dead", 4, LIMIT).await;
        scene.amqp.wait_ready("callbacks.rejected", 1, LIMIT).await;
        write_bad_version(&scene).await;
        let log = scene.worker.log_text();
        assert!(log.contains("evt-1") && log.contains("token refused"), "it is the log");
        assert_eq!(directive == everything, log.contains(r#""target":"lapin"#), "libraries speak only when they are asked to");
        assert_clean("the log", &log, &[]);
        assert_clean("the metrics", &scene.worker.metrics().await, &[]);
        scene.worker.write_integrators(&integrators(&receiver));
        commands(scene.worker.folder());
        for queue in ["callbacks.dead", "callbacks.rejected"] {
            for letter in scene.amqp.drain(queue).await {
                assert_clean(queue, &format!("{:?}", letter.properties), &[]);
            }
        }
    }
}

/// A version in which every secret is wrong in a way of its own.
fn bad_version() -> String {
    let key = STANDARD.encode("CANARY-of-the-signing-secret");
    let first = format!(
        r#"signing_secrets = ["whsk_{key}", "whsk_CANARY-of-the-signing", "CANARY-of-the-signing", "whsec_{key}!", {{ env = "CANARY-of-the-signing" }}]
headers = {{ authorization = "HEADERCANARY\n", x-b = "ü HEADERCANARY" }}
auth = {{ basic = {{ username = "acme", password = "BASICCANARY\n" }}, passwort = "BASICCANARY" }}"#
    );
    let oauth2 =
        r#"{ token_url = "https://acme:CLIENTCANARY@id.example/TOKENPATHCANARY", client_id = "a", client_secret = "CLIENTCANARY\n" }"#;
    let endpoints = [
        endpoint("one", "https://acme:BASICCANARY@acme.example/PATHCANARY?QUERYCANARY", &first),
        endpoint("two", "ftp://acme.example/PATHCANARY", &format!("auth = {{ oauth2 = {oauth2} }}")),
        endpoint("three", "https://acme.example/#PATHCANARY", r#"auth = "BASICCANARY""#),
    ];
    integrator("acme", &endpoints)
}

async fn write_bad_version(scene: &Scene) {
    scene.worker.write_integrators(&bad_version());
    scene.worker.wait_for_metric("callbackd_config_reloads_total", &[("result", "refused")], 1.0, LIMIT).await;
    let (status, written) = run(scene.worker.folder(), &["check"]);
    assert_eq!(status, Some(64));
    assert!(written.contains("token_url") && written.contains("signing_secrets[3]"), "{written}");
    assert_clean("what check says of a bad version", &written, &[]);
    assert_clean("what render says of a bad version", &run(scene.worker.folder(), &["render"]).1, &[]);
}

/// Runs the commands that speak of integrators or dead letters.
fn commands(folder: &Path) {
    let event = folder.join("event.json");
    std::fs::write(
        &event,
        r#"{"id":"evt-1","integrator":"acme","topic":"complianceRecord","data":[{"status":1,"key":"k","modified":"m"}]}"#,
    )
    .unwrap();
    let event = event.to_str().unwrap();
    for (arguments, shown) in [
        (vec!["check", "--keys"], &[][..]),
        (vec!["check", "--online"], &[]),
        (vec!["dead", "list"], &[]),
        (vec!["dead", "list", "--queue", "rejected"], &[]),
        (vec!["dead", "show", "--event", "evt-1"], &ASKED_FOR),
        (vec!["render", event], &ASKED_FOR),
    ] {
        let (status, written) = run(folder, &arguments);
        assert!(!written.is_empty() && status != Some(64), "{arguments:?}: {written}");
        assert_clean(&format!("what {arguments:?} prints"), &written, shown);
    }
    let (_, rendered) = run(folder, &["render", event]);
    assert_eq!(rendered.matches("authorization: (hidden)").count(), 1, "{rendered}");
    assert!(run(folder, &["check", "--keys"]).1.contains("public key of acme/main: whpk_"));
}

/// The exit code, and all that the program wrote, with every level of its log asked for.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_callbackd"))
        .args(arguments)
        .arg("--config")
        .arg(folder.join("callbackd.toml"))
        .env("RUST_LOG", "trace,callbackd=trace")
        .output()
        .unwrap();
    let written = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code(), written)
}
