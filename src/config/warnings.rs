//! Warnings about settings that are valid, but probably not intended.

use std::fmt;
use std::sync::Arc;

use super::Settings;
use super::settings::JobMode;
use super::syntax::Text;
use crate::estimate::UNKNOWN_OUTPUT;
use crate::glob::Glob;
use crate::limit::rule::{Algorithm, Rule};
use crate::refusal::Unit;

/// A setting that is probably not intended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The setting, as a dotted path.
    pub field: String,
    /// The effect of the setting, and a better value.
    pub problem: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl Settings {
    /// Returns all settings that are probably not intended, in the order of the file.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |field: String, problem| warnings.push(Warning { field, problem });
        if let Some(problem) = self.anonymous() {
            warn("callers.anonymous".to_owned(), problem);
        }
        for (index, rule) in self.rules.iter().enumerate() {
            if let Some((field, problem)) = token_rule_too_small(rule) {
                warn(format!("limits[{index}].{field}"), problem);
            }
        }
        let (wait, slo) = (self.gate.queue_wait, self.gate.ttft_slo);
        if wait >= slo && !slo.is_zero() {
            let [wait, slo] = [wait, slo].map(|time| Text(time).to_string());
            let problem = format!(
                "`{wait}` is not shorter than `concurrency.ttft_slo` (`{slo}`): a request that waits this long misses the TTFT \
                 SLO before it is sent; the default is a quarter of the SLO"
            );
            warn("concurrency.queue.wait".to_owned(), problem);
        }
        if self.gateways > 1 && !self.shared.rules && !self.rules.is_empty() {
            let problem = format!(
                "`memory` counts in each gateway separately: {0} gateways admit up to {0} times each quota; use `redis`, or \
                 divide the quotas",
                self.gateways
            );
            warn("state".to_owned(), problem);
        }
        if self.gateways > 1 && self.chooses_by_prefix() && self.prefix.key.is_none() {
            let problem = "is not set, nor is `redis.hmac_key`: each gateway hashes prompts with a random key of its own, so \
                           they send the same conversation to different workers; set the same secret for all, or \
                           `concurrency.prefix: off`";
            warn("prefix.key".to_owned(), problem.to_owned());
        }
        for (field, name) in self.unserved() {
            let problem = format!(
                "no worker of `workers.static` serves `{name}`, and none can join: `workers.static[].model` names what is served"
            );
            warn(field, problem);
        }
        let uses_redis = self.shared.rules
            || self.shared.callers
            || self.shared.jobs != JobMode::Nothing
            || self.discovery.is_some()
            // Without `prefix.key`, prompts are hashed with `redis.hmac_key`.
            || (self.file.redis.hmac_key.is_some() && self.file.prefix.key.is_none() && self.gate.prefix.is_some());
        if self.redis_in_file && !uses_redis {
            let problem = "is set but not used; it is used by `state: redis`, `workers.discovery: redis`, \
                           `workers.mode: queue`, `callers.stored: redis` and `concurrency.overflow: jobs`";
            warn("redis".to_owned(), problem.to_owned());
        }
        warnings
    }

    /// Returns `true` if workers may be chosen by prefixes: a pool has or may get more than one.
    fn chooses_by_prefix(&self) -> bool {
        let several = |pool: &Arc<str>| self.workers.iter().filter(|worker| worker.pool == *pool).count() > 1;
        let several = || self.workers.iter().any(|worker| several(&worker.pool));
        self.gate.prefix.is_some() && (self.workers_may_join() || several())
    }

    /// Returns the names in `models` that nobody serves, with their fields.
    fn unserved(&self) -> Vec<(String, Arc<str>)> {
        if self.workers_may_join() {
            return Vec::new();
        }
        let workers: Vec<Glob> = self.workers.iter().map(|worker| Glob::new(worker.model.clone())).collect();
        let entries: Vec<Glob> =
            self.models.iter().map(|model| Glob::new(model.names.model.clone())).collect();
        let served = |name: &str| workers.iter().any(|pattern| pattern.matches(name));
        // The names that serve another entry's model are looked at there.
        let renamed = |name: &str| {
            let entry = entries.iter().position(|pattern| pattern.matches(name));
            entry.and_then(|index| self.models.get(index)).is_some_and(|model| !model.names.serve.is_empty())
        };
        let mut unserved = Vec::new();
        for (index, model) in self.models.iter().enumerate() {
            let one = model.names.serve.len() == 1;
            for (place, share) in model.names.serve.iter().enumerate() {
                if !served(&share.model) {
                    let place = if one { String::new() } else { format!("[{place}].model") };
                    unserved.push((format!("models[{index}].serve{place}"), Arc::clone(&share.model)));
                }
            }
            for (place, fallback) in model.names.fallback.iter().enumerate() {
                if !served(&fallback.model) && !renamed(&fallback.model) {
                    let field = format!("models[{index}].fallback[{place}].model");
                    unserved.push((field, Arc::clone(&fallback.model)));
                }
            }
        }
        unserved
    }

    fn anonymous(&self) -> Option<String> {
        let callers = &self.callers;
        let known = if !callers.keys.is_empty() {
            "`callers.keys`"
        } else if self.tokens.is_some() {
            "`callers.jwt`"
        } else if self.shared.callers {
            "`callers.stored`"
        } else {
            return None;
        };
        callers.anonymous.then(|| {
            format!(
                "`allow` together with {known}: a request without a key, or with an unknown one, is served too; `refuse` answers it \
                 with 401"
            )
        })
    }
}

/// Warns of a rule in tokens that one request of unknown length takes up.
fn token_rule_too_small(rule: &Rule) -> Option<(&'static str, String)> {
    let capacity = rule.capacity();
    if rule.unit != Unit::Tokens || rule.reserve_max || capacity > UNKNOWN_OUTPUT {
        return None;
    }
    let field = if rule.algorithm == Algorithm::TokenBucket { "burst" } else { "limit" };
    Some((
        field,
        format!(
            "`{capacity}` tokens are not enough for a prompt and the {UNKNOWN_OUTPUT} tokens first expected of an answer: a \
             new caller's request without `max_tokens` reserves all of them, and no second one is admitted beside it"
        ),
    ))
}
