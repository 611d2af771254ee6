//! The LLM workers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use super::discovery::{DiscoveryName, DnsSection, KubernetesSection, ScrapeSection, blue, default_pool};
use crate::config::syntax::{AllowedHost, Field, FilePath, Glob, Id, Rate, Secret, Text, WorkerUrl};
use crate::fleet::spec::Http2Mode;
use crate::openai::body::Pointer;
use crate::shed::{EjectionMode, EjectionSettings};
use crate::upstream::{RetrySettings, UpstreamSettings, UpstreamTimeouts};

/// The LLM workers, and how the gateway talks to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Workers {
    /// How requests reach the workers.
    pub mode: WorkerMode,
    /// The workers; the gateway may start with an empty list.
    #[serde(rename = "static")]
    #[schemars(length(max = 1024), extend("x-default" = "required, unless `discovery` is set or `mode` is `queue`"))]
    pub fixed: Option<Vec<WorkerSection>>,
    /// What adds, updates and removes workers, in addition to `static`: one source, or a list.
    pub discovery: OneOrMany<DiscoveryName>,
    /// Names whose addresses are workers. Used with `discovery: dns`.
    #[schemars(length(max = 64))]
    pub dns: Vec<DnsSection>,
    /// DNS servers that are asked for these names.
    #[schemars(length(max = 8), extend("x-default" = "those of the system, such as in `/etc/resolv.conf`"))]
    pub dns_servers: Vec<Text<SocketAddr>>,
    /// Endpoints in a Kubernetes cluster that are workers. Used with `discovery: kubernetes`. The API
    /// server is that of the cluster that the gateway runs in, or the one that `KUBECONFIG` names.
    #[schemars(length(max = 64))]
    pub kubernetes: Vec<KubernetesSection>,
    /// Time for which a source must answer that there are no workers until the last ones are removed.
    pub empty_grace: Text<Duration>,
    /// How the gateway reads health and metrics of workers: of those that `dns` and `kubernetes` find,
    /// and of those in `static` with `scrape: true`.
    pub scrape: ScrapeSection,
    /// Hosts that a heartbeat may name, and addresses that other sources may: networks, IP
    /// addresses, and (only for heartbeats) host names, in which `*` matches any characters. Required
    /// with `discovery`. Link-local addresses are never allowed. A source other than heartbeats may
    /// name a loopback address only if a network of loopback addresses is listed, and an address of
    /// the Kubernetes API server only if that address itself is.
    #[schemars(length(max = 256))]
    pub allow: Vec<AllowSection>,
    /// Colour of the workers that receive requests.
    #[schemars(extend("x-default" = "any"))]
    pub active_colour: Option<Text<Id>>,
    /// Source of the session ID. Requests of one session go to the same worker if load allows.
    pub sticky: StickySection,
    /// Timeouts of a request's steps.
    pub timeouts: TimeoutsSection,
    /// Retries on another worker, only before the first token.
    pub retry: RetrySettings,
    /// Exclusion of workers that fail requests which other workers can serve.
    pub ejection: Ejection,
    /// Whether requests go to workers over HTTP/2, many on one connection. Worker entries override it.
    #[schemars(extend("x-default" = "auto for external workers, otherwise off"))]
    pub http2: Option<Http2Mode>,
    /// File with additional certificate authorities, PEM, for workers behind `https`.
    pub ca: Option<Text<FilePath>>,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            mode: WorkerMode::default(),
            fixed: None,
            discovery: OneOrMany::One(DiscoveryName::None),
            dns: Vec::new(),
            dns_servers: Vec::new(),
            kubernetes: Vec::new(),
            empty_grace: Text(Duration::from_secs(30)),
            scrape: ScrapeSection::default(),
            allow: Vec::new(),
            active_colour: None,
            sticky: StickySection::Header(Text(HeaderName::from_static("x-session-id"))),
            timeouts: TimeoutsSection::default(),
            retry: RetrySettings::default(),
            ejection: Ejection::default(),
            http2: None,
            ca: None,
        }
    }
}

impl Workers {
    /// Returns `true` if `source` may add workers.
    #[must_use]
    pub(crate) fn discovers_by(&self, source: DiscoveryName) -> bool {
        self.discovery.as_slice().contains(&source)
    }

    /// Returns `true` if any source may add workers.
    #[must_use]
    pub(crate) fn discovers(&self) -> bool {
        self.discovery.as_slice().iter().any(|source| *source != DiscoveryName::None)
    }
}

/// How requests reach the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerMode {
    /// the gateway forwards requests to them
    #[default]
    Http,
    /// the workers take requests from Redis, and are known by their heartbeats
    Queue,
}

/// Where workers may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum AllowSection {
    /// Hosts.
    Hosts(Text<AllowedHost>),
    /// Hosts with headers for the workers there.
    WithHeaders(AllowHeadersSection),
}

/// Hosts with headers for the workers there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AllowHeadersSection {
    /// Network, IP address or host name.
    pub hosts: Text<AllowedHost>,
    /// Headers added to every request to workers there that are not in `static`, such as their
    /// credentials. The first entry that covers a worker holds.
    #[schemars(schema_with = "secret_headers")]
    pub headers: BTreeMap<String, Text<Secret>>,
}

