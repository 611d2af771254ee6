//! Names, fallbacks and properties of models.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::syntax::{FilePath, Glob, Text, Word};
use crate::models::FallbackReason;

/// Properties of the models that match a pattern. The first entry that matches the name in a request
/// holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelSection {
    /// Pattern for model names, as requests give them.
    pub model: Text<Glob>,
    /// The models' `tokenizer.json`, as on Hugging Face. Prompts are counted with it instead of
    /// estimated from their length.
    #[schemars(extend("x-default" = "none: estimated"))]
    pub tokenizer: Option<Text<FilePath>>,
    /// Prompt tokens of a picture.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-default" = "765"))]
    pub image_tokens: Option<u64>,
    /// Name under which workers serve the model, if it is another one: `model` is then an alias. Of
    /// several names with weights each gets a share of the sessions, or of the callers that name no
    /// session. These names are not looked up in `models` again. The answer names the model as the
    /// worker does.
    #[schemars(extend("x-default" = "the name in the request"))]
    pub serve: Option<ServeSection>,
    /// Models that take over, in this order, if the model cannot serve a request. A model that takes
    /// over is looked up in `models` too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub fallback: Vec<FallbackSection>,
}

/// Names under which workers serve a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum ServeSection {
    /// A name.
    One(Text<Word>),
    /// Names with their shares.
    Shares(#[schemars(length(min = 1, max = 16))] Vec<ShareSection>),
}

/// One of several names of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShareSection {
    /// Name under which workers serve the model.
    pub model: Text<Word>,
    /// Its part of the sessions, relative to the sum of the weights.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
}

const fn one() -> u32 {
    1
}

/// A model that takes over. It gets a request only before the first token, never a request with
/// `previous_response_id`, and none that a worker answered with 4xx other than 429. The request keeps
/// its time limits, and is charged once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FallbackSection {
    /// Name of the model, as a request would give it.
    pub model: Text<Word>,
    /// Reasons for which it takes over.
    #[serde(default = "every_reason")]
    #[schemars(length(min = 1, max = 3))]
    pub on: Vec<FallbackReason>,
    /// Maximum share of the requests of the last minute for `models[].model` that it may take, from 0
    /// to 1.
    #[serde(default = "all")]
    #[schemars(range(min = 0, max = 1))]
    pub share: f64,
}

fn every_reason() -> Vec<FallbackReason> {
    FallbackReason::ALL.to_vec()
}

const fn all() -> f64 {
    1.0
}
