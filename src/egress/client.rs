//! The one HTTP client, for all endpoints: its pool keeps connections per host, its settings keep surprises out.

use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;
use reqwest::tls::Version;

use super::guard::Guard;
use super::resolve::GuardedResolver;
use crate::config;

/// Limit on making a connection: name, TCP and TLS together. A host that is up answers in far less.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// An unused connection is closed after this: before the 60 s that load balancers commonly allow.
const IDLE_LIMIT: Duration = Duration::from_secs(55);
/// Unused connections kept per host; more are closed after use.
const IDLE_PER_HOST: usize = 128;
/// Headers of an answer beyond which it is refused; hyper's own default, pinned.
const HEADERS_LIMIT: usize = 100;

/// The client cannot be made, which is found at start and never later.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// TLS cannot be set up, most likely for want of the system's root certificates.
    #[error("cannot set up the HTTP client: {0}")]
    Client(String),
}

pub(super) fn build(config: &config::Egress, guard: Guard) -> Result<Client, EgressError> {
    // An Err says that a provider is installed already, and there is only this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::builder()
        .tls_backend_rustls()
        .tls_version_min(Version::TLS_1_2)
        .https_only(!config.allow_http)
        .http1_only()
        .http1_max_headers(HEADERS_LIMIT)
        // A proxy from the environment would dial for us, past the guard.
        .no_proxy()
        // A redirect would repeat the body at an address that nobody has vetted.
        .redirect(Policy::none())
        // Each request is an attempt that the schedule counts; nothing may add one in secret.
        .retry(reqwest::retry::never())
        .referer(false)
        .dns_resolver(GuardedResolver::new(guard))
        .connect_timeout(CONNECT_LIMIT)
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .tcp_nodelay(true)
        .build()
        // No request, so no URL in this error.
        .map_err(|error| EgressError::Client(causes(&error)))
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
