//! The console in a real browser: Chromium, as `tests/console/browser.mjs` drives it. Its pictures are in `target/tmp/console`.

mod scene;
mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use scene::{LIMIT, Scene, endpoint, event_for, integrator};
use support::Receiver;
use tokio::task::spawn_blocking;

const TOKEN: &str = "a-token-of-at-least-32-characters-for-the-console";

fn record(n: usize) -> String {
    let data = format!(r#"[{{"status":100,"key":"record-{n}","modified":"2025-09-03T06:38:08","customerKey":"customer-{n}"}}]"#);
    event_for("acme", &format!("evt-{n}"), "complianceRecord", &data)
}

/// Has a script drive the browser, and does something when it says `word`.
async fn drive(script: &str, arguments: &[&str], word: &str, act: impl AsyncFnOnce()) {
    let mut browser = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console").join(script))
        .arg(arguments[0])
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("console"))
        .args(&arguments[1..])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("node, which tests/run.sh installs");
    let mut said = BufReader::new(browser.stdout.take().expect("its output")).lines();
    let first = spawn_blocking(move || said.next()).await.expect("a line or the end");
    if first.is_some_and(|line| line.expect("text") == word) {
        act().await;
    }
    let output = spawn_blocking(move || browser.wait_with_output()).await.expect("it ends").expect("its output");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn who_is_on_the_machine_uses_the_console_without_a_token_and_is_told_when_the_worker_is_gone() {
    let receiver = Receiver::start();
    let mut scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")])).await;
    let base = scene.worker.admin_url("");
    drive("open.mjs", &[&base], "looking", async || {
        scene.worker.sigkill();
    })
    .await;
}

#[tokio::test]
async fn every_page_loads_and_does_what_it_says() {
    let receiver = Receiver::start();
    receiver.on_path("/bad", [500]);
    receiver.on_path("/gone", [410]);
    let prefix = "/ops/callbackd";
    let environment = [
        ("CALLBACKD__ADMIN__TOKEN__0__NAME", "ops"),
        ("CALLBACKD__ADMIN__TOKEN__0__SECRET", TOKEN),
        ("CALLBACKD__ADMIN__PATH_PREFIX", prefix),
    ];
    let once = "topics = [\"identResult\"]\nformat = \"topic\"\nretry = { max_attempts = 1 }";
    let endpoints = [
        endpoint("main", &receiver.url("/main"), ""),
        endpoint("bad", &receiver.url("/bad"), ""),
        endpoint("once", &receiver.url("/once"), once),
    ];
    let scene = Scene::start_with(&integrator("acme", &endpoints), &environment).await;
    receiver.on_path("/once", [500]);
    scene.publish_all((0..30).map(record)).await;
    scene.publish_all((0..5).map(|n| event_for("acme", &format!("dead-{n}"), "identResult", "{}"))).await;
    receiver.wait_for_at("/main", 30, LIMIT).await;
    scene.worker.wait_for_metric("callbackd_dead_letters_total", &[("endpoint", "once")], 5.0, LIMIT).await;
    receiver.on_path("/once", [200]);
    scene.worker.wait_for_metric("callbackd_delivery_log_waiting", &[], 0.0, LIMIT).await;

    let base = scene.worker.admin_url(prefix);
    drive("browser.mjs", &[&base, TOKEN], "watching", async || scene.publish_all((100..110).map(record)).await).await;
    assert_eq!(receiver.seen_at("/once").len(), 10, "each of the five was replayed once");
}
