//! One request with one or more deliveries: render, attempt, decide, settle.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::lanes::{Seat, Start};
use super::parcel::{Parcel, Stake};
use super::{Shared, lanes, settle};
use crate::broker::Delivered;
use crate::clock;
use crate::domain::auth::{Auth, AuthFault, Bearer, ClientCredentials};
use crate::domain::batch::Waiting;
use crate::domain::decide::{Decision, Rules, Tried, Verdict, decide};
use crate::domain::event::Event;
use crate::domain::format::{Body, Wrote};
use crate::domain::history::History;
use crate::domain::integrator::{Endpoint, SkipReason};
use crate::domain::reply::{Failure, Outcome, Reply};
use crate::domain::request::{self, Attempt, CallbackRequest};
use crate::domain::time::Timestamp;
use crate::telemetry::{Fact, Place, WaitCause};

/// A publisher's clock that is further off than this tells nothing about how long a delivery took.
const CREDIBLE: Duration = Duration::from_secs(24 * 3600);

/// One event for one endpoint, in the endpoint's lane.
pub(super) struct Delivery {
    pub stake: Stake,
}

impl Delivery {
    /// What decides with whom it shares a request.
    pub(super) fn waiting(&self) -> Waiting {
        let parcel = self.stake.parcel();
        Waiting::of(&parcel.event, &parcel.history)
    }
}

/// Makes one request and settles what follows from it for each delivery in it, then goes on with the lane's next request.
/// Leaves deliveries unsettled when a stop or a lost connection comes first: their messages are then unacknowledged and the
/// broker delivers them again.
pub(super) async fn run(shared: Arc<Shared>, start: Start) {
    let mut next = Some(start);
    while let Some(Start { seat, work }) = next {
        next = make(&shared, seat, work).await;
    }
}

/// The endpoint is as it is configured now: a reload may have changed or removed it while the deliveries stood in line.
async fn make(shared: &Arc<Shared>, seat: Seat, work: Vec<Delivery>) -> Option<Start> {
    let Some(authorized) = authorized(shared, &seat).await? else {
        lanes::orphan(shared, seat.id(), work);
        return None;
    };
    let (endpoint, token) = authorized;
    let mut body = Body::new(endpoint.format, work.iter().map(|delivery| &delivery.stake.parcel().event));
    let members: Vec<Stake> = work.into_iter().filter_map(|delivery| write(shared, &endpoint, delivery.stake, &mut body)).collect();
    let body = body.finish()?;
    if shared.stopping.is_cancelled() {
        lanes::make_way(shared, &endpoint, members.into_iter().map(|stake| Delivery { stake }));
        return None;
    }
    attempt((seat, token), shared, &endpoint, members, body).await
}

/// The access token of an endpoint that wants one, or the reply that stands for not getting it.
type Token = Option<Result<Bearer, Reply>>;

/// The endpoint as it is configured when its access token, where it wants one, has been waited for; `Some(None)` when it is no longer
/// configured. `None` when the worker halts. Comes before everything else: what has happened during the wait then counts.
async fn authorized(shared: &Shared, seat: &Seat) -> Option<Option<(Arc<Endpoint>, Token)>> {
    while let Some(endpoint) = seat.endpoint() {
        let Auth::OAuth2(credentials) = &endpoint.auth else { return Some(Some((endpoint, None))) };
        let token = Box::pin(token(shared, credentials)).await?;
        if let Some(now) = seat.endpoint().filter(|now| now.auth == endpoint.auth) {
            return Some(Some((now, Some(token))));
        }
    }
    Some(None)
}

/// Writes a delivery into the body. What is not to be told is settled here, and does not hold up the others.
fn write(shared: &Arc<Shared>, endpoint: &Arc<Endpoint>, stake: Stake, body: &mut Body) -> Option<Stake> {
    if stake.parcel().over().is_cancelled() {
        return None;
    }
    if let Err(reason) = endpoint.takes(&stake.parcel().event.topic) {
        settle::skip(shared, stake, endpoint, reason);
        return None;
    }
    match body.write(&stake.parcel().event) {
        Ok(Wrote::Entries) => Some(stake),
        Ok(Wrote::Nothing) => {
            settle::skip(shared, stake, endpoint, SkipReason::NoRecords);
            None
        }
        Err(fault) => {
            let (on, endpoint) = (Arc::clone(shared), Arc::clone(endpoint));
            shared.tasks.spawn(async move { settle::unrenderable(&on, stake, &endpoint, fault).await });
            None
        }
    }
}

