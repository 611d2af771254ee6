//! The kinds of calls: one table, with a file for each row.
//!
//! A row says on which paths a kind is called, which members of its body are prompt, how its answer
//! begins, in which API's words it is refused, and whether it takes a permit. All layers read it
//! here. A new kind is a file with its `ROW`, its line in `TABLE`, and its name in
//! [`Kind`].
//!
//! Usage needs no column: the observers in [`tap`](super::tap) read all formats in use. Each file
//! says where its kind reports it, and its tests show that it is found.

mod audio;
mod chat;
mod completion;
mod count;
mod embedding;
mod images;
mod letter_case;
mod member;
mod messages;
mod models;
mod path;
mod rerank;
mod response;
mod response_by_id;

pub(in crate::openai) use letter_case::folded;
pub(in crate::openai) use member::BodyMember;

use std::time::Duration;

use http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dialect::Dialect;
use super::error::StreamFormat;
use crate::request::Kind;

/// Number of kinds.
pub(crate) const COUNT: usize = 12;

/// All kinds, in the order of [`Kind`].
pub(crate) static TABLE: [KindRow; COUNT] = [
    chat::ROW,
    completion::ROW,
    response::ROW,
    embedding::ROW,
    messages::ROW,
    count::ROW,
    rerank::ROW,
    images::ROW,
    audio::ROW,
    response_by_id::ROW,
    models::ROW,
    path::ROW,
];

/// Returns what a kind is.
#[must_use]
pub(crate) fn row(kind: Kind) -> &'static KindRow {
    &TABLE[kind as usize]
}

/// The properties of a kind.
#[derive(Debug)]
pub(crate) struct KindRow {
    /// The kind.
    pub kind: Kind,
    /// Its name in the setting `kinds`; `None` if it is always served.
    pub optional: Option<OptionalKind>,
    /// Methods and paths. In a path, `*` is any run of characters.
    pub endpoints: &'static [(Method, &'static str)],
    /// What the gateway does with its body.
    pub body: BodyUse,
    /// Setting that bounds the size of its bodies.
    pub bound: &'static str,
    pub(in crate::openai) prompt: &'static [(BodyMember, CountedAs)],
    /// `true` if the cost of a large body can be read from its beginning: it has one prompt, and no later
    /// member decides on the worker.
    pub cost_from_start: bool,
    /// The sequences that a call decodes.
    pub output: Output,
    /// `true` if the worker keeps the answer unless `store` is false: such a call must not run twice.
    pub stores: bool,
    /// `true` if an answer that is neither events nor JSON begins with its first byte.
    pub begins_with_first_byte: bool,
    /// `true` if every whole answer is a JSON object.
    pub answers_object: bool,
    /// In whose words it is refused.
    pub dialect: Dialect,
    /// Format of its events, until the events themselves show it.
    pub events: StreamFormat,
    /// Bounds of a call that takes no permit; `None` if it takes one, or is no call of a worker.
    pub beside: Option<BesideBounds>,
}

impl KindRow {
    /// A model call with a body in JSON and one answer, in the words of the OpenAI API.
    const CALL: Self = Self {
        kind: Kind::Path,
        optional: None,
        endpoints: &[],
        body: BodyUse::Json,
        bound: "bounds.body",
        prompt: &[],
        cost_from_start: false,
        output: Output::One,
        stores: false,
        begins_with_first_byte: false,
        answers_object: false,
        dialect: Dialect::OpenAi,
        events: StreamFormat::Bare,
        beside: None,
    };

    /// Returns `true` if a call names its model, in a body that the gateway reads.
    #[must_use]
    pub(crate) fn names_model(&self) -> bool {
        self.body != BodyUse::Passed
    }

    /// Returns how a member counts; `None` if it is no prompt.
    pub(in crate::openai) fn counts(&self, member: BodyMember) -> Option<CountedAs> {
        self.prompt.iter().find(|(counted, _)| *counted == member).map(|(_, how)| *how)
    }

    /// Returns the member that holds separate prompts, if one does.
    pub(in crate::openai) fn prompts(&self) -> Option<BodyMember> {
        self.prompt.iter().find(|(_, how)| *how == CountedAs::Prompts).map(|(member, _)| *member)
    }
}

/// What the gateway does with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyUse {
    /// Passes it on as it arrives.
    Passed,
    /// Reads it whole, as JSON.
    Json,
    /// Reads JSON; of a form, which may hold a file, it reads the model and passes the rest on.
    JsonOrForm,
}

/// How a member of a body counts towards the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::openai) enum CountedAs {
    Text,
    /// All text in it; it must be an array.
    Array,
    /// All text in it; it must be a string or an array.
    StringOrArray,
    /// As written: the model reads it as JSON.
    Json,
    /// As [`CountedAs::Json`], except for a picture that a tool works on.
    Tools,
    /// Each element as a prompt of its own; it must be a string or an array.
    Prompts,
}

/// The sequences that a call decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// `n` or `best_of` sequences for each prompt; streams report usage only if asked.
    Choices,
    /// One sequence; streams report usage by themselves.
    One,
    /// No tokens, or none that can be foreseen.
    Nothing,
}

/// Bounds of calls that take no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BesideBounds {
    /// Calls at once per worker.
    pub per_worker: u32,
    /// Maximum size of a body in bytes, unless the settings say otherwise.
    pub body: u64,
    /// Maximum time of a call.
    pub total: Duration,
}

/// A kind that is served only if the setting `kinds` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptionalKind {
    /// `/v1/messages`, Anthropic's Messages API
    Messages,
    /// `/v1/messages/count_tokens`, `/tokenize`, `/detokenize`
    Count,
    /// `/v1/rerank`, `/rerank`, `/v2/rerank`, `/v1/score`, `/score`, `/pooling`, `/classify`
    Rerank,
    /// `/v1/images/generations` and `edits`
    Images,
    /// `/v1/audio/speech`, `transcriptions` and `translations`
    Audio,
    /// `GET` and `DELETE /v1/responses/{id}`, `POST …/cancel`, `GET …/input_items`
    ResponsesById,
}

#[cfg(test)]
mod tests;
