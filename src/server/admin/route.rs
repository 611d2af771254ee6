//! Which paths and methods the admin port serves, and what each needs.

use http::request::Parts;
use http::{Method, StatusCode};

use super::access::Need;
use super::answer::AdminError;
use super::page;

/// Path prefix of a rule.
pub(super) const LIMITS: &str = "/api/v1/limits/";

/// Path prefix of a caller.
pub(super) const CALLERS: &str = "/api/v1/callers/";

/// Ends of the paths of a pool.
pub(super) const ACTIVE: &str = "/active";
pub(super) const CANARY: &str = "/canary";

/// What a path of the admin port stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdminRoute {
    Health,
    Ready,
    Metrics,
    Page(page::PageFile),
    Events,
    State,
    Explain,
    Maintenance,
    Active,
    Canary,
    Caller,
    Limit,
    Dead,
}

impl AdminRoute {
    /// Matches a request's head.
    ///
    /// # Errors
    /// An unknown path, or a method that the path does not take.
    pub(super) fn of(parts: &Parts) -> Result<Self, AdminError> {
        let route = match parts.uri.path() {
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/api/v1/events" => Self::Events,
            "/api/v1/state" => Self::State,
            "/api/v1/explain" => Self::Explain,
            "/api/v1/maintenance" => Self::Maintenance,
            "/api/v1/dead" => Self::Dead,
            path if pool_of(path, ACTIVE).is_some() => Self::Active,
            path if pool_of(path, CANARY).is_some() => Self::Canary,
            path if path.starts_with(CALLERS) => Self::Caller,
            path if path.starts_with(LIMITS) => Self::Limit,
            path if let Some(file) = page::file(path) => Self::Page(file),
            _ => {
                let message = "served here: /, /healthz, /readyz, /metrics, /api/v1/state, /api/v1/events, \
                     /api/v1/explain, /api/v1/maintenance, /api/v1/pools/{pool}/active, \
                     /api/v1/pools/{pool}/canary, /api/v1/callers/{id}, /api/v1/limits/{rule}, /api/v1/dead";
                return Err(AdminError::new(StatusCode::NOT_FOUND, "not_found", message));
            }
        };
        let (allowed, methods) = match route {
            Self::Maintenance | Self::Active => (parts.method == Method::PUT, "PUT"),
            Self::Limit => (matches!(parts.method, Method::PUT | Method::DELETE), "PUT, DELETE"),
            Self::Dead => {
                (matches!(parts.method, Method::GET | Method::HEAD | Method::POST), "GET, HEAD, POST")
            }
            Self::Caller | Self::Canary => (
                matches!(parts.method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE),
                "GET, HEAD, PUT, DELETE",
            ),
            _ => (matches!(parts.method, Method::GET | Method::HEAD), "GET, HEAD"),
        };
        if allowed {
            return Ok(route);
        }
        let message = format!("this path takes {methods}");
        Err(AdminError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
            .with_allow(methods))
    }

    /// Returns the token that a request needs.
    pub(super) fn need(self, method: &Method) -> Need {
        match self {
            Self::Caller | Self::Canary if matches!(*method, Method::PUT | Method::DELETE) => Need::Write,
            Self::Dead if *method == Method::POST => Need::Write,
            Self::Caller | Self::Canary | Self::Dead => Need::Read,
            Self::Health | Self::Ready => Need::Open,
            Self::Metrics => Need::Metrics,
            Self::Page(_) | Self::Events | Self::State | Self::Explain => Need::Read,
            Self::Maintenance | Self::Active | Self::Limit => Need::Write,
        }
    }
}

/// Returns the pool in `/api/v1/pools/{pool}` followed by `end`. Pool names need no escapes.
pub(super) fn pool_of<'a>(path: &'a str, end: &str) -> Option<&'a str> {
    let pool = path.strip_prefix("/api/v1/pools/")?.strip_suffix(end)?;
    (!pool.is_empty() && !pool.contains('/')).then_some(pool)
}
