//! How we prove at an endpoint who we are, and whom we believe there: PEM texts, as they were configured.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

/// TLS settings of one endpoint's own. Prints without keys; two are equal when all their texts are.
#[derive(Clone)]
pub struct EndpointTls {
    identity: Option<TlsIdentity>,
    authorities: Option<String>,
    fingerprint: Fingerprint,
}

/// Our certificate for an endpoint, with those between it and its authority, and its private key.
#[derive(Clone)]
pub struct TlsIdentity {
    pem: SecretString,
}

/// What tells one TLS setting from another; says nothing about what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl TlsIdentity {
    /// Takes a certificate (or a chain, our own first) and its key, both in PEM.
    #[must_use]
    pub fn new(certificate: &str, key: &SecretString) -> Self {
        Self { pem: format!("{}\n{}\n", certificate.trim_end(), key.expose_secret().trim_end()).into() }
    }

    /// Certificates and key, one after the other, for the TLS client alone.
    #[must_use]
    pub const fn as_pem(&self) -> &SecretString {
        &self.pem
    }
}

impl EndpointTls {
    /// Settings with at least one of the two: who we are, and the authorities (PEM) that are believed instead of the
    /// system's. `None` with neither.
    #[must_use]
    pub fn new(identity: Option<TlsIdentity>, authorities: Option<String>) -> Option<Self> {
        if identity.is_none() && authorities.is_none() {
            return None;
        }
        let mut hash = Sha256::new();
        for text in [identity.as_ref().map(|identity| identity.pem.expose_secret()), authorities.as_deref()] {
            let text = text.unwrap_or_default();
            hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text.as_bytes());
        }
        Some(Self { identity, authorities, fingerprint: Fingerprint(hash.finalize().into()) })
    }

    /// Who we are.
    #[must_use]
    pub const fn identity(&self) -> Option<&TlsIdentity> {
        self.identity.as_ref()
    }

    /// The authorities, in PEM, that are believed instead of the system's.
    #[must_use]
    pub fn authorities(&self) -> Option<&str> {
        self.authorities.as_deref()
    }

    /// The same for the same texts.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl PartialEq for EndpointTls {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for EndpointTls {}

impl fmt::Debug for EndpointTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointTls")
            .field("certificate", &self.identity.is_some())
            .field("authorities", &self.authorities.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_settings_are_equal_when_all_their_texts_are_and_print_none_of_them() {
        let identity = |key: &str| TlsIdentity::new("CERT", &key.to_owned().into());
        let first = EndpointTls::new(Some(identity("CANARY")), None).unwrap();
        assert_eq!(EndpointTls::new(Some(identity("CANARY\n")), None), Some(first.clone()));
        assert_ne!(EndpointTls::new(Some(identity("OTHER")), None), Some(first.clone()));
        assert_ne!(EndpointTls::new(Some(identity("CANARY")), Some("CA".to_owned())), Some(first.clone()));
        assert_eq!(EndpointTls::new(None, None), None);
        assert!(!format!("{first:?}").contains("CANARY"));
    }
}
