//! What is told to upstream of what became of its events: the kinds, and how they are addressed and told apart.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::event::fingerprint;
use super::names::{EndpointId, IntegratorKey, SourceName};
use super::time::Timestamp;

/// What became of an event, or of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutcomeKind {
    /// An endpoint has taken an event.
    Delivered,
    /// A delivery was given up.
    Dead,
    /// An event, or one delivery of it, could not be made.
    Rejected,
    /// An endpoint is left alone for a while, as it keeps failing or has said that it is gone.
    EndpointFailing,
    /// It is told again.
    EndpointRecovered,
}

impl OutcomeKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Delivered, Self::Dead, Self::Rejected, Self::EndpointFailing, Self::EndpointRecovered];

    /// The name in the configuration, in messages and in routing keys.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Rejected => "rejected",
            Self::EndpointFailing => "endpoint.failing",
            Self::EndpointRecovered => "endpoint.recovered",
        }
    }
}

/// What stands in a word of a routing key as it is: everything but these would end the word, mean something in a binding, or be
/// written in several ways.
const UNSAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// Longest word for an integrator. With the longest kind before it the key stays below the 255 bytes that AMQP carries.
const WORD_LIMIT: usize = 200;

/// The routing key of an outcome: its kind and, as one word, the integrator, percent-encoded where it is more than ASCII letters,
/// digits, `-`, `_` and `~`. A key over 200 bytes when encoded is `%` and a hash of it instead (`%` and 32 hexadecimal digits; SHA-256,
/// cut); an encoded key always has two digits after each `%`. Without an integrator the kind stands alone.
#[must_use]
pub fn routing_key(kind: OutcomeKind, integrator: Option<&IntegratorKey>) -> String {
    let kind = kind.as_str();
    let Some(integrator) = integrator else { return kind.to_owned() };
    let word = utf8_percent_encode(integrator.as_str(), UNSAFE).to_string();
    if word.len() <= WORD_LIMIT {
        format!("{kind}.{word}")
    } else {
        format!("{kind}.{}", fingerprint("%", [b"integrator".as_slice(), integrator.as_str().as_bytes()]))
    }
}

/// The id of what became of a delivery: the same whenever and by whichever worker it is told, made of the `webhook-id` of the event at
/// the endpoint and of the kind.
#[must_use]
pub fn delivery_outcome_id(kind: OutcomeKind, webhook_id: &str) -> String {
    fingerprint("out_", [kind.as_str(), webhook_id].map(str::as_bytes))
}

/// The id of the rejection of a message that is no event, which has no identity but that of this one time (`dice`).
#[must_use]
pub fn message_outcome_id(source: &SourceName, at: Timestamp, dice: u64) -> String {
    let kind = OutcomeKind::Rejected.as_str().as_bytes();
    fingerprint("out_", [kind, source.as_str().as_bytes(), &at.millis().to_be_bytes(), &dice.to_be_bytes()])
}

/// The id of the rejection of an event as a whole.
#[must_use]
pub fn event_outcome_id(integrator: &IntegratorKey, topic: &str, id: &str) -> String {
    fingerprint("out_", [OutcomeKind::Rejected.as_str(), "event", integrator.as_str(), topic, id].map(str::as_bytes))
}

/// The id of a change of an endpoint, as one worker has seen it.
#[must_use]
pub fn endpoint_outcome_id(kind: OutcomeKind, integrator: &IntegratorKey, endpoint: &EndpointId, at: Timestamp) -> String {
    let whose = [kind.as_str(), integrator.as_str(), endpoint.as_str()].map(str::as_bytes);
    fingerprint("out_", whose.into_iter().chain([at.millis().to_be_bytes().as_slice()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: OutcomeKind, integrator: &str) -> String {
        routing_key(kind, Some(&IntegratorKey::try_new(integrator).unwrap()))
    }

    #[test]
    fn a_routing_key_is_its_kind_and_one_word_for_the_integrator() {
        assert_eq!(key(OutcomeKind::Delivered, "acme-2_x~"), "delivered.acme-2_x~");
        assert_eq!(key(OutcomeKind::EndpointFailing, "a.b"), "endpoint.failing.a%2Eb");
        assert_eq!(key(OutcomeKind::Dead, "#*ü%"), "dead.%23%2A%C3%BC%25");
        assert_eq!(routing_key(OutcomeKind::Rejected, None), "rejected");
    }

    #[test]
    fn the_longest_integrator_still_has_a_routing_key_and_no_two_share_one() {
        let long = |last: &str| key(OutcomeKind::EndpointRecovered, &format!("{}{last}", ".".repeat(254)));
        assert_eq!(long("a").len(), "endpoint.recovered.%".len() + 32);
        assert_ne!(long("a"), long("b"));
        let most = key(OutcomeKind::EndpointRecovered, &"x".repeat(200));
        assert!(most.len() <= 255 && most.ends_with('x'), "{most}");
        assert!(key(OutcomeKind::Delivered, &"x".repeat(201)).starts_with("delivered.%"));
    }

    /// Upstream may have stored these.
    #[test]
    fn ids_of_outcomes_stay_what_they_are_and_differ_by_kind() {
        let webhook = "msg_919d411c21f50415e05036ce059de3dc";
        let ids = OutcomeKind::ALL.map(|kind| delivery_outcome_id(kind, webhook));
        assert_eq!(ids[0], "out_05f356f418a3ef49f28311beff985694");
        assert_eq!(std::collections::HashSet::from(ids).len(), 5);
    }
}
