//! Where an event stands in a trace: W3C trace context, read and derived.
//!
//! All that a trace needs travels with the event: its `traceparent`, or where it has none its identity, of which the ids of the trace
//! are a hash. So every attempt of every worker lands in the same trace, and nothing has to be remembered for it.

use sha2::{Digest as _, Sha256};

use super::names::{EventId, IntegratorKey, Topic};

/// The id of a trace. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// A span that the publisher of an event has named as the parent (W3C header `traceparent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Its trace.
    pub trace: TraceId,
    /// It.
    pub span: SpanId,
    /// Whether the publisher records the trace.
    pub is_sampled: bool,
}

impl TraceId {
    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether this trace is among the share of all that `ratio` says; 0 none, 1 all. The same for every worker: the last 56 bits of
    /// the id decide, which W3C Trace Context Level 2 calls random.
    #[must_use]
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 2^56, within it")]
    pub fn is_within(&self, ratio: f64) -> bool {
        let most = 1_u64 << 56;
        let random = self.0[9..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        ratio >= 1.0 || random < (ratio.max(0.0) * most as f64) as u64
    }
}

impl SpanId {
    /// One of these 64 bits, such as random ones.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self((if bits == 0 { 1 } else { bits }).to_be_bytes())
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl TraceParent {
    /// Longest text that is read, in bytes. A choice of ours, as later versions have no limit: as much as W3C Trace Context asks to be
    /// passed on of a `tracestate`.
    pub const LIMIT: usize = 512;

    /// Reads a `traceparent` (<https://www.w3.org/TR/trace-context/>): four fields of lower-case hexadecimal digits, no version `ff`, no id
    /// of zeros. Of versions above 00 more may follow behind a dash, which is not read; it is visible ASCII, so that the whole can be
    /// passed on in a header as it is. Anything else is none, as the specification asks.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(5, '-');
        let [version, trace, span, flags] = [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
        let more = fields.next();
        let [version] = hex(version)?;
        let [flags] = hex::<1>(flags)?;
        let (trace, span) = (hex::<16>(trace)?, hex::<8>(span)?);
        let has_form = match version {
            0 => more.is_none(),
            0xff => false,
            _ => text.len() <= Self::LIMIT && more.is_none_or(|more| more.bytes().all(|byte| byte.is_ascii_graphic())),
        };
        let is_one = has_form && trace != [0; 16] && span != [0; 8];
        is_one.then_some(Self { trace: TraceId(trace), span: SpanId(span), is_sampled: flags & 1 == 1 })
    }

    /// The trace of an event whose publisher has named none, and its first span: a hash of what makes the event the same event.
    #[must_use]
    pub fn derived(integrator: &IntegratorKey, topic: &Topic, id: &EventId) -> (TraceId, SpanId) {
        let mut hash = Sha256::new();
        for part in ["trace", integrator.as_str(), topic.as_str(), id.as_str()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&digest[..16]);
        span.copy_from_slice(&digest[16..24]);
        // That a hash is nothing but zeros will not be seen, and would still be no id.
        trace[0] |= u8::from(trace == [0; 16]);
        (TraceId(trace), SpanId::from_bits(u64::from_be_bytes(span)))
    }
}

/// So many bytes, two lower-case digits each.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | value;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_to_the_letter() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.trace.as_bytes()[..4], [0x0a, 0xf7, 0x65, 0x19]);
        assert_eq!(*parent.span.as_bytes(), [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert!(parent.is_sampled);
        for (flags, is_sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let text = format!("{}{flags}", &GOOD[..53]);
            assert_eq!(TraceParent::parse(&text).unwrap().is_sampled, is_sampled, "{flags}");
        }
        let bad = [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-00"),
            &format!(" {GOOD}"),
            &GOOD.to_uppercase(),
            &GOOD.replacen("00-", "ff-", 1),
            &GOOD.replacen("00-", "0-", 1),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace("b7ad", "g7ad"),
            &GOOD.replace('-', "_"),
        ];
        for text in bad {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn of_a_later_version_the_first_four_fields_are_read_whatever_follows_a_dash() {
        let later = GOOD.replacen("00-", "cc-", 1);
        let longest = format!("{later}-{}", "x".repeat(TraceParent::LIMIT - later.len() - 1));
        for text in [&later, &format!("{later}-what-the-future-will-be-like"), &format!("{later}-"), &format!("{later}--~"), &longest] {
            assert_eq!(TraceParent::parse(text), TraceParent::parse(GOOD), "{text}");
        }
        let injected = ["-a b", "-a\r\nx: y", "-\0", "-\u{7f}", "-ä", "-a "].map(|more| format!("{later}{more}"));
        let not_behind_a_dash = [".what", "0", " "].map(|more| format!("{later}{more}"));
        let zeros = later.replace("b7ad6b7169203331", &"0".repeat(16));
        for text in injected.iter().chain(&not_behind_a_dash).chain([&zeros, &format!("{longest}x"), &format!("ff{}-more", &later[2..])]) {
            assert_eq!(TraceParent::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_event_without_a_parent_has_the_same_trace_each_time_and_another_one_another() {
        let of = |integrator: &str, topic: &str, id: &str| {
            let integrator = IntegratorKey::try_new(integrator).unwrap();
            TraceParent::derived(&integrator, &Topic::try_new(topic).unwrap(), &EventId::try_new(id).unwrap())
        };
        assert_eq!(of("acme", "t", "evt-1"), of("acme", "t", "evt-1"));
        let others = [of("acme", "t", "evt-1"), of("acme", "t", "evt-2"), of("acm", "et", "evt-1"), of("acme", "te", "vt-1")];
        let traces: std::collections::HashSet<TraceId> = others.iter().map(|(trace, _)| *trace).collect();
        assert_eq!(traces.len(), 4);
    }

    #[test]
    fn a_ratio_takes_its_share_of_traces_and_a_larger_one_takes_those_too() {
        let traces: Vec<TraceId> = (0..2000)
            .map(|n| {
                let id = EventId::try_new(format!("evt-{n}")).unwrap();
                TraceParent::derived(&IntegratorKey::try_new("acme").unwrap(), &Topic::try_new("t").unwrap(), &id).0
            })
            .collect();
        let within = |ratio: f64| traces.iter().filter(|trace| trace.is_within(ratio)).count();
        assert_eq!((within(0.0), within(1.0)), (0, 2000));
        assert!((350..650).contains(&within(0.25)), "{}", within(0.25));
        assert!(traces.iter().all(|trace| !trace.is_within(0.25) || trace.is_within(0.5)));
    }
}
