//! Attempts over TLS: which certificates are trusted, and what a distrusted one is called.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

#[path = "egress/tls_server.rs"]
mod tls_server;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use callbackd::config::Egress as EgressConfig;
use callbackd::domain::reply::{Failure, Outcome, Reply, TlsFault};
use callbackd::domain::request::CallbackRequest;
use callbackd::domain::tls::EndpointTls;
use callbackd::egress::Egress;
use tls_server::{Clients, EMPTY, SERVER, TlsServer, fixture, settings};

/// The port of a server that lets everybody in.
fn serve(certificate: &str, answer: &'static str) -> u16 {
    TlsServer::start(certificate, Clients::Everybody, answer).port
}

async fn attempt(host: &str, port: u16) -> Outcome {
    reply(host, port).await.outcome
}

async fn reply(host: &str, port: u16) -> Reply {
    let egress = Egress::new(&EgressConfig::anywhere()).unwrap();
    egress.attempt(request(host, port, None), Duration::from_secs(20)).await
}

fn request(host: &str, port: u16, tls: Option<&Arc<EndpointTls>>) -> CallbackRequest {
    let url = format!("https://{host}:{port}/").parse().unwrap();
    let (headers, body, tls) = (http::HeaderMap::new(), Bytes::from_static(b"[1]"), tls.cloned());
    CallbackRequest { url, headers, body, webhook_id: "msg_1".into(), tls }
}

#[tokio::test]
async fn an_unknown_authority_is_called_one() {
    assert_eq!(attempt("localhost", serve(SERVER, EMPTY)).await, Outcome::Failed(Failure::Tls(TlsFault::UnknownIssuer)));
}

/// Set for the process in which a test runs itself again.
const TRUSTING: &str = "CALLBACKD_TEST_TRUSTING";

