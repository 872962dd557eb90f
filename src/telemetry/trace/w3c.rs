//! The W3C's trace context: the headers `traceparent` and `tracestate`.
//!
//! Invariant: headers that break the specification count as absent; nobody is refused for them.

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Longest `tracestate` that is carried on, in bytes; the specification asks for 512. A longer one is dropped, and the trace goes on without it.
const LONGEST_STATE: usize = 512;

/// Returns the span that a request is a part of.
pub(super) fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let mut parents = headers.get_all(PARENT).iter();
    // Two of them name two parents, so none is believed.
    let (first, None) = (parents.next()?, parents.next()) else {
        return None;
    };
    let (trace, span, flags) = fields(first.to_str().ok()?)?;
    let state = state(headers).unwrap_or_default();
    let context = SpanContext::new(trace, span, flags & TraceFlags::SAMPLED, true, state);
    context.is_valid().then_some(context)
}

/// The ids and flags of a `traceparent`: `version-trace-parent-flags` in lower-case hexadecimal. Later versions may append fields.
fn fields(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let text = text.trim();
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (part.len() == digits && part.bytes().all(is_hex)).then_some(part)
    };
    let version = u8::from_str_radix(hex(2)?, 16).ok()?;
    let trace = TraceId::from_hex(hex(32)?).ok()?;
    let span = SpanId::from_hex(hex(16)?).ok()?;
    let flags = u8::from_str_radix(hex(2)?, 16).ok()?;
    let has_more = parts.next().is_some();
    let is_known = version != 0xff && (version != 0 || !has_more);
    is_known.then(|| (trace, span, TraceFlags::new(flags)))
}

fn state(headers: &HeaderMap) -> Option<TraceState> {
    let lines = headers.get_all(STATE).iter();
    let lines = lines
        .map(|line| line.to_str().ok())
        .collect::<Option<Vec<_>>>()?;
    let text = lines.join(",");
    if text.len() > LONGEST_STATE {
        return None;
    }
    text.parse().ok()
}

/// Trace context that a client sends with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    trace: TraceId,
    flags: TraceFlags,
    state: Option<String>,
}

impl Outgoing {
    /// A new trace, with random bytes as its id, which is to be recorded.
    pub fn new(random: [u8; 16]) -> Self {
        Self {
            trace: TraceId::from_bytes(random),
            flags: TraceFlags::SAMPLED,
            state: None,
        }
    }

    /// The trace that a `traceparent` and a `tracestate` belong to; `None` when the first is malformed.
    pub fn of(parent: &str, state: Option<&str>) -> Option<Self> {
        let (trace, span, flags) = fields(parent)?;
        if trace == TraceId::INVALID || span == SpanId::INVALID {
            return None;
        }
        Some(Self {
            trace,
            flags: flags & TraceFlags::SAMPLED,
            state: state.map(str::to_owned),
        })
    }

    /// The value of `traceparent` for one request, whose span has random bytes as its id.
    pub fn parent(&self, random: [u8; 8]) -> String {
        let span = SpanId::from_bytes(random);
        format!("00-{}-{span}-{:02x}", self.trace, self.flags)
    }

    /// The value of `tracestate`, if there is one.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The id of the trace, as a collector shows it.
    pub fn id(&self) -> String {
        self.trace.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_a_well_formed_parent_counts() {
        for (text, is_good) in [
            (GOOD, true),
            (
                " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00 ",
                true,
            ),
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what",
                true,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what",
                false,
            ),
            (
                "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                false,
            ),
            (
                "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
                false,
            ),
            ("", false),
        ] {
            let found = parent(&headers(&[(PARENT, text)]));
            assert_eq!(found.is_some(), is_good, "{text:?}");
        }
        assert!(parent(&headers(&[(PARENT, GOOD), (PARENT, GOOD)])).is_none());
        assert!(parent(&HeaderMap::new()).is_none());
    }

    #[test]
    fn the_flags_and_the_state_are_carried_on() {
        let lines = [(PARENT, GOOD), (STATE, "a=1"), (STATE, "b=2,c=3")];
        let context = parent(&headers(&lines)).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(context.trace_state().header(), "a=1,b=2,c=3");
        let long = format!("a={}", "x".repeat(LONGEST_STATE));
        let context = parent(&headers(&[(PARENT, GOOD), (STATE, &long)])).unwrap();
        assert_eq!(context.trace_state().header(), "");
    }

    #[test]
    fn a_client_goes_on_with_a_trace_or_begins_one() {
        let own = Outgoing::new([7; 16]);
        let sent = own.parent([9; 8]);
        assert_eq!(
            sent,
            "00-07070707070707070707070707070707-0909090909090909-01"
        );
        let given = Outgoing::of(GOOD, Some("a=1")).unwrap();
        let context = parent(&headers(&[(PARENT, &given.parent([9; 8]))])).unwrap();
        assert_eq!(context.trace_id().to_string(), given.id());
        assert!(context.is_sampled());
        assert_eq!(given.state(), Some("a=1"));
        assert_eq!(Outgoing::of("00-1-2-3", None), None);
    }
}
