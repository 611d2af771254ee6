//! Validated settings: what the rest of the program is built from.
//!
//! A value of [`Settings`] comes only from [`load()`](super::load()) or [`from_str`](super::from_str), so everything in it holds: names are
//! unique, numbers are in range, and what one setting demands of another is there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use ipnet::IpNet;

use super::file::File;
use super::syntax::{Digest, Secret};
use crate::fleet::heartbeat::Key;
use crate::fleet::roster::RosterSettings;
use crate::fleet::spec::WorkerSpec;
use crate::layers::jwt::TokenSettings;
use crate::limit::rule::Rule;
use crate::redis::settings::RedisSettings;
use crate::request::{Class, Kind, OwnLimits};
use crate::shed::settings::GateSettings;
use crate::spans::SpanSettings;

/// All settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where callers connect.
    pub listen: SocketAddr,
    /// TLS for callers.
    pub tls: Option<TlsFiles>,
    /// The administration port.
    pub admin: AdminSettings,
    /// Who asks.
    pub callers: CallerSettings,
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// What several gateways share.
    pub shared: SharedState,
    /// What workers and gateways sign with what they say over Redis.
    pub redis_key: Option<Key>,
    /// How many gateways are at work when nobody can tell.
    pub dams: u32,
    /// Concurrency and waiting, the same for each pool.
    pub gate: GateSettings,
    /// The workers, in the order of the file.
    pub workers: Vec<WorkerSpec>,
    /// How more workers are found, if they are.
    pub discovery: Option<Discovery>,
    /// The colour that receives work; nothing for any.
    pub active_colour: Option<Arc<str>>,
    /// What makes requests one session.
    pub sticky: Sticky,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// Trying another worker.
    pub retry: RetrySettings,
    /// A file of further certificate authorities for workers.
    pub worker_ca: Option<PathBuf>,
    /// Patterns for paths that are let through as one request of no tokens.
    pub paths: Vec<Arc<str>>,
    /// A chatbot API's own endpoints.
    pub routes: Vec<Route>,
    /// What is known of models; the first whose pattern matches counts.
    pub models: Vec<Model>,
    /// What a connection and a request may take.
    pub bounds: Bounds,
    /// The origins whose pages may call the gateway; `*` alone for all.
    pub cors_origins: Vec<HeaderValue>,
    /// Going down.
    pub drain: DrainSettings,
    /// The share of served requests that is logged, 0…1.
    pub log_sample: f64,
    /// Where spans go, if they are made.
    pub spans: Option<SpanSettings>,
    /// The file that says all this, its defaults written out.
    pub(super) file: Box<File>,
}

impl Settings {
    /// The files that the settings name.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let pairs = [&self.tls, &self.admin.tls].into_iter().flatten();
        let files =
            pairs.flat_map(|pair| [&pair.cert, &pair.key]).chain(&self.worker_ca).chain(&self.shared.ca);
        let keys = self.callers.tokens.iter().filter_map(|tokens| tokens.keys.file());
        let tokenizers = self.models.iter().map(|model| &model.tokenizer);
        files.chain(keys).chain(tokenizers).cloned().collect()
    }
}

/// How workers are found by what they say of themselves.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// Where they say it.
    pub redis: RedisSettings,
    /// What of it counts.
    pub roster: RosterSettings,
}

/// What is known of the models that match a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Their names.
    pub model: Arc<str>,
    /// The file of their tokenizer.
    pub tokenizer: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// What several gateways share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedState {
    /// Where Redis is, without the certificate authorities.
    pub redis: RedisSettings,
    /// A file of further certificate authorities for it.
    pub ca: Option<PathBuf>,
    /// Whether rules are counted there.
    pub rules: bool,
    /// Whether callers are kept there.
    pub callers: bool,
    /// Which requests become jobs there.
    pub jobs: JobsFor,
}

/// Which requests become jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobsFor {
    /// None.
    Nothing,
    /// All: workers take them from a queue.
    Workers,
    /// Those that would be refused and can be answered later; a gateway runs them.
    Overflow,
}

/// The administration port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// TLS for it.
    pub tls: Option<TlsFiles>,
    /// What must be shown to change anything; always there when `listen` is no loopback address.
    pub token: Option<Secret>,
    /// What must be shown to read.
    pub read_token: Option<Secret>,
    /// What must be shown for `/metrics`.
    pub metrics_token: Option<Secret>,
    /// The hosts by which it may be asked, in lower case, without ports or brackets.
    pub hosts: Vec<String>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq)]
