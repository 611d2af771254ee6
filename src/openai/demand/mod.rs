//! What a request will cost, read from its body in one pass and in place.
//!
//! Strict where a decision hangs on it: a member given twice means one thing to the gateway and another to a worker,
//! so that is a fault, as is a bound that is no whole number. Everything else in the body is the worker's business and
//! passes as it is, known to us or not. A fault names the member and the position and never quotes the body.

mod fault;
mod member;
mod read;
mod scalar;
mod shape;
mod splice;
mod text;

pub use fault::Fault;
pub use shape::{Pointer, PointerFault, Shape};
pub use splice::with_include_usage;

use std::sync::Arc;

use splice::Splice;

use crate::request::Kind;

/// The most sequences of one prompt (`n`, `best_of`): the bound of the OpenAI API.
pub const MAX_N: u64 = 128;
/// The most prompts in one request. Workers allow some thousands (OpenAI: 2048 embeddings).
pub const MAX_PROMPTS: u64 = 65_536;
/// The greatest bound on output tokens that is taken as meant; no model has such a context.
pub const MAX_OUTPUT_TOKENS: u64 = u32::MAX as u64;
/// The longest name of a model, in bytes. It becomes part of keys.
pub const MAX_MODEL_BYTES: u64 = 256;
/// The longest name of a session, in bytes.
pub const MAX_SESSION_BYTES: u64 = 1024;

/// What a body says about its cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The kind of call.
    pub kind: Kind,
    /// The model asked for.
    pub model: Option<Arc<str>>,
    /// Bytes of prompt text over all prompts: decoded text of messages or inputs, and tool definitions as JSON.
    /// Ids, names of roles and media are left out.
    pub prompt_bytes: u64,
    /// Prompt tokens that were given as token ids, over all prompts.
    pub prompt_tokens: u64,
    /// Prompts: 1 but for arrays in completions and embeddings.
    pub prompts: u32,
    /// The client's bound on output tokens per sequence: the greatest, when it gives several.
    pub max_tokens: Option<u64>,
    /// Whether the client says in so many words that there is no bound (-1, as llama.cpp and LM Studio read it).
    pub unbounded: bool,
    /// Sequences to be decoded: prompts × max(n, best_of).
    pub sequences: u32,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// Whether the client itself asked for the usage of a stream.
    pub include_usage: bool,
    /// Whether the worker is to keep the answer: then the request must not run twice. True by default for responses,
    /// as in the OpenAI API.
    pub store: bool,
    /// The session's name, as it stands in the body.
    pub session: Option<Box<str>>,
    splice: Option<Splice>,
}

impl Facts {
    /// Whether the stream would come without usage, and [`with_include_usage`] can change that.
    ///
    /// Only chat and completion streams on their own endpoints: a Responses stream always has its usage, and a
    /// configured route's body may not know `stream_options`.
    #[must_use]
    pub const fn lacks_usage(&self) -> bool {
        self.splice.is_some()
    }
}

/// Reads a body. Nothing of it is copied but the names of model and session.
///
/// # Errors
/// When the body is no UTF-8, no JSON (of fewer than 128 levels), no object, or has one of the members that decide
/// twice, with a wrong type or out of bounds.
pub fn parse(shape: &Shape, body: &[u8]) -> Result<Facts, Fault> {
    read::parse(shape, body, None)
}

/// Hands the text that [`Facts::prompt_bytes`] counts to `hear`, string by string, without escapes.
///
/// A pass of its own: whose text is wanted depends on the model, which may stand behind the text, and nothing has to be
/// kept on the way.
///
/// # Errors
/// Those of [`parse`]: never for a body that it has read.
pub fn prompt_text(shape: &Shape, body: &[u8], hear: &mut dyn FnMut(&str)) -> Result<(), Fault> {
    read::parse(shape, body, Some(hear)).map(drop)
}

#[cfg(test)]
mod tests;
