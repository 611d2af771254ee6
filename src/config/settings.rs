//! Validated settings, from which the rest of the program is built.
//!
//! Only [`load()`](super::load()) and [`from_str`](super::from_str) create a [`Settings`], so its
//! values are valid: names are unique, numbers in range, and dependent settings agree.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Uri};

use super::file::ConfigFile;
use super::syntax::Secret;
use crate::discovery::{ScrapeSettings, SourceTarget};
use crate::fleet::heartbeat::SigningKey;
use crate::fleet::registry::RegistrySettings;
use crate::fleet::spec::{Http2Mode, WorkerSpec};
use crate::layers::cost::SessionSource;
use crate::layers::identify::CallerSettings;
use crate::layers::jwt::TokenSettings;
use crate::layers::paths::RouteSettings;
use crate::layers::prefixes::PrefixShare;
use crate::limit::rule::Rule;
use crate::models::ModelSpec;
use crate::openai::body::MediaUrls;
use crate::openai::kinds::{self, OptionalKind};
use crate::redis::jobs::JobLimits;
use crate::redis::settings::RedisSettings;
use crate::request::AnswerHeaders;
use crate::server::ListenerBounds;
use crate::shed::settings::GateSettings;
use crate::spans::SpanSettings;
use crate::upstream::{RetrySettings, UpstreamTimeouts};

/// All settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address for callers.
    pub listen: SocketAddr,
    /// TLS for callers.
    pub tls: Option<TlsFiles>,
    /// The administration port.
    pub admin: AdminPortSettings,
    /// Identification of callers.
    pub callers: CallerSettings,
    /// Callers that send a signed token (JWT).
    pub(crate) tokens: Option<TokenSource>,
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// State that several gateways share.
    pub(crate) shared: SharedState,
    /// Limits for jobs in Redis.
    pub job_limits: JobLimits,
    /// Key for signing messages over Redis (HMAC-SHA256).
    pub(crate) redis_key: Option<SigningKey>,
    /// Number of gateways, used while Redis cannot tell it.
    pub(crate) gateways: u32,
    /// Concurrency limit and queue, the same for each pool.
    pub gate: GateSettings,
    /// How prompts are hashed, if [`GateSettings::prefix`] uses the hashes.
    pub prefix: PrefixHashing,
    /// The workers, in the order of the file.
    pub workers: Vec<WorkerSpec>,
    /// How workers register by heartbeats; `None` if they do not.
    pub discovery: Option<Discovery>,
    /// Other sources that find workers.
    pub(crate) sources: DiscoverySettings,
    /// Settings for workers that heartbeats and other sources report.
    pub registry: RegistrySettings,
    /// How the health and metrics of workers are read.
    pub(crate) scrape: ScrapeSettings,
    /// Colour that receives requests. `None` for any, and with a queue for the one that the
    /// gateways choose.
    pub(crate) active_colour: Option<Arc<str>>,
    /// Time without a ready worker after which the gateways choose another side of a queue.
    pub version_wait: Duration,
    /// Time that a turn of a session waits for the worker that had the turn before, in a queue.
    pub(crate) sticky_wait: Duration,
    /// Source of the session ID.
    pub sticky: SessionSource,
    /// Timeouts of a request's steps; each is more than zero, except `hold`.
    pub timeouts: UpstreamTimeouts,
    /// Age from which a connection to a worker takes no new requests; not zero.
    pub(crate) connection_age: Duration,
    /// Retries on another worker.
    pub retry: RetrySettings,
    /// Use of HTTP/2 for requests to workers; `None` for the default of each.
    pub(crate) http2: Option<Http2Mode>,
    /// File with additional certificate authorities for workers.
    pub(crate) worker_ca: Option<PathBuf>,
    /// Kinds of calls that are served in addition to those that always are.
    pub kinds: Vec<OptionalKind>,
    /// Patterns for paths forwarded as one request with zero tokens.
    pub paths: Vec<Arc<str>>,
    /// Custom endpoints of a chatbot API. No two match the same path.
    pub routes: Vec<RouteSettings>,
    /// Properties of models; the first entry whose pattern matches applies.
    pub models: Vec<ModelSettings>,
    /// Bytes of sound or video that are reserved as one token; at least 1.
    pub bytes_per_token: u64,
    /// Which URLs of media may be passed on.
    pub media_urls: MediaUrls,
    /// Headers of answers that name model and worker.
    pub answer_headers: AnswerHeaders,
    /// Limits on connections and requests.
    pub bounds: BoundsSettings,
    /// Origins whose pages may call the gateway; `*` alone for all.
    pub(crate) cors_origins: Vec<HeaderValue>,
    /// Graceful shutdown.
    pub drain: DrainSettings,
    /// Share of served requests that is logged, 0…1.
    pub log_sample: f64,
    /// Export of spans; `None` if no spans are made.
    pub(crate) spans: Option<SpanSettings>,
    /// `true` if the file has a section `redis`.
    pub(super) redis_in_file: bool,
    /// The settings file with its defaults filled in.
    pub(super) file: Box<ConfigFile>,
}

