//! The benchmark of callbackd; what its figures mean is in `deploy/PERFORMANCE.md`.
//!
//! `bench` starts everything and measures; `receiver`, `naive` and `best` are processes of their own, so that their CPU time
//! is their own.

pub mod acks;
pub mod arrivals;
pub mod broker;
pub mod child;
pub mod contestant;
pub mod event;
pub mod floor;
pub mod measure;
pub mod receiver;
pub mod report;
pub mod scenario;
pub mod stage;
