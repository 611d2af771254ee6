//! OpenTelemetry spans: one per request, exported after its end.
//!
//! A span is built from data in the request's [`RequestRecord`], so the request path only adds a few
//! random numbers. OpenTelemetry's batch processor has a bounded queue, which drops spans when
//! full, and an export thread. A slow or dead collector costs spans, never requests.

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
use crate::request::{Peer, RequestRecord, Trace};
use collector::Collector;

/// Instrumentation scope of the spans.
const SCOPE: &str = "traffic-dam";
/// Timeout of an export.
const PATIENCE: Duration = Duration::from_secs(10);

/// Methods kept verbatim in a span; any other could be arbitrary text.
const KNOWN_METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// Maximum bytes kept of a path: the client chose it.
const LONGEST_PATH: usize = 1024;

/// Settings of the span export.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SpanSettings {
    /// Base URL of the collector, without `/v1/traces`.
    pub endpoint: Uri,
    /// Headers of each export, such as credentials.
    pub headers: HeaderMap,
    /// Service name of the gateway.
    pub service: Arc<str>,
    /// Share of traces started here that are recorded, 0…1. Others carry the decision.
    pub sample: f64,
}

/// The part of a request head that a span needs.
#[derive(Clone, Debug)]
pub(crate) struct SpanHead {
    trace: Trace,
    method: Method,
    path: Box<str>,
    tls: bool,
}

impl SpanHead {
    /// Copies it from `request`. Leaves out the query: it may hold private data.
    #[must_use]
    pub(crate) fn of<B>(trace: Trace, request: &Request<B>) -> Self {
        let path = request.uri().path();
        Self {
            trace,
            method: request.method().clone(),
            path: path.get(..path.floor_char_boundary(LONGEST_PATH)).unwrap_or_default().into(),
            tls: request.extensions().get::<Peer>().is_some_and(|peer| peer.tls),
        }
    }

    /// Returns `Ok` for a method that the conventions know, `Err` for any other.
    fn method(&self) -> Result<&str, &str> {
        let method = self.method.as_str();
        if KNOWN_METHODS.contains(&method) { Ok(method) } else { Err(method) }
    }
}

/// Records and exports spans.
pub(crate) struct Spans {
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
    /// Creates an exporter to the collector of `settings`; `tls` is for an `https` one. Must be
    /// called in a tokio runtime, which runs the exports.
    ///
    /// # Errors
    /// If the endpoint cannot be used.
    pub(crate) fn new(
        settings: &SpanSettings,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Self, ExporterBuildError> {
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

    /// Returns `true` if a trace that starts here is recorded; `draw` is random, 0…1.
    #[must_use]
    pub(crate) fn samples(&self, draw: f64) -> bool {
        draw < self.sample
    }

    /// Records a request that ended at `now`. Never blocks.
    pub(crate) fn end(&self, record: &RequestRecord, head: &SpanHead, status: u16, now: Nanos) {
        self.processor.on_end(record::span(record, head, status, (now, wall()), &self.scope));
    }

    /// Exports the remaining spans. Blocks, for seconds at most: not for a runtime thread.
    pub(crate) fn flush(&self) {
        if let Err(error) = self.processor.force_flush() {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        let processor = Arc::clone(&self.processor);
        // Shutdown waits for its thread, and this thread may be one of the runtime.
        std::thread::spawn(move || {
            processor.shutdown().map_err(|error| tracing::debug!(%error, "cannot shut down the span export"))
        });
    }
}
