//! Which addresses may be dialled: an integrator's URL must not become a way into our own network.
//!
//! IPv4 is denied by list, after the IANA registry of special-purpose addresses (RFC 6890 and its successors) and with
//! Azure's 168.63.129.16, which is numbered publicly and answers only from within. IPv6 is allowed by list: global
//! unicast, less the parts of it that lead elsewhere, so that no list of denied ranges can miss one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

use super::own::{self, Where};
use crate::config;
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

/// Last labels of names that inner networks use.
const INNER_NAMES: [&str; 5] = ["localhost", "local", "internal", "lan", "home.arpa"];

/// The rules on where requests may go. Clones share them.
#[derive(Debug, Clone)]
pub struct Guard {
    rules: Arc<config::Egress>,
}

impl Guard {
    /// The rules that the configuration states.
    #[must_use]
    pub fn new(config: &config::Egress) -> Self {
        Self { rules: Arc::new(config.clone()) }
    }

    /// Judges what can be judged before a name is resolved: scheme, host and port. The HTTP client asks no resolver about
    /// a host that is an address, so nothing behind this would notice; nor would anything where a proxy resolves names.
    ///
    /// # Errors
    /// [`Forbidden`]: the request must not be made.
    pub fn judge_url(&self, url: &Url) -> Result<(), Forbidden> {
        match url.scheme() {
            "https" => {}
            "http" if self.rules.allow_http => {}
            "http" => return Err(Forbidden::PlainHttp),
            _ => return Err(Forbidden::Url),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Forbidden::Url);
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else { return Err(Forbidden::Url) };
        match literal(&host) {
            Some(address) => self.judge_dialled(address, port)?,
            None => self.judge_name(&host.to_string(), port)?,
        }
        if self.rules.ports.admit(port) { Ok(()) } else { Err(Forbidden::Port) }
    }

    /// Judges an address that is about to be dialled, whatever the port. An IPv4 address in IPv6 clothes (`::ffff:0:0/96`) is
    /// judged as what will be dialled, the IPv4 address.
    ///
    /// # Errors
    /// [`Forbidden::Address`] or [`Forbidden::Denied`]
    pub fn judge(&self, address: IpAddr) -> Result<(), Forbidden> {
        let address = address.to_canonical();
        let rules = &self.rules;
        let within = |networks: &[IpNet], address: IpAddr| networks.iter().any(|network| network.contains(&address));
        if within(&rules.deny_cidrs, address) || leads_to(address).is_some_and(|inner| within(&rules.deny_cidrs, inner.into())) {
            return Err(Forbidden::Denied);
        }
        let is_admitted = |address| is_public(address) || within(&rules.allow_cidrs, address);
        // A network that leads on to IPv4 (NAT64) is no way round what is denied there.
        if rules.allow_private_networks || (is_admitted(address) && leads_to(address).is_none_or(|inner| is_admitted(inner.into()))) {
            return Ok(());
        }
        Err(Forbidden::Address)
    }

    /// Whether some address of our own has this port, so that who dials it must be judged by [`Self::judge_dialled`].
    pub(super) fn is_own_port(&self, port: u16) -> bool {
        self.rules.own.iter().any(|own| own.port == port)
    }

    /// Judges an address and port as they are about to be dialled: as [`Self::judge`], and none of our own.
    pub(super) fn judge_dialled(&self, address: IpAddr, port: u16) -> Result<(), Forbidden> {
        // What is our own is denied for that reason, wherever it is.
        let is_at = |own: &&_| own::is_at(own, address) || leads_to(address).is_some_and(|inner| own::is_at(own, inner.into()));
        let ours = self.rules.own.iter().filter(|own| own.port == port).any(|own| is_at(&own));
        if ours { Err(Forbidden::Own) } else { self.judge(address) }
    }

    /// Where the addresses of our own that have a name and this port are: what [`Self::judge_dialled`] cannot know.
    pub(super) async fn judge_named(&self, addresses: &[IpAddr], port: u16) -> Result<(), Forbidden> {
        for own in self.rules.own.iter().filter(|own| own.port == port) {
            match own::find(own).await {
                Where::At(ours) if addresses.iter().any(|address| ours.contains(&own::as_dialled(*address))) => return Err(Forbidden::Own),
                // In doubt it is: nothing else has a reason to be at such a port.
                Where::Unknown => return Err(Forbidden::Own),
                Where::At(_) => {}
            }
        }
        Ok(())
    }

