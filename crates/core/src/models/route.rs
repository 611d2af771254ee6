//! The way of one request along its chain.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{ChainStep, FallbackReason, ModelEntry, ModelTable};
use crate::clock::Nanos;
use crate::refusal::Refusal;
use crate::request::{AllowedModels, FallbackTaken};

/// How the model of one request is served: a request extension, shared by all layers.
#[derive(Debug)]
pub struct ModelRoute {
    entry: Option<Arc<ModelEntry>>,
    served: Option<Arc<str>>,
    key: u64,
    allowed: bool,
    may_fall_back: bool,
    progress: Mutex<ChainProgress>,
}

#[derive(Debug, Default)]
struct ChainProgress {
    next: usize,
    asked: SmallVec<[Arc<str>; 2]>,
    /// The refusal of the first pool.
    first: Option<Refusal>,
}

impl ModelTable {
    /// Finds the route of a request for `asked`. `key` is its session or caller, by which shares are
    /// divided. `None` if nothing is configured that concerns it.
    #[must_use]
    pub fn route(
        &self,
        asked: Option<&str>,
        allowed: Option<&AllowedModels>,
        key: u64,
        may_fall_back: bool,
    ) -> Option<ModelRoute> {
        let allowed = allowed.is_none_or(|models| models.allows(asked));
        let entry = asked.filter(|_| allowed).and_then(|asked| self.find(asked));
        let entry = entry.filter(|entry| !(entry.names.serve.is_empty() && entry.chain.is_empty())).cloned();
        if allowed && entry.is_none() {
            return None;
        }
        let served = entry.as_ref().and_then(|entry| entry.names.name_for(key)).cloned();
        Some(ModelRoute { entry, served, key, allowed, may_fall_back, progress: Mutex::default() })
    }
}

impl ModelRoute {
    /// Returns `true` if the caller may use the model. If not, it is answered like an unknown one.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// Returns the name under which the model is served, if the settings give another one.
    #[must_use]
    pub const fn served(&self) -> Option<&Arc<str>> {
        self.served.as_ref()
    }

    /// Returns the names that the model may be served as, if the settings give others. Fallbacks are
    /// not among them.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        self.entry.as_ref().map_or(&[], |entry| &entry.names.served)
    }

    /// Returns the pattern under which an alias counts.
    #[must_use]
    pub fn alias(&self) -> Option<&Arc<str>> {
        let entry = self.entry.as_ref().filter(|entry| !entry.names.serve.is_empty())?;
        Some(entry.names.pattern.text())
    }

    /// Returns `true` if another model may take over.
    #[must_use]
    pub fn has_fallback(&self) -> bool {
        self.may_fall_back && self.entry.as_ref().is_some_and(|entry| !entry.chain.is_empty())
    }

    /// Counts the request for the shares of its fallbacks. Call it once.
    pub fn begin(&self, now: Nanos) {
        if let Some(entry) = self.entry.as_ref().filter(|entry| !entry.chain.is_empty()) {
            entry.names.requests.add(now);
        }
    }

    /// Notes that the gate of `pool` is asked; returns `false` if it was before.
    #[must_use]
    pub fn enter(&self, pool: &Arc<str>) -> bool {
        let mut progress = self.progress.lock();
        let new = !progress.asked.contains(pool);
        if new {
            progress.asked.push(Arc::clone(pool));
        }
        new
    }

    /// Keeps the refusal of the first pool, which the client gets if no fallback serves it either.
    pub fn keep_refusal(&self, refusal: &Refusal) {
        self.progress.lock().first.get_or_insert_with(|| refusal.clone());
    }

    /// Returns the refusal of the first pool, or else this one.
    #[must_use]
    pub fn first_refusal(&self, refusal: Refusal) -> Refusal {
        self.progress.lock().first.take().unwrap_or(refusal)
    }

    /// Returns the next model to try, after the one before failed for `reason`, and counts its use.
    /// A fallback for other reasons, or whose share is used up, is left out, with its own fallbacks.
    #[must_use]
    pub fn next(&self, reason: FallbackReason, now: Nanos) -> Option<NextModel> {
        let entry = self.entry.as_ref().filter(|_| self.may_fall_back)?;
        let mut progress = self.progress.lock();
        let next = &mut progress.next;
        while let Some(step) = entry.chain.get(*next) {
            let index = *next;
            *next += 1;
            if step.on.contains(&reason) && step.take(now) {
                let served = match &step.target {
                    Some(target) => {
                        target.requests.add(now);
                        target.name_for(self.key).unwrap_or(&step.to)
                    }
                    None => &step.to,
                };
                let (entry, served) = (Arc::clone(entry), Arc::clone(served));
                return Some(NextModel { entry, index, served, reason, taken: now });
            }
            while entry.chain.get(*next).is_some_and(|later| later.depth > step.depth) {
                *next += 1;
            }
        }
        None
    }
}

