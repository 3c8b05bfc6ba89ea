//! `integrators.toml` changes under a running worker.

mod scene;
mod support;

use scene::{LIMIT, Scene, endpoint, event, integrator};
use support::Receiver;

#[tokio::test]
async fn a_good_version_is_in_force_without_a_restart_and_a_bad_one_is_refused() {
    let receiver = Receiver::start();
    let to = |path: &str| integrator("acme", &[endpoint("main", &receiver.url(path), "")]);
    let scene = Scene::start(&to("/one")).await;
    scene.publish(&event("evt-1")).await;
    receiver.wait_for_at("/one", 1, LIMIT).await;

    scene.worker.write_integrators(&to("/two"));
    scene.worker.wait_for_metric("callbackd_config_reloads_total", &[("result", "success")], 1.0, LIMIT).await;
    scene.publish(&event("evt-2")).await;
    receiver.wait_for_at("/two", 1, LIMIT).await;

    scene.worker.write_integrators(&format!("{}\n[[integrator]]\nkee = \"x\"\n", to("/three")));
    scene.worker.wait_for_metric("callbackd_config_reloads_total", &[("result", "refused")], 1.0, LIMIT).await;
    assert_eq!(scene.worker.metric("callbackd_config_last_reload_successful", &[]).await, Some(0.0));
    let refused = scene.worker.wait_for_log("the refusal", LIMIT, |line| line.to_string().contains("kee")).await;
    assert_eq!(refused["level"], "ERROR");
    scene.publish(&event("evt-3")).await;
    receiver.wait_for_at("/two", 2, LIMIT).await;

    scene.worker.write_integrators(&to("/four"));
    scene.worker.wait_for_metric("callbackd_config_last_reload_successful", &[], 1.0, LIMIT).await;
    scene.publish(&event("evt-4")).await;
    receiver.wait_for_at("/four", 1, LIMIT).await;
    assert_eq!(receiver.seen_at("/three").len(), 0);
    scene.settled().await;
}

#[tokio::test]
async fn sighup_reads_secrets_again() {
    let receiver = Receiver::start();
    let more = "headers = { x-key = { file = \"key\" } }";
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "old\n").unwrap();
    let more = more.replace("\"key\"", &format!("\"{}\"", key.display()));
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), &more)])).await;
    scene.publish(&event("evt-1")).await;
    receiver.wait_for(1, LIMIT).await;
    std::fs::write(&key, "new\n").unwrap();
    scene.worker.signal("HUP");
    scene.worker.wait_for_metric("callbackd_config_reloads_total", &[("result", "success")], 1.0, LIMIT).await;
    scene.publish(&event("evt-2")).await;
    let seen = receiver.wait_for(2, LIMIT).await;
    assert_eq!(seen.iter().map(|one| one.header("x-key")).collect::<Vec<_>>(), ["old", "new"]);
}
