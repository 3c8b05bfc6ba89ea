//! Section `[traces]`: where the spans of deliveries go.

use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::egress::OwnAddress;
use super::headers;
use super::kinds::{Fault, duration, number, size};
use super::secret::secret;
use super::section::Section;

/// Where the spans of deliveries go.
#[derive(Debug, Clone)]
pub struct Traces {
    /// Where; `None` when it is off.
    pub endpoint: Option<Collector>,
    /// What each request says besides, such as who sends it; values are marked sensitive.
    pub headers: HeaderMap,
    /// The share of events that are traced of those whose publisher does not say.
    pub ratio: f64,
    /// Limit on one request.
    pub timeout: Duration,
    /// Bytes of spans that may wait to be exported; what comes on top is left out.
    pub memory: usize,
}

/// The URL of a collector. Prints scheme, host and port only.
#[derive(Clone)]
pub struct Collector(SecretString);

impl Traces {
    /// None.
    #[must_use]
    pub fn off() -> Self {
        // 1: as OpenTelemetry's own default; what is too much is best thrown away by the collector, which sees whole traces. 10 s: the
        // default of OTLP exporters.
        Self { endpoint: None, headers: HeaderMap::new(), ratio: 1.0, timeout: Duration::from_secs(10), memory: 8 << 20 }
    }
}

impl Collector {
    /// The whole URL, for the request alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Host and port, as an address that no endpoint of an integrator has.
    pub(super) fn address(&self) -> Option<OwnAddress> {
        let url = Url::parse(self.expose()).ok()?;
        Some(OwnAddress { host: url.host_str()?.to_ascii_lowercase(), port: url.port_or_known_default()? })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Url::parse(self.expose()) {
            Ok(url) => {
                let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
                write!(f, "{}://{host}:{port}", url.scheme())
            }
            Err(_) => f.write_str("(unreadable URL)"),
        }
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn read(section: &mut Section<'_>) -> Traces {
    let (off, reading) = (Traces::off(), section.reading());
    Traces {
        endpoint: section.optional("endpoint", |value| collector(&secret(reading)(value)?)),
        headers: section.section("headers", headers::read),
        ratio: section.or("ratio", off.ratio, number(0.0..=1.0)),
        timeout: section.or("timeout", off.timeout, duration(Duration::from_millis(100)..=Duration::from_secs(60))),
        memory: section.or("memory", off.memory, size(64 << 10..=1 << 40)),
    }
}

/// Never shows what it is given: paths and queries of collectors can hold keys.
fn collector(text: &SecretString) -> Result<Collector, Fault> {
    let hint = "write for example http://127.0.0.1:4318/v1/traces";
    let refuse = |what: &str| Err(Fault::content(format!("{what}; {hint}")));
    let Ok(url) = Url::parse(text.expose_secret()) else { return refuse("is no URL") };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return refuse("is no http:// or https:// URL with a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("has a user or password; put them into a header");
    }
    if url.path() == "/" {
        return refuse("has no path");
    }
    Ok(Collector(text.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_an_http_url_with_a_path_and_prints_without_it() {
        let read = |text: &str| collector(&text.into());
        let good = read("https://otel.example/v1/traces?key=SECRET").unwrap();
        assert_eq!((good.to_string(), format!("{good:?}")), ("https://otel.example:443".to_owned(), "https://otel.example:443".to_owned()));
        for (bad, why) in [
            ("SECRET", "is no URL"),
            ("grpc://host:4317/SECRET", "no http:// or https:// URL"),
            ("http://user:SECRET@host/v1/traces", "user or password"),
            ("http://127.0.0.1:4318", "has no path"),
        ] {
            let fault = read(bad).unwrap_err().into_text();
            assert!(fault.contains(why) && !fault.contains("SECRET"), "{bad}: {fault}");
        }
    }
}
