//! Discovery of workers by names or in a Kubernetes cluster, and what the gateway reads from workers.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use crate::config::syntax::{Glob, Host, Id, LabelSelector, ObjectName, PortName, Text, UrlPath};
use crate::discovery::AddressFamily;

/// What adds, updates and removes workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DiscoveryName {
    /// only the workers in `static` exist
    None,
    /// heartbeats over Redis
    Redis,
    /// the addresses of the names in `dns`
    Dns,
    /// the endpoints in a cluster that `kubernetes` lists
    Kubernetes,
}

/// A name whose addresses are workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsSection {
    /// The name. Each address (A, AAAA) is a worker; without `port`, each host of the service (SRV).
    pub name: Text<Host>,
    /// Port of the workers.
    #[schemars(range(min = 1, max = 65535), extend("x-default" = "from the SRV records of the name"))]
    pub port: Option<u16>,
    /// Pool of the workers. All workers of a pool serve the same model.
    #[serde(default = "default_pool")]
    pub pool: Text<Id>,
    /// Pattern for the models that the workers serve.
    #[schemars(extend("x-default" = "the first name that each lists at `/v1/models`"))]
    pub model: Option<Text<Glob>>,
    /// Blue/green side of the workers.
    #[serde(default = "blue")]
    pub colour: Text<Id>,
    /// Number of requests that each worker decodes at once.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-default" = "unknown, unless llama.cpp reports it"))]
    pub slots: Option<u32>,
    /// Whether the workers are reached over TLS. Their certificates must be for the name.
    #[serde(default)]
    pub https: bool,
    /// Which addresses are used.
    #[serde(default)]
    pub family: AddressFamily,
    /// Maximum time between two lookups. An answer that holds for less is renewed sooner.
    #[serde(default = "refresh")]
    pub refresh: Text<Duration>,
    /// Whether the gateway reads the health and the metrics of the workers.
    #[serde(default = "yes")]
    pub scrape: bool,
}

/// Endpoints in a Kubernetes cluster that are workers. Exactly one of `service`, `selector` and
/// `inference_pool`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KubernetesSection {
    /// Namespace.
    #[schemars(extend("x-default" = "that of the gateway"))]
    pub namespace: Option<Text<ObjectName>>,
    /// Name of a service. Its endpoints (EndpointSlices) are the workers.
    #[schemars(extend("x-default" = "none"))]
    pub service: Option<Text<ObjectName>>,
    /// Label selector. The pods that it matches are the workers; they need no service.
    #[schemars(extend("x-default" = "none"))]
    pub selector: Option<Text<LabelSelector>>,
    /// Name of an InferencePool of the Gateway API. Its pods are the workers.
    #[schemars(extend("x-default" = "none"))]
    pub inference_pool: Option<Text<ObjectName>>,
    /// Port of the workers: its number, or its name in the service. Required with `selector`.
    #[schemars(extend("x-default" = "the only port of the service or InferencePool"))]
    pub port: Option<PortSection>,
    /// Pool of the workers. All workers of a pool serve the same model. Of a list, the first; pods may
    /// choose another with the label `traffic-dam/pool`.
    #[serde(default = "default_pools")]
    pub pool: OneOrMany<Text<Id>>,
    /// Pattern for the models that the workers serve. Of a list, the first; pods may choose another,
    /// or a name that one of them matches, with the annotation `traffic-dam/model`.
    #[schemars(extend("x-default" = "the first name that each lists at `/v1/models`"))]
    pub model: Option<OneOrMany<Text<Glob>>>,
    /// Blue/green side of the workers. Of a list, the first; pods may choose another with the label
    /// `traffic-dam/colour`.
    #[serde(default = "blues")]
    pub colour: OneOrMany<Text<Id>>,
    /// Number of requests that each worker decodes at once. The label `traffic-dam/slots` may lower
    /// it.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-default" = "unknown, unless the label or llama.cpp tells it"))]
    pub slots: Option<u32>,
    /// Capacity of each worker's KV cache, in tokens. The label `traffic-dam/kv-tokens` may lower it.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-default" = "unknown, unless the label or the metrics tell it"))]
    pub kv_tokens: Option<u64>,
    /// Whether the workers are reached over TLS. Their certificates must be for
    /// `SERVICE.NAMESPACE.svc`; without a service, for their addresses.
    #[serde(default)]
    pub https: bool,
    /// Which addresses are used.
    #[serde(default)]
    pub family: AddressFamily,
    /// Whether endpoints of the service count that are no pods of its namespace.
    #[serde(default)]
    pub any_target: bool,
    /// Whether the labels and annotations of pods are read. The gateway needs the right to get, list
    /// and watch pods for it.
    #[serde(default)]
    pub labels: bool,
    /// Whether the gateway reads the health and the metrics of the workers.
    #[serde(default = "yes")]
    pub scrape: bool,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum PortSection {
    /// Its number.
    Number(#[schemars(range(min = 1, max = 65535))] u16),
    /// Its name.
    Name(Text<PortName>),
}

fn default_pools() -> OneOrMany<Text<Id>> {
    OneOrMany::One(default_pool())
}

fn blues() -> OneOrMany<Text<Id>> {
    OneOrMany::One(blue())
}

pub(super) fn default_pool() -> Text<Id> {
    Text(Id("default".into()))
}

pub(super) fn blue() -> Text<Id> {
    Text(Id("blue".into()))
}

fn refresh() -> Text<Duration> {
    Text(Duration::from_secs(5))
}

const fn yes() -> bool {
    true
}

/// How the gateway reads health and metrics of workers. A path that a worker does not have (404) is
/// not read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ScrapeSection {
    /// Time between two readings of a worker.
    pub interval: Text<Duration>,
    /// Path of the Prometheus metrics of vLLM, SGLang, llama.cpp or TGI.
    pub path: Text<UrlPath>,
    /// Path that answers 200 while the worker is healthy.
    pub health: Text<UrlPath>,
}

impl Default for ScrapeSection {
    fn default() -> Self {
        Self {
            interval: Text(Duration::from_secs(1)),
            path: Text(UrlPath("/metrics".into())),
            health: Text(UrlPath("/health".into())),
        }
    }
}
