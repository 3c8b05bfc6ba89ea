//! Section `[egress]`: where requests may go.

use ipnet::IpNet;
use toml::Value;

use super::kinds::{Fault, boolean};
use super::problems::quoted;
use super::section::Section;

/// Where requests may go.
#[derive(Debug, Clone)]
pub struct Egress {
    /// Admit `http://` beside `https://`.
    pub allow_http: bool,
    /// Whether private and loopback addresses may be called.
    pub private: PrivateNetworks,
}

/// Which addresses that are not on the public internet may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivateNetworks {
    /// None.
    Denied,
    /// All.
    Allowed,
    /// Those in these networks.
    Only(Vec<IpNet>),
}

/// Most networks: each request looks through all of them.
const LIMIT: usize = 100;

pub(super) fn read(section: &mut Section<'_>) -> Egress {
    Egress {
        allow_http: section.or("allow_http", false, boolean),
        private: section.or("allow_private_networks", PrivateNetworks::Denied, private_networks),
    }
}

fn private_networks(value: &Value) -> Result<PrivateNetworks, Fault> {
    match value {
        Value::Boolean(false) => Ok(PrivateNetworks::Denied),
        Value::Boolean(true) => Ok(PrivateNetworks::Allowed),
        Value::Array(networks) if networks.len() > LIMIT => Err(Fault::content(format!("has more than {LIMIT} networks"))),
        Value::Array(networks) => networks.iter().map(network).collect::<Result<_, _>>().map(PrivateNetworks::Only),
        other => Err(Fault::kind(other, r#"true, false or list of networks such as ["10.0.0.0/8"]"#)),
    }
}

fn network(value: &Value) -> Result<IpNet, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::content(r#"a network is a text such as "10.0.0.0/8""#))?;
    let network: IpNet = text.parse().map_err(|_| Fault::content(format!(r#"{} is no network such as "10.0.0.0/8""#, quoted(text))))?;
    if network != network.trunc() {
        return Err(Fault::content(format!("{} has an address within a network; write \"{}\"", quoted(text), network.trunc())));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_networks_are_denied_allowed_or_listed() {
        let read = |toml: &str| private_networks(&toml.parse().unwrap()).map_err(Fault::into_text);
        assert_eq!(read("false"), Ok(PrivateNetworks::Denied));
        assert_eq!(read("true"), Ok(PrivateNetworks::Allowed));
        let listed = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec();
        assert_eq!(read("['10.0.0.0/8', 'fd00::/8']"), Ok(PrivateNetworks::Only(listed)));
        assert_eq!(read("['10.0.0.7/8']").unwrap_err(), r#""10.0.0.7/8" has an address within a network; write "10.0.0.0/8""#);
        assert_eq!(read("['10.0.0.7']").unwrap_err(), r#""10.0.0.7" is no network such as "10.0.0.0/8""#);
        assert_eq!(read("[7]").unwrap_err(), r#"a network is a text such as "10.0.0.0/8""#);
        assert!(read("'yes'").unwrap_err().starts_with("a text is no true, false or list"));
    }
}
