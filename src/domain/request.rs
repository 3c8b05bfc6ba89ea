//! The request of a delivery: what an endpoint is sent, down to the last header.

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, PercentEncode, utf8_percent_encode};
use url::Url;

use super::auth::{Auth, Bearer};
use super::event::{Event, OccurredAt, webhook_id};
use super::history::History;
use super::integrator::Endpoint;
use super::names::EventId;
use super::sign::sign;
use super::time::Timestamp;
use super::tls::EndpointTls;

/// Ids of the events in the body, in their order, joined by `,`; each percent-encoded where it is not visible ASCII or
/// holds `,` or `%`.
pub const EVENT_IDS: HeaderName = HeaderName::from_static("callback-event-ids");
/// Key of the integrator, percent-encoded as the ids are.
pub const INTEGRATOR: HeaderName = HeaderName::from_static("callback-integrator");
/// When the (first) event happened.
pub const OCCURRED_AT: HeaderName = HeaderName::from_static("callback-occurred-at");
/// Number of the attempt, counted from 1; of several events the highest.
pub const ATTEMPT: HeaderName = HeaderName::from_static("callback-attempt");
/// The same for every attempt: what receivers tell duplicates by (Standard Webhooks 1.0.0).
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Seconds since the Unix epoch of this attempt (Standard Webhooks 1.0.0).
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// One signature for each secret, `v1` or `v1a` (Standard Webhooks 1.0.0).
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// Stands on a ping alone, which tells of nothing.
pub const PING: HeaderName = HeaderName::from_static("callback-ping");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What a header or a list of ids cannot hold as it is.
const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b',').add(b'%');
/// The longest time of an event that is passed on as written: RFC 3339 with nanoseconds and offset has 35 characters.
const LONGEST_TIME: usize = 64;

/// An HTTP POST, ready to be sent. Prints without URL, headers and body.
#[derive(Clone)]
pub struct CallbackRequest {
    /// Where to.
    pub url: Url,
    /// All headers but those that belong to the connection (`host`, `content-length`).
    pub headers: HeaderMap,
    /// The body, signed as it is.
    pub body: Bytes,
    /// The value of `webhook-id`.
    pub webhook_id: String,
    /// By which certificates the connection is made, where the endpoint has its own.
    pub tls: Option<Arc<EndpointTls>>,
}

impl CallbackRequest {
    /// Shows an access token.
    pub fn authorize(&mut self, bearer: &Bearer) {
        self.headers.insert(AUTHORIZATION, bearer.value().clone());
    }
}

impl fmt::Debug for CallbackRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackRequest")
            .field("webhook_id", &self.webhook_id)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// One attempt: which one it is, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Counted from 1; of several events the highest, so that 1 means that none of them has been tried before.
    pub number: u32,
    /// When the (first) event first came in.
    pub received_at: Timestamp,
    /// The time of the attempt, which is signed.
    pub now: Timestamp,
}

impl Attempt {
    /// The next attempt at deliveries with this past, in their order.
    #[must_use]
    pub fn next<'a>(members: impl IntoIterator<Item = &'a History>, now: Timestamp) -> Self {
        let mut members = members.into_iter();
        let Some(first) = members.next() else { return Self { number: 1, received_at: now, now } };
        let made = members.map(|history| history.attempts).fold(first.attempts, u32::max);
        Self { number: made.saturating_add(1), received_at: first.received_at, now }
    }
}

/// What every request says: type, accept, agent, id, timestamp, ids, integrator, time and attempt.
const OURS: usize = 9;
/// What the connection adds: host and length of the body.
const OF_THE_CONNECTION: usize = 2;
/// Bytes that the values of a request's own headers take unless its ids or keys are long: id and signature, three times, a name, a trace.
const VALUES: usize = 384;

/// Composes the request that tells `endpoint` of `events`, of which `body` is the rendering.
///
/// No event can add a header or break one: ids and keys are percent-encoded, a time that is no header value is replaced
/// by the time as understood or the time of first receipt, and a trace is left out. Of the endpoint's static headers
/// those that stand for something of ours are left out. An access token is not known here: [`CallbackRequest::authorize`] adds it
/// where the endpoint wants one. Where a header has room for one event only (its time, its trace),
/// it is the first.
#[must_use]
pub fn compose(endpoint: &Endpoint, events: &[&Event], body: Vec<u8>, attempt: &Attempt) -> CallbackRequest {
    assemble(endpoint, webhook_id(&endpoint.integrator, &endpoint.id, events), events, body, attempt)
}

