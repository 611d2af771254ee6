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
mod read;
mod route;
mod source;
mod switches;

pub(crate) use access::check_open;
pub use access::{AdminSettings, Token};
pub use source::{AdminSource, Changed, Explanation, LimitChange};
pub use switches::{CanaryRequest, SwitchRequest, Switched, read_judge, read_share};

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tower::Service;

use access::check_origin;
use answer::{AdminError, answer, json_answer};
use body::AdminBody;
use read::read_json;
use route::{ACTIVE, AdminRoute, CALLERS, CANARY, LIMITS, pool_of};
use switches::{ActiveBody, AttendBody};

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
            AdminRoute::Active => self.switch(&parts, body).await,
            AdminRoute::Canary => self.canary(&parts, body).await,
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
            AdminRoute::Caller => self.caller(&parts, body).await,
        }
    }

    async fn switch<B>(&self, parts: &Parts, body: B) -> Result<Response<AdminBody>, AdminError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        check_origin(parts)?;
        let pool = pool_of(parts.uri.path(), ACTIVE).unwrap_or_default().to_owned();
        let asked: ActiveBody = read_json(&parts.headers, body).await?;
        let asked = asked.read(pool)?;
        let switched = self.source.set_active(asked.clone()).await;
        let SwitchRequest { pool, colour, version, canary, force } = &asked;
        let (share, outcome) = (canary.map(|canary| canary.per_million), switched.as_str());
        if *force {
            tracing::warn!(pool, colour, version, outcome, "forced colour switch through the admin port");
        } else {
            tracing::info!(pool, colour, version, share, outcome, "colour switch through the admin port");
        }
        switches::tell(&switched, &asked, self.source.canary(pool))
    }

    async fn canary<B>(&self, parts: &Parts, body: B) -> Result<Response<AdminBody>, AdminError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let pool = pool_of(parts.uri.path(), CANARY).unwrap_or_default().to_owned();
        match parts.method {
            Method::PUT => {
                check_origin(parts)?;
                let AttendBody { epoch } = read_json(&parts.headers, body).await?;
                switches::show(self.source.attend_canary(&pool, epoch))
            }
            Method::DELETE => {
                check_origin(parts)?;
                let ended = self.source.end_canary(pool.clone()).await;
                tracing::info!(pool, outcome = ended.as_str(), "canary cancelled through the admin port");
                switches::tell_cancelled(&ended, self.source.canary(&pool))
            }
            _ => switches::show(self.source.canary(&pool)),
        }
    }

    async fn caller<B>(&self, parts: &Parts, body: B) -> Result<Response<AdminBody>, AdminError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let id = parts.uri.path().strip_prefix(CALLERS).unwrap_or_default();
        let stored = self.source.callers().ok_or_else(|| {
            let message = "callers are kept in Redis only with `callers.stored: redis`";
            AdminError::new(StatusCode::NOT_FOUND, "not_found", message)
        })?;
        match parts.method {
            Method::PUT => {
                check_origin(parts)?;
                callers::check_id(id)?;
                let written = read_json(&parts.headers, body).await?;
                callers::write(&stored, &self.source.rules(), id, written).await
            }
            Method::DELETE => {
                check_origin(parts)?;
                callers::look(&stored, &parts.method, id).await
            }
            _ => callers::look(&stored, &parts.method, id).await,
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaintenanceBody {
    on: bool,
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
