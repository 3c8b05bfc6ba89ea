//! Addresses of our own: the admin side, the broker and the egress proxy are no endpoints, whatever else is allowed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use tokio::time::timeout;

use crate::config::OwnAddress;

/// Limit on looking up a name of our own: whoever waits has a limit of 5 s on the whole connection.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// Where something with a name of our own is.
pub(super) enum Where {
    /// At these addresses; nowhere where it has no name but an address.
    At(Vec<IpAddr>),
    /// Its name cannot be looked up now.
    Unknown,
}

/// Whether who dials `dialled` reaches this host. A host with a name is nowhere here: [`find`] finds it.
pub(super) fn is_at(own: &OwnAddress, dialled: IpAddr) -> bool {
    let Ok(own) = own.host.trim_matches(['[', ']']).parse::<IpAddr>() else { return false };
    let (own, dialled) = (own.to_canonical(), as_dialled(dialled));
    if own.is_unspecified() { is_this_machine(dialled) } else { own == dialled }
}

/// Looks up a host that has a name.
pub(super) async fn find(own: &OwnAddress) -> Where {
    let host = own.host.as_str();
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Where::At(Vec::new());
    }
    match timeout(LOOKUP_LIMIT, tokio::net::lookup_host((host, own.port))).await {
        Ok(Ok(found)) => Where::At(found.map(|address| as_dialled(address.ip())).collect()),
        Ok(Err(_)) | Err(_) => Where::Unknown,
    }
}

/// What the system dials: `0.0.0.0` and `::` lead to this machine itself.
pub(super) fn as_dialled(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// Whether an address is one of this machine's: only those can be bound.
fn is_this_machine(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(host: &str) -> OwnAddress {
        OwnAddress { host: host.to_owned(), port: 1 }
    }

    #[test]
    fn an_address_of_all_interfaces_is_every_address_of_this_machine() {
        for (host, dialled, expected) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("127.0.0.1", "0.0.0.0", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("::1", "::", true),
            ("[::1]", "::1", true),
            ("0.0.0.0", "127.0.0.1", true),
            ("::", "127.3.4.5", true),
            ("::", "::1", true),
            ("0.0.0.0", "1.1.1.1", false),
            ("rabbit.example", "127.0.0.1", false),
        ] {
            assert_eq!(is_at(&own(host), dialled.parse().unwrap()), expected, "{host} {dialled}");
        }
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_in_doubt_unknown() {
        let Where::At(found) = find(&own("localhost")).await else { panic!("localhost is somewhere") };
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty());
        assert!(matches!(find(&own("does-not-exist.invalid")).await, Where::Unknown));
        assert!(matches!(find(&own("10.0.0.1")).await, Where::At(found) if found.is_empty()));
    }
}
