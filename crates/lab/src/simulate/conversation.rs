//! The turns of simulated conversations.
//!
//! Each conversation draws from its own seed. So its turns are the same whatever happens to other
//! conversations, and however long the gateway and the workers take.

use std::sync::Arc;

use fastrand::Rng;

use super::scenario::{RequestShape, Sessions};
use crate::draw::gap;
use crate::engine::BLOCK_TOKENS;
use traffic_dam_core::clock::Nanos;

#[derive(Clone, Debug)]
pub(super) struct Conversation {
    random: Rng,
    /// Identifies its own text.
    id: u64,
    /// Tokens of the common system prompt with which it begins.
    system: u64,
    /// Number of the turn, from zero.
    pub(super) turn: u32,
}

impl Conversation {
    /// Begins a conversation; draws equally often from `random` whatever it becomes.
    pub(super) fn begin(sessions: &Sessions, random: &mut Rng) -> Self {
        let mut own = Rng::with_seed(random.u64(..));
        let common = own.f64() < sessions.system_share;
        let id = own.u64(..) | 1;
        Self { random: own, id, system: if common { u64::from(sessions.system) } else { 0 }, turn: 0 }
    }

    /// Returns the tokens of the system prompt in front of the first message. Those that do not
    /// share it have one of their own, of the same length.
    pub(super) fn head(sessions: &Sessions) -> u64 {
        u64::from(sessions.system)
    }

    /// Returns the ids of the blocks of its first `tokens` tokens.
    pub(super) fn blocks(&self, tokens: u64) -> Arc<[u64]> {
        let block = |place: u64| {
            let common = (place + 1) * BLOCK_TOKENS <= self.system;
            let text = if common { 0 } else { self.id };
            (text ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        (0..tokens / BLOCK_TOKENS).map(block).collect()
    }

    /// Returns the turn after one whose text, answer included, had `tokens`; `None` if there is none.
    pub(super) fn next(&self, tokens: u64, shape: &RequestShape, stretch: f64) -> Option<ConversationTurn> {
        let sessions = shape.session.as_ref()?;
        let mut conversation = self.clone();
        let random = &mut conversation.random;
        let goes_on = random.f64() < 1.0 - 1.0 / sessions.turns;
        let pause = gap(1.0 / sessions.gap.0.as_secs_f64().max(1e-3), random);
        let message = u64::from(sessions.message.draw(1.0, random));
        let most = shape.max_tokens.unwrap_or(u32::MAX);
        let output = shape.output.draw(stretch, random).min(most);
        let prompt = tokens + message;
        if !goes_on || prompt + u64::from(output) > u64::from(sessions.longest) {
            return None;
        }
        conversation.turn += 1;
        Some(ConversationTurn { conversation, prompt, output, pause: Nanos((pause * 1e9) as u64) })
    }
}

/// A later turn of a conversation.
#[derive(Debug)]
pub(super) struct ConversationTurn {
    pub(super) conversation: Conversation,
    /// Tokens of the prompt: all text before, and the new message.
    pub(super) prompt: u64,
    pub(super) output: u32,
    /// Time until it comes.
    pub(super) pause: Nanos,
}

#[cfg(test)]
mod tests {
    use super::super::Scenario;
    use super::super::offered::{OfferedCallers, OfferedRequest};
    use serde_json::{Value, json};

    use super::*;

    fn scenario(value: Value) -> Scenario {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_turn_begins_with_the_whole_text_before_it() {
        let session = json!({ "turns": 1000.0, "system": 1024, "system_share": 0.5 });
        let scenario = scenario(json!({ "requests": { "prompt": 300, "session": session } }));
        let people = OfferedCallers::of(&scenario);
        let mut random = Rng::with_seed(3);
        let firsts: Vec<_> = (0..40).map(|_| people.draw(&scenario, 1.0, &mut random)).collect();
        let shared = |one: &OfferedRequest, other: &OfferedRequest| {
            one.blocks.iter().zip(&*other.blocks).take_while(|(one, other)| one == other).count()
        };
        for first in &firsts {
            assert_eq!(first.prompt, 1324, "the system prompt and the message");
            let (second, _) = first.next_turn(&scenario.requests, 1.0).unwrap();
            assert!(second.prompt > first.prompt + first.output());
            assert_eq!(shared(first, &second), first.blocks.len(), "answers are part of the text");
        }
        let alike = |first: &OfferedRequest| firsts.iter().filter(|other| shared(first, other) == 16).count();
        let common = firsts.iter().filter(|first| alike(first) > 5).count();
        assert!((10..30).contains(&common), "{common}");
    }

    #[test]
    fn conversations_have_the_turns_they_are_given() {
        let session = json!({ "turns": 4.0, "message": 10 });
        let scenario = scenario(json!({ "requests": { "prompt": 10, "output": 5, "session": session } }));
        let people = OfferedCallers::of(&scenario);
        let mut random = Rng::with_seed(3);
        let mut turns = 0;
        for _ in 0..2000 {
            let mut turn = people.draw(&scenario, 1.0, &mut random);
            turns += 1;
            while let Some((next, _)) = turn.next_turn(&scenario.requests, 1.0) {
                turn = next;
                turns += 1;
            }
        }
        assert!((7600..8400).contains(&turns), "{turns}");
    }
}
