//! Section `[egress]`: where requests may go, and through what.

use std::net::SocketAddr;

use ipnet::IpNet;
use toml::Value;

use super::kinds::{Fault, any_text, boolean, described};
use super::problems::quoted;
use super::proxy::{Proxy, proxy};
use super::section::Section;
use super::wanted::Wanted;

/// Where requests may go, and through what. The default admits `https` to public hosts alone.
#[derive(Debug, Clone, Default)]
pub struct Egress {
    /// Admit `http://` beside `https://`.
    pub allow_http: bool,
    /// Admit all that is not on the public internet.
    pub allow_private_networks: bool,
    /// Networks that are admitted though they are not on the public internet.
    pub allow_cidrs: Vec<IpNet>,
    /// Networks that are denied whatever else is admitted.
    pub deny_cidrs: Vec<IpNet>,
    /// Ports that may be called.
    pub ports: Ports,
    /// What every connection is made through, instead of directly.
    pub proxy: Option<Proxy>,
    /// Addresses of our own, denied whatever is admitted.
    pub own: Vec<OwnAddress>,
}

/// Which ports may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// All.
    Any,
    /// These alone.
    Only(Vec<u16>),
}

/// A host and port that are part of callbackd itself, or that it stands on: no endpoint is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnAddress {
    /// A name or an IP address; `0.0.0.0` and `::` stand for every address of this machine.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Egress {
    /// Admits every host and port, `http` too: for tests and trials on one machine.
    #[must_use]
    pub fn anywhere() -> Self {
        Self { allow_http: true, allow_private_networks: true, ports: Ports::Any, ..Self::default() }
    }

    /// With the address that the admin side has got, where the configuration left the port open.
    #[must_use]
    pub fn listening(mut self, at: Option<SocketAddr>) -> Self {
        self.own.extend(at.map(|at| OwnAddress { host: at.ip().to_string(), port: at.port() }));
        self
    }

    /// Whether names of inner networks may be called: where such networks are admitted, their addresses decide, unless the
    /// proxy looks the addresses up.
    #[must_use]
    pub fn admits_inner_names(&self) -> bool {
        let here = self.proxy.as_ref().is_none_or(Proxy::resolves_here);
        self.allow_private_networks || (here && !self.allow_cidrs.is_empty())
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self::Only(HTTPS_PORTS.to_vec())
    }
}

impl Ports {
    /// Whether this one may be called.
    #[must_use]
    pub fn admit(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Only(ports) => ports.contains(&port),
        }
    }

    fn by_default(allow_http: bool, allow_private_networks: bool) -> Self {
        match (allow_private_networks, allow_http) {
            (true, _) => Self::Any,
            (false, true) => Self::Only([&HTTP_PORTS[..], &HTTPS_PORTS[..]].concat()),
            (false, false) => Self::default(),
        }
    }
}

const HTTP_PORTS: [u16; 1] = [80];
const HTTPS_PORTS: [u16; 2] = [443, 8443];

/// Most networks and ports of a list: each request looks through all of them.
const LIMIT: usize = 100;

pub(super) fn read(section: &mut Section<'_>) -> Egress {
    let reading = section.reading();
    let allow_http = section.or("allow_http", false, boolean);
    let allow_private_networks = section.or("allow_private_networks", false, private_networks);
    let proxy = section.or("proxy", None, proxy(reading));
    if allow_http && proxy.as_ref().is_some_and(Proxy::is_http) {
        let problem = "an http:// proxy carries https:// alone, and allow_http = true; use a socks5h:// proxy or leave allow_http out";
        section.problem("proxy", problem);
    }
    Egress {
        allow_http,
        allow_private_networks,
        allow_cidrs: section.list("allow_cidrs", LIMIT, network).unwrap_or_default(),
        deny_cidrs: section.list("deny_cidrs", LIMIT, network).unwrap_or_default(),
        ports: section.or("ports", Ports::by_default(allow_http, allow_private_networks), ports),
        proxy,
        own: Vec::new(),
    }
}

fn private_networks(value: &Value) -> Result<bool, Fault> {
    match value {
        Value::Array(_) => Err(Fault::content("is true or false; write a list of networks under allow_cidrs")),
        other => boolean(other),
    }
}

fn ports(value: &Value) -> Result<Ports, Fault> {
    const HINT: &str = r#"write "any" or for example [443, 8443]"#;
    match value {
        Value::String(text) if text == "any" => Ok(Ports::Any),
        Value::Array(ports) if ports.is_empty() => Err(Fault::content(format!("names none; {HINT}"))),
        Value::Array(ports) if ports.len() > LIMIT => Err(Fault::content(format!("has more than {LIMIT} ports; {HINT}"))),
        Value::Array(ports) => ports.iter().map(port).collect::<Result<_, _>>().map(Ports::Only),
        other => Err(Fault::kind(other, &format!("list of ports; {HINT}"), Wanted::Ports(LIMIT))),
    }
}

