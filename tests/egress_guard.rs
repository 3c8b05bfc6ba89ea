//! Where requests must never go: hostile URLs at configuration and at an attempt, and every address against tables of their own.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use callbackd::config::{Egress as EgressConfig, Environment, OwnAddress, load_all, load_directory};
use callbackd::domain::policy::DeliveryPolicy;
use callbackd::domain::reply::{Failure, Forbidden, Outcome};
use callbackd::domain::request::CallbackRequest;
use callbackd::egress::{Egress, Guard};
use proptest::prelude::*;
use tokio::net::TcpListener;
use url::Url;

/// Spellings of 127.0.0.1 and its like: the URL parser understands them, and so does the guard.
const SPELLINGS: &str = "127.0.0.1 127.0.0.1. 127.1 127.0.1 127.1. 2130706433 0x7f000001 0X7F000001 0x7f.1 0x7f.0x0.0x0.0x1 0177.0.0.1 0177.1 \
    017700000001 0 0.0.0.0 0x0 127.255.255.254 ①②⑦.0.0.1 127。0。0。1 127．0．0．1 %31%32%37.0.0.1 127%2e0%2e0%2e1 [::1] [::] \
    [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:7f00:1] [::127.0.0.1] [::ffff:0:127.0.0.1] [64:ff9b::7f00:1] \
    [2002:7f00:1::] [2001:0:7f00:1::]";

/// First and last addresses of what is not the public internet, and metadata services.
const ADDRESSES: &str = "0.0.0.1 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 100.100.100.200 127.0.0.0 127.255.255.255 \
    168.63.129.16 169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.192 \
    192.0.0.255 192.0.2.0 192.0.2.255 192.88.99.0 192.88.99.255 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.0 \
    198.51.100.255 203.0.113.0 203.0.113.255 224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255 [::2] \
    [::ffff:10.0.0.1] [::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [64:ff9b::a9fe:a9fe] [64:ff9b:1::1] [100::1] [100:0:0:1::1] \
    [1fff:ffff::1] [2001::1] [2001:2::1] [2001:1ff:ffff::1] [2001:db8::1] [2001:db8:ffff::1] [2002:a00:1::1] [2002:ffff::1] \
    [3fff::1] [3fff:fff::1] [4000::1] [5f00::1] [fbff::1] [fc00::1] [fd00:ec2::254] [fdff::1] [fe80::1] [febf::1] [fec0::1] \
    [feff::1] [ff02::1] [ffff::1]";

/// Names that mean something in inner networks alone.
const NAMES: &str = "localhost LOCALHOST LocalHost localhost. a.localhost a.b.localhost localhost.localdomain. metadata metadata. \
    metadata.google.internal metadata.google.internal. METADATA.GOOGLE.INTERNAL instance-data.ec2.internal rabbitmq db kubernetes \
    printer.local nas.lan router.home.arpa home.arpa internal lan acme.example. xn--bcher-kva";

/// Ports that are no web server's.
const PORTS: &str = "1 22 25 80 444 2375 3306 5432 5672 6379 8080 9200 9464 11211 15672 65535";

/// Schemes and forms that are no `https://host/`.
const FORMS: [&str; 22] = [
    "http://acme.example/",
    "HTTP://acme.example/",
    "ftp://acme.example/",
    "file:///etc/passwd",
    "gopher://acme.example/",
    "data:text/plain,x",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "ws://acme.example/",
    "wss://acme.example/",
    "https+unix://x/",
    "dict://acme.example/",
    "https://",
    "https:///",
    "https://:443/",
    "https://@/",
    "",
    "acme.example",
    "//acme.example/",
    "https://[::1/",
    "https://a..example:99999/",
    "https://acme.example:-1/",
];

/// Credentials that hide where a URL leads.
const USERINFO: [&str; 8] = [
    "https://acme.example@127.0.0.1/",
    "https://acme.example:443@127.0.0.1/",
    "https://user@acme.example/",
    "https://user:word@acme.example/",
    "https://:word@acme.example/",
    "https://acme.example%40x@10.0.0.1/",
    "https://a@b@127.0.0.1/",
    "https://127.0.0.1:443#@acme.example/",
];

