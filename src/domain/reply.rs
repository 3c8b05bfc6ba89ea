//! What came of one attempt to call an endpoint. A bad answer is a value here, never an error.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::auth::AuthFault;
use super::time::Timestamp;

/// The outcome of one HTTP attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What the endpoint did.
    pub outcome: Outcome,
    /// From the start of the attempt to its outcome.
    pub took: Duration,
}

/// What an endpoint did with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered: a 2xx completely or up to the response limit, any other status at least with its head.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The header `retry-after`, where it could be read.
        retry_after: Option<RetryAfter>,
    },
    /// It answered with a 2xx, and the rest of the answer did not come: no proof that it has the delivery.
    Incomplete {
        /// The HTTP status.
        status: u16,
        /// What ended the answer.
        failure: Failure,
    },
    /// There was no answer.
    Failed(Failure),
}

/// Why there was no answer, or none that is complete. A closed set: its names label metrics, and its texts, which say more,
/// stand in logs and dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The total time limit ended before the answer did.
    Timeout,
    /// The host's name could not be resolved.
    Dns,
    /// No connection could be made.
    Connect,
    /// TLS failed.
    Tls(TlsFault),
    /// Our own rules forbid the address or the URL.
    Blocked(Forbidden),
    /// There is no access token to call it with.
    Auth(AuthFault),
    /// The connection broke before the answer was complete.
    Disconnected,
    /// What came back is not HTTP.
    NotHttp,
    /// This machine itself cannot make the connection: it lacks files, memory, ports, a network or the permission.
    Local,
    /// There is no way through the egress proxy: it cannot be reached, does not let us in or cannot connect us.
    Proxy,
    /// Anything else between here and there.
    Other,
}

impl Failure {
    /// The name in metrics, without the detail that the text has.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls(fault) => fault.as_str(),
            Self::Blocked(_) => "blocked",
            Self::Auth(_) => "auth",
            Self::Disconnected => "disconnected",
            Self::NotHttp => "not_http",
            Self::Local => "local",
            Self::Proxy => "proxy",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(fault) => write!(f, "tls: {fault}"),
            Self::Blocked(forbidden) => write!(f, "blocked: {forbidden}"),
            Self::Auth(fault) => write!(f, "auth: {fault}"),
            Self::Local => f.write_str("local: this machine cannot make the connection"),
            Self::Proxy => f.write_str("proxy: no way through the egress proxy"),
            other => f.write_str(other.as_str()),
        }
    }
}

/// What is wrong with an endpoint's TLS, as far as its operator can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TlsFault {
    /// The certificate's time is over.
    #[error("certificate expired")]
    Expired,
    /// The certificate's time has not come, or our clock is wrong.
    #[error("certificate not valid yet")]
    NotValidYet,
    /// No authority that we trust has signed the certificate; often an intermediate certificate is not sent.
    #[error("certificate of an unknown issuer")]
    UnknownIssuer,
    /// The certificate is for other hosts.
    #[error("certificate for another name")]
    WrongName,
    /// The endpoint wants a client certificate, and none is configured for it.
    #[error("a client certificate is wanted (`tls` of the endpoint gives one)")]
    ClientCertificateMissing,
    /// The endpoint does not take our client certificate: expired, or of an authority that it does not know.
    #[error("our client certificate is refused")]
    ClientCertificateRefused,
    /// No version of TLS, or no cipher suite, that both sides speak; we want 1.2 or later.
    #[error("no common version or cipher")]
    Version,
    /// Anything else, such as a host that does not speak TLS at that port.
    #[error("handshake failed")]
    Other,
}

impl TlsFault {
    /// The name in metrics: what somebody has to renew or install has a name of its own.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "tls_expired",
            Self::UnknownIssuer => "tls_unknown_issuer",
            Self::ClientCertificateMissing | Self::ClientCertificateRefused => "tls_client_certificate",
            Self::NotValidYet | Self::WrongName | Self::Version | Self::Other => "tls",
        }
    }
}

/// Our rules forbid this address or URL. Does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Forbidden {
    /// Not on the public internet, and not in an allowed network.
    #[error("the address is not on the public internet ([egress] allow_cidrs or allow_private_networks can admit it)")]
    Address,
    /// In a network that is denied by name.
    #[error("the address is in a network of [egress] deny_cidrs")]
    Denied,
    /// A name that means something in inner networks alone.
    #[error(
        "the host's name belongs to an inner network (localhost, a name without a dot or with one at its end, *.local, *.internal, *.lan, *.home.arpa); [egress] allow_private_networks can admit it"
    )]
    Name,
    /// The admin side, the broker or the egress proxy.
    #[error("this is an address of callbackd itself (admin.listen), its broker or its egress proxy")]
    Own,
    /// A port that is not among those allowed.
    #[error("the port is not among those of [egress] ports")]
    Port,
    /// Plain HTTP.
    #[error("plain HTTP is not allowed ([egress] allow_http decides)")]
    PlainHttp,
    /// Not a URL for HTTP, or without a host.
    #[error("the URL is not one to call")]
    Url,
}

