//! The side towards RabbitMQ: what must be there, how messages are read and written, and how they are settled.

pub mod headers;
pub mod topology;
