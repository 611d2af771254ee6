//! Estimates of prompt and output tokens, corrected by the usage that workers report.
//!
//! A tokenizer is used only if configured: it must be the worker's own, per model, and costs more
//! than the rest of an admission. Bytes divided by a constant are wrong by a steady factor per
//! model, which can be learned. So can the tokens that a chat template adds to a tokenizer's count:
//! another factor. The remaining error is settled against the worker's usage, so a wrong estimate
//! misplaces a reservation for the length of one request and loses nothing.

use std::hash::{BuildHasher, RandomState};

use crate::glob::Glob;
use crate::table::Table;

/// Bytes of prompt text per token before anything is learned; English prose has about four.
pub const BYTES_PER_TOKEN: f64 = 4.0;
/// Prompt tokens of a picture if nothing is configured: what a reader of tiles takes for a common size.
pub(crate) const PICTURE_TOKENS: u64 = 765;
/// Output tokens expected for an unknown caller and model.
pub const UNKNOWN_OUTPUT: u64 = 256;
/// Responses needed before the learned length is used.
pub(crate) const LENGTH_SAMPLES: u32 = 10;

/// Weight of a new response in the learned length.
const LENGTH_ALPHA: f64 = 0.01;
/// Weight of a new prompt in the learned factor.
const FACTOR_ALPHA: f64 = 0.05;
/// Prior of the factor: prompts of this many tokens that were estimated exactly.
const FACTOR_PRIOR: f64 = 1000.0;
/// Bound of the factor: 1/8 to 8. Factors beyond come from media, or from a caller who skews it.
const FACTOR_RANGE: f64 = 8.0;
/// Callers and models whose output length is kept: at least the latest this many, at most twice as
/// many (some 4 MB).
const LENGTHS: usize = 65_536;
/// Models whose factor is kept, as for [`LENGTHS`]; two factors if its text is also tokenized.
const MODELS: usize = 1024;

/// Prompt tokens of media, which do not depend on text.
#[derive(Debug)]
pub struct MediaTokens {
    /// Tokens of a picture by model; the first pattern that matches applies.
    pub pictures: Vec<(Glob, Option<u64>)>,
    /// Bytes of sound or video that are taken for one token; at least 1.
    pub bytes_per_token: u64,
}

impl MediaTokens {
    /// Returns the tokens of media for `model`: of pictures, and of sound or video.
    #[must_use]
    pub fn of(&self, model: &str, pictures: u64, sound_bytes: u64) -> u64 {
        let sound = self.of_bytes(sound_bytes);
        if pictures == 0 {
            return sound;
        }
        let entry = self.pictures.iter().find(|(pattern, _)| pattern.matches(model));
        let each = entry.and_then(|(_, tokens)| *tokens).unwrap_or(PICTURE_TOKENS);
        pictures.saturating_mul(each).saturating_add(sound)
    }

    /// Returns the tokens of so many bytes of sound or video.
    #[must_use]
    pub fn of_bytes(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.bytes_per_token.max(1))
    }
}

/// Estimator of prompt and output tokens, for all requests. Each lock is held for one map access.
#[derive(Debug)]
pub struct Estimator {
    // Clients choose the names, so the hash key is random: otherwise they could force collisions.
    hash: RandomState,
    factors: Table<Factor>,
    lengths: Table<Length>,
}

/// Estimate of a request's prompt tokens, with the input needed to learn from it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptEstimate {
    /// Estimated prompt tokens over all prompts.
    pub tokens: u64,
    text: PromptText,
    ids: u64,
}

/// Size of a prompt's text. Each unit has an error factor of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptText {
    /// Bytes of text.
    Bytes(u64),
    /// Tokens by the model's own tokenizer. The factor learns what the worker's template adds.
    Tokens(u64),
}

impl PromptText {
    /// Returns the tokens before the learned factor.
    const fn plain(self) -> f64 {
        match self {
            Self::Bytes(bytes) => bytes as f64 / BYTES_PER_TOKEN,
            Self::Tokens(tokens) => tokens as f64,
        }
    }

