//! Key `auth` of an endpoint: basic credentials, or client credentials for an access token.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret as _, SecretString};
use toml::Value;

use super::egress::Egress;
use super::integrators::admitted;
use super::kinds::{Fault, any_text, choice, text};
use super::reading::Reading;
use super::secret::secret;
use super::section::Section;
use crate::domain::auth::{Auth, ClientAuth, ClientCredentials};

/// Longest name, id or secret, in bytes: together they are one header, of which common servers refuse more than 8 KiB.
const LIMIT: usize = 2048;

/// Reads the key where it is there; `headers` are the endpoint's own.
pub(super) fn read(endpoint: &mut Section<'_>, headers: &HeaderMap, egress: &Egress) -> Auth {
    if !endpoint.has("auth") {
        return Auth::None;
    }
    if headers.contains_key(AUTHORIZATION) {
        endpoint.problem("auth", "sets the header authorization, which stands in `headers` too; leave one of them out");
    }
    endpoint
        .section("auth", |section| match (section.has("basic"), section.has("oauth2")) {
            (true, false) => section.section("basic", read_basic),
            (false, true) => section.section("oauth2", |section| read_oauth2(section, egress)),
            _ => {
                section.problem_here("must hold one of `basic` and `oauth2`");
                section.ignore(&["basic", "oauth2"]);
                None
            }
        })
        .unwrap_or_default()
}

fn read_basic(section: &mut Section<'_>) -> Option<Auth> {
    let reading = section.reading();
    let username = section.required("username", |value| match text(LIMIT)(value)? {
        name if name.contains(':') => Err(Fault::content("has a colon, which ends a user name")),
        name => Ok(name),
    });
    let password = section.required("password", printable(reading));
    Some(Auth::basic(&username?, &password?))
}

fn read_oauth2(section: &mut Section<'_>, egress: &Egress) -> Option<Auth> {
    let reading = section.reading();
    // The text of a URL is not shown: its path and query may be secrets.
    let token_url = section.required("token_url", |value| admitted(any_text(value)?, egress));
    let client_id = section.required("client_id", text(LIMIT));
    let client_secret = section.required("client_secret", printable(reading));
    let scope = section.optional("scope", text(LIMIT));
    let audience = section.optional("audience", text(LIMIT));
    let client_auth = choice(&[("basic", ClientAuth::Basic), ("post", ClientAuth::Post)]);
    let client_auth = section.or("client_auth", ClientAuth::default(), client_auth);
    let (token_url, client_id, client_secret) = (token_url?, client_id?, client_secret?);
    Some(Auth::OAuth2(Arc::new(ClientCredentials { token_url, client_id, client_secret, scope, audience, client_auth })))
}

/// A secret that fits into a header.
fn printable<'r>(reading: &'r Reading<'r>) -> impl Fn(&Value) -> Result<SecretString, Fault> {
    move |value| {
        let secret = secret(reading)(value)?;
        let text = secret.expose_secret();
        if text.len() > LIMIT {
            return Err(Fault::content(format!("is over {LIMIT} bytes long")));
        }
        if text.chars().any(char::is_control) {
            return Err(Fault::content("has a control character, such as a line break at its end"));
        }
        Ok(secret)
    }
}
