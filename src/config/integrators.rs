//! `integrators.toml`: who is told, where and how.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use secrecy::ExposeSecret as _;

use super::auth;
use super::delivery;
use super::egress::Egress;
use super::headers;
use super::kinds::{Fault, any_text, choice, text, word};
use super::secret::secret;
use super::section::Section;
use super::tls;
use crate::domain::format::Format;
use crate::domain::integrator::{Directory, Endpoint, EndpointUrl, Topics};
use crate::domain::names::{EndpointId, IntegratorKey, Topic};
use crate::domain::policy::DeliveryPolicy;
use crate::domain::sign::SigningSecret;
use crate::egress::Guard;

/// Most integrators.
const INTEGRATORS: usize = 100_000;

/// Most endpoints of one integrator: an event goes to each of them.
const ENDPOINTS: usize = 32;

/// Most topics that an endpoint names.
const TOPICS: usize = 256;

/// Most secrets that sign at one time; two are enough to rotate.
const SIGNING_SECRETS: usize = 8;

/// Reads the whole file.
pub(super) fn read(root: &mut Section<'_>, delivery: &DeliveryPolicy, egress: &Egress) -> Directory {
    let mut directory = Directory::new();
    root.sections("integrator", INTEGRATORS, |section| {
        let key = section.required("key", |value| IntegratorKey::try_new(text(IntegratorKey::LIMIT)(value)?).map_err(Fault::content));
        if let Some(key) = &key {
            if directory.endpoints(key).is_some() {
                section.problem("key", format!("{:?} stands there twice", key.as_str()));
            } else {
                section.call(key.as_str());
                // Known from here on, whatever is wrong with its endpoints.
                directory.insert(key.clone(), Vec::new());
            }
        }
        let endpoints = read_endpoints(section, key.as_ref(), delivery, egress);
        directory.insert(key?, endpoints);
        Some(())
    });
    directory
}

fn read_endpoints(
    integrator: &mut Section<'_>,
    key: Option<&IntegratorKey>,
    delivery: &DeliveryPolicy,
    egress: &Egress,
) -> Vec<Arc<Endpoint>> {
    const REMEDY: &str = "give at least one endpoint or leave the integrator out";
    // Its events would be acknowledged and nobody told; without the integrator, they wait and are then rejected.
    if integrator.is_empty_list("endpoint") {
        integrator.problem("endpoint", format!("is empty; {REMEDY}"));
    }
    let mut ids = HashSet::new();
    let endpoints = integrator.sections("endpoint", ENDPOINTS, |section| {
        let id = section.required("id", |value| EndpointId::try_new(word(EndpointId::LIMIT)(value)?).map_err(Fault::content));
        if let Some(id) = &id {
            if ids.insert(id.clone()) {
                section.call(id.as_str());
            } else {
                section.problem("id", format!("{:?} stands there twice", id.as_str()));
            }
        }
        read_endpoint(section, (key, id), delivery, egress).map(Arc::new)
    });
    #[cfg(test)]
    integrator.reading().mark(&integrator.path_of("endpoint"), super::schema::Mark::Required);
    if endpoints.is_none() {
        integrator.problem("endpoint", format!("is missing; {REMEDY}"));
    }
    endpoints.unwrap_or_default()
}

fn read_endpoint(
    section: &mut Section<'_>,
    (integrator, id): (Option<&IntegratorKey>, Option<EndpointId>),
    defaults: &DeliveryPolicy,
    egress: &Egress,
) -> Option<Endpoint> {
    let reading = section.reading();
    // The text of a URL is not shown: its path and query are often secrets.
    let url = section.required("url", |value| admitted(any_text(value)?, egress));
    let format = section.or("format", Format::default(), choice(&[("classic", Format::Classic), ("topic", Format::Topic)]));
    let topics = read_topics(section, format);
    let signing = section
        .list("signing_secrets", SIGNING_SECRETS, |value| {
            SigningSecret::parse(secret(reading)(value)?.expose_secret()).map_err(Fault::content)
        })
        .unwrap_or_default();
    let headers = section.section("headers", headers::read);
    let tls = section.section("tls", tls::read).map(Arc::new);
    if tls.is_some() && url.as_ref().is_some_and(|url| url.as_url().scheme() == "http") {
        section.problem("tls", "is for an https:// URL alone");
    }
    let auth = auth::read(section, &headers, egress);
    let policy = delivery::read(section, defaults);
    let (integrator, id) = (integrator?.clone(), id?);
    Some(Endpoint { integrator, id, url: url?, format, topics, signing, headers, tls, auth, policy })
}

/// A URL that may be called by the rules as they are now: the same judgement as before each attempt.
pub(super) fn admitted(text: &str, egress: &Egress) -> Result<EndpointUrl, Fault> {
    let url = EndpointUrl::parse(text, egress.allow_http).map_err(Fault::content)?;
    Guard::new(egress).judge_url(url.as_url()).map_err(Fault::content)?;
    Ok(url)
}

fn read_topics(section: &mut Section<'_>, format: Format) -> Topics {
    let topic = |value: &toml::Value| Topic::try_new(text(Topic::LIMIT)(value)?).map_err(Fault::content);
    let Some(named) = section.list("topics", TOPICS, topic) else { return Topics::All };
    let topics: BTreeSet<Topic> = named.iter().cloned().collect();
    if topics.len() < named.len() {
        section.problem("topics", "names a topic twice");
    }
    if topics.is_empty() {
        section.problem("topics", "names none; leave the key out for all that the format can carry");
    } else if format == Format::Classic && !topics.contains(Topic::COMPLIANCE_RECORD) {
        let problem =
            r#"the classic format carries complianceRecord alone, so this endpoint would be told nothing; write format = "topic""#;
        section.problem("topics", problem);
    }
    Topics::Named(topics)
}
