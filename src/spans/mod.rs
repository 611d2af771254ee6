//! Spans for OpenTelemetry: one for each request, told when it is over.
//!
//! A span is made of what the request's [`Flight`] holds anyway, so the way of a request knows nothing of spans but a few
//! random numbers. It is handed to OpenTelemetry's own batch processor: a bounded queue, which drops what does not fit,
//! and a thread that exports. A collector that is slow or gone therefore costs spans, never requests.

mod collector;
mod record;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Uri};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanProcessor};
use rustls::ClientConfig;

use crate::clock::{Nanos, wall};
use crate::request::{Flight, Peer, Trace};
use collector::Collector;

/// What the spans' own name in the collector is.
const SCOPE: &str = "traffic-dam";
/// How long an export may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The methods that may stand in a span as they came; another could be anything.
const KNOWN_METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// The longest path that is kept: the client chose it.
const LONGEST_PATH: usize = 1024;

/// Where spans go.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanSettings {
    /// The collector, without the path `/v1/traces`.
    pub endpoint: Uri,
    /// Headers of each export, such as credentials.
    pub headers: HeaderMap,
    /// What the gateway is called.
    pub service: Arc<str>,
    /// The share of traces begun here that is recorded, 0…1; who began it elsewhere has decided.
    pub sample: f64,
}

/// What a span says of a request's head.
#[derive(Clone, Debug)]
pub struct Head {
    trace: Trace,
    method: Method,
    path: Box<str>,
    tls: bool,
}

impl Head {
    /// Of `request`, which has this place in a trace. Its query is left out: it may hold what is nobody's business.
    #[must_use]
    pub fn of<B>(trace: Trace, request: &Request<B>) -> Self {
        let path = request.uri().path();
        Self {
            trace,
            method: request.method().clone(),
            path: path.get(..path.floor_char_boundary(LONGEST_PATH)).unwrap_or_default().into(),
            tls: request.extensions().get::<Peer>().is_some_and(|peer| peer.tls),
        }
    }

    /// A method that the conventions know, or one that they do not.
    fn method(&self) -> Result<&str, &str> {
        let method = self.method.as_str();
        if KNOWN_METHODS.contains(&method) { Ok(method) } else { Err(method) }
    }
}

/// Records spans.
pub struct Spans {
    processor: Arc<BatchSpanProcessor>,
    scope: InstrumentationScope,
    sample: f64,
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").field("sample", &self.sample).finish_non_exhaustive()
    }
}

impl Spans {
    /// Exports to the collector of `settings`; `tls` is for an `https` one. Must be called inside a tokio runtime, which
    /// carries the exports.
    ///
    /// # Errors
    /// When the endpoint cannot be used.
    pub fn new(settings: &SpanSettings, tls: Option<Arc<ClientConfig>>) -> Result<Self, ExporterBuildError> {
        let endpoint = format!("{}/v1/traces", settings.endpoint.to_string().trim_end_matches('/'));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new(tls, settings.headers.clone()))
            .with_endpoint(endpoint)
            .with_timeout(PATIENCE)
            .build()?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let resource = Resource::builder_empty()
            .with_service_name(settings.service.to_string())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        processor.set_resource(&resource.build());
        let scope = InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { processor: Arc::new(processor), scope, sample: settings.sample })
    }

    /// Whether a trace that begins here is recorded; `draw` is random, 0…1.
    #[must_use]
    pub fn samples(&self, draw: f64) -> bool {
        draw < self.sample
    }

    /// A request ended at `now`. Never waits.
    pub fn end(&self, flight: &Flight, head: &Head, status: u16, now: Nanos) {
        self.processor.on_end(record::span(flight, head, status, (now, wall()), &self.scope));
    }

    /// Exports what is left. Blocks for seconds at most: not for a thread of the runtime.
    pub fn flush(&self) {
        if let Err(error) = self.processor.force_flush() {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        let processor = Arc::clone(&self.processor);
        // It waits for its own thread, and whoever drops this may be a thread of the runtime.
        std::thread::spawn(move || {
            processor.shutdown().map_err(|error| tracing::debug!(%error, "spans ended"))
        });
    }
}
