//! Signatures after Standard Webhooks 1.0.0 (<https://github.com/standard-webhooks/standard-webhooks>): HMAC-SHA256 (`v1`) and
//! ed25519 (`v1a`).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretSlice};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::time::Timestamp;

/// A key that signs, written as a prefix and base64: `whsec_` for HMAC-SHA256, whose key the receiver holds too, `whsk_` for
/// ed25519, of which the receiver has the [`PublicKey`] alone. Never printed, wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningSecret(Key);

#[derive(Clone)]
enum Key {
    Hmac(SecretSlice<u8>),
    /// The library wipes what it frees.
    Ed25519(Arc<Ed25519KeyPair>),
}

/// The public half of an ed25519 key, written `whpk_` and base64: what a receiver checks `v1a` signatures with. No secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; SEED]);

/// Bytes of one `v1` signature: a space, `v1,` and 32 bytes in base64.
const V1: usize = 48;
/// Bytes of one `v1a` signature: a space, `v1a,` and 64 bytes in base64.
const V1A: usize = 93;

/// Bytes of an ed25519 seed, and of a public key.
const SEED: usize = 32;

/// Why a text is no key. Says nothing of the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// The text starts with none of the prefixes.
    #[error("starts with neither `whsec_` (HMAC) nor `whsk_` (ed25519)")]
    Prefix,
    /// The text is a public key, which signs nothing.
    #[error("is a public key (`whpk_`), which receivers hold; write the secret one, `whsk_`")]
    Public,
    /// What follows the prefix is not base64.
    #[error("is not base64 after its prefix (standard alphabet, padded)")]
    Base64,
    /// The key for HMAC is too short or too long.
    #[error("holds {0} bytes; Standard Webhooks asks for 24 to 64 random bytes")]
    Length(usize),
    /// No ed25519 key has this length.
    #[error("holds {0} bytes; an ed25519 key has 32, or 64 with its public key")]
    Ed25519Length(usize),
    /// An ed25519 key whose second half is not the public key of its first.
    #[error("holds a public key that is not that of its secret key")]
    Mismatch,
}

impl SigningSecret {
    /// Reads a secret as Standard Webhooks writes it, white space around it (a file's last newline) allowed. An ed25519 key
    /// is its seed, alone or with the public key behind it: libraries write both.
    ///
    /// # Errors
    /// [`BadSecret`] says what is wrong without repeating the secret.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let text = text.trim();
        if let Some(encoded) = text.strip_prefix("whsec_") {
            let key = decode(encoded)?;
            return match key.len() {
                24..=64 => Ok(Self(Key::Hmac(SecretSlice::new(key.as_slice().into())))),
                length => Err(BadSecret::Length(length)),
            };
        }
        let other = if text.starts_with("whpk_") { BadSecret::Public } else { BadSecret::Prefix };
        let key = decode(text.strip_prefix("whsk_").ok_or(other)?)?;
        let pair = match key.split_at_checked(SEED) {
            Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
            Some((seed, public)) if public.len() == SEED => Ed25519KeyPair::from_seed_and_public_key(seed, public),
            _ => return Err(BadSecret::Ed25519Length(key.len())),
        };
        pair.map(|pair| Self(Key::Ed25519(Arc::new(pair)))).map_err(|_| BadSecret::Mismatch)
    }

    /// What receivers need; `None` for HMAC, where they need the secret itself.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        match &self.0 {
            Key::Hmac(_) => None,
            Key::Ed25519(pair) => pair.public_key().as_ref().try_into().map(PublicKey).ok(),
        }
    }

    const fn signature_length(&self) -> usize {
        match self.0 {
            Key::Hmac(_) => V1,
            Key::Ed25519(_) => V1A,
        }
    }
}

impl PublicKey {
    /// Reads a public key, white space around it allowed.
    ///
    /// # Errors
    /// [`BadSecret`]
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let key = decode(text.trim().strip_prefix("whpk_").ok_or(BadSecret::Prefix)?)?;
        key.as_slice().try_into().map(Self).map_err(|_| BadSecret::Ed25519Length(key.len()))
    }

    /// Whether a signature, `v1a,` and base64, is one of this key's owner for this message.
    #[must_use]
    pub fn verifies(&self, signature: &str, webhook_id: &str, at: Timestamp, body: &[u8]) -> bool {
        let Some(signature) = signature.strip_prefix("v1a,").and_then(|encoded| STANDARD.decode(encoded).ok()) else { return false };
        let seconds = at.seconds().to_string();
        UnparsedPublicKey::new(&ED25519, self.0).verify(&content(webhook_id, &seconds, body).concat(), &signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "whpk_{}", STANDARD.encode(self.0))
    }
}

impl PartialEq for SigningSecret {
    /// Compares the configuration's own secrets with one another, never with what somebody sends.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Key::Hmac(own), Key::Hmac(other)) => own.expose_secret() == other.expose_secret(),
            (Key::Ed25519(own), Key::Ed25519(other)) => own.public_key().as_ref() == other.public_key().as_ref(),
            _ => false,
        }
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

/// The value of `webhook-signature`: one `v1,…` or `v1a,…` for each secret, so that a receiver may hold the old or the new
/// one while secrets rotate. `None` without secrets.
#[must_use]
pub fn sign(secrets: &[SigningSecret], webhook_id: &str, at: Timestamp, body: &[u8]) -> Option<String> {
    let seconds = at.seconds().to_string();
    let content = content(webhook_id, &seconds, body);
    // Only ed25519 needs it in one piece, which copies the body.
    let mut whole = None;
    let mut signatures = String::with_capacity(secrets.iter().map(SigningSecret::signature_length).sum());
    for secret in secrets {
        if !signatures.is_empty() {
            signatures.push(' ');
        }
        match &secret.0 {
            Key::Hmac(key) => {
                signatures.push_str("v1,");
                STANDARD.encode_string(mac(key, &content), &mut signatures);
            }
            Key::Ed25519(pair) => {
                signatures.push_str("v1a,");
                STANDARD.encode_string(pair.sign(whole.get_or_insert_with(|| content.concat())), &mut signatures);
            }
        }
    }
    (!signatures.is_empty()).then_some(signatures)
}

