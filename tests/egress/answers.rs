//! What an attempt makes of answers that come, whole or not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use callbackd::domain::reply::{Failure, Outcome, RetryAfter};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{LONG, SHORT, Server, answered, assert_timely, drip, incomplete, read_request, server_with_body};

#[tokio::test]
async fn a_2xx_whose_answer_breaks_off_is_incomplete() {
    for (answer, what) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "short body"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", "no body"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "no last chunk"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nha", "half a chunk"),
    ] {
        let server = Server::answering(answer).await;
        let reply = server.attempt(LONG).await;
        assert_eq!(reply.outcome, incomplete(200, Failure::Disconnected), "{what}");
        assert!(!reply.is_success(), "{what}");
    }
}

#[tokio::test]
async fn an_answer_without_a_whole_head_is_none() {
    for (answer, what) in [("HTTP/1.1 200 OK\r\ncontent-le", "half a head"), ("", "nothing")] {
        let server = Server::answering(answer).await;
        assert_eq!(server.attempt(LONG).await.outcome, Outcome::Failed(Failure::Disconnected), "{what}");
    }
}

#[tokio::test]
async fn a_body_without_length_ends_where_the_connection_does() {
    for headers in ["", "connection: close\r\n", "transfer-encoding: identity\r\n"] {
        let server = Server::answering(format!("HTTP/1.1 200 OK\r\n{headers}\r\nthanks")).await;
        assert_eq!(server.attempt(LONG).await.outcome, answered(200), "{headers}");
    }
    let server = Server::answering("HTTP/1.0 200 OK\r\n\r\n").await;
    assert_eq!(server.attempt(LONG).await.outcome, answered(200));
}

/// Statuses whose head alone decides what follows.
const HEADS: [(&str, u16, Option<u64>); 4] = [
    ("HTTP/1.1 410 Gone\r\n", 410, None),
    ("HTTP/1.1 429 Too Many Requests\r\nretry-after: 120\r\n", 429, Some(120)),
    ("HTTP/1.1 503 Service Unavailable\r\nretry-after: 120\r\n", 503, Some(120)),
    ("HTTP/1.1 302 Found\r\nlocation: /\r\n", 302, None),
];

#[tokio::test]
async fn the_head_of_a_failure_stands_whatever_becomes_of_its_body() {
    for (head, status, seconds) in HEADS {
        let retry_after = seconds.map(|seconds| RetryAfter::Delay(Duration::from_secs(seconds)));
        for rest in [
            "content-length: 10\r\n\r\nhalf",
            "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "transfer-encoding: chunked\r\n\r\nnot a size\r\n",
            "\r\nuntil the end",
        ] {
            let server = Server::answering(format!("{head}{rest}")).await;
            assert_eq!(server.attempt(LONG).await.outcome, Outcome::Answered { status, retry_after }, "{head}{rest}");
        }
        let server = Server::start(move |mut stream| async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(format!("{head}content-length: 10000\r\n\r\n").as_bytes()).await;
            drip(&mut stream).await;
        })
        .await;
        let reply = server.attempt(SHORT).await;
        assert_eq!(reply.outcome, Outcome::Answered { status, retry_after }, "{head}");
        assert_timely(&reply);
    }
}

#[tokio::test]
async fn a_reset_within_the_body_of_a_200_is_incomplete() {
    for framing in ["content-length: 10\r\n", ""] {
        let server = Server::start(move |mut stream| async move {
            // Most of the request is left unread, so closing resets the connection.
            let _ = stream.read_exact(&mut [0; 4]).await;
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\nhalf").as_bytes()).await;
        })
        .await;
        assert_eq!(server.attempt(LONG).await.outcome, incomplete(200, Failure::Disconnected), "{framing}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_told_apart() {
    for answer in [
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 099 Too Low\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "<html>no head</html>\r\n\r\n",
    ] {
        let server = Server::answering(answer).await;
        assert_eq!(server.attempt(LONG).await.outcome, Outcome::Failed(Failure::NotHttp), "{answer}");
    }
    let server = Server::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnot a size\r\n").await;
    assert_eq!(server.attempt(LONG).await.outcome, incomplete(200, Failure::NotHttp));
    let headers: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let server = Server::answering(format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n")).await;
    assert_eq!(server.attempt(LONG).await.outcome, Outcome::Failed(Failure::NotHttp));
}

#[tokio::test]
async fn a_strange_status_is_a_status() {
    for status in [204, 304, 404, 407, 429, 500, 599, 999] {
        let server = Server::answering(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n")).await;
        assert_eq!(server.attempt(LONG).await.outcome, answered(status));
    }
}

#[tokio::test]
async fn redirects_are_answers_and_not_followed() {
    let canary = server_with_body(0).await;
    for status in [301, 302, 303, 307, 308] {
        let server = Server::answering(format!("HTTP/1.1 {status} x\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", canary.url())).await;
        assert_eq!(server.attempt(LONG).await.outcome, answered(status));
    }
    assert_eq!(canary.accepted.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn retry_after_is_the_first_value_that_can_be_read() {
    let delay = Some(RetryAfter::Delay(Duration::from_secs(120)));
    for (headers, expected) in [
        ("retry-after: 120\r\n", delay),
        ("Retry-After:   120  \r\n", delay),
        ("retry-after: 120\r\nretry-after: 130\r\n", delay),
        ("retry-after: soon\r\nretry-after: \u{fc}\r\nretry-after: 120\r\n", delay),
        ("retry-after: 120, 130\r\n", delay),
        ("retry-after: soon\r\nretry-after: -1\r\n", None),
        ("retry-after: soon\r\n", None),
        ("retry-after: \u{fc}\r\n", None),
        ("", None),
    ] {
        let server = Server::answering(format!("HTTP/1.1 503 x\r\n{headers}content-length: 0\r\n\r\n")).await;
        assert_eq!(server.attempt(LONG).await.outcome, Outcome::Answered { status: 503, retry_after: expected }, "{headers}");
    }
}
