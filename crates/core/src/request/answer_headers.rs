//! Which names of the inside an answer tells.

use serde::{Deserialize, Serialize};

/// Headers that name the inside to callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AnswerHeaders {
    /// `x-traffic-dam-model`: the name under which the worker serves the model.
    pub model: bool,
    /// `x-traffic-dam-worker`: the worker whose answer begins. If the answer was begun before its
    /// first token, another worker may have finished it: the log names that one.
    pub worker: bool,
}