impl Settings {
    /// Returns the files that the settings name, which [`ConfigWatch`](super::watch::ConfigWatch) compares.
    #[must_use]
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let pairs = [&self.tls, &self.admin.tls].into_iter().flatten();
        let files =
            pairs.flat_map(|pair| [&pair.cert, &pair.key]).chain(&self.worker_ca).chain(&self.shared.ca);
        let keys = self.tokens.iter().filter_map(|tokens| tokens.keys.file());
        let tokenizers = self.models.iter().filter_map(|model| model.tokenizer.as_ref());
        files.chain(keys).chain(tokenizers).cloned().collect()
    }

    /// Returns `true` if workers may join that are not configured.
    #[must_use]
    pub fn workers_may_join(&self) -> bool {
        self.discovery.is_some() || !self.sources.targets.is_empty()
    }

    /// Returns the names and fallbacks of all models.
    #[must_use]
    pub(crate) fn model_specs(&self) -> Vec<ModelSpec> {
        self.models.iter().map(|model| model.names.clone()).collect()
    }
}

/// How prompts are hashed for the choice of a worker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PrefixHashing {
    /// Secret key; `None` for a random one.
    pub key: Option<[u8; 16]>,
    /// Whose prompts may share what a worker has cached.
    pub share: PrefixShare,
}

impl std::fmt::Debug for PrefixHashing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrefixHashing").field("share", &self.share).finish_non_exhaustive()
    }
}

/// Registration of workers by heartbeats.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// Redis that carries the heartbeats.
    pub redis: RedisSettings,
}

/// Sources other than heartbeats that find workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DiscoverySettings {
    /// Targets that they follow; each has a name of its own.
    pub targets: Vec<SourceTarget>,
}

/// Properties of the models that match a pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSettings {
    /// Pattern, names and fallbacks.
    pub names: ModelSpec,
    /// File of their tokenizer (`tokenizer.json`).
    pub tokenizer: Option<PathBuf>,
    /// Prompt tokens of a picture, if configured.
    pub image_tokens: Option<u64>,
}

/// Files of a certificate and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// The certificate's private key, PEM.
    pub key: PathBuf,
}

/// State that several gateways share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharedState {
    /// Redis servers, without certificate authorities.
    pub redis: RedisSettings,
    /// File with additional certificate authorities for Redis.
    pub ca: Option<PathBuf>,
    /// `true` if rules are counted in Redis.
    pub rules: bool,
    /// `true` if callers are stored in Redis.
    pub callers: bool,
    /// Requests that become jobs in Redis.
    pub jobs: JobMode,
}

/// Requests that become jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobMode {
    /// No requests.
    Nothing,
    /// All requests: workers take them from a queue.
    Workers,
    /// Requests that would be refused and may be answered later; a gateway runs them.
    Overflow,
}

/// The administration port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminPortSettings {
    /// Address of the administration port.
    pub listen: SocketAddr,
    /// TLS for the administration port.
    pub tls: Option<TlsFiles>,
    /// Token required to change anything; always `Some` if `listen` is not a loopback address.
    pub token: Option<Secret>,
    /// Token required to read.
    pub read_token: Option<Secret>,
    /// Token required for `/metrics`.
    pub metrics_token: Option<Secret>,
    /// Accepted host names, in lower case, without ports or brackets.
    pub hosts: Vec<String>,
}

/// Callers that send a signed token (JWT).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenSource {
    /// Accepted tokens.
    pub tokens: TokenSettings,
    /// Source of the keys that tokens are signed with.
    pub keys: JwksSource,
}

/// Source of the keys that tokens are signed with (JWKS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JwksSource {
    /// A file.
    File(PathBuf),
    /// A server.
    Url {
        /// An `https` URL.
        url: Uri,
        /// File with additional certificate authorities for the server.
        ca: Option<PathBuf>,
        /// Interval between fetches; not zero.
        refresh: Duration,
    },
}

impl JwksSource {
    fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::File(file) => Some(file),
            Self::Url { ca, .. } => ca.as_ref(),
        }
    }
}

/// Limits on connections and requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundsSettings {
    /// Maximum size of a request body, in bytes.
    pub body: u64,
    /// Maximum size of a request body by kind of call, in bytes; `None` for `body`, or for what the
    /// kind has of its own.
    pub(crate) bodies: [Option<u64>; kinds::COUNT],
    /// Maximum part of a large body that is held, in bytes.
    pub held: u64,
    /// Maximum size of all request bodies in memory at once, in bytes; at least `body`.
    pub buffered: u64,
    /// Maximum time for a request body to arrive.
    pub(crate) body_read: Duration,
    /// Limits of the listener for callers.
    pub listener: ListenerBounds,
}

/// Graceful shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainSettings {
    /// Time for which new requests are still accepted.
    pub delay: Duration,
    /// Maximum time after `delay` for running streams to finish.
    pub timeout: Duration,
}
