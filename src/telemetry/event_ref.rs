//! What facts say of an event: which it is, how it came in, and its place in a request.

use crate::domain::event::Event;
use crate::domain::names::{EventId, IntegratorKey, Topic};
use crate::domain::time::Timestamp;
use crate::domain::trace::SpanId;

/// The place of an event in a request. Every event of a request has an attempt of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Counted from 0: what concerns the request as a whole is counted with the first.
    pub index: usize,
    /// Events in the request.
    pub of: usize,
}

impl Place {
    /// The only event of its request.
    pub const ALONE: Self = Self { index: 0, of: 1 };
}

/// An event as logs name it.
#[derive(Debug, Clone, Copy)]
pub struct EventRef<'a> {
    /// Its id.
    pub id: &'a EventId,
    /// Whose it is.
    pub integrator: &'a IntegratorKey,
    /// What it is about.
    pub topic: &'a Topic,
    /// The event itself, where it is in hand. Prints without its payload.
    pub whole: Option<&'a Event>,
    /// How it came in, where its message is in hand.
    pub receipt: Option<Receipt>,
}

/// How a message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// When it did.
    pub at: Timestamp,
    /// When its event first did: the same time, unless this is a retry.
    pub first_at: Timestamp,
    /// It came from the queue of retries that are due.
    pub due: bool,
    /// Stands for this receipt in a trace.
    pub span: SpanId,
}

impl<'a> EventRef<'a> {
    /// An event in hand.
    #[must_use]
    pub const fn of(event: &'a Event) -> Self {
        Self { id: &event.id, integrator: &event.integrator, topic: &event.topic, whole: Some(event), receipt: None }
    }

    /// The same, and how it came in.
    #[must_use]
    pub const fn received(event: &'a Event, receipt: Receipt) -> Self {
        Self { receipt: Some(receipt), ..Self::of(event) }
    }
}
