//! Plan of a request: the cells it charges, the amounts, and the keys.
//!
//! A rule with the caller in its key lives under the caller's hash tag, so that all such rules are
//! one call to one cluster node. Any other rule has its own tag, and is leased. Callers, addresses
//! and models are hashed: keys reveal no names and have a bounded length.

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::cell::Cell;
use crate::limit::rule::{Mode, Per, Rule};
use crate::limit::{ExpectedCost, RuleCost, RuleSet, Subject};
use crate::refusal::Unit;

/// A rule, prepared for Redis.
#[derive(Clone, Debug)]
pub(super) struct PlannedRule {
    pub(super) rule: Arc<Rule>,
    /// `true` if units are leased because the key has no caller in it.
    pub(super) leased: bool,
}

impl PlannedRule {
    pub(super) fn of(rule: &Arc<Rule>) -> Self {
        Self { leased: !rule.per.contains(&Per::Caller), rule: Arc::clone(rule) }
    }
}

/// Charge that a request asks of one rule.
#[derive(Clone, Debug)]
pub(super) struct CellRequest {
    pub(super) index: usize,
    /// The rule, with the caller's own quota if any.
    pub(super) rule: Arc<Rule>,
    pub(super) cell: Cell,
    pub(super) key: Arc<str>,
    /// Hash of key and quota, for the tables of this process.
    pub(super) hash: u64,
    /// Units; never zero in a plan's `strict` and `leased`.
    pub(super) amount: u64,
}

impl CellRequest {
    pub(super) fn enforced(&self) -> bool {
        self.rule.mode == Mode::Enforce
    }
}

pub(super) type CellRequests = SmallVec<[CellRequest; 4]>;

/// Charges that a request asks of all matching rules.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) tag: String,
    pub(super) strict: CellRequests,
    pub(super) leased: CellRequests,
    /// Rules charged zero now and settled at the end.
    pub(super) free: CellRequests,
    /// Rules that can never admit this amount.
    pub(super) never: SmallVec<[(usize, Arc<Rule>); 2]>,
}

/// Makes plans. Key names are the same in all gateways; hashes are private to this process.
#[derive(Debug)]
pub(super) struct Planner {
    /// `{prefix}:limit:`.
    prefix: String,
    random: RandomState,
}

/// Bytes of a hash in a key: enough that no two names collide, and no more.
const TAG_BYTES: usize = 16;

fn hex(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
}

impl Planner {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}:limit:"), random: RandomState::new() }
    }

    pub(super) fn plan(
        &self,
        rule_set: &RuleSet,
        counted: &[PlannedRule],
        subject: &Subject<'_>,
        cost: &ExpectedCost,
    ) -> Plan {
        let mut plan = Plan::default();
        for RuleCost { index, rule: own, amount } in rule_set.rule_costs(subject, cost) {
            let Some(rule) = counted.get(index) else { continue };
            let Some(amount) = amount else {
                plan.never.push((index, own));
                continue;
            };
            if !rule.leased && plan.tag.is_empty() {
                let digest = subject.with_key_bytes(Per::Caller, |caller| Sha256::digest(caller));
                hex(&digest[..TAG_BYTES], &mut plan.tag);
            }
            let cell = Cell::of(&own);
            let key = self.key(rule, cell.kind(), subject, &plan.tag);
            // The quota is hashed too: a cached refusal must not hold after the quota has grown.
            let hash = self.random.hash_one((&key, own.quota));
            let ask = CellRequest { index, rule: own, cell, hash, key: key.into(), amount };
            let asks = match amount {
                0 => &mut plan.free,
                _ if rule.leased => &mut plan.leased,
                _ => &mut plan.strict,
            };
            asks.push(ask);
        }
        plan
    }

    /// Returns `{prefix}:limit:{TAG}:NAME:KIND`, plus the hash of further key parts.
    fn key(&self, rule: &PlannedRule, kind: &str, subject: &Subject<'_>, caller: &str) -> String {
        let Rule { name, per, unit, .. } = &*rule.rule;
        let mut rest = Sha256::new();
        let mut parts = 0;
        for part in per.iter().filter(|part| !matches!(part, Per::Caller | Per::All)) {
            subject.with_key_bytes(*part, |bytes| {
                // Length-prefixed, so that different lists of parts never hash the same input.
                rest.update((bytes.len() as u64).to_le_bytes());
                rest.update(bytes);
            });
            parts += 1;
        }
        let mut rest_hex = String::new();
        if parts > 0 {
            hex(&rest.finalize()[..TAG_BYTES], &mut rest_hex);
        }
        let unit = match unit {
            Unit::Requests => 'r',
            Unit::Tokens => 't',
        };
        let prefix = &self.prefix;
        if rule.leased {
            format!("{prefix}{{{name}:{rest_hex}}}:{kind}{unit}")
        } else {
            let colon = if parts > 0 { ":" } else { "" };
            format!("{prefix}{{{caller}}}:{name}:{kind}{unit}{colon}{rest_hex}")
        }
    }

    /// Returns the key of an operation's record, on the node of the cells with that tag.
    pub(super) fn record(&self, tag: &str, id: &str) -> String {
        format!("{}{{{tag}}}:op:{id}", self.prefix)
    }
}

pub(super) fn tag_of(key: &str) -> &str {
    key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(tag, _)| tag)
}
