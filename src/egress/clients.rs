//! The HTTP clients: one for almost all endpoints, one more for each TLS setting of an endpoint's own, made at need.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Client;
use tokio::task::spawn_blocking;
use url::Url;

use super::client::{self, EgressError};
use super::guard::Guard;
use super::resolve::{GuardedResolver, Running};
use crate::config;
use crate::domain::reply::Failure;
use crate::domain::tls::{EndpointTls, Fingerprint};

/// Most clients besides the first. The one that was not used for longest makes room: the next request to its endpoint makes
/// connections anew.
const LIMIT: usize = 256;

/// All clients. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    /// For endpoints without TLS settings of their own, at ports that are not ours.
    plain: Client,
    makers: Arc<Makers>,
    others: Arc<Mutex<Others>>,
    /// One is made at a time: who finds none while it is being made waits for it.
    making: Arc<tokio::sync::Mutex<()>>,
}

/// What clients are made from.
struct Makers {
    config: config::Egress,
    guard: Guard,
    running: Running,
}

/// What a client is for. A certificate is part of each of its connections, so they are never shared with others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tls: Option<Fingerprint>,
    /// A port that an address of our own has: its client's resolver looks twice.
    own_port: Option<u16>,
}

#[derive(Debug, Default)]
struct Others {
    clients: HashMap<Key, (Client, u64)>,
    uses: u64,
}

impl Clients {
    pub(super) fn new(config: &config::Egress, guard: Guard) -> Result<Self, EgressError> {
        let makers = Makers { config: config.clone(), guard, running: Running::default() };
        Ok(Self { plain: makers.make(None, None)?, makers: Arc::new(makers), others: Arc::default(), making: Arc::default() })
    }

    /// The client for a request, made if there is none.
    pub(super) async fn get(&self, url: &Url, tls: Option<&Arc<EndpointTls>>) -> Result<Client, Failure> {
        let own_port = url.port_or_known_default().filter(|port| self.makers.guard.is_own_port(*port));
        if tls.is_none() && own_port.is_none() {
            return Ok(self.plain.clone());
        }
        let key = Key { tls: tls.map(|tls| tls.fingerprint()), own_port };
        if let Some(client) = self.find(&key) {
            return Ok(client);
        }
        let _making = self.making.lock().await;
        if let Some(client) = self.find(&key) {
            return Ok(client);
        }
        let (makers, tls) = (Arc::clone(&self.makers), tls.cloned());
        // It reads the system's certificates from files: not on the thread that everything else runs on.
        let made = spawn_blocking(move || makers.make(own_port, tls.as_deref())).await;
        // Certificates are checked when they are configured: what is wrong now is something that this machine lacks.
        let client = made.map_err(|_| Failure::Local)?.map_err(|_| Failure::Local)?;
        self.lock().add(key, client.clone());
        Ok(client)
    }

    /// Drops the clients of other TLS settings than these.
    pub(super) fn keep_only(&self, named: &HashSet<Fingerprint>) {
        self.lock().clients.retain(|key, _| key.tls.as_ref().is_none_or(|tls| named.contains(tls)));
    }

    fn find(&self, key: &Key) -> Option<Client> {
        self.lock().find(key)
    }

    fn lock(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Makers {
    fn make(&self, own_port: Option<u16>, tls: Option<&EndpointTls>) -> Result<Client, EgressError> {
        let proxy = self.config.proxy.as_ref().map(|proxy| proxy.host().to_owned());
        let resolver = GuardedResolver::new(self.guard.clone(), own_port, proxy, Arc::clone(&self.running));
        client::build(&self.config, resolver, tls)
    }
}

impl std::fmt::Debug for Makers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Makers").finish_non_exhaustive()
    }
}

impl Others {
    fn find(&mut self, key: &Key) -> Option<Client> {
        self.uses += 1;
        let (client, used) = self.clients.get_mut(key)?;
        *used = self.uses;
        Some(client.clone())
    }

    fn add(&mut self, key: Key, client: Client) {
        if self.clients.len() >= LIMIT {
            let oldest = self.clients.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.clients.remove(&oldest);
            }
        }
        self.clients.insert(key, (client, self.uses));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u16) -> Key {
        Key { tls: None, own_port: Some(number) }
    }

    #[test]
    fn the_client_that_was_not_used_for_longest_makes_room() {
        let clients = Clients::new(&config::Egress::default(), Guard::new(&config::Egress::default())).unwrap();
        let mut others = Others::default();
        for number in 0..300 {
            assert!(others.find(&key(number)).is_none());
            others.add(key(number), clients.plain.clone());
            // Used all the time.
            assert!(others.find(&key(0)).is_some());
        }
        assert_eq!(others.clients.len(), LIMIT);
        assert!(others.find(&key(1)).is_none() && others.find(&key(299)).is_some() && others.find(&key(0)).is_some());
    }

    #[tokio::test]
    async fn a_client_of_its_own_is_made_once_and_dropped_when_nobody_names_it() {
        let own = vec![config::OwnAddress { host: "127.0.0.1".to_owned(), port: 9464 }];
        let config = config::Egress { own, ..config::Egress::anywhere() };
        let clients = Clients::new(&config, Guard::new(&config)).unwrap();
        let tls = Arc::new(EndpointTls::new(None, Some(include_str!("../../tests/fixtures/tls/ca.pem").to_owned())).unwrap());
        let (usual, own) = (Url::parse("https://a.example/").unwrap(), Url::parse("https://a.example:9464/").unwrap());
        let count = || clients.lock().clients.len();
        for (url, tls, expected) in
            [(&usual, None, 0), (&own, None, 1), (&own, None, 1), (&usual, Some(&tls), 2), (&own, Some(&tls), 3), (&usual, Some(&tls), 3)]
        {
            clients.get(url, tls).await.unwrap();
            assert_eq!(count(), expected, "{url}");
        }
        clients.keep_only(&HashSet::from([tls.fingerprint()]));
        assert_eq!(count(), 3);
        // All who want one at the same time get the one that is made.
        clients.keep_only(&HashSet::new());
        let all = futures_util::future::join_all((0..8).map(|_| clients.get(&usual, Some(&tls)))).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(count(), 2);
        clients.keep_only(&HashSet::new());
        assert_eq!(count(), 1);
    }
}