/// When the endpoint wants to be asked again (RFC 9110, section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// So long after the answer.
    Delay(Duration),
    /// Not before this time.
    At(Timestamp),
}

/// What a reply says about its endpoint as a whole, whatever it says about the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Charge {
    /// It takes requests, even if not this one.
    Works,
    /// It would most likely fail the next one too.
    Fails,
    /// Nothing: the fault is our own, or that of something in between.
    Unknown,
}

impl RetryAfter {
    /// Reads the header's value: seconds, or an HTTP date in any of the three forms of RFC 9110; of a list, which is what
    /// several headers become on their way, the first that can be read. Anything else, negative numbers and fractions
    /// among it, is `None`: the schedule then decides alone.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        // A date has a comma in it.
        Self::parse_one(value).or_else(|| value.split(',').find_map(Self::parse_one))
    }

    fn parse_one(value: &str) -> Option<Self> {
        let value = value.trim();
        if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
            // More digits than fit are still "later than any cap".
            return Some(Self::Delay(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX)))));
        }
        let date = httpdate::parse_http_date(value).ok()?;
        let since_epoch = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(Self::At(Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).ok()?)))
    }

    /// How long to wait from `now` on.
    #[must_use]
    pub fn wait(self, now: Timestamp) -> Duration {
        match self {
            Self::Delay(delay) => delay,
            Self::At(at) => at.since(now),
        }
    }
}

