//! The pure core: what an event is, who gets it, what the request says, and what follows from the answer.
//!
//! Nothing here is async, reads a clock, throws dice, looks at the environment or does I/O; time and chance are
//! arguments. `tests/architecture.rs` enforces it.

pub mod auth;
pub mod batch;
pub mod circuit;
pub mod dead;
pub mod decide;
pub mod decode;
pub mod event;
pub mod format;
pub mod history;
pub mod hold;
pub mod integrator;
pub mod ladder;
pub mod lane;
pub mod names;
pub mod outcome;
pub mod pace;
pub mod park;
pub mod policy;
pub mod reply;
pub mod request;
pub mod retry;
pub mod route;
pub mod search;
pub mod service;
pub mod sign;
pub mod time;
pub mod tls;
pub mod trace;
mod turns;