/// Whether this process trusts the tests' authority. If not, the test runs again in one that does: the environment says
/// whom to trust, and is read before a process starts its threads.
async fn trusting(test: &'static str) -> bool {
    if std::env::var_os(TRUSTING).is_some() {
        return true;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args([test, "--exact"]).env(TRUSTING, "1").env("SSL_CERT_FILE", fixture("ca.pem")).env_remove("SSL_CERT_DIR");
    let output = tokio::task::spawn_blocking(move || again.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    false
}

#[tokio::test]
async fn an_authority_that_the_system_trusts_is_trusted_for_its_names_alone() {
    if trusting("an_authority_that_the_system_trusts_is_trusted_for_its_names_alone").await {
        assert_eq!(attempt("localhost", serve(SERVER, EMPTY)).await, Outcome::Answered { status: 200, retry_after: None });
        assert_eq!(attempt("127.0.0.1", serve(SERVER, EMPTY)).await, Outcome::Failed(Failure::Tls(TlsFault::WrongName)));
    }
}

#[tokio::test]
async fn a_certificate_is_called_expired_when_it_is() {
    if trusting("a_certificate_is_called_expired_when_it_is").await {
        let reply = reply("localhost", serve("expired.pem", EMPTY)).await;
        assert_eq!(reply.outcome, Outcome::Failed(Failure::Tls(TlsFault::Expired)));
        assert_eq!((reply.class(), reply.error().as_deref()), ("tls_expired", Some("tls: certificate expired")));
    }
}

#[tokio::test]
async fn an_end_without_farewell_completes_a_body_without_length_alone() {
    if trusting("an_end_without_farewell_completes_a_body_without_length_alone").await {
        for headers in ["", "connection: close\r\n"] {
            let answer = format!("HTTP/1.1 200 OK\r\n{headers}\r\nthanks").leak();
            assert_eq!(
                attempt("localhost", serve(SERVER, answer)).await,
                Outcome::Answered { status: 200, retry_after: None },
                "{headers}"
            );
        }
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n4\r\nhalf\r\n",
        ] {
            let expected = Outcome::Incomplete { status: 200, failure: Failure::Disconnected };
            assert_eq!(attempt("localhost", serve(SERVER, answer)).await, expected, "{answer}");
        }
        assert_eq!(attempt("localhost", serve(SERVER, "HTTP/1.1 200 OK\r\ncontent-le")).await, Outcome::Failed(Failure::Disconnected));
    }
}

const OK: Outcome = Outcome::Answered { status: 200, retry_after: None };
const CLIENT: (&str, &str) = ("client.pem", "client.key");

#[tokio::test]
async fn a_private_authority_takes_the_place_of_all_others() {
    let egress = Egress::new(&EgressConfig::anywhere()).unwrap();
    let port = serve(SERVER, EMPTY);
    let attempt = |authority: Arc<EndpointTls>| egress.attempt(request("localhost", port, Some(&authority)), Duration::from_secs(20));
    assert_eq!(attempt(settings(None, Some("ca.pem"))).await.outcome, OK);
    // Another authority than the one that signed.
    let reply = attempt(settings(None, Some("client-ca.pem"))).await;
    assert_eq!((reply.outcome, reply.class()), (Outcome::Failed(Failure::Tls(TlsFault::UnknownIssuer)), "tls_unknown_issuer"));
    // Without one of its own, the system's count, and they do not know it.
    assert_eq!(
        egress.attempt(request("localhost", port, None), Duration::from_secs(20)).await.outcome,
        Outcome::Failed(Failure::Tls(TlsFault::UnknownIssuer))
    );
    let expired = serve("expired.pem", EMPTY);
    let reply = egress.attempt(request("localhost", expired, Some(&settings(None, Some("ca.pem")))), Duration::from_secs(20)).await;
    assert_eq!((reply.outcome, reply.class()), (Outcome::Failed(Failure::Tls(TlsFault::Expired)), "tls_expired"));
}

#[tokio::test]
async fn an_endpoint_that_wants_a_certificate_gets_the_one_configured_and_what_is_wrong_with_it_has_a_name() {
    let egress = Egress::new(&EgressConfig::anywhere()).unwrap();
    let server = TlsServer::start(SERVER, Clients::Certified, EMPTY);
    for (identity, expected) in [
        (Some(CLIENT), OK),
        (Some(("client-next.pem", "client-next.key")), OK),
        (None, Outcome::Failed(Failure::Tls(TlsFault::ClientCertificateMissing))),
        (Some(("client-expired.pem", "client.key")), Outcome::Failed(Failure::Tls(TlsFault::ClientCertificateRefused))),
        (Some(("client-foreign.pem", "client.key")), Outcome::Failed(Failure::Tls(TlsFault::ClientCertificateRefused))),
    ] {
        let tls = settings(identity, Some("ca.pem"));
        let reply = egress.attempt(request("localhost", server.port, Some(&tls)), Duration::from_secs(20)).await;
        assert_eq!(reply.outcome, expected, "{identity:?}");
        assert_eq!(reply.class(), if expected == OK { "2xx" } else { "tls_client_certificate" });
        let reached =
            egress.reach(&format!("https://localhost:{}/", server.port).parse().unwrap(), Some(&tls), Duration::from_secs(20)).await;
        assert_eq!(reached.is_ok(), expected == OK, "{identity:?}: {reached:?}");
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|request| request.certificate.is_some()));
}

#[tokio::test]
async fn a_connection_made_with_one_certificate_is_never_used_with_another() {
    let egress = Egress::new(&EgressConfig::anywhere()).unwrap();
    let server = TlsServer::start(SERVER, Clients::Certified, EMPTY);
    let (first, next) = (settings(Some(CLIENT), Some("ca.pem")), settings(Some(("client-next.pem", "client-next.key")), Some("ca.pem")));
    for tls in [&first, &next, &first, &next] {
        assert_eq!(egress.attempt(request("localhost", server.port, Some(tls)), Duration::from_secs(20)).await.outcome, OK);
    }
    let shown: Vec<Vec<u8>> = server.seen().into_iter().filter_map(|request| request.certificate).collect();
    assert_eq!(shown.len(), 4);
    assert!(shown[0] == shown[2] && shown[1] == shown[3] && shown[0] != shown[1]);
}
