//! Changes of rules at run time: `/api/v1/limits/{rule}`.

use std::time::Duration;

use http::{Response, StatusCode};
use serde::Deserialize;

use super::answer::{AdminError, json_answer};
use super::body::AdminBody;
use super::{Changed, LimitChange};
use crate::limit::change::{Change, WrittenChange};
use crate::limit::own_limits::WrittenLimit;

/// Maximum `ttl` in seconds, a year: anything longer belongs in the settings.
const LONGEST: u64 = 366 * 86_400;

/// A change as written by an administrator.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitBody {
    rate: Option<String>,
    burst: Option<u64>,
    limit: Option<u64>,
    mode: Option<String>,
    /// In seconds.
    ttl: Option<u64>,
    scope: Option<String>,
}

impl LimitBody {
    pub(super) fn read(self) -> Result<LimitChange, AdminError> {
        let bad = |message: String| AdminError::new(StatusCode::BAD_REQUEST, "bad_request", message);
        let Self { rate, burst, limit, mode, ttl, scope } = self;
        let written = WrittenChange { limit: WrittenLimit { rate, burst, limit }, mode };
        let change = Change::of(&written).map_err(bad)?;
        if change == Change::default() {
            return Err(bad("give at least one of `rate`, `burst`, `limit`, `mode`".to_owned()));
        }
        if let Some(ttl) = ttl.filter(|ttl| !(1..=LONGEST).contains(ttl)) {
            return Err(bad(format!("`ttl` must be from 1 to {LONGEST} seconds; found {ttl}")));
        }
        let fleet = match scope.as_deref() {
            None | Some("dam") => false,
            Some("fleet") => true,
            Some(other) => return Err(bad(format!("`scope` must be `dam` or `fleet`; found \"{other}\""))),
        };
        Ok(LimitChange { change, lasts: ttl.map(Duration::from_secs), fleet })
    }
}

pub(super) fn tell(changed: Changed) -> Result<Response<AdminBody>, AdminError> {
    let fault = |status, code, message: &str| Err(AdminError::new(status, code, message));
    match changed {
        Changed::Done(shown) => Ok(json_answer(StatusCode::OK, &shown)),
        Changed::NoRule => fault(StatusCode::NOT_FOUND, "not_found", "there is no rule of this name"),
        Changed::NoChange => fault(StatusCode::NOT_FOUND, "not_found", "the rule has no change to revert"),
        Changed::Invalid(why) => fault(StatusCode::BAD_REQUEST, "bad_request", why),
        Changed::NoSharedState => {
            let message = "no other gateway can be reached: `scope: fleet` needs `state: redis` or `callers.stored: redis`";
            fault(StatusCode::CONFLICT, "conflict", message)
        }
        Changed::Unavailable => fault(
            StatusCode::SERVICE_UNAVAILABLE,
            "redis_unavailable",
            "Redis does not answer, so the other gateways cannot be reached; retry",
        ),
    }
}
