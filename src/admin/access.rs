//! Who may use `/api`: whoever has a token, or, where none is configured, whoever is on this machine.
//!
//! Without tokens the port listens on loopback alone (the configuration sees to that). Other users of the machine reach it
//! there, and so does a browser that somebody lures to a page of theirs: hence a look at `Host`, which gives away a name that was
//! made to lead to loopback (DNS rebinding), and at `Origin`, which gives away a request that another page makes.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::session::{self, Session, SignedOut};
use crate::clock;
use crate::config::{Admin, ApiToken};
use crate::telemetry::ApiRefusal;

/// Requests a second with one token; people and scripts need far fewer.
const REQUESTS: NonZeroU32 = NonZeroU32::new(50).expect("not zero");
/// Wrong tokens a second, from everybody together, that are told so; more are told to come back later. A right token is
/// never turned away for the wrong ones of others.
const WRONG_TOKENS: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// Headers by which a proxy says for whom it asks.
const FORWARDED: [&str; 10] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
    "x-envoy-external-address",
    "cf-connecting-ip",
];
/// Who uses `/api` where there are no tokens.
const LOCAL: &str = "local";

/// Who may use `/api` and the console.
pub(super) struct Access {
    tokens: Vec<Token>,
    signed_out: SignedOut,
    local: Token,
    wrong: DefaultDirectRateLimiter,
}

struct Token {
    actor: Actor,
    digest: [u8; 32],
    /// What cookies for it are signed with.
    secret: SecretString,
    is_read_only: bool,
    requests: DefaultDirectRateLimiter,
}

/// Who asks, as the audit line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Actor(Arc<str>);

impl Actor {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The status of the answer to whoever is turned away.
pub(super) const fn status(refusal: ApiRefusal) -> StatusCode {
    match refusal {
        ApiRefusal::NoToken | ApiRefusal::WrongToken => StatusCode::UNAUTHORIZED,
        ApiRefusal::TooManyWrongTokens | ApiRefusal::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        ApiRefusal::ForeignHost | ApiRefusal::ForeignOrigin | ApiRefusal::ReadOnly => StatusCode::FORBIDDEN,
    }
}

/// What the answer says.
pub(super) const fn message(refusal: ApiRefusal) -> &'static str {
    match refusal {
        ApiRefusal::NoToken => "send a token: `authorization: Bearer …`, one of [[admin.token]]",
        ApiRefusal::WrongToken => "the token is none of [[admin.token]]",
        ApiRefusal::TooManyWrongTokens => "too many wrong tokens; come back in a second",
        ApiRefusal::TooManyRequests => "too many requests with this token; come back in a second",
        ApiRefusal::ForeignHost => {
            "without [[admin.token]], only `localhost` or a loopback address may stand in `host`, and no proxy may ask"
        }
        ApiRefusal::ForeignOrigin => "no page from elsewhere may make requests",
        ApiRefusal::ReadOnly => "the token may look and change nothing (`read_only`)",
    }
}

impl Access {
    /// The tokens that the configuration names.
    pub(super) fn new(config: &Admin) -> Self {
        let tokens = config.tokens.iter().map(Token::new).collect();
        Self {
            tokens,
            signed_out: SignedOut::default(),
            local: Token::of_this_machine(),
            wrong: RateLimiter::direct(Quota::per_second(WRONG_TOKENS)),
        }
    }

    /// Says who asks.
    ///
    /// # Errors
    /// [`ApiRefusal`]: nothing is to be done for whoever asks.
    pub(super) fn judge(&self, method: &Method, headers: &HeaderMap) -> Result<Actor, ApiRefusal> {
        let token = if self.tokens.is_empty() {
            self.local(headers)?
        } else if let Some(token) = self.signed_in(headers) {
            // The browser sends the cookie by itself, whoever makes it do so.
            if session::is_from_elsewhere(headers) || (!method.is_safe() && !session::is_same_origin(headers)) {
                return Err(ApiRefusal::ForeignOrigin);
            }
            token
        } else {
            self.bearer(headers.get_all(header::AUTHORIZATION).iter())?
        };
        token.requests.check().map_err(|_| ApiRefusal::TooManyRequests)?;
        if token.is_read_only && !method.is_safe() {
            return Err(ApiRefusal::ReadOnly);
        }
        Ok(token.actor.clone())
    }

