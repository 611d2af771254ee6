//! Endpoints, and limits on connections and requests.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TimeoutsSection;
use crate::config::syntax::{Host, Origin, PathGlob, Size, Text};
use crate::openai::body::{MediaUrls, Pointer};
use crate::request::Kind;
use crate::server::ListenerBounds;

/// A custom endpoint of a chatbot API, treated like the OpenAI endpoint of the same kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteSection {
    /// The path, or a pattern for paths. No two routes may match the same path.
    pub path: Text<PathGlob>,
    /// Kind of the call.
    pub kind: KindName,
    /// JSON pointer to the prompt in the request body.
    #[schemars(extend("x-default" = "as in the OpenAI endpoint of that kind"))]
    pub prompt: Option<Text<Pointer>>,
    /// JSON pointer to the session ID in the request body.
    #[schemars(extend("x-default" = "`workers.sticky`"))]
    pub session: Option<Text<Pointer>>,
    /// JSON pointer to the maximum number of answer tokens in the request body.
    #[schemars(extend("x-default" = "as in the OpenAI endpoint of that kind"))]
    pub max_tokens: Option<Text<Pointer>>,
    /// Whether a request may be retried on another worker after a worker may have begun it.
    #[serde(default)]
    pub retry: bool,
    /// Timeouts of this route.
    #[serde(default)]
    pub timeouts: RouteTimeoutsSection,
}

/// Kind of a call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KindName {
    /// like `/v1/chat/completions`
    Chat,
    /// like `/v1/completions`
    Completion,
    /// like `/v1/responses`
    Response,
    /// like `/v1/embeddings`
    Embedding,
    /// like `/v1/messages`
    Messages,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Chat => Self::Chat,
            KindName::Completion => Self::Completion,
            KindName::Response => Self::Response,
            KindName::Embedding => Self::Embedding,
            KindName::Messages => Self::Messages,
        }
    }
}

/// Timeouts of one route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RouteTimeoutsSection {
    /// Maximum time to connect to a worker.
    #[schemars(extend("x-default" = "`workers.timeouts.connect`"))]
    pub connect: Option<Text<Duration>>,
    /// Maximum time from the request to the first token of a stream.
    #[schemars(extend("x-default" = "`workers.timeouts.first_token`"))]
    pub first_token: Option<Text<Duration>>,
    /// Time from the request until a stream's response head is sent even without a token.
    #[schemars(extend("x-default" = "`workers.timeouts.hold`"))]
    pub hold: Option<Text<Duration>>,
    /// Maximum time between two chunks of a response.
    #[schemars(extend("x-default" = "`workers.timeouts.idle`"))]
    pub idle: Option<Text<Duration>>,
    /// Maximum time for the whole request.
    #[schemars(extend("x-default" = "`workers.timeouts.total`"))]
    pub total: Option<Text<Duration>>,
}

impl RouteTimeoutsSection {
    pub(super) fn complete(&mut self, general: &TimeoutsSection) {
        self.connect.get_or_insert(general.connect.clone());
        self.first_token.get_or_insert(general.first_token.clone());
        self.hold.get_or_insert(general.hold.clone());
        self.idle.get_or_insert(general.idle.clone());
        self.total.get_or_insert(general.total.clone());
    }
}

/// Limits on connections and requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BoundsSection {
    /// Maximum size of a request body.
    pub body: Size,
    /// Maximum size of a request body of some kinds of calls.
    pub bodies: BodiesSection,
    /// Maximum part of a large body that is held; the rest is passed on as it arrives. Of a form
    /// (`multipart/form-data`), this part must name the `model`. A body in JSON is read whole if
    /// this part does not tell what the request costs.
    pub held: Size,
    /// Maximum size of all request bodies in memory at once, and of the answers that are being copied
    /// for repeats (`jobs.idempotency`). A caller with several may hold no more bytes than it leaves to
    /// others.
    pub buffered: Size,
    /// Maximum time for a request body to arrive. For a body that is streamed through (`paths`):
    /// maximum total time spent waiting for the client.
    pub body_read: Text<Duration>,
    /// Maximum time during which a client accepts no byte of its response.
    pub client_stall: Text<Duration>,
    /// Maximum size of a request head, 8 KiB to 1 MiB. A head of HTTP/1.1 also has at most 100
    /// fields.
    pub headers: Size,
    /// Maximum time for a request head to arrive.
    pub header_read: Text<Duration>,
    /// Maximum number of open connections.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections: u64,
    /// Maximum number of open connections per client address; 0 for no limit.
    /// `callers.trusted_proxies` are exempt.
    #[schemars(range(max = 10_000_000))]
    pub per_ip: u64,
    /// Maximum number of concurrent requests on one HTTP/2 connection.
    #[schemars(range(min = 1, max = 10_000))]
    pub h2_streams: u32,
}

