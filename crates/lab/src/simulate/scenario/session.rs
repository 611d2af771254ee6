//! Conversations: requests whose prompts begin with the text of earlier ones.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ScenarioDuration, Spread};

/// Conversations of several turns. Arrivals are those of new conversations; each further turn
/// comes some time after the answer to the one before it.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// Mean number of turns.
    #[schemars(range(min = 1, max = 1000))]
    pub turns: f64,
    /// Mean time between an answer and the next turn: of a tool, or of a person who reads.
    pub gap: ScenarioDuration,
    /// Tokens that each further turn adds to the text so far.
    pub message: Spread,
    /// Tokens of a system prompt that many conversations have in common.
    pub system: u32,
    /// Share of the conversations that begin with it.
    #[schemars(range(min = 0, max = 1))]
    pub(crate) system_share: f64,
    /// Tokens of text at which a conversation ends.
    pub longest: u32,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            turns: 5.0,
            gap: ScenarioDuration::secs(5),
            message: Spread::log_normal(100.0, 0.8),
            system: 0,
            system_share: 1.0,
            longest: 16_384,
        }
    }
}
