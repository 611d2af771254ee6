//! W3C Trace Context of a request.
//!
//! The gateway follows the client's trace: its id is logged, and its flag decides whether spans are
//! recorded. If the gateway records spans, the worker gets the gateway's span as its parent.
//! Otherwise the client's header passes unchanged, and without one the worker gets none.

use std::fmt;

use http::HeaderValue;

/// The trace context of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace's id; never zero.
    pub id: TraceId,
    /// The gateway's own span.
    pub gateway_span: u64,
    /// The client's span.
    pub parent: Option<u64>,
    /// `true` if spans of this trace are recorded.
    pub sampled: bool,
    /// `true` if the worker's parent is the gateway's span, not the client's.
    pub worker_follows_gateway: bool,
}

/// The id of a trace; written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// `00-<32 digits>-<16 digits>-<2 digits>`
const LENGTH: usize = 55;

impl Trace {
    /// Begins a trace. The ids must be random and not zero.
    #[must_use]
    pub const fn new(id: u128, gateway_span: u64, sampled: bool) -> Self {
        Self { id: TraceId(id), gateway_span, parent: None, sampled, worker_follows_gateway: true }
    }

    /// Parses a client's `traceparent`, to be forwarded unchanged; `None` if it is malformed.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let version = header.get(..2)?;
        // Later versions may have more fields after another hyphen.
        let sound = match version {
            "ff" => false,
            "00" => header.len() == LENGTH,
            _ => header.len() == LENGTH || header.as_bytes().get(LENGTH) == Some(&b'-'),
        };
        let mut parts = header.get(..LENGTH)?.split('-');
        let (_, id, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if !sound || (version.len(), id.len(), span.len(), flags.len()) != (2, 32, 16, 2) {
            return None;
        }
        let digits = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if ![version, id, span, flags].into_iter().all(digits) {
            return None;
        }
        let id = u128::from_str_radix(id, 16).ok().filter(|id| *id != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self {
            id: TraceId(id),
            gateway_span: span,
            parent: Some(span),
            sampled,
            worker_follows_gateway: false,
        })
    }

    /// Inserts a span of the gateway between client and worker.
    #[must_use]
    pub const fn with_span(self, span: u64) -> Self {
        Self { gateway_span: span, worker_follows_gateway: true, ..self }
    }

    /// Formats the `traceparent` of the gateway's span.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        let mut text = *b"00-________________________________-________________-00";
        hex(&mut text[3..35], self.id.0);
        hex(&mut text[36..52], u128::from(self.gateway_span));
        text[LENGTH - 1] = if self.sampled { b'1' } else { b'0' };
        HeaderValue::from_bytes(&text).unwrap_or_else(|_never| HeaderValue::from_static("00"))
    }
}

/// Fills `room` with the low hexadecimal digits of `value`.
fn hex(room: &mut [u8], mut value: u128) {
    for digit in room.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_clients_trace_goes_on_through_the_gateway() {
        let told = Trace::parse(CLIENTS).unwrap();
        assert_eq!(told.id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(
            (told.parent, told.sampled, told.worker_follows_gateway),
            (Some(0xb7ad_6b71_6920_3331), true, false)
        );
        assert_eq!(told.header(), CLIENTS);
        let through = told.with_span(0xabc);
        assert_eq!(through.header(), "00-0af7651916cd43dd8448eb211c80319c-0000000000000abc-01");
        assert_eq!((through.parent, through.worker_follows_gateway), (told.parent, true));
        assert!(
            Trace::parse(Trace::new(7, 9, false).header().to_str().unwrap())
                .is_some_and(|read| !read.sampled)
        );
    }

    #[test]
    fn later_versions_are_read_and_malformed_headers_are_not() {
        assert!(Trace::parse(&CLIENTS.replacen("00", "cc", 1)).is_some());
        assert!(Trace::parse(&(CLIENTS.replacen("00", "cc", 1) + "-more")).is_some());
        for wrong in [
            "",
            "00",
            "é",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319cb-7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(Trace::parse(wrong), None, "{wrong}");
        }
    }
}
