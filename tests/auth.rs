//! How requests say who sends them: basic credentials, and access tokens from a real token server that is slow, down, wrong or
//! rotated under a running worker.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod scene;
mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callbackd::config::{Egress as EgressConfig, Ports};
use callbackd::domain::auth::{AuthFault, ClientAuth, ClientCredentials};
use callbackd::domain::integrator::EndpointUrl;
use callbackd::domain::reply::Forbidden;
use callbackd::egress::{Egress, Tokens};
use callbackd::telemetry::Telemetry;
use futures_util::future::join_all;
use scene::{LIMIT, Scene, endpoint, event, integrator};
use support::{Answer, Receiver, Seen, eventually, free_port};

/// A token server's answer.
fn token(name: &str, seconds: u32) -> Answer {
    let body = format!(r#"{{"access_token":"{name}","token_type":"Bearer","expires_in":{seconds}}}"#);
    Answer::status(200).header("content-type", "application/json").body(body)
}

fn credentials(token_url: &str) -> Arc<ClientCredentials> {
    Arc::new(ClientCredentials {
        token_url: EndpointUrl::parse(token_url, true).unwrap(),
        client_id: "acme".to_owned(),
        client_secret: "hunter2".into(),
        scope: None,
        audience: None,
        client_auth: ClientAuth::Basic,
    })
}

fn tokens(egress: &EgressConfig) -> Tokens {
    Tokens::new(Egress::new(egress).unwrap(), Telemetry::default())
}

/// The key `auth` of an endpoint.
fn oauth2(token_url: &str, more: &str) -> String {
    format!(r#"auth = {{ oauth2 = {{ token_url = "{token_url}", client_id = "acme", client_secret = "hunter2"{more} }} }}"#)
}

fn events(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| event(&format!("{prefix}-{n}")))
}

fn authorizations(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|one| one.header("authorization")).collect()
}

#[tokio::test]
async fn fifty_who_wait_for_a_token_share_one_request_and_so_do_all_who_come_later() {
    let server = Receiver::start();
    server.on_path("/token", [token("one", 3600).after(Duration::from_millis(300)), token("two", 3600)]);
    let tokens = tokens(&EgressConfig::anywhere());
    let ask = || {
        let tokens = tokens.clone();
        // Each has a setting of its own that says the same.
        let credentials = credentials(&server.url("/token"));
        async move { tokens.bearer(&credentials).await.unwrap() }
    };
    let mut all = join_all((0..50).map(|_| ask())).await;
    all.push(ask().await);
    assert!(all.iter().all(|bearer| bearer.value() == "Bearer one"));
    assert_eq!(server.count(), 1);
    let asked = &server.seen()[0];
    assert_eq!((asked.method.as_str(), asked.header("content-type")), ("POST", "application/x-www-form-urlencoded"));
    assert_eq!(asked.header("authorization"), "Basic YWNtZTpodW50ZXIy");
    assert_eq!(asked.body, "grant_type=client_credentials");

    let other = Arc::new(ClientCredentials { client_secret: "rotated".into(), ..(*credentials(&server.url("/token"))).clone() });
    assert_eq!(tokens.bearer(&other).await.unwrap().value(), "Bearer two", "another setting has a token of its own, at once");
}