    fn judge_name(&self, name: &str, port: u16) -> Result<(), Forbidden> {
        let plain = name.trim_end_matches('.');
        let is = |host: &str| host.trim_end_matches('.').eq_ignore_ascii_case(plain);
        // Its name is looked up without being judged, so it is nobody else's at any port.
        let is_proxy = self.rules.proxy.as_ref().is_some_and(|proxy| is(proxy.host()));
        if is_proxy || self.rules.own.iter().any(|own| own.port == port && is(&own.host)) {
            return Err(Forbidden::Own);
        }
        if self.rules.admits_inner_names() || !(name.ends_with('.') || is_inner(plain)) { Ok(()) } else { Err(Forbidden::Name) }
    }
}

/// The host as an address, if it is one. The URL parser turns every spelling of an IPv4 address into one; a name is looked
/// at again for what it may miss.
fn literal(host: &Host<&str>) -> Option<IpAddr> {
    match host {
        Host::Ipv4(address) => Some((*address).into()),
        Host::Ipv6(address) => Some((*address).into()),
        Host::Domain(name) => name.trim_end_matches('.').parse().ok(),
    }
}

/// Whether a name, without a dot at its end, is one of an inner network.
fn is_inner(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !name.contains('.')
        || INNER_NAMES.iter().any(|inner| name == *inner || name.strip_suffix(inner).is_some_and(|rest| rest.ends_with('.')))
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !DENIED_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => ALLOWED_V6.contains(&address) && !DENIED_V6.iter().any(|network| network.contains(&address)),
    }
}

