//! Fallback chains: the models that take over when one cannot serve a request.
//!
//! A fallback names a model, which may have fallbacks of its own. At start each entry's chain is
//! laid out as one list, in the order in which it is tried: after a fallback come its own.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ModelSpec;
use crate::glob::Glob;
use crate::refusal::Reason;

/// The longest chain: the fallbacks of an entry, with theirs. Each may cost the request a wait.
pub(crate) const LONGEST_CHAIN: usize = 16;

/// Why a model could not serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FallbackReason {
    /// no worker has room in time, or a worker answered 429 or 503
    Overloaded,
    /// no worker accepts requests
    NoWorker,
    /// the workers failed before the first token, or answered another 5xx
    Failed,
}

impl FallbackReason {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Overloaded, Self::NoWorker, Self::Failed];

    /// Returns the name in settings, metrics and explanations.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::NoWorker => "no_worker",
            Self::Failed => "failed",
        }
    }

    /// Returns the reason that a refusal gives; `None` if another model would not help.
    #[must_use]
    pub const fn of(reason: Reason) -> Option<Self> {
        match reason {
            Reason::Overloaded | Reason::QueueTimeout => Some(Self::Overloaded),
            Reason::NoWorker => Some(Self::NoWorker),
            Reason::UpstreamUnreachable | Reason::UpstreamBroke | Reason::UpstreamTimeout => {
                Some(Self::Failed)
            }
            _ => None,
        }
    }
}

/// One fallback of an entry, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct FallbackSpec {
    /// The model that takes over, as a request would name it.
    pub model: Arc<str>,
    /// The reasons for which it does.
    pub on: Vec<FallbackReason>,
    /// Greatest share of the entry's requests of the last minute, 0 to 1.
    pub share: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StepPlace {
    pub(super) entry: usize,
    pub(super) fallback: usize,
    /// Number of fallbacks that lead to it.
    pub(super) depth: usize,
    pub(super) target: Option<usize>,
}

/// What is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainFault {
    /// Index of the entry whose fallback is wrong.
    pub entry: usize,
    /// Index of that fallback in the entry.
    pub fallback: usize,
    kind: ChainFaultKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ChainFaultKind {
    /// The chain comes back to an entry; holds the patterns on the way.
    Cycle(Vec<Arc<str>>),
    TooLong,
}

impl fmt::Display for ChainFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ChainFaultKind::Cycle(way) => write!(
                f,
                "leads back to where it came from ({}): the first entry that matches a name holds, so a model \
                 that falls back no further needs an entry before that",
                way.join(" → ")
            ),
            ChainFaultKind::TooLong => {
                write!(f, "makes a chain of more than {LONGEST_CHAIN} fallbacks, those of fallbacks included")
            }
        }
    }
}

/// Returns the first chain that is a cycle or too long.
#[must_use]
pub fn chain_fault(specs: &[ModelSpec]) -> Option<ChainFault> {
    let patterns = patterns(specs);
    (0..specs.len()).find_map(|entry| steps(specs, &patterns, entry).err())
}

pub(super) fn patterns(specs: &[ModelSpec]) -> Vec<Glob> {
    specs.iter().map(|spec| Glob::new(Arc::clone(&spec.model))).collect()
}

/// Lays out the chain of an entry, in the order in which it is tried.
pub(super) fn steps(
    specs: &[ModelSpec],
    patterns: &[Glob],
    entry: usize,
) -> Result<Vec<StepPlace>, ChainFault> {
    let mut chain = Vec::new();
    extend(specs, patterns, &mut vec![entry], &mut chain)?;
    Ok(chain)
}

/// Adds the fallbacks of the last entry of `way`, which leads there, and theirs.
fn extend(
    specs: &[ModelSpec],
    patterns: &[Glob],
    way: &mut Vec<usize>,
    chain: &mut Vec<StepPlace>,
) -> Result<(), ChainFault> {
    let Some((entry, spec)) = way.last().and_then(|last| Some((*last, specs.get(*last)?))) else {
        return Ok(());
    };
    for (fallback, spec) in spec.fallback.iter().enumerate() {
        let fault = |kind| ChainFault { entry, fallback, kind };
        let target = patterns.iter().position(|pattern| pattern.matches(&spec.model));
        chain.push(StepPlace { entry, fallback, depth: way.len(), target });
        if chain.len() > LONGEST_CHAIN {
            return Err(fault(ChainFaultKind::TooLong));
        }
        let Some(target) = target else { continue };
        let back = way.contains(&target);
        way.push(target);
        if back {
            let names = way.iter().filter_map(|entry| specs.get(*entry));
            return Err(fault(ChainFaultKind::Cycle(names.map(|spec| Arc::clone(&spec.model)).collect())));
        }
        extend(specs, patterns, way, chain)?;
        way.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(model: &str, fallback: &[&str]) -> ModelSpec {
        let fallback = fallback.iter().map(|model| FallbackSpec {
            model: (*model).into(),
            on: FallbackReason::ALL.to_vec(),
            share: 1.0,
        });
        ModelSpec { model: model.into(), serve: Vec::new(), fallback: fallback.collect() }
    }

    #[test]
    fn a_chain_is_laid_out_in_the_order_of_trying() {
        let specs = [entry("a", &["b", "d", "elsewhere"]), entry("b", &["c"]), entry("d*", &["e"])];
        let places = steps(&specs, &patterns(&specs), 0).unwrap();
        let order: Vec<_> = places.iter().map(|step| (step.entry, step.fallback, step.depth)).collect();
        assert_eq!(order, [(0, 0, 1), (1, 0, 2), (0, 1, 1), (2, 0, 2), (0, 2, 1)]);
        assert_eq!(chain_fault(&specs), None);
    }

    #[test]
    fn a_chain_that_comes_back_or_has_no_end_is_found() {
        let cycle = [entry("a", &["b"]), entry("b", &["c"]), entry("c", &["a"])];
        let fault = chain_fault(&cycle).unwrap();
        assert_eq!((fault.entry, fault.fallback), (2, 0));
        assert!(fault.to_string().contains("(a → b → c → a)"), "{fault}");
        let itself = [entry("x", &[]), entry("qwen*", &["x", "qwen-small"])];
        let fault = chain_fault(&itself).unwrap();
        assert_eq!((fault.entry, fault.fallback), (1, 1));
        assert!(fault.to_string().contains("(qwen* → qwen*)"), "{fault}");
        let helped = [entry("qwen-small", &[]), entry("qwen*", &["qwen-small"])];
        assert_eq!(chain_fault(&helped), None);
        // Each entry doubles the length.
        let names: Vec<String> = (0..6).map(|index| format!("m{index}")).collect();
        let long: Vec<_> =
            (0..5).map(|index| entry(&names[index], &[&names[index + 1], &names[index + 1]])).collect();
        assert!(chain_fault(&long).unwrap().to_string().contains("more than 16"));
    }

    #[test]
    fn only_what_another_model_could_serve_falls_back() {
        let reasons = Reason::ALL.into_iter().filter(|reason| FallbackReason::of(*reason).is_some());
        let names: Vec<_> = reasons.map(Reason::as_str).collect();
        assert_eq!(
            names,
            [
                "overloaded",
                "queue_timeout",
                "no_worker",
                "upstream_unreachable",
                "upstream_broke",
                "upstream_timeout"
            ]
        );
    }
}