async fn attempt(
    (seat, token): (Seat, Token),
    shared: &Arc<Shared>,
    endpoint: &Endpoint,
    members: Vec<Stake>,
    body: Vec<u8>,
) -> Option<Start> {
    members.iter().for_each(Stake::begin);
    let started_at = clock::now();
    let request_bytes = body.len();
    let mut request = {
        let parcels = members.iter().map(Stake::parcel);
        let attempt = Attempt::next(parcels.clone().map(|parcel| &parcel.history), started_at);
        let events: Vec<&Event> = parcels.map(|parcel| &parcel.event).collect();
        request::compose(endpoint, &events, body, &attempt)
    };
    let webhook_id = std::mem::take(&mut request.webhook_id);

    if seat.is_probe() {
        shared.telemetry.record(&Fact::CircuitProbing { endpoint });
    }
    let in_flight = shared.telemetry.in_flight_started();
    let reply = tokio::select! {
        reply = call(shared, endpoint, request, token) => reply,
        () = shared.halt.cancelled() => return None,
    };
    drop(in_flight);

    let of = NonZeroU16::new(u16::try_from(members.len()).unwrap_or(u16::MAX))?;
    let made = Made {
        endpoint,
        webhook_id: &webhook_id,
        request_bytes,
        tried: Tried { endpoint: &endpoint.id, started_at, members: of, reply: &reply },
    };
    let members = members.into_iter().enumerate();
    let copies: Vec<Copy> = members.filter_map(|(index, stake)| made.judge(shared, stake, index)).collect();
    // The place is kept until the copies are made: an endpoint that fails faster than the broker takes copies waits for them.
    if !copies.is_empty() {
        join_all(copies.into_iter().map(|copy| copy.make(shared, endpoint))).await;
    }
    seat.finish(endpoint, &reply)
}

/// An access token, or the reply that stands for not getting one. `None` when the worker halts.
async fn token(shared: &Shared, credentials: &Arc<ClientCredentials>) -> Option<Result<Bearer, Reply>> {
    let start = Instant::now();
    let bearer = shared.halt.run_until_cancelled(shared.tokens.bearer(credentials)).await?;
    Some(bearer.map_err(|fault| Reply { outcome: Outcome::Failed(Failure::Auth(fault)), took: start.elapsed() }))
}

/// Calls the endpoint, with the access token that it wants; without one it is not called. That it no longer takes a token that was
/// good before is a matter between it and its token server: no failure of the endpoint's, or all that were in flight would open its
/// circuit.
async fn call(shared: &Shared, endpoint: &Endpoint, mut request: CallbackRequest, token: Token) -> Reply {
    let bearer = match token {
        None => return shared.egress.attempt(request, endpoint.policy.timeout).await,
        Some(Err(reply)) => return reply,
        Some(Ok(bearer)) => bearer,
    };
    request.authorize(&bearer);
    let reply = shared.egress.attempt(request, endpoint.policy.timeout).await;
    match (reply.status(), &endpoint.auth) {
        (Some(401), Auth::OAuth2(credentials)) if shared.tokens.reject(credentials, &bearer) => {
            Reply { outcome: Outcome::Failed(Failure::Auth(AuthFault::Revoked)), ..reply }
        }
        _ => reply,
    }
}

/// A request that was made, for all of its members.
struct Made<'a> {
    endpoint: &'a Endpoint,
    webhook_id: &'a str,
    request_bytes: usize,
    tried: Tried<'a>,
}

/// What a member is copied for.
struct Copy {
    stake: Stake,
    history: History,
    verdict: Verdict,
}

impl Made<'_> {
    /// Decides about one member. One that is delivered is settled here.
    fn judge(&self, shared: &Shared, stake: Stake, index: usize) -> Option<Copy> {
        let now = clock::now();
        let parcel = stake.parcel();
        let rules = Rules { policy: &self.endpoint.policy.retry, ladder: &shared.config.ladder };
        let Decision { verdict, history } = decide(&parcel.history, &self.tried, rules, now, fastrand::f64());
        shared.telemetry.record(&Fact::Attempted {
            event: parcel.event_ref(),
            endpoint: self.endpoint,
            webhook_id: self.webhook_id,
            attempt: history.attempts,
            replayed_at: history.replayed_at,
            started_at: self.tried.started_at,
            place: Place { index, of: self.tried.members.get().into() },
            request_bytes: self.request_bytes,
            reply: self.tried.reply,
            verdict: &verdict,
            latency: matches!(verdict, Verdict::Delivered).then(|| now.since(published_at(parcel))),
        });
        match (verdict, Delivered::from_reply(self.tried.reply)) {
            (Verdict::Delivered, Some(proof)) => settle::delivered(stake, proof),
            // A verdict without the reply to prove it cannot come out of `decide`; unsettled, the event comes again.
            (Verdict::Delivered, None) => {}
            (verdict, _) => return Some(Copy { stake, history, verdict }),
        }
        None
    }
}

impl Copy {
    async fn make(self, shared: &Shared, endpoint: &Endpoint) {
        let Self { stake, history, verdict } = self;
        match verdict {
            Verdict::Retry(wait) => settle::wait(shared, stake, history, (wait, WaitCause::Retry)).await,
            Verdict::Dead(reason) => settle::dead(shared, stake, &endpoint.id, &history, reason).await,
            Verdict::Delivered => {}
        }
    }
}

/// When the event was published, as far as the publisher's clock can be believed; else when it first came in.
fn published_at(parcel: &Parcel) -> Timestamp {
    let received_at = parcel.history.received_at;
    let stamped = (*parcel.original.properties.timestamp()).and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1000));
    let stamped = stamped.map(Timestamp::from_millis).filter(|at| *at <= received_at && received_at.since(*at) < CREDIBLE);
    stamped.unwrap_or(received_at)
}