/// What the URL parser repairs, each in its own way: it would lead to acme.example, and other parsers elsewhere.
const REPAIRED: [&str; 17] = [
    "https://acme.example\\@127.0.0.1/",
    "https:\\\\acme.example\\",
    "https:acme.example",
    "https:/acme.example/",
    "https:////acme.example/",
    "https://acme\t.example/",
    "https://acme.exa\nmple/",
    " https://acme.example/",
    "https://acme.example/\r\nhost: x",
    "https://ａcme.example/",
    "https://acme。example/",
    "https://%61cme.example/",
    "https://acme.example:0443/",
    "https://acme.example:/",
    "https://acme.example/#fragment",
    "https://acme.example/ü",
    "https://acme.exam\u{ad}ple/",
];

/// Good ones: a guard that refuses everything is no guard.
const GOOD: [&str; 24] = [
    "https://acme.example/",
    "https://acme.example",
    "HTTPS://ACME.EXAMPLE/Hook",
    "https://acme.example:443/",
    "https://acme.example:8443/hook",
    "https://hooks.eu.acme.example/a/b/c?x=1&y=%20",
    "https://acme.example/?url=http://127.0.0.1/",
    "https://acme.example/@127.0.0.1",
    "https://acme.example/a:b@c",
    "https://xn--bcher-kva.example/",
    "https://localhost.example/",
    "https://internal.example/",
    "https://mylocal.example/",
    "https://127.0.0.1.acme.example/",
    "https://10-0-0-1.acme.example/",
    "https://1.1.1.1/",
    "https://8.8.8.8:8443/",
    "https://172.15.255.255/",
    "https://172.32.0.0/",
    "https://169.253.255.255/",
    "https://[2606:4700:4700::1111]/",
    "https://[2a00:1450:4001:82a::200e]:8443/",
    "https://a-b.c-d.example/",
    "https://1a.example/",
];

fn hosts() -> impl Iterator<Item = &'static str> {
    [SPELLINGS, ADDRESSES, NAMES].into_iter().flat_map(str::split_whitespace)
}

fn hostile() -> Vec<String> {
    let hosts = hosts().map(|host| format!("https://{host}/hook/CANARY?token=CANARY"));
    let ports = PORTS.split_whitespace().map(|port| format!("https://acme.example:{port}/"));
    let whole = FORMS.iter().chain(&USERINFO).map(|url| (*url).to_owned());
    hosts.chain(ports).chain(whole).collect()
}

/// What a configuration with this URL has for problems.
fn problems(folder: &Path, egress: &EgressConfig, url: &str) -> Vec<String> {
    let path = folder.join("integrators.toml");
    std::fs::write(&path, format!("[[integrator]]\nkey = 'acme'\nendpoint = [{{ id = 'main', url = \"{}\" }}]\n", escaped(url))).unwrap();
    let loaded = load_directory(&path, None, &DeliveryPolicy::default(), egress, &Environment::default());
    loaded.map_or_else(|problems| problems.lines().to_vec(), |_| Vec::new())
}

/// As TOML writes a text.
fn escaped(text: &str) -> String {
    let plain = |character: char| character.is_ascii_graphic() && !matches!(character, '"' | '\\');
    text.chars()
        .map(|character| if plain(character) { character.to_string() } else { format!("\\u{:04X}", u32::from(character)) })
        .collect()
}

