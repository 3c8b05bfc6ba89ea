//! Which of those who wait share the next request, and how a request of several that fails is taken apart.
//!
//! A request of several is refused as a whole, and the one event that is the reason is not named. So each member is tried
//! again in a request of at most half the size, until the guilty one stands alone: its limit travels with it. What speaks
//! of the endpoint and not of the request is no reason to take anything apart.

use std::num::NonZeroU16;

use super::event::Event;
use super::history::History;
use super::policy::BatchLimits;
use super::reply::{Failure, Outcome, Reply};
use super::request::encoded_length;

/// The longest list of ids in the header `callback-event-ids` of several events, in bytes. Servers refuse long headers: nginx
/// a line of 8 KiB, Node 16 KiB in all; half of the smaller leaves room for what proxies add.
pub const EVENT_IDS_LIMIT: usize = 4096;

/// What counts of a delivery that waits in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes of the event as published.
    pub bytes: usize,
    /// Bytes of its id in the header `callback-event-ids`.
    pub id_length: usize,
    /// Most events that a request with this one may hold.
    pub batch_limit: Option<NonZeroU16>,
}

impl Waiting {
    /// What counts of this delivery.
    #[must_use]
    pub fn of(event: &Event, history: &History) -> Self {
        Self { bytes: event.body_len(), id_length: encoded_length(&event.id), batch_limit: history.batch_limit }
    }
}

/// Who shares the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// So many from the head of the line; 0 only when nobody waits.
    pub count: usize,
    /// Whether waiting for more would change anything.
    pub fill: Fill,
}

/// Whether a request has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Nobody can join any more, however long one waits.
    Full,
    /// Who comes next may join.
    Open,
}

/// Takes from the head of the line as many as fit into one request, in order, and always the first.
///
/// Several never have more members than the endpoint or any of them allows, nor more bytes than the endpoint allows, nor a
/// longer list of ids than [`EVENT_IDS_LIMIT`]. Nobody is overtaken: the first who does not fit ends the request, so a
/// member that must stand alone does so, wherever it stands in line.
#[must_use]
pub fn share(line: impl IntoIterator<Item = Waiting>, limits: &BatchLimits) -> Share {
    let most = usize::from(limits.max_events.get());
    let mut taken = Taken { count: 0, most, bytes: 0, ids: 0 };
    for next in line {
        let with_next = taken.with(next);
        if taken.count > 0 && !with_next.fits(limits) {
            return Share { count: taken.count, fill: Fill::Full };
        }
        taken = with_next;
        if taken.is_full(limits) {
            return Share { count: taken.count, fill: Fill::Full };
        }
    }
    Share { count: taken.count, fill: Fill::Open }
}

/// The members of a request, added up.
#[derive(Clone, Copy)]
struct Taken {
    count: usize,
    most: usize,
    bytes: usize,
    ids: usize,
}

impl Taken {
    fn with(self, next: Waiting) -> Self {
        let comma = usize::from(self.count > 0);
        Self {
            count: self.count + 1,
            most: next.batch_limit.map_or(self.most, |limit| self.most.min(limit.get().into())),
            bytes: self.bytes.saturating_add(next.bytes),
            ids: self.ids.saturating_add(comma + next.id_length),
        }
    }

    const fn fits(self, limits: &BatchLimits) -> bool {
        self.count <= self.most && self.bytes <= limits.max_bytes && self.ids <= EVENT_IDS_LIMIT
    }

    /// Whether even the smallest event with the shortest id would not fit.
    fn is_full(self, limits: &BatchLimits) -> bool {
        !self.with(Waiting { bytes: 1, id_length: 1, batch_limit: None }).fits(limits)
    }
}

