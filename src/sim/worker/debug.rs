//! Debug endpoints for tests: faults of the next requests, changes at run time, the last request.

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use parking_lot::Mutex;
use serde::Deserialize;

use super::fault::RequestFaults;

/// Maximum bytes kept of the last body.
const MAX_KEPT: usize = 64 << 10;

/// State of `/debug/fault` and `/debug/last`.
#[derive(Debug, Default)]
pub(super) struct Debug {
    /// Faults for the next requests, and the number of those requests.
    faults: Mutex<Option<(RequestFaults, u64)>>,
    last: Mutex<Option<LastRequest>>,
}

#[derive(Debug)]
struct LastRequest {
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Deserialize)]
struct FaultOrder {
    fault: String,
    count: Option<u64>,
}

/// Body of `POST /debug/worker`. Absent fields stay unchanged.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerChange {
    /// Sequences decoded at once, at least 1.
    pub(super) slots: Option<u32>,
    /// Share of requests whose prompt is cached, 0 to 1.
    pub(super) cached_share: Option<f64>,
}

impl WorkerChange {
    /// Parses a change.
    ///
    /// # Errors
    /// The wrong field and its valid range.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let change: Self = serde_json::from_slice(body).map_err(|error| format!("invalid body: {error}"))?;
        if change.slots == Some(0) {
            return Err("slots is 0: must be at least 1".to_owned());
        }
        match change.cached_share {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                Err(format!("cached_share is {share}: must be 0 to 1"))
            }
            _ => Ok(change),
        }
    }
}

impl Debug {
    /// Sets faults for the next `count` (by default 1) requests that name none themselves. Replaces
    /// earlier faults; a count of zero clears them.
    pub(super) fn set_faults(&self, body: &[u8]) -> Result<(), String> {
        let order: FaultOrder =
            serde_json::from_slice(body).map_err(|error| format!("invalid body: {error}"))?;
        let faults = RequestFaults::parse(&order.fault)?;
        *self.faults.lock() = Some((faults, order.count.unwrap_or(1)));
        Ok(())
    }

    pub(super) fn take_faults(&self) -> Option<RequestFaults> {
        let mut faults = self.faults.lock();
        let (faults, left) = faults.as_mut().filter(|(_, left)| *left > 0)?;
        *left -= 1;
        Some(faults.clone())
    }

    /// Keeps a request until the next one.
    pub(super) fn record(&self, parts: Parts, body: Bytes) {
        let line = format!("{} {}", parts.method, parts.uri);
        // A copy of the start needs less memory than a slice that keeps a large body alive.
        let body = if body.len() > MAX_KEPT { Bytes::copy_from_slice(&body[..MAX_KEPT]) } else { body };
        *self.last.lock() = Some(LastRequest { line, headers: parts.headers, body });
    }

    /// Returns the last request as JSON: request line, header values as lists, start of the body.
    pub(super) fn last(&self) -> String {
        let last = self.last.lock();
        let Some(LastRequest { line, headers, body }) = &*last else { return "null".to_owned() };
        let values = |name| {
            let values = headers.get_all(name).into_iter();
            values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned().into()).collect()
        };
        let headers: serde_json::Map<_, _> =
            headers.keys().map(|name| (name.to_string(), serde_json::Value::Array(values(name)))).collect();
        serde_json::json!({ "request": line, "headers": headers, "body": String::from_utf8_lossy(body) })
            .to_string()
    }
}
