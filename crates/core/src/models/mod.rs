//! Names of models: aliases, shares and fallbacks.
//!
//! A request names a model. The first entry whose pattern matches that name says under which names
//! workers serve it, and which models take over if it cannot be served. Without an entry the name is
//! served as it is. Names that an entry gives are final: they are not looked up again.
//!
//! Pure: the time is an argument, and nothing is sent or recorded.

mod chain;
mod minute;
mod route;
mod share;

pub use chain::{ChainFault, FallbackReason, FallbackSpec, chain_fault};
pub use route::{ModelRoute, NextModel};
pub use share::ModelShare;

use std::sync::Arc;

use self::chain::{StepPlace, patterns, steps};
use self::minute::MinuteCount;
use crate::clock::Nanos;
use crate::glob::Glob;

/// Names and fallbacks of the models that match a pattern, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Pattern for the names that requests give.
    pub model: Arc<str>,
    /// Names under which workers serve them; empty for the names that requests give.
    pub serve: Vec<ModelShare>,
    /// Models that take over, in the order of trying.
    pub fallback: Vec<FallbackSpec>,
}

/// All entries, in the order of the settings.
#[derive(Debug, Default)]
pub struct ModelTable {
    entries: Vec<Arc<ModelEntry>>,
}

#[derive(Debug)]
struct ModelEntry {
    names: Arc<EntryNames>,
    chain: Vec<ChainStep>,
}

/// Names of an entry, and the counts of its requests.
#[derive(Debug)]
struct EntryNames {
    pattern: Glob,
    serve: Vec<ModelShare>,
    served: Vec<Arc<str>>,
    requests: MinuteCount,
    /// How often each fallback was used.
    used: Vec<MinuteCount>,
}

#[derive(Debug)]
struct ChainStep {
    to: Arc<str>,
    on: Vec<FallbackReason>,
    share: f64,
    depth: usize,
    /// The entry that has the fallback, and its index there.
    owner: Arc<EntryNames>,
    index: usize,
    /// The entry of the model that takes over.
    target: Option<Arc<EntryNames>>,
}

impl ModelTable {
    /// Creates the table of `specs`. A chain with a fault is left out ([`chain_fault`]).
    #[must_use]
    pub fn new(specs: &[ModelSpec]) -> Self {
        let patterns = patterns(specs);
        let names: Vec<Arc<EntryNames>> = specs.iter().zip(&patterns).map(EntryNames::new).collect();
        let step = |place: StepPlace| {
            let owner = names.get(place.entry)?;
            let spec = specs.get(place.entry)?.fallback.get(place.fallback)?;
            Some(ChainStep {
                to: Arc::clone(&spec.model),
                on: spec.on.clone(),
                share: spec.share,
                depth: place.depth,
                owner: Arc::clone(owner),
                index: place.fallback,
                target: place.target.and_then(|target| names.get(target)).cloned(),
            })
        };
        let entry = |(index, names): (usize, &Arc<EntryNames>)| {
            let chain = steps(specs, &patterns, index).unwrap_or_default();
            let chain = chain.into_iter().filter_map(step).collect();
            Arc::new(ModelEntry { names: Arc::clone(names), chain })
        };
        Self { entries: names.iter().enumerate().map(entry).collect() }
    }

    /// Returns the entry of the name that a request gives.
    fn find(&self, asked: &str) -> Option<&Arc<ModelEntry>> {
        self.entries.iter().find(|entry| entry.names.pattern.matches(asked))
    }

    /// Returns the names, other than `asked`, that workers may serve the model under.
    #[must_use]
    pub fn served_as(&self, asked: &str) -> &[Arc<str>] {
        self.find(asked).map_or(&[], |entry| &entry.names.served)
    }

    /// Returns the aliases that are one name, and the names that they may be served as.
    pub fn aliases(&self) -> impl Iterator<Item = (&Arc<str>, &[Arc<str>])> {
        let names = self.entries.iter().map(|entry| (entry.names.pattern.text(), &*entry.names.served));
        names.filter(|(name, served)| !served.is_empty() && !name.contains('*'))
    }
}

impl EntryNames {
    fn new((spec, pattern): (&ModelSpec, &Glob)) -> Arc<Self> {
        Arc::new(Self {
            pattern: pattern.clone(),
            serve: spec.serve.clone(),
            served: spec.serve.iter().map(|share| Arc::clone(&share.model)).collect(),
            requests: MinuteCount::default(),
            used: spec.fallback.iter().map(|_| MinuteCount::default()).collect(),
        })
    }

    /// Returns the name for the session or caller `key`; `None` for the name as it was given.
    fn name_for(&self, key: u64) -> Option<&Arc<str>> {
        share::choose(&self.serve, self.pattern.text(), key)
    }
}

impl ChainStep {
    /// Counts a use at `now`; returns `false` if the share does not allow one more.
    fn take(&self, now: Nanos) -> bool {
        let requests = self.owner.requests.sum(now);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of requests times a share of 0…1"
        )]
        let most = if self.share >= 1.0 { u64::MAX } else { (requests as f64 * self.share) as u64 };
        self.owner.used.get(self.index).is_some_and(|used| used.add_below(most, now))
    }

    fn undo(&self, then: Nanos) {
        if let Some(used) = self.owner.used.get(self.index) {
            used.undo(then);
        }
    }
}