/// Every reload loads the file in this way too.
#[test]
fn no_hostile_url_is_configured_and_every_good_one_is() {
    let (folder, egress) = (tempfile::tempdir().unwrap(), EgressConfig::default());
    let hostile: Vec<String> = hostile().into_iter().chain(REPAIRED.map(str::to_owned)).collect();
    assert!(hostile.len() >= 150, "{}", hostile.len());
    for url in &hostile {
        let found = problems(folder.path(), &egress, url);
        assert_eq!(found.len(), 1, "{url}: {found:?}");
        assert!(found[0].contains(r#"integrator["acme"].endpoint["main"].url: "#) && !found[0].contains("CANARY"), "{url}: {found:?}");
    }
    for url in GOOD {
        assert_eq!(problems(folder.path(), &egress, url), [""; 0], "{url}");
    }
}

#[test]
fn a_refused_url_names_the_key_that_could_admit_it() {
    let folder = tempfile::tempdir().unwrap();
    let egress = EgressConfig { deny_cidrs: vec!["1.1.1.0/24".parse().unwrap()], ..EgressConfig::default() };
    for (url, expected) in [
        ("https://10.0.0.1/", "the address is not on the public internet ([egress] allow_cidrs or allow_private_networks can admit it)"),
        ("https://1.1.1.1/", "the address is in a network of [egress] deny_cidrs"),
        ("https://acme.example:22/", "the port is not among those of [egress] ports"),
        ("http://acme.example/", "must start with https:// (http:// is refused unless [egress] allow_http = true)"),
        ("https://127.1/", "writes its host in a way that not everybody reads alike; write https://host/ or https://host:port/ plainly"),
    ] {
        let found = problems(folder.path(), &egress, url);
        assert!(found[0].ends_with(&format!(".url: {expected}")), "{found:?}");
    }
    assert!(problems(folder.path(), &egress, "https://printer/")[0].ends_with("[egress] allow_private_networks can admit it"));
}

/// What answers would be counted by, were one of the attempts to come there.
async fn canary() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, hits) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&hits);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, hits)
}

async fn attempt(egress: &Egress, url: Url) -> Outcome {
    let request =
        CallbackRequest { url, headers: http::HeaderMap::new(), body: Bytes::from_static(b"[1]"), webhook_id: "msg_1".into(), tls: None };
    egress.attempt(request, Duration::from_secs(10)).await.outcome
}