impl Reply {
    /// Whether the endpoint has the delivery: only a complete 2xx says so.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.outcome, Outcome::Answered { status: 200..=299, .. })
    }

    /// Whether the endpoint says that it is gone for good (410): final for the delivery, and it is not called any more.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self.outcome, Outcome::Answered { status: 410, .. })
    }

    /// The HTTP status, where there was one. An incomplete answer has one too: ask [`Self::is_success`] for success.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self.outcome {
            Outcome::Answered { status, .. } | Outcome::Incomplete { status, .. } => Some(status),
            Outcome::Failed(Failure::Auth(AuthFault::Revoked)) => Some(401),
            Outcome::Failed(_) => None,
        }
    }

    /// What this says about the endpoint as a whole. One decision for its circuit, apart from what becomes of the event.
    #[must_use]
    pub const fn charge(&self) -> Charge {
        match self.outcome {
            Outcome::Answered { status, .. } => match status {
                200..=299 => Charge::Works,
                // What is wrong with this one request: its content (400, 422), that the event is known already (409), its size
                // (413, 431, of which the headers grow with the event's ids). Others may be taken.
                400 | 409 | 413 | 422 | 431 => Charge::Works,
                // Its answer is the one that it means; the pause that follows is not the circuit's business.
                410 => Charge::Works,
                // All else would be said of the next request too: moved (3xx), not let in (401, 402, 403), not there or not for
                // this kind of request (404, 405, 406, 415), too much at one time (408, 425, 429), broken (5xx). A 407 or 511 too: what a
                // proxy of ours says is no answer, so it is the endpoint's side that says it.
                _ => Charge::Fails,
            },
            Outcome::Incomplete { failure, .. } | Outcome::Failed(failure) => match failure {
                // Whoever hangs, breaks off, speaks something else or cannot be found would do so with the next request.
                Failure::Timeout
                | Failure::Dns
                | Failure::Connect
                | Failure::Tls(_)
                | Failure::Disconnected
                | Failure::NotHttp
                | Failure::Other => Charge::Fails,
                // Our rules, our machine and our proxy are no fault of the endpoint's.
                Failure::Blocked(_) | Failure::Local | Failure::Proxy => Charge::Unknown,
                // Nor does a token server's answer say anything about the endpoint: one refusal is the answer for all who wait and would
                // open the circuits of every endpoint with these credentials. The token server is spared by its own pause.
                Failure::Auth(_) => Charge::Unknown,
            },
        }
    }

    /// `2xx` to `5xx`, or the name of the failure: the closed set that labels metrics.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self.outcome {
            _ if self.is_success() => "2xx",
            Outcome::Answered { status: 300..=399, .. } => "3xx",
            Outcome::Answered { status: 400..=499, .. } => "4xx",
            Outcome::Answered { status: 500..=599, .. } => "5xx",
            Outcome::Answered { .. } => "other_status",
            Outcome::Incomplete { failure, .. } | Outcome::Failed(failure) => failure.as_str(),
        }
    }

    /// A short text on what went wrong, free of anything that the endpoint wrote; `None` for a success.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        match self.outcome {
            _ if self.is_success() => None,
            Outcome::Answered { status, .. } => Some(format!("answered {status}")),
            Outcome::Incomplete { status, failure } => Some(format!("answered {status}, then {failure}")),
            Outcome::Failed(failure) => Some(failure.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_says_whether_it_is_a_success_and_what_went_wrong() {
        let reply = |outcome| Reply { outcome, took: Duration::ZERO };
        let incomplete = reply(Outcome::Incomplete { status: 200, failure: Failure::Disconnected });
        assert_eq!((incomplete.is_success(), incomplete.status(), incomplete.class()), (false, Some(200), "disconnected"));
        assert_eq!(incomplete.error().as_deref(), Some("answered 200, then disconnected"));
        for (failure, class, error) in [
            (Failure::Timeout, "timeout", "timeout"),
            (Failure::Tls(TlsFault::Expired), "tls_expired", "tls: certificate expired"),
            (Failure::Blocked(Forbidden::PlainHttp), "blocked", "blocked: plain HTTP is not allowed ([egress] allow_http decides)"),
        ] {
            let failed = reply(Outcome::Failed(failure));
            assert_eq!((failed.is_success(), failed.status(), failed.class()), (false, None, class));
            assert_eq!(failed.error().as_deref(), Some(error));
        }
        for (status, success) in [(199, false), (200, true), (299, true), (300, false)] {
            let answered = reply(Outcome::Answered { status, retry_after: None });
            assert_eq!((answered.is_success(), answered.class() == "2xx", answered.error().is_none()), (success, success, success));
        }
    }

    #[test]
    fn a_reply_is_charged_to_the_endpoint_unless_it_speaks_of_one_event_or_the_fault_is_not_its_own() {
        let charge = |outcome| Reply { outcome, took: Duration::ZERO }.charge();
        let of = |expected| (0..=999).filter(move |status| charge(Outcome::Answered { status: *status, retry_after: None }) == expected);
        assert_eq!(of(Charge::Works).collect::<Vec<u16>>(), (200..=299).chain([400, 409, 410, 413, 422, 431]).collect::<Vec<u16>>());
        assert_eq!(of(Charge::Unknown).count(), 0);
        let blocked = Failure::Auth(AuthFault::Blocked(Forbidden::Address));
        let revoked = Failure::Auth(AuthFault::Revoked);
        assert_eq!(Reply { outcome: Outcome::Failed(revoked), took: Duration::ZERO }.status(), Some(401));
        let refused = Failure::Auth(AuthFault::Refused(401));
        for failure in [
            Failure::Blocked(Forbidden::Address),
            Failure::Local,
            Failure::Proxy,
            blocked,
            Failure::Auth(AuthFault::Local),
            refused,
            revoked,
        ] {
            assert_eq!(charge(Outcome::Failed(failure)), Charge::Unknown, "{failure}");
        }
        for failure in [Failure::Timeout, Failure::Dns, Failure::Connect, Failure::Tls(TlsFault::Expired), Failure::Disconnected] {
            assert_eq!(charge(Outcome::Failed(failure)), Charge::Fails, "{failure}");
            assert_eq!(charge(Outcome::Incomplete { status: 200, failure }), Charge::Fails, "{failure}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(RetryAfter::parse(" 120 "), Some(RetryAfter::Delay(Duration::from_secs(120))));
        let at = RetryAfter::At(Timestamp::from_millis(784_111_777_000));
        for date in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(RetryAfter::parse(date), Some(at), "{date}");
        }
        for list in ["120, 130", "soon, 120", ",120,"] {
            assert_eq!(RetryAfter::parse(list), Some(RetryAfter::Delay(Duration::from_secs(120))), "{list}");
        }
        assert_eq!(at.wait(Timestamp::from_millis(784_111_770_000)), Duration::from_secs(7));
        assert_eq!(at.wait(Timestamp::from_millis(784_111_779_000)), Duration::ZERO);
    }

    #[test]
    fn a_strange_retry_after_is_ignored_and_a_huge_one_is_huge() {
        for value in ["", "-1", "1.5", "1e30", "NaN", "soon", "Thu, 01 Jan 1970", "-1, 1.5", ","] {
            assert_eq!(RetryAfter::parse(value), None, "{value}");
        }
        assert_eq!(RetryAfter::parse(&"9".repeat(40)), Some(RetryAfter::Delay(Duration::from_secs(u64::from(u32::MAX)))));
    }
}
