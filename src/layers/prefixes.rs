//! Hashes the prompts whose worker is chosen by what it has cached.
//!
//! Only prompts of at least [`LEAST_BLOCKS`] blocks for pools of several workers are hashed: for
//! all others there is no choice, and a request costs no more than without prefixes.

use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::openai::body::{Facts, PromptPart, Shape, prompt_parts};
use crate::openai::kinds::{self, Output};
use crate::request::{BLOCK_BYTES, Caller, PromptPrefix};
use crate::shed::{LEAST_BLOCKS, MOST_BLOCKS, PrefixHasher};

/// Bytes of text that are hashed at most.
const MOST_BYTES: usize = MOST_BLOCKS * BLOCK_BYTES as usize;
/// Bytes of text below which a prompt has no prefix.
const LEAST_BYTES: u64 = LEAST_BLOCKS as u64 * BLOCK_BYTES;

/// Whose prompts share what a worker has cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrefixShare {
    /// each caller's alone
    Caller,
    /// those of a team; a caller without a team is alone
    #[default]
    Team,
    /// everybody's
    All,
}

/// Hashes prompts for the choice of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Prefixes {
    hasher: PrefixHasher,
    share: PrefixShare,
    fleet: Arc<ArcSwap<Fleet>>,
}

/// Key of a gateway that has none in its settings. The same for as long as the process lives: after
/// a reload the prompts that workers have are still known.
static OWN_KEY: LazyLock<[u8; 16]> = LazyLock::new(|| {
    // The standard library's keys are random and never shown.
    let random = std::hash::RandomState::new();
    let mut key = [0; 16];
    for (number, half) in key.chunks_exact_mut(8).enumerate() {
        half.copy_from_slice(&random.hash_one(number).to_ne_bytes());
    }
    key
});

impl Prefixes {
    /// Hashes prompts for the workers of `fleet`; with `key`, all gateways that have it agree.
    #[must_use]
    pub(crate) fn new(key: Option<[u8; 16]>, share: PrefixShare, fleet: Arc<ArcSwap<Fleet>>) -> Self {
        Self { hasher: PrefixHasher::new(key.as_ref().unwrap_or(&OWN_KEY)), share, fleet }
    }

    /// Returns the prefix of a body's prompt; `None` if it cannot change the choice of a worker.
    #[must_use]
    pub(crate) fn of(
        &self,
        shape: &Shape,
        facts: &Facts,
        body: &[u8],
        caller: Option<&Caller>,
    ) -> Option<Arc<PromptPrefix>> {
        let decodes = kinds::row(facts.kind).output != Output::Nothing;
        if facts.prompt_bytes < LEAST_BYTES || facts.prompts > 1 || !decodes {
            return None;
        }
        let model = facts.model.as_deref();
        let choice = self
            .fleet
            .load()
            .route(model)
            .is_some_and(|pool| pool.workers.iter().filter(|worker| worker.eligible).take(2).count() > 1);
        choice.then(|| self.hash(shape, facts, body, caller)).flatten().map(Arc::new)
    }