    fn local(&self, headers: &HeaderMap) -> Result<&Token, ApiRefusal> {
        let host =
            headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| is_here(host)).ok_or(ApiRefusal::ForeignHost)?;
        if session::is_from_elsewhere(headers) {
            return Err(ApiRefusal::ForeignOrigin);
        }
        // A proxy on this machine makes everybody look local.
        if FORWARDED.iter().any(|name| headers.contains_key(*name)) {
            return Err(ApiRefusal::ForeignHost);
        }
        let is_own = |origin: &header::HeaderValue| origin.to_str().is_ok_and(|origin| origin.strip_prefix("http://") == Some(host));
        let is_own_page = headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin");
        if is_own_page || headers.get_all(header::ORIGIN).iter().all(is_own) { Ok(&self.local) } else { Err(ApiRefusal::ForeignOrigin) }
    }

    /// Whether nobody has to sign in.
    pub(super) fn is_open(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The value of a cookie for a token, and who that is.
    ///
    /// # Errors
    /// [`ApiRefusal`]: the token is none, or is used too often.
    pub(super) fn sign_in(&self, token: &str) -> Result<(String, Actor), ApiRefusal> {
        let found = &self.tokens[self.find(token.as_bytes())?];
        found.requests.check().map_err(|_| ApiRefusal::TooManyRequests)?;
        Ok((session::cookie_for(found.actor.as_str(), token.as_bytes(), clock::now()), found.actor.clone()))
    }

    /// Ends the session of a request.
    pub(super) fn sign_out(&self, headers: &HeaderMap) {
        if let Some(session) = Session::of(headers) {
            self.signed_out.add(&session);
        }
    }

    fn signed_in(&self, headers: &HeaderMap) -> Option<&Token> {
        let session = Session::of(headers).filter(|session| !self.signed_out.has(session))?;
        let token = self.tokens.iter().find(|token| token.actor.as_str() == session.name())?;
        session.is_of(token.secret.expose_secret().as_bytes(), clock::now()).then_some(token)
    }

    fn bearer<'h>(&self, mut values: impl Iterator<Item = &'h HeaderValue>) -> Result<&Token, ApiRefusal> {
        let (Some(value), None) = (values.next(), values.next()) else { return Err(ApiRefusal::NoToken) };
        let (scheme, given) = value.as_bytes().split_at_checked("Bearer ".len()).ok_or(ApiRefusal::NoToken)?;
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return Err(ApiRefusal::NoToken);
        }
        self.find(given).map(|place| &self.tokens[place])
    }

    /// The place of a token.
    fn find(&self, given: &[u8]) -> Result<usize, ApiRefusal> {
        // Digests are of equal length, and all tokens are compared: how long it takes tells nothing of any of them.
        let digest: [u8; 32] = Sha256::digest(given).into();
        let mut found = None;
        for (place, token) in self.tokens.iter().enumerate() {
            if bool::from(token.digest.ct_eq(&digest)) {
                found = Some(place);
            }
        }
        let refusal = || if self.wrong.check().is_ok() { ApiRefusal::WrongToken } else { ApiRefusal::TooManyWrongTokens };
        found.ok_or_else(refusal)
    }
}

impl Token {
    fn new(token: &ApiToken) -> Self {
        Self {
            actor: Actor(token.name.as_str().into()),
            digest: Sha256::digest(token.secret.expose_secret()).into(),
            secret: token.secret.clone(),
            is_read_only: token.is_read_only,
            requests: RateLimiter::direct(Quota::per_second(REQUESTS)),
        }
    }

    /// What stands for everybody on this machine where there are no tokens.
    fn of_this_machine() -> Self {
        Self::new(&ApiToken { name: LOCAL.to_owned(), secret: "".into(), is_read_only: false })
    }
}