/// Composes a request that tells of nothing, to see whether an endpoint takes requests: signed and authorized as any other, with the body
/// `[]` (in both formats a callback without entries) and the header [`PING`]. `nonce` makes its `webhook-id` one of its own.
#[must_use]
pub fn compose_ping(endpoint: &Endpoint, nonce: u64, now: Timestamp) -> CallbackRequest {
    let attempt = Attempt { number: 1, received_at: now, now };
    let mut request = assemble(endpoint, format!("msg_ping_{nonce:016x}"), &[], b"[]".to_vec(), &attempt);
    request.headers.insert(PING, HeaderValue::from_static("1"));
    request
}

fn assemble(endpoint: &Endpoint, webhook_id: String, events: &[&Event], body: Vec<u8>, attempt: &Attempt) -> CallbackRequest {
    let signature = sign(&endpoint.signing, &webhook_id, attempt.now, &body);
    let trace = events.first().and_then(|event| event.trace.as_ref());
    let is_authorized = endpoint.auth != Auth::None;
    let optional = usize::from(signature.is_some()) + usize::from(is_authorized) + if trace.is_some() { 2 } else { 0 };
    let map = HeaderMap::with_capacity(endpoint.headers.len() + OURS + optional + OF_THE_CONNECTION);
    let mut headers = Headers { map, values: BytesMut::with_capacity(VALUES) };
    for (name, value) in endpoint.headers.iter().filter(|(name, _)| !is_ours(name)) {
        headers.map.append(name, value.clone());
    }
    if let Auth::Basic(value) = &endpoint.auth {
        headers.map.insert(AUTHORIZATION, value.clone());
    }
    headers.map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.map.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.map.insert(USER_AGENT, HeaderValue::from_static(concat!("callbackd/", env!("CARGO_PKG_VERSION"))));
    headers.put(WEBHOOK_ID, &webhook_id);
    headers.put(WEBHOOK_TIMESTAMP, attempt.now.seconds());
    if let Some(signature) = signature {
        headers.put(WEBHOOK_SIGNATURE, signature);
    }
    if !events.is_empty() {
        headers.put(EVENT_IDS, Ids(events));
    }
    headers.put(INTEGRATOR, encode(endpoint.integrator.as_str()));
    let occurred = events.first().and_then(|event| event.occurred_at.as_ref());
    headers.put(OCCURRED_AT, occurred_at(occurred, attempt.received_at));
    headers.put(ATTEMPT, attempt.number);
    if let Some(trace) = trace {
        headers.put(TRACEPARENT, &trace.parent);
        if let Some(state) = &trace.state {
            headers.put(TRACESTATE, state);
        }
    }
    CallbackRequest { url: endpoint.url.as_url().clone(), headers: headers.map, body: body.into(), webhook_id, tls: endpoint.tls.clone() }
}

/// Headers whose values stand in one piece of memory: the HTTP client copies the map for each request, and a copy of a value of its
/// own would be an allocation more.
struct Headers {
    map: HeaderMap,
    values: BytesMut,
}

impl Headers {
    /// Sets a header; a value that can be none is left out, which no text can be after encoding and vetting.
    fn put(&mut self, name: HeaderName, value: impl Display) {
        // Memory takes all that is written.
        let _ = write!(self.values, "{value}");
        if let Ok(value) = HeaderValue::from_maybe_shared(self.values.split().freeze()) {
            self.map.insert(name, value);
        }
    }
}

/// Whether a header is ours to write. `accept` is not: an endpoint may have one of its own.
fn is_ours(name: &HeaderName) -> bool {
    [CONTENT_TYPE, USER_AGENT, TRACEPARENT, TRACESTATE].contains(name)
        || [WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE].contains(name)
        || [EVENT_IDS, INTEGRATOR, OCCURRED_AT, ATTEMPT, PING].contains(name)
}

/// The ids of events, encoded, with commas between them.
struct Ids<'a>(&'a [&'a Event]);

impl Display for Ids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, event) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_char(',')?;
            }
            encode(event.id.as_str()).fmt(f)?;
        }
        Ok(())
    }
}

fn occurred_at(occurred: Option<&OccurredAt>, received_at: Timestamp) -> Cow<'_, str> {
    let Some(occurred) = occurred else { return Cow::Owned(received_at.to_string()) };
    let text = occurred.text.trim();
    let safe = (1..=LONGEST_TIME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if safe { Cow::Borrowed(text) } else { Cow::Owned(occurred.at.unwrap_or(received_at).to_string()) }
}

/// Bytes of an id in the header [`EVENT_IDS`].
#[must_use]
pub fn encoded_length(id: &EventId) -> usize {
    encode(id.as_str()).map(str::len).sum()
}

