//! Names to addresses: only vetted ones come out, and what comes out is what is dialled, so that a name cannot change
//! its mind between the check and the connection.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::failure::{has_no_route, is_our_own};
use super::guard::Guard;
use crate::domain::reply::Forbidden;

/// Limit on one lookup: less than the 5 s for a whole connection, so that a slow name is told from a slow host.
const LOOKUP_LIMIT: Duration = Duration::from_secs(4);

/// A name has no usable address. Does not repeat the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAddress {
    /// The lookup failed or found nothing.
    #[error("the name cannot be resolved")]
    Unknown,
    /// The lookup took too long.
    #[error("resolving the name took too long")]
    TooSlow,
    /// This machine cannot ask: it has no open files or no memory left.
    #[error("this machine cannot resolve names")]
    Local,
    /// At least one of the addresses must not be dialled, so none is: a name that mixes public and inner addresses is
    /// no endpoint.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
}

pub(super) type Lookup = Shared<BoxFuture<'static, Result<Arc<[IpAddr]>, NoAddress>>>;

/// The system's resolver, guarded. Requests to one name at one time share one lookup, since a lookup occupies a thread until
/// the system gives up on it.
#[derive(Clone)]
pub(super) struct GuardedResolver {
    guard: Guard,
    /// The port that is dialled, where an address of our own has it.
    own_port: Option<u16>,
    /// The egress proxy's name: chosen by whoever sets up callbackd, so that it is not judged. The guard refuses URLs with it.
    proxy: Option<String>,
    running: Running,
}

/// Addresses of one name that are dialled at most: an answer with thousands would be a way to have others called.
const DIALLED: usize = 16;

/// The lookups that are under way, by name; shared by the resolvers of all clients.
pub(super) type Running = Arc<Mutex<HashMap<String, Lookup>>>;

impl GuardedResolver {
    pub(super) fn new(guard: Guard, own_port: Option<u16>, proxy: Option<String>, running: Running) -> Self {
        Self { guard, own_port, proxy, running }
    }

    async fn vetted(self, name: String) -> Result<Vec<SocketAddr>, NoAddress> {
        let is_proxy = self.proxy.as_ref().is_some_and(|proxy| proxy.eq_ignore_ascii_case(&name));
        let lookup = self.lookup(name);
        let found = tokio::time::timeout(LOOKUP_LIMIT, lookup).await.map_err(|_| NoAddress::TooSlow)??;
        if found.is_empty() {
            return Err(NoAddress::Unknown);
        }
        if !is_proxy {
            self.judge(&found).await?;
        }
        // Port 0 stands for the URL's port; any other would be dialled where the URL names none.
        Ok(with_a_way(&found).into_iter().take(DIALLED).map(|address| SocketAddr::new(address, 0)).collect())
    }

    /// One that is denied denies all.
    async fn judge(&self, found: &[IpAddr]) -> Result<(), Forbidden> {
        let Some(port) = self.own_port else { return found.iter().try_for_each(|address| self.guard.judge(*address)) };
        found.iter().try_for_each(|address| self.guard.judge_dialled(*address, port))?;
        self.guard.judge_named(found, port).await
    }

    /// Joins the running lookup of a name, or starts one.
    fn lookup(&self, name: String) -> Lookup {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = running.get(&name) {
            return lookup.clone();
        }
        let this = self.clone();
        let key = name.clone();
        // On a task of its own, so that it ends and is forgotten even when everybody who waits has given up.
        let task = tokio::spawn(async move {
            let found = ask_the_system(&name).await;
            this.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            found.map_err(|error| why_not(&error))
        });
        let lookup = task.map(|ended| ended.unwrap_or(Err(NoAddress::Unknown))).boxed().shared();
        running.insert(key, lookup.clone());
        lookup
    }
}

async fn ask_the_system(name: &str) -> io::Result<Arc<[IpAddr]>> {
    Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
}

/// Why a lookup failed. The system's resolver hides what it lacks itself behind answers of its own, so a socket is tried too.
fn why_not(error: &io::Error) -> NoAddress {
    let lacks = is_our_own(error) || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_err_and(|error| is_our_own(&error));
    if lacks { NoAddress::Local } else { NoAddress::Unknown }
}

/// Leaves out the addresses that this machine has no way to, commonly those of IPv6, as long as others remain: when all
/// fail, the client tells of the one that was dialled last, and a host that refuses would look like a fault of our own.
fn with_a_way(found: &[IpAddr]) -> Vec<IpAddr> {
    if found.iter().all(IpAddr::is_ipv4) {
        return found.to_vec();
    }
    let reachable: Vec<IpAddr> = found.iter().copied().filter(|address| has_a_way(*address)).collect();
    if reachable.is_empty() { found.to_vec() } else { reachable }
}