    const fn is_tokens(self) -> bool {
        matches!(self, Self::Tokens(_))
    }
}

impl Default for Estimator {
    fn default() -> Self {
        Self::new()
    }
}

impl Estimator {
    /// Creates an estimator that has learned nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { hash: RandomState::new(), factors: Table::new(MODELS), lengths: Table::new(LENGTHS) }
    }

    /// Estimates the tokens of a prompt to `model`: its text (bytes / 4, or tokens) times the model's
    /// learned factor, plus the `ids`, tokens that the client sent as numbers.
    #[must_use]
    pub fn prompt(&self, model: Option<&str>, text: PromptText, ids: u64) -> PromptEstimate {
        let factor = self.factors.get(self.factor_of(model, text)).unwrap_or_default();
        let expected = (text.plain() * factor.value()).ceil() as u64;
        PromptEstimate { tokens: expected.saturating_add(ids), text, ids }
    }

    fn factor_of(&self, model: Option<&str>, text: PromptText) -> u64 {
        self.hash.hash_one((model, text.is_tokens()))
    }

    /// Learns from the reported prompt tokens. Returns actual / estimated, for the error metric.
    pub fn learn_prompt(&self, model: Option<&str>, estimate: PromptEstimate, actual: u64) -> f64 {
        let plain = estimate.text.plain();
        if plain > 0.0 && actual > estimate.ids {
            let text = (actual - estimate.ids) as f64;
            self.factors.update(self.factor_of(model, estimate.text), |factor| factor.learn(plain, text));
        }
        actual as f64 / estimate.tokens.max(1) as f64
    }

    /// Returns the expected output tokens of one sequence (ô), at most `max_tokens`: 256 until ten
    /// responses to this caller by this model are known, then their mean, then a moving mean.
    #[must_use]
    pub fn output(&self, caller: &str, model: Option<&str>, max_tokens: Option<u64>) -> u64 {
        let learned = self.lengths.get(self.hash.hash_one((caller, model))).and_then(Length::expected);
        learned.unwrap_or(UNKNOWN_OUTPUT).min(max_tokens.unwrap_or(u64::MAX))
    }

    /// Learns from the output tokens of one sequence of a complete response.
    pub fn learn_output(&self, caller: &str, model: Option<&str>, actual: u64) {
        self.lengths.update(self.hash.hash_one((caller, model)), |length| length.learn(actual as f64));
    }
}

/// Actual / plainly estimated tokens, as moving means of both. A ratio of means weighs a prompt by
/// its length; in a mean of ratios, the few tokens that a chat template adds to a one-word prompt
/// would count as an error of 1000 %.
#[derive(Clone, Copy, Debug)]
struct Factor {
    plain: f64,
    actual: f64,
}

impl Default for Factor {
    fn default() -> Self {
        Self { plain: FACTOR_PRIOR, actual: FACTOR_PRIOR }
    }
}

impl Factor {
    fn learn(&mut self, plain: f64, actual: f64) {
        // One absurd report must not be felt for hundreds of answers.
        let actual = actual.min((plain + FACTOR_PRIOR) * FACTOR_RANGE);
        self.plain += FACTOR_ALPHA * (plain - self.plain);
        self.actual += FACTOR_ALPHA * (actual - self.actual);
    }

    fn value(self) -> f64 {
        (self.actual / self.plain).clamp(1.0 / FACTOR_RANGE, FACTOR_RANGE)
    }
}

/// Output length of one caller and model.
#[derive(Clone, Copy, Debug, Default)]
struct Length {
    mean: f64,
    samples: u32,
}

impl Length {
    fn learn(&mut self, actual: f64) {
        self.samples = self.samples.saturating_add(1);
        let weight =
            if self.samples <= LENGTH_SAMPLES { 1.0 / f64::from(self.samples) } else { LENGTH_ALPHA };
        self.mean += weight * (actual - self.mean);
    }

