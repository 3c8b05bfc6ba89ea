//! How a receiver checks a signature of Standard Webhooks 1.0.0.

use std::time::Duration;

use axum::http::HeaderMap;

use crate::domain::request::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use crate::domain::sign::{BadSecret, PublicKey, SigningSecret, sign};
use crate::domain::time::Timestamp;

/// How far the clocks of sender and receiver may be apart: what the libraries of Standard Webhooks use.
const TOLERANCE: Duration = Duration::from_secs(300);

/// What a receiver checks signatures with.
#[derive(Default)]
pub(super) struct Keys {
    secrets: Vec<SigningSecret>,
    public: Vec<PublicKey>,
}

impl Keys {
    /// Adds a secret (`whsec_`, `whsk_`) or a public key (`whpk_`).
    pub(super) fn add(&mut self, text: &str) -> Result<(), BadSecret> {
        match SigningSecret::parse(text) {
            Err(BadSecret::Public) => self.public.push(PublicKey::parse(text)?),
            secret => self.secrets.push(secret?),
        }
        Ok(())
    }

    const fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.public.is_empty()
    }

    /// Whether one of the signatures in `given` is right. No early end, so that the time taken tells nothing.
    fn fit(&self, given: &str, id: &str, at: Timestamp, body: &[u8]) -> bool {
        let expected = sign(&self.secrets, id, at, body).unwrap_or_default();
        let same =
            given.split(' ').flat_map(|given| expected.split(' ').map(move |expected| !expected.is_empty() && equal(given, expected)));
        let verified = given.split(' ').flat_map(|given| self.public.iter().map(move |key| key.verifies(given, id, at, body)));
        same.chain(verified).fold(false, |any, fits| any | fits)
    }
}

/// What a check of a signature found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    /// It fits one of the keys.
    Valid,
    /// It fits none, or its time is too far off, or its headers are not whole.
    Invalid,
    /// There is no key to check with.
    None,
    /// There is a key, and the request carries no signature.
    Unsigned,
}

impl Signature {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::None => "none",
            Self::Unsigned => "unsigned",
        }
    }

    /// Checks a request against all keys; one fitting pair is enough, as both sides may hold several.
    pub(super) fn check(keys: &Keys, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Self {
        if keys.is_empty() {
            return Self::None;
        }
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let Some(given) = headers.get(WEBHOOK_SIGNATURE).map(|value| value.to_str().unwrap_or_default()) else { return Self::Unsigned };
        let (Some(id), Some(seconds)) = (text(WEBHOOK_ID), text(WEBHOOK_TIMESTAMP).and_then(|text| text.parse::<i64>().ok())) else {
            return Self::Invalid;
        };
        let at = Timestamp::from_millis(seconds.saturating_mul(1000));
        if at.since(now).max(now.since(at)) > TOLERANCE {
            return Self::Invalid;
        }
        if keys.fit(given, id, at, body) { Self::Valid } else { Self::Invalid }
    }
}

/// Compares in a time that depends on the lengths alone.
fn equal(left: &str, right: &str) -> bool {
    let differences = left.bytes().zip(right.bytes()).fold(0, |all, (left, right)| std::hint::black_box(all | (left ^ right)));
    left.len() == right.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_756_881_488_042);

    fn secret(letter: char) -> String {
        format!("whsec_{}", letter.to_string().repeat(32))
    }

    /// An ed25519 key whose seed is this letter, and its public key.
    fn pair(letter: char) -> (String, String) {
        let secret = format!("whsk_{}", STANDARD.encode(letter.to_string().repeat(32)));
        let public = SigningSecret::parse(&secret).unwrap().public_key().unwrap().to_string();
        (secret, public)
    }

    fn keys(texts: &[&String]) -> Keys {
        let mut keys = Keys::default();
        texts.iter().for_each(|text| keys.add(text).unwrap());
        keys
    }

    fn check(held: &[&String], signed_by: &[&String], at: Timestamp, body: &[u8]) -> Signature {
        let mut headers = HeaderMap::new();
        headers.insert(WEBHOOK_ID, "msg_1".parse().unwrap());
        headers.insert(WEBHOOK_TIMESTAMP, at.seconds().to_string().parse().unwrap());
        if let Some(signature) = sign(&keys(signed_by).secrets, "msg_1", at, b"[1]") {
            headers.insert(WEBHOOK_SIGNATURE, signature.parse().unwrap());
        }
        Signature::check(&keys(held), &headers, body, NOW)
    }

    #[test]
    fn one_fitting_key_is_enough_while_they_rotate() {
        let (old, new, (secret, public)) = (secret('A'), secret('B'), pair('C'));
        for (held, signed_by) in [
            (vec![&old], vec![&new, &old]),
            (vec![&old, &new], vec![&new]),
            (vec![&public], vec![&new, &secret]),
            (vec![&old, &public], vec![&secret]),
            (vec![&secret], vec![&secret]),
        ] {
            assert_eq!(check(&held, &signed_by, NOW, b"[1]"), Signature::Valid);
        }
    }

    #[test]
    fn an_empty_signature_is_none() {
        let (_, public) = pair('A');
        let mut headers = HeaderMap::new();
        headers.insert(WEBHOOK_ID, "msg_1".parse().unwrap());
        headers.insert(WEBHOOK_TIMESTAMP, NOW.seconds().to_string().parse().unwrap());
        for given in ["", " ", "v1a, ", "v1,"] {
            headers.insert(WEBHOOK_SIGNATURE, given.parse().unwrap());
            for held in [&public, &secret('A')] {
                assert_eq!(Signature::check(&keys(&[held]), &headers, b"[1]", NOW), Signature::Invalid, "{given:?}");
            }
        }
    }

    #[test]
    fn other_bodies_other_secrets_and_old_times_are_invalid() {
        let (held, (key, public)) = (secret('A'), pair('A'));
        for (held, own, other) in [(&held, &held, &secret('B')), (&public, &key, &pair('B').0)] {
            assert_eq!(check(&[held], &[own], NOW, b"[2]"), Signature::Invalid);
            assert_eq!(check(&[held], &[other], NOW, b"[1]"), Signature::Invalid);
            assert_eq!(check(&[held], &[], NOW, b"[1]"), Signature::Unsigned);
            assert_eq!(check(&[], &[own], NOW, b"[1]"), Signature::None);
            for (seconds, expected) in
                [(-299, Signature::Valid), (299, Signature::Valid), (-301, Signature::Invalid), (301, Signature::Invalid)]
            {
                let at = Timestamp::from_millis(NOW.millis() + seconds * 1000);
                assert_eq!(check(&[held], &[own], at, b"[1]"), expected, "{seconds}");
            }
        }
    }
}
