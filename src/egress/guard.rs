//! Which addresses may be dialled: an integrator's URL must not become a way into our own network.
//!
//! IPv4 is denied by list, after the IANA registry of special-purpose addresses (RFC 6890 and its successors) and with
//! Azure's 168.63.129.16, which is numbered publicly and answers only from within. IPv6 is allowed by list: global
//! unicast, less the parts of it that lead elsewhere, so that no list of denied ranges can miss one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use url::{Host, Url};

use crate::config::{self, PrivateNetworks};
use crate::domain::reply::Forbidden;

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// IPv4 networks that are not the public internet.
const DENIED_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),        // this network
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // carrier-grade NAT; Alibaba's metadata service
    v4(127, 0, 0, 0, 8),      // loopback
    v4(168, 63, 129, 16, 32), // Azure's platform services
    v4(169, 254, 0, 0, 16),   // link-local; metadata services
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments; Oracle's metadata service
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarks
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved; broadcast
];

/// IPv6 global unicast.
const ALLOWED_V6: Ipv6Net = v6(0x2000, 0, 3);

/// Parts of [`ALLOWED_V6`] that are not the public internet or lead on to an IPv4 address.
const DENIED_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 23),     // Teredo, ORCHID, benchmarks and other protocol assignments
    v6(0x2001, 0xdb8, 32), // documentation
    v6(0x2002, 0, 16),     // 6to4
    v6(0x3fff, 0, 20),     // documentation
];

/// The rules on where requests may go.
#[derive(Debug, Clone)]
pub struct Guard {
    allow_http: bool,
    private: PrivateNetworks,
}

impl Guard {
    /// The rules that the configuration states.
    #[must_use]
    pub fn new(config: &config::Egress) -> Self {
        Self { allow_http: config.allow_http, private: config.private.clone() }
    }

