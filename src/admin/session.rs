//! Who is signed in to the console: a browser cannot send a token with each page, so it gets a cookie for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

/// Name of the cookie.
const COOKIE: &str = "callbackd_session";
/// A working day and a bit: then the token is asked for again.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// Most at one time; who signed in first has to do so again.
const MOST: usize = 256;

/// All sessions of this process. They end with it.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

struct Session {
    /// The place of the token that it stands for.
    token: usize,
    began: Instant,
}

impl Sessions {
    /// A new session for a token: the value of its cookie. `None` when the system has no randomness.
    pub(super) fn open(&self, token: usize) -> Option<String> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).ok()?;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut all = self.lock();
        all.retain(|_, session| session.began.elapsed() < LIFE);
        if all.len() >= MOST
            && let Some(first) = all.iter().min_by_key(|(_, session)| session.began).map(|(digest, _)| *digest)
        {
            all.remove(&first);
        }
        all.insert(digest(&secret), Session { token, began: Instant::now() });
        Some(secret)
    }

    /// The token that a request's cookie stands for.
    pub(super) fn token(&self, headers: &HeaderMap) -> Option<usize> {
        let digest = digest(cookie(headers)?);
        // What is looked up is a hash: how long that takes tells nothing of any secret.
        self.lock().get(&digest).filter(|session| session.began.elapsed() < LIFE).map(|session| session.token)
    }

    /// Ends the session of a request.
    pub(super) fn close(&self, headers: &HeaderMap) {
        if let Some(secret) = cookie(headers) {
            self.lock().remove(&digest(secret));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The header that gives a browser its cookie, or takes it away with an empty one.
pub(super) fn set_cookie(secret: &str, path: &str, is_secure: bool) -> String {
    let life = if secret.is_empty() { 0 } else { LIFE.as_secs() };
    let secure = if is_secure { "; Secure" } else { "" };
    format!("{COOKIE}={secret}; Path={path}/; Max-Age={life}; HttpOnly; SameSite=Strict{secure}")
}

/// Whether a page of this very server makes a request. A browser says so in one of two ways; on plain HTTP, in the second one alone.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin";
    }
    let authority = text("origin").and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.is_some() && authority == text("host")
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(name, _)| *name == COOKIE).map(|(_, secret)| secret)
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_cookie_stands_for_its_token_until_it_is_closed() {
        let sessions = Sessions::default();
        let (one, two) = (sessions.open(0).unwrap(), sessions.open(1).unwrap());
        let with = |secret: &str| headers(&[("cookie", &format!("other=x; callbackd_session={secret}"))]);
        assert_eq!((sessions.token(&with(&one)), sessions.token(&with(&two))), (Some(0), Some(1)));
        assert_eq!(sessions.token(&with(&one[1..])), None);
        sessions.close(&with(&one));
        assert_eq!((sessions.token(&with(&one)), sessions.token(&with(&two))), (None, Some(1)));
        for _ in 0..MOST {
            sessions.open(2).unwrap();
        }
        assert_eq!(sessions.token(&with(&two)), None, "there are no more than so many");
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
    }
}