    fn expected(self) -> Option<u64> {
        (self.samples >= LENGTH_SAMPLES).then_some(self.mean.ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Estimates a prompt of `bytes` to the model `m`.
    fn prompt(estimator: &Estimator, bytes: u64) -> PromptEstimate {
        estimator.prompt(Some("m"), PromptText::Bytes(bytes), 0)
    }

    #[test]
    fn a_prompt_costs_its_bytes_over_four_until_the_model_is_known() {
        let estimator = Estimator::new();
        assert_eq!(prompt(&estimator, 2000).tokens, 500);
        for _ in 0..200 {
            estimator.learn_prompt(Some("m"), prompt(&estimator, 2000), 800);
        }
        let learned = prompt(&estimator, 2000);
        assert!((795..=801).contains(&learned.tokens), "{learned:?}");
        assert!((estimator.learn_prompt(Some("m"), learned, 1600) - 2.0).abs() < 0.02);
        assert_eq!(estimator.prompt(None, PromptText::Bytes(2000), 0).tokens, 500);
    }

    #[test]
    fn a_late_report_is_judged_by_what_was_plain_not_by_what_was_learned_since() {
        let estimator = Estimator::new();
        let early = prompt(&estimator, 4000);
        for _ in 0..1000 {
            estimator.learn_prompt(Some("m"), early, 2000);
        }
        assert_eq!(prompt(&estimator, 4000).tokens, 2000);
    }

    #[test]
    fn one_callers_odd_prompts_skew_the_factor_within_bounds() {
        let estimator = Estimator::new();
        for _ in 0..1000 {
            estimator.learn_prompt(Some("m"), prompt(&estimator, 1), 1_000_000);
        }
        assert_eq!(prompt(&estimator, 4000).tokens, 8000);
    }

    #[test]
    fn a_counted_prompt_is_exact_but_for_what_the_template_adds() {
        let estimator = Estimator::new();
        let counted = |estimator: &Estimator| estimator.prompt(Some("m"), PromptText::Tokens(400), 0);
        assert_eq!(counted(&estimator).tokens, 400);
        for _ in 0..200 {
            estimator.learn_prompt(Some("m"), counted(&estimator), 440);
        }
        assert_eq!(counted(&estimator).tokens, 440);
        assert_eq!(prompt(&estimator, 2000).tokens, 500, "bytes have a factor of their own");
    }

    #[test]
    fn media_count_by_the_first_entry_of_their_model_and_by_their_bytes() {
        let media = MediaTokens {
            pictures: vec![
                (Glob::new("qwen*"), Some(1000)),
                (Glob::new("llava"), None),
                (Glob::new("*"), Some(9)),
            ],
            bytes_per_token: 400,
        };
        assert_eq!(media.of("m", 0, 0), 0);
        for (model, tokens) in [("qwen3", 2002), ("llava", 2 * PICTURE_TOKENS + 2), ("m", 20)] {
            assert_eq!(media.of(model, 2, 401), tokens, "{model}");
        }
    }

    #[test]
    fn token_ids_count_as_they_are() {
        let estimator = Estimator::new();
        assert_eq!(estimator.prompt(None, PromptText::Bytes(4), 3).tokens, 4);
    }

    #[test]
    fn output_is_256_then_the_mean_of_ten_then_a_slow_mean() {
        let estimator = Estimator::new();
        let output = |max| estimator.output("key:a", Some("m"), max);
        assert_eq!((output(None), output(Some(9)), output(Some(1000))), (256, 9, 256));
        for actual in 1..=9 {
            estimator.learn_output("key:a", Some("m"), actual * 100);
            assert_eq!(output(None), 256);
        }
        estimator.learn_output("key:a", Some("m"), 1000);
        assert_eq!((output(None), output(Some(9))), (550, 9));
        estimator.learn_output("key:a", Some("m"), 1550);
        assert_eq!(output(None), 560);
        assert_eq!(estimator.output("key:b", Some("m"), None), 256);
        assert_eq!(estimator.output("key:a", None, None), 256);
    }
}
