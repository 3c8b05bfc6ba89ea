//! Section `[delivery_log]`: where it is recorded what became of each event.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::egress::OwnAddress;
use super::kinds::{Fault, boolean, duration, size, text};
use super::reading::Reading;
use super::secret::secret;
use super::section::Section;
use crate::domain::search::SearchKeys;

/// Where it is recorded what became of each event.
#[derive(Debug, Clone)]
pub struct DeliveryLog {
    /// Where; `None` when it is off.
    pub database: Option<Database>,
    /// How long entries are kept.
    pub retention: Duration,
    /// The members whose values an event is found by.
    pub search_keys: SearchKeys,
    /// With it, these values are stored as HMAC-SHA256 under this key; without, as they are.
    pub hash_secret: Option<SecretString>,
    /// How long the events themselves are kept; `None`: they are not stored.
    pub payload_retention: Option<Duration>,
    /// Bytes of entries that may wait to be written; what comes on top is left out.
    pub memory: usize,
}

impl DeliveryLog {
    /// None.
    #[must_use]
    pub fn off() -> Self {
        Self {
            database: None,
            retention: 14 * DAY,
            search_keys: SearchKeys::new(Vec::new()),
            hash_secret: None,
            payload_retention: None,
            memory: 32 << 20,
        }
    }
}

/// A database. Prints without user, password and query.
#[derive(Clone)]
pub enum Database {
    /// A file, made where it is missing.
    Sqlite(PathBuf),
    /// A server, by its URL.
    Postgres(SecretString),
}

impl Database {
    /// Host and port of a server, as an address that no endpoint has.
    pub(super) fn address(&self) -> Option<OwnAddress> {
        let Self::Postgres(url) = self else { return None };
        let url = Url::parse(url.expose_secret()).ok()?;
        Some(OwnAddress { host: url.host_str()?.to_ascii_lowercase(), port: url.port().unwrap_or(5432) })
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => match Url::parse(url.expose_secret()) {
                Ok(url) => {
                    let (host, port) = (url.host_str().unwrap_or_default(), url.port().unwrap_or(5432));
                    write!(f, "postgres://{host}:{port}{}", url.path())
                }
                Err(_) => f.write_str("(unreadable database URL)"),
            },
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

/// Most members that are searched by: each costs a row for each event.
const KEYS: usize = 20;

/// Longest name of one, in bytes.
const KEY_LIMIT: usize = 64;

/// Shorter secrets are guessed, and with them the keys.
const LEAST_SECRET: usize = 16;

/// Some thousands of entries, and more than any machine has.
const MEMORY: RangeInclusive<u64> = 1 << 20..=1 << 40;

/// The members of the platform's records that support asks for.
const SEARCH_KEYS: [&str; 5] = ["key", "customerKey", "contractKey", "identId", "personKey"];

pub(super) fn read(section: &mut Section<'_>) -> DeliveryLog {
    let reading = section.reading();
    let is_on = section.or("enabled", true, boolean);
    let file = || Database::Sqlite(reading.resolve("callbackd.db"));
    let database = section.optional("database", |value| database(reading, &secret(reading)(value)?)).unwrap_or_else(file);
    let names = section.list("search_keys", KEYS, text(KEY_LIMIT));
    let hash_secret = section.optional("hash_secret", |value| {
        let secret = secret(reading)(value)?;
        let fault = || Fault::content(format!("has fewer than {LEAST_SECRET} characters; make one with `openssl rand -hex 32`"));
        if secret.expose_secret().len() < LEAST_SECRET { Err(fault()) } else { Ok(secret) }
    });
    let stores_payloads = section.or("store_payloads", false, boolean);
    let payload_retention = section.or("payload_retention", 7 * DAY, duration(HOUR..=365 * DAY));
    DeliveryLog {
        database: is_on.then_some(database),
        retention: section.or("retention", 14 * DAY, duration(HOUR..=365 * DAY)),
        search_keys: SearchKeys::new(names.unwrap_or_else(|| SEARCH_KEYS.map(str::to_owned).to_vec())),
        hash_secret,
        payload_retention: stores_payloads.then_some(payload_retention),
        memory: section.or("memory", 32 << 20, size(MEMORY)),
    }
}

fn database(reading: &Reading<'_>, secret: &SecretString) -> Result<Database, Fault> {
    let hint = "write for example sqlite:callbackd.db or postgres://user:password@host/callbackd";
    let refuse = |what: &str| Err(Fault::content(format!("{what}; {hint}")));
    let text = secret.expose_secret();
    if text.chars().any(char::is_control) {
        return refuse("has a control character");
    }
    match text.split_once(':') {
        Some(("sqlite", "" | ":memory:" | "//")) => refuse("names no file"),
        Some(("sqlite", path)) => Ok(Database::Sqlite(reading.resolve(path.strip_prefix("//").unwrap_or(path)))),
        Some(("postgres" | "postgresql", _)) => match Url::parse(text) {
            Ok(url) if url.host_str().is_some_and(|host| !host.is_empty()) && url.path().len() > 1 => {
                Ok(Database::Postgres(secret.clone()))
            }
            Ok(_) => refuse("names no host or no database"),
            Err(_) => refuse("is no URL"),
        },
        _ => refuse("is no database that is known"),
    }
}