#[tokio::test]
async fn no_hostile_url_is_called_whoever_configured_it() {
    let (canary, hits) = canary().await;
    let strict = Egress::new(&EgressConfig::default()).unwrap();
    let any_port =
        Egress::new(&EgressConfig { ports: callbackd::config::Ports::Any, allow_http: true, ..EgressConfig::default() }).unwrap();
    let mut attempts = 0;
    for text in hostile() {
        // What is no URL at all cannot become a request.
        let Ok(url) = Url::parse(&text) else { continue };
        let outcome = attempt(&strict, url.clone()).await;
        assert!(matches!(outcome, Outcome::Failed(Failure::Blocked(_))), "{text}: {outcome:?}");
        attempts += 1;
    }
    for host in hosts() {
        let url = Url::parse(&format!("http://{host}:{}/", canary.port())).unwrap();
        let outcome = attempt(&any_port, url).await;
        assert!(matches!(outcome, Outcome::Failed(Failure::Blocked(Forbidden::Address | Forbidden::Name))), "{host}: {outcome:?}");
        attempts += 1;
    }
    assert!(attempts >= 250, "{attempts}");
    assert_eq!(hits.load(Ordering::SeqCst), 0);
    // The canary can sing.
    let anywhere = Egress::new(&EgressConfig::anywhere()).unwrap();
    attempt(&anywhere, Url::parse(&format!("http://{canary}/")).unwrap()).await;
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn our_own_addresses_are_never_called_even_where_everything_else_may_be() {
    let (canary, hits) = canary().await;
    let port = canary.port();
    for host in ["127.0.0.1", "0.0.0.0", "localhost", "::"] {
        let own = vec![OwnAddress { host: host.to_owned(), port }];
        let egress = Egress::new(&EgressConfig { own, ..EgressConfig::anywhere() }).unwrap();
        for url in
            ["http://127.0.0.1", "http://localhost", "http://[::ffff:127.0.0.1]", "http://0.0.0.0", "https://127.1", "http://LOCALHOST"]
        {
            let outcome = attempt(&egress, Url::parse(&format!("{url}:{port}/")).unwrap()).await;
            assert_eq!(outcome, Outcome::Failed(Failure::Blocked(Forbidden::Own)), "{host} {url}");
        }
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
    let elsewhere = vec![OwnAddress { host: "127.0.0.1".to_owned(), port: port ^ 1 }];
    let egress = Egress::new(&EgressConfig { own: elsewhere, ..EgressConfig::anywhere() }).unwrap();
    attempt(&egress, Url::parse(&format!("http://localhost:{port}/")).unwrap()).await;
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}

#[test]
fn the_admin_side_the_broker_and_the_proxy_cannot_be_configured_as_an_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("callbackd.toml");
    let text = "broker = { url = 'amqp://rabbit.example' }\nadmin = { listen = '127.0.0.1:9464' }\n\
        egress = { allow_http = true, allow_private_networks = true, proxy = 'socks5h://proxy.example:1080' }\n\
        source = [{ name = 'a', exchange = 'a' }]\n";
    std::fs::write(&path, text).unwrap();
    let load = |url: &str| {
        let integrators = format!("[[integrator]]\nkey = 'acme'\nendpoint = [{{ id = 'main', url = '{url}' }}]\n");
        std::fs::write(folder.path().join("integrators.toml"), integrators).unwrap();
        load_all(&path).map(drop).map_err(|problems| problems.to_string())
    };
    for url in
        ["http://127.0.0.1:9464/metrics", "http://rabbit.example:5672/", "https://RABBIT.example:5672/", "http://proxy.example:1080/"]
    {
        let problem = load(url).unwrap_err();
        assert!(
            problem.ends_with("url: this is an address of callbackd itself (admin.listen), its broker or its egress proxy"),
            "{url}: {problem}"
        );
    }
    assert_eq!(load("http://rabbit.example:15672/"), Ok(()));
}

/// The registry of special-purpose IPv4 addresses (iana.org/assignments/iana-ipv4-special-registry) where it says that they
/// are not globally reachable, the two anycast addresses within 192.0.0.0/24 included, for which nobody needs a callback.
const SPECIAL_V4: [(&str, u32); 14] = [
    ("0.0.0.0", 8),
    ("10.0.0.0", 8),
    ("100.64.0.0", 10),
    ("127.0.0.0", 8),
    ("169.254.0.0", 16),
    ("172.16.0.0", 12),
    ("192.0.0.0", 24),
    ("192.0.2.0", 24),
    ("192.88.99.0", 24),
    ("192.168.0.0", 16),
    ("198.18.0.0", 15),
    ("198.51.100.0", 24),
    ("203.0.113.0", 24),
    ("240.0.0.0", 4),
];
/// Of other registries: multicast, and what Azure numbers publicly.
const MORE_V4: [(&str, u32); 2] = [("224.0.0.0", 4), ("168.63.129.16", 32)];

/// The registry of IPv6 address space (iana.org/assignments/ipv6-address-space): everything that is not Global Unicast.
const SPACE_V6: [(&str, u32); 16] = [
    ("::", 8),
    ("100::", 8),
    ("200::", 7),
    ("400::", 6),
    ("800::", 5),
    ("1000::", 4),
    ("4000::", 3),
    ("6000::", 3),
    ("8000::", 3),
    ("a000::", 3),
    ("c000::", 3),
    ("e000::", 4),
    ("f000::", 5),
    ("f800::", 6),
    ("fc00::", 7),
    ("fe00::", 7),
];
/// The registry of special-purpose IPv6 addresses (iana.org/assignments/iana-ipv6-special-registry) within Global Unicast:
/// protocol assignments (with Teredo, benchmarks and ORCHID), documentation and 6to4.
const SPECIAL_V6: [(&str, u32); 4] = [("2001::", 23), ("2001:db8::", 32), ("2002::", 16), ("3fff::", 20)];

/// First and last address of a network, as numbers.
fn range_v4((first, prefix): (&str, u32)) -> (u128, u128) {
    let first = u128::from(first.parse::<Ipv4Addr>().unwrap().to_bits());
    (first, first + (1 << (32 - prefix)) - 1)
}

fn range_v6((first, prefix): (&str, u32)) -> (u128, u128) {
    let first = first.parse::<Ipv6Addr>().unwrap().to_bits();
    (first, first + ((1 << (128 - prefix)) - 1))
}

struct Registries {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl Registries {
    fn new() -> Self {
        let v4 = SPECIAL_V4.into_iter().chain(MORE_V4).map(range_v4).collect();
        Self { v4, v6: SPACE_V6.into_iter().chain(SPECIAL_V6).map(range_v6).collect() }
    }

    fn is_public(&self, address: IpAddr) -> bool {
        let within = |ranges: &[(u128, u128)], number: u128| ranges.iter().any(|(first, last)| (*first..=*last).contains(&number));
        match address {
            IpAddr::V4(v4) => !within(&self.v4, v4.to_bits().into()),
            // ::ffff:0:0/96 is dialled as IPv4.
            IpAddr::V6(v6) if v6.to_bits() >> 32 == 0xffff => !within(&self.v4, v6.to_bits() & 0xffff_ffff),
            IpAddr::V6(v6) => !within(&self.v6, v6.to_bits()),
        }
    }
}

#[test]
fn around_every_border_of_the_registries_the_guard_agrees_with_them() {
    let (guard, registries) = (Guard::new(&EgressConfig::default()), Registries::new());
    let mut points = 0;
    let mut agree = |address: IpAddr| {
        assert_eq!(guard.judge(address).is_ok(), registries.is_public(address), "{address}");
        points += 1;
    };
    for (first, last) in registries.v4.iter().copied() {
        for number in [first.wrapping_sub(1), first, first + 1, last.wrapping_sub(1), last, last + 1] {
            let number = u32::try_from(number & 0xffff_ffff).unwrap();
            agree(Ipv4Addr::from_bits(number).into());
            agree(Ipv4Addr::from_bits(number).to_ipv6_mapped().into());
        }
    }
    for (first, last) in registries.v6.iter().copied() {
        for number in [first.wrapping_sub(1), first, first + 1, last.wrapping_sub(1), last, last.wrapping_add(1)] {
            agree(Ipv6Addr::from_bits(number).into());
        }
    }
    assert!(points >= 300, "{points}");
}

/// Addresses of all kinds: anywhere, in the part of IPv6 that is used, and near the borders.
fn address() -> impl Strategy<Value = IpAddr> {
    let registries = Registries::new();
    let near = |ranges: Vec<(u128, u128)>| {
        (prop::sample::select(ranges), -300_i128..300, any::<bool>())
            .prop_map(|((first, last), step, start)| if start { first } else { last }.wrapping_add_signed(step))
    };
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).to_ipv6_mapped().into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits((0x2 << 124) | (bits >> 3)).into()),
        (0x2000_u128..0x4000, any::<u128>()).prop_map(|(high, low)| Ipv6Addr::from_bits((high << 112) | (low >> 16)).into()),
        near(registries.v4).prop_map(|bits| Ipv4Addr::from_bits(u32::try_from(bits & 0xffff_ffff).unwrap()).into()),
        near(registries.v6).prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
    ]
}

proptest! {
    // A million addresses.
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_million_addresses_are_judged_as_the_registries_say(addresses in prop::collection::vec(address(), 500)) {
        let (guard, registries) = (Guard::new(&EgressConfig::default()), Registries::new());
        for address in addresses {
            prop_assert_eq!(guard.judge(address).is_ok(), registries.is_public(address), "{}", address);
        }
    }

    #[test]
    fn what_is_denied_by_name_is_denied_whatever_is_allowed(addresses in prop::collection::vec(address(), 200), prefix in 0_u8..=32, seed in any::<u32>()) {
        let network = ipnet::Ipv4Net::new(Ipv4Addr::from_bits(seed), prefix).unwrap().trunc();
        let everything = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let guard = Guard::new(&EgressConfig { allow_cidrs: everything, deny_cidrs: vec![network.into()], ..EgressConfig::anywhere() });
        for address in addresses {
            if let IpAddr::V4(v4) = address.to_canonical() {
                prop_assert_eq!(guard.judge(address), if network.contains(&v4) { Err(Forbidden::Denied) } else { Ok(()) });
            }
        }
    }
}
