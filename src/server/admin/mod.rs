//! The admin port: health, metrics, state, and the few things that may be changed.
//!
//! It has its own listener, so that it answers when the main one is full, and so that a firewall can tell them
//! apart. What it shows comes through [`AdminSource`]; it knows nothing of the application itself.
//!
//! | path | method | needs |
//! | --- | --- | --- |
//! | `/healthz`, `/readyz` | GET | nothing |
//! | `/metrics` | GET | `metrics_token`, if set |
//! | `/` and its files, `/api/v1/state`, `/api/v1/explain?caller=…` | GET | `read_token` or `token`, if set |
//! | `/api/v1/events` | GET, server-sent events: [`live::Frame`]s | the same |
//! | `/api/v1/maintenance` | PUT `{"on": true}` | `token`, if set; same origin; JSON |
//! | `/api/v1/pools/{pool}/active` | PUT `{"colour": "green"}` | the same |
//! | `/api/v1/limits/{rule}` | PUT `{"burst": 5, "ttl": 600}`, DELETE | as maintenance |
//! | `/api/v1/dead` | GET; POST `{"pool": …, "job": …}` | as the state; as maintenance |
//! | `/api/v1/callers/{id}` | GET; PUT `{"sha256": …}`, DELETE | as the state; as maintenance |

mod access;
mod answer;
mod body;
mod callers;
mod dead;
mod limits;
pub mod live;
mod page;

pub use access::{AdminSettings, Token, check_open};

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
use crate::redis::jobs::Jobs;
use access::{Need, check_origin};
use answer::{Fault, answer, json_answer};
use body::AdminBody;
use live::Live;

/// A write is a few words.
const LARGEST_BODY: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

/// How every rule stands to a request, or what is wrong with the question.
pub type Explanation = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;

/// Where the admin port gets what it shows.
pub trait AdminSource: Send + Sync + 'static {
    /// The state for `/api/v1/state`: an object. Called on the request's task, so it must be quick.
    fn state(&self) -> Value;

    /// Whether requests should be sent here.
    ///
    /// # Errors
    /// Why not, in words.
    fn ready(&self) -> Result<(), String>;

    /// The metrics as Prometheus text. Called on a thread that may block, and never twice at once.
    fn metrics(&self) -> String;

    /// Closes the gateway for new requests, or opens it again.
    fn set_maintenance(&self, on: bool);

    /// Gives the work of a pool to one of its colours.
    fn set_active(&self, pool: String, colour: String) -> Pin<Box<dyn Future<Output = Switched> + Send>>;

    /// How every rule stands to the request that a query describes.
    fn explain(&self, query: String) -> Explanation;

    /// Changes a rule for all requests; without a change it is again as the settings have it.
    fn change_limit(
        &self,
        _rule: String,
        _change: Option<LimitChange>,
    ) -> Pin<Box<dyn Future<Output = Changed> + Send>> {
        Box::pin(std::future::ready(Changed::NoRule))
    }

    /// The rules in force.
    fn rules(&self) -> Vec<Arc<Rule>> {
        Vec::new()
    }

    /// What viewers are shown as it comes, if anything is.
    fn live(&self) -> Option<Arc<Live>> {
        None
    }

    /// The jobs of a queue, and the pools that may have some, if there is a queue.
    fn jobs(&self) -> Option<(Jobs, Vec<Arc<str>>)> {
        None
    }

    /// The callers that are kept in Redis, if any are.
    fn callers(&self) -> Option<Arc<StoredCallers>> {
        None
    }
}

/// A rule changed while the gateway runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// What becomes of it.
    pub change: Change,
    /// For how long, if not until it is taken back.
    pub lasts: Option<Duration>,
    /// Whether at all gateways, and not only here.
    pub fleet: bool,
}

/// What became of a rule's change.
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// It is done, and this is shown.
    Done(Value),
    /// There is no such rule.
    NoRule,
    /// There was nothing to take back.
    NoChange,
    /// The change does not fit the rule.
    Unfit(&'static str),
    /// No other gateways are known.
    Alone,
    /// The others cannot be told.
    Unavailable,
}

/// What became of a switch of colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switched {
    /// Every gateway follows it.
    Everywhere {
        /// Its number.
        epoch: u64,
    },
    /// It was told, and not every gateway follows it yet.
    Partly {
        /// Its number.
        epoch: u64,
    },
    /// There is no such pool.
    NoPool,
    /// The pool has no worker of that colour.
    NoWorkers,
    /// The others cannot be told.
    Unavailable,
}

impl Switched {
    /// The outcome, for the log.
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Everywhere { .. } => "followed by every gateway",
            Self::Partly { .. } => "not yet followed by every gateway",
            Self::NoPool => "no such pool",
            Self::NoWorkers => "no worker of that colour",
            Self::Unavailable => "the other gateways cannot be told",
        }
    }
}

