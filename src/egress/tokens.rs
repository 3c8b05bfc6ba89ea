//! Access tokens: each is asked for once, however many deliveries want it, kept as long as it is good, and forgotten with
//! its setting.
//!
//! Token servers are of the integrators' choice, so they are called as endpoints are: through the same guard, without
//! redirects, with limits on time and size. What they answer goes no further than [`Granted::parse`].

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use reqwest::{Method, Request};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Egress;
use super::failure::classify;
use crate::domain::auth::{Auth, AuthFault, Bearer, ClientCredentials, Granted, Lease, Step, TokenRequest};
use crate::domain::integrator::Directory;
use crate::domain::reply::Failure;
use crate::telemetry::{Fact, Telemetry};

/// Limit on one request for a token: name, connection, request and answer together.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a token server's answer beyond which it is no answer.
const ANSWER_LIMIT: usize = 64 * 1024;
/// Settings whose tokens are kept, of at most 8 KiB each; beyond that the one that was used longest ago is forgotten.
const SETTINGS: usize = 4096;

/// The tokens of all endpoints. Clones share them.
#[derive(Clone)]
pub struct Tokens {
    egress: Egress,
    telemetry: Telemetry,
    slots: Arc<Mutex<Slots>>,
}

type Slots = HashMap<Arc<ClientCredentials>, Slot>;

/// A request for a token that is under way, and all who wait for it.
type Asking = Shared<BoxFuture<'static, Result<Bearer, AuthFault>>>;

struct Slot {
    lease: Lease,
    asking: Option<Asking>,
    used_at: Instant,
}

impl Tokens {
    /// No tokens yet. What is found out about them is recorded.
    #[must_use]
    pub fn new(egress: Egress, telemetry: Telemetry) -> Self {
        Self { egress, telemetry, slots: Arc::default() }
    }

    /// A token to use now. Waits where one has to be asked for first, together with all others who want the same; where one is
    /// about to end, the next is asked for beside the delivery.
    ///
    /// # Errors
    /// Why there is none. For a moment after a refusal everybody gets the same, and the token server is left alone.
    pub async fn bearer(&self, credentials: &Arc<ClientCredentials>) -> Result<Bearer, AuthFault> {
        let asking = {
            let now = Instant::now();
            let mut slots = self.lock();
            let slot = slot(&mut slots, credentials, now);
            match slot.lease.step(now) {
                Step::Use(bearer) => return Ok(bearer),
                Step::Fail(fault) => return Err(fault),
                Step::UseAndRenew(bearer) => {
                    // It goes on by itself, and this delivery does not wait for it.
                    drop(self.ask(slot, credentials));
                    return Ok(bearer);
                }
                Step::Ask => self.ask(slot, credentials),
            }
        };
        asking.await
    }

    /// An endpoint has answered 401 to this token. Returns whether another one may fare better.
    #[must_use]
    pub fn reject(&self, credentials: &ClientCredentials, bearer: &Bearer) -> bool {
        self.lock().get_mut(credentials).is_some_and(|slot| slot.lease.reject(bearer, Instant::now()))
    }

