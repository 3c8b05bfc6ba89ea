//! Which lines are written, and when.

use std::io;
use std::time::Duration;

use super::captured::{Captured, lines};
use crate::telemetry::logging::{Shape, beside, filter, subscriber};
use crate::telemetry::{Fact, Telemetry};

#[test]
fn a_bare_level_is_ours_and_libraries_only_warn() {
    let all = || {
        tracing::debug!(target: "callbackd", "ours");
        tracing::info!(target: "hyper", "chatty");
        tracing::error!(target: "lapin::channel", "what we tell as a fact");
        tracing::warn!(target: "hyper", "serious");
    };
    assert_eq!(lines(Shape::Human, "debug", all).len(), 2);
    assert_eq!(lines(Shape::Human, "error", all).len(), 0);
    assert_eq!(lines(Shape::Human, "off", all).len(), 0);
    assert_eq!(lines(Shape::Human, "lapin=info,hyper=info,off", all).len(), 3);
    let fault = filter("log.level", "callbackd=loud").unwrap_err().to_string();
    assert!(fault.starts_with("log.level: `callbackd=loud` is no log level"), "{fault}");
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_and_no_time() {
    let (unread, pipe) = io::pipe().unwrap();
    let (spool, guard) = beside(pipe, 8 * 1024).unwrap();
    let stalled = subscriber(Shape::Json, false, filter("test", "info").unwrap(), spool.clone());
    let started = std::time::Instant::now();
    tracing::subscriber::with_default(stalled, || {
        let long = "x".repeat(400);
        // More than a pipe holds (64 KiB on Linux) by far.
        for _ in 0..2000 {
            Telemetry::default().record(&Fact::BrokerBlocked { reason: &long });
        }
    });
    assert!(spool.dropped() > 500, "{}", spool.dropped());
    drop(guard);
    // The end waits for the writer a second and a half, not for ever; the pipe is open until here.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    drop(unread);
}

#[test]
fn every_line_is_written_before_the_end() {
    let captured = Captured::default();
    let (spool, guard) = beside(captured.clone(), 1 << 20).unwrap();
    let subscriber = subscriber(Shape::Json, false, filter("test", "info").unwrap(), spool);
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..1000 {
            Telemetry::default().record(&Fact::BrokerUnblocked);
        }
    });
    drop(guard);
    assert_eq!(captured.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count(), 1000);
}
