//! Data about one request: its caller, its cost, and its progress.
//!
//! The layers pass it on in the request's extensions: [`Caller`] from `identify`, [`RequestCost`] from
//! `request_cost`, and the [`RequestRecord`], which `observe` opens and each later stage writes a part of.

mod allowed;
mod answer_headers;
mod caller_id;
mod explaining;
mod forwarding;
mod network;
mod overrides;
mod payload;
mod prefix;
mod record;
mod rights;
mod slo;
mod trace;

pub use allowed::AllowedModels;
pub use answer_headers::AnswerHeaders;
pub use caller_id::{CallerId, CallerNamespace};
pub use explaining::Explaining;
pub use forwarding::{
    DecodedPath, Forwarding, GatewayRequest, ModelPart, Peer, PreviousResponse, RouteTimeouts, ToWorker,
    UpgradeTo, UsageInjected,
};
pub use network::network_of;
pub use overrides::{OwnLimit, OwnLimits};
pub use payload::{BodyReservation, Payload, PayloadError};
pub use prefix::{BLOCK_BYTES, PromptPrefix};
pub use record::{Blame, Ending, FallbackTaken, LoggedFields, RequestRecord};
pub use rights::{CallerRights, KeyOwner};
pub use slo::SloOutcome;
pub use trace::{Trace, TraceId};

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Nanos;

/// The priority of a request. Classes are ordered by priority; `Critical` is the greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// nobody waits for the answer
    Batch,
    /// a person waits for the answer
    #[default]
    Interactive,
    /// served before all others
    Critical,
}

impl Class {
    /// Every class, lowest first; `class as usize` is the index.
    pub const ALL: [Self; 3] = [Self::Batch, Self::Interactive, Self::Critical];

    /// Returns the name in configuration, headers and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Interactive => "interactive",
            Self::Critical => "critical",
        }
    }

    /// Finds the class with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The caller of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its [`CallerId`] as text: `key:team-a`, `hdr:42`, `ip:192.0.2.1`, `ip:2001:db8::/64`.
    pub id: Arc<str>,
    /// The caller's team.
    pub team: Option<Arc<str>>,
    /// The class of this request: the caller's class, or a lower one that the request asks for.
    pub class: Class,
    /// The caller's share of a contended pool relative to others; at least 1.
    pub weight: u32,
    /// Limits that replace those of the rules for this caller.
    pub limits: Option<Arc<OwnLimits>>,
    /// The models that the caller may ask for; `None` for all.
    pub models: Option<Arc<AllowedModels>>,
    /// Headers of its answers; `None` for the general setting.
    pub answer_headers: Option<AnswerHeaders>,
    /// `true` if the caller may use external workers, such as a paid API.
    pub external: bool,
}

impl Caller {
    /// Creates a caller with weight 1 and the default class.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self::with_rights(id, Class::default(), CallerRights::default())
    }

    /// Creates a caller of this class with these rights.
    #[must_use]
    pub fn with_rights(id: impl Into<Arc<str>>, class: Class, rights: CallerRights) -> Self {
        let CallerRights { class: _, team, weight, limits, models, answer_headers, external } = rights;
        Self { id: id.into(), team, class, weight, limits, models, answer_headers, external }
    }

    /// Returns `true` if this request may go to an external worker: never in class `batch`, for
    /// which nobody waits and nobody should pay.
    #[must_use]
    pub fn may_use_external(&self) -> bool {
        self.external && self.class != Class::Batch
    }
}

/// The kind of a call: what its paths, its body and its answer are (`openai::kinds` has the table),
/// or a path that only counts as one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completion,
    /// `POST /v1/responses`
    Response,
    /// `POST /v1/embeddings`
    Embedding,
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/messages/count_tokens`, `/tokenize`, `/detokenize`
    Count,
    /// `POST /v1/rerank`, `/v1/score` and their like
    Rerank,
    /// `POST /v1/images/generations` and `edits`
    Images,
    /// `POST /v1/audio/transcriptions`, `translations` and `speech`
    Audio,
    /// `GET`, `DELETE`, `POST …/cancel` and `GET …/input_items` of `/v1/responses/{id}`
    ResponseById,
    /// `GET /v1/models` and `GET /v1/models/{name}`
    Models,
    /// Any other path that the gateway lets through.
    Path,
}

impl Kind {
    /// Returns `true` if a model works for it: it has a cost, takes a permit, and may be queued.
    #[must_use]
    pub const fn has_demand(self) -> bool {
        !matches!(self, Self::Count | Self::ResponseById | Self::Models | Self::Path)
    }
}

/// The estimated cost of a request, and what else its head and body ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestCost {
    /// The kind of call.
    pub kind: Kind,
    /// The requested model, as the client wrote it. Never a metric label.
    pub model: Option<Arc<str>>,
    /// Estimated prompt tokens, over all prompts.
    pub prompt_tokens: u64,
    /// The client's own bound on output tokens per sequence.
    pub max_tokens: Option<u64>,
    /// Expected output tokens (ô of the contract) over all sequences: learned; at most the bound.
    pub expected_output: u64,
    /// Sequences that a worker decodes for this request: prompts × max(n, best_of). At least 1.
    pub sequences: u32,
    /// `true` if the client asked for a stream.
    pub stream: bool,
    /// Hash of the session's name and the caller.
    pub session: Option<u64>,
    /// Prefix of the prompt; `None` if no worker is chosen by it.
    pub prefix: Option<Arc<PromptPrefix>>,
    /// Bytes of body held in memory for this request.
    pub body_bytes: u64,
    /// When the client stops waiting for a worker.
    pub deadline: Option<Nanos>,
    /// `true` if a request that a worker may have begun can be retried before the first content.
    pub retryable: bool,
}

impl RequestCost {
    /// Returns the cost of a plain path: one request, one sequence, no tokens.
    #[must_use]
    pub const fn path() -> Self {
        Self {
            kind: Kind::Path,
            model: None,
            prompt_tokens: 0,
            max_tokens: None,
            expected_output: 0,
            sequences: 1,
            stream: false,
            session: None,
            prefix: None,
            body_bytes: 0,
            deadline: None,
            retryable: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_rank_and_parse() {
        assert!(Class::Critical > Class::Interactive && Class::Interactive > Class::Batch);
        for (index, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!((Class::parse(class.as_str()), class as usize), (Some(class), index));
        }
        assert_eq!(Class::parse("urgent"), None);
    }

    #[test]
    fn only_a_caller_with_the_right_uses_external_workers_and_never_for_batch() {
        for (external, class, may) in [
            (true, Class::Critical, true),
            (true, Class::Interactive, true),
            (true, Class::Batch, false),
            (false, Class::Critical, false),
        ] {
            let caller = Caller { external, class, ..Caller::new("key:a") };
            assert_eq!(caller.may_use_external(), may, "{external} {class}");
        }
    }
}
