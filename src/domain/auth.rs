//! How a request says who sends it, beside signatures and static headers: basic credentials, or an access token that a
//! token server gives for client credentials (OAuth 2.0, RFC 6749, section 4.4).
//!
//! What to ask the token server, what its answer means, and when to ask again: all of it without a clock or a connection.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::integrator::EndpointUrl;
use super::reply::Forbidden;

/// The longest access token: common servers refuse longer headers.
const TOKEN_LIMIT: usize = 8 * 1024;
/// How long a token is used whose answer does not say.
const UNSAID_LIFE: Duration = Duration::from_secs(300);
/// What a token's life is taken for at least, so that an answer cannot have the server asked without end, and at most.
const LIFE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(24 * 3600));
/// After a refusal the token server is left alone for so long.
pub const PAUSE: Duration = Duration::from_secs(1);
/// A token that is younger is kept though an endpoint answers 401 to it: another one would fare no better, and a token server is
/// asked once in this time however many deliveries are answered so.
pub const FRESH: Duration = Duration::from_secs(10);

/// How an endpoint's requests say who sends them.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Auth {
    /// Not at all, or by signatures and static headers alone.
    #[default]
    None,
    /// The value of `authorization`, marked sensitive.
    Basic(HeaderValue),
    /// An access token of these client credentials.
    OAuth2(Arc<ClientCredentials>),
}

impl Auth {
    /// Basic credentials (RFC 7617, in UTF-8).
    #[must_use]
    pub fn basic(username: &str, password: &SecretString) -> Self {
        Self::Basic(basic(username, password.expose_secret()))
    }
}

/// The client credentials of one integrator at its token server. Equal ones share a token. Prints the server's host alone.
#[derive(Clone)]
pub struct ClientCredentials {
    /// Where tokens are asked for.
    pub token_url: EndpointUrl,
    /// Who asks.
    pub client_id: String,
    /// What shows it.
    pub client_secret: SecretString,
    /// What the token is to be good for.
    pub scope: Option<String>,
    /// Whom the token is to be shown to, where a server wants to know.
    pub audience: Option<String>,
    /// How id and secret are sent.
    pub client_auth: ClientAuth,
}

/// How a token server is shown the client's id and secret (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// In the header `authorization`.
    #[default]
    Basic,
    /// In the body.
    Post,
}

impl PartialEq for ClientCredentials {
    /// Compares the configuration's own secrets with one another, never with what somebody sends.
    fn eq(&self, other: &Self) -> bool {
        self.token_url == other.token_url
            && self.client_id == other.client_id
            && self.client_secret.expose_secret() == other.client_secret.expose_secret()
            && (&self.scope, &self.audience, self.client_auth) == (&other.scope, &other.audience, other.client_auth)
    }
}

impl Eq for ClientCredentials {}

impl Hash for ClientCredentials {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.token_url.as_url().hash(state);
        self.client_id.hash(state);
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCredentials({})", self.token_url)
    }
}

/// A POST that asks for an access token. Prints nothing of itself.
pub struct TokenRequest {
    /// All headers but those that belong to the connection.
    pub headers: HeaderMap,
    /// The form.
    pub body: Bytes,
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest").finish_non_exhaustive()
    }
}

impl ClientCredentials {
    /// What the token server is asked.
    #[must_use]
    pub fn request(&self) -> TokenRequest {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("callbackd/", env!("CARGO_PKG_VERSION"))));
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        let optional = [("scope", &self.scope), ("audience", &self.audience)];
        form.extend_pairs(optional.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))));
        let secret = self.client_secret.expose_secret();
        match self.client_auth {
            ClientAuth::Basic => _ = headers.insert(AUTHORIZATION, basic(&encoded(&self.client_id), &encoded(secret))),
            ClientAuth::Post => _ = form.append_pair("client_id", &self.client_id).append_pair("client_secret", secret),
        }
        TokenRequest { headers, body: form.finish().into() }
    }
}

fn encoded(text: &str) -> Zeroizing<String> {
    Zeroizing::new(form_urlencoded::byte_serialize(text.as_bytes()).collect())
}

