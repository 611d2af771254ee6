//! Shape of the settings file.
//!
//! These types mirror the file, key by key. The JSON Schema, the structural check, the table in the
//! documentation and the listing of `check` are generated from them; their comments are the
//! manual's text. The rest of the program uses [`crate::config::Settings`].

mod callers;
mod concurrency;
mod discovery;
mod jobs;
mod limits;
mod models;
mod prefix;
mod process;
mod redis;
mod tracing;
mod traffic;
mod workers;

pub(crate) use callers::{
    Anonymous, BuiltinSource, CallerStore, CallersSection, Jwt, KeyLimit, SourceSection,
};
pub(crate) use concurrency::{Concurrency, ConcurrencyLimit, LimitFinder, Overflow};
pub(crate) use discovery::{DiscoveryName, DnsSection, KubernetesSection, PortSection};
pub(crate) use jobs::{JobsSection, NotBefore};
pub(crate) use limits::{Reservation, RuleSection};
pub(crate) use models::{FallbackSection, ModelSection, ServeSection, ShareSection};
pub(crate) use prefix::{PrefixChoice, PrefixSection};
pub(crate) use process::{AdminSection, DrainSection, LogSection, Tls};
pub(crate) use redis::{RedisSection, StateSection};
pub(crate) use tracing::Tracing;
pub(crate) use traffic::{BoundsSection, Cors, MediaSection, RouteSection, RouteTimeoutsSection};
pub(crate) use workers::{
    AllowSection, Ejection, StickySection, TimeoutsSection, WorkerMode, WorkerSection, Workers,
};

use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::syntax::{PathGlob, Text};
use crate::openai::kinds::OptionalKind;
use crate::request::AnswerHeaders;

/// Settings of Traffic Dam. An omitted key has its default; an unknown key is an error.
///
/// Environment variables replace `${NAME}` in values, after parsing; a plain `${` is written `$${`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ConfigFile {
    /// IP address and port that callers connect to.
    pub listen: Text<SocketAddr>,
    /// TLS for callers. Without it the gateway speaks plain HTTP.
    pub tls: Option<Tls>,
    /// The administration port.
    pub admin: AdminSection,
    /// Identification of callers, and their rights.
    pub callers: CallersSection,
    /// Rate limit rules. Either all rules that match a request charge it, or none does.
    #[schemars(length(max = 64))]
    pub limits: Vec<RuleSection>,
    /// Maximum number of keys that each rule tracks. Beyond it, new keys share one additional key.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_keys: u64,
    /// Concurrency limits of the workers, and the queue in front of them.
    pub concurrency: Concurrency,
    /// Jobs: requests that are stored in Redis, with `workers.mode: queue` or
    /// `concurrency.overflow: jobs`.
    pub jobs: JobsSection,
    /// What is known of the workers' prefix caches.
    pub prefix: PrefixSection,
    /// Number of gateways that share the workers, and share the rules' quotas while Redis is
    /// unavailable. Configured or reported worker capacity is divided by it. If it is 2 or more and
    /// rules, callers or jobs are in Redis, the number of gateways seen in Redis replaces it; those
    /// that drain have no part of the workers.
    #[schemars(range(min = 1, max = 1000))]
    pub gateways: u32,
    /// Where the rules' counts are kept.
    pub state: StateSection,
    /// Redis 6 or later, for state that gateways and workers share. Used only if another setting
    /// requires it.
    pub redis: RedisSection,
    /// The LLM workers, and how the gateway talks to them.
    pub workers: Workers,
    /// Kinds of calls served in addition to chat, completions, responses and embeddings.
    #[schemars(length(max = 16))]
    pub kinds: Vec<OptionalKind>,
    /// Paths forwarded in addition to the endpoints of the served kinds; each call counts as one request with
    /// zero tokens. `["/*"]` forwards all paths.
    #[schemars(length(max = 64))]
    pub paths: Vec<Text<PathGlob>>,
    /// Custom endpoints of a chatbot API, or different timeouts for an OpenAI endpoint.
    #[schemars(length(max = 64))]
    pub routes: Vec<RouteSection>,
    /// Names, fallbacks and properties of models. The first entry whose pattern matches applies.
    #[schemars(length(max = 64))]
    pub models: Vec<ModelSection>,
    /// Cost of media.
    pub media: MediaSection,
    /// Limits on connections and requests.
    pub bounds: BoundsSection,
    /// Headers of answers that tell callers which model and worker answered.
    pub answer_headers: AnswerHeaders,
    /// Access from web pages of other origins (CORS).
    pub cors: Cors,
    /// Graceful shutdown.
    pub drain: DrainSection,
    /// Logging.
    pub log: LogSection,
    /// OpenTelemetry traces.
    pub tracing: Tracing,
}

impl Default for ConfigFile {
    fn default() -> Self {
        Self {
            listen: loopback(8080),
            tls: None,
            admin: AdminSection::default(),
            callers: CallersSection::default(),
            limits: Vec::new(),
            max_keys: 1_000_000,
            concurrency: Concurrency::default(),
            jobs: JobsSection::default(),
            prefix: PrefixSection::default(),
            gateways: 1,
            state: StateSection::default(),
            redis: RedisSection::default(),
            workers: Workers::default(),
            kinds: vec![OptionalKind::Messages, OptionalKind::Count],
            paths: Vec::new(),
            routes: Vec::new(),
            models: Vec::new(),
            media: MediaSection::default(),
            bounds: BoundsSection::default(),
            answer_headers: AnswerHeaders::default(),
            cors: Cors::default(),
            drain: DrainSection::default(),
            log: LogSection::default(),
            tracing: Tracing::default(),
        }
    }
}

fn loopback(port: u16) -> Text<SocketAddr> {
    Text((Ipv4Addr::LOCALHOST, port).into())
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    /// A single value.
    One(T),
    /// A list.
    Many(#[schemars(length(min = 1, max = 16))] Vec<T>),
}

impl<T> OneOrMany<T> {
    /// Returns the values as a slice.
    #[must_use]
    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl ConfigFile {
    /// Returns the settings with all defaults filled in that depend on other settings.
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