    /// Forgets the tokens of settings that no endpoint has any more.
    pub fn keep(&self, directory: &Directory) {
        let mut slots = self.lock();
        if slots.is_empty() {
            return;
        }
        let settings = directory.all().filter_map(|endpoint| match &endpoint.auth {
            Auth::OAuth2(credentials) => Some(&**credentials),
            Auth::None | Auth::Basic(_) => None,
        });
        let settings: HashSet<&ClientCredentials> = settings.collect();
        slots.retain(|credentials, _| settings.contains(&**credentials));
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the request that is under way, or starts one, on a task of its own: it ends also when nobody waits any more.
    fn ask(&self, slot: &mut Slot, credentials: &Arc<ClientCredentials>) -> Asking {
        // One that is over and still stands there broke before it could say so.
        if let Some(asking) = slot.asking.as_ref().filter(|asking| asking.peek().is_none()) {
            return asking.clone();
        }
        let (this, of) = (self.clone(), Arc::clone(credentials));
        let task = tokio::spawn(async move {
            let result = this.request(&of).await;
            this.settle(&of, result)
        });
        let asking = task.map(|ended| ended.unwrap_or(Err(AuthFault::Local))).boxed().shared();
        slot.asking = Some(asking.clone());
        asking
    }

    /// Notes what came of a request. The setting may have been forgotten meanwhile: who waits gets the token all the same.
    fn settle(&self, credentials: &Arc<ClientCredentials>, result: Result<Granted, AuthFault>) -> Result<Bearer, AuthFault> {
        let now = Instant::now();
        let url = &credentials.token_url;
        match &result {
            Ok(granted) => self.telemetry.record(&Fact::TokenGranted { url, life: granted.life }),
            Err(fault) => self.telemetry.record(&Fact::TokenRefused { url, fault: *fault }),
        }
        let bearer = result.as_ref().map(|granted| granted.bearer.clone()).map_err(|fault| *fault);
        if let Some(slot) = self.lock().get_mut(credentials) {
            slot.asking = None;
            match result {
                Ok(granted) => slot.lease.grant(granted, now),
                Err(fault) => slot.lease.refuse(fault, now),
            }
        }
        bearer
    }

    async fn request(&self, credentials: &ClientCredentials) -> Result<Granted, AuthFault> {
        let answer = timeout(TIME_LIMIT, self.exchange(credentials)).await;
        Granted::parse(&answer.unwrap_or(Err(Failure::Timeout.into()))?)
    }

    async fn exchange(&self, credentials: &ClientCredentials) -> Result<Zeroizing<Vec<u8>>, AuthFault> {
        let url = credentials.token_url.as_url();
        let TokenRequest { headers, body } = credentials.request();
        let mut post = Request::new(Method::POST, url.clone());
        *post.headers_mut() = headers;
        *post.body_mut() = Some(body.into());
        let mut response = self.egress.send(post, tokio::time::Instant::now() + TIME_LIMIT).await?;
        if !response.status().is_success() {
            return Err(AuthFault::Refused(response.status().as_u16()));
        }
        // Never grows, as that would leave a copy behind.
        let mut answer = Zeroizing::new(Vec::with_capacity(ANSWER_LIMIT));
        while let Some(chunk) = response.chunk().await.map_err(|error| classify(&error, false))? {
            if answer.len() + chunk.len() > ANSWER_LIMIT {
                return Err(AuthFault::TooLong);
            }
            answer.extend_from_slice(&chunk);
        }
        Ok(answer)
    }
}

impl From<Failure> for AuthFault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Blocked(forbidden) => Self::Blocked(forbidden),
            // Neither is any fault of the token server's.
            Failure::Local | Failure::Proxy => Self::Local,
            other => Self::NoAnswer(other.as_str()),
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// The slot of a setting, made where there is none.
fn slot<'s>(slots: &'s mut Slots, credentials: &Arc<ClientCredentials>, now: Instant) -> &'s mut Slot {
    if slots.len() >= SETTINGS && !slots.contains_key(credentials) {
        // Rather one that nobody waits for: whoever asks again would be a second one to ask at that time.
        let oldest =
            slots.iter().min_by_key(|(_, slot)| (slot.asking.is_some(), slot.used_at)).map(|(credentials, _)| Arc::clone(credentials));
        oldest.and_then(|oldest| slots.remove(&oldest));
    }
    let slot = slots.entry(Arc::clone(credentials)).or_insert_with(|| Slot { lease: Lease::default(), asking: None, used_at: now });
    slot.used_at = now;
    slot
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::config;
    use crate::domain::auth::ClientAuth;
    use crate::domain::integrator::{Endpoint, EndpointUrl};
    use crate::domain::names::{EndpointId, IntegratorKey};

    fn credentials(client_id: usize) -> Arc<ClientCredentials> {
        Arc::new(ClientCredentials {
            token_url: EndpointUrl::parse("https://id.acme.example/token", false).unwrap(),
            client_id: client_id.to_string(),
            client_secret: SecretString::from("x"),
            scope: None,
            audience: None,
            client_auth: ClientAuth::Basic,
        })
    }

    #[test]
    fn tokens_of_settings_that_no_endpoint_has_any_more_are_forgotten() {
        let egress = Egress::new(&config::Egress::default()).unwrap();
        let tokens = Tokens::new(egress, Telemetry::default());
        (0..3).for_each(|index| _ = slot(&mut tokens.lock(), &credentials(index), Instant::now()));
        let key = IntegratorKey::try_new("acme").unwrap();
        let url = EndpointUrl::parse("https://acme.example/", false).unwrap();
        let endpoint = |auth| Arc::new(Endpoint { auth, ..Endpoint::new(key.clone(), EndpointId::try_new("a").unwrap(), url.clone()) });
        let mut directory = Directory::new();
        directory.insert(key.clone(), vec![endpoint(Auth::OAuth2(credentials(1))), endpoint(Auth::None)]);
        tokens.keep(&directory);
        assert_eq!(tokens.lock().keys().cloned().collect::<Vec<_>>(), [credentials(1)]);
    }

    #[test]
    fn so_many_settings_are_kept_and_the_one_used_longest_ago_goes_first() {
        let (mut slots, start) = (Slots::new(), Instant::now());
        let at = |index: usize| start + Duration::from_millis(index.try_into().unwrap());
        for index in 0..SETTINGS {
            slot(&mut slots, &credentials(index), at(index));
        }
        slot(&mut slots, &credentials(0), at(SETTINGS));
        slots.get_mut(&credentials(1)).unwrap().asking = Some(async { Err(AuthFault::Local) }.boxed().shared());
        slot(&mut slots, &credentials(SETTINGS), at(SETTINGS + 1));
        assert_eq!(slots.len(), SETTINGS);
        let known = |index| slots.contains_key(&credentials(index));
        assert_eq!([0, 1, 2, 3, SETTINGS].map(known), [true, true, false, true, true]);
    }
}
