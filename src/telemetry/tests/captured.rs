//! What is written, and what is counted.

use std::io;
use std::sync::{Arc, Mutex};

use crate::telemetry::Telemetry;
use crate::telemetry::logging::{Shape, filter, subscriber};

/// Standard error, but readable.
#[derive(Clone, Default)]
pub(super) struct Captured(pub(super) Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written while `work` runs, line by line.
pub(super) fn lines(shape: Shape, directive: &str, work: impl FnOnce()) -> Vec<String> {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = subscriber(shape, false, filter("test", directive).unwrap(), move || writer.clone());
    tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
pub(super) fn assert_series(telemetry: &Telemetry, expected: &[&str]) {
    let text = telemetry.metrics_text();
    for line in expected {
        assert!(text.lines().any(|candidate| candidate == *line), "missing: {line}\n{text}");
    }
}
