//! The admin port: health, metrics, state and a few run-time changes.
//!
//! It has its own listener: it answers when the main one is full, and a firewall can separate the
//! two. It gets its data through [`AdminSource`] and knows nothing of the application.
//!
//! | path | method | needs |
//! | --- | --- | --- |
//! | `/healthz`, `/readyz` | GET | nothing |
//! | `/metrics` | GET | `metrics_token`, if set |
//! | `/` and its files, `/api/v1/state`, `/api/v1/explain?caller=…` | GET | `read_token` or `token`, if set |
//! | `/api/v1/events` | GET, server-sent events: [`live::Frame`]s | the same |
//! | `/api/v1/maintenance` | PUT `{"on": true}` | `token`, if set; same origin; JSON |
//! | `/api/v1/pools/{pool}/active` | PUT `{"colour": "green", "version": "2.0", "canary": "5%"}` | the same |
//! | `/api/v1/pools/{pool}/canary` | GET; PUT `{"epoch": 7}`, DELETE | as GET state; as PUT maintenance |
//! | `/api/v1/limits/{rule}` | PUT `{"burst": 5, "ttl": 600}`, DELETE | the same |
//! | `/api/v1/dead` | GET; POST `{"pool": …, "job": …}` | as GET state; as PUT maintenance |
//! | `/api/v1/callers/{id}` | GET; PUT `{"sha256": …}`, DELETE | as GET state; as PUT maintenance |

mod access;
mod answer;
mod body;
mod callers;
mod dead;
mod limits;
pub mod live;
mod page;
mod switches;

pub(crate) use access::check_open;
pub use access::{AdminSettings, Token};
pub use switches::{CanaryRequest, SwitchRequest, Switched, read_judge, read_share};

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::Service;

use crate::limit::change::Change;
use crate::limit::rule::Rule;
use crate::redis::callers::StoredCallers;
use crate::redis::jobs::JobQueue;
use crate::view::CanaryView;
use access::{Need, check_origin};
use answer::{AdminError, answer, json_answer};
use body::AdminBody;
use live::Live;
use switches::{ActiveBody, AttendBody};

/// Write requests are short.
const LARGEST_BODY: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

/// State of every rule for a request, or an error message about the query.
pub type Explanation = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;

/// Data source of the admin port.
pub trait AdminSource: Send + Sync + 'static {
    /// Returns the object for `/api/v1/state`. Must be fast: it runs in the request's task.
    fn state(&self) -> Value;

    /// Returns `Ok` if balancers should send requests to this gateway.
    ///
    /// # Errors
    /// The reason why not, in words.
    fn ready(&self) -> Result<(), String>;

    /// Returns the metrics as Prometheus text. Runs on a blocking thread, never twice at once.
    fn metrics(&self) -> String;

    /// Refuses new requests if `on`, or admits them again.
    fn set_maintenance(&self, on: bool);

    /// Makes a colour the active one of a pool, at once or after a canary.
    fn set_active(&self, request: SwitchRequest) -> Pin<Box<dyn Future<Output = Switched> + Send>>;

    /// Returns the canary of `pool`: the one under way, else the last one known here.
    fn canary(&self, _pool: &str) -> Option<CanaryView> {
        None
    }

    /// Records that the client of the canary `epoch` of `pool` is still there; returns the canary.
    fn attend_canary(&self, _pool: &str, _epoch: u64) -> Option<CanaryView> {
        None
    }

    /// Ends the canary of `pool`: the old side gets everything.
    fn end_canary(&self, _pool: String) -> Pin<Box<dyn Future<Output = Switched> + Send>> {
        Box::pin(std::future::ready(Switched::NoCanary))
    }

    /// Returns the state of every rule for the request that the query describes.
    fn explain(&self, query: String) -> Explanation;

    /// Changes a rule for all requests; `None` restores the configured rule.
    fn change_limit(
        &self,
        _rule: String,
        _change: Option<LimitChange>,
    ) -> Pin<Box<dyn Future<Output = Changed> + Send>> {
        Box::pin(std::future::ready(Changed::NoRule))
    }

    /// Returns the rules in force.
    fn rules(&self) -> Vec<Arc<Rule>> {
        Vec::new()
    }

    /// Returns the data for live viewers; `None` if there is none.
    fn live(&self) -> Option<Arc<Live>> {
        None
    }

    /// Returns the jobs and the pools that may have some; `None` without a queue.
    fn jobs(&self) -> Option<(JobQueue, Vec<Arc<str>>)> {
        None
    }

    /// Returns the callers stored in Redis; `None` if they are not stored there.
    fn callers(&self) -> Option<Arc<StoredCallers>> {
        None
    }
}

