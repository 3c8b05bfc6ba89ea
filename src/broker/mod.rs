//! The side towards RabbitMQ: what must be there, how messages are read and written, and how they are settled.

pub mod acks;
pub mod channels;
mod claim;
mod complaints;
pub mod connection;
mod fuse;
pub mod headers;
mod outlet;
mod publish_link;
pub mod publisher;
mod quarantine;
mod session;
mod share;
pub mod subscription;
mod tap;
pub mod topology;
mod unblocked;
mod valve;
pub mod verdict;
mod window;
mod write_path;

pub use claim::{Claim, Delivered, Proof};
pub use connection::{BrokerError, OwnedConnection, connect};
pub(crate) use outlet::{Letterhead, Outlet};
pub use publisher::{NotPublished, Outgoing, Publisher, Unpublished};
pub use share::Weight;
pub use subscription::{Ground, HANDED_OVER, Inbound, QueueRole, Subscription};
pub use topology::{Topology, TopologyError};
pub use verdict::Confirmed;
