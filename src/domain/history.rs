//! What is known of a delivery from before: carried in our own headers from queue to queue, never in `x-death`.

use super::names::EndpointId;
use super::time::Timestamp;

/// The past of an event or of one of its deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// When the event first came in; its age counts from here.
    pub received_at: Timestamp,
    /// The one endpoint this copy is for; `None` on an event that has not been split into deliveries.
    pub endpoint: Option<EndpointId>,
    /// Attempts made so far.
    pub attempts: u32,
    /// When the first attempt started.
    pub first_attempt_at: Option<Timestamp>,
    /// When the latest attempt started.
    pub last_attempt_at: Option<Timestamp>,
    /// The status of the latest answer; `None` when the latest attempt got none.
    pub last_status: Option<u16>,
    /// Why the latest attempt failed, short and free of payload, secrets and URLs.
    pub last_error: Option<String>,
    /// When the current wait is planned to end; how late it ends in fact is measured from here.
    pub due_at: Option<Timestamp>,
    /// Not to be tried before: set when the ladder has no rung as long as the wait.
    pub hold_until: Option<Timestamp>,
    /// Since when nobody by that name has been configured.
    pub unknown_since: Option<Timestamp>,
}

impl History {
    /// The history of an event that comes in now for the first time.
    #[must_use]
    pub const fn new(received_at: Timestamp) -> Self {
        Self {
            received_at,
            endpoint: None,
            attempts: 0,
            first_attempt_at: None,
            last_attempt_at: None,
            last_status: None,
            last_error: None,
            due_at: None,
            hold_until: None,
            unknown_since: None,
        }
    }
}
