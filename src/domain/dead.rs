//! Why something will not be delivered. Two kinds that never mix: dead deliveries are the endpoint's or the integrator's
//! fault, rejected events are upstream's.

use std::fmt;

use super::decode::NoEvent;
use super::format::Unrenderable;

/// Why a delivery was given up: it is in `callbacks.dead` and can be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// As many attempts as the policy allows have failed.
    Exhausted,
    /// The next attempt would be later than the policy's `max_age`.
    Expired,
    /// The endpoint answered 410 Gone.
    Gone,
    /// The endpoint is no longer configured.
    EndpointRemoved,
}

impl DeadReason {
    /// Every reason, for metrics that start at zero and for the command line.
    pub const ALL: [Self; 4] = [Self::Exhausted, Self::Expired, Self::Gone, Self::EndpointRemoved];

    /// The name in headers, logs, metrics and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Expired => "expired",
            Self::Gone => "gone",
            Self::EndpointRemoved => "endpoint_removed",
        }
    }
}

/// Why an event is no delivery: it is in `callbacks.rejected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RejectReason {
    /// The message is no event.
    Undecodable(NoEvent),
    /// The body is over the configured limit.
    TooLarge {
        /// Bytes found.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The AMQP properties leave no room for ours; the broker itself moves the message, and no header says why.
    HeadersTooLarge,
    /// Nobody by that key has been configured for as long as the configuration allows.
    UnknownIntegrator,
    /// The event has no form in the endpoint's format.
    Unrenderable(Unrenderable),
}

impl RejectReason {
    /// The codes of all reasons, for metrics that start at zero and for the command line.
    pub const CODES: [&'static str; 5] = ["undecodable", "too_large", "headers_too_large", "unknown_integrator", "unrenderable"];

    /// The name in headers, logs, metrics and on the command line: one of [`Self::CODES`].
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Undecodable(_) => "undecodable",
            Self::TooLarge { .. } => "too_large",
            Self::HeadersTooLarge => "headers_too_large",
            Self::UnknownIntegrator => "unknown_integrator",
            Self::Unrenderable(_) => "unrenderable",
        }
    }
}

impl fmt::Display for RejectReason {
    /// The detail for people; holds nothing of the payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecodable(reason) => reason.fmt(f),
            Self::TooLarge { size, limit } => write!(f, "the body has {size} bytes, at most {limit} are allowed"),
            Self::HeadersTooLarge => f.write_str("the AMQP properties are too large"),
            Self::UnknownIntegrator => f.write_str("no integrator by this key is configured"),
            Self::Unrenderable(reason) => reason.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::decode::{Metadata, decode};

    #[test]
    fn reasons_have_the_names_that_operators_search_for() {
        assert_eq!(DeadReason::ALL.map(DeadReason::as_str), ["exhausted", "expired", "gone", "endpoint_removed"]);
        let no_event = decode("".into(), &Metadata::default()).unwrap_err();
        let unrenderable = crate::domain::format::Unrenderable::NoRecords;
        let reasons = [
            RejectReason::Undecodable(no_event),
            RejectReason::TooLarge { size: 2, limit: 1 },
            RejectReason::HeadersTooLarge,
            RejectReason::UnknownIntegrator,
            RejectReason::Unrenderable(unrenderable),
        ];
        assert_eq!(reasons.map(|reason| reason.code()), RejectReason::CODES);
    }
}
