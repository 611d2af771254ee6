//! The cost of a request, read from its body in one pass and in place.
//!
//! Strict where a decision depends on it: a duplicate member may mean one thing to the gateway and
//! another to a worker, so it is an error, as is a bound that is not a whole number. The rest of
//! the body passes as it is, known or not. Errors name member and position and never quote the
//! body.

mod fault;
mod follow;
mod media;
mod names;
mod needs;
mod read;
mod scalar;
mod shape;
mod splice;
mod start;
mod text;

pub use fault::BodyFieldError;
pub use media::MediaUrls;
pub(crate) use needs::StartNeeds;
pub use shape::{Pointer, PointerError, Shape};
pub use splice::{ModelText, SplicedBody, spliced};
pub(crate) use start::{BodyStart, parse_start};
pub(crate) use text::PromptPart;

use std::ops::Range;
use std::sync::Arc;

use splice::Splice;

use crate::request::Kind;

/// Greatest `n`, `best_of` or `n_cmpl` (sequences per prompt): the bound of the OpenAI API.
const MAX_N: u64 = 128;
/// Prompts per request. Workers allow some thousands (OpenAI: 2048 embeddings).
const MAX_PROMPTS: u64 = 65_536;
/// Greatest accepted bound on output tokens; no model has such a context.
const MAX_OUTPUT_TOKENS: u64 = u32::MAX as u64;
/// Longest model name, in bytes: it becomes part of keys.
pub(super) const MAX_MODEL_BYTES: u64 = 256;
/// Media in a request.
const MAX_MEDIA_PARTS: u64 = 16;
/// Longest session name, in bytes.
const MAX_SESSION_BYTES: u64 = 1024;
/// Longest id of an earlier response, in bytes.
pub(super) const MAX_RESPONSE_ID_BYTES: u64 = 256;

/// Facts in a body that decide its cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The kind of call.
    pub kind: Kind,
    /// Requested model.
    pub model: Option<Arc<str>>,
    /// Bytes of prompt text over all prompts: decoded text of messages or inputs, and tool
    /// definitions as JSON. Known roles and types, a bounded number of ids, and media are excluded.
    pub prompt_bytes: u64,
    /// Prompt tokens given as token ids, over all prompts.
    pub prompt_tokens: u64,
    /// Pictures in the prompts.
    pub pictures: u64,
    /// Bytes of sound and video in the prompts.
    pub sound_bytes: u64,
    /// Number of prompts: 1, except for arrays in completions and embeddings.
    pub prompts: u32,
    /// The client's bound on output tokens per sequence: the greatest if it gives several.
    pub max_tokens: Option<u64>,
    /// `true` if the client asks for no bound (-1 or -2, as in llama.cpp and LM Studio).
    pub unbounded: bool,
    /// Sequences to decode: prompts × max(`n`, `best_of`, `n_cmpl`).
    pub sequences: u32,
    /// `true` if a stream is requested.
    pub stream: bool,
    /// `true` if the client itself requested the usage of a stream.
    pub(crate) include_usage: bool,
    /// `true` if the worker keeps the response, so the request must not run twice. Default for
    /// responses, as in the OpenAI API.
    pub store: bool,
    /// Session name as written in the body.
    pub session: Option<Box<str>>,
    /// The request's own `cache_salt`, as JSON: prompts with different ones share no cache.
    pub(crate) cache_salt: Option<Box<str>>,
    /// The earlier response that this one continues (`previous_response_id` of Responses).
    pub previous: Option<Box<str>>,
    /// Where the model's name is, as a JSON string.
    model_at: Option<Range<usize>>,
    splice: Option<Splice>,
}

impl Facts {
    /// Returns `true` if the stream would have no usage and [`spliced`] can add it.
    ///
    /// Only for chat and completion streams on their own endpoints: a Responses stream always has
    /// usage, and a configured route's body may not know `stream_options`.
    #[must_use]
    pub(crate) const fn lacks_usage(&self) -> bool {
        self.splice.is_some()
    }
}

/// Reads a body. Copies only the names of model and session, and the cache's salt.
///
/// # Errors
/// If the body is not UTF-8, not JSON (of fewer than 128 levels), not an object, or has a member
/// that the gateway reads twice, of a wrong type or out of bounds.
pub fn parse(shape: &Shape, body: &[u8]) -> Result<Facts, BodyFieldError> {
    read::parse(shape, body, None)
}

/// Passes the text that [`Facts::prompt_bytes`] counts to `hear`, string by string, unescaped.
///
/// A separate pass: whether the text is needed depends on the model, which may follow the text. So
/// nothing has to be kept in the first pass.
///
/// # Errors
/// As [`parse`]: never for a body that it has read.
pub(crate) fn prompt_text(
    shape: &Shape,
    body: &[u8],
    hear: &mut dyn FnMut(&str),
) -> Result<(), BodyFieldError> {
    prompt_parts(shape, body, &mut |_, text| hear(text))
}

/// As [`prompt_text`], with the part of the prompt to which each string belongs.
///
/// # Errors
/// As [`parse`]: never for a body that it has read.
pub(crate) fn prompt_parts(
    shape: &Shape,
    body: &[u8],
    hear: &mut dyn FnMut(PromptPart, &str),
) -> Result<(), BodyFieldError> {
    match read::parse(shape, body, Some(&mut *hear)) {
        // Of a body that is streamed, only the beginning is here, which may end within a letter.
        Ok(_) | Err(BodyFieldError::Unfinished) => Ok(()),
        Err(BodyFieldError::NotUtf8 { at }) if at > 0 => {
            prompt_parts(shape, body.get(..at).unwrap_or_default(), hear)
        }
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
mod tests;