/// Makes any text fit into a header and into a list with commas. `percent_decode` gives it back.
fn encode(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, UNSAFE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::auth::Granted;
    use crate::domain::decode::{Metadata, decode};
    use crate::domain::format::Format;
    use crate::domain::integrator::EndpointUrl;
    use crate::domain::names::{EndpointId, IntegratorKey};
    use crate::domain::sign::SigningSecret;

    const NOW: Timestamp = Timestamp::from_millis(1_756_881_488_042);
    const ATTEMPT_3: Attempt = Attempt { number: 3, received_at: Timestamp::from_millis(1_000), now: NOW };

    fn endpoint() -> Endpoint {
        Endpoint {
            format: Format::Topic,
            ..Endpoint::new(
                IntegratorKey::try_new("acme").unwrap(),
                EndpointId::try_new("main").unwrap(),
                EndpointUrl::parse("https://acme.example/hook?token=SECRET", false).unwrap(),
            )
        }
    }

    fn event(id: &str, occurred_at: &str) -> Event {
        let body = serde_json::json!({"id": id, "integrator": "acme", "topic": "t", "occurredAt": occurred_at, "data": []});
        let trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let metadata = Metadata { traceparent: Some(trace), tracestate: Some(b"a=b"), ..Metadata::default() };
        decode(body.to_string().into(), &metadata).unwrap()
    }

    fn header(request: &CallbackRequest, name: impl http::header::AsHeaderName) -> &str {
        request.headers.get(name).unwrap().to_str().unwrap()
    }

    #[test]
    fn says_what_it_is_and_which_attempt() {
        let event = event("evt-1", "2025-09-03T06:38:08+0200");
        let request = compose(&endpoint(), &[&event], b"[]".to_vec(), &ATTEMPT_3);
        assert_eq!(request.url.as_str(), "https://acme.example/hook?token=SECRET");
        assert_eq!(request.webhook_id, webhook_id(&endpoint().integrator, &endpoint().id, &[&event]));
        let expected = [
            ("content-type", "application/json"),
            ("webhook-id", request.webhook_id.as_str()),
            ("webhook-timestamp", "1756881488"),
            ("callback-event-ids", "evt-1"),
            ("callback-integrator", "acme"),
            ("callback-occurred-at", "2025-09-03T06:38:08+0200"),
            ("callback-attempt", "3"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=b"),
        ];
        for (name, value) in expected {
            assert_eq!(header(&request, name), value, "{name}");
        }
        assert!(header(&request, "user-agent").starts_with("callbackd/"));
        assert!(!request.headers.contains_key("webhook-signature"));
        assert!(!format!("{request:?}").contains("SECRET"));
    }

    #[test]
    fn ids_are_encoded_so_that_a_list_of_them_can_be_taken_apart() {
        let events = [event("a,b", ""), event("100%", ""), event("ü\r\nx: y", ""), event("Concedus+Q000020AA+14", "")];
        let events: Vec<&Event> = events.iter().collect();
        let request = compose(&endpoint(), &events, b"[]".to_vec(), &ATTEMPT_3);
        assert_eq!(header(&request, "callback-event-ids"), "a%2Cb,100%25,%C3%BC%0D%0Ax:%20y,Concedus+Q000020AA+14");
        let other = compose(&endpoint(), &events[..3], b"[]".to_vec(), &ATTEMPT_3);
        assert_ne!(request.webhook_id, other.webhook_id);
        assert!(!request.webhook_id.contains('.') && request.webhook_id.len() == 36);
    }

    #[test]
    fn several_events_are_told_as_the_first_of_them_and_by_the_highest_attempt() {
        let mut events = [event("e1", "2025-09-03T06:38:08Z"), event("e2", "2025-09-04T06:38:08Z")];
        events[1].trace = None;
        let past = |attempts, at| History { attempts, ..History::new(Timestamp::from_millis(at)) };
        let attempt = Attempt::next([&past(0, 5), &past(4, 2), &past(1, 9)], NOW);
        assert_eq!(attempt, Attempt { number: 5, received_at: Timestamp::from_millis(5), now: NOW });
        let request = compose(&endpoint(), &[&events[0], &events[1]], b"[]".to_vec(), &attempt);
        assert_eq!(header(&request, "callback-event-ids"), "e1,e2");
        assert_eq!((header(&request, "callback-occurred-at"), header(&request, "callback-attempt")), ("2025-09-03T06:38:08Z", "5"));
        assert!(request.headers.contains_key("traceparent"));
        let reversed = compose(&endpoint(), &[&events[1], &events[0]], b"[]".to_vec(), &attempt);
        assert!(!reversed.headers.contains_key("traceparent") && !reversed.headers.contains_key("tracestate"));
        assert_ne!(reversed.webhook_id, request.webhook_id);
        let alone = compose(&endpoint(), &[&events[0]], b"[]".to_vec(), &attempt);
        assert_ne!(alone.webhook_id, request.webhook_id);
    }

    #[test]
    fn the_length_of_an_id_is_that_in_the_header() {
        for id in ["e", "a,b", "100%", "ü\r\n", "Concedus+Q000020AA+14"] {
            let event = event(id, "");
            let request = compose(&endpoint(), &[&event], b"[]".to_vec(), &ATTEMPT_3);
            assert_eq!(header(&request, "callback-event-ids").len(), encoded_length(&event.id), "{id:?}");
        }
    }

    #[test]
    fn headers_are_written_into_the_room_that_was_made_for_them() {
        let mut endpoint = endpoint();
        endpoint.signing = vec![SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()];
        for name in ["x-a", "x-b", "x-c", "x-d", "x-e"] {
            endpoint.headers.insert(name, HeaderValue::from_static("x"));
        }
        let request = compose(&endpoint, &[&event("e", "")], b"[]".to_vec(), &ATTEMPT_3);
        let room = HeaderMap::<HeaderValue>::with_capacity(request.headers.len() + OF_THE_CONNECTION).capacity();
        assert_eq!((request.headers.len(), request.headers.capacity()), (5 + OURS + 3, room));
    }

    #[test]
    fn basic_credentials_or_an_access_token_are_sent_and_never_printed() {
        let (event, mut endpoint) = (event("e", ""), endpoint());
        endpoint.auth = Auth::basic("acme", &"pass".into());
        let request = compose(&endpoint, &[&event], b"[]".to_vec(), &ATTEMPT_3);
        assert_eq!(header(&request, "authorization"), "Basic YWNtZTpwYXNz");
        assert!(request.headers["authorization"].is_sensitive() && !format!("{endpoint:?}{:?}", request.headers).contains("YWNt"));
        let granted = Granted::parse(br#"{"access_token":"TOKEN"}"#).unwrap();
        let mut request = compose(&self::endpoint(), &[&event], b"[]".to_vec(), &ATTEMPT_3);
        assert!(!request.headers.contains_key("authorization"));
        request.authorize(&granted.bearer);
        assert_eq!(header(&request, "authorization"), "Bearer TOKEN");
        assert!(!format!("{:?}", request.headers).contains("TOKEN"));
    }

    #[test]
    fn a_time_that_is_no_header_value_is_replaced() {
        for (text, expected) in [
            (" 2025-09-03T06:38:08Z\n", "2025-09-03T06:38:08Z"),
            ("last week", "last week"),
            ("gestern früh", "1970-01-01T00:00:01.000Z"),
            ("x\r\ny: z", "1970-01-01T00:00:01.000Z"),
            ("", "1970-01-01T00:00:01.000Z"),
            (&"9".repeat(65), "1970-01-01T00:00:01.000Z"),
        ] {
            let event = event("e", text);
            let request = compose(&endpoint(), &[&event], b"[]".to_vec(), &ATTEMPT_3);
            assert_eq!(header(&request, "callback-occurred-at"), expected, "{text}");
        }
    }

    #[test]
    fn static_headers_are_sent_and_replace_none_of_ours() {
        let mut endpoint = endpoint();
        for (name, value) in [
            ("x-acme-signature", "s3cret"),
            ("accept", "text/x"),
            ("webhook-id", "forged"),
            ("webhook-signature", "v1,x"),
            ("tracestate", "x"),
        ] {
            endpoint.headers.insert(name, value.parse().unwrap());
        }
        let event = decode(r#"{"id":"e","integrator":"acme","topic":"t","data":[]}"#.into(), &Metadata::default()).unwrap();
        let request = compose(&endpoint, &[&event], b"[]".to_vec(), &ATTEMPT_3);
        assert_eq!((header(&request, "x-acme-signature"), header(&request, "accept")), ("s3cret", "text/x"));
        assert_eq!(header(&request, "webhook-id"), request.webhook_id);
        assert!(!request.headers.contains_key("webhook-signature") && !request.headers.contains_key("tracestate"));
        endpoint.signing = vec![SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()];
        let request = compose(&endpoint, &[&event], b"[]".to_vec(), &ATTEMPT_3);
        assert_eq!(Some(header(&request, "webhook-signature").to_owned()), sign(&endpoint.signing, &request.webhook_id, NOW, b"[]"));
    }
}
