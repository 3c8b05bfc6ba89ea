//! A request that tells of nothing, to see whether an endpoint takes requests.

use std::time::Instant;

use super::{Egress, Tokens};
use crate::clock;
use crate::domain::auth::Auth;
use crate::domain::integrator::Endpoint;
use crate::domain::reply::{Failure, Outcome, Reply};
use crate::domain::request::compose_ping;

/// Calls an endpoint as a delivery would, with the same guard, certificate, signature and token, and an empty callback. What comes of it is
/// held against nobody: no circuit hears of it.
pub async fn ping(egress: &Egress, tokens: &Tokens, endpoint: &Endpoint) -> Reply {
    let start = Instant::now();
    let mut request = compose_ping(endpoint, fastrand::u64(..), clock::now());
    if let Auth::OAuth2(credentials) = &endpoint.auth {
        match tokens.bearer(credentials).await {
            Ok(bearer) => request.authorize(&bearer),
            Err(fault) => return Reply { outcome: Outcome::Failed(Failure::Auth(fault)), took: start.elapsed() },
        }
    }
    egress.attempt(request, endpoint.policy.timeout).await
}
