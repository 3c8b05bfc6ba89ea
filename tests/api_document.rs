//! The API holds to its own document (`/api/openapi.json`), whatever it is asked: schemathesis makes the requests, those that the document
//! allows and those that it does not, and judges the answers.

mod scene;
mod support;

use std::process::Command;

use scene::{LIMIT, Scene, endpoint, event, integrator};
use support::Receiver;
use tokio::task::spawn_blocking;

const TOKEN: &str = "a-token-of-at-least-32-characters-for-schemathesis";

#[tokio::test]
async fn whatever_it_is_asked_the_api_answers_as_its_document_says() {
    let receiver = Receiver::start();
    receiver.on_path("/bad", [410]);
    let endpoints = [endpoint("main", &receiver.url("/main"), ""), endpoint("bad", &receiver.url("/bad"), "")];
    let token = [("CALLBACKD__ADMIN__TOKEN__0__NAME", "ops"), ("CALLBACKD__ADMIN__TOKEN__0__SECRET", TOKEN)];
    let scene = Scene::start_with(&integrator("acme", &endpoints), &token).await;
    scene.publish_all((0..20).map(|n| event(&format!("evt-{n}")))).await;
    receiver.wait_for_at("/main", 20, LIMIT).await;

    let python = std::env::var("CALLBACKD_TEST_PYTHON").expect("CALLBACKD_TEST_PYTHON: run `bash tests/run.sh`");
    let document = scene.worker.admin_url("/api/openapi.json");
    let output = spawn_blocking(move || {
        let mut judge = Command::new(python);
        judge.args(["-m", "schemathesis.cli", "run", &document, "--header", &format!("Authorization: Bearer {TOKEN}")]);
        // The stream does not end by itself. As many requests a second as one token may make.
        judge.args([
            "--exclude-path",
            "/api/v1/stream",
            "--rate-limit",
            "40/s",
            "--max-examples",
            "12",
            "--seed",
            "1",
            "--phases",
            "examples,coverage,fuzzing",
        ]);
        judge.args(["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--no-color", "--suppress-health-check", "all"]);
        // It keeps notes where it runs.
        judge.current_dir(env!("CARGO_TARGET_TMPDIR"));
        judge.output().unwrap()
    });
    let output = output.await.unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!scene.worker.log_text().contains("panicked"), "a handler panicked");
}
