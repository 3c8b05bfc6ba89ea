//! A worker whose endpoint wants a client certificate, before, while and after that is renewed.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod scene;
mod support;
#[path = "egress/tls_server.rs"]
mod tls_server;

use std::collections::HashSet;

use scene::{LIMIT, Scene, endpoint, event, integrator};
use support::eventually;
use tls_server::{Clients, EMPTY, SERVER, TlsServer, pem};

fn header<'h>(head: &'h str, name: &str) -> &'h str {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
}

#[tokio::test]
async fn a_certificate_is_renewed_by_a_reload_without_losing_a_delivery() {
    let server = TlsServer::start(SERVER, Clients::Certified, EMPTY);
    let files = tempfile::tempdir().unwrap();
    let put = |certificate: &str, key: &str| {
        for (name, from) in [("our.pem", certificate), ("our.key", key), ("ca.pem", "ca.pem")] {
            std::fs::write(files.path().join(name), pem(from)).unwrap();
        }
    };
    put("client.pem", "client.key");
    let file = |name: &str| format!("{{ file = {:?} }}", files.path().join(name));
    let tls = format!("tls = {{ certificate = {}, key = {}, ca = {} }}", file("our.pem"), file("our.key"), file("ca.pem"));
    let integrators = integrator("acme", &[endpoint("main", &format!("https://localhost:{}/", server.port), &tls)]);
    let scene = Scene::start(&integrators).await;

    scene.publish_all((0..100).map(|number| event(&format!("evt-{number}")))).await;
    eventually("the first are delivered", LIMIT, async || (server.seen().len() >= 100).then_some(())).await;
    // Renewed while others are under way.
    let publish = scene.publish_all((100..300).map(|number| event(&format!("evt-{number}"))));
    let renew = async {
        put("client-next.pem", "client-next.key");
        scene.worker.signal("HUP");
        scene.worker.wait_for_log("reloaded", LIMIT, |line| line["message"] == "reloaded").await;
    };
    tokio::join!(publish, renew);
    scene.publish_all((300..400).map(|number| event(&format!("evt-{number}")))).await;
    scene.settled().await;

    let seen = server.seen();
    let told: HashSet<&str> = seen.iter().map(|request| header(&request.head, "callback-event-ids")).collect();
    assert_eq!((told.len(), seen.len()), (400, 400), "each once");
    let shown: Vec<&[u8]> = seen.iter().map(|request| request.certificate.as_deref().unwrap()).collect();
    assert_ne!(shown[0], shown[399]);
    assert_eq!(shown.iter().collect::<HashSet<_>>().len(), 2);
    assert!(shown[301..].iter().filter(|certificate| **certificate != shown[399]).count() == 0, "the new one alone after the reload");
    assert_eq!(scene.worker.metric("callbackd_attempts_total", &[("class", "2xx")]).await, Some(400.0));
}

#[tokio::test]
async fn a_certificate_that_is_refused_is_counted_and_what_it_held_up_is_delivered_with_the_right_one() {
    let server = TlsServer::start(SERVER, Clients::Certified, EMPTY);
    let files = tempfile::tempdir().unwrap();
    let text = |certificate: &str| {
        std::fs::write(files.path().join("our.pem"), pem(certificate)).unwrap();
        let tls = format!(
            "tls = {{ certificate = {{ file = {:?} }}, key = \"\"\"{}\"\"\", ca = \"\"\"{}\"\"\" }}",
            files.path().join("our.pem"),
            pem("client.key"),
            pem("ca.pem")
        );
        integrator("acme", &[endpoint("main", &format!("https://localhost:{}/", server.port), &tls)])
    };
    let scene = Scene::start(&text("client-expired.pem")).await;
    scene.publish(&event("evt-1")).await;
    let failed = scene.worker.wait_for_log("a refused attempt", LIMIT, |line| line["message"] == "attempt").await;
    assert_eq!(failed["class"], "tls_client_certificate");
    assert!(scene.worker.metric("callbackd_attempts_total", &[("class", "tls_client_certificate")]).await >= Some(1.0));
    scene.worker.write_integrators(&text("client.pem"));
    eventually("delivered with the right one", LIMIT, async || (server.seen().len() == 1).then_some(())).await;
    scene.settled().await;
    assert!(!scene.worker.log_text().contains("PRIVATE KEY"));
}