impl AllowSection {
    /// Returns the hosts.
    #[must_use]
    pub(crate) const fn hosts(&self) -> &Text<AllowedHost> {
        match self {
            Self::Hosts(hosts) | Self::WithHeaders(AllowHeadersSection { hosts, .. }) => hosts,
        }
    }
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkerSection {
    /// Name in metrics and logs; unique.
    pub id: Text<Id>,
    /// URL of the worker: `http` or `https`, host, port, and an optional path prefix. A trailing
    /// `/v1` is dropped, because the gateway's request paths begin with it.
    pub url: Text<WorkerUrl>,
    /// Pool of the worker. All workers of a pool serve the same model.
    #[serde(default = "default_pool")]
    pub pool: Text<Id>,
    /// Pattern for the models that the worker serves.
    #[serde(default = "any_model")]
    pub model: Text<Glob>,
    /// Number of requests that the worker decodes at once.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-default" = "unknown; required with `concurrency.limit: slots`"))]
    pub slots: Option<u32>,
    /// Capacity of the worker's KV cache, in tokens.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-default" = "unknown"))]
    pub kv_tokens: Option<u64>,
    /// Blue/green side of the worker.
    #[serde(default = "blue")]
    pub colour: Text<Id>,
    /// Headers added to every request to the worker, such as its credentials.
    #[serde(default)]
    #[schemars(schema_with = "secret_headers")]
    pub headers: BTreeMap<String, Text<Secret>>,
    /// Whether the worker belongs to somebody else, such as a paid API. Then it serves only callers
    /// with `external: true`, never requests of class `batch`, and gets no header that identifies
    /// the caller. A worker with `provider` is always external.
    #[serde(default)]
    pub external: bool,
    /// Limits of the paid API behind the worker, shared by all callers. Its answers (429,
    /// `Retry-After`, `x-ratelimit-*`, `anthropic-ratelimit-*`) can lower them further for a time.
    #[schemars(extend("x-default" = "none"))]
    pub provider: Option<ProviderSection>,
    /// Whether the gateway reads the health and the metrics of this worker, unless it sends
    /// heartbeats. Its `headers` are sent too.
    #[serde(default)]
    pub scrape: bool,
    /// Whether requests go to this worker over HTTP/2.
    #[schemars(extend("x-default" = "`workers.http2`"))]
    pub http2: Option<Http2Mode>,
}

/// Limits of a paid API. At least one of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProviderSection {
    /// Maximum rate of requests; as many as one period allows may come at once.
    #[schemars(extend("x-default" = "no limit"))]
    pub requests: Option<Text<Rate>>,
    /// Maximum rate of tokens of prompts and answers together.
    #[schemars(extend("x-default" = "no limit"))]
    pub tokens: Option<Text<Rate>>,
}

fn any_model() -> Text<Glob> {
    Text(Glob("*".into()))
}

pub(super) fn secret_headers(generator: &mut SchemaGenerator) -> Schema {
    let mut secret = Text::<Secret>::json_schema(generator);
    secret.insert("writeOnly".into(), true.into());
    schemars::json_schema!({ "type": "object", "maxProperties": 64, "additionalProperties": secret })
}

/// Source of the session ID. Exactly one of these keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StickySection {
    /// Name of a request header.
    Header(Text<HeaderName>),
    /// Name of a cookie.
    Cookie(Text<Field>),
    /// JSON pointer to a value in the request body.
    Body(Text<Pointer>),
}

/// Timeouts of a request's steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TimeoutsSection {
    /// Maximum time to connect to a worker.
    pub connect: Text<Duration>,
    /// Maximum time from the request to the first token of a stream.
    pub first_token: Text<Duration>,
    /// Time from the request until a stream's response head is sent even without a token. From then
    /// on comments and pings pass too, so that a proxy in front of the gateway does not give up.
    /// `0s` sends the head at once.
    pub hold: Text<Duration>,
    /// Maximum time between two chunks of a response.
    pub idle: Text<Duration>,
    /// Maximum time for the whole request.
    pub total: Text<Duration>,
    /// Age from which a connection to a worker takes no new requests, varied by up to a fifth. So
    /// requests follow a name that gets other addresses. Running streams are never cut.
    pub connection_age: Text<Duration>,
}

impl Default for TimeoutsSection {
    fn default() -> Self {
        let UpstreamTimeouts { connect, first_token, hold, idle, total } = UpstreamTimeouts::default();
        Self {
            connect: Text(connect),
            first_token: Text(first_token),
            hold: Text(hold),
            idle: Text(idle),
            total: Text(total),
            connection_age: Text(UpstreamSettings::default().connection_age),
        }
    }
}

/// Exclusion of workers that fail requests which other workers can serve (outlier ejection). A
/// failure is a response 5xx (except 501, 503, 505), a response of the wrong type or without content,
/// or a connection or stream that breaks. It counts if another worker could serve the same request, if
/// two callers met a failure, or if other workers serve the same caller meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Ejection {
    /// How to treat a worker that fails.
    pub mode: EjectionMode,
    /// Number of consecutive failures that eject a worker.
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive: u32,
    /// Share of failed requests within `interval`, in percent, above which a worker is ejected too.
    #[schemars(range(min = 1, max = 100))]
    pub failure_percentage: u32,
    /// Minimum number of requests within `interval` for `failure_percentage` to apply.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub request_volume: u32,
    /// Period over which requests are counted.
    pub interval: Text<Duration>,
    /// Duration of the first ejection; each repeated one lasts twice as long. Afterwards one
    /// request tests the worker.
    pub base_ejection_time: Text<Duration>,
    /// Maximum duration of an ejection.
    pub max_ejection_time: Text<Duration>,
    /// Maximum share of a pool's workers that may be ejected at once, in percent, rounded down.
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        let default = EjectionSettings::default();
        Self {
            mode: default.mode,
            consecutive: default.consecutive,
            failure_percentage: default.failure_percentage,
            request_volume: default.request_volume,
            interval: Text(default.interval),
            base_ejection_time: Text(default.base),
            max_ejection_time: Text(default.max),
            max_ejection_percent: default.max_percent,
        }
    }
}
