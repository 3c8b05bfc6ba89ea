//! The benchmark of callbackd; what its figures mean is in `deploy/PERFORMANCE.md`.
//!
//! `bench measure` starts everything and measures. Receiver and floors are processes of their own, so that their CPU time is
//! their own, but of the same binary: each binary more takes a minute to link as the product is linked.

pub mod arrivals;
pub mod broker;
pub mod child;
pub mod contestant;
pub mod event;
pub mod floor;
pub mod measure;
pub mod receiver;
pub mod reception;
pub mod report;
pub mod scenario;
pub mod stage;
