//! Table `tls` of an endpoint: our certificate there, and the authority that is believed there.

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret as _, SecretString};
use toml::Value;

use super::kinds::Fault;
use super::reading::Reading;
use super::secret::secret;
use super::section::Section;
use crate::domain::tls::{EndpointTls, TlsIdentity};

/// Reads the table; one that is not there is no setting.
pub(super) fn read(section: &mut Section<'_>) -> Option<EndpointTls> {
    let reading = section.reading();
    let certificate = section.optional("certificate", pem(reading, certificates));
    let key = section.optional("key", pem(reading, private_key));
    let authorities = section.optional("ca", pem(reading, authorities));
    let identity = match (&certificate, &key) {
        (Some(certificate), Some(key)) => {
            if let Err(problem) = belong_together(certificate, key) {
                section.problem("key", problem);
            }
            Some(TlsIdentity::new(certificate.expose_secret(), key))
        }
        (Some(_), None) if !section.has_been_given("key") => {
            section.problem("key", "is missing; a certificate proves nothing without its key");
            None
        }
        (None, Some(_)) if !section.has_been_given("certificate") => {
            section.problem("certificate", "is missing; give the certificate that belongs to the key");
            None
        }
        _ => None,
    };
    EndpointTls::new(identity, authorities.map(|pem| pem.expose_secret().to_owned()))
}

/// A text in PEM, given as secrets are.
fn pem<'r>(reading: &'r Reading<'r>, judge: fn(&str) -> Result<(), String>) -> impl Fn(&Value) -> Result<SecretString, Fault> {
    move |value| {
        let text = secret(reading)(value)?;
        // Most likely a path, which is no secret; but a text in the wrong place may be one.
        if !text.expose_secret().contains("-----BEGIN ") {
            return Err(Fault::content(r#"is no PEM text (-----BEGIN …); write { file = "path" } for a file"#));
        }
        judge(text.expose_secret()).map_err(Fault::content)?;
        Ok(text)
    }
}

fn certificates(pem: &str) -> Result<(), String> {
    chain(pem).map(drop)
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|_| "has a part that is no good PEM".to_owned())?;
    if found.is_empty() { Err("holds no certificate (-----BEGIN CERTIFICATE-----)".to_owned()) } else { Ok(found) }
}

fn private_key(pem: &str) -> Result<(), String> {
    key_of(pem).map(drop)
}

fn key_of(pem: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| "holds no private key that can be read (PKCS#8, PKCS#1 or SEC1, not encrypted)".to_owned())
}

fn authorities(pem: &str) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    chain(pem)?.into_iter().try_for_each(|certificate| store.add(certificate)).map_err(|_| "holds a certificate that is no good".to_owned())
}

/// Whether a key can sign and is that of the first certificate.
fn belong_together(certificate: &SecretString, key: &SecretString) -> Result<(), &'static str> {
    let (Ok(chain), Ok(key)) = (chain(certificate.expose_secret()), key_of(key.expose_secret())) else { return Ok(()) };
    match CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("is not the key of the certificate"),
        Err(_) => Err("does not go with the certificate, or one of the two cannot be used for TLS"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::environment::Environment;
    use super::*;

    fn read_text(toml: &str) -> Result<Option<EndpointTls>, Vec<String>> {
        let environment = Environment::default();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls/x.toml");
        let reading = Reading::of(&file, &environment);
        let read = Section::root(&reading, toml.parse().unwrap(), read);
        let folder = format!("{}: ", file.display());
        reading.finish(Some(read)).map_err(|problems| problems.lines().iter().map(|line| line.replace(&folder, "")).collect())
    }

    #[test]
    fn certificate_and_key_come_together_and_the_authority_alone_or_with_them() {
        let (certificate, key, ca) =
            ("certificate = { file = 'server.pem' }\n", "key = { file = 'server.key' }\n", "ca = { file = 'ca.pem' }\n");
        assert_eq!(read_text("").unwrap(), None);
        let both = read_text(&format!("{certificate}{key}")).unwrap().unwrap();
        assert!(both.identity().is_some() && both.authorities().is_none());
        let authority = read_text(ca).unwrap().unwrap();
        assert!(authority.identity().is_none() && authority.authorities().is_some());
        assert_ne!(both, authority);
        assert_eq!(read_text(certificate).unwrap_err(), ["key: is missing; a certificate proves nothing without its key"]);
        assert_eq!(read_text(key).unwrap_err(), ["certificate: is missing; give the certificate that belongs to the key"]);
    }

    #[test]
    fn what_is_no_certificate_or_no_key_is_refused_without_being_shown() {
        let pem = |kind: &str, body: &str| format!("'''-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n'''");
        for (toml, problem) in [
            (
                "certificate = 'client.pem'\nkey = { file = 'server.key' }".to_owned(),
                r#"certificate: is no PEM text (-----BEGIN …); write { file = "path" } for a file"#,
            ),
            (
                "certificate = { file = 'server.pem' }\nkey = { file = 'server.pem' }".to_owned(),
                "key: holds no private key that can be read (PKCS#8, PKCS#1 or SEC1, not encrypted)",
            ),
            ("ca = { file = 'server.key' }".to_owned(), "ca: holds no certificate (-----BEGIN CERTIFICATE-----)"),
            (format!("ca = {}", pem("CERTIFICATE", "*CANARY*")), "ca: has a part that is no good PEM"),
            (format!("ca = {}", pem("CERTIFICATE", "Q0FOQVJZ")), "ca: holds a certificate that is no good"),
            ("certificate = { file = 'ca.pem' }\nkey = { file = 'server.key' }".to_owned(), "key: is not the key of the certificate"),
        ] {
            assert_eq!(read_text(&toml).unwrap_err(), [problem], "{toml}");
        }
    }
}
