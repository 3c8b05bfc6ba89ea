//! Key `proxy` of `[egress]`: what every connection to an endpoint is made through.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use toml::Value;
use url::Url;

use super::egress::OwnAddress;
use super::kinds::Fault;
use super::reading::Reading;
use super::secret::secret;
use super::wanted::Wanted;

/// A proxy, with its credentials. Prints without them.
#[derive(Clone)]
pub struct Proxy {
    kind: Kind,
    host: String,
    port: u16,
    url: SecretString,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `http://`: HTTP CONNECT; names are resolved there.
    Http,
    /// `socks5://`: names are resolved, and addresses vetted, here.
    Socks,
    /// `socks5h://`: names are resolved there.
    SocksResolving,
}

impl Proxy {
    /// Reads `http://`, `socks5://` or `socks5h://` with host and port, and user and password where it wants them.
    ///
    /// # Errors
    /// What is wrong, without the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        const HINT: &str = "write for example http://user:password@proxy.example:3128 or socks5h://proxy.example:1080";
        let refuse = |what: &str| Err(format!("{what}; {HINT}"));
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refuse("has a space, control or non-ASCII character");
        }
        let Ok(url) = Url::parse(text) else { return refuse("is no URL") };
        let kind = match url.scheme() {
            "http" => Kind::Http,
            "socks5" => Kind::Socks,
            "socks5h" => Kind::SocksResolving,
            _ => return refuse("does not start with http://, socks5:// or socks5h://"),
        };
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else { return refuse("has no host") };
        let Some(port) = url.port_or_known_default().filter(|port| *port > 0) else { return refuse("has no port") };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return refuse("has more than host and port");
        }
        // The client reads it once more in its own way, and would connect directly if it could not.
        if !url.as_str().parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|read| read.eq_ignore_ascii_case(host))) {
            return refuse("cannot be read by the HTTP client; percent-encode what is special in user and password");
        }
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        Ok(Self { kind, host, port, url: String::from(url).into() })
    }

    /// Whether it speaks HTTP.
    #[must_use]
    pub fn is_http(&self) -> bool {
        self.kind == Kind::Http
    }

    /// Whether names are resolved before it is asked, so that their addresses can be judged.
    #[must_use]
    pub fn resolves_here(&self) -> bool {
        self.kind == Kind::Socks
    }

    /// Its host: a name in lower case or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where it is, as an address that no endpoint has.
    #[must_use]
    pub fn address(&self) -> OwnAddress {
        OwnAddress { host: self.host.clone(), port: self.port }
    }

    /// The whole URL, for the client alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.url.expose_secret()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks => "socks5",
            Kind::SocksResolving => "socks5h",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a proxy, as secrets are given, or `false`.
pub(super) fn proxy<'r>(reading: &'r Reading<'r>) -> impl Fn(&Value) -> Result<Option<Proxy>, Fault> {
    move |value| match value {
        Value::Boolean(false) => Ok(None),
        value => {
            let secret = secret(reading)(value).map_err(|fault| match fault {
                Fault::Kind(text, _) => Fault::Kind(text, Wanted::SecretOrFalse),
                content @ Fault::Content(_) => content,
            })?;
            Proxy::parse(secret.expose_secret()).map(Some).map_err(Fault::content)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_prints_without_its_credentials() {
        for (text, shown) in [
            ("http://CANARY:CANARY@proxy.example:3128", "http://proxy.example:3128"),
            ("http://proxy.example", "http://proxy.example:80"),
            ("socks5h://CANARY:CANARY@Proxy.example:1080/", "socks5h://proxy.example:1080"),
            ("socks5://10.0.0.1:1080", "socks5://10.0.0.1:1080"),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!(format!("{proxy} {proxy:?}"), format!("{shown} {shown}"));
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_being_shown() {
        for (text, why) in [
            ("CANARY", "is no URL"),
            ("https://CANARY@p:1", "does not start with http://, socks5:// or socks5h://"),
            ("socks4://CANARY:1", "does not start with"),
            ("socks5h://CANARY", "has no port"),
            ("http://p:1/CANARY", "has more than host and port"),
            ("http://p:1/?CANARY", "has more than host and port"),
            ("http://p:1 CANARY", "has a space"),
        ] {
            let problem = Proxy::parse(text).unwrap_err();
            assert!(problem.starts_with(why) && !problem.contains("CANARY"), "{text}: {problem}");
        }
    }
}