fn basic(username: &str, password: &str) -> HeaderValue {
    let both = Zeroizing::new([username.as_bytes(), b":", password.as_bytes()].concat());
    let value = Zeroizing::new(format!("Basic {}", *Zeroizing::new(STANDARD.encode(&*both))));
    sensitive(&value).unwrap_or_else(|| unreachable!("base64 is a header value"))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// An access token, as the value of `authorization`. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer(HeaderValue);

impl Bearer {
    /// The value, marked sensitive.
    #[must_use]
    pub const fn value(&self) -> &HeaderValue {
        &self.0
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

/// Why there is no access token. Its text holds nothing that the token server wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthFault {
    /// The token server did not answer, by the name of that failure.
    #[error("no answer from the token server: {0}")]
    NoAnswer(&'static str),
    /// Our own rules forbid the token server's address.
    #[error("the token server is blocked: {0}")]
    Blocked(Forbidden),
    /// This machine itself cannot make the connection.
    #[error("this machine cannot make the connection to the token server")]
    Local,
    /// It answered with a status that is no 2xx.
    #[error("the token server answered {0}")]
    Refused(u16),
    /// There is no token to use in its answer.
    #[error("the token server's answer holds no bearer token")]
    NoToken,
    /// The endpoint answered 401 to a token that had been good for a while; another one is asked for.
    #[error("answered 401 to an access token that it took before; another one is asked for")]
    Revoked,
    /// Its answer is over 64 KiB long, or the token over 8 KiB.
    #[error("the token server's answer or token is too long")]
    TooLong,
}

/// An access token that has been given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The token.
    pub bearer: Bearer,
    /// How long it is good from now on.
    pub life: Duration,
}

/// What of an answer matters (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    access_token: Cow<'a, str>,
    token_type: Option<String>,
    expires_in: Option<serde_json::Value>,
}

impl Granted {
    /// Reads the body of a token server's 2xx.
    ///
    /// # Errors
    /// [`AuthFault::NoToken`] for anything but a JSON object with a bearer token of visible ASCII; [`AuthFault::TooLong`].
    pub fn parse(body: &[u8]) -> Result<Self, AuthFault> {
        let Answer { access_token, token_type, expires_in } = serde_json::from_slice(body).map_err(|_| AuthFault::NoToken)?;
        let token = match access_token {
            Cow::Borrowed(token) => Zeroizing::new(token.to_owned()),
            Cow::Owned(token) => Zeroizing::new(token),
        };
        if token.len() > TOKEN_LIMIT {
            return Err(AuthFault::TooLong);
        }
        // Some servers leave the type out; any other type would have to be shown in a way that we do not know.
        let is_bearer = token_type.is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        if !is_bearer || token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AuthFault::NoToken);
        }
        let value = sensitive(&Zeroizing::new(format!("Bearer {}", *token))).ok_or(AuthFault::NoToken)?;
        Ok(Self { bearer: Bearer(value), life: life(expires_in.as_ref()) })
    }
}

/// The seconds of `expires_in`, which some servers write as a text.
fn life(expires_in: Option<&serde_json::Value>) -> Duration {
    let seconds = expires_in.and_then(|value| value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()));
    let said = seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
    said.unwrap_or(UNSAID_LIFE).clamp(LIFE.0, LIFE.1)
}

/// What is known of the access token of one setting, and when to ask for another.
#[derive(Debug, Default)]
pub struct Lease {
    held: Option<Held>,
    refused: Option<(Instant, AuthFault)>,
}

#[derive(Debug)]
struct Held {
    bearer: Bearer,
    since: Instant,
    /// From then on another one is asked for, while this one is still used.
    renew_at: Instant,
    /// From then on it is not used any more.
    ends_at: Instant,
}

/// What a request does that needs a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It takes this one.
    Use(Bearer),
    /// It takes this one, and another one is asked for meanwhile.
    UseAndRenew(Bearer),
    /// It waits until one has been asked for.
    Ask,
    /// It fails: the token server has just given this reason.
    Fail(AuthFault),
}

impl Lease {
    /// What to do now.
    #[must_use]
    pub fn step(&self, now: Instant) -> Step {
        let refused = self.refused.filter(|(at, _)| now < *at + PAUSE).map(|(_, fault)| fault);
        match (self.held.as_ref().filter(|held| now < held.ends_at), refused) {
            (Some(held), None) if now >= held.renew_at => Step::UseAndRenew(held.bearer.clone()),
            (Some(held), _) => Step::Use(held.bearer.clone()),
            (None, Some(fault)) => Step::Fail(fault),
            (None, None) => Step::Ask,
        }
    }

