//! From an error of the HTTP client to the kind of failure. The error itself goes no further: it prints the whole URL.

use std::error::Error;
use std::io;

use rustls::AlertDescription;

use super::resolve::NoAddress;
use crate::domain::reply::{Failure, Forbidden, TlsFault};

/// Names what went wrong, by the first cause in the chain that says so, most telling kind first. With a proxy in between,
/// what happens before there is a way through it is a fault of its own.
pub(super) fn classify(error: &reqwest::Error, through_proxy: bool) -> Failure {
    if error.is_builder() {
        // The client refuses the URL itself: its scheme, or that it has no host.
        return Failure::Blocked(Forbidden::Url);
    }
    let causes = Causes::of(error);
    if through_proxy && error.is_connect() && is_of_the_proxy(&causes) {
        let local = causes.root_io().is_some_and(is_our_own);
        return if local { Failure::Local } else { Failure::Proxy };
    }
    if let Some(no_address) = causes.find::<NoAddress>() {
        return match no_address {
            NoAddress::Forbidden(forbidden) => Failure::Blocked(*forbidden),
            NoAddress::Unknown | NoAddress::TooSlow => Failure::Dns,
            NoAddress::Local => Failure::Local,
        };
    }
    if let Some(tls) = causes.find::<rustls::Error>() {
        return Failure::Tls(tls_fault(tls));
    }
    let io = causes.root_io().map(io::Error::kind);
    if error.is_connect() {
        return match causes.root_io() {
            Some(io) if is_our_own(io) => Failure::Local,
            Some(io) if ends_a_connection(io.kind()) => Failure::Tls(TlsFault::Other),
            _ => Failure::Connect,
        };
    }
    match causes.find::<hyper::Error>() {
        Some(http) if http.is_parse() => Failure::NotHttp,
        // What hyper says of a chunked body that is none.
        Some(_) if matches!(io, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)) => Failure::NotHttp,
        Some(_) => Failure::Disconnected,
        None if io.is_some() => Failure::Disconnected,
        None => Failure::Other,
    }
}

/// Whether a connection through a proxy failed for another reason than the endpoint's TLS or, where names are resolved here,
/// its name. A time limit that ends before the handshake does is the proxy's: nobody can tell what it waited for.
fn is_of_the_proxy(causes: &Causes<'_>) -> bool {
    // The client library keeps the types of these errors to itself; what they say begins like this.
    let says = |beginning: &str| causes.0.iter().any(|error| error.to_string().starts_with(beginning));
    if says("tunnel error") || says("error connecting to socks proxy") {
        return true;
    }
    if says("error resolving for socks proxy") || causes.find::<rustls::Error>().is_some() {
        return false;
    }
    !causes.root_io().is_some_and(|io| ends_a_connection(io.kind()))
}

fn tls_fault(error: &rustls::Error) -> TlsFault {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => TlsFault::Expired,
        rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => TlsFault::NotValidYet,
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => TlsFault::UnknownIssuer,
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => TlsFault::WrongName,
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity) => TlsFault::Version,
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => TlsFault::ClientCertificateMissing,
        // Alerts speak of what we sent, and the only certificate that we send is our own.
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => TlsFault::ClientCertificateRefused,
        // What a server says that can offer nothing of what we ask for; older ones say it for a version too.
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => TlsFault::Version,
        _ => TlsFault::Other,
    }
}

/// Whether the connection was closed without the farewell that TLS asks for.
pub(super) fn ends_early(error: &reqwest::Error) -> bool {
    Causes::of(error).root_io().is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof)
}

/// Whether the system could not even try to make a connection, for want of open files, memory, ports, a network, its kind of
/// address or the permission (a firewall of this machine). A host that cannot be reached is none of these: routers say so.
pub(super) fn is_our_own(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        matches!(code, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EPERM | libc::EACCES) || has_no_route(error)
    })
}

/// Whether the system knows of no way to an address.
pub(super) fn has_no_route(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| matches!(code, libc::ENETUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

/// What can only happen to a connection that is made already; while connecting, that is its TLS handshake.
fn ends_a_connection(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// An error and all its causes. An `io::Error` is not the cause of what it wraps in the standard library's chain, so
/// that step is made here.
struct Causes<'a>(Vec<&'a (dyn Error + 'static)>);

impl<'a> Causes<'a> {
    /// Longer chains do not occur; the limit guards against one that runs in a circle.
    const LIMIT: usize = 32;

    fn of(error: &'a (dyn Error + 'static)) -> Self {
        let mut causes = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next
            && causes.len() < Self::LIMIT
        {
            causes.push(error);
            let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = match wrapped {
                Some(inner) => Some(inner as &(dyn Error + 'static)),
                None => error.source(),
            };
        }
        Self(causes)
    }

    /// The innermost `io::Error`; those around it are of the kind `Other`.
    fn root_io(&self) -> Option<&'a io::Error> {
        self.0.iter().rev().find_map(|error| error.downcast_ref::<io::Error>())
    }

    fn find<E: Error + 'static>(&self) -> Option<&'a E> {
        self.0.iter().find_map(|error| error.downcast_ref::<E>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_its_own_fault_and_what_the_network_says_is_not() {
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL, libc::ENETUNREACH, libc::ENETDOWN] {
            assert!(is_our_own(&io::Error::from_raw_os_error(code)), "{}", io::Error::from_raw_os_error(code));
        }
        for code in [libc::ECONNREFUSED, libc::ECONNRESET, libc::EHOSTUNREACH, libc::EHOSTDOWN, libc::ETIMEDOUT, libc::EPIPE] {
            assert!(!is_our_own(&io::Error::from_raw_os_error(code)), "{}", io::Error::from_raw_os_error(code));
        }
        // Not from the system: only its own codes count.
        assert!(!is_our_own(&io::ErrorKind::NetworkUnreachable.into()));
    }
}
