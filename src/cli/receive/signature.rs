//! How a receiver checks a signature of Standard Webhooks 1.0.0.

use std::time::Duration;

use axum::http::HeaderMap;

use crate::domain::request::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use crate::domain::sign::{SigningSecret, sign};
use crate::domain::time::Timestamp;

/// How far the clocks of sender and receiver may be apart: what the libraries of Standard Webhooks use.
const TOLERANCE: Duration = Duration::from_secs(300);

/// What a check of a signature found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    /// It fits one of the secrets.
    Valid,
    /// It fits none, or its time is too far off, or its headers are not whole.
    Invalid,
    /// There is no secret to check with.
    None,
    /// There is a secret, and the request carries no signature.
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

    /// Checks a request against all secrets; one fitting pair is enough, as both sides may hold several.
    pub(super) fn check(secrets: &[SigningSecret], headers: &HeaderMap, body: &[u8], now: Timestamp) -> Self {
        if secrets.is_empty() {
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
        let expected = sign(secrets, id, at, body).unwrap_or_default();
        let fits = given.split(' ').flat_map(|given| expected.split(' ').map(move |expected| equal(given, expected)));
        // No early end, so that the time taken tells nothing.
        if fits.fold(false, |any, fits| any | fits) { Self::Valid } else { Self::Invalid }
    }
}

/// Compares in a time that depends on the lengths alone.
fn equal(left: &str, right: &str) -> bool {
    let differences = left.bytes().zip(right.bytes()).fold(0, |all, (left, right)| std::hint::black_box(all | (left ^ right)));
    left.len() == right.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_756_881_488_042);

    fn secret(letter: char) -> SigningSecret {
        SigningSecret::parse(&format!("whsec_{}", letter.to_string().repeat(32))).unwrap()
    }

    fn check(secrets: &[SigningSecret], signed_by: &[SigningSecret], at: Timestamp, body: &[u8]) -> Signature {
        let mut headers = HeaderMap::new();
        headers.insert(WEBHOOK_ID, "msg_1".parse().unwrap());
        headers.insert(WEBHOOK_TIMESTAMP, at.seconds().to_string().parse().unwrap());
        if let Some(signature) = sign(signed_by, "msg_1", at, b"[1]") {
            headers.insert(WEBHOOK_SIGNATURE, signature.parse().unwrap());
        }
        Signature::check(secrets, &headers, body, NOW)
    }

    #[test]
    fn one_fitting_secret_is_enough_while_they_rotate() {
        let (old, new) = (secret('A'), secret('B'));
        for (held, signed_by) in [(vec![old.clone()], vec![new.clone(), old.clone()]), (vec![old, new.clone()], vec![new])] {
            assert_eq!(check(&held, &signed_by, NOW, b"[1]"), Signature::Valid);
        }
    }

    #[test]
    fn other_bodies_other_secrets_and_old_times_are_invalid() {
        let held = [secret('A')];
        assert_eq!(check(&held, &held, NOW, b"[2]"), Signature::Invalid);
        assert_eq!(check(&held, &[secret('B')], NOW, b"[1]"), Signature::Invalid);
        assert_eq!(check(&held, &[], NOW, b"[1]"), Signature::Unsigned);
        assert_eq!(check(&[], &held, NOW, b"[1]"), Signature::None);
        for (seconds, expected) in
            [(-299, Signature::Valid), (299, Signature::Valid), (-301, Signature::Invalid), (301, Signature::Invalid)]
        {
            let at = Timestamp::from_millis(NOW.millis() + seconds * 1000);
            assert_eq!(check(&held, &held, at, b"[1]"), expected, "{seconds}");
        }
    }
}
