//! The chaos suite of callbackd; what its figures mean is in `deploy/RELIABILITY.md`.
//!
//! Publishers, receivers and whoever breaks things write what they do into one [`ledger`]; the [`judge`] reads nothing else.
//! What is broken, and in which order, is a [`plan`] made from a seed. That the judge can say no is shown by [`control`]:
//! small workers with one flaw each.

#[allow(dead_code, unreachable_pub, reason = "shared with the tests, which use more of it")]
#[path = "../../support/background.rs"]
mod background;
#[path = "../../bench/src/child.rs"]
pub mod child;
#[allow(unreachable_pub, reason = "shared with the tests")]
#[path = "../../support/ports.rs"]
mod ports;
#[path = "../../support/proxy.rs"]
pub mod proxy;

pub mod broker;
pub mod campaign;
pub mod control;
pub mod drain;
pub mod event;
pub mod faults;
pub mod judge;
pub mod ledger;
pub mod logs;
pub mod plan;
pub mod publisher;
pub mod receiver;
pub mod report;
pub mod signature;
pub mod worker;
