//! Attempts through an egress proxy: what it is asked, and whose fault is whose.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

#[path = "egress/proxies.rs"]
mod proxies;
#[path = "egress/tls_server.rs"]
mod tls_server;

use std::time::Duration;

use bytes::Bytes;
use callbackd::config::{Egress as EgressConfig, Proxy};
use callbackd::domain::reply::{Charge, Failure, Forbidden, Outcome, Reply, TlsFault};
use callbackd::domain::request::CallbackRequest;
use callbackd::egress::Egress;
use proxies::{EgressProxy, Manner};
use tls_server::{Clients, EMPTY, SERVER, TlsServer, settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(20);
const OK: Outcome = Outcome::Answered { status: 200, retry_after: None };

fn through(url: &str) -> EgressConfig {
    EgressConfig { proxy: Some(Proxy::parse(url).unwrap()), ..EgressConfig::anywhere() }
}

async fn attempt(config: &EgressConfig, url: &str) -> Reply {
    let tls = url.starts_with("https").then(|| settings(None, Some("ca.pem")));
    let request = CallbackRequest {
        url: url.parse().unwrap(),
        headers: http::HeaderMap::new(),
        body: Bytes::from_static(b"[1]"),
        webhook_id: "msg_1".into(),
        tls,
    };
    Egress::new(config).unwrap().attempt(request, LIMIT).await
}

/// A server that answers 200 to everything in plain HTTP; its port.
async fn plain() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !read.ends_with(b"[1]") {
                    read.push(stream.read_u8().await?);
                }
                stream.write_all(EMPTY.as_bytes()).await?;
                stream.read_to_end(&mut read).await
            });
        }
    });
    port
}

#[tokio::test]
async fn an_http_proxy_is_asked_to_connect_and_sees_nothing_but_the_name() {
    let server = TlsServer::start(SERVER, Clients::Everybody, EMPTY);
    let proxy = EgressProxy::start(Manner::Connect).await;
    let config = through(&format!("http://us%65r:w%40rd@{}", proxy.address));
    assert_eq!(attempt(&config, &format!("https://localhost:{}/hook/CANARY", server.port)).await.outcome, OK);
    let asked = proxy.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", server.port)), "{asked:?}");
    // user:w@rd
    assert!(asked[0].to_ascii_lowercase().contains("proxy-authorization: basic dxnlcjp3qhjk\r\n"), "{asked:?}");
    assert!(!asked[0].contains("CANARY"));
    assert!(server.seen()[0].head.starts_with("post /hook/canary http/1.1\r\n") && !server.seen()[0].head.contains("proxy-authorization"));
    // The name is the proxy's to resolve: nobody here knows this one. That its certificate is wrong is the endpoint's fault.
    let reply = attempt(&config, &format!("https://hook.acme.example:{}/", server.port)).await;
    assert_eq!((reply.outcome, reply.charge()), (Outcome::Failed(Failure::Tls(TlsFault::WrongName)), Charge::Fails));
}

#[tokio::test]
async fn a_socks_proxy_gets_the_name_or_the_address_that_was_vetted_here() {
    let port = plain().await;
    let proxy = EgressProxy::start(Manner::SocksFor("user", "w@rd")).await;
    let there = through(&format!("socks5h://user:w%40rd@{}", proxy.address));
    assert_eq!(attempt(&there, &format!("http://hook.acme.example:{port}/")).await.outcome, OK);
    let here = through(&format!("socks5://user:w%40rd@{}", proxy.address));
    assert_eq!(attempt(&here, &format!("http://localhost:{port}/")).await.outcome, OK);
    let asked = proxy.asked();
    assert_eq!(asked[0], format!("hook.acme.example:{port}"));
    assert!([format!("127.0.0.1:{port}"), format!("::1:{port}")].contains(&asked[1]), "{asked:?}");
    // What is resolved here is judged here.
    let cidrs = EgressConfig { deny_cidrs: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()], ..here.clone() };
    let denied = Outcome::Failed(Failure::Blocked(Forbidden::Denied));
    assert_eq!(attempt(&cidrs, &format!("http://localhost:{port}/")).await.outcome, denied);
    // And a name that nobody knows is the endpoint's fault as ever.
    let unknown = attempt(&here, &format!("http://does-not-exist.invalid:{port}/")).await;
    assert_eq!((unknown.outcome, unknown.charge()), (Outcome::Failed(Failure::Dns), Charge::Fails));
    assert_eq!(proxy.asked().len(), 2);
}