/// Whether a `Host` names this machine by an address or name that no resolver is asked about.
fn is_here(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit())).map_or(host, |(name, _)| name);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(tokens: &[(&str, &str)]) -> Access {
        let tokens = tokens
            .iter()
            .map(|(name, secret)| ApiToken { name: (*name).to_owned(), secret: (*secret).into(), is_read_only: *name == "reader" })
            .collect();
        Access::new(&Admin { listen: ([127, 0, 0, 1], 0).into(), api: true, console: true, path_prefix: String::new(), tokens })
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    const ONE: &str = "one-token-of-at-least-32-characters";
    const TWO: &str = "another-token-of-at-least-32-characters";

    #[test]
    fn a_token_names_who_asks_and_nothing_else_is_one() {
        let access = access(&[("ops", ONE), ("support", TWO)]);
        let judge = |value: &str| access.judge(&Method::GET, &headers(&[("authorization", value), ("host", "callbackd.example")]));
        assert_eq!(judge(&format!("Bearer {ONE}")).map(|actor| actor.as_str().to_owned()), Ok("ops".to_owned()));
        assert_eq!(judge(&format!("bearer {TWO}")).map(|actor| actor.as_str().to_owned()), Ok("support".to_owned()));
        for (value, refusal) in [
            (format!("Bearer {ONE}x"), ApiRefusal::WrongToken),
            (format!("Bearer {}", &ONE[1..]), ApiRefusal::WrongToken),
            (format!("Bearer  {ONE}"), ApiRefusal::WrongToken),
            ("Bearer ".to_owned(), ApiRefusal::WrongToken),
            ("Bearer".to_owned(), ApiRefusal::NoToken),
            (format!("Basic {ONE}"), ApiRefusal::NoToken),
            (ONE.to_owned(), ApiRefusal::NoToken),
            (String::new(), ApiRefusal::NoToken),
        ] {
            assert_eq!(judge(&value), Err(refusal), "{value}");
        }
        assert_eq!(access.judge(&Method::GET, &HeaderMap::new()), Err(ApiRefusal::NoToken));
        let bearer = format!("Bearer {ONE}");
        assert_eq!(
            access.judge(&Method::GET, &headers(&[("authorization", &bearer), ("authorization", &bearer)])),
            Err(ApiRefusal::NoToken),
            "two of them"
        );
    }

    #[test]
    fn many_wrong_tokens_are_put_off_and_the_right_one_never_is_for_their_sake() {
        let access = access(&[("ops", ONE)]);
        let wrong: Vec<ApiRefusal> =
            (0..30).filter_map(|_| access.judge(&Method::GET, &headers(&[("authorization", "Bearer wrong")])).err()).collect();
        assert_eq!((wrong[0], wrong[29]), (ApiRefusal::WrongToken, ApiRefusal::TooManyWrongTokens));
        let right = headers(&[("authorization", &format!("Bearer {ONE}"))]);
        assert!(access.judge(&Method::GET, &right).is_ok());
        let answers: Vec<bool> = (0..100).map(|_| access.judge(&Method::GET, &right).is_ok()).collect();
        assert!(answers[0] && !answers[99], "one token's requests are limited");
    }

    #[test]
    fn a_token_that_may_only_look_changes_nothing() {
        let access = access(&[("reader", ONE)]);
        let headers = headers(&[("authorization", &format!("Bearer {ONE}"))]);
        assert!(access.judge(&Method::GET, &headers).is_ok() && access.judge(&Method::HEAD, &headers).is_ok());
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            assert_eq!(access.judge(&method, &headers), Err(ApiRefusal::ReadOnly), "{method}");
        }
    }

    #[test]
    fn who_is_signed_in_may_what_the_token_may_from_pages_of_this_server_alone() {
        let access = access(&[("ops", ONE), ("reader", TWO)]);
        assert_eq!(access.sign_in("wrong").map(drop), Err(ApiRefusal::WrongToken));
        let (cookie, actor) = access.sign_in(ONE).unwrap();
        assert_eq!(actor.as_str(), "ops");
        let cookie = format!("callbackd_session={cookie}");
        let judge = |method: &Method, more: &[(&'static str, &str)]| {
            access.judge(method, &headers(&[&[("cookie", &*cookie), ("host", "ops.example")], more].concat())).map(drop)
        };
        assert_eq!(judge(&Method::GET, &[]), Ok(()));
        assert_eq!(judge(&Method::GET, &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]), Err(ApiRefusal::ForeignOrigin));
        assert_eq!(judge(&Method::POST, &[]), Err(ApiRefusal::ForeignOrigin));
        assert_eq!(judge(&Method::POST, &[("origin", "https://evil.example")]), Err(ApiRefusal::ForeignOrigin));
        assert_eq!(judge(&Method::POST, &[("origin", "https://ops.example")]), Ok(()));
        access.sign_out(&headers(&[("cookie", &cookie)]));
        assert_eq!(judge(&Method::GET, &[]), Err(ApiRefusal::NoToken));
        let reader = format!("callbackd_session={}", access.sign_in(TWO).unwrap().0);
        let headers = headers(&[("cookie", &reader), ("sec-fetch-site", "same-origin")]);
        assert_eq!(access.judge(&Method::POST, &headers), Err(ApiRefusal::ReadOnly));
    }

    #[test]
    fn without_tokens_this_machine_alone_may_ask_and_no_page_from_elsewhere() {
        let access = access(&[]);
        for host in ["localhost:9464", "LOCALHOST", "127.0.0.1:9464", "127.8.9.1", "[::1]:9464", "[::1]"] {
            assert_eq!(
                access.judge(&Method::GET, &headers(&[("host", host)])).map(|actor| actor.as_str().to_owned()),
                Ok(LOCAL.to_owned()),
                "{host}"
            );
        }
        for host in ["evil.example:9464", "localhost.evil.example", "10.0.0.1:9464", "127.0.0.1.evil.example", "", "[::2]:9464"] {
            assert_eq!(access.judge(&Method::GET, &headers(&[("host", host)])), Err(ApiRefusal::ForeignHost), "{host}");
        }
        assert_eq!(access.judge(&Method::GET, &HeaderMap::new()), Err(ApiRefusal::ForeignHost));
        assert_eq!(
            access.judge(&Method::GET, &headers(&[("host", "127.0.0.1:9464"), ("x-forwarded-for", "192.0.2.7")])),
            Err(ApiRefusal::ForeignHost)
        );
        let from = |origin: &str| access.judge(&Method::GET, &headers(&[("host", "127.0.0.1:9464"), ("origin", origin)])).map(drop);
        assert_eq!(from("http://127.0.0.1:9464"), Ok(()));
        let own_page = [("host", "127.0.0.1:9464"), ("origin", "null"), ("sec-fetch-site", "same-origin")];
        assert!(access.judge(&Method::POST, &headers(&own_page)).is_ok(), "as browsers send forms of pages without referrer");
        let image = [("host", "127.0.0.1:9464"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")];
        assert_eq!(access.judge(&Method::GET, &headers(&image)), Err(ApiRefusal::ForeignOrigin));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:80", "https://127.0.0.1:9464"] {
            assert_eq!(from(origin), Err(ApiRefusal::ForeignOrigin), "{origin}");
        }
    }
}
