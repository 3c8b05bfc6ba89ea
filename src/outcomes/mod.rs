//! Outcomes: upstream is told what became of its events, by messages to an exchange of its own.
//!
//! One direction: a fact becomes a [`message::Outcome`], the [`outbox::Outbox`] holds it until the [`sender`] has published it. Nothing
//! that delivers ever waits for any of this: what finds no room is left out and counted. An outcome may be published twice, with the same id.

pub mod message;
pub mod outbox;
pub mod sender;

pub use message::Outcome;
pub use outbox::Outbox;
pub use sender::Sender;
