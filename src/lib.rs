//! callbackd tells integrators what happened: it consumes a platform's events from RabbitMQ and delivers them over HTTP,
//! at least once, with exponential retry, and dead-letters what keeps failing.
//!
//! The map, along the way of an event:
//!
//! 1. [`broker`] takes a message from a queue ([`broker::Inbound`]) together with the right to acknowledge it ([`broker::Claim`]).
//! 2. [`domain::decode`] makes an [`domain::event::Event`] of it, or says why it is none.
//! 3. [`domain::route`] finds the [`domain::integrator::Endpoint`]s that are told. One event and one endpoint are one delivery.
//! 4. [`worker`] puts each delivery in line at its endpoint ([`domain::lane`]).
//! 5. [`domain::format`] renders the body, [`domain::request`] composes the request, [`domain::sign`] signs it.
//! 6. [`egress`] makes one attempt, with an access token ([`domain::auth`]) where the endpoint wants one; whatever comes of it is
//!    a [`domain::reply::Reply`].
//! 7. [`domain::decide`] says what follows: delivered, retry after a wait, or dead.
//! 8. [`worker`] settles: acknowledged with proof, or copied to a wait queue, the dead letters or the rejected, confirmed, and then
//!    acknowledged.
//!
//! Around it: [`config`] (raw text in, valid types out), [`telemetry`] (facts in, log lines and metrics out), [`store`] (the delivery log:
//! facts in, an event's story out), [`outcomes`] (facts in, messages to upstream out), [`traces`] (facts in, spans to a collector out),
//! [`letters`] (what waits for an operator, and the jobs that replay or discard it), [`holds`] (endpoints that operators have paused), [`admin`]
//! (probes, metrics, API and console over HTTP), [`live`] (what happens right now), [`lifecycle`] (signals), `side_thread` (the threads of the
//! log, of outcomes, of traces and of the admin side), [`pulse`] and [`supervisor`] (whether it lives, and what systemd is told), [`cli`] (the
//! commands). `src/ARCHITECTURE.md` says why things are as they are.

pub mod admin;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod egress;
pub mod holds;
pub mod letters;
pub mod lifecycle;
pub mod live;
pub mod outcomes;
pub mod pulse;
mod side_thread;
pub mod store;
pub mod supervisor;
pub mod telemetry;
pub mod traces;
pub mod worker;
