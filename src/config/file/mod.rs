//! The shape of the settings file.
//!
//! These types are the file, key by key, and nothing else: the JSON Schema, the structural check, the table in the
//! documentation and the listing of `check` are all made from them, and their comments are the manual's text.
//! What the rest of the program uses is [`crate::config::Settings`].

mod callers;
mod concurrency;
mod limits;
mod process;
mod redis;
mod tracing;
mod traffic;
mod workers;

pub use callers::{
    AlgorithmOfTokens, Anonymous, CallerKey, Callers, ClaimNames, ClassName, HeaderSource, Jwt, KeyLimit,
    Plainly, Source, Stored,
};
pub use concurrency::{Concurrency, ConcurrencyLimit, Found, Law, Overflow, Queue, Reserve};
pub use limits::{AlgorithmName, Limit, Matching, ModeName, PerName, Reservation, UnitName};
pub use process::{Admin, Drain, Log, Tls};
pub use redis::{OnLossName, Redis, State};
pub use tracing::Tracing;
pub use traffic::{Bounds, Cors, KindName, Model, Route, RouteTimeouts};
pub use workers::{Discovery, Ejection, EjectionMode, Retry, Sticky, Timeouts, Worker, WorkerMode, Workers};

use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::syntax::{PathGlob, Text};

/// Settings of Traffic Dam. A key that is left out has its default; an unknown key is a fault.
///
/// `${NAME}` in a value is replaced by the environment variable of that name, after parsing; a plain `${` is
/// written `$${`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// Where callers connect: an IP address and a port.
    pub listen: Text<SocketAddr>,
    /// TLS for callers. Without it the gateway speaks plain HTTP.
    pub tls: Option<Tls>,
    /// The administration port.
    pub admin: Admin,
    /// Who asks, and with which rights.
    pub callers: Callers,
    /// Rules. A request meets all that match it, and is charged by all of them or by none.
    #[schemars(length(max = 64))]
    pub limits: Vec<Limit>,
    /// The most keys that each rule remembers. When all of them are in use, newcomers share one more.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_keys: u64,
    /// How much runs on the workers at once, and how long the rest may wait.
    pub concurrency: Concurrency,
    /// How many gateways share the workers, and the quotas while Redis cannot tell: what the workers are told to hold is
    /// divided by it. From 2 on, where rules, callers or jobs are in Redis, the number that is seen there takes its place.
    #[schemars(range(min = 1, max = 1000))]
    pub dams: u32,
    /// Where rules are counted.
    pub state: State,
    /// Redis, for what gateways and workers share. It is used only by settings that say so.
    pub redis: Redis,
    /// The processes that serve.
    pub workers: Workers,
    /// Paths let through beside the OpenAI endpoints, each as one request of no tokens; `["/*"]` lets all through.
    #[schemars(length(max = 64))]
    pub paths: Vec<Text<PathGlob>>,
    /// A chatbot API's own endpoints, or other timeouts for an OpenAI endpoint.
    #[schemars(length(max = 64))]
    pub routes: Vec<Route>,
    /// What is known of models: the first entry whose pattern matches counts.
    #[schemars(length(max = 64))]
    pub models: Vec<Model>,
    /// What a connection and a request may take.
    pub bounds: Bounds,
    /// Browsers on other origins.
    pub cors: Cors,
    /// Going down.
    pub drain: Drain,
    /// Logging.
    pub log: Log,
    /// Spans for OpenTelemetry.
    pub tracing: Tracing,
}

impl Default for File {
    fn default() -> Self {
        Self {
            listen: loopback(8080),
            tls: None,
            admin: Admin::default(),
            callers: Callers::default(),
            limits: Vec::new(),
            max_keys: 1_000_000,
            concurrency: Concurrency::default(),
            dams: 1,
            state: State::default(),
            redis: Redis::default(),
            workers: Workers::default(),
            paths: Vec::new(),
            routes: Vec::new(),
            models: Vec::new(),
            bounds: Bounds::default(),
            cors: Cors::default(),
            drain: Drain::default(),
            log: Log::default(),
            tracing: Tracing::default(),
        }
    }
}

fn loopback(port: u16) -> Text<SocketAddr> {
    Text((Ipv4Addr::LOCALHOST, port).into())
}

/// One of something, or a list of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// A list.
    Many(#[schemars(length(min = 1, max = 16))] Vec<T>),
}

impl<T> OneOrMany<T> {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl File {
    /// The same settings with every default written out that depends on other settings.
    #[must_use]
    pub(super) fn completed(mut self) -> Self {
        self.admin.complete();
        self.callers.complete();
        self.concurrency.complete();
        for limit in &mut self.limits {
            limit.on_loss.get_or_insert(self.redis.on_loss);
        }
        for route in &mut self.routes {
            route.timeouts.complete(&self.workers.timeouts);
        }
        self
    }
}