/// A model that may take over. Its use is counted until [`NextModel::undo`].
pub struct NextModel {
    entry: Arc<ModelEntry>,
    index: usize,
    served: Arc<str>,
    reason: FallbackReason,
    taken: Nanos,
}

impl NextModel {
    /// Returns the name under which workers serve it.
    #[must_use]
    pub const fn served(&self) -> &Arc<str> {
        &self.served
    }

    /// Uncounts the use: the fallback did not take the request.
    pub fn undo(self) {
        if let Some(step) = self.step() {
            step.undo(self.taken);
        }
    }

    /// Describes the fallback for the request's record: `pool` took the request.
    #[must_use]
    pub fn taken_by(self, pool: Arc<str>) -> FallbackTaken {
        FallbackTaken {
            entry: Arc::clone(self.entry.names.pattern.text()),
            to: self.step().map_or_else(|| Arc::clone(&self.served), |step| Arc::clone(&step.to)),
            reason: self.reason.as_str(),
            pool,
            served: self.served,
        }
    }

    fn step(&self) -> Option<&ChainStep> {
        self.entry.chain.get(self.index)
    }
}

impl fmt::Debug for NextModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, reason, .. } = self;
        f.debug_struct("NextModel").field("served", served).field("reason", reason).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{FallbackSpec, ModelShare, ModelSpec};
    use crate::refusal::Reason;
    use FallbackReason::{Failed, NoWorker, Overloaded};

    fn to(model: &str, on: &[FallbackReason], share: f64) -> FallbackSpec {
        FallbackSpec { model: model.into(), on: on.to_vec(), share }
    }

    fn entry(model: &str, serve: &[&str], fallback: Vec<FallbackSpec>) -> ModelSpec {
        let serve = serve.iter().map(|model| ModelShare { model: (*model).into(), weight: 1 }).collect();
        ModelSpec { model: model.into(), serve, fallback }
    }

    fn route(table: &ModelTable, asked: &str) -> ModelRoute {
        let route = table.route(Some(asked), None, 7, true).unwrap();
        route.begin(Nanos::from_secs(1));
        route
    }

    fn next(route: &ModelRoute, reason: FallbackReason) -> Option<String> {
        route.next(reason, Nanos::from_secs(1)).map(|next| next.served().to_string())
    }

    #[test]
    fn the_first_entry_that_matches_holds() {
        let table = ModelTable::new(&[
            entry("gpt-4o-mini", &["qwen3-14b"], Vec::new()),
            entry("gpt-*", &["qwen3-32b"], Vec::new()),
            entry("plain-*", &[], Vec::new()),
        ]);
        for (asked, served, alias) in
            [("gpt-4o-mini", "qwen3-14b", "gpt-4o-mini"), ("gpt-5", "qwen3-32b", "gpt-*")]
        {
            let route = table.route(Some(asked), None, 0, true).unwrap();
            assert_eq!(route.served().map(|name| &**name), Some(served));
            assert_eq!(route.alias().map(|name| &**name), Some(alias));
            assert_eq!(route.names().iter().map(|name| &**name).collect::<Vec<_>>(), [served]);
            assert!(!route.has_fallback());
        }
        for asked in [Some("qwen3-14b"), Some("plain-1"), None] {
            assert!(table.route(asked, None, 0, true).is_none(), "nothing is configured for {asked:?}");
        }
        let aliases: Vec<_> = table.aliases().map(|(name, served)| (&**name, served.len())).collect();
        assert_eq!(aliases, [("gpt-4o-mini", 1)]);
    }

    #[test]
    fn a_caller_may_use_the_names_that_it_may_ask_for() {
        let table = ModelTable::new(&[entry("assistant", &["qwen3-14b"], Vec::new())]);
        let only = |patterns: &[&str]| AllowedModels::new(patterns.iter().map(|text| (*text).into()));
        let allowed = |models: &AllowedModels, asked| {
            table.route(asked, Some(models), 0, true).is_none_or(|route| route.is_allowed())
        };
        let models = only(&["assistant", "llama*"]);
        assert!(allowed(&models, Some("assistant")) && allowed(&models, Some("llama3")));
        assert!(!allowed(&models, Some("qwen3-14b")), "as an alias only");
        assert!(!allowed(&models, None), "the worker would choose");
        assert!(allowed(&only(&["*"]), None));
        assert!(!allowed(&only(&[]), Some("assistant")));
        let forbidden = table.route(Some("assistant"), Some(&only(&[])), 0, true).unwrap();
        assert_eq!((forbidden.served(), forbidden.names().len(), forbidden.alias()), (None, 0, None));
    }

    #[test]
    fn fallbacks_are_tried_in_order_each_for_its_reasons() {
        let table = ModelTable::new(&[
            entry("a", &[], vec![to("b", &[Overloaded], 1.0), to("d", &[Overloaded, Failed], 1.0)]),
            entry("b", &["b-served"], vec![to("c", &[NoWorker], 1.0)]),
        ]);
        let first = route(&table, "a");
        assert!(first.has_fallback() && first.served().is_none() && first.alias().is_none());
        assert_eq!(next(&first, Overloaded).as_deref(), Some("b-served"));
        assert_eq!(next(&first, NoWorker).as_deref(), Some("c"));
        assert_eq!(next(&first, Failed).as_deref(), Some("d"));
        assert_eq!(next(&first, Failed), None);
        // What is left out is left out with its own fallbacks.
        assert_eq!(next(&route(&table, "a"), Failed).as_deref(), Some("d"));
        assert_eq!(next(&route(&table, "a"), NoWorker), None);
        let tied = table.route(Some("a"), None, 0, false).unwrap();
        assert!(!tied.has_fallback() && next(&tied, Overloaded).is_none());
    }

    #[test]
    fn a_share_is_of_the_requests_of_its_entry() {
        let table = ModelTable::new(&[entry("a", &[], vec![to("b", &[Overloaded], 0.2)])]);
        let mut taken = 0;
        for count in 1..=100 {
            taken += u32::from(next(&route(&table, "a"), Overloaded).is_some());
            assert!(f64::from(taken) <= 0.2 * f64::from(count), "{taken} of {count}");
        }
        assert_eq!(taken, 20);
        // A fallback that did not take the request does not use the share up.
        let five: Vec<_> = (0..5).map(|_| route(&table, "a")).collect();
        for route in &five {
            route.next(Overloaded, Nanos::from_secs(1)).unwrap().undo();
        }
        assert!(next(&route(&table, "a"), Overloaded).is_some());
        assert!(next(&route(&table, "a"), Overloaded).is_none());
    }

    #[test]
    fn the_first_refusal_is_the_clients_and_no_pool_is_asked_twice() {
        let table = ModelTable::new(&[entry("a", &[], vec![to("b", &[Overloaded], 1.0)])]);
        let route = route(&table, "a");
        assert!(route.enter(&"p".into()) && route.enter(&"q".into()) && !route.enter(&"p".into()));
        let refusal = |reason| Refusal::new(reason, "");
        assert_eq!(route.first_refusal(refusal(Reason::NoWorker)).reason, Reason::NoWorker);
        route.keep_refusal(&refusal(Reason::Overloaded));
        route.keep_refusal(&refusal(Reason::NoWorker));
        assert_eq!(route.first_refusal(refusal(Reason::UpstreamBroke)).reason, Reason::Overloaded);
    }
}