pub struct CallerSettings {
    /// What tells callers apart: the first that a request yields.
    pub from: Vec<CallerSource>,
    /// The proxies whose `X-Forwarded-For` and identity headers count.
    pub trusted_proxies: Vec<IpNet>,
    /// The headers that carry a caller's key, the first that is there; in `authorization` it follows `Bearer`.
    pub key_headers: Vec<HeaderName>,
    /// Whether a request that no key matches is refused.
    pub refuse_anonymous: bool,
    /// The class of callers to whom none is given.
    pub default_class: Class,
    /// Whether workers see the caller's `authorization` header.
    pub forward_authorization: bool,
    /// Callers that show a signed token.
    pub tokens: Option<TokenSource>,
    /// Known callers.
    pub keys: Vec<CallerKey>,
}

/// Callers that show a signed token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSource {
    /// Which tokens count.
    pub tokens: TokenSettings,
    /// Where the keys are by which they are signed.
    pub keys: KeyPlace,
}

/// Where keys are by which tokens are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// In a file.
    File(PathBuf),
    /// At a server.
    Url {
        /// An `https` URL.
        url: Uri,
        /// A file of further certificate authorities for it.
        ca: Option<PathBuf>,
        /// How often they are fetched; not zero.
        refresh: Duration,
    },
}

impl KeyPlace {
    fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::File(file) => Some(file),
            Self::Url { ca, .. } => ca.as_ref(),
        }
    }
}

/// What tells callers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallerSource {
    /// The caller's API key.
    ApiKey,
    /// A header that a trusted proxy sets.
    Header(HeaderName),
    /// The client's address.
    Ip,
}

/// A known caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerKey {
    /// What the caller is called, without its namespace.
    pub id: Arc<str>,
    /// The team that it belongs to.
    pub team: Option<Arc<str>>,
    /// The SHA-256 of its key.
    pub digest: Digest,
    /// Its class, the highest that it may ask for.
    pub class: Class,
    /// Its share of a contended pool relative to others; at least 1.
    pub weight: u32,
    /// What it may have more or less of than others.
    pub limits: Option<Arc<OwnLimits>>,
}

/// What makes requests one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// A header of the request.
    Header(HeaderName),
    /// A cookie.
    Cookie(Arc<str>),
    /// A value in the request's body, by JSON pointer.
    Body(Arc<str>),
}

/// How long each step may take; each more than zero, but for `hold`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect to a worker.
    pub connect: Duration,
    /// From the request to the first token of a stream.
    pub first_token: Duration,
    /// From the request until a stream without a token is begun all the same.
    pub hold: Duration,
    /// From one piece of an answer to the next.
    pub idle: Duration,
    /// For all of it.
    pub total: Duration,
}

/// Trying another worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetrySettings {
    /// How many other workers are tried for one request.
    pub max: u32,
    /// The share of the requests of the last 10 s that may be retries, 0…1.
    pub budget: f64,
}

/// A chatbot API's own endpoint. No two match the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The path, or a pattern for paths: `*` stands for any run of characters.
    pub path: Arc<str>,
    /// What kind of call it is.
    pub kind: Kind,
    /// Where the prompt stands in the body, by JSON pointer; nothing for where the kind has it.
    pub prompt: Option<Arc<str>>,
    /// Where the session stands in the body, by JSON pointer; nothing for [`Settings::sticky`].
    pub session: Option<Arc<str>>,
    /// Where the bound on the answer stands in the body, by JSON pointer; nothing for where the kind has it.
    pub max_tokens: Option<Arc<str>>,
    /// Whether a request that a worker may have begun can be sent to another one.
    pub retry: bool,
    /// How long each step may take.
    pub timeouts: Timeouts,
}

/// What a connection and a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The largest request body, in bytes.
    pub body: u64,
    /// The most bytes of request bodies held in memory at once; at least `body`.
    pub buffered: u64,
    /// How long a request body may take to arrive.
    pub body_read: Duration,
    /// How long a client may take nothing of its answer.
    pub client_stall: Duration,
    /// The largest head of a request, in bytes: 8 KiB to 1 MiB.
    pub headers: usize,
    /// How long a head may take to arrive.
    pub header_read: Duration,
    /// The most open connections.
    pub connections: usize,
    /// The most open connections of one address, trusted proxies exempt; nothing for no such bound.
    pub per_ip: Option<usize>,
    /// The most requests at once on one HTTP/2 connection.
    pub h2_streams: u32,
}

/// Going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainSettings {
    /// How long new requests are still taken.
    pub delay: Duration,
    /// How long streams under way may take to finish, from then on.
    pub timeout: Duration,
}
