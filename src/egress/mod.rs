//! The only place that speaks HTTP to integrators: few clients, one guard, one attempt.

mod attempt;
mod client;
mod clients;
mod failure;
mod guard;
mod own;
mod ping;
mod resolve;
mod tokens;
mod wire;

pub use attempt::Egress;
pub use client::EgressError;
pub use guard::Guard;
pub use ping::ping;
pub use tokens::Tokens;
pub use wire::as_sent;
