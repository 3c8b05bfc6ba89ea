//! Sections `[admin]` and `[log]`: what operators see.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};

use secrecy::{ExposeSecret as _, SecretString};
use toml::Value;
use tracing_subscriber::EnvFilter;

use super::kinds::{Fault, any_text, boolean, choice, text, word};
use super::problems::quoted;
use super::secret::secret;
use super::section::Section;

/// The side for operators and probes.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whether `/api` is served.
    pub api: bool,
    /// Whether the console is served, which needs `/api`.
    pub console: bool,
    /// What stands before every path of the console where a proxy adds it: empty, or `/` and a name.
    pub path_prefix: String,
    /// Who may use it. With none, whoever is on this machine: then `listen` is a loopback address, or there is no `/api`.
    pub tokens: Vec<ApiToken>,
}

/// A token for `/api`.
#[derive(Debug, Clone)]
pub struct ApiToken {
    /// Whose it is, as audit lines name it.
    pub name: String,
    /// What stands behind `authorization: Bearer`.
    pub secret: SecretString,
    /// It may look, and change nothing.
    pub is_read_only: bool,
}

/// Most tokens: each request is compared with all of them.
const TOKENS: usize = 32;

/// The least of a token: 32 characters of a random text in hexadecimal are 128 bits.
const LEAST_TOKEN: usize = 32;

/// Longest prefix of paths, in bytes.
const PREFIX_LIMIT: usize = 100;

/// Longest name of a token, in bytes.
const NAME_LIMIT: usize = 64;

/// What the log looks like.
#[derive(Debug, Clone)]
pub struct Log {
    /// Its shape.
    pub format: LogFormat,
    /// A directive of `tracing_subscriber::EnvFilter`.
    pub level: String,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For eyes.
    Human,
    /// For machines, one object a line.
    Json,
}

pub(super) fn read_admin(section: &mut Section<'_>) -> Admin {
    let listen: SocketAddr = section.or("listen", (Ipv4Addr::LOCALHOST, 9464).into(), address);
    let api = section.or("api", true, boolean);
    let console = section.or("console", true, boolean);
    let path_prefix = section.or("path_prefix", String::new(), path_prefix);
    let tokens = read_tokens(section);
    if api && tokens.as_ref().is_none_or(Vec::is_empty) && !listen.ip().to_canonical().is_loopback() {
        let who = format!("whoever reaches {listen} could use /api");
        section.problem("token", format!("is missing: {who}; add [[admin.token]], set api = false, or listen on a loopback address"));
    }
    Admin { listen, api, console: console && api, path_prefix, tokens: tokens.unwrap_or_default() }
}

fn path_prefix(value: &Value) -> Result<String, Fault> {
    let text = any_text(value)?;
    let is_plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let is_good =
        text.is_empty() || (text.len() <= PREFIX_LIMIT && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_plain)));
    if is_good {
        return Ok(text.to_owned());
    }
    Err(Fault::content(format!(r#"{} is no prefix of paths; write for example "/callbackd""#, quoted(text))))
}

fn read_tokens(section: &mut Section<'_>) -> Option<Vec<ApiToken>> {
    let mut names = HashSet::new();
    section.sections("token", TOKENS, |section| {
        let reading = section.reading();
        // Before the table is called by its name: a variable calls it by its number.
        let is_read_only = section.or("read_only", false, boolean);
        let name = section.required("name", word(NAME_LIMIT))?;
        section.call(&name);
        if !names.insert(name.clone()) {
            section.problem("name", format!("{name:?} stands there twice"));
        }
        let secret = section.required("secret", |value| {
            let secret = secret(reading)(value)?;
            let text = secret.expose_secret();
            if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Fault::content("has a character that cannot stand in a header; use letters and digits"));
            }
            if text.len() < LEAST_TOKEN {
                return Err(Fault::content(format!("has fewer than {LEAST_TOKEN} characters; make one with `openssl rand -hex 32`")));
            }
            Ok(secret)
        })?;
        Some(ApiToken { name, secret, is_read_only })
    })
}

pub(super) fn read_log(section: &mut Section<'_>) -> Log {
    let formats = &[("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];
    Log { format: section.or("format", LogFormat::default(), choice(formats)), level: section.or("level", "info".to_owned(), level) }
}

fn address(value: &Value) -> Result<SocketAddr, Fault> {
    let text = any_text(value)?;
    let fault = || Fault::content(format!(r#"{} is no address with a port; write for example "127.0.0.1:9464""#, quoted(text)));
    text.parse().map_err(|_| fault())
}

fn level(value: &Value) -> Result<String, Fault> {
    let level = text(1024)(value)?;
    // The strict way to read it: the other one drops what it does not understand.
    match EnvFilter::builder().parse(&level) {
        Ok(_) => Ok(level),
        Err(_) => Err(Fault::content(format!(r#"{} is no filter; write for example "info" or "info,lapin=warn""#, quoted(&level)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_and_a_level_is_a_filter() {
        assert_eq!(address(&Value::from("[::]:0")), Ok("[::]:0".parse().unwrap()));
        assert!(address(&Value::from("localhost:9464")).unwrap_err().into_text().starts_with("\"localhost:9464\" is no address"));
        assert_eq!(level(&Value::from("info,lapin=warn")), Ok("info,lapin=warn".to_owned()));
        assert!(level(&Value::from("info,lapin=loud")).unwrap_err().into_text().starts_with("\"info,lapin=loud\" is no filter"));
    }
}
