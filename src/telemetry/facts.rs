//! Everything worth telling that happens in the worker, as one enum: the only source of log lines and metrics.
//!
//! Recording a fact is one call, so a log line, a counter and a test all see the same truth. No fact can hold a payload,
//! a secret or a URL's path or query: the types that go in here do not print them.

use std::time::Duration;

use super::causes::{ApiRefusal, EventOutcome, ResumeCause, WaitCause};
use super::event_ref::{EventRef, Place};
use crate::domain::auth::AuthFault;
use crate::domain::circuit::TripCause;
use crate::domain::dead::{DeadReason, RejectReason};
use crate::domain::decide::{Verdict, Wait};
use crate::domain::hold::Hold;
use crate::domain::integrator::{Endpoint, EndpointUrl, SkipReason};
use crate::domain::names::{EndpointId, IntegratorKey, SourceName};
use crate::domain::reply::Reply;
use crate::domain::time::Timestamp;
use crate::letters::Job;

/// Something that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fact<'a> {
    /// The process started to work.
    Started {
        /// Configured integrators.
        integrators: usize,
        /// Their endpoints.
        endpoints: usize,
    },
    /// An operator changes something through `/api`. Told before it is done.
    Audited {
        /// The name of the token, or `local` where there are none.
        actor: &'a str,
        /// What is done.
        action: &'static str,
        /// To what, where that is to be said: ids, names and filters.
        detail: Option<&'a str>,
    },
    /// A job is over, or was interrupted.
    JobEnded {
        /// The job.
        job: &'a Job,
    },
    /// Jobs cannot be written to the database; they go on, and it is tried again. Told once, until it can be written again.
    JobsNotRecorded {
        /// Why.
        error: &'a str,
    },
    /// Jobs are written to the database again.
    JobsRecorded,
    /// A request to `/api` was turned away.
    ApiRefused {
        /// Why.
        reason: ApiRefusal,
    },
    /// A connection to the broker is up and in use.
    BrokerConnected {
        /// The queue that it consumes, or `publish`.
        link: &'a str,
    },
    /// A connection, channel or consumer ended or could not be made; it will be tried again.
    BrokerLost {
        /// The queue that it consumes, or `publish`.
        link: &'a str,
        /// Why, without the broker's URL.
        error: &'a str,
        /// The pause before the next try.
        retry_in: Duration,
    },
    /// The broker stopped reading what we publish (memory or disk alarm); we wait.
    BrokerBlocked {
        /// The broker's words.
        reason: &'a str,
    },
    /// The alarm is over.
    BrokerUnblocked,
    /// A message that the client library cannot read broke the connection: its queue is consumed one by one until the
    /// broker has moved that message to the rejected.
    Quarantined {
        /// The queue.
        queue: &'a str,
    },
    /// The queue is consumed as usual again.
    QuarantineOver {
        /// The queue.
        queue: &'a str,
    },
    /// A queue is consumed, with so many messages at one time.
    Consuming {
        /// The queue.
        queue: &'a str,
        /// Messages that it may have with us.
        prefetch: u16,
    },
    /// The messages of a queue are too large for as many of them at one time as before.
    WindowNarrowed {
        /// The queue.
        queue: &'a str,
        /// Messages that it may have with us from now on.
        prefetch: u16,
        /// Messages that had to be given back to it.
        given_back: u64,
    },
    /// A copy was not confirmed; it is published again.
    PublishFailed {
        /// The queue it was meant for.
        queue: &'a str,
        /// Why.
        error: &'a str,
    },
    /// Acknowledgements came too late for their channel: the broker delivers these messages again.
    StaleAcks {
        /// The queue.
        queue: &'a str,
        /// How many.
        count: u64,
    },
    /// Exchanges, queues and bindings were declared, or found to be there.
    TopologyReady {
        /// Objects declared or checked.
        objects: usize,
    },
    /// A message came in.
    Received {
        /// Where from.
        source: &'a SourceName,
        /// It came from the queue of retries that are due.
        due: bool,
        /// How much later than planned it came; only for retries.
        late_by: Option<Duration>,
    },
    /// All deliveries of a message are settled and its acknowledgement is handed to the connection.
    Settled {
        /// Where from.
        source: &'a SourceName,
        /// Its event, where it is one.
        event: Option<EventRef<'a>>,
        /// The furthest that any of its deliveries got.
        outcome: EventOutcome,
    },
    /// An endpoint is not told of an event, on purpose.
    Skipped {
        /// The event.
        event: EventRef<'a>,
        /// The endpoint.
        endpoint: &'a Endpoint,
        /// Why.
        reason: SkipReason,
    },
    /// An event, or one delivery of it, is in the ladder (confirmed) and comes back later.
    Waits {
        /// The event.
        event: EventRef<'a>,
        /// The endpoint of the delivery; none where the whole event waits.
        endpoint: Option<&'a EndpointId>,
        /// Why.
        cause: WaitCause,
        /// How long.
        wait: Wait,
        /// Attempts made so far.
        attempts: u32,
        /// How often it has made room so far, this time included.
        parked: u32,
    },
    /// An HTTP request was made and judged.
    Attempted {
        /// The event.
        event: EventRef<'a>,
        /// The endpoint.
        endpoint: &'a Endpoint,
        /// The message's id at this endpoint.
        webhook_id: &'a str,
        /// Counted from 1.
        attempt: u32,
        /// When an operator replayed the event last.
        replayed_at: Option<Timestamp>,
        /// Its place in the request.
        place: Place,
        /// When the request began.
        started_at: Timestamp,
        /// Bytes sent as the body.
        request_bytes: usize,
        /// What the endpoint did.
        reply: &'a Reply,
        /// What follows.
        verdict: &'a Verdict,
        /// From AMQP `timestamp` (whole seconds), or first receipt where there is none, to a delivery; only on delivery.
        latency: Option<Duration>,
    },
    /// A token server has given an access token.
    TokenGranted {
        /// Where, of which scheme, host and port are shown.
        url: &'a EndpointUrl,
        /// How long it is good.
        life: Duration,
    },
    /// A token server has given no access token.
    TokenRefused {
        /// Where, of which scheme, host and port are shown.
        url: &'a EndpointUrl,
        /// Why.
        fault: AuthFault,
    },
    /// An endpoint keeps failing: it is left alone, and its events wait. Again after each probe that fails.
    CircuitOpened {
        /// The endpoint.
        endpoint: &'a Endpoint,
        /// Why.
        cause: TripCause,
        /// Failures in a row, or within the window where their rate is the cause.
        failures: u32,
        /// How long it is left alone.
        wait: Duration,
        /// When it is tried again.
        next_probe_at: Timestamp,
    },
    /// One request goes to an endpoint that has been left alone, to see whether it is back.
    CircuitProbing {
        /// The endpoint.
        endpoint: &'a Endpoint,
    },
    /// An endpoint works again.
    CircuitClosed {
        /// The endpoint.
        endpoint: &'a Endpoint,
        /// How long it has not been told of anything, all probes included.
        open_for: Duration,
    },
    /// An endpoint answered 410, that it is gone: its further events wait, until its configuration changes or the time is over.
    /// Told once for each pause.
    EndpointPaused {
        /// The endpoint.
        endpoint: &'a Endpoint,
        /// Until then, if its configuration stays as it is. A request that was in flight and answers 410 too may move it a little.
        until: Timestamp,
    },
    /// An endpoint that answered 410 is told again.
    EndpointResumed {
        /// The endpoint.
        endpoint: &'a Endpoint,
        /// Why.
        cause: ResumeCause,
    },
    /// An operator has paused an endpoint: its events wait.
    EndpointHeld {
        /// Whose it is.
        integrator: &'a IntegratorKey,
        /// The endpoint.
        endpoint: &'a EndpointId,
        /// Who, since when and how long.
        hold: &'a Hold,
    },
    /// An endpoint that an operator had paused is told again.
    EndpointReleased {
        /// Whose it is.
        integrator: &'a IntegratorKey,
        /// The endpoint.
        endpoint: &'a EndpointId,
    },
    /// It cannot be read which endpoints operators have paused: what was known last stays in force. Told once, until it can be read again.
    HoldsUnread {
        /// Why.
        error: &'a str,
    },
    /// It can be read again.
    HoldsRead {
        /// How many there are.
        count: usize,
    },
    /// A delivery was given up and is among the dead letters (confirmed).
    DeadLettered {
        /// The event.
        event: EventRef<'a>,
        /// The endpoint.
        endpoint: &'a EndpointId,
        /// Why.
        reason: DeadReason,
        /// Attempts made.
        attempts: u32,
        /// The status of the latest answer; `None` where there was none.
        status: Option<u16>,
        /// When an operator replayed the event last.
        replayed_at: Option<Timestamp>,
    },
    /// A message is no delivery and is among the rejected (confirmed).
    Rejected {
        /// Where from.
        source: &'a SourceName,
        /// Its event, as far as it could be read.
        event: Option<EventRef<'a>>,
        /// AMQP `message_id`, where it is no event: whatever text upstream wrote there.
        message_id: Option<&'a str>,
        /// The endpoint, where the event fits the others.
        endpoint: Option<&'a EndpointId>,
        /// Why.
        reason: &'a RejectReason,
        /// When an operator replayed it last.
        replayed_at: Option<Timestamp>,
    },
    /// The delivery log can be written.
    DeliveryLogReady {
        /// Where it is, without user and password.
        database: &'a str,
    },
    /// The delivery log cannot be written; it is tried again. Deliveries go on without it.
    DeliveryLogFailed {
        /// Why, without what was to be written.
        error: &'a str,
        /// The pause before the next try.
        retry_in: Duration,
    },
    /// So much waits for the delivery log that what comes now is left out. Told once, until something is written again.
    DeliveryLogFull,
    /// Entries were written to the delivery log.
    DeliveryLogWritten {
        /// How many.
        entries: u64,
        /// How many others were left out since the last time.
        dropped: u64,
    },
    /// Entries that are older than they are kept could not be removed; it is tried again.
    DeliveryLogNotTrimmed {
        /// Why.
        error: &'a str,
    },
    /// Entries that were older than they are kept were removed from the delivery log.
    DeliveryLogTrimmed {
        /// How many.
        entries: u64,
    },
    /// What became of events can be told to upstream: for the first time, or again.
    OutcomesReady {
        /// Where.
        exchange: &'a str,
    },
    /// It cannot be told; it is tried again. Told once, until it can. Deliveries go on without it.
    OutcomesFailed {
        /// Why, without the broker's URL.
        error: &'a str,
        /// The pause before the next try.
        retry_in: Duration,
    },
    /// So much waits to be told that what comes now is left out. Told once, until something is published again.
    OutcomesFull,
    /// The broker has refused an outcome, as a full queue that listens does; it is not tried again, as other queues may have it. Told once,
    /// until one is published again.
    OutcomesRefused {
        /// Why.
        error: &'a str,
    },
    /// So many outcomes were left out since the last time.
    OutcomesDropped {
        /// How many.
        outcomes: u64,
    },
    /// Spans can be sent again.
    TracesReady {
        /// Where to: scheme, host and port.
        collector: &'a str,
    },
    /// Spans cannot be sent; it is tried again. Told once, until they can. Deliveries go on without it.
    TracesFailed {
        /// Where to and why, without path and query.
        error: &'a str,
        /// The pause before the next try.
        retry_in: Duration,
    },
    /// So many spans wait to be sent that those that come now are left out. Told once, until there is room again.
    TracesFull,
    /// The collector has refused spans, for good. Told once, until it takes some.
    TracesRefused {
        /// Where and why.
        error: &'a str,
    },
    /// So many spans were left out since the last time.
    TracesDropped {
        /// How many.
        spans: u64,
    },
    /// A new version of the integrators is in force.
    Reloaded {
        /// Integrators.
        integrators: usize,
        /// Their endpoints.
        endpoints: usize,
    },
    /// A new version of the integrators was refused; the old one stays in force.
    ReloadRefused {
        /// What is wrong, a line each, without secrets.
        problems: &'a [String],
    },
    /// The process was told to stop and finishes what it has begun.
    Stopping {
        /// Pieces of work in progress: requests, and copies that the broker has not confirmed yet.
        open: usize,
        /// The most it waits for them.
        limit: Duration,
    },
    /// The process is done.
    Stopped {
        /// Pieces of work (requests and copies) that did not end in time; their events go back to the broker.
        abandoned: usize,
    },
}