/// Whether the reason for a failure may lie in one event of the request: in what it says, in how long it takes to be worked
/// on, or in how much it adds to the whole.
///
/// In doubt yes. A wrong yes costs the members a few attempts of their own; a wrong no lets one event take its neighbours
/// with it to the dead letters.
#[must_use]
pub const fn may_lie_in_one_member(reply: &Reply) -> bool {
    match reply.outcome {
        Outcome::Answered { status, .. } => status_may_lie_in_one_member(status),
        // It has read the request and did not come to its end, which an event may have brought about.
        Outcome::Incomplete { .. } => true,
        Outcome::Failed(failure) => match failure {
            // Nobody has seen the request.
            Failure::Dns
            | Failure::Connect
            | Failure::Tls(_)
            | Failure::Blocked(_)
            | Failure::Auth(_)
            | Failure::Local
            | Failure::Proxy => false,
            // An event may stall the receiver, or they may be too many to be worked on in time; one may crash it, in the midst
            // of an answer too.
            Failure::Timeout | Failure::Disconnected | Failure::NotHttp | Failure::Other => true,
        },
    }
}

const fn status_may_lie_in_one_member(status: u16) -> bool {
    match status {
        // Told; or the endpoint has moved, for every event alike.
        200..=399 => false,
        // Our credentials, towards the endpoint or a proxy. A 403 is also how firewalls answer to what an event says, and a
        // 404 how receivers answer to an event about something that they do not know: those two may.
        401 | 407 | 511 => false,
        // The method, the connection, the protocol.
        405 | 421 | 426 | 505 => false,
        // The endpoint wants no more at all, or no more for now.
        410 | 429 => false,
        // Refused as wrong (400, 422), too large (413), too slow in coming (408) or with too long a list of ids (431). All others
        // beyond 500: an event may crash what answers, and a gateway then says 502, 503 or 504.
        _ => true,
    }
}

