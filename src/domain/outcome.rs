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
/// digits, `-`, `_` and `~`. A key over 200 bytes when encoded is `%` and 32 hexadecimal digits instead: the first half of the SHA-256 of
/// `integrator` and the key, each with its length in bytes (64 bits, big-endian) in front. Without an integrator the kind stands alone.
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
/// the endpoint, of the kind and, where an operator has replayed it, of the time of the last replay: what comes of a replay is news.
#[must_use]
pub fn delivery_outcome_id(kind: OutcomeKind, webhook_id: &str, replayed_at: Option<Timestamp>) -> String {
    outcome_id([kind.as_str(), webhook_id].map(str::as_bytes), replayed_at)
}

/// The id of the rejection of a message that is no event, which has no identity but that of this one time (`dice`).
#[must_use]
pub fn message_outcome_id(source: &SourceName, at: Timestamp, dice: u64) -> String {
    let kind = OutcomeKind::Rejected.as_str().as_bytes();
    outcome_id([kind, source.as_str().as_bytes(), &at.millis().to_be_bytes(), &dice.to_be_bytes()], None)
}

/// The id of the rejection of an event as a whole, made as that of a delivery is.
#[must_use]
pub fn event_outcome_id(integrator: &IntegratorKey, topic: &str, id: &str, replayed_at: Option<Timestamp>) -> String {
    outcome_id([OutcomeKind::Rejected.as_str(), "event", integrator.as_str(), topic, id].map(str::as_bytes), replayed_at)
}

/// The id of a change of an endpoint, as one worker (by its name) has seen it.
#[must_use]
pub fn endpoint_outcome_id(kind: OutcomeKind, worker: &str, integrator: &IntegratorKey, endpoint: &EndpointId, at: Timestamp) -> String {
    let [kind, worker, integrator, endpoint] = [kind.as_str(), worker, integrator.as_str(), endpoint.as_str()].map(str::as_bytes);
    outcome_id([kind, worker, integrator, endpoint, &at.millis().to_be_bytes()], None)
}

fn outcome_id<const N: usize>(parts: [&[u8]; N], replayed_at: Option<Timestamp>) -> String {
    let replay = replayed_at.map(|at| at.millis().to_be_bytes());
    fingerprint("out_", parts.into_iter().chain(replay.as_ref().map(<[u8; 8]>::as_slice)))
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

    #[test]
    fn whoever_knows_a_long_integrator_can_make_its_word() {
        use sha2::Digest as _;
        let long = "ü".repeat(34);
        let mut hash = sha2::Sha256::new();
        for part in ["integrator", long.as_str()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let word: String = hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(key(OutcomeKind::Dead, &long), format!("dead.%{word}"));
        assert!(key(OutcomeKind::Dead, &long[..66]).starts_with("dead.%C3%BC%C3"), "200 bytes or less are written out");
    }

    /// Upstream may have stored these.
    #[test]
    fn ids_of_outcomes_stay_what_they_are_and_differ_by_kind() {
        let webhook = "msg_919d411c21f50415e05036ce059de3dc";
        let ids = OutcomeKind::ALL.map(|kind| delivery_outcome_id(kind, webhook, None));
        assert_eq!(ids[0], "out_05f356f418a3ef49f28311beff985694");
        assert_eq!(std::collections::HashSet::from(ids).len(), 5);
    }

    #[test]
    fn what_comes_of_each_replay_has_an_id_of_its_own() {
        let acme = IntegratorKey::try_new("acme").unwrap();
        let times = [None, Some(Timestamp::from_millis(0)), Some(Timestamp::from_millis(1))];
        let dead = || times.map(|replayed_at| delivery_outcome_id(OutcomeKind::Dead, "msg_1", replayed_at));
        let rejected = times.map(|replayed_at| event_outcome_id(&acme, "t", "evt-1", replayed_at));
        let ids: std::collections::HashSet<String> = dead().into_iter().chain(rejected).chain(dead()).collect();
        assert_eq!(ids.len(), 6);
    }

    #[test]
    fn two_workers_that_see_an_endpoint_fail_at_one_time_tell_two_things() {
        let (acme, main) = (IntegratorKey::try_new("acme").unwrap(), EndpointId::try_new("main").unwrap());
        let of = |worker| endpoint_outcome_id(OutcomeKind::EndpointFailing, worker, &acme, &main, Timestamp::from_millis(7));
        assert_eq!(of("host:1"), of("host:1"));
        assert_ne!(of("host:1"), of("host:2"));
    }
}
