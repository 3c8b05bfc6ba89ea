//! Signatures after Standard Webhooks 1.0.0 (<https://github.com/standard-webhooks/standard-webhooks>), scheme `v1`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretSlice};
use sha2::Sha256;

use super::time::Timestamp;

/// A key for HMAC-SHA256, written `whsec_` and base64. Never printed, wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningSecret(SecretSlice<u8>);

/// Bytes of one signature: a space, `v1,` and 32 bytes in base64.
const SIGNATURE: usize = 48;

/// Why a text is no signing secret. Says nothing of the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// The text does not start with `whsec_`.
    #[error("does not start with `whsec_`")]
    Prefix,
    /// What follows the prefix is not base64.
    #[error("is not base64 after `whsec_` (standard alphabet, padded)")]
    Base64,
    /// The key is too short or too long.
    #[error("holds {0} bytes; Standard Webhooks asks for 24 to 64 random bytes")]
    Length(usize),
}

impl SigningSecret {
    /// Reads a secret as Standard Webhooks writes it, white space around it (a file's last newline) allowed.
    ///
    /// # Errors
    /// [`BadSecret`] says what is wrong without repeating the secret.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let encoded = text.trim().strip_prefix("whsec_").ok_or(BadSecret::Prefix)?;
        let key = STANDARD.decode(encoded).map_err(|_| BadSecret::Base64)?;
        match key.len() {
            24..=64 => Ok(Self(key.into())),
            length => Err(BadSecret::Length(length)),
        }
    }
}

impl PartialEq for SigningSecret {
    /// Compares the configuration's own secrets with one another, never with what somebody sends.
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

/// The value of `webhook-signature`: one `v1,…` for each secret, so that a receiver may hold the old or the new one
/// while secrets rotate. `None` without secrets.
#[must_use]
pub fn sign(secrets: &[SigningSecret], webhook_id: &str, at: Timestamp, body: &[u8]) -> Option<String> {
    let seconds = at.seconds().to_string();
    let mut signatures = String::with_capacity(secrets.len() * SIGNATURE);
    for secret in secrets {
        signatures.push_str(if signatures.is_empty() { "v1," } else { " v1," });
        STANDARD.encode_string(mac(secret, &[webhook_id.as_bytes(), b".", seconds.as_bytes(), b".", body]), &mut signatures);
    }
    (!signatures.is_empty()).then_some(signatures)
}

fn mac(secret: &SigningSecret, parts: &[&[u8]]) -> impl AsRef<[u8]> + use<> {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.0.expose_secret()) else { unreachable!("HMAC takes any key") };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn signs_as_the_reference_libraries_do() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signed = sign(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", Timestamp::from_millis(1_614_265_330_999), br#"{"test": 2432232314}"#);
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn refuses_what_is_no_secret_without_repeating_it() {
        assert_eq!(SigningSecret::parse("hunter2").err(), Some(BadSecret::Prefix));
        assert_eq!(SigningSecret::parse("whsec_!!").err(), Some(BadSecret::Base64));
        assert_eq!(SigningSecret::parse("whsec_").err(), Some(BadSecret::Length(0)));
        assert_eq!(SigningSecret::parse("whsec_AAAA").err(), Some(BadSecret::Length(3)));
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(format!("{secret:?}"), "SigningSecret(…)");
    }

    #[test]
    fn several_secrets_give_several_signatures() {
        let secrets =
            ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"].map(|s| SigningSecret::parse(s).unwrap());
        let signed = sign(&secrets, "msg_1", Timestamp::from_millis(0), b"[]").unwrap();
        assert_eq!(signed.split(' ').filter(|part| part.starts_with("v1,")).count(), 2);
        assert_eq!(sign(&[], "msg_1", Timestamp::from_millis(0), b"[]"), None);
    }
}