/// What is signed, in pieces.
const fn content<'a>(webhook_id: &'a str, seconds: &'a str, body: &'a [u8]) -> [&'a [u8]; 5] {
    [webhook_id.as_bytes(), b".", seconds.as_bytes(), b".", body]
}

fn mac(key: &SecretSlice<u8>, parts: &[&[u8]]) -> impl AsRef<[u8]> + use<> {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.expose_secret()) else { unreachable!("HMAC takes any key") };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes()
}

/// The bytes of a key, in a buffer that never grows, as that would leave a copy behind, and is wiped.
fn decode(encoded: &str) -> Result<Zeroizing<Vec<u8>>, BadSecret> {
    let mut key = Zeroizing::new(Vec::with_capacity(encoded.len() + 3));
    STANDARD.decode_vec(encoded, &mut key).map_err(|_| BadSecret::Base64)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds of 32 bytes, which are all the letter `a` or `b`.
    const A: &str = "whsk_YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=";
    const B: &str = "whsk_YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI=";
    const HMAC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn secret(text: &str) -> SigningSecret {
        SigningSecret::parse(text).unwrap()
    }

    /// The example of the specification's reference libraries.
    #[test]
    fn signs_as_the_reference_libraries_do() {
        let secret = secret(&format!("{HMAC}\n"));
        let signed = sign(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", Timestamp::from_millis(1_614_265_330_999), br#"{"test": 2432232314}"#);
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn refuses_what_is_no_secret_without_repeating_it() {
        let fault = |text: &str| SigningSecret::parse(text).err();
        assert_eq!(fault("hunter2"), Some(BadSecret::Prefix));
        assert_eq!(fault("whpk_AAAA"), Some(BadSecret::Public));
        assert_eq!(fault("whsec_!!"), Some(BadSecret::Base64));
        assert_eq!(fault("whsk_!!"), Some(BadSecret::Base64));
        assert_eq!(fault("whsec_"), Some(BadSecret::Length(0)));
        assert_eq!(fault("whsec_AAAA"), Some(BadSecret::Length(3)));
        for length in [0, 31, 33, 63, 65, 96] {
            let text = format!("whsk_{}", STANDARD.encode(vec![7; length]));
            assert_eq!(fault(&text), Some(BadSecret::Ed25519Length(length)));
        }
        assert_eq!(fault(&format!("whsk_{}", STANDARD.encode([b'a'; 64]))), Some(BadSecret::Mismatch));
        assert_eq!(PublicKey::parse(A), Err(BadSecret::Prefix));
        assert_eq!(PublicKey::parse("whpk_AAAA"), Err(BadSecret::Ed25519Length(3)));
        for text in [HMAC, A] {
            assert_eq!(format!("{:?}", secret(text)), "SigningSecret(…)");
        }
    }

    #[test]
    fn several_secrets_give_several_signatures_each_of_its_kind() {
        let secrets = [HMAC, A, "whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", B].map(secret);
        let signed = sign(&secrets, "msg_1", Timestamp::from_millis(0), b"[]").unwrap();
        let kinds: Vec<&str> = signed.split(' ').map(|part| part.split_once(',').unwrap().0).collect();
        assert_eq!(kinds, ["v1", "v1a", "v1", "v1a"]);
        assert_eq!(signed.len(), 2 * V1 + 2 * V1A - 1, "as long as the room that is made for it");
        assert_eq!(sign(&[], "msg_1", Timestamp::from_millis(0), b"[]"), None);
    }

    #[test]
    fn a_seed_alone_and_with_its_public_key_are_the_same_secret() {
        let alone = secret(A);
        let public = alone.public_key().unwrap();
        let both = secret(&format!("whsk_{}", STANDARD.encode([[b'a'; 32], public.0].concat())));
        assert!(alone == both && alone != secret(B) && alone != secret(HMAC) && secret(HMAC) == secret(HMAC));
        assert_eq!(PublicKey::parse(&format!("{public}\n")), Ok(public));
        assert_eq!(secret(HMAC).public_key(), None);
    }

    #[test]
    fn the_public_key_verifies_what_was_signed_and_nothing_else() {
        let (at, key) = (Timestamp::from_millis(1_614_265_330_999), secret(A).public_key().unwrap());
        let signed = sign(&[secret(A)], "msg_1", at, b"[1]").unwrap();
        assert!(key.verifies(&signed, "msg_1", at, b"[1]"));
        assert!(!key.verifies(&signed, "msg_2", at, b"[1]"));
        assert!(!key.verifies(&signed, "msg_1", Timestamp::from_millis(1_614_265_331_000), b"[1]"));
        assert!(!secret(B).public_key().unwrap().verifies(&signed, "msg_1", at, b"[1]"));
        for bit in 0..24 {
            let mut body = *b"[1]";
            body[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verifies(&signed, "msg_1", at, &body), "bit {bit}");
        }
        for other in ["", "v1a,", "v1a,!!", "v1,", &signed.replacen("v1a,", "v1,", 1), &sign(&[secret(B)], "msg_1", at, b"[1]").unwrap()] {
            assert!(!key.verifies(other, "msg_1", at, b"[1]"), "{other}");
        }
    }
}
