//! What reaches a real worker from outside: proxies in its environment, header values in its configuration.

use callbackd::config::{Environment, load_directory};
use callbackd::domain::policy::DeliveryPolicy;

use crate::scene::{LIMIT, Scene, endpoint, event, integrator};
use crate::support::Receiver;

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