/// The IPv4 address that a gateway on the way may make of an IPv6 address.
fn leads_to(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [.., e, f, g, h] = address.octets();
    let last = Ipv4Addr::new(e, f, g, h);
    match address.segments() {
        // IPv4-compatible, IPv4-translated and NAT64.
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, ..] => Some(last),
        // 6to4.
        [0x2002, high, low, ..] => Some(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))),
        // Teredo, which writes it inverted.
        [0x2001, 0, ..] => Some(Ipv4Addr::from_bits(!last.to_bits())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict() -> Guard {
        Guard::new(&config::Egress::default())
    }

    fn networks(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|network| network.parse().unwrap()).collect()
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
        let guard = strict();
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
        let guard = strict();
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
    fn private_networks_are_allowed_one_by_one_or_all_and_what_is_denied_stays_denied() {
        let (allow_cidrs, deny_cidrs) = (networks(&["10.1.0.0/16", "fd00::/8"]), networks(&["10.1.7.0/24", "1.1.1.1/32", "fd07::/16"]));
        let some = Guard::new(&config::Egress { allow_cidrs, deny_cidrs: deny_cidrs.clone(), ..config::Egress::default() });
        for (address, expected) in [
            ("10.1.255.255", Ok(())),
            ("::ffff:10.1.0.1", Ok(())),
            ("fd12::1", Ok(())),
            ("8.8.8.8", Ok(())),
            ("10.2.0.0", Err(Forbidden::Address)),
            ("127.0.0.1", Err(Forbidden::Address)),
            ("fe80::1", Err(Forbidden::Address)),
            ("10.1.7.7", Err(Forbidden::Denied)),
            ("::ffff:10.1.7.7", Err(Forbidden::Denied)),
            ("1.1.1.1", Err(Forbidden::Denied)),
            ("fd07::1", Err(Forbidden::Denied)),
        ] {
            assert_eq!(some.judge(address.parse().unwrap()), expected, "{address}");
        }
        let all = Guard::new(&config::Egress { deny_cidrs, ..config::Egress::anywhere() });
        for address in ["127.0.0.1", "::1", "169.254.169.254", "10.1.6.7"] {
            assert_eq!(all.judge(address.parse().unwrap()), Ok(()), "{address}");
        }
        // A gateway would make 10.1.7.7 of these: compatible, translated, NAT64, 6to4, Teredo.
        for address in ["10.1.7.7", "::10.1.7.7", "::ffff:0:10.1.7.7", "64:ff9b::10.1.7.7", "2002:a01:707::", "2001:0:1:1:1:1:f5fe:f8f8"] {
            assert_eq!(all.judge(address.parse().unwrap()), Err(Forbidden::Denied), "{address}");
        }
    }

    #[test]
    fn names_of_inner_networks_are_refused_unless_such_networks_are_admitted() {
        const INNER: [&str; 12] = [
            "localhost",
            "LOCALHOST",
            "a.localhost",
            "printer",
            "printer.local",
            "metadata.google.internal",
            "box.lan",
            "x.home.arpa",
            "home.arpa",
            "acme.example.",
            "localhost.",
            "internal",
        ];
        let cidrs = config::Egress { allow_cidrs: networks(&["10.0.0.0/8"]), ..config::Egress::default() };
        let far = config::Egress { proxy: Some(config::Proxy::parse("socks5h://p.example:1080").unwrap()), ..cidrs.clone() };
        let all = config::Egress { allow_private_networks: true, ..config::Egress::default() };
        for name in INNER {
            let url = Url::parse(&format!("https://{name}/")).unwrap();
            assert_eq!(strict().judge_url(&url), Err(Forbidden::Name), "{name}");
            assert_eq!(Guard::new(&far).judge_url(&url), Err(Forbidden::Name), "{name}");
            for admitted in [&cidrs, &all] {
                assert_eq!(Guard::new(admitted).judge_url(&url), Ok(()), "{name}");
            }
        }
        for name in
            ["acme.example", "local.example", "mylocal.example", "notinternal.example", "xn--bcher-kva.example", "lan.de", "arpa.de"]
        {
            assert_eq!(strict().judge_url(&Url::parse(&format!("https://{name}/")).unwrap()), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_port_must_be_among_those_allowed() {
        let judge = |guard: &Guard, url: &str| guard.judge_url(&Url::parse(url).unwrap());
        for (url, expected) in [
            ("https://acme.example/", Ok(())),
            ("https://acme.example:443/", Ok(())),
            ("https://acme.example:8443/", Ok(())),
            ("https://acme.example:22/", Err(Forbidden::Port)),
            ("https://1.1.1.1:6379/", Err(Forbidden::Port)),
        ] {
            assert_eq!(judge(&strict(), url), expected, "{url}");
            assert_eq!(judge(&Guard::new(&config::Egress::anywhere()), url), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_network_that_leads_on_to_ipv4_leads_to_what_is_admitted_there_alone() {
        let guard = Guard::new(&config::Egress { allow_cidrs: networks(&["64:ff9b::/96"]), ..config::Egress::default() });
        assert_eq!(guard.judge("64:ff9b::808:808".parse().unwrap()), Ok(()), "8.8.8.8");
        for inner in ["64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::a00:1"] {
            assert_eq!(guard.judge(inner.parse().unwrap()), Err(Forbidden::Address), "{inner}");
        }
        let own = vec![config::OwnAddress { host: "203.0.113.7".to_owned(), port: 5672 }];
        let guard = Guard::new(&config::Egress { own, ..config::Egress::anywhere() });
        assert_eq!(guard.judge_dialled("64:ff9b::cb00:7107".parse().unwrap(), 5672), Err(Forbidden::Own));
    }

    #[test]
    fn what_is_our_own_is_never_an_endpoint() {
        let own = |host: &str, port| config::OwnAddress { host: host.to_owned(), port };
        let proxy = config::Proxy::parse("http://proxy.example:3128").unwrap();
        let own = vec![own("127.0.0.1", 9464), own("rabbit.example", 5672), own("0.0.0.0", 9465), proxy.address()];
        let guard = Guard::new(&config::Egress { own, proxy: Some(proxy), ..config::Egress::anywhere() });
        let judge = |url: &str| guard.judge_url(&Url::parse(url).unwrap());
        for url in [
            "http://127.0.0.1:9464/metrics",
            "http://[::ffff:127.0.0.1]:9464/",
            "http://0.0.0.0:9464/",
            "http://[::]:9465/",
            "http://127.9.9.9:9465/",
            "http://[::1]:9465/",
            "http://rabbit.example:5672/",
            "http://RABBIT.example.:5672/",
            "http://proxy.example:3128/",
            "http://proxy.example/",
        ] {
            assert_eq!(judge(url), Err(Forbidden::Own), "{url}");
        }
        for url in
            ["http://127.0.0.1:9463/", "http://127.0.0.2:9464/", "http://rabbit.example/", "http://8.8.8.8:9465/", "http://8.8.8.8:5672/"]
        {
            assert_eq!(judge(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_url_is_judged_by_its_scheme_and_by_every_spelling_of_an_address() {
        let guard = strict();
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
        assert_eq!(judge("https://user@acme.example/"), Err(Forbidden::Url));
        assert_eq!(judge("https://:word@acme.example/"), Err(Forbidden::Url));
    }
}
