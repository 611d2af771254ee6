//! Rules changed at run time through an admin port, for this gateway or for the whole fleet.
//!
//! Changes override the settings and survive their reload. Local changes override fleet-wide ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::time::sleep;

use super::{App, LiveSettings, build, counting, tokens};
use crate::clock::Nanos;
use crate::limit::change::Change;
use crate::limit::rule::Rule;
use crate::redis::changes::StoredChanges;
use crate::server::admin::{Changed, LimitChange};

/// Poll interval for changes made at other gateways.
const LOOK: Duration = Duration::from_secs(1);

/// Active changes by rule name.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<ChangesState>);

#[derive(Debug, Default)]
struct ChangesState {
    /// Local changes, each with its end.
    here: BTreeMap<Arc<str>, (Change, Option<Nanos>)>,
    everywhere: BTreeMap<Arc<str>, Change>,
}

impl Changes {
    /// Returns the rules with every change that fits applied.
    pub(super) fn apply(&self, rules: &[Rule]) -> Vec<Rule> {
        let inner = self.0.lock();
        let changed = |rule: &Rule| {
            let here = inner.here.get(&rule.name).map(|(change, _)| change);
            here.or_else(|| inner.everywhere.get(&rule.name))?.apply(rule).ok()
        };
        rules.iter().map(|rule| changed(rule).unwrap_or_else(|| rule.clone())).collect()
    }

    /// Drops expired local changes. Returns `true` if there were any.
    fn expire(&self, now: Nanos) -> bool {
        let mut inner = self.0.lock();
        let before = inner.here.len();
        inner.here.retain(|_, (_, until)| until.is_none_or(|until| now < until));
        inner.here.len() < before
    }

    /// Replaces the fleet-wide changes. Returns `true` if they differ.
    fn follow(&self, everywhere: BTreeMap<Arc<str>, Change>) -> bool {
        let mut inner = self.0.lock();
        let news = inner.everywhere != everywhere;
        inner.everywhere = everywhere;
        news
    }
}

impl App {
    fn stored_changes(&self) -> Option<StoredChanges> {
        let redis_parts = self.0.redis_parts.as_ref()?;
        Some(StoredChanges::new(redis_parts.store.link().clone(), redis_parts.signing.clone()))
    }

    /// Changes a rule, or reverts a change, and logs it.
    pub(super) async fn changed_limit(self, rule: String, change: Option<LimitChange>) -> Changed {
        let live = self.0.live.load_full();
        let Some(configured) = live.settings.rules.iter().find(|configured| *configured.name == *rule) else {
            return Changed::NoRule;
        };
        let (name, stored, changes) = (Arc::clone(&configured.name), self.stored_changes(), &self.0.changes);
        let Some(LimitChange { change, lasts, fleet }) = change else {
            let here = changes.0.lock().here.remove(&name).is_some();
            let deleted = match &stored {
                Some(stored) => stored.delete(&name).await,
                None => Ok(false),
            };
            if deleted.is_ok() {
                changes.0.lock().everywhere.remove(&name);
            }
            tracing::info!(rule, "a rule change was reverted through the admin port");
            self.reapply();
            return match deleted {
                Ok(deleted) if here || deleted => Changed::Done(json!({ "rule": rule, "changed": false })),
                Ok(_) => Changed::NoChange,
                Err(_) => Changed::Unavailable,
            };
        };
        if let Err(fault) = change.apply(configured) {
            return Changed::Invalid(fault);
        }
        if fleet {
            let Some(stored) = stored else { return Changed::NoSharedState };
            if stored.put(&name, &change, lasts).await.is_err() {
                return Changed::Unavailable;
            }
            changes.0.lock().everywhere.insert(name, change);
        } else {
            let until = lasts.map(|lasts| self.0.clock.now() + lasts);
            changes.0.lock().here.insert(name, (change, until));
        }
        tracing::info!(
            rule,
            change = change.write(),
            lasts_s = lasts.map(|lasts| lasts.as_secs_f64()),
            fleet,
            "a rule was changed through the admin port"
        );
        self.reapply();
        Changed::Done(json!({ "rule": rule, "changed": true }))
    }

    /// Rebuilds the stack with the currently changed rules.
    fn reapply(&self) {
        let inner = &*self.0;
        let _one_at_a_time = inner.reloading.lock();
        let before = inner.live.load_full();
        let rule_set = Arc::new(before.rule_set.rebuilt(inner.changes.apply(&before.settings.rules)));
        let counting = counting(inner.redis_parts.as_ref(), &rule_set, Some(&before.counting));
        let tokens = tokens::tokens(&before.settings, inner.key_source.borrow().as_ref());
        let state = self.state(before.spans.clone(), Arc::clone(&before.exact), Arc::clone(&before.paths));
        match build::stack(&before.settings, &counting, tokens, &state) {
            Ok(stack) => {
                let (settings, spans) = (before.settings.clone(), state.spans);
                let (exact, paths) = (state.exact, state.paths);
                inner.live.store(Arc::new(LiveSettings {
                    settings,
                    rule_set,
                    counting,
                    spans,
                    exact,
                    paths,
                    stack,
                }));
            }
            Err(error) => tracing::warn!(%error, "cannot apply the rule change; keeping the old rules"),
        }
    }

    pub(super) fn expire_changes(&self) {
        if self.0.changes.expire(self.0.clock.now()) {
            tracing::info!("a temporary rule change expired");
            self.reapply();
        }
    }

    /// Follows the changes made at other gateways.
    pub(super) async fn follow_changes(self) {
        let Some(stored) = self.stored_changes() else { return };
        loop {
            sleep(LOOK).await;
            let rules = self
                .0
                .live
                .load()
                .settings
                .rules
                .iter()
                .map(|rule| Arc::clone(&rule.name))
                .collect::<Vec<_>>();
            if let Ok(found) = stored.read(&rules).await
                && self.0.changes.follow(found.into_iter().collect())
            {
                tracing::info!("rules were changed for all gateways");
                self.reapply();
            }
        }
    }
}
