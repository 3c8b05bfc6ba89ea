//! Signatures after Standard Webhooks, written anew: a check that shares code with what it checks proves little.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// A timestamp further away than this is refused, as the standard's libraries do.
const TOLERANCE_SECONDS: u64 = 300;

/// The value of `webhook-signature` for one key.
#[must_use]
pub fn sign(key: &[u8], id: &str, seconds: &str, body: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { unreachable!("HMAC takes any key") };
    for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
        mac.update(part);
    }
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// What a request says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`.
    pub seconds: &'a str,
    /// `webhook-signature`: one or several, separated by spaces.
    pub signatures: &'a str,
    /// The body.
    pub body: &'a [u8],
}

impl Signed<'_> {
    /// Whether one of its signatures is made with that key.
    #[must_use]
    pub fn by(&self, key: &[u8]) -> bool {
        let ours = sign(key, self.id, self.seconds, self.body);
        self.signatures.split(' ').any(|signature| signature == ours)
    }

    /// Whether it was signed lately.
    #[must_use]
    pub fn is_fresh(&self, now_seconds: u64) -> bool {
        self.seconds.parse::<u64>().is_ok_and(|at| at.abs_diff(now_seconds) <= TOLERANCE_SECONDS)
    }
}

/// A key as configuration files write it.
#[must_use]
pub fn written(key: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the standard's reference libraries.
    #[test]
    fn verifies_the_standards_example_and_nothing_that_differs() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = Signed {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
            seconds: "1614265330",
            signatures: "v1,other v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            body: br#"{"test": 2432232314}"#,
        };
        assert!(signed.by(&key));
        assert!(!signed.by(b"another key"));
        assert!(!Signed { body: b"{}", ..signed }.by(&key));
        assert!(!Signed { id: "msg_2", ..signed }.by(&key));
        assert!(signed.is_fresh(1_614_265_330 + 300) && !signed.is_fresh(1_614_265_330 + 301));
    }
}
