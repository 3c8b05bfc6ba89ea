//! HTTP clients: each has a pool that keeps connections per host, and settings that keep surprises out.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::tls::{Certificate, Identity, Version};
use reqwest::{Client, ClientBuilder, Proxy};
use secrecy::ExposeSecret as _;

use super::resolve::GuardedResolver;
use crate::config;
use crate::domain::tls::EndpointTls;

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

pub(super) fn build(config: &config::Egress, resolver: GuardedResolver, tls: Option<&EndpointTls>) -> Result<Client, EgressError> {
    // An Err says that a provider is installed already, and there is only this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = Client::builder()
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
        // Without the zero the client would still copy each request, for a retry that never comes.
        .retry(reqwest::retry::never().max_retries_per_request(0))
        .referer(false)
        .dns_resolver(resolver)
        .connect_timeout(CONNECT_LIMIT)
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .tcp_nodelay(true);
    // No request, so no URL in these errors.
    let built = through(config, builder).and_then(|builder| proving(tls, builder)).and_then(ClientBuilder::build);
    built.map_err(|error| EgressError::Client(causes(&error)))
}

/// Through the proxy that the configuration names.
fn through(config: &config::Egress, builder: ClientBuilder) -> reqwest::Result<ClientBuilder> {
    match &config.proxy {
        Some(proxy) => Ok(builder.proxy(Proxy::all(proxy.expose())?)),
        None => Ok(builder),
    }
}

/// With an endpoint's own authority in the place of the system's, and with our certificate for it.
fn proving(tls: Option<&EndpointTls>, mut builder: ClientBuilder) -> reqwest::Result<ClientBuilder> {
    let Some(tls) = tls else { return Ok(builder) };
    if let Some(authorities) = tls.authorities() {
        builder = builder.tls_certs_only(Certificate::from_pem_bundle(authorities.as_bytes())?);
    }
    if let Some(identity) = tls.identity() {
        builder = builder.identity(Identity::from_pem(identity.as_pem().expose_secret().as_bytes())?);
    }
    Ok(builder)
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