/// The admin port's service, for [`serve`](super::serve).
#[derive(Clone)]
pub struct Admin {
    settings: Arc<ArcSwap<AdminSettings>>,
    source: Arc<dyn AdminSource>,
    // Encoding thousands of series takes milliseconds of a thread; scrapers wait for each other.
    scrape: Arc<Semaphore>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Admin {
    /// An admin port over `source`. The settings may be changed while it runs.
    pub fn new(settings: Arc<ArcSwap<AdminSettings>>, source: Arc<dyn AdminSource>) -> Self {
        Self { settings, source, scrape: Arc::new(Semaphore::new(1)) }
    }

    async fn handle<B>(self, request: Request<B>) -> Result<Response<AdminBody>, Fault>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let (parts, body) = request.into_parts();
        let settings = self.settings.load();
        settings.check_host(&parts)?;
        let route = Route::of(&parts)?;
        settings.check_token(route.need(&parts.method), &parts.headers)?;
        drop(settings);
        match route {
            Route::Health => Ok(json_answer(StatusCode::OK, &json!({ "status": "ok" }))),
            Route::Ready => match self.source.ready() {
                Ok(()) => Ok(json_answer(StatusCode::OK, &json!({ "status": "ready" }))),
                Err(why) => Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why)),
            },
            Route::Page(file) => Ok(answer(StatusCode::OK, file.content_type, file.text)),
            Route::Events => self.events(),
            Route::State => Ok(json_answer(StatusCode::OK, &self.source.state())),
            Route::Explain => {
                let query = parts.uri.query().unwrap_or_default().to_owned();
                let explained = self.source.explain(query).await;
                let explained =
                    explained.map_err(|why| Fault::new(StatusCode::BAD_REQUEST, "bad_request", why))?;
                Ok(json_answer(StatusCode::OK, &explained))
            }
            Route::Metrics => self.scrape().await,
            Route::Active => {
                check_origin(&parts)?;
                let pool = pool_of(parts.uri.path()).unwrap_or_default().to_owned();
                let Active { colour } = read_json(&parts.headers, body).await?;
                let switched = self.source.set_active(pool.clone(), colour.clone()).await;
                tracing::info!(
                    pool,
                    colour,
                    outcome = switched.as_str(),
                    "a switch of colours through the admin port"
                );
                tell(switched, &pool, &colour)
            }
            Route::Maintenance => {
                check_origin(&parts)?;
                let Maintenance { on } = read_json(&parts.headers, body).await?;
                self.source.set_maintenance(on);
                tracing::info!(on, "maintenance set through the admin port");
                Ok(json_answer(StatusCode::OK, &json!({ "maintenance": on })))
            }
            Route::Limit => {
                check_origin(&parts)?;
                let rule = parts.uri.path().strip_prefix(LIMITS).unwrap_or_default().to_owned();
                let change = match parts.method {
                    Method::PUT => Some(read_json::<limits::Written, _>(&parts.headers, body).await?.read()?),
                    _ => None,
                };
                limits::tell(self.source.change_limit(rule, change).await)
            }
            Route::Dead => {
                let (jobs, pools) = self.source.jobs().ok_or_else(|| {
                    let message = "there are jobs only with `workers.mode: queue`";
                    Fault::new(StatusCode::NOT_FOUND, "not_found", message)
                })?;
                if parts.method != Method::POST {
                    return dead::show(&jobs, pools).await;
                }
                check_origin(&parts)?;
                dead::requeue(&jobs, read_json(&parts.headers, body).await?).await
            }
            Route::Caller => {
                let id = parts.uri.path().strip_prefix(CALLERS).unwrap_or_default();
                let stored = self.source.callers().ok_or_else(|| {
                    let message = "callers are kept in Redis only with `callers.stored: redis`";
                    Fault::new(StatusCode::NOT_FOUND, "not_found", message)
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

    fn events(&self) -> Result<Response<AdminBody>, Fault> {
        let full = "too many viewers, or nothing to view; close another page and ask again";
        let seconds = self
            .source
            .live()
            .and_then(|live| live.join())
            .ok_or_else(|| Fault::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_viewers", full))?;
        Ok(answer(StatusCode::OK, "text/event-stream", Bytes::new()).map(|_| AdminBody::events(seconds)))
    }

    async fn scrape(self) -> Result<Response<AdminBody>, Fault> {
        let broken =
            |_| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the metrics cannot be read");
        // The turn goes with the thread, which runs on when its client leaves.
        let turn = self.scrape.acquire_owned().await.map_err(|_| broken(()))?;
        let scraped = tokio::task::spawn_blocking(move || (self.source.metrics(), turn)).await;
        let (text, _) = scraped.map_err(|_| broken(()))?;
        Ok(answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Health,
    Ready,
    Metrics,
    Page(page::File),
    Events,
    State,
    Explain,
    Maintenance,
    Active,
    Caller,
    Limit,
    Dead,
}

/// What precedes a rule's name.
const LIMITS: &str = "/api/v1/limits/";

/// What precedes a caller's id.
const CALLERS: &str = "/api/v1/callers/";

impl Route {
    fn of(parts: &Parts) -> Result<Self, Fault> {
        let route = match parts.uri.path() {
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/api/v1/events" => Self::Events,
            "/api/v1/state" => Self::State,
            "/api/v1/explain" => Self::Explain,
            "/api/v1/maintenance" => Self::Maintenance,
            "/api/v1/dead" => Self::Dead,
            path if pool_of(path).is_some() => Self::Active,
            path if path.starts_with(CALLERS) => Self::Caller,
            path if path.starts_with(LIMITS) => Self::Limit,
            path if let Some(file) = page::file(path) => Self::Page(file),
            _ => {
                let message = "served here: /, /healthz, /readyz, /metrics, /api/v1/state, /api/v1/events, \
                     /api/v1/explain, /api/v1/maintenance, /api/v1/pools/{pool}/active, /api/v1/callers/{id}, \
                     /api/v1/limits/{rule}, /api/v1/dead";
                return Err(Fault::new(StatusCode::NOT_FOUND, "not_found", message));
            }
        };
        let (allowed, methods) = match route {
            Self::Maintenance | Self::Active => (parts.method == Method::PUT, "PUT"),
            Self::Limit => (matches!(parts.method, Method::PUT | Method::DELETE), "PUT, DELETE"),
            Self::Dead => {
                (matches!(parts.method, Method::GET | Method::HEAD | Method::POST), "GET, HEAD, POST")
            }
            Self::Caller => (
                matches!(parts.method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE),
                "GET, HEAD, PUT, DELETE",
            ),
            _ => (matches!(parts.method, Method::GET | Method::HEAD), "GET, HEAD"),
        };
        if allowed {
            return Ok(route);
        }
        let message = format!("this path takes {methods}");
        Err(Fault::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).with_allow(methods))
    }

    fn need(self, method: &Method) -> Need {
        match self {
            Self::Caller if matches!(*method, Method::PUT | Method::DELETE) => Need::Write,
            Self::Dead if *method == Method::POST => Need::Write,
            Self::Caller | Self::Dead => Need::Read,
            Self::Health | Self::Ready => Need::Open,
            Self::Metrics => Need::Metrics,
            Self::Page(_) | Self::Events | Self::State | Self::Explain => Need::Read,
            Self::Maintenance | Self::Active | Self::Limit => Need::Write,
        }
    }
}

/// The pool in `/api/v1/pools/{pool}/active`. Names of pools need no escapes.
fn pool_of(path: &str) -> Option<&str> {
    let pool = path.strip_prefix("/api/v1/pools/")?.strip_suffix("/active")?;
    (!pool.is_empty() && !pool.contains('/')).then_some(pool)
}

fn tell(switched: Switched, pool: &str, colour: &str) -> Result<Response<AdminBody>, Fault> {
    let done = |status, epoch: u64| {
        Ok(json_answer(status, &json!({ "pool": pool, "active": colour, "epoch": epoch })))
    };
    let fault = |status, code, message| Err(Fault::new(status, code, message));
    match switched {
        Switched::Everywhere { epoch } => done(StatusCode::OK, epoch),
        Switched::Partly { epoch } => done(StatusCode::ACCEPTED, epoch),
        Switched::NoPool => fault(StatusCode::NOT_FOUND, "no_such_pool", "there is no pool of this name"),
        Switched::NoWorkers => {
            fault(StatusCode::CONFLICT, "no_such_colour", "no worker of the pool has this colour")
        }
        Switched::Unavailable => fault(
            StatusCode::SERVICE_UNAVAILABLE,
            "redis_unavailable",
            "Redis does not answer, so the other gateways cannot be told; ask again",
        ),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Active {
    colour: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Maintenance {
    on: bool,
}

async fn read_json<T, B>(headers: &HeaderMap, body: B) -> Result<T, Fault>
where
    T: for<'de> Deserialize<'de>,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "a write needs `Content-Type: application/json`";
        return Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let bytes = match timeout(BODY_TIME, Limited::new(body, LARGEST_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body exceeds {LARGEST_BODY} bytes");
            return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
        }
        Ok(Err(_)) => {
            return Err(Fault::new(StatusCode::BAD_REQUEST, "bad_request", "the body broke off"));
        }
        Err(_) => {
            let message = format!("the body did not arrive within {BODY_TIME:?}");
            return Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message));
        }
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| Fault::new(StatusCode::BAD_REQUEST, "bad_request", error.to_string()))
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
            let mut response = admin.handle(request).await.unwrap_or_else(Fault::into_response);
            if bodiless {
                *response.body_mut() = AdminBody::default();
            }
            Ok(response)
        })
    }
}