fn port(value: &Value) -> Result<u16, Fault> {
    let port = value.as_integer().and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    port.ok_or_else(|| Fault::content(format!("{} is no port; write 1 to 65535", described(value))))
}

fn network(value: &Value) -> Result<IpNet, Fault> {
    let text = any_text(value)?;
    let network: IpNet = text.parse().map_err(|_| Fault::content(format!(r#"{} is no network such as "10.0.0.0/8""#, quoted(text))))?;
    if network != network.trunc() {
        return Err(Fault::content(format!("{} has an address within a network; write \"{}\"", quoted(text), network.trunc())));
    }
    // Addresses are judged as what is dialled, and that is IPv4.
    if matches!(network, IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some()) {
        return Err(Fault::content(format!("{} is an IPv4 network in IPv6 clothes; write it as IPv4", quoted(text))));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::environment::Environment;
    use super::super::reading::Reading;
    use super::*;

    fn read_text(toml: &str) -> Result<Egress, Vec<String>> {
        let (path, environment) = (Path::new("x.toml"), Environment::default());
        let reading = Reading::of(path, &environment);
        let egress = Section::root(&reading, toml.parse().unwrap(), read);
        reading.finish(Some(egress)).map_err(|problems| problems.lines().to_vec())
    }

    #[test]
    fn a_network_is_written_with_its_first_address_in_its_own_family() {
        let read = |text: &str| network(&Value::from(text)).map_err(Fault::into_text);
        assert_eq!(read("10.0.0.0/8"), Ok("10.0.0.0/8".parse().unwrap()));
        assert_eq!(read("fd00::/8"), Ok("fd00::/8".parse().unwrap()));
        assert_eq!(read("10.0.0.7/8").unwrap_err(), r#""10.0.0.7/8" has an address within a network; write "10.0.0.0/8""#);
        assert_eq!(read("10.0.0.7").unwrap_err(), r#""10.0.0.7" is no network such as "10.0.0.0/8""#);
        let clothes = r#""::ffff:10.0.0.0/104" is an IPv4 network in IPv6 clothes; write it as IPv4"#;
        assert_eq!(read("::ffff:10.0.0.0/104").unwrap_err(), clothes);
        assert!(network(&Value::Integer(7)).is_err());
    }

    #[test]
    fn the_ports_by_default_are_those_of_what_is_allowed() {
        let ports = |toml: &str| read_text(toml).unwrap().ports;
        assert_eq!(ports(""), Ports::Only(vec![443, 8443]));
        assert_eq!(ports("allow_http = true"), Ports::Only(vec![80, 443, 8443]));
        assert_eq!(ports("allow_private_networks = true"), Ports::Any);
        assert_eq!(ports("allow_private_networks = true\nports = [7]"), Ports::Only(vec![7]));
        assert_eq!(ports("ports = 'any'"), Ports::Any);
        for (bad, why) in [
            ("[]", r#"names none; write "any" or for example [443, 8443]"#),
            ("'all'", r#"a text is no list of ports; write "any" or for example [443, 8443]"#),
            ("[0]", "0 is no port; write 1 to 65535"),
            ("[65536]", "65536 is no port; write 1 to 65535"),
            ("['443']", "a text is no port; write 1 to 65535"),
        ] {
            assert_eq!(read_text(&format!("ports = {bad}")).unwrap_err(), [format!("x.toml: ports: {why}")]);
        }
    }

    #[test]
    fn a_list_of_private_networks_has_a_key_of_its_own() {
        let problem = "x.toml: allow_private_networks: is true or false; write a list of networks under allow_cidrs";
        assert_eq!(read_text("allow_private_networks = ['10.0.0.0/8']").unwrap_err(), [problem]);
        let egress = read_text("allow_cidrs = ['10.0.0.0/8']\ndeny_cidrs = ['10.1.0.0/16']").unwrap();
        assert_eq!((egress.allow_cidrs.len(), egress.deny_cidrs.len(), egress.admits_inner_names()), (1, 1, true));
        assert!(!read_text("").unwrap().admits_inner_names());
        assert!(!read_text("allow_cidrs = ['10.0.0.0/8']\nproxy = 'socks5h://p:1080'").unwrap().admits_inner_names());
    }

    #[test]
    fn an_http_proxy_and_plain_http_do_not_go_together() {
        assert!(read_text("proxy = 'http://p:3128'").is_ok());
        assert!(read_text("proxy = 'socks5h://p:1080'\nallow_http = true").is_ok());
        let problems = read_text("proxy = 'http://p:3128'\nallow_http = true").unwrap_err();
        assert!(problems[0].starts_with("x.toml: proxy: an http:// proxy carries https:// alone"), "{problems:?}");
    }
}
