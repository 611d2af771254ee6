//! The processes that serve.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::config::syntax::{
    AllowedHost, Field, FilePath, Glob, Id, Millis, Pointer, Secret, Text, WorkerUrl,
};
use crate::shed::EjectionSettings;

/// The processes that serve, and how they are spoken to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Workers {
    /// How work reaches them.
    pub mode: WorkerMode,
    /// The workers; an empty list starts without any.
    #[serde(rename = "static")]
    #[schemars(length(max = 1024), extend("x-default" = "required, unless `discovery` is `redis` or `mode` is `queue`"))]
    pub fixed: Option<Vec<Worker>>,
    /// Whether workers come and go by what they say of themselves.
    pub discovery: Discovery,
    /// The hosts that a heartbeat may name: networks, addresses, and host names, `*` standing for any run of
    /// characters. Required with `discovery`. Link-local addresses are never allowed.
    #[schemars(length(max = 256))]
    pub allow: Vec<Text<AllowedHost>>,
    /// The colour that receives work.
    #[schemars(extend("x-default" = "any"))]
    pub active_colour: Option<Text<Id>>,
    /// What makes requests one session, which stays on one worker where load allows.
    pub sticky: Sticky,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// Trying another worker, before the first token only.
    pub retry: Retry,
    /// Leaving out a worker that fails what others can do.
    pub ejection: Ejection,
    /// A file of further certificate authorities, PEM, for workers behind `https`.
    pub ca: Option<Text<FilePath>>,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            mode: WorkerMode::default(),
            fixed: None,
            discovery: Discovery::default(),
            allow: Vec::new(),
            active_colour: None,
            sticky: Sticky::Header(Text(HeaderName::from_static("x-session-id"))),
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            ejection: Ejection::default(),
            ca: None,
        }
    }
}

/// How work reaches the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerMode {
    /// the gateway forwards requests to them
    #[default]
    Http,
    /// they take requests from Redis, and are known by their heartbeats
    Queue,
}

/// Whether workers come and go by what they say of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// only those in `static` are there
    #[default]
    None,
    /// heartbeats over Redis add, update and remove workers
    Redis,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// What it is called in metrics and logs; unique.
    pub id: Text<Id>,
    /// Where it listens: `http` or `https`, a host, a port, and a path prefix if need be. A `/v1` at its end may be
    /// written and is left out: the gateway asks for paths that begin with it.
    pub url: Text<WorkerUrl>,
    /// The pool it belongs to. The workers of a pool serve the same model.
    #[serde(default = "default_pool")]
    pub pool: Text<Id>,
    /// A pattern for the models it serves.
    #[serde(default = "any_model")]
    pub model: Text<Glob>,
    /// How many requests it decodes at once.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-default" = "unknown; required with `concurrency.limit: slots`"))]
    pub slots: Option<u32>,
    /// How many tokens its KV cache holds.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-default" = "unknown"))]
    pub kv_tokens: Option<u64>,
    /// The blue/green side it is on.
    #[serde(default = "blue")]
    pub colour: Text<Id>,
    /// Headers set on every request to it, such as its own credentials.
    #[serde(default)]
    #[schemars(schema_with = "secret_headers")]
    pub headers: BTreeMap<String, Text<Secret>>,
}

fn default_pool() -> Text<Id> {
    Text(Id("default".into()))
}

fn any_model() -> Text<Glob> {
    Text(Glob("*".into()))
}

fn blue() -> Text<Id> {
    Text(Id("blue".into()))
}

pub(super) fn secret_headers(generator: &mut SchemaGenerator) -> Schema {
    let mut secret = Text::<Secret>::json_schema(generator);
    secret.insert("writeOnly".into(), true.into());
    schemars::json_schema!({ "type": "object", "maxProperties": 64, "additionalProperties": secret })
}

/// What makes requests one session. One of these keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// A header of the request.
    Header(Text<HeaderName>),
    /// A cookie.
    Cookie(Text<Field>),
    /// A value in the request's body, by JSON pointer.
    Body(Text<Pointer>),
}

/// How long each step may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// To connect to a worker.
    pub connect: Text<Millis>,
    /// From the request to the first token of a stream.
    pub first_token: Text<Millis>,
    /// From the request until a stream without a token is begun all the same, so that what stands before the gateway does
    /// not take it for dead: its head, comments and pings pass from then on. `0s` is at once.
    pub hold: Text<Millis>,
    /// From one piece of an answer to the next.
    pub idle: Text<Millis>,
    /// For all of it.
    pub total: Text<Millis>,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = |seconds| Text(Millis::from_secs(seconds));
        Self {
            connect: seconds(1),
            first_token: seconds(30),
            hold: seconds(15),
            idle: seconds(60),
            total: seconds(600),
        }
    }
}

/// Trying another worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// How many other workers are tried for one request; 0 for none.
    #[schemars(range(max = 10))]
    pub max: u32,
    /// The share of the requests of the last 10 s that may be retries, from 0 to 1; 10 of them always may.
    #[schemars(range(min = 0, max = 1))]
    pub budget: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max: 1, budget: 0.1 }
    }
}

/// Leaving out a worker that fails what others can do. A failure is an answer 500, 502 or 504 or of the wrong type, or a
/// connection or stream that breaks; it counts when another worker could serve the same request, when two callers met one,
/// or when the other workers do well meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ejection {
    /// What becomes of a worker that fails.
    pub mode: EjectionMode,
    /// Failures in a row that eject it.
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive: u32,
    /// The share of the requests within `interval`, in percent, above which it is ejected, too.
    #[schemars(range(min = 1, max = 100))]
    pub failure_percentage: u32,
    /// The number of requests within `interval` from which on that share counts.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub request_volume: u32,
    /// How far back requests count.
    pub interval: Text<Millis>,
    /// For how long it is left out at first; each time it fails again for twice as long. Then it is tried with one
    /// request.
    pub base_ejection_time: Text<Millis>,
    /// The longest time.
    pub max_ejection_time: Text<Millis>,
    /// The share of the workers of a pool, in percent, that may be left out at once; rounded down.
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        let EjectionSettings {
            mode: _,
            consecutive,
            failure_percentage,
            request_volume,
            interval,
            base,
            max,
            max_percent,
        } = EjectionSettings::default();
        let seconds = |length: Duration| Text(Millis::from_secs(length.as_secs()));
        Self {
            mode: EjectionMode::On,
            consecutive,
            failure_percentage,
            request_volume,
            interval: seconds(interval),
            base_ejection_time: seconds(base),
            max_ejection_time: seconds(max),
            max_ejection_percent: max_percent,
        }
    }
}

/// What becomes of a worker that fails what others can do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EjectionMode {
    /// it is left out for a while
    On,
    /// it is shown as failing, and keeps its work
    Observe,
    /// nothing
    Off,
}
