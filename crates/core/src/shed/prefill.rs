//! How long a worker needs to read a prompt, learned from the first tokens that it sends.
//!
//! *How long would an idle worker need?* ([`Prefill::idle`], E of the limit algorithm): a low
//! estimate per size class of prompts (powers of two). Faster samples lower it freely. Slower ones
//! raise it by at most 1 % per minute, unless the worker had nothing else to do: an estimate that
//! followed the load would call every overload normal. *How long does a prompt take behind others
//! that are not read yet?* ([`Prefill::reading`]): the idle time plus the mean cost per token for
//! each token ahead. The cost is mean seconds / mean tokens: long waits outweigh short noisy ones.
//!
//! All sizes are of what a worker must read: tokens that it has cached do not count (`prefix`).
//!
//! * **Failure mode.** If cached prefixes that the gateway does not know (`concurrency.prefix: off`)
//!   make some prompts of a size much faster, all of that size are expected to be as fast, and the
//!   first requests of conversations look slow. Size classes avoid this as far as long prompts are
//!   mostly continued conversations.

use std::time::Duration;

use super::algorithm::SLACK;
use super::quantile::Ratios;
use crate::clock::Nanos;

/// Size classes of prompts: powers of two, up to half a million tokens.
const SIZES: usize = 20;
/// Maximum rise of a reference per minute, as a share, under samples of a busy worker.
const RISE: f64 = 0.01;
/// Share of the distance that one sample moves a reference: one outlier 1/4, four samples 2/3.
const STEP: f64 = 0.25;
/// After this many samples, the mean cost per token gives a new one the weight 1 / `MEMORY`: a
/// change of the worker's pace is half learned after 22 first tokens.
const MEMORY: u32 = 32;
/// First tokens before the cost per token is trusted.
const ENOUGH: u32 = 10;
/// Quantile of the ratios up to which a first token counts as usual.
const USUAL: f64 = 0.95;
/// Number of ratios at which all counts are halved, so that older ratios weigh less.
const USUAL_OF: u32 = 200;

/// The sample of one first token.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrefillSample {
    /// Prompt tokens of the request that are to be read.
    pub(super) prompt: u64,
    /// Prompt tokens of other requests that the worker had not read when this one was sent.
    pub(super) ahead: u64,
    /// Time from dispatch to the first content.
    pub(super) ttft: Duration,
    /// `true` if the worker had nothing else to do.
    pub(super) idle: bool,
    /// `true` if the request may have waited inside the worker for others to end.
    pub(super) queued: bool,
}

#[derive(Clone, Copy, Debug)]
struct Reference {
    seconds: f64,
    at: Nanos,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Prefill {
    references: [Option<Reference>; SIZES],
    /// Moving mean of the prompt tokens to read; `seconds` is that of the time beyond τ₀.
    tokens: f64,
    seconds: f64,
    seen: u32,
    /// Ratios of actual to expected time to first token.
    spread: Ratios,
}

impl Prefill {
    /// Learns from a first token.
    pub(super) fn learn(&mut self, reading: PrefillSample, now: Nanos) {
        let ttft = reading.ttft.as_secs_f64();
        if let Some(expected) = self.reading(reading.ahead, reading.prompt).filter(|_| !reading.queued) {
            self.spread.add(ttft / expected.as_secs_f64().max(1e-6));
            if self.spread.len() >= USUAL_OF {
                self.spread.fade();
            }
        }
        if let Some(place) = self.references.get_mut(size(reading.prompt)) {
            let seconds = match *place {
                None => ttft,
                Some(known) => {
                    let minutes = now.since(known.at).as_secs_f64() / 60.0;
                    let risen = known.seconds * (1.0 + RISE * minutes);
                    if ttft < known.seconds || reading.idle {
                        known.seconds + STEP * (ttft - known.seconds)
                    } else {
                        risen.min(ttft)
                    }
                }
            };
            *place = Some(Reference { seconds, at: now });
        }
        // At the first sample τ₀ is unknown. All time counts as reading: better too slow than fast.
        let base = if self.seen == 0 { 0.0 } else { self.base() };
        let tokens = reading.prompt.saturating_add(reading.ahead).max(1) as f64;
        self.seen = self.seen.saturating_add(1);
        let weight = 1.0 / f64::from(self.seen.min(MEMORY));
        self.tokens += weight * (tokens - self.tokens);
        self.seconds += weight * ((ttft - base).max(0.0) - self.seconds);
    }

    /// Returns E, the time to the first token at an idle worker; `None` before any sample.
    pub(super) fn idle(&self, prompt: u64) -> Option<Duration> {
        let own = size(prompt);
        let larger = self.references.iter().skip(own).flatten().next();
        let seconds = match larger {
            Some(reference) => reference.seconds,
            None => {
                let (known, reference) = self
                    .references
                    .iter()
                    .enumerate()
                    .rev()
                    .find_map(|(size, reference)| Some((size, (*reference)?)))?;
                let beyond = prompt.saturating_sub(1 << known) as f64;
                reference.seconds + beyond * self.pace()
            }
        };
        Some(duration(seconds))
    }

