//! What tests ask of the worker: to fail for whoever comes next, to change while it runs, and to show what it was sent
//! last.

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use parking_lot::Mutex;
use serde::Deserialize;

use super::fault::RequestFaults;

/// Bytes of the last body that are kept.
const MAX_KEPT: usize = 64 << 10;

/// Behind `/debug/fault` and `/debug/last`.
#[derive(Debug, Default)]
pub(super) struct Debug {
    /// Faults of the next requests, and of how many.
    faults: Mutex<Option<(RequestFaults, u64)>>,
    last: Mutex<Option<Last>>,
}

#[derive(Debug)]
struct Last {
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Deserialize)]
struct Order {
    fault: String,
    count: Option<u64>,
}

/// What `POST /debug/worker` changes; what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkerChange {
    /// Sequences decoded at once, at least 1.
    pub(super) slots: Option<u32>,
    /// Share of requests whose prompt is cached, 0 to 1.
    pub(super) cached_share: Option<f64>,
}

impl WorkerChange {
    /// Reads a change.
    ///
    /// # Errors
    /// The field that is wrong, and what would be right.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let change: Self = serde_json::from_slice(body).map_err(|error| format!("the body: {error}"))?;
        if change.slots == Some(0) {
            return Err("slots is 0; want at least 1".to_owned());
        }
        match change.cached_share {
            Some(share) if !(0.0..=1.0).contains(&share) => {
                Err(format!("cached_share is {share}; want a number from 0 to 1"))
            }
            _ => Ok(change),
        }
    }
}

impl Debug {
    /// Puts faults on the next requests that name none themselves: on one, unless `count` says otherwise. A later
    /// order replaces an earlier one; a count of zero takes it back.
    pub(super) fn set_faults(&self, body: &[u8]) -> Result<(), String> {
        let order: Order = serde_json::from_slice(body).map_err(|error| format!("the body: {error}"))?;
        let faults = RequestFaults::parse(&order.fault)?;
        *self.faults.lock() = Some((faults, order.count.unwrap_or(1)));
        Ok(())
    }

    /// The faults of this request.
    pub(super) fn take_faults(&self) -> Option<RequestFaults> {
        let mut faults = self.faults.lock();
        let (faults, left) = faults.as_mut().filter(|(_, left)| *left > 0)?;
        *left -= 1;
        Some(faults.clone())
    }

    /// Keeps a request until the next one comes.
    pub(super) fn record(&self, parts: Parts, body: Bytes) {
        let line = format!("{} {}", parts.method, parts.uri);
        // A copy of a small piece would be cheaper to keep than a slice of a large body.
        let body = if body.len() > MAX_KEPT { Bytes::copy_from_slice(&body[..MAX_KEPT]) } else { body };
        *self.last.lock() = Some(Last { line, headers: parts.headers, body });
    }

    /// The last request as JSON: its line, its headers (a list of values for each name), the start of its body.
    pub(super) fn last(&self) -> String {
        let last = self.last.lock();
        let Some(Last { line, headers, body }) = &*last else { return "null".to_owned() };
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
