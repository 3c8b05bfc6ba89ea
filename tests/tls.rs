//! Attempts over TLS: which certificates are trusted, and what a distrusted one is called.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use callbackd::config::{Egress as EgressConfig, PrivateNetworks};
use callbackd::domain::reply::{Failure, Outcome, Reply, TlsFault};
use callbackd::domain::request::CallbackRequest;
use callbackd::egress::Egress;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// Answers one request on each connection with these bytes, over TLS, as `localhost`, and closes the connection without
/// the farewell of TLS (`close_notify`); its port.
fn serve(certificate: &str, bytes: &'static str) -> u16 {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certificate = CertificateDer::from_pem_file(fixture(certificate)).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
    let config = Arc::new(rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || answer(config, stream.unwrap(), bytes));
        }
    });
    port
}

fn answer(config: Arc<rustls::ServerConfig>, stream: TcpStream, bytes: &str) -> std::io::Result<()> {
    let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), stream);
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n[1]") {
        let mut byte = [0];
        tls.read_exact(&mut byte)?;
        read.push(byte[0]);
    }
    tls.write_all(bytes.as_bytes())?;
    tls.flush()
}

const SERVER: &str = "server.pem";
const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

async fn attempt(host: &str, port: u16) -> Outcome {
    reply(host, port).await.outcome
}

async fn reply(host: &str, port: u16) -> Reply {
    let egress = Egress::new(&EgressConfig { allow_http: false, private: PrivateNetworks::Allowed }).unwrap();
    let url = format!("https://{host}:{port}/").parse().unwrap();
    let request = CallbackRequest { url, headers: http::HeaderMap::new(), body: Bytes::from_static(b"[1]"), webhook_id: "msg_1".into() };
    egress.attempt(request, Duration::from_secs(20)).await
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
        assert_eq!((reply.class(), reply.error().as_deref()), ("tls", Some("tls: certificate expired")));
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