    /// Returns what is learned of E: pairs of a size in prompt tokens, and E of prompts up to it.
    pub(super) fn learned(&self) -> impl Iterator<Item = (u64, Duration)> {
        let sizes = self.references.iter().enumerate();
        sizes.filter_map(|(size, reference)| Some((1 << size, duration((*reference)?.seconds))))
    }

    /// Returns the time to the first token behind `ahead` prompt tokens; `None` before any sample.
    pub(super) fn reading(&self, ahead: u64, prompt: u64) -> Option<Duration> {
        let idle = self.idle(prompt)?;
        Some(idle.saturating_add(duration(ahead as f64 * self.pace())))
    }

    /// Returns the 95th percentile of TTFT if `reading` is expected; at least `reading`.
    pub(super) fn usual(&self, reading: Duration) -> Duration {
        let known = self.spread.len() >= 2 * ENOUGH;
        let ratio = self.spread.quantile(USUAL).filter(|_| known).unwrap_or(1.0);
        reading.mul_f64(ratio.max(1.0))
    }

    /// Returns `true` if first tokens vary too much, or are too few, to judge by a late one.
    pub(super) fn is_spread(&self, slo: Duration) -> bool {
        let usual = |reading: Duration| self.usual(reading) > reading + slo.mul_f64(SLACK);
        self.seen < 2 * ENOUGH || self.idle(0).is_none_or(usual)
    }

    /// Returns `true` if there are enough samples to refuse requests by the estimate.
    pub(super) fn is_known(&self) -> bool {
        self.seen >= ENOUGH
    }

    /// Returns the seconds per token.
    pub(super) fn pace(&self) -> f64 {
        if self.tokens > 0.0 { self.seconds / self.tokens } else { 0.0 }
    }

    /// Returns τ₀, the least time of any request, in seconds.
    fn base(&self) -> f64 {
        self.references.iter().flatten().map(|reference| reference.seconds).fold(f64::INFINITY, f64::min)
    }
}

/// Returns the exponent of the smallest power of two that is at least `prompt`.
fn size(prompt: u64) -> usize {
    let bits = prompt.max(1).saturating_sub(1).checked_ilog2().map_or(0, |log| log + 1);
    (bits as usize).min(SIZES - 1)
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(prompt: u64, ahead: u64, millis: u64) -> PrefillSample {
        PrefillSample { prompt, ahead, ttft: Duration::from_millis(millis), idle: false, queued: false }
    }

    fn millis(known: Option<Duration>) -> u128 {
        known.unwrap().as_millis()
    }

    #[test]
    fn sizes_are_powers_of_two() {
        let cases = [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1024, 10), (1025, 11), (u64::MAX, 19)];
        for (prompt, expected) in cases {
            assert_eq!(size(prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn the_reference_falls_at_once_and_rises_by_a_percent_a_minute() {
        let mut prefill = Prefill::default();
        assert_eq!(prefill.idle(100), None);
        prefill.learn(reading(100, 0, 100), Nanos::ZERO);
        assert_eq!(millis(prefill.idle(100)), 100);
        for _ in 0..20 {
            prefill.learn(reading(100, 0, 60), Nanos::ZERO);
        }
        assert_eq!(millis(prefill.idle(100)), 60);
        // An hour of overload, a sample each second.
        for second in 1..=3600 {
            prefill.learn(reading(100, 5000, 900), Nanos::from_secs(second));
        }
        assert!((100..=115).contains(&millis(prefill.idle(100))), "{:?}", prefill.idle(100));
    }

    #[test]
    fn a_worker_with_nothing_else_to_do_sets_the_reference_both_ways() {
        let mut prefill = Prefill::default();
        for _ in 0..40 {
            prefill.learn(PrefillSample { idle: true, ..reading(100, 0, 50) }, Nanos::ZERO);
        }
        for _ in 0..40 {
            prefill.learn(PrefillSample { idle: true, ..reading(100, 0, 300) }, Nanos::ZERO);
        }
        assert_eq!(millis(prefill.idle(100)), 299);
    }

    #[test]
    fn the_pace_is_learned_and_carries_to_sizes_never_seen() {
        // 50 ms and 8000 tokens a second.
        let mut prefill = Prefill::default();
        for ahead in (0..400).map(|i| i % 20 * 200) {
            prefill.learn(reading(200, ahead, 50 + (200 + ahead) / 8), Nanos::ZERO);
        }
        let behind = millis(prefill.reading(4000, 200));
        assert!((500..=640).contains(&behind), "{behind}");
        let long = millis(prefill.idle(16_000));
        assert!((1700..=2300).contains(&long), "{long}");
        // A smaller prompt takes no longer than the smallest known.
        assert_eq!(prefill.idle(10), prefill.idle(200));
        assert_eq!(prefill.learned().collect::<Vec<_>>(), [(256, prefill.idle(200).unwrap())]);
    }

    #[test]
    fn the_first_sample_is_taken_for_slow_reading() {
        let mut prefill = Prefill::default();
        prefill.learn(reading(100, 0, 60), Nanos::ZERO);
        assert!(!prefill.is_known());
        assert_eq!(millis(prefill.reading(1000, 100)), 660);
    }
}
