//! The static headers of an endpoint: the integrator's own, never one that belongs to the request itself.

use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret as _;
use toml::Value;

use super::kinds::Fault;
use super::reading::Reading;
use super::secret::secret;
use super::section::Section;

/// Most headers of an endpoint.
const LIMIT: usize = 32;

/// Longest value, in bytes: common servers refuse more than 8 KiB for a header.
const VALUE_LIMIT: usize = 4096;

/// Headers that the request, the connection or the delivery itself sets.
const FORBIDDEN: [&str; 14] = [
    "host",
    "content-length",
    "content-type",
    "user-agent",
    "transfer-encoding",
    "connection",
    "te",
    "upgrade",
    "trailer",
    "expect",
    "keep-alive",
    "traceparent",
    "tracestate",
    "content-encoding",
];

/// Beginnings of such headers.
const FORBIDDEN_PREFIXES: [&str; 3] = ["proxy-", "webhook-", "callback-"];

/// Reads a table of headers, their values marked sensitive.
pub(super) fn read(section: &mut Section<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let table = section.take_all();
    if table.len() > LIMIT {
        section.problem_here(format!("has {} headers, at most {LIMIT} are allowed", table.len()));
        return headers;
    }
    for (key, value) in table {
        let reading = section.reading();
        let name = header_name(&key).map_err(|fault| section.problem(&key, fault.into_text())).ok();
        let value = reading.parse(&section.path_of(&key), &value, |value| header_value(reading, value));
        if let (Some(name), Some(value)) = (name, value)
            && headers.insert(name, value).is_some()
        {
            section.problem(&key, "stands there twice (capitals make no other header)");
        }
    }
    headers
}

fn header_name(key: &str) -> Result<HeaderName, Fault> {
    let name: HeaderName = key.parse().map_err(|_| Fault::content("is no name of a header"))?;
    if FORBIDDEN.contains(&name.as_str()) || FORBIDDEN_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)) {
        return Err(Fault::content("this header is set by the delivery itself"));
    }
    Ok(name)
}

fn header_value(reading: &Reading<'_>, value: &Value) -> Result<HeaderValue, Fault> {
    let secret = secret(reading)(value)?;
    let text = secret.expose_secret();
    if text.len() > VALUE_LIMIT {
        return Err(Fault::content(format!("is over {VALUE_LIMIT} bytes long")));
    }
    if text.trim() != text {
        return Err(Fault::content("has a space, tab or line break at an end, which HTTP would lose"));
    }
    // What is beyond ASCII the client would send as it is, and servers read it in different ways.
    let value = HeaderValue::from_str(text).ok().filter(|_| text.is_ascii());
    let mut value = value.ok_or_else(|| Fault::content("has a control or non-ASCII character"))?;
    value.set_sensitive(true);
    Ok(value)
}