    /// Judges what can be judged before a name is resolved: the scheme, and a host that is an address. The HTTP client
    /// asks no resolver about such a host, so nothing behind this would notice.
    ///
    /// # Errors
    /// [`Forbidden`]: the request must not be made.
    pub fn judge_url(&self, url: &Url) -> Result<(), Forbidden> {
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => return Err(Forbidden::PlainHttp),
            _ => return Err(Forbidden::Url),
        }
        match url.host() {
            None => Err(Forbidden::Url),
            Some(Host::Ipv4(address)) => self.judge(address.into()),
            Some(Host::Ipv6(address)) => self.judge(address.into()),
            // The URL parser turns every spelling of an IPv4 address into one; this is for what it may miss.
            Some(Host::Domain(name)) => match name.trim_end_matches('.').parse() {
                Ok(address) => self.judge(address),
                Err(_) => Ok(()),
            },
        }
    }

    /// Judges an address that is about to be dialled. An IPv4 address in IPv6 clothes (`::ffff:0:0/96`) is judged as
    /// what will be dialled, the IPv4 address.
    ///
    /// # Errors
    /// [`Forbidden::Address`]
    pub fn judge(&self, address: IpAddr) -> Result<(), Forbidden> {
        let address = address.to_canonical();
        let allowed = match &self.private {
            PrivateNetworks::Allowed => true,
            PrivateNetworks::Denied => is_public(address),
            PrivateNetworks::Only(networks) => is_public(address) || networks.iter().any(|network| network.contains(&address)),
        };
        if allowed { Ok(()) } else { Err(Forbidden::Address) }
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !DENIED_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => ALLOWED_V6.contains(&address) && !DENIED_V6.iter().any(|network| network.contains(&address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(private: PrivateNetworks) -> Guard {
        Guard { allow_http: false, private }
    }

    /// The last address before each denied IPv4 network, its first, its last, and the one after.
    const IPV4: [(&str, &str, &str, &str); 13] = [
        ("-", "0.0.0.0", "0.255.255.255", "1.0.0.0"),
        ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
        ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"),
        ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"),
        ("168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17"),
        ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"),
        ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"),
        ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"),
        ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"),
        ("192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"),
        ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"),
        ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"),
        ("223.255.255.255", "224.0.0.0", "255.255.255.255", "-"),
    ];

    const IPV6: [(&str, &str, &str, &str); 6] = [
        ("-", "::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"),
        ("2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"),
        ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::"),
        ("2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"),
        ("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"),
        ("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "-"),
    ];

    #[test]
    fn every_denied_network_begins_and_ends_where_the_registry_says() {
        let guard = guard(PrivateNetworks::Denied);
        for (before, first, last, after) in IPV4.into_iter().chain(IPV6) {
            for (address, expected) in
                [(before, Ok(())), (first, Err(Forbidden::Address)), (last, Err(Forbidden::Address)), (after, Ok(()))]
            {
                if address != "-" {
                    assert_eq!(guard.judge(address.parse().unwrap()), expected, "{address}");
                }
            }
        }
        for (documentation, after) in [("198.51.100.0", "198.51.101.0"), ("203.0.113.255", "203.0.112.255")] {
            assert_eq!(guard.judge(documentation.parse().unwrap()), Err(Forbidden::Address));
            assert_eq!(guard.judge(after.parse().unwrap()), Ok(()));
        }
    }

    #[test]
    fn what_leads_on_to_an_inner_address_is_denied() {
        let guard = guard(PrivateNetworks::Denied);
        for address in [
            "::1",
            "::127.0.0.1",            // IPv4-compatible
            "::ffff:127.0.0.1",       // IPv4-mapped
            "::ffff:169.254.169.254", // a metadata service, mapped
            "::ffff:0:127.0.0.1",     // IPv4-translated
            "64:ff9b::7f00:1",        // NAT64
            "64:ff9b:1::a00:1",       // NAT64, local
            "100::1",                 // discard
            "2001:0:7f00:1::",        // Teredo
            "2002:7f00:1::",          // 6to4
            "5f00::1",                // segment routing
            "fc00::1",
            "fd00:ec2::254", // a metadata service
            "fe80::1",
            "fec0::1", // site-local, deprecated
            "ff02::1",
            "100.100.100.200", // a metadata service
            "192.0.0.192",     // a metadata service
        ] {
            assert_eq!(guard.judge(address.parse().unwrap()), Err(Forbidden::Address), "{address}");
        }
        for address in ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "2a00:1450:4001:82a::200e", "::ffff:1.1.1.1"] {
            assert_eq!(guard.judge(address.parse().unwrap()), Ok(()), "{address}");
        }
    }

    #[test]
    fn private_networks_are_allowed_one_by_one_or_all() {
        let some = guard(PrivateNetworks::Only(vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()]));
        for (address, expected) in [
            ("10.1.255.255", Ok(())),
            ("::ffff:10.1.0.1", Ok(())),
            ("fd12::1", Ok(())),
            ("8.8.8.8", Ok(())),
            ("10.2.0.0", Err(Forbidden::Address)),
            ("127.0.0.1", Err(Forbidden::Address)),
            ("fe80::1", Err(Forbidden::Address)),
        ] {
            assert_eq!(some.judge(address.parse().unwrap()), expected, "{address}");
        }
        let all = guard(PrivateNetworks::Allowed);
        for address in ["127.0.0.1", "::1", "169.254.169.254"] {
            assert_eq!(all.judge(address.parse().unwrap()), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_url_is_judged_by_its_scheme_and_by_every_spelling_of_an_address() {
        let guard = guard(PrivateNetworks::Denied);
        let judge = |url: &str| guard.judge_url(&Url::parse(url).unwrap());
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "017700000001",
            "0",
            "0.0.0.0",
            "127.0.0.1.",
            "①②⑦.0.0.1",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "[::1]",
            "[::]",
            "[::ffff:7f00:1]",
            "[::ffff:127.0.0.1]",
            "[0:0:0:0:0:ffff:7f00:0001]",
            "169.254.169.254",
        ] {
            assert_eq!(judge(&format!("https://{host}/")), Err(Forbidden::Address), "{host}");
        }
        assert_eq!(judge("https://1.1.1.1/"), Ok(()));
        assert_eq!(judge("https://acme.example/"), Ok(()));
        assert_eq!(judge("http://acme.example/"), Err(Forbidden::PlainHttp));
        assert_eq!(judge("ftp://acme.example/"), Err(Forbidden::Url));
        assert_eq!(judge("data:x"), Err(Forbidden::Url));
    }
}
