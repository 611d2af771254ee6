//! What the gateway knows about one request: who asks, what it will cost, and how far it has come.
//!
//! Layers hand these on in the request's extensions: [`Caller`] from `identify`, [`Demand`] from `demand`, and the
//! [`Flight`] that `observe` opens and every later stage writes its own part of.

mod explaining;
mod flight;
mod forwarding;
mod own;
mod payload;
mod promise;
mod trace;

pub use explaining::Explaining;
pub use flight::{Asked, Blame, Ending, Flight};
pub use forwarding::{Beside, DecodedPath, Forwarding, Peer, RouteTimeouts, UpgradeTo, UsageInjected};
pub use own::{OwnLimit, OwnLimits};
pub use payload::{BodyRoom, Payload, PayloadError};
pub use promise::Promise;
pub use trace::{Trace, TraceId};

use std::fmt;
use std::sync::Arc;

use crate::clock::Nanos;

/// The priority of a request. The order is the rank: `Critical` is greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Work nobody waits for.
    Batch,
    /// A person waits.
    #[default]
    Interactive,
    /// Must be served before all else.
    Critical,
}

impl Class {
    /// Every class, lowest first; `class as usize` is the index.
    pub const ALL: [Self; 3] = [Self::Batch, Self::Interactive, Self::Critical];

    /// The name in configuration, headers and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Interactive => "interactive",
            Self::Critical => "critical",
        }
    }

    /// The class of that name.
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

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The namespaced identity: `key:team-a`, `hdr:42`, `ip:192.0.2.1`, `ip:2001:db8::/64`.
    pub id: Arc<str>,
    /// The team that it belongs to.
    pub team: Option<Arc<str>>,
    /// The class of this request: the caller's ceiling, or what the request lowered it to.
    pub class: Class,
    /// The caller's share of a contended pool relative to others; at least 1.
    pub weight: u32,
    /// What it may have more or less of than others.
    pub limits: Option<Arc<OwnLimits>>,
}

impl Caller {
    /// A caller of ordinary weight and class.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self { id: id.into(), team: None, class: Class::default(), weight: 1, limits: None }
    }
}

/// What kind of call this is: one of the OpenAI endpoints, or a path that only counts as one request.
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
    /// `GET /v1/models`, and one of them by its name
    Models,
    /// Any other path that the settings let through.
    Path,
}

impl Kind {
    /// Whether the body is read to learn the demand.
    #[must_use]
    pub const fn has_demand(self) -> bool {
        matches!(self, Self::Chat | Self::Completion | Self::Response | Self::Embedding)
    }
}

/// What a request will cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The kind of call.
    pub kind: Kind,
    /// The model asked for, as the client wrote it. Never a metric label.
    pub model: Option<Arc<str>>,
    /// Estimated prompt tokens, over all prompts.
    pub prompt_tokens: u64,
    /// The client's own bound on output tokens per sequence.
    pub max_tokens: Option<u64>,
    /// Expected output tokens over all sequences (ô of the contract): learned, never above the client's bound.
    pub expected_output: u64,
    /// Sequences a worker decodes for this request: prompts × max(n, best_of). At least 1.
    pub sequences: u32,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// The session, as a keyed hash together with the caller.
    pub session: Option<u64>,
    /// Bytes of body held in memory for this request.
    pub body_bytes: u64,
    /// When the client will no longer wait for a worker.
    pub deadline: Option<Nanos>,
    /// Whether a request that a worker may have begun can be sent to another one (before the first content).
    pub retryable: bool,
}

impl Demand {
    /// The demand of a plain path: one request, one sequence, no tokens.
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
}