/// Most events that a request with a member of this failed one may hold: half as many, and never more than before.
#[must_use]
pub fn halved(members: NonZeroU16, before: Option<NonZeroU16>) -> NonZeroU16 {
    let half = NonZeroU16::new(members.get().div_ceil(2)).unwrap_or(NonZeroU16::MIN);
    before.map_or(half, |before| before.min(half))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::auth::AuthFault;

    fn limits(max_events: u16, max_bytes: usize) -> BatchLimits {
        BatchLimits { max_events: NonZeroU16::new(max_events).unwrap(), max_bytes, ..BatchLimits::default() }
    }

    fn waiting(bytes: usize, batch_limit: u16) -> Waiting {
        Waiting { bytes, id_length: 10, batch_limit: NonZeroU16::new(batch_limit) }
    }

    fn with_id(id_length: usize) -> Waiting {
        Waiting { bytes: 1, id_length, batch_limit: None }
    }

    #[test]
    fn the_commas_between_ids_count_and_no_others() {
        let longest = EVENT_IDS_LIMIT - 4;
        assert_eq!(shared(&[with_id(1), with_id(longest), with_id(1)], &limits(9, 1000)), (3, Fill::Full));
        assert_eq!(shared(&[with_id(1), with_id(longest + 1), with_id(1)], &limits(9, 1000)), (2, Fill::Full));
        assert_eq!(shared(&[with_id(longest + 2), with_id(1)], &limits(9, 1000)), (2, Fill::Full));
    }

    fn shared(line: &[Waiting], limits: &BatchLimits) -> (usize, Fill) {
        let Share { count, fill } = share(line.iter().copied(), limits);
        (count, fill)
    }

    #[test]
    fn takes_what_waits_up_to_each_limit() {
        let ten = limits(10, 1000);
        assert_eq!(shared(&[], &ten), (0, Fill::Open));
        assert_eq!(shared(&[waiting(100, 0); 3], &ten), (3, Fill::Open));
        assert_eq!(shared(&[waiting(10, 0); 10], &ten), (10, Fill::Full));
        assert_eq!(shared(&[waiting(10, 0); 11], &ten), (10, Fill::Full));
        assert_eq!(shared(&[waiting(300, 0); 4], &ten), (3, Fill::Full), "a fourth would be too much");
        assert_eq!(shared(&[waiting(500, 0); 2], &ten), (2, Fill::Full), "not a byte is left");
        assert_eq!(shared(&[waiting(100, 0)], &limits(1, 1000)), (1, Fill::Full));
    }

    #[test]
    fn what_is_too_large_for_company_goes_alone() {
        let ten = limits(10, 1000);
        assert_eq!(shared(&[waiting(5000, 0), waiting(1, 0)], &ten), (1, Fill::Full));
        assert_eq!(shared(&[waiting(1, 0), waiting(5000, 0), waiting(1, 0)], &ten), (1, Fill::Full));
        let long = Waiting { id_length: 3 * EVENT_IDS_LIMIT, ..waiting(1, 0) };
        assert_eq!(shared(&[long, waiting(1, 0)], &ten), (1, Fill::Full));
        let quarter = Waiting { id_length: EVENT_IDS_LIMIT / 4, ..waiting(1, 0) };
        assert_eq!(shared(&[quarter; 5], &ten), (3, Fill::Full), "with the commas, four are too long");
    }

    #[test]
    fn who_must_stand_alone_does_so_wherever_it_stands() {
        let ten = limits(10, 1000);
        assert_eq!(shared(&[waiting(1, 1)], &ten), (1, Fill::Full));
        assert_eq!(shared(&[waiting(1, 1), waiting(1, 0)], &ten), (1, Fill::Full));
        assert_eq!(shared(&[waiting(1, 0), waiting(1, 0), waiting(1, 1), waiting(1, 0)], &ten), (2, Fill::Full));
        assert_eq!(shared(&[waiting(1, 0), waiting(1, 3), waiting(1, 0), waiting(1, 0)], &ten), (3, Fill::Full));
        assert_eq!(shared(&[waiting(1, 0), waiting(1, 0), waiting(1, 0), waiting(1, 3)], &ten), (3, Fill::Full));
        assert_eq!(shared(&[waiting(1, 0), waiting(1, 3)], &ten), (2, Fill::Open));
    }

    #[test]
    fn halves_until_one_stands_alone_and_never_grows() {
        let mut members = NonZeroU16::new(1000).unwrap();
        let mut sizes = Vec::new();
        while members.get() > 1 {
            members = halved(members, Some(members));
            sizes.push(members.get());
        }
        assert_eq!(sizes, [500, 250, 125, 63, 32, 16, 8, 4, 2, 1]);
        assert_eq!(halved(NonZeroU16::MAX, NonZeroU16::new(3)).get(), 3);
        assert_eq!(halved(NonZeroU16::MIN, None).get(), 1);
    }

    #[test]
    fn what_speaks_of_the_endpoint_takes_nothing_apart() {
        let answered = |status| Reply { outcome: Outcome::Answered { status, retry_after: None }, took: Duration::ZERO };
        let of_the_endpoint: Vec<u16> = (0..1000).filter(|status| !may_lie_in_one_member(&answered(*status))).collect();
        let expected: Vec<u16> = (200..400).chain([401, 405, 407, 410, 421, 426, 429, 505, 511]).collect();
        assert_eq!(of_the_endpoint, expected);
        let failed = |failure| Reply { outcome: Outcome::Failed(failure), took: Duration::ZERO };
        for failure in [Failure::Timeout, Failure::Disconnected, Failure::NotHttp, Failure::Other] {
            assert!(may_lie_in_one_member(&failed(failure)), "{failure}");
            let incomplete = Reply { outcome: Outcome::Incomplete { status: 200, failure }, took: Duration::ZERO };
            assert!(may_lie_in_one_member(&incomplete), "{failure}");
        }
        for failure in [Failure::Dns, Failure::Connect, Failure::Auth(AuthFault::NoToken)] {
            assert!(!may_lie_in_one_member(&failed(failure)), "{failure}");
        }
    }
}
