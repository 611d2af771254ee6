//! Spans for OpenTelemetry.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::workers::secret_headers;
use crate::config::syntax::{Id, Secret, Text, WorkerUrl};

/// Spans for OpenTelemetry, one for each request. See `docs/logs.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tracing {
    /// Where an OTLP collector takes them over HTTP, such as `http://127.0.0.1:4318`; `/v1/traces` is added. Without it no
    /// spans are made.
    pub otlp: Option<Text<WorkerUrl>>,
    /// Headers of each export, such as the collector's credentials.
    #[schemars(schema_with = "secret_headers")]
    pub headers: BTreeMap<String, Text<Secret>>,
    /// What the gateway is called there.
    pub service: Text<Id>,
    /// The share of traces that is recorded, from 0 to 1, of those that begin here. Who began a trace elsewhere has
    /// decided for all of it.
    #[schemars(range(min = 0, max = 1))]
    pub sample: f64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self { otlp: None, headers: BTreeMap::new(), service: Text(Id("traffic-dam".into())), sample: 1.0 }
    }
}