    /// A token has been given. It is renewed when four fifths of its life are over, and not used in the last tenth, as it has a
    /// way to go before it is looked at.
    pub fn grant(&mut self, granted: Granted, now: Instant) {
        let Granted { bearer, life } = granted;
        let margin = (life / 10).min(Duration::from_secs(30));
        self.held = Some(Held { bearer, since: now, renew_at: now + life * 4 / 5, ends_at: now + life.saturating_sub(margin) });
        self.refused = None;
    }

    /// No token has been given. One that is still good goes on being used.
    pub const fn refuse(&mut self, fault: AuthFault, now: Instant) {
        self.refused = Some((now, fault));
    }

    /// An endpoint has answered 401 to a token: it is dropped, unless it is fresh or has been replaced. Returns whether another
    /// one may fare better, as this one has been good for a while.
    pub fn reject(&mut self, bearer: &Bearer, now: Instant) -> bool {
        self.held.take_if(|held| held.bearer == *bearer && now >= held.since + FRESH);
        self.held.as_ref().is_none_or(|held| held.bearer != *bearer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> ClientCredentials {
        ClientCredentials {
            token_url: EndpointUrl::parse("https://id.acme.example/token?tenant=SECRET", false).unwrap(),
            client_id: "call backs:1".to_owned(),
            client_secret: "p&ss:wörd".into(),
            scope: Some("events write".to_owned()),
            audience: Some("https://acme.example/".to_owned()),
            client_auth: ClientAuth::Basic,
        }
    }

    fn granted(token: &str, seconds: u64) -> Granted {
        Granted::parse(format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{seconds}}}"#).as_bytes()).unwrap()
    }

    fn after(millis: u64, start: Instant) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn basic_credentials_are_one_sensitive_header() {
        // The example of RFC 7617, section 2.1.
        let Auth::Basic(value) = Auth::basic("test", &"123\u{a3}".into()) else { panic!("not basic") };
        assert_eq!((value.to_str().unwrap(), value.is_sensitive()), ("Basic dGVzdDoxMjPCow==", true));
        assert!(!format!("{:?}", Auth::Basic(value)).contains("dGVzd"));
    }

    #[test]
    fn a_token_is_asked_for_with_the_credentials_in_a_header_or_in_the_form() {
        let TokenRequest { headers, body } = credentials().request();
        assert_eq!(body, "grant_type=client_credentials&scope=events+write&audience=https%3A%2F%2Facme.example%2F");
        let expected = STANDARD.encode("call+backs%3A1:p%26ss%3Aw%C3%B6rd");
        assert_eq!(headers[AUTHORIZATION], format!("Basic {expected}"));
        assert!(headers[AUTHORIZATION].is_sensitive());
        assert_eq!(
            (&headers[CONTENT_TYPE], &headers[ACCEPT]),
            (&"application/x-www-form-urlencoded".parse().unwrap(), &"application/json".parse().unwrap())
        );
        let post = ClientCredentials { client_auth: ClientAuth::Post, scope: None, audience: None, ..credentials() };
        let TokenRequest { headers, body } = post.request();
        assert_eq!(body, "grant_type=client_credentials&client_id=call+backs%3A1&client_secret=p%26ss%3Aw%C3%B6rd");
        assert!(!headers.contains_key(AUTHORIZATION));
    }

    #[test]
    fn nothing_here_prints_a_secret() {
        let shown = format!("{:?} {:?} {:?}", Auth::OAuth2(Arc::new(credentials())), credentials().request(), granted("TOKEN", 9));
        for secret in ["SECRET", "p&ss", "TOKEN", "tenant"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn credentials_differ_by_each_of_their_parts() {
        let one = credentials();
        assert_eq!(one, credentials());
        let others = [
            ClientCredentials { client_id: "other".to_owned(), ..credentials() },
            ClientCredentials { client_secret: "other".into(), ..credentials() },
            ClientCredentials { scope: None, ..credentials() },
            ClientCredentials { audience: None, ..credentials() },
            ClientCredentials { client_auth: ClientAuth::Post, ..credentials() },
            ClientCredentials { token_url: EndpointUrl::parse("https://id.acme.example/token", false).unwrap(), ..credentials() },
        ];
        assert!(others.iter().all(|other| *other != one));
    }

    #[test]
    fn an_answer_without_a_bearer_token_to_use_is_refused() {
        for answer in [
            "",
            "<html>",
            "[]",
            "\"token\"",
            "{}",
            r#"{"access_token":null}"#,
            r#"{"access_token":7}"#,
            r#"{"access_token":""}"#,
            r#"{"access_token":"a b"}"#,
            r#"{"access_token":"a\r\nx: y"}"#,
            r#"{"access_token":"ü"}"#,
            r#"{"access_token":"a","access_token":"b"}"#,
            r#"{"access_token":"a","token_type":"mac"}"#,
            r#"{"access_token":"a","token_type":"Bearer""#,
            r#"{"error":"invalid_client"}"#,
        ] {
            assert_eq!(Granted::parse(answer.as_bytes()), Err(AuthFault::NoToken), "{answer}");
        }
        assert_eq!(Granted::parse(b"{\"access_token\":\"\xff\"}"), Err(AuthFault::NoToken));
        let long = |length| Granted::parse(format!(r#"{{"access_token":"{}"}}"#, "t".repeat(length)).as_bytes());
        assert!(long(8192).is_ok());
        assert_eq!(long(8193), Err(AuthFault::TooLong));
    }

    #[test]
    fn a_token_lives_as_long_as_the_answer_says_within_reason() {
        let life = |expires_in: &str| Granted::parse(format!(r#"{{"access_token":"t"{expires_in}}}"#).as_bytes()).unwrap().life.as_secs();
        for (expires_in, expected) in [
            ("", 300),
            (r#","expires_in":3600"#, 3600),
            (r#","expires_in":"3600""#, 3600),
            (r#","expires_in":"soon""#, 300),
            (r#","expires_in":null"#, 300),
            (r#","expires_in":0"#, 2),
            (r#","expires_in":-5"#, 2),
            (r#","expires_in":1e300"#, 86_400),
            (r#","token_type":"BEARER","scope":"x","expires_in":60"#, 60),
        ] {
            assert_eq!(life(expires_in), expected, "{expires_in}");
        }
        assert_eq!(granted("t", 9).bearer.value(), "Bearer t");
        assert_eq!(Granted::parse(br#"{"access_token":"a\u002db"}"#).unwrap().bearer.value(), "Bearer a-b");
    }

    #[test]
    fn a_token_is_renewed_before_its_end_and_used_meanwhile() {
        let start = Instant::now();
        let mut lease = Lease::default();
        assert_eq!(lease.step(start), Step::Ask);
        lease.grant(granted("one", 100), start);
        let one = granted("one", 1).bearer;
        assert_eq!(lease.step(after(79_999, start)), Step::Use(one.clone()));
        assert_eq!(lease.step(after(80_000, start)), Step::UseAndRenew(one.clone()));
        lease.refuse(AuthFault::Refused(503), after(80_000, start));
        assert_eq!(lease.step(after(80_999, start)), Step::Use(one.clone()), "the token server is left alone for a moment");
        assert_eq!(lease.step(after(81_000, start)), Step::UseAndRenew(one.clone()));
        assert_eq!(lease.step(after(89_999, start)), Step::UseAndRenew(one));
        assert_eq!(lease.step(after(90_000, start)), Step::Ask);
        lease.grant(granted("two", 100), after(90_000, start));
        assert_eq!(lease.step(after(90_000, start)), Step::Use(granted("two", 1).bearer));
    }

    #[test]
    fn a_refusal_is_the_answer_to_all_who_ask_within_a_moment() {
        let start = Instant::now();
        let mut lease = Lease::default();
        lease.refuse(AuthFault::NoToken, start);
        assert_eq!(lease.step(after(999, start)), Step::Fail(AuthFault::NoToken));
        assert_eq!(lease.step(after(1000, start)), Step::Ask);
    }

    #[test]
    fn a_401_drops_a_token_that_is_not_fresh_and_no_other() {
        let start = Instant::now();
        let mut lease = Lease::default();
        let (one, two) = (granted("one", 3600), granted("two", 3600));
        lease.grant(one.clone(), start);
        assert!(!lease.reject(&one.bearer, after(9999, start)));
        assert_eq!(lease.step(after(9999, start)), Step::Use(one.bearer.clone()), "another one would fare no better");
        assert!(lease.reject(&two.bearer, after(10_000, start)));
        assert_eq!(lease.step(after(10_000, start)), Step::Use(one.bearer.clone()), "the 401 was about another token");
        assert!(lease.reject(&one.bearer, after(10_000, start)));
        assert_eq!(lease.step(after(10_000, start)), Step::Ask);
        lease.grant(one.clone(), after(10_000, start));
        assert!(!lease.reject(&one.bearer, after(19_999, start)));
        assert_eq!(lease.step(after(19_999, start)), Step::Use(one.bearer), "the same token given again is fresh again");
    }
}
