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

#[tokio::test]
async fn a_token_reloads_through_the_api_and_leaves_its_name_in_the_log() {
    const TOKEN: &str = "CANARY-token-of-at-least-32-characters";
    let receiver = Receiver::start();
    let to = |path: &str| integrator("acme", &[endpoint("main", &receiver.url(path), "")]);
    let token = [("CALLBACKD__ADMIN__TOKEN__0__NAME", "ops"), ("CALLBACKD__ADMIN__TOKEN__0__SECRET", TOKEN)];
    let scene = Scene::start_with(&to("/one"), &token).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |token: &str| {
        let request = client.post(scene.worker.admin_url("/api/v1/reload")).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask("wrong").await, 401);
    assert_eq!(scene.worker.metric("callbackd_api_refusals_total", &[("reason", "wrong_token")]).await, Some(1.0));
    assert_eq!(ask(TOKEN).await, 202);
    scene.worker.wait_for_metric("callbackd_config_reloads_total", &[("result", "success")], 1.0, LIMIT).await;
    let audit = scene.worker.wait_for_log("the audit line", LIMIT, |line| line["message"] == "audit").await;
    assert_eq!((audit["actor"].as_str(), audit["action"].as_str()), (Some("ops"), Some("reload")));
    assert!(!scene.worker.log_text().contains("CANARY"), "a token is in the log");
}
