//! Who is told, where and how: valid by construction, made by `config` and replaced as a whole on reload.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use url::Url;

use super::auth::Auth;
use super::format::Format;
use super::names::{EndpointId, IntegratorKey, Topic};
use super::policy::DeliveryPolicy;
use super::sign::SigningSecret;
use super::tls::EndpointTls;

/// All integrators of one version of the configuration.
#[derive(Debug, Default)]
pub struct Directory {
    integrators: HashMap<IntegratorKey, Vec<Arc<Endpoint>>>,
}

impl Directory {
    /// A directory with nobody in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an integrator with its endpoints; whoever stood there under the same key is replaced.
    pub fn insert(&mut self, key: IntegratorKey, endpoints: Vec<Arc<Endpoint>>) {
        self.integrators.insert(key, endpoints);
    }

    /// The endpoints of an integrator; `None` when nobody has this key.
    #[must_use]
    pub fn endpoints(&self, key: &IntegratorKey) -> Option<&[Arc<Endpoint>]> {
        self.integrators.get(key).map(Vec::as_slice)
    }

    /// One endpoint of an integrator.
    #[must_use]
    pub fn endpoint(&self, key: &IntegratorKey, id: &EndpointId) -> Option<&Arc<Endpoint>> {
        self.endpoints(key)?.iter().find(|endpoint| endpoint.id == *id)
    }

    /// Every endpoint of every integrator, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.integrators.values().flatten()
    }

    /// How many integrators there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.integrators.len()
    }

    /// Whether nobody is configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.integrators.is_empty()
    }
}

/// One place where an integrator is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Whose it is.
    pub integrator: IntegratorKey,
    /// Unique within the integrator.
    pub id: EndpointId,
    /// Where to POST.
    pub url: EndpointUrl,
    /// What the body looks like.
    pub format: Format,
    /// What it wants to be told.
    pub topics: Topics,
    /// Keys for `webhook-signature`; several while they rotate.
    pub signing: Vec<SigningSecret>,
    /// The integrator's own static headers, marked sensitive.
    pub headers: HeaderMap,
    /// Our certificate there and its private authority, where it has any.
    pub tls: Option<Arc<EndpointTls>>,
    /// How else its requests say who sends them.
    pub auth: Auth,
    /// By which rules it is told.
    pub policy: DeliveryPolicy,
}

/// Which topics an endpoint wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Topics {
    /// All that its format can carry, except those that must be named.
    #[default]
    All,
    /// These alone.
    Named(BTreeSet<Topic>),
}

/// Why an endpoint is not told of an event. Not a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// The topic is not among those that the endpoint named.
    TopicNotWanted,
    /// The topic goes only to endpoints that name it, and this one does not.
    TopicNotNamed,
    /// The classic format carries compliance records alone.
    NoClassicForm,
    /// The event's array of records is empty, and the classic format says nothing then.
    NoRecords,
}

impl SkipReason {
    /// Every reason, for metrics that start at zero.
    pub const ALL: [Self; 4] = [Self::TopicNotWanted, Self::TopicNotNamed, Self::NoClassicForm, Self::NoRecords];

    /// The name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TopicNotWanted => "topic_not_wanted",
            Self::TopicNotNamed => "topic_not_named",
            Self::NoClassicForm => "no_classic_form",
            Self::NoRecords => "no_records",
        }
    }
}

impl Endpoint {
    /// An endpoint with nothing but defaults: classic, all that it can carry, unsigned.
    #[must_use]
    pub fn new(integrator: IntegratorKey, id: EndpointId, url: EndpointUrl) -> Self {
        Self {
            integrator,
            id,
            url,
            format: Format::default(),
            topics: Topics::default(),
            signing: Vec::new(),
            headers: HeaderMap::new(),
            tls: None,
            auth: Auth::None,
            policy: DeliveryPolicy::default(),
        }
    }

    /// Whether this endpoint is told of events of a topic.
    ///
    /// # Errors
    /// The reason to skip it.
    pub fn takes(&self, topic: &Topic) -> Result<(), SkipReason> {
        match &self.topics {
            Topics::Named(topics) if !topics.contains(topic) => Err(SkipReason::TopicNotWanted),
            Topics::All if topic.as_str() == Topic::IDENT_RESULT_KYC => Err(SkipReason::TopicNotNamed),
            _ if !self.format.carries(topic) => Err(SkipReason::NoClassicForm),
            _ => Ok(()),
        }
    }
}

/// Where to POST. Prints scheme, host and port only: paths and queries of callback URLs hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl(Url);

