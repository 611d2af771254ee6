//! OpenTelemetry traces.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::workers::secret_headers;
use crate::config::syntax::{CollectorUrl, Id, Secret, Text};

/// OpenTelemetry traces, with one span per request. See `docs/logs.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tracing {
    /// URL of an OTLP collector that accepts spans over HTTP, such as `http://127.0.0.1:4318`;
    /// `/v1/traces` is appended if it is not in it. Without it no spans are made.
    pub otlp: Option<Text<CollectorUrl>>,
    /// Headers of each export, such as the collector's credentials.
    #[schemars(schema_with = "secret_headers")]
    pub headers: BTreeMap<String, Text<Secret>>,
    /// Service name of the gateway in its spans.
    pub service: Text<Id>,
    /// Share of the traces begun at the gateway that is recorded, from 0 to 1. For other traces
    /// their origin has decided.
    #[schemars(range(min = 0, max = 1))]
    pub sample: f64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self { otlp: None, headers: BTreeMap::new(), service: Text(Id("traffic-dam".into())), sample: 1.0 }
    }
}
