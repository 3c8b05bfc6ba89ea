//! RabbitMQ: what is there, how we read it and how we write to it.

pub mod acks;
pub mod claim;
pub mod connection;
mod publish_link;
pub mod publisher;
mod quarantine;
mod session;
pub mod subscription;
pub mod topology;

pub use claim::{Claim, Delivered, Proof};
pub use connection::{BrokerError, connect};
pub use publisher::{Confirmed, NotPublished, Outgoing, Publisher};
pub use subscription::{Inbound, QueueRole, Subscription};
pub use topology::{Topology, TopologyError};