/// Why a text is no URL to call. Does not repeat the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Not a URL.
    #[error("is not a URL: {0}")]
    Syntax(url::ParseError),
    /// Longer than 2,048 characters.
    #[error("is longer than 2048 characters")]
    TooLong,
    /// Holds a control character, a space, a backslash or something beyond ASCII, which URL parsers repair in different ways.
    #[error("has a space, control or non-ASCII character or a backslash; write it percent-encoded (a host in punycode)")]
    Characters,
    /// The host or port is written in a way that parsers read in different ways, such as `0x7f.1`.
    #[error("writes its host in a way that not everybody reads alike; write https://host/ or https://host:port/ plainly")]
    Spelling,
    /// Neither `https` nor an allowed `http`.
    #[error("must start with https:// (http:// is refused unless [egress] allow_http = true)")]
    Scheme,
    /// User name or password in the URL.
    #[error("must not hold a user name or password; use `auth`")]
    UserInfo,
    /// A fragment is never sent.
    #[error("must not have a fragment (#…)")]
    Fragment,
}

impl EndpointUrl {
    /// Reads a URL to POST to; `allow_http` admits plain HTTP beside HTTPS.
    ///
    /// # Errors
    /// [`BadUrl`], which never repeats the URL.
    pub fn parse(text: &str, allow_http: bool) -> Result<Self, BadUrl> {
        if text.len() > 2048 {
            return Err(BadUrl::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err(BadUrl::Characters);
        }
        let url = Url::parse(text).map_err(BadUrl::Syntax)?;
        if url.scheme() != "https" && !(allow_http && url.scheme() == "http") {
            return Err(BadUrl::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadUrl::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(BadUrl::Fragment);
        }
        if !is_spelled_plainly(text, &url) {
            return Err(BadUrl::Spelling);
        }
        Ok(Self(url))
    }

    /// The whole URL, for the request alone.
    #[must_use]
    pub const fn as_url(&self) -> &Url {
        &self.0
    }
}

/// Whether scheme, host and port stand in the text as they were understood, but for capitals.
fn is_spelled_plainly(text: &str, url: &Url) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_port = |port: &str| !port.starts_with(['0', '+']) && port.parse().ok() == url.port_or_known_default();
    scheme.eq_ignore_ascii_case(url.scheme())
        && url.host_str().is_some_and(|understood| understood.eq_ignore_ascii_case(host))
        && port.is_none_or(is_port)
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.origin().ascii_serialization())
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_prints_without_what_it_may_hide() {
        let url = EndpointUrl::parse("https://acme.example:8443/hook/SECRET?token=SECRET", false).unwrap();
        assert_eq!(format!("{url} {url:?}"), "https://acme.example:8443 https://acme.example:8443");
    }

    #[test]
    fn refuses_urls_that_are_repaired_or_hold_more_than_an_address() {
        for (text, expected) in [
            ("http://acme.example/", BadUrl::Scheme),
            ("ftp://acme.example/", BadUrl::Scheme),
            ("https://u:p@acme.example/", BadUrl::UserInfo),
            ("https://acme.example/#x", BadUrl::Fragment),
            ("https://acme.example/a b", BadUrl::Characters),
            ("https://acme.exa\nmple/", BadUrl::Characters),
            ("https://①②⑦.0.0.1/", BadUrl::Characters),
            ("https://acme.example\\@127.0.0.1/", BadUrl::Characters),
            ("https:acme.example/", BadUrl::Spelling),
            ("https:/acme.example/", BadUrl::Spelling),
            ("https:///acme.example/", BadUrl::Spelling),
            ("https://127.1/", BadUrl::Spelling),
            ("https://0x7f000001/", BadUrl::Spelling),
            ("https://%61cme.example/", BadUrl::Spelling),
            ("https://[0:0:0:0:0:0:0:1]/", BadUrl::Spelling),
            ("https://acme.example:/", BadUrl::Spelling),
            ("https://acme.example:0443/", BadUrl::Spelling),
        ] {
            assert_eq!(EndpointUrl::parse(text, false), Err(expected), "{text}");
        }
        assert!(matches!(EndpointUrl::parse("acme", false), Err(BadUrl::Syntax(_))));
        assert_eq!(EndpointUrl::parse(&format!("https://a/{}", "x".repeat(2048)), false), Err(BadUrl::TooLong));
        for good in ["http://127.0.0.1:8080/", "HTTPS://Acme.Example:443", "https://a.example?x=:1", "https://[2606:4700::1111]:8443/"] {
            assert!(EndpointUrl::parse(good, true).is_ok(), "{good}");
        }
    }
}
