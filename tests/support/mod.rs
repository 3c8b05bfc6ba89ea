//! What the integration tests stand on: a vhost of one's own, a broker to kill, receivers, a worker, a wire to cut.
//!
//! Everything is real: RabbitMQ, HTTP, TCP and the built program. Receivers and proxies run on threads of their own, so
//! a test that blocks its runtime does not hold up what it watches.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    unreachable_pub,
    reason = "each test file compiles this module for itself and uses a part of it"
)]

mod amqp;
mod answer;
mod background;
mod broker;
mod database;
mod embedded;
mod eventually;
mod letters;
mod node;
mod operator;
mod poison;
mod ports;
mod proxy;
mod receiver;
mod worker;

pub use amqp::{Amqp, Fetched};
pub use answer::Answer;
pub use broker::{Broker, Vhost};
pub use database::Database;
pub(crate) use database::with_both;
pub use embedded::{OwnLog, WORK, config, publisher, subscribe, subscribe_on};
pub use eventually::{Fact, eventually};
pub use letters::{Buried, DEAD, Stage, assert_numbers, numbers};
pub use node::PrivateNode;
pub use operator::{config_at, config_for, config_with, dead, dead_with_output, parsed};
pub use poison::{publish_nested, publish_poison};
pub use ports::free_port;
pub use proxy::{Side, TcpProxy};
pub use receiver::{Receiver, Seen};
pub use worker::{Exit, Worker, short_waits};
