//! Reading the health and the metrics of a worker: vLLM, SGLang, llama.cpp, TGI.
//!
//! The agent reads the worker beside it, and the gateway the workers that it discovers. Each reading
//! is at most one request for the health and one for the metrics, over a new connection each, without
//! redirects and bounded in time and size.
//!
//! **Trade-off.** One timeout is forgiven: a worker with a busy Python thread is not gone. A refused
//! connection or an error counts at once.

mod engine;
mod text;
mod window;

pub(crate) use engine::EngineSignals;
pub use engine::Rename;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri};
use rustls::ClientConfig;

use self::engine::ScrapeReader;
use crate::net::fetch::{Fetch, FetchError};

/// Longest time of one request.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);
/// Largest page, in bytes.
const MAX_BYTES: usize = 4 << 20;
/// Path where llama.cpp reports its slots.
const PROPS: &str = "/props";
/// Consecutive timeouts after which a worker counts as failed.
const TIMEOUTS: u32 = 2;

/// Where a worker is read, and how.
#[derive(Clone, Debug)]
pub(crate) struct ProbeTarget {
    /// URL of the worker; paths are appended to its path.
    pub url: Uri,
    /// Address to connect to; `None` to resolve the host of `url`.
    pub address: Option<IpAddr>,
    /// Headers of the requests, such as credentials.
    pub headers: HeaderMap,
    /// Path that answers 200 while the worker is healthy.
    pub health: String,
    /// Path of its Prometheus metrics.
    pub metrics: String,
    /// Longest time of each request.
    pub patience: Duration,
}

/// Whether a worker is healthy.
#[derive(Debug)]
pub(crate) enum ProbedHealth {
    /// It answered, or was too slow only once.
    Well,
    /// It does not have the path, or does not show it to us.
    Absent(StatusCode),
    /// It did not answer, or with an error.
    Failed(FetchError),
}

/// What the metrics of a worker say.
#[derive(Debug)]
pub(crate) enum ProbedMetrics {
    /// At least one known value.
    Signals(EngineSignals),
    /// No metric of a known engine.
    Unknown,
    /// It does not have the path, or does not show it to us.
    Absent(StatusCode),
    /// It did not answer, or with an error.
    Failed(FetchError),
}

/// Result of a worker's `/props`, which only llama.cpp has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Props {
    /// Not asked yet, or no answer.
    Unknown,
    /// The slots, if it reported them.
    Told(Option<u32>),
}

/// Reads one worker again and again.
#[derive(Debug)]
pub(crate) struct WorkerProbe {
    target: ProbeTarget,
    reader: ScrapeReader,
    timeouts: u32,
    props: Props,
}

impl WorkerProbe {
    /// Creates a probe. `renames` override the names of metrics.
    #[must_use]
    pub(crate) fn new(target: ProbeTarget, renames: Vec<Rename>) -> Self {
        Self { target, reader: ScrapeReader::new(renames), timeouts: 0, props: Props::Unknown }
    }

    /// Asks for the health. `tls`: the client configuration for `https`.
    pub(crate) async fn health(&mut self, tls: Option<&Arc<ClientConfig>>) -> ProbedHealth {
        let health = match self.get(&self.target.health, tls).await {
            Ok(_) => ProbedHealth::Well,
            Err(FetchError::TimedOut(_)) if self.timeouts + 1 < TIMEOUTS => {
                self.timeouts += 1;
                return ProbedHealth::Well;
            }
            Err(FetchError::Status(status)) if is_absent(status) => ProbedHealth::Absent(status),
            Err(error) => ProbedHealth::Failed(error),
        };
        match health {
            // It may come back as another process with other slots.
            ProbedHealth::Failed(_) => self.props = Props::Unknown,
            ProbedHealth::Well | ProbedHealth::Absent(_) => self.timeouts = 0,
        }
        health
    }

    /// Asks for the metrics.
    pub(crate) async fn metrics(&mut self, tls: Option<&Arc<ClientConfig>>) -> ProbedMetrics {
        match self.get(&self.target.metrics, tls).await {
            Ok(page) => {
                let signals = self.reader.read(&String::from_utf8_lossy(&page));
                if signals.is_empty() { ProbedMetrics::Unknown } else { ProbedMetrics::Signals(signals) }
            }
            Err(FetchError::Status(status)) if is_absent(status) => ProbedMetrics::Absent(status),
            Err(error) => ProbedMetrics::Failed(error),
        }
    }

    /// Returns the slots that llama.cpp reports; asks once per worker process.
    pub(crate) async fn slots(&mut self, tls: Option<&Arc<ClientConfig>>) -> Option<u32> {
        if self.props == Props::Unknown {
            self.props = match self.get(PROPS, tls).await {
                Ok(page) => Props::Told(engine::slots(&page)),
                Err(FetchError::TimedOut(_)) => Props::Unknown,
                Err(_) => Props::Told(None),
            };
        }
        match self.props {
            Props::Told(slots) => slots,
            Props::Unknown => None,
        }
    }

    /// Fetches `path`, appended to the path of the worker's URL.
    async fn get(&self, path: &str, tls: Option<&Arc<ClientConfig>>) -> Result<Bytes, FetchError> {
        let target = &self.target;
        let path = format!("{}{path}", target.url.path().trim_end_matches('/'));
        let fetch = Fetch {
            server: &target.url,
            address: target.address,
            path: &path,
            headers: &target.headers,
            tls,
            timeout: target.patience,
            max_bytes: MAX_BYTES,
        };
        fetch.get().await
    }
}

/// Returns `true` if the server does not have the path, or does not show it to us.
fn is_absent(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
    )
}