#[tokio::test]
async fn who_gives_up_waiting_does_not_end_the_request_for_the_others() {
    let server = Receiver::start();
    server.on_path("/token", [token("one", 3600).after(Duration::from_millis(400))]);
    let (tokens, credentials) = (tokens(&EgressConfig::anywhere()), credentials(&server.url("/token")));
    let impatient = tokio::time::timeout(Duration::from_millis(50), tokens.bearer(&credentials)).await;
    assert!(impatient.is_err());
    assert_eq!(tokens.bearer(&credentials).await.unwrap().value(), "Bearer one");
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_token_is_replaced_before_its_end_while_it_is_still_used() {
    let server = Receiver::start();
    server.on_path("/token", [token("one", 5), token("two", 3600)]);
    let (tokens, credentials) = (tokens(&EgressConfig::anywhere()), credentials(&server.url("/token")));
    let start = Instant::now();
    assert_eq!(tokens.bearer(&credentials).await.unwrap().value(), "Bearer one");
    eventually("the second token", LIMIT, async || tokens.bearer(&credentials).await.unwrap().value() == "Bearer two").await;
    let took = start.elapsed();
    println!("replaced after {took:?} of 5 s");
    assert!(took >= Duration::from_secs(4), "{took:?}");
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn whatever_a_token_server_answers_that_is_no_token_is_told_apart_and_not_asked_for_again_at_once() {
    let server = Receiver::start();
    let long = |bytes: usize| format!(r#"{{"access_token":"{}"}}"#, "t".repeat(bytes));
    let html = Answer::status(200).header("content-type", "text/html").body("<html><p>ANSWERCANARY</p></html>");
    let gone = format!("http://127.0.0.1:{}/token", free_port());
    let cases = [
        ("/500", Answer::status(500).body(long(9)), AuthFault::Refused(500)),
        ("/401", Answer::status(401).body(r#"{"error":"invalid_client","error_description":"ANSWERCANARY"}"#), AuthFault::Refused(401)),
        ("/302", Answer::status(302).header("location", "/elsewhere"), AuthFault::Refused(302)),
        ("/307", Answer::status(307).header("location", "/elsewhere"), AuthFault::Refused(307)),
        ("/html", html, AuthFault::NoToken),
        ("/garbage", Answer::status(200).body(vec![0xff; 100]), AuthFault::NoToken),
        ("/empty", Answer::status(200), AuthFault::NoToken),
        ("/mac", Answer::status(200).body(r#"{"access_token":"x","token_type":"mac"}"#), AuthFault::NoToken),
        ("/cut", Answer::status(200).body(r#"{"access_token":"x""#), AuthFault::NoToken),
        ("/long-token", Answer::status(200).body(long(8 * 1024 + 1)), AuthFault::TooLong),
        ("/long-answer", Answer::status(200).body(long(64 * 1024)), AuthFault::TooLong),
        ("/endless", Answer::status(200).body(" ".repeat(8 << 20)), AuthFault::TooLong),
        ("/reset", Answer::close(), AuthFault::NoAnswer("disconnected")),
    ];
    let tokens = tokens(&EgressConfig::anywhere());
    for (path, answer, expected) in cases {
        server.on_path(path, [answer]);
        let credentials = credentials(&server.url(path));
        // All but the first come within the pause after it.
        for _ in 0..20 {
            assert_eq!(tokens.bearer(&credentials).await, Err(expected), "{path}");
        }
        assert_eq!(server.seen_at(path).len(), 1, "{path}");
        assert!(!format!("{expected} {expected:?}").contains("CANARY"));
    }
    assert_eq!(server.seen_at("/elsewhere").len(), 0, "credentials follow no redirect");
    assert_eq!(tokens.bearer(&credentials(&gone)).await, Err(AuthFault::NoAnswer("connect")));
    let longest = credentials(&server.url("/longest"));
    server.on_path("/longest", [Answer::status(200).body(long(8 * 1024))]);
    assert_eq!(tokens.bearer(&longest).await.unwrap().value().len(), "Bearer ".len() + 8 * 1024);
}

#[tokio::test]
async fn a_token_server_that_hangs_is_given_up_after_ten_seconds_by_all_at_one_time() {
    let server = Receiver::start();
    server.on_path("/token", [Answer::hang()]);
    let (tokens, credentials) = (tokens(&EgressConfig::anywhere()), credentials(&server.url("/token")));
    let start = Instant::now();
    let all = join_all((0..50).map(|_| tokens.bearer(&credentials))).await;
    let took = start.elapsed();
    assert!(all.iter().all(|one| *one == Err(AuthFault::NoAnswer("timeout"))));
    assert!((10..15).contains(&took.as_secs()), "{took:?}");
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_token_server_is_guarded_as_endpoints_are() {
    let server = Receiver::start();
    let port = server.address().port();
    let tokens = tokens(&EgressConfig { allow_http: true, ports: Ports::Any, ..EgressConfig::default() });
    for (host, forbidden) in [
        ("127.0.0.1", Forbidden::Address),
        ("[::ffff:7f00:1]", Forbidden::Address),
        ("169.254.169.254", Forbidden::Address),
        ("localhost", Forbidden::Name),
    ] {
        let credentials = credentials(&format!("http://{host}:{port}/token"));
        assert_eq!(tokens.bearer(&credentials).await, Err(AuthFault::Blocked(forbidden)), "{host}");
    }
    let secure = Egress::new(&EgressConfig { allow_http: false, ..EgressConfig::anywhere() }).unwrap();
    let secure = Tokens::new(secure, Telemetry::default());
    assert_eq!(secure.bearer(&credentials(&server.url("/token"))).await, Err(AuthFault::Blocked(Forbidden::PlainHttp)));
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn basic_credentials_and_access_tokens_reach_the_endpoint_beside_signatures_and_static_headers() {
    let receiver = Receiver::start();
    receiver.on_path("/token", [token("one", 3600).after(Duration::from_millis(300))]);
    let basic = r#"auth = { basic = { username = "acme", password = "pass:wörd" } }
headers = { x-key = "static" }
signing_secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsk_YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="]"#;
    let more = r#", client_auth = "post", scope = "a b", audience = "c""#;
    let endpoints = [
        endpoint("basic", &receiver.url("/basic"), basic),
        endpoint("one", &receiver.url("/one"), &oauth2(&receiver.url("/token"), more)),
        endpoint("two", &receiver.url("/two"), &oauth2(&receiver.url("/token"), more)),
    ];
    let scene = Scene::start(&integrator("acme", &endpoints)).await;
    scene.publish_all(events("evt", 50)).await;
    receiver.wait_for(151, LIMIT).await;
    scene.settled().await;
    let basic = receiver.seen_at("/basic");
    let expected = "Basic YWNtZTpwYXNzOnfDtnJk";
    assert!(basic.len() == 50 && basic.iter().all(|one| one.header("authorization") == expected && one.header("x-key") == "static"));
    let signature = basic[0].header("webhook-signature");
    assert!(signature.starts_with("v1,") && signature.contains(" v1a,"), "{signature}");
    for path in ["/one", "/two"] {
        let seen = receiver.seen_at(path);
        assert!(seen.len() == 50 && seen.iter().all(|one| one.header("authorization") == "Bearer one"), "{path}");
        assert!(seen.iter().all(|one| one.header("callback-attempt") == "1"), "waiting for a token is no attempt");
    }
    let asked = receiver.seen_at("/token");
    assert_eq!(asked.len(), 1, "both endpoints share the token, and all their deliveries one request for it");
    assert_eq!(asked[0].body, "grant_type=client_credentials&scope=a+b&audience=c&client_id=acme&client_secret=hunter2");
    assert_eq!(scene.worker.metric("callbackd_token_requests_total", &[("result", "success")]).await, Some(1.0));
}

#[tokio::test]
async fn a_401_gets_a_new_token_once_the_old_one_is_not_fresh_and_the_token_server_is_not_asked_for_each() {
    let receiver = Receiver::start();
    receiver.on_path("/token", [token("one", 3600), token("two", 3600)]);
    receiver.on_path("/", [401]);
    let more = format!(
        "{}\ncircuit = {{ consecutive = 10000, initial_wait = \"300ms\", max_wait = \"300ms\" }}\n{}",
        oauth2(&receiver.url("/token"), ""),
        r#"retry = { max_delay = "500ms" }"#
    );
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), &more)])).await;
    let start = Instant::now();
    scene.publish_all(events("evt", 5)).await;
    receiver.wait_for_at("/token", 2, LIMIT).await;
    let took = start.elapsed();
    receiver.on_path("/", [200]);
    let refused = receiver.seen_at("/").len();
    assert!(took >= Duration::from_secs(9) && refused >= 10, "{refused} were answered 401 in {took:?}");
    eventually("all are delivered", LIMIT, async || {
        scene.worker.metric("callbackd_attempts_total", &[("verdict", "delivered")]).await == Some(5.0)
    })
    .await;
    scene.settled().await;
    assert_eq!(receiver.seen_at("/token").len(), 2, "not one for each of {refused} answers");
    let seen = receiver.seen_at("/");
    assert_eq!(authorizations(&seen[seen.len() - 5..]), ["Bearer two"; 5]);
}

#[tokio::test]
async fn a_token_that_was_revoked_under_many_requests_is_replaced_and_opens_no_circuit() {
    const FRESH: Duration = Duration::from_secs(10);
    const MANY: usize = 8;
    let receiver = Receiver::start();
    receiver.on_path("/token", [token("one", 3600), token("two", 3600)]);
    let more =
        format!("{}\ncircuit = {{ consecutive = 2, initial_wait = \"1m\", max_wait = \"1m\" }}", oauth2(&receiver.url("/token"), ""));
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/"), &more)])).await;
    scene.publish(&event("evt-first")).await;
    receiver.wait_for_at("/", 1, LIMIT).await;
    tokio::time::sleep(FRESH).await;
    // All of them are under way with the old one before the first is answered.
    let revoked = (0..MANY).map(|_| Answer::status(401).after(Duration::from_secs(1))).chain([Answer::status(200)]);
    receiver.on_path("/", revoked);
    scene.publish_all(events("evt", MANY)).await;
    let seen = receiver.wait_for_at("/", 1 + 2 * MANY, LIMIT).await;
    assert_eq!(authorizations(&seen), [["Bearer one"; 1 + MANY].as_slice(), &["Bearer two"; MANY]].concat());
    scene.settled().await;
    assert_eq!(receiver.seen_at("/token").len(), 2);
    assert_eq!(scene.worker.metric("callbackd_attempts_total", &[("class", "auth")]).await, Some(MANY as f64));
    assert_eq!(scene.worker.metric("callbackd_attempts_total", &[("class", "4xx")]).await, None);
    let told = scene.log_lines("attempt").iter().filter(|line| line["class"] == "auth" && line["status"] == 401).count();
    assert_eq!(told, MANY, "what the endpoint answered stays visible");
}

#[tokio::test]
async fn while_there_are_no_tokens_deliveries_are_retried_and_the_endpoint_is_not_blamed_and_none_is_lost() {
    let receiver = Receiver::start();
    receiver.on_path("/token", [Answer::status(503).body("ANSWERCANARY")]);
    let more = oauth2(&receiver.url("/token"), "") + "\n" + r#"circuit = { consecutive = 10, initial_wait = "500ms", max_wait = "1s" }"#;
    let once = oauth2(&receiver.url("/html"), "") + "\nretry = { max_attempts = 1 }";
    receiver.on_path("/html", [Answer::status(200).body("<html>ANSWERCANARY</html>")]);
    let endpoints = [endpoint("main", &receiver.url("/main"), &more), endpoint("once", &receiver.url("/once"), &once)];
    let scene = Scene::start(&integrator("acme", &endpoints)).await;
    scene.publish_all(events("evt", 20)).await;
    let letters = scene.amqp.drain_when("callbacks.dead", 20, LIMIT).await;
    for letter in &letters {
        let error = letter.header("x-callback-last-error");
        assert_eq!(error.as_deref(), Some("auth: the token server's answer holds no bearer token"));
    }
    assert!(scene.worker.metric("callbackd_attempts_total", &[("class", "auth"), ("endpoint", "main")]).await >= Some(10.0));
    let refused = scene.worker.wait_for_log("the refusal", LIMIT, |line| line["error"] == "the token server answered 503").await;
    assert_eq!((&refused["level"], &refused["message"]), (&"WARN".into(), &"token refused".into()));
    assert_eq!(refused["token_server"], format!("http://{}", receiver.address()));
    assert_eq!((receiver.seen_at("/main").len(), receiver.seen_at("/once").len()), (0, 0), "nobody is called without a token");

    assert_eq!(scene.log_lines("circuit opened").len(), 0, "one refusal is the answer for all who wait");
    receiver.on_path("/token", [token("one", 3600)]);
    let seen = receiver.wait_for_at("/main", 20, LIMIT).await;
    assert_eq!(authorizations(&seen), ["Bearer one"; 20]);
    scene.settled().await;
    let written = format!("{}{}", scene.worker.log_text(), scene.worker.metrics().await);
    assert!(!written.contains("ANSWERCANARY") && !written.contains("hunter2"));
}

#[tokio::test]
async fn credentials_rotate_by_reload_during_traffic_and_nothing_is_lost_or_told_twice() {
    let receiver = Receiver::start();
    receiver.on_text("scope=old", token("old", 3600));
    receiver.on_text("scope=new", token("new", 3600));
    receiver.on_path("/", [Answer::status(200).after(Duration::from_millis(20))]);
    let with = |scope: &str| {
        let auth = oauth2(&receiver.url("/token"), &format!(r#", scope = "{scope}""#));
        integrator("acme", &[endpoint("main", &receiver.url("/"), &auth)])
    };
    let scene = Scene::start(&with("old")).await;
    scene.publish_all(events("before", 150)).await;
    receiver.wait_for_at("/", 20, LIMIT).await;
    scene.worker.write_integrators(&with("new"));
    let reloaded = scene.worker.wait_for_metric("callbackd_config_reloads_total", &[("result", "success")], 1.0, LIMIT);
    let ((), ()) = tokio::join!(reloaded, scene.publish_all(events("during", 150)));
    scene.publish_all(events("after", 50)).await;
    receiver.wait("all 350 events", LIMIT, |seen| seen.iter().filter(|one| one.path == "/").count() >= 350).await;
    scene.settled().await;
    let seen = receiver.seen_at("/");
    let mut told: HashMap<&str, usize> = HashMap::new();
    for one in &seen {
        *told.entry(one.header("callback-event-ids")).or_default() += 1;
        let is_after = one.header("callback-event-ids").starts_with("after-");
        assert!(!is_after || one.header("authorization") == "Bearer new", "changed settings use a new token at once");
    }
    assert!(told.len() == 350 && told.values().all(|count| *count == 1), "{} of 350", told.len());
    let by_token = |name: &str| seen.iter().filter(|one| one.header("authorization") == name).count();
    println!("{} with the old token, {} with the new one", by_token("Bearer old"), by_token("Bearer new"));
    assert!(by_token("Bearer old") >= 20 && by_token("Bearer old") + by_token("Bearer new") == 350);
    assert_eq!(receiver.seen_at("/token").len(), 2);
}
