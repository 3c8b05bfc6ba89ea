//! callbackd tells integrators what happened: it consumes a platform's events from RabbitMQ and delivers them over HTTP.

pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod egress;
pub mod telemetry;