/// Change of a rule at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// New values.
    pub(crate) change: Change,
    /// Lifetime; `None` until it is reverted.
    pub(crate) lasts: Option<Duration>,
    /// `true` for all gateways, `false` for this one only.
    pub(crate) fleet: bool,
}

/// Outcome of a change of a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// Done; the response body.
    Done(Value),
    /// No such rule.
    NoRule,
    /// There was no change to revert.
    NoChange,
    /// The change does not fit the rule, for this reason.
    Invalid(&'static str),
    /// This gateway shares no state with others.
    NoSharedState,
    /// Redis is unreachable.
    Unavailable,
}

/// The service of the admin port, for [`serve`](super::serve).
#[derive(Clone)]
pub struct Admin {
    settings: Arc<ArcSwap<AdminSettings>>,
    source: Arc<dyn AdminSource>,
    // Encoding thousands of series takes milliseconds of a thread: one scrape at a time.
    scrape: Arc<Semaphore>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Admin {
    /// Creates the service. The settings may change while it runs.
    pub fn new(settings: Arc<ArcSwap<AdminSettings>>, source: Arc<dyn AdminSource>) -> Self {
        Self { settings, source, scrape: Arc::new(Semaphore::new(1)) }
    }

    async fn handle<B>(self, request: Request<B>) -> Result<Response<AdminBody>, AdminError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let (parts, body) = request.into_parts();
        let settings = self.settings.load();
        settings.check_host(&parts)?;
        let route = AdminRoute::of(&parts)?;
        settings.check_token(route.need(&parts.method), &parts.headers)?;
        drop(settings);
        match route {
            AdminRoute::Health => Ok(json_answer(StatusCode::OK, &json!({ "status": "ok" }))),
            AdminRoute::Ready => match self.source.ready() {
                Ok(()) => Ok(json_answer(StatusCode::OK, &json!({ "status": "ready" }))),
                Err(why) => Err(AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why)),
            },
            AdminRoute::Page(file) => Ok(answer(StatusCode::OK, file.content_type, file.text)),
            AdminRoute::Events => self.events(),
            AdminRoute::State => Ok(json_answer(StatusCode::OK, &self.source.state())),
            AdminRoute::Explain => {
                let query = parts.uri.query().unwrap_or_default().to_owned();
                let explained = self.source.explain(query).await;
                let explained =
                    explained.map_err(|why| AdminError::new(StatusCode::BAD_REQUEST, "bad_request", why))?;
                Ok(json_answer(StatusCode::OK, &explained))
            }
            AdminRoute::Metrics => self.scrape().await,
            AdminRoute::Active => {
                check_origin(&parts)?;
                let pool = pool_of(parts.uri.path(), ACTIVE).unwrap_or_default().to_owned();
                let asked: ActiveBody = read_json(&parts.headers, body).await?;
                let asked = asked.read(pool)?;
                let switched = self.source.set_active(asked.clone()).await;
                let SwitchRequest { pool, colour, version, canary, force } = &asked;
                let (share, outcome) = (canary.map(|canary| canary.per_million), switched.as_str());
                if *force {
                    tracing::warn!(
                        pool,
                        colour,
                        version,
                        outcome,
                        "forced colour switch through the admin port"
                    );
                } else {
                    tracing::info!(
                        pool,
                        colour,
                        version,
                        share,
                        outcome,
                        "colour switch through the admin port"
                    );
                }
                switches::tell(&switched, &asked, self.source.canary(pool))
            }
            AdminRoute::Canary => {
                let pool = pool_of(parts.uri.path(), CANARY).unwrap_or_default().to_owned();
                match parts.method {
                    Method::PUT => {
                        check_origin(&parts)?;
                        let AttendBody { epoch } = read_json(&parts.headers, body).await?;
                        switches::show(self.source.attend_canary(&pool, epoch))
                    }
                    Method::DELETE => {
                        check_origin(&parts)?;
                        let ended = self.source.end_canary(pool.clone()).await;
                        tracing::info!(
                            pool,
                            outcome = ended.as_str(),
                            "canary cancelled through the admin port"
                        );
                        switches::tell_cancelled(&ended, self.source.canary(&pool))
                    }
                    _ => switches::show(self.source.canary(&pool)),
                }
            }
            AdminRoute::Maintenance => {
                check_origin(&parts)?;
                let MaintenanceBody { on } = read_json(&parts.headers, body).await?;
                self.source.set_maintenance(on);
                tracing::info!(on, "maintenance set through the admin port");
                Ok(json_answer(StatusCode::OK, &json!({ "maintenance": on })))
            }
            AdminRoute::Limit => {
                check_origin(&parts)?;
                let rule = parts.uri.path().strip_prefix(LIMITS).unwrap_or_default().to_owned();
                let change = match parts.method {
                    Method::PUT => {
                        Some(read_json::<limits::LimitBody, _>(&parts.headers, body).await?.read()?)
                    }
                    _ => None,
                };
                limits::tell(self.source.change_limit(rule, change).await)
            }
            AdminRoute::Dead => {
                let (jobs, pools) = self.source.jobs().ok_or_else(|| {
                    let message = "there are jobs only with `workers.mode: queue`";
                    AdminError::new(StatusCode::NOT_FOUND, "not_found", message)
                })?;
                if parts.method != Method::POST {
                    return dead::show(&jobs, pools).await;
                }
                check_origin(&parts)?;
                dead::requeue(&jobs, read_json(&parts.headers, body).await?).await
            }
            AdminRoute::Caller => {
                let id = parts.uri.path().strip_prefix(CALLERS).unwrap_or_default();
                let stored = self.source.callers().ok_or_else(|| {
                    let message = "callers are kept in Redis only with `callers.stored: redis`";
                    AdminError::new(StatusCode::NOT_FOUND, "not_found", message)
                })?;
                match parts.method {
                    Method::PUT => {
                        check_origin(&parts)?;
                        callers::check_id(id)?;
                        let written = read_json(&parts.headers, body).await?;
                        callers::write(&stored, &self.source.rules(), id, written).await
                    }
                    Method::DELETE => {
                        check_origin(&parts)?;
                        callers::look(&stored, &parts.method, id).await
                    }
                    _ => callers::look(&stored, &parts.method, id).await,
                }
            }
        }
    }

    fn events(&self) -> Result<Response<AdminBody>, AdminError> {
        let full = "too many viewers, or no live data; close another page and retry";
        let seconds = self
            .source
            .live()
            .and_then(|live| live.subscribe())
            .ok_or_else(|| AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_viewers", full))?;
        Ok(answer(StatusCode::OK, "text/event-stream", Bytes::new()).map(|_| AdminBody::events(seconds)))
    }

    async fn scrape(self) -> Result<Response<AdminBody>, AdminError> {
        let broken = |_| {
            AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the metrics cannot be read")
        };
        // The permit moves to the thread, which outlives a client that disconnects.
        let turn = self.scrape.acquire_owned().await.map_err(|_| broken(()))?;
        let scraped = tokio::task::spawn_blocking(move || (self.source.metrics(), turn)).await;
        let (text, _) = scraped.map_err(|_| broken(()))?;
        Ok(answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AdminRoute {
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

/// Path prefix of a rule.
const LIMITS: &str = "/api/v1/limits/";

/// Path prefix of a caller.
const CALLERS: &str = "/api/v1/callers/";

impl AdminRoute {
    fn of(parts: &Parts) -> Result<Self, AdminError> {
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

    fn need(self, method: &Method) -> Need {
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

/// Ends of the paths of a pool.
const ACTIVE: &str = "/active";
const CANARY: &str = "/canary";

/// Returns the pool in `/api/v1/pools/{pool}` followed by `end`. Pool names need no escapes.
fn pool_of<'a>(path: &'a str, end: &str) -> Option<&'a str> {
    let pool = path.strip_prefix("/api/v1/pools/")?.strip_suffix(end)?;
    (!pool.is_empty() && !pool.contains('/')).then_some(pool)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaintenanceBody {
    on: bool,
}

async fn read_json<T, B>(headers: &HeaderMap, body: B) -> Result<T, AdminError>
where
    T: for<'de> Deserialize<'de>,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "a write needs `Content-Type: application/json`";
        return Err(AdminError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let bytes = match timeout(BODY_TIME, Limited::new(body, LARGEST_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body exceeds {LARGEST_BODY} bytes");
            return Err(AdminError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
        }
        Ok(Err(_)) => {
            return Err(AdminError::new(StatusCode::BAD_REQUEST, "bad_request", "the body ended early"));
        }
        Err(_) => {
            let message = format!("the body did not arrive within {BODY_TIME:?}");
            return Err(AdminError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message));
        }
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| AdminError::new(StatusCode::BAD_REQUEST, "bad_request", error.to_string()))
}

impl<B> Service<Request<B>> for Admin
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    type Response = Response<AdminBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let admin = self.clone();
        let bodiless = request.method() == Method::HEAD;
        Box::pin(async move {
            let mut response = admin.handle(request).await.unwrap_or_else(AdminError::into_response);
            if bodiless {
                *response.body_mut() = AdminBody::default();
            }
            Ok(response)
        })
    }
}
