//! What passes, and how much of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Timeouts;
use crate::config::syntax::{FilePath, Glob, Millis, Origin, PathGlob, Pointer, Size, Text};
use crate::request::Kind;

/// A chatbot API's own endpoint, treated like an OpenAI endpoint of that kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The path, or a pattern for paths. No two routes may match the same path.
    pub path: Text<PathGlob>,
    /// What kind of call it is.
    pub kind: KindName,
    /// Where the prompt stands in the body, by JSON pointer.
    #[schemars(extend("x-default" = "as in the OpenAI endpoint of that kind"))]
    pub prompt: Option<Text<Pointer>>,
    /// Where the session stands in the body, by JSON pointer.
    #[schemars(extend("x-default" = "`workers.sticky`"))]
    pub session: Option<Text<Pointer>>,
    /// Where the bound on the answer's tokens stands in the body, by JSON pointer.
    #[schemars(extend("x-default" = "as in the OpenAI endpoint of that kind"))]
    pub max_tokens: Option<Text<Pointer>>,
    /// Whether a request that a worker may have begun can be sent to another one.
    #[serde(default)]
    pub retry: bool,
    /// Other timeouts for this route.
    #[serde(default)]
    pub timeouts: RouteTimeouts,
}

/// What is known of some models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A pattern for their names, as requests give them.
    pub model: Text<Glob>,
    /// Their `tokenizer.json`, as Hugging Face has it: prompts are counted by it and not estimated from their length.
    pub tokenizer: Text<FilePath>,
}

/// The kind of a call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KindName {
    /// like `/v1/chat/completions`
    Chat,
    /// like `/v1/completions`
    Completion,
    /// like `/v1/responses`
    Response,
    /// like `/v1/embeddings`
    Embedding,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Chat => Self::Chat,
            KindName::Completion => Self::Completion,
            KindName::Response => Self::Response,
            KindName::Embedding => Self::Embedding,
        }
    }
}

/// Timeouts of one route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteTimeouts {
    /// To connect to a worker.
    #[schemars(extend("x-default" = "`workers.timeouts.connect`"))]
    pub connect: Option<Text<Millis>>,
    /// From the request to the first token of a stream.
    #[schemars(extend("x-default" = "`workers.timeouts.first_token`"))]
    pub first_token: Option<Text<Millis>>,
    /// From the request until a stream without a token is begun all the same.
    #[schemars(extend("x-default" = "`workers.timeouts.hold`"))]
    pub hold: Option<Text<Millis>>,
    /// From one piece of an answer to the next.
    #[schemars(extend("x-default" = "`workers.timeouts.idle`"))]
    pub idle: Option<Text<Millis>>,
    /// For all of it.
    #[schemars(extend("x-default" = "`workers.timeouts.total`"))]
    pub total: Option<Text<Millis>>,
}

impl RouteTimeouts {
    pub(super) fn complete(&mut self, general: &Timeouts) {
        self.connect.get_or_insert(general.connect.clone());
        self.first_token.get_or_insert(general.first_token.clone());
        self.hold.get_or_insert(general.hold.clone());
        self.idle.get_or_insert(general.idle.clone());
        self.total.get_or_insert(general.total.clone());
    }
}

/// What a connection and a request may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// The largest request body.
    pub body: Size,
    /// The most bytes of request bodies held in memory at once. A caller with several at once holds at most as many as it
    /// leaves to others.
    pub buffered: Size,
    /// How long a request body may take to arrive. Where it is passed on as it comes (`paths`), how long its client may be
    /// waited for in all.
    pub body_read: Text<Millis>,
    /// How long a client may take nothing of its answer.
    pub client_stall: Text<Millis>,
    /// The largest head of a request, 8 KiB to 1 MiB.
    pub headers: Size,
    /// How long a head may take to arrive.
    pub header_read: Text<Millis>,
    /// The most open connections.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections: u64,
    /// The most open connections of one address, `callers.trusted_proxies` exempt; 0 for no such bound.
    #[schemars(range(max = 10_000_000))]
    pub per_ip: u64,
    /// The most requests at once on one HTTP/2 connection.
    #[schemars(range(min = 1, max = 10_000))]
    pub h2_streams: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        let seconds = |seconds| Text(Millis::from_secs(seconds));
        Self {
            body: Size::mib(8),
            buffered: Size::mib(256),
            body_read: seconds(15),
            client_stall: seconds(30),
            headers: Size::kib(32),
            header_read: seconds(10),
            connections: 10_000,
            per_ip: 0,
            h2_streams: 100,
        }
    }
}

/// Browsers on other origins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// The origins whose pages may call the gateway; `["*"]` for all. What workers say of that is left out.
    #[schemars(length(max = 64))]
    pub origins: Vec<Text<Origin>>,
}
