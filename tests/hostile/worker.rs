//! What reaches a real worker from outside: proxies, wanted and unwanted, and header values in its configuration.

use callbackd::config::{Environment, load_directory};
use callbackd::domain::policy::DeliveryPolicy;

use crate::proxies::{EgressProxy, Manner};
use crate::scene::{LIMIT, Scene, endpoint, event, integrator};
use crate::support::{Receiver, free_port};

#[tokio::test]
async fn a_worker_uses_no_proxy_of_its_environment() {
    let (receiver, canary) = (Receiver::start(), Receiver::start());
    let proxy = canary.url("");
    let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let environment = names.map(|name| (name, proxy.as_str()));
    let environment: Vec<(&str, &str)> =
        environment.into_iter().chain([("NO_PROXY", ""), ("no_proxy", ""), ("REQUEST_METHOD", "")]).collect();
    let scene = Scene::start_with(&integrator("acme", &[endpoint("main", &receiver.url("/"), "")]), &environment).await;
    for number in 0..20 {
        scene.publish(&event(&format!("evt-{number}"))).await;
    }
    receiver.wait_for_at("/", 20, LIMIT).await;
    scene.settled().await;
    assert_eq!((receiver.count(), canary.count()), (20, 0));
}

#[tokio::test]
async fn a_proxy_that_is_away_opens_no_circuit_and_everything_is_delivered_when_it_is_back() {
    let receiver = Receiver::start();
    let port = free_port();
    let proxy = format!("socks5h://127.0.0.1:{port}");
    let url = format!("http://hook.acme.example:{}/", receiver.address().port());
    let integrators = integrator("acme", &[endpoint("main", &url, "retry = { max_delay = \"200ms\" }")]);
    let scene = Scene::start_with(&integrators, &[("CALLBACKD__EGRESS__PROXY", &proxy)]).await;
    scene.publish_all((0..20).map(|number| event(&format!("evt-{number}")))).await;
    scene.worker.wait_for_metric("callbackd_attempts_total", &[("class", "proxy")], 60.0, LIMIT).await;
    assert_eq!(scene.worker.metric("callbackd_circuit_state", &[]).await, None, "its circuit has never been open");
    let proxy = EgressProxy::start_on(port, Manner::Socks).await;
    receiver.wait_for_at("/", 20, LIMIT).await;
    scene.settled().await;
    assert_eq!(receiver.count(), 20);
    assert!(proxy.asked().iter().all(|asked| asked.starts_with("hook.acme.example:")));
}

#[test]
fn no_configured_header_can_carry_a_line_break_or_a_nul() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("integrators.toml");
    for value in ["a\nx-b: c", "a\r\nx-b: c", "a\r", "\0", "a\0b", "a\u{7f}", "\u{85}", "a\u{2028}b", "a\r\n\r\nPOST / HTTP/1.1"] {
        std::fs::write(folder.path().join("value"), value).unwrap();
        let escaped: String = value.chars().map(|character| format!("\\u{:04X}", u32::from(character))).collect();
        for written in [format!("\"{escaped}\""), "{ file = 'value' }".to_owned(), "{ env = 'VALUE' }".to_owned()] {
            // The last line break of a file is none of the value.
            if written.contains("file") && value.ends_with('\n') {
                continue;
            }
            let endpoint = format!("{{ id = 'main', url = 'https://acme.example/', headers = {{ x-a = {written} }} }}");
            std::fs::write(&path, format!("[[integrator]]\nkey = 'acme'\nendpoint = [{endpoint}]\n")).unwrap();
            let environment: Environment = [("VALUE".to_owned(), value.to_owned())].into_iter().collect();
            let loaded = load_directory(&path, None, &DeliveryPolicy::default(), &callbackd::config::Egress::default(), &environment);
            let Err(problem) = loaded.map(drop).map_err(|problems| problems.to_string()) else { panic!("{value:?} {written} is admitted") };
            // A line break at the end is named as one.
            assert!(problem.contains(r#"endpoint["main"].headers.x-a: has a "#), "{value:?} {written}: {problem}");
        }
    }
}