#[tokio::test]
async fn what_the_guard_can_judge_never_reaches_the_proxy() {
    for manner in [Manner::Connect, Manner::Socks] {
        let proxy = EgressProxy::start(manner).await;
        let scheme = if matches!(manner, Manner::Connect) { "http" } else { "socks5h" };
        let config =
            EgressConfig { proxy: Some(Proxy::parse(&format!("{scheme}://{}", proxy.address)).unwrap()), ..EgressConfig::default() };
        for (url, forbidden) in [
            ("https://127.0.0.1/", Forbidden::Address),
            ("https://169.254.169.254/latest", Forbidden::Address),
            ("https://2130706433/", Forbidden::Address),
            ("https://[::ffff:10.0.0.1]/", Forbidden::Address),
            ("https://localhost/", Forbidden::Name),
            ("https://metadata.google.internal/", Forbidden::Name),
            ("https://acme.example:6379/", Forbidden::Port),
            ("http://acme.example/", Forbidden::PlainHttp),
        ] {
            assert_eq!(attempt(&config, url).await.outcome, Outcome::Failed(Failure::Blocked(forbidden)), "{url}");
        }
        assert_eq!(proxy.asked(), [""; 0]);
    }
}

fn assert_fault_of_the_proxy(reply: &Reply, what: &str) {
    assert_eq!((reply.outcome, reply.class(), reply.charge()), (Outcome::Failed(Failure::Proxy), "proxy", Charge::Unknown), "{what}");
    assert!(reply.took < Duration::from_secs(7), "{what}: {:?}", reply.took);
}

#[tokio::test]
async fn a_proxy_that_is_not_there_or_does_not_lead_on_is_not_the_fault_of_the_endpoint() {
    let free = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for (scheme, url) in [("http", "https://acme.example/"), ("socks5h", "http://acme.example/"), ("socks5", "http://127.0.0.1:1/")] {
        assert_fault_of_the_proxy(&attempt(&through(&format!("{scheme}://{free}")), url).await, scheme);
        assert_fault_of_the_proxy(&attempt(&through(&format!("{scheme}://does-not-exist.invalid:1080")), url).await, scheme);
    }
    for answer in [
        "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\n\r\n",
        "HTTP/1.1 502 Bad Gateway\r\n\r\n",
        "HTTP/1.1 504 Gateway Timeout\r\n\r\n",
        "HTTP/1.1 302 Found\r\nlocation: https://elsewhere.example/\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 200 but no end",
        "",
    ] {
        let proxy = EgressProxy::start(Manner::Say(answer)).await;
        assert_fault_of_the_proxy(&attempt(&through(&format!("http://{}", proxy.address)), "https://acme.example/").await, answer);
        assert_eq!(proxy.asked().len(), 1, "{answer}");
    }
    for code in 1..=9 {
        let proxy = EgressProxy::start(Manner::SocksReply(code)).await;
        assert_fault_of_the_proxy(&attempt(&through(&format!("socks5h://{}", proxy.address)), "http://acme.example/").await, "reply");
    }
    let proxy = EgressProxy::start(Manner::SocksFor("user", "other")).await;
    assert_fault_of_the_proxy(
        &attempt(&through(&format!("socks5h://user:word@{}", proxy.address)), "http://acme.example/").await,
        "password",
    );
}

#[tokio::test]
async fn a_proxy_that_is_silent_ends_the_attempt_as_its_own_fault() {
    let proxy = EgressProxy::start(Manner::Silent).await;
    let (http, socks) = (through(&format!("http://{}", proxy.address)), through(&format!("socks5h://{}", proxy.address)));
    let (http, socks) = tokio::join!(attempt(&http, "https://acme.example/"), attempt(&socks, "http://acme.example/"));
    assert_fault_of_the_proxy(&http, "http");
    assert_fault_of_the_proxy(&socks, "socks");
}

#[tokio::test]
async fn what_an_endpoint_does_behind_the_proxy_is_its_own_fault() {
    let proxy = EgressProxy::start(Manner::Socks).await;
    let config = through(&format!("socks5h://{}", proxy.address));
    let closing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closing.local_addr().unwrap().port();
    tokio::spawn(async move { while closing.accept().await.is_ok() {} });
    let reply = attempt(&config, &format!("https://hook.acme.example:{port}/")).await;
    assert_eq!((reply.outcome, reply.charge()), (Outcome::Failed(Failure::Tls(TlsFault::Other)), Charge::Fails));
    let reply = attempt(&config, &format!("http://hook.acme.example:{port}/")).await;
    assert_eq!((reply.outcome, reply.charge()), (Outcome::Failed(Failure::Disconnected), Charge::Fails));
    assert_eq!(proxy.asked().len(), 2);
}