    fn hash(
        &self,
        shape: &Shape,
        facts: &Facts,
        body: &[u8],
        caller: Option<&Caller>,
    ) -> Option<PromptPrefix> {
        // In the order in which chat templates give them to the model, whatever that of the body.
        let mut parts: [Vec<u8>; PromptPart::COUNT] = Default::default();
        if let Some(text) = parts.get_mut(PromptPart::Text as usize) {
            let length = usize::try_from(facts.prompt_bytes).unwrap_or(MOST_BYTES);
            text.reserve(length.min(MOST_BYTES));
        }
        let mut total = 0_u64;
        let mut hear = |part: PromptPart, text: &str| {
            total += text.len() as u64 + 1;
            let Some(kept) = parts.get_mut(part as usize) else { return };
            if kept.len() < MOST_BYTES {
                kept.extend_from_slice(text.as_bytes());
                // No text has this byte, so two texts are never taken for one.
                kept.push(0xff);
            }
        };
        prompt_parts(shape, body, &mut hear).ok()?;
        let kind = [facts.kind as u8];
        let scope = match (self.share, caller) {
            (PrefixShare::All, _) | (_, None) => ["all", ""],
            (PrefixShare::Team, Some(Caller { team: Some(team), .. })) => ["team", team],
            (PrefixShare::Team | PrefixShare::Caller, Some(caller)) => ["caller", &caller.id],
        };
        let [scope, id] = scope.map(str::as_bytes);
        let salt = facts.cache_salt.as_deref().unwrap_or_default().as_bytes();
        let model = facts.model.as_deref().unwrap_or_default().as_bytes();
        let mut chain = self.hasher.chain(&[scope, id, salt, &kind, model]);
        parts.iter().for_each(|part| chain.text(part));
        let mut prefix = chain.finish()?;
        prefix.bytes = prefix.bytes.max(total);
        Some(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::fleet::spec::WorkerSpec;
    use crate::openai::body::parse;
    use crate::request::Kind;
    use crate::shed::settings::GateSettings;
    use serde_json::{Value, json};

    fn prefixes(share: PrefixShare, workers: usize) -> Prefixes {
        let spec = |id| WorkerSpec {
            id: Arc::from(format!("w{id}")),
            url: "http://127.0.0.1:9".parse().unwrap(),
            pool: "p".into(),
            model: "*".into(),
            slots: None,
            kv_tokens: None,
            colour: "blue".into(),
            headers: http::HeaderMap::new(),
            external: None,
            address: None,
            http2: None,
        };
        let specs = (0..workers).map(spec).collect();
        let fleet = Fleet::new(specs, GateSettings::default(), None, Clock::system());
        Prefixes::new(None, share, Arc::new(ArcSwap::from_pointee(fleet)))
    }

    fn caller(id: &str, team: Option<&str>) -> Caller {
        Caller { team: team.map(Arc::from), ..Caller::new(id) }
    }

    fn of(prefixes: &Prefixes, body: &Value, caller: &Caller) -> Option<Arc<PromptPrefix>> {
        let shape = Shape::of_kind(Kind::Chat);
        let body = serde_json::to_vec(body).unwrap();
        prefixes.of(&shape, &parse(&shape, &body).unwrap(), &body, Some(caller))
    }

    /// Returns the number of first blocks that two prompts share.
    fn shared(one: &PromptPrefix, other: &PromptPrefix) -> usize {
        one.blocks.iter().zip(&other.blocks).take_while(|(one, other)| one == other).count()
    }

    fn turn(messages: &[&str]) -> Value {
        let message = |(place, text): (usize, &&str)| json!({"role": if place % 2 == 0 { "user" } else { "assistant" }, "content": text});
        json!({"model": "m", "messages": messages.iter().enumerate().map(message).collect::<Vec<_>>()})
    }

    #[test]
    fn a_turn_has_the_blocks_of_the_turn_before_it() {
        let (all, ann) = (prefixes(PrefixShare::All, 2), caller("key:ann", None));
        let (first, answer) = ("a".repeat(3000), "b".repeat(1000));
        let one = of(&all, &turn(&[&first]), &ann).unwrap();
        let two = of(&all, &turn(&[&first, &answer, "and then?"]), &ann).unwrap();
        assert_eq!((one.blocks.len(), shared(&one, &two)), (11, 11));
        assert_eq!(two.bytes, 3000 + 1000 + 9 + 3, "each text and its end");
    }

    #[test]
    fn tools_come_first_wherever_the_body_has_them() {
        let (all, ann) = (prefixes(PrefixShare::All, 2), caller("key:ann", None));
        let tools = json!([{"type": "function", "function": {"name": "f", "description": "d".repeat(2000)}}]);
        let with = |text: &str| json!({"messages": [{"role": "user", "content": text}], "tools": tools});
        let one = of(&all, &with("one"), &ann).unwrap();
        let other = of(&all, &with("another question"), &ann).unwrap();
        assert!(shared(&one, &other) >= 7, "{}", shared(&one, &other));
        let before = json!({"tools": tools, "messages": [{"role": "user", "content": "one"}]});
        assert_eq!(of(&all, &before, &ann), Some(one));
    }

    #[test]
    fn only_those_who_share_have_blocks_in_common() {
        let body = turn(&[&"x".repeat(2000)]);
        let salted = |salt: Value| {
            let mut body = body.clone();
            body["cache_salt"] = salt;
            body
        };
        let (ann, bob) = (caller("key:ann", Some("red")), caller("key:bob", Some("red")));
        let (eve, fay) = (caller("key:eve", None), caller("key:fay", None));
        for (share, one, other, same) in [
            (PrefixShare::Caller, &ann, &ann, true),
            (PrefixShare::Caller, &ann, &bob, false),
            (PrefixShare::Team, &ann, &bob, true),
            (PrefixShare::Team, &ann, &eve, false),
            (PrefixShare::Team, &eve, &fay, false),
            (PrefixShare::All, &ann, &eve, true),
        ] {
            let prefixes = prefixes(share, 2);
            let common = shared(&of(&prefixes, &body, one).unwrap(), &of(&prefixes, &body, other).unwrap());
            assert_eq!(common > 0, same, "{share:?} {} {}", one.id, other.id);
            let salts = [salted(json!("a")), salted(json!("b")), body.clone(), salted(json!("a"))];
            let [a, b, none, again] = salts.map(|body| of(&prefixes, &body, one).unwrap());
            assert_eq!((shared(&a, &b), shared(&a, &none), shared(&a, &again)), (0, 0, 7));
        }
        let (mut other, all) = (body.clone(), prefixes(PrefixShare::All, 2));
        other["model"] = json!("another");
        assert_eq!(shared(&of(&all, &body, &ann).unwrap(), &of(&all, &other, &ann).unwrap()), 0);
    }

    #[test]
    fn what_has_no_choice_is_not_hashed() {
        let ann = caller("key:ann", None);
        let long = turn(&[&"x".repeat(2000)]);
        assert_eq!(of(&prefixes(PrefixShare::All, 1), &long, &ann), None, "one worker");
        assert_eq!(of(&prefixes(PrefixShare::All, 2), &turn(&[&"x".repeat(1000)]), &ann), None, "short");
        let shape = Shape::of_kind(Kind::Completion);
        for prompt in [json!(["x".repeat(2000), "y".repeat(2000)]), json!(vec![1; 2000])] {
            let body = serde_json::to_vec(&json!({"prompt": prompt})).unwrap();
            let facts = parse(&shape, &body).unwrap();
            assert_eq!(prefixes(PrefixShare::All, 2).of(&shape, &facts, &body, Some(&ann)), None);
        }
    }
}