/// Whether the system knows a way to an address; nothing is sent. Where it cannot say, dialling will tell.
fn has_a_way(address: IpAddr) -> bool {
    // UDP connects by looking up the route. Any port will do.
    const DISCARD: u16 = 9;
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, DISCARD))).err().is_none_or(|error| !has_no_route(&error))
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let vetted = self.clone().vetted(name.as_str().trim_matches(['[', ']']).to_owned());
        Box::pin(async move {
            let addresses: Addrs = Box::new(vetted.await?.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Egress, OwnAddress};

    fn resolver(config: &Egress) -> GuardedResolver {
        GuardedResolver::new(Guard::new(config), None, None, Running::default())
    }

    #[tokio::test]
    async fn a_name_with_one_forbidden_address_has_none() {
        assert_eq!(resolver(&Egress::default()).vetted("localhost".into()).await, Err(NoAddress::Forbidden(Forbidden::Address)));
        let found = resolver(&Egress::anywhere()).vetted("localhost".into()).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 0), "{found:?}");
    }

    #[tokio::test]
    async fn a_name_with_an_address_of_our_own_has_none_at_its_port() {
        let own = |host: &str, port| OwnAddress { host: host.to_owned(), port };
        // The second has a name of its own, which leads to the same place as the other.
        let config = Egress { own: vec![own("0.0.0.0", 9464), own("localhost", 5672)], ..Egress::anywhere() };
        for (port, expected) in
            [(9464, Err(NoAddress::Forbidden(Forbidden::Own))), (5672, Err(NoAddress::Forbidden(Forbidden::Own))), (80, Ok(()))]
        {
            let resolver = GuardedResolver::new(Guard::new(&config), Some(port), None, Running::default());
            assert_eq!(resolver.vetted("localhost".into()).await.map(drop), expected, "{port}");
        }
    }

    #[tokio::test]
    async fn the_name_of_the_proxy_is_not_judged() {
        let resolver = GuardedResolver::new(Guard::new(&Egress::default()), None, Some("localhost".into()), Running::default());
        assert!(resolver.vetted("LOCALHOST".into()).await.is_ok());
    }

    #[tokio::test]
    async fn one_denied_answer_among_good_ones_denies_them_all() {
        let resolver = resolver(&Egress::default());
        let many = (1..=63).map(|last| IpAddr::from([8, 8, 8, last]));
        for bad in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2001:0:a00:1::", "fd00::1"] {
            let bad: IpAddr = bad.parse().unwrap();
            for answers in [vec![bad], many.clone().chain([bad]).collect(), [bad].into_iter().chain(many.clone()).collect()] {
                assert_eq!(resolver.judge(&answers).await, Err(Forbidden::Address), "{bad}");
            }
        }
        assert_eq!(resolver.judge(&many.collect::<Vec<_>>()).await, Ok(()));
    }

    #[tokio::test]
    async fn an_unknown_name_is_told_from_a_forbidden_one() {
        let found = resolver(&Egress::default()).vetted("does-not-exist.invalid".into()).await;
        // Where the machine has no name server, the answer may be long in coming.
        assert!(matches!(found, Err(NoAddress::Unknown | NoAddress::TooSlow)), "{found:?}");
    }

    #[test]
    fn an_address_without_a_way_is_left_out_while_others_remain() {
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert!(has_a_way(loopback));
        // Reserved for documentation: there is no way to it unless this machine has a default route for IPv6.
        let documentation: IpAddr = "2001:db8::1".parse().unwrap();
        let expected = if has_a_way(documentation) { vec![loopback, documentation] } else { vec![loopback] };
        assert_eq!(with_a_way(&[loopback, documentation]), expected);
        assert_eq!(with_a_way(&[documentation]), [documentation], "dialling it says what is wrong");
    }

    #[tokio::test]
    async fn lookups_at_one_time_are_one_and_leave_nothing_behind() {
        let resolver = resolver(&Egress::anywhere());
        let lookups: Vec<Lookup> = (0..8).map(|_| resolver.lookup("localhost".into())).collect();
        assert_eq!(resolver.running.lock().unwrap().len(), 1);
        for found in futures_util::future::join_all(lookups).await {
            assert!(found.is_ok());
        }
        assert!(resolver.running.lock().unwrap().is_empty());
    }
}
