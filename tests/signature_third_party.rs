//! Our signatures, verified by the libraries that receivers use, from PyPI: `standardwebhooks` for HMAC (it knows no other
//! scheme), `cryptography` for ed25519.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use callbackd::config::Egress as EgressConfig;
use callbackd::domain::decode::{Metadata, decode};
use callbackd::domain::integrator::{Endpoint, EndpointUrl};
use callbackd::domain::names::{EndpointId, IntegratorKey};
use callbackd::domain::request::{Attempt, CallbackRequest, compose};
use callbackd::domain::sign::{PublicKey, SigningSecret};
use callbackd::domain::time::Timestamp;
use callbackd::egress::Egress;
use serde_json::{Map, Value};

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// An ed25519 seed, and another one followed by its public key, as other libraries write a key.
const SEED: &str = "whsk_MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";
const PAIR: &str = "whsk_Y2FsbGJhY2tkIHRlc3RzIHNpZ24gd2l0aCB0aGlzIDEgP1KL9Hvze/xtTuIFMAB/mVDgXzMSnEhE/1/KJ9OHmQ==";
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
    python(VERIFY, &serde_json::json!({"secret": secret, "headers": headers, "body": body}))
}

/// What a script prints of what it is given.
fn python(script: &str, given: &Value) -> String {
    let python = std::env::var("CALLBACKD_TEST_PYTHON")
        .expect("CALLBACKD_TEST_PYTHON must name a Python interpreter with tests/requirements.txt installed (tests/run.sh makes one)");
    let mut child = Command::new(python).args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the verifier broke");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Reads `{key, cases: [{id, timestamp, signature, body}]}`, the body and the parts of the key in base64, and says of each
/// case whether one of its signatures is that of the key.
const VERIFY_ED25519: &str = "
import base64, json, sys
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
given = json.load(sys.stdin)
assert given['key'].startswith('whpk_')
key = Ed25519PublicKey.from_public_bytes(base64.b64decode(given['key'][5:], validate=True))
def fits(case, entry):
    scheme, signature = entry.split(',')
    content = f\"{case['id']}.{case['timestamp']}.\".encode() + base64.b64decode(case['body'])
    try:
        key.verify(base64.b64decode(signature, validate=True), content)
    except InvalidSignature:
        return False
    return scheme == 'v1a'
for case in given['cases']:
    print('valid' if any(fits(case, entry) for entry in case['signature'].split(' ')) else 'refused')
";

/// Reads a seed and what is to be signed, and prints the public key and the signature, as Standard Webhooks writes them.
const SIGN_ED25519: &str = "
import base64, json, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
given = json.load(sys.stdin)
key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(given['seed'], validate=True)[:32])
print('whpk_' + base64.b64encode(key.public_key().public_bytes_raw()).decode())
print('v1a,' + base64.b64encode(key.sign(given['content'].encode())).decode())
";

/// One request as somebody received it.
#[derive(Clone)]
struct Received {
    id: String,
    timestamp: String,
    signature: String,
    body: Vec<u8>,
}

impl Received {
    fn of(request: &CallbackRequest) -> Self {
        let header = |name: &str| request.headers[name].to_str().unwrap().to_owned();
        let body = request.body.to_vec();
        Self { id: header("webhook-id"), timestamp: header("webhook-timestamp"), signature: header("webhook-signature"), body }
    }
}

fn verify_ed25519(key: &PublicKey, cases: &[Received]) -> Vec<String> {
    let cases: Vec<Value> = cases
        .iter()
        .map(|Received { id, timestamp, signature, body }| {
            serde_json::json!({"id": id, "timestamp": timestamp, "signature": signature, "body": STANDARD.encode(body)})
        })
        .collect();
    let said = python(VERIFY_ED25519, &serde_json::json!({"key": key.to_string(), "cases": cases}));
    said.lines().map(str::to_owned).collect()
}

fn public(secret: &str) -> PublicKey {
    SigningSecret::parse(secret).unwrap().public_key().unwrap()
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

#[test]
fn another_library_makes_the_same_ed25519_signature_and_public_key() {
    for secret in [SEED, PAIR] {
        let received = Received::of(&request(&[secret], now(0)));
        let content = format!("{}.{}.{BODY}", received.id, received.timestamp);
        let said = python(SIGN_ED25519, &serde_json::json!({"seed": &secret["whsk_".len()..], "content": content}));
        assert_eq!(said.lines().collect::<Vec<_>>(), [public(secret).to_string(), received.signature]);
    }
}

#[test]
fn ed25519_is_refused_for_any_other_bit_id_time_or_key() {
    let original = Received::of(&request(&[SEED], now(0)));
    let mut cases = vec![original.clone()];
    let bits = original.body.len() * 8;
    // As many as are quick, spread over the whole body.
    for bit in (0..bits).step_by(bits / 64) {
        let mut flipped = original.clone();
        flipped.body[bit / 8] ^= 1 << (bit % 8);
        cases.push(flipped);
    }
    let signature = STANDARD.decode(original.signature.strip_prefix("v1a,").unwrap()).unwrap();
    for bit in (0..signature.len() * 8).step_by(8) {
        let mut flipped = signature.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        cases.push(Received { signature: format!("v1a,{}", STANDARD.encode(flipped)), ..original.clone() });
    }
    cases.push(Received { id: "msg_x".to_owned(), ..original.clone() });
    cases.push(Received { timestamp: (now(0).seconds() + 1).to_string(), ..original.clone() });
    cases.push(Received { signature: original.signature.replace("v1a,", "v1,"), ..original.clone() });
    let said = verify_ed25519(&public(SEED), &cases);
    assert!(cases.len() > 128 && said.len() == cases.len(), "{} of {}", said.len(), cases.len());
    assert_eq!((said[0].as_str(), said.iter().filter(|said| *said == "valid").count()), ("valid", 1));
    assert_eq!(verify_ed25519(&public(PAIR), &[original]), ["refused"]);
}

#[test]
fn old_and_new_keys_of_both_kinds_are_accepted_while_they_rotate() {
    let rotating = request(&[PAIR, SEED, OLD, NEW], now(0));
    for secret in [SEED, PAIR] {
        assert_eq!(verify_ed25519(&public(secret), &[Received::of(&rotating)]), ["valid"]);
    }
    for (secret, expected) in [(OLD, "valid"), (NEW, "valid"), (OTHER, "refused")] {
        assert_eq!(verify(secret, &rotating, BODY), expected, "the reference library passes over what it does not know");
    }
    let rotated = [Received::of(&request(&[PAIR, NEW], now(0)))];
    assert_eq!(verify_ed25519(&public(PAIR), &rotated), ["valid"]);
    assert_eq!(verify_ed25519(&public(SEED), &rotated), ["refused"]);
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
