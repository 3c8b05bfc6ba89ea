//! An HTTPS server on 127.0.0.1 with the certificates of the fixtures, which may ask for the client's.

#![allow(dead_code, unreachable_pub, reason = "each test file compiles this module for itself and uses a part of it")]

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use callbackd::domain::tls::{EndpointTls, TlsIdentity};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// The certificate of `localhost`.
pub const SERVER: &str = "server.pem";
pub const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A file of the fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

pub fn pem(name: &str) -> String {
    std::fs::read_to_string(fixture(name)).unwrap()
}

/// What an endpoint's `tls` makes of files of the fixtures: certificate and key, and authority.
pub fn settings(identity: Option<(&str, &str)>, authority: Option<&str>) -> Arc<EndpointTls> {
    let identity = identity.map(|(certificate, key)| TlsIdentity::new(&pem(certificate), &pem(key).into()));
    Arc::new(EndpointTls::new(identity, authority.map(pem)).unwrap())
}

/// Whom it lets in.
#[derive(Clone, Copy)]
pub enum Clients {
    Everybody,
    /// Those with a certificate of `client-ca.pem`.
    Certified,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
    /// The client's certificate, where it showed one.
    pub certificate: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct TlsServer {
    pub port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl TlsServer {
    /// Answers every request with these bytes. Closes the connection after it where the bytes do not say how long they are,
    /// without the farewell of TLS (`close_notify`).
    pub fn start(certificate: &str, clients: Clients, answer: &'static str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let certificate = CertificateDer::from_pem_file(fixture(certificate)).unwrap();
        let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
        let builder = ServerConfig::builder();
        let builder = match clients {
            Clients::Everybody => builder.with_no_client_auth(),
            Clients::Certified => {
                let mut authorities = RootCertStore::empty();
                authorities.add(CertificateDer::from_pem_file(fixture("client-ca.pem")).unwrap()).unwrap();
                builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(authorities)).build().unwrap())
            }
        };
        let config = Arc::new(builder.with_single_cert(vec![certificate], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { port: listener.local_addr().unwrap().port(), seen: Arc::default() };
        let running = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, config) = (running.clone(), Arc::clone(&config));
                std::thread::spawn(move || server.connection(config, stream.unwrap(), answer));
            }
        });
        server
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn connection(&self, config: Arc<ServerConfig>, stream: TcpStream, answer: &str) {
        let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
        while let Ok(request) = read(&mut tls) {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            if tls.write_all(answer.as_bytes()).and_then(|()| tls.flush()).is_err() || answer != EMPTY {
                return;
            }
        }
        // So that closing is no reset, which would overtake what was said.
        let _ = io::copy(&mut tls.sock, &mut io::sink());
    }
}

fn read(tls: &mut StreamOwned<ServerConnection, TcpStream>) -> io::Result<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tls.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or_default();
    let mut body = vec![0; length];
    tls.read_exact(&mut body)?;
    let certificate = tls.conn.peer_certificates().and_then(|chain| Some(chain.first()?.to_vec()));
    Ok(Request { head, body, certificate })
}
