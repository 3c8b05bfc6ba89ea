//! A log line as one JSON object, written straight into one buffer.
//!
//! The same object that `tracing-subscriber` writes (flattened, without spans) in a fifth of the time: an attempt's line is
//! written for every event, and there it was a tenth of all that the worker did.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock;

/// Bytes of a usual line, with some room.
const USUAL: usize = 512;

/// The shape of a log line for machines.
pub(super) struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line(String::with_capacity(USUAL));
        let _ = write!(line.0, "{{\"timestamp\":\"{}\",\"level\":\"{}\"", clock::to_the_microsecond(), event.metadata().level());
        event.record(&mut line);
        line.name("target");
        line.text(event.metadata().target());
        line.0.push_str("}\n");
        writer.write_str(&line.0)
    }
}

/// An object under construction, without its end.
struct Line(String);

impl Line {
    /// Field names are identifiers.
    fn name(&mut self, name: &str) {
        self.0.push_str(",\"");
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    fn text(&mut self, text: &str) {
        self.0.push('"');
        escape(&mut self.0, text);
        self.0.push('"');
    }

    fn bare(&mut self, field: &Field, value: impl fmt::Display) {
        self.name(field.name());
        let _ = write!(self.0, "{value}");
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field.name());
        self.text(value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field.name());
        self.0.push('"');
        let _ = write!(Escaping(&mut self.0), "{value:?}");
        self.0.push('"');
    }
}

/// Text that is written here is the inside of a JSON string.
struct Escaping<'a>(&'a mut String);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

/// Appends a text as the inside of a JSON string. Most have nothing to escape and are copied whole.
fn escape(line: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        line.push_str(&rest[..at]);
        let _ = match rest.as_bytes()[at] {
            b'"' => line.write_str("\\\""),
            b'\\' => line.write_str("\\\\"),
            b'\n' => line.write_str("\\n"),
            b'\r' => line.write_str("\\r"),
            b'\t' => line.write_str("\\t"),
            byte => write!(line, "\\u{byte:04x}"),
        };
        rest = &rest[at + 1..];
    }
    line.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_escaped_so_that_it_can_be_read_back() {
        let evil: String = (0..=0x2fff).filter_map(char::from_u32).collect();
        let mut line = Line(String::new());
        line.text(&evil);
        assert_eq!(serde_json::from_str::<String>(&line.0).unwrap(), evil);
        assert!(!line.0.bytes().any(|byte| byte < b' '));
    }
}