impl Default for BoundsSection {
    fn default() -> Self {
        let listener = ListenerBounds::default();
        Self {
            body: Size::mib(8),
            bodies: BodiesSection::default(),
            held: Size::kib(64),
            buffered: Size::mib(256),
            body_read: Text(Duration::from_secs(15)),
            client_stall: Text(listener.client_stall),
            headers: Size::bytes(listener.headers as u64),
            header_read: Text(listener.header_read),
            connections: listener.connections as u64,
            per_ip: listener.per_ip as u64,
            h2_streams: listener.h2_streams,
        }
    }
}

/// Maximum size of a request body by kind of call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BodiesSection {
    /// Of `/v1/chat/completions`.
    #[schemars(extend("x-default" = "`bounds.body`"))]
    pub chat: Option<Size>,
    /// Of `/v1/completions`.
    #[schemars(extend("x-default" = "`bounds.body`"))]
    pub completion: Option<Size>,
    /// Of `/v1/responses`.
    #[schemars(extend("x-default" = "`bounds.body`"))]
    pub response: Option<Size>,
    /// Of `/v1/embeddings`.
    #[schemars(extend("x-default" = "`bounds.body`"))]
    pub embedding: Option<Size>,
    /// Of `/v1/messages`.
    #[schemars(extend("x-default" = "`bounds.body`"))]
    pub messages: Option<Size>,
    /// Of calls that count tokens.
    #[schemars(extend("x-default" = "1MiB, or `bounds.body` if that is less"))]
    pub count: Option<Size>,
    /// Of reranking and scores.
    #[schemars(extend("x-default" = "`bounds.body`"))]
    pub rerank: Option<Size>,
    /// Of images. A form may be larger than `bounds.buffered`: it is not kept in memory.
    #[schemars(extend("x-default" = "`bounds.body`"))]
    pub images: Option<Size>,
    /// Of audio. A form may be larger than `bounds.buffered`: it is not kept in memory.
    #[schemars(extend("x-default" = "`bounds.body`"))]
    pub audio: Option<Size>,
}

impl BodiesSection {
    /// Returns the sizes with their kinds and keys.
    pub(crate) fn by_kind(&self) -> [(Kind, &'static str, Option<Size>); 9] {
        [
            (Kind::Chat, "chat", self.chat),
            (Kind::Completion, "completion", self.completion),
            (Kind::Response, "response", self.response),
            (Kind::Embedding, "embedding", self.embedding),
            (Kind::Messages, "messages", self.messages),
            (Kind::Count, "count", self.count),
            (Kind::Rerank, "rerank", self.rerank),
            (Kind::Images, "images", self.images),
            (Kind::Audio, "audio", self.audio),
        ]
    }
}

/// Cost of media, whose tokens do not depend on text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MediaSection {
    /// Bytes of sound or video that are reserved as one token, until the worker reports usage.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub bytes_per_token: u64,
    /// Which URLs of media may be passed on, for a worker to fetch; never those with the scheme `file`.
    pub urls: MediaUrlsSection,
}

impl Default for MediaSection {
    fn default() -> Self {
        // Some 16 kB of compressed sound are a second, for which models take some 40 tokens.
        Self { bytes_per_token: 400, urls: MediaUrlsSection::Word(MediaUrlsWord::Allow) }
    }
}

/// Which URLs of media may be passed on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum MediaUrlsSection {
    /// All or none.
    Word(MediaUrlsWord),
    /// Those of these hosts and their subdomains.
    Domains(#[schemars(length(min = 1, max = 64))] Vec<Text<Host>>),
}

/// All URLs of media, or none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MediaUrlsWord {
    /// all with the scheme `http` or `https`
    Allow,
    /// none
    Deny,
}

impl From<&MediaUrlsSection> for MediaUrls {
    fn from(section: &MediaUrlsSection) -> Self {
        match section {
            MediaUrlsSection::Word(MediaUrlsWord::Allow) => Self::Allow,
            MediaUrlsSection::Word(MediaUrlsWord::Deny) => Self::Deny,
            MediaUrlsSection::Domains(domains) => {
                Self::Domains(domains.iter().map(|domain| domain.0.0.as_str().into()).collect())
            }
        }
    }
}

/// Access from web pages of other origins (CORS).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cors {
    /// Origins whose pages may call the gateway; `["*"]` for all. CORS headers of workers are
    /// dropped.
    #[schemars(length(max = 64))]
    pub origins: Vec<Text<Origin>>,
}
