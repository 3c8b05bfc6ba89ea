//! Traces: what happens to an event, as spans of its publisher's trace, exported by OTLP over HTTP.
//!
//! One direction: a fact becomes one or two [`span::Span`]s, the [`tracer::Tracer`] holds them until the [`exporter`] has sent them as
//! [`otlp`] says. Nothing that delivers ever waits for any of this: what finds no room is left out and counted. No span needs to be
//! remembered from one message to the next: what makes them one trace travels with the event (`domain::trace`).
//!
//! The spans of one event:
//!
//! ```text
//! the publisher's span (or, without one, the first receipt)
//! ├ process QUEUE   CONSUMER   from a receipt of its message until that is acknowledged; one for each receipt
//! │ ├ POST          CLIENT     an attempt; events that share a request have one each
//! │ └ wait          INTERNAL   a stay in the ladder, until it is planned to end
//! └ deliver         INTERNAL   from the first receipt to the end of one delivery: delivered, dead or rejected
//! ```

pub mod exporter;
pub mod otlp;
pub mod span;
pub mod tracer;

pub use exporter::Exporter;
pub use tracer::Tracer;
