//! Who is signed in to the console: a browser cannot send a token with each page, so it gets a cookie for it.
//!
//! The cookie says whose it is and until when, signed with the token itself (HMAC-SHA256): every worker with the same tokens takes it, and
//! none has to remember it. It ends with its time, or with the token. Who signs out is forgotten by the browser, and by this process.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::domain::time::Timestamp;

/// A working day and a bit: then the token is asked for again.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// Signed-out cookies that are remembered.
const MOST: usize = 1024;

/// Names of the cookie: with the second, browsers see to it that it was set, and is sent, over TLS alone.
const COOKIES: [&str; 2] = ["callbackd_session", "__Secure-callbackd_session"];

/// What has been signed out here.
#[derive(Default)]
pub(super) struct SignedOut(Mutex<VecDeque<String>>);

/// A cookie that is well-formed, whoever made it.
pub(super) struct Session<'h> {
    text: &'h str,
    name: &'h str,
    until: Timestamp,
    proof: Vec<u8>,
}

impl<'h> Session<'h> {
    /// That of a request, where it has one, and one alone.
    pub(super) fn of(headers: &'h HeaderMap) -> Option<Self> {
        let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
        let mut ours = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(name, _)| COOKIES.contains(name));
        let (Some((_, text)), None) = (ours.next(), ours.next()) else { return None };
        let mut parts = text.rsplitn(3, '.');
        let (proof, until, name) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { text, name, until: Timestamp::from_millis(until.parse().ok()?), proof: from_hex(proof)? })
    }

    /// The name of the token that it is for.
    pub(super) const fn name(&self) -> &str {
        self.name
    }

    /// Whether it was made with this token, and its time is not over.
    pub(super) fn is_of(&self, secret: &[u8], now: Timestamp) -> bool {
        self.until > now && self.until <= now.plus(LIFE) && bool::from(proof(secret, self.name, self.until).ct_eq(&self.proof))
    }
}

impl SignedOut {
    /// Forgets a session.
    pub(super) fn add(&self, session: &Session<'_>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == MOST {
            all.pop_front();
        }
        all.push_back(session.text.to_owned());
    }

    /// Whether a session was signed out here.
    pub(super) fn has(&self, session: &Session<'_>) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|text| text == session.text)
    }
}

/// The value of a new cookie for a token.
pub(super) fn cookie_for(name: &str, secret: &[u8], now: Timestamp) -> String {
    let until = now.plus(LIFE);
    let proof: String = proof(secret, name, until).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name}.{}.{proof}", until.millis())
}

/// The header that gives a browser its cookie, or takes it away with an empty one.
pub(super) fn set_cookie(value: &str, path: &str, is_secure: bool) -> String {
    let life = if value.is_empty() { 0 } else { LIFE.as_secs() };
    let (name, secure) = if is_secure { (COOKIES[1], "; Secure") } else { (COOKIES[0], "") };
    format!("{name}={value}; Path={path}/; Max-Age={life}; HttpOnly; SameSite=Strict{secure}")
}

/// Whether a page of this very server makes a request. A browser says so in one of two ways; on plain HTTP, in the second one alone.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    if let Some(site) = text(headers, "sec-fetch-site") {
        return site == "same-origin";
    }
    let authority = text(headers, "origin").and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.is_some() && authority == text(headers, "host")
}

/// Whether a page from elsewhere makes a request, but for following a link to a page of ours.
pub(super) fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let is_link = text(headers, "sec-fetch-mode") == Some("navigate") && text(headers, "sec-fetch-dest") == Some("document");
    !is_link && matches!(text(headers, "sec-fetch-site"), Some("cross-site" | "same-site"))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn proof(secret: &[u8], name: &str, until: Timestamp) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return Vec::new() };
    mac.update(b"callbackd console\0");
    mac.update(name.as_bytes());
    mac.update(&until.millis().to_be_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const ONE: &[u8] = b"one-token-of-at-least-32-characters";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_cookie_is_good_for_its_token_and_its_time_alone() {
        let cookie = cookie_for("ops.team", ONE, NOW);
        let with = |cookie: &str| headers(&[("cookie", &format!("other=x; callbackd_session={cookie}"))]);
        let is_of = |cookie: &str, secret: &[u8], now: Timestamp| {
            let headers = with(cookie);
            Session::of(&headers).is_some_and(|session| session.name() == "ops.team" && session.is_of(secret, now))
        };
        assert!(is_of(&cookie, ONE, NOW));
        assert!(!is_of(&cookie, b"another-token-of-at-least-32-characters", NOW));
        assert!(!is_of(&cookie, ONE, NOW.plus(LIFE)), "its time is over");
        assert!(!is_of(&cookie, ONE, Timestamp::from_millis(NOW.millis() - 1)), "none is good for longer");
        let later = cookie.replace(&NOW.plus(LIFE).millis().to_string(), &NOW.plus(LIFE * 2).millis().to_string());
        assert!(later != cookie && !is_of(&later, ONE, NOW), "its time is part of the proof");
        assert!(!is_of(&cookie.replace("ops", "eve"), ONE, NOW));
        for bad in ["", "x", "ops.team.1.00", "ops.team..", "ééé"] {
            assert!(!is_of(bad, ONE, NOW), "{bad}");
        }
        let twice = headers(&[("cookie", &format!("callbackd_session={cookie}; __Secure-callbackd_session={cookie}"))]);
        assert!(Session::of(&twice).is_none(), "one that somebody else has put beside it");
        let (out, headers) = (SignedOut::default(), with(&cookie));
        let session = Session::of(&headers).unwrap();
        assert!(!out.has(&session));
        out.add(&session);
        assert!(out.has(&session));
    }

    #[test]
    fn a_page_from_elsewhere_is_not_this_servers() {
        let is_same = |pairs: &[(&'static str, &str)]| is_same_origin(&headers(pairs));
        assert!(is_same(&[("sec-fetch-site", "same-origin")]));
        assert!(is_same(&[("origin", "https://ops.example"), ("host", "ops.example")]));
        for pairs in [
            &[][..],
            &[("host", "ops.example")],
            &[("sec-fetch-site", "same-site"), ("origin", "https://ops.example"), ("host", "ops.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("origin", "https://evil.example"), ("host", "ops.example")],
            &[("origin", "null"), ("host", "null")],
        ] {
            assert!(!is_same(pairs), "{pairs:?}");
        }
        let is_foreign = |pairs: &[(&'static str, &str)]| is_from_elsewhere(&headers(pairs));
        assert!(is_foreign(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")]));
        assert!(is_foreign(&[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")]));
        assert!(is_foreign(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")]));
        for pairs in [
            &[][..],
            &[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")],
            &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
        ] {
            assert!(!is_foreign(pairs), "{pairs:?}");
        }
    }
}
