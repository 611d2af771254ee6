//! The blocks of a request's prompt, for the prefix cache.

use std::sync::Arc;

use super::ask::SimEndpoint;
use crate::openai::body::{Shape, parse, prompt_text};
use crate::request::Kind;
use crate::shed::PrefixHasher;

impl SimEndpoint {
    const fn kind(self) -> Kind {
        match self {
            Self::Chat => Kind::Chat,
            Self::Completion => Kind::Completion,
            Self::Response => Kind::Response,
            Self::Embedding => Kind::Embedding,
            Self::Messages => Kind::Messages,
            Self::Rerank => Kind::Rerank,
        }
    }
}

/// Returns ids of the blocks of a body's prompt; none if it is short or has several prompts. As in
/// an engine, prompts of different models or salts have no block in common.
pub(super) fn prompt_blocks(form: SimEndpoint, body: &[u8]) -> Arc<[u64]> {
    let shape = Shape::of_kind(form.kind());
    let Some(facts) = parse(&shape, body).ok().filter(|facts| facts.prompts <= 1) else { return [].into() };
    let [model, salt] = [facts.model.as_deref(), facts.cache_salt.as_deref()].map(Option::unwrap_or_default);
    let mut chain = PrefixHasher::new(&[0; 16]).chain(&[model.as_bytes(), salt.as_bytes()]);
    let heard = prompt_text(&shape, body, &mut |text| {
        chain.text(text.as_bytes());
        chain.text(&[0xff]);
    });
    heard.ok().and_then(|()| chain.finish()).map_or([].into(), |prefix| prefix.blocks.into())
}
