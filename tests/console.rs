//! The console in a real browser.

mod scene;
mod support;

use std::path::Path;
use std::process::Command;

use scene::{LIMIT, Scene, endpoint, event_for, integrator};
use support::Receiver;

const TOKEN: &str = "a-token-of-at-least-32-characters-for-the-console";

#[tokio::test]
async fn every_page_loads_and_does_what_it_says() {
    let receiver = Receiver::start();
    receiver.on_path("/bad", [500]);
    let token = [("CALLBACKD__ADMIN__TOKEN__0__NAME", "ops"), ("CALLBACKD__ADMIN__TOKEN__0__SECRET", TOKEN)];
    let endpoints = [endpoint("main", &receiver.url("/main"), ""), endpoint("bad", &receiver.url("/bad"), "")];
    let scene = Scene::start_with(&integrator("acme", &endpoints), &token).await;
    let record =
        |n: usize| format!(r#"[{{"status":100,"key":"record-{n}","modified":"2025-09-03T06:38:08","customerKey":"customer-{n}"}}]"#);
    scene.publish_all((0..30).map(|n| event_for("acme", &format!("evt-{n}"), "complianceRecord", &record(n)))).await;
    receiver.wait_for_at("/main", 30, LIMIT).await;

    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console/browser.mjs");
    let base = scene.worker.admin_url("");
    let output = tokio::task::spawn_blocking(move || Command::new("node").arg(script).arg(base).arg(shots).arg(TOKEN).output().unwrap())
        .await
        .unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}
