//! Our signatures, verified by the library that receivers use: `standardwebhooks` from PyPI.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use callbackd::config::Egress as EgressConfig;
use callbackd::domain::decode::{Metadata, decode};
use callbackd::domain::integrator::{Endpoint, EndpointUrl};
use callbackd::domain::names::{EndpointId, IntegratorKey};
use callbackd::domain::request::{Attempt, CallbackRequest, compose};
use callbackd::domain::sign::SigningSecret;
use callbackd::domain::time::Timestamp;
use callbackd::egress::Egress;
use serde_json::{Map, Value};

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_BBKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Reads `{secret, headers, body}` and says whether the library takes it.
const VERIFY: &str = "
import json, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
given = json.load(sys.stdin)
try:
    Webhook(given['secret']).verify(given['body'].encode(), given['headers'])
    print('valid')
except WebhookVerificationError:
    print('refused')
";

fn verify(secret: &str, request: &CallbackRequest, body: &str) -> String {
    let headers = request.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()));
    verify_received(secret, &headers.collect(), body)
}

fn verify_received(secret: &str, headers: &Map<String, Value>, body: &str) -> String {
    let python = std::env::var("CALLBACKD_TEST_PYTHON")
        .expect("CALLBACKD_TEST_PYTHON must name a Python interpreter with `standardwebhooks==1.1.0` installed (tests/run.sh makes one)");
    let given = serde_json::json!({"secret": secret, "headers": headers, "body": body}).to_string();
    let mut child = Command::new(python).args(["-c", VERIFY]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the verifier broke");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn now(offset: i64) -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the library compares with the wall clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_millis(i64::try_from(now.as_millis()).unwrap() + offset * 1000)
}

const BODY: &str = r#"[{"status":100,"key":"f283","modified":"2025-09-03T06:38:08","customerKey":"Grüße €"}]"#;

fn request(secrets: &[&str], now: Timestamp) -> CallbackRequest {
    request_to("https://acme.example/", secrets, now)
}

fn request_to(url: &str, secrets: &[&str], now: Timestamp) -> CallbackRequest {
    let endpoint = Endpoint {
        signing: secrets.iter().map(|text| SigningSecret::parse(text).unwrap()).collect(),
        ..Endpoint::new(
            IntegratorKey::try_new("acme").unwrap(),
            EndpointId::try_new("main").unwrap(),
            EndpointUrl::parse(url, true).unwrap(),
        )
    };
    let event = decode(r#"{"id":"evt.1","integrator":"acme","topic":"complianceRecord","data":[]}"#.into(), &Metadata::default()).unwrap();
    compose(&endpoint, &[&event], BODY.as_bytes().to_vec(), &Attempt { number: 1, received_at: now, now })
}

#[test]
fn the_library_accepts_one_secret() {
    assert_eq!(verify(OLD, &request(&[OLD], now(0)), BODY), "valid");
    assert_eq!(verify(NEW, &request(&[NEW], now(0)), BODY), "valid");
}

#[test]
fn the_library_accepts_the_old_and_the_new_secret_while_they_rotate() {
    let request = request(&[NEW, OLD], now(0));
    assert_eq!(verify(OLD, &request, BODY), "valid");
    assert_eq!(verify(NEW, &request, BODY), "valid");
    assert_eq!(verify(OTHER, &request, BODY), "refused");
}

#[test]
fn the_library_refuses_another_body_another_id_and_another_time() {
    let original = request(&[OLD], now(0));
    assert_eq!(verify(OLD, &original, &BODY.replace("100", "101")), "refused");
    for (name, value) in [("webhook-id", "msg_x".to_owned()), ("webhook-timestamp", (now(0).seconds() + 1).to_string())] {
        let mut forged = original.clone();
        forged.headers.insert(name, value.parse().unwrap());
        assert_eq!(verify(OLD, &forged, BODY), "refused", "{name}");
    }
    assert_eq!(verify(OLD, &request(&[], now(0)), BODY), "refused");
    assert_eq!(verify(OLD, &request(&[OLD], now(-310)), BODY), "refused");
    assert_eq!(verify(OLD, &request(&[OLD], now(-200)), BODY), "valid");
}

/// Takes one request from a socket, answers it, and returns the headers and the body as they came.
fn receive(listener: &TcpListener) -> (Map<String, Value>, String) {
    let mut lines = BufReader::new(listener.accept().unwrap().0);
    let mut headers = Map::new();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        match line.trim_end().split_once(": ") {
            Some((name, value)) => _ = headers.insert(name.to_owned(), value.into()),
            None if line == "\r\n" => break,
            None => assert!(line.starts_with("POST "), "{line}"),
        }
    }
    let mut body = vec![0; headers["content-length"].as_str().unwrap().parse().unwrap()];
    lines.read_exact(&mut body).unwrap();
    lines.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    (headers, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn the_library_accepts_what_comes_out_of_a_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let received = tokio::task::spawn_blocking(move || receive(&listener));
    let egress = Egress::new(&EgressConfig::anywhere()).unwrap();
    let reply = egress.attempt(request_to(&url, &[NEW, OLD], now(0)), Duration::from_secs(20)).await;
    assert!(reply.is_success(), "{reply:?}");
    let (headers, body) = received.await.unwrap();
    assert_eq!(body, BODY);
    for (secret, expected) in [(OLD, "valid"), (NEW, "valid"), (OTHER, "refused")] {
        assert_eq!(verify_received(secret, &headers, &body), expected);
    }
}
