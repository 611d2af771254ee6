//! What a request asks of the rules: which cells, how much, and where they are.
//!
//! A rule whose key has the caller in it lives under the caller's hash tag, so that all of them are one call to one node
//! of a cluster. Any other rule has a tag of its own, and is leased. Callers, addresses and models are hashed: a key
//! shows nobody's name, and has one length whatever a client sends.

use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::cell::Cell;
use crate::limit::rule::{Mode, Per, Rule};
use crate::limit::{Claim, Cost, Ladder, Subject};
use crate::refusal::Unit;

/// One rule, ready to be asked.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) rule: Arc<Rule>,
    /// Whether its units are leased: its key has no caller in it.
    pub(super) leased: bool,
}

impl Counted {
    pub(super) fn of(rule: &Arc<Rule>) -> Self {
        Self { leased: !rule.per.contains(&Per::Caller), rule: Arc::clone(rule) }
    }
}

/// What a request asks of one rule.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// The rule's index.
    pub(super) index: usize,
    /// The rule, with the caller's own quota if it has one.
    pub(super) rule: Arc<Rule>,
    /// Its quota.
    pub(super) cell: Cell,
    /// The cell's key in Redis.
    pub(super) key: Arc<str>,
    /// The same for tables of this process.
    pub(super) hash: u64,
    /// Units; never zero in a plan's `strict` and `leased`.
    pub(super) amount: u64,
}

impl Ask {
    pub(super) fn enforced(&self) -> bool {
        self.rule.mode == Mode::Enforce
    }
}

pub(super) type Asks = SmallVec<[Ask; 4]>;

/// What a request asks of all rules that see it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The hash tag of the caller.
    pub(super) tag: String,
    pub(super) strict: Asks,
    pub(super) leased: Asks,
    /// Rules that are charged nothing now and settled at the end.
    pub(super) free: Asks,
    /// Rules that can never hold what the request needs.
    pub(super) never: SmallVec<[(usize, Arc<Rule>); 2]>,
}

/// Makes plans. The names of keys are the same in every gateway; the hashes are this one's own.
#[derive(Debug)]
pub(super) struct Planner {
    /// `{prefix}:limit:`.
    prefix: String,
    random: RandomState,
}

/// Enough that nobody finds two names of one hash, and no more.
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
        ladder: &Ladder,
        counted: &[Counted],
        subject: &Subject<'_>,
        cost: &Cost,
    ) -> Plan {
        let mut plan = Plan::default();
        for Claim { index, rule: own, amount } in ladder.claims(subject, cost) {
            let Some(rule) = counted.get(index) else { continue };
            let Some(amount) = amount else {
                plan.never.push((index, own));
                continue;
            };
            if !rule.leased && plan.tag.is_empty() {
                let digest = subject.identity(Per::Caller, |caller| Sha256::digest(caller));
                hex(&digest[..TAG_BYTES], &mut plan.tag);
            }
            let cell = Cell::of(&own);
            let key = self.key(rule, cell.kind(), subject, &plan.tag);
            // A refusal by another quota says nothing: who was given more is not to wait for it.
            let hash = self.random.hash_one((&key, own.quota));
            let ask = Ask { index, rule: own, cell, hash, key: key.into(), amount };
            let asks = match amount {
                0 => &mut plan.free,
                _ if rule.leased => &mut plan.leased,
                _ => &mut plan.strict,
            };
            asks.push(ask);
        }
        plan
    }

    /// `{prefix}:limit:{TAG}:NAME:KIND`, and what else tells keys of the rule apart.
    fn key(&self, rule: &Counted, kind: &str, subject: &Subject<'_>, caller: &str) -> String {
        let Rule { name, per, unit, .. } = &*rule.rule;
        let mut rest = Sha256::new();
        let mut parts = 0;
        for part in per.iter().filter(|part| !matches!(part, Per::Caller | Per::All)) {
            subject.identity(*part, |bytes| {
                // Each with its length, so that no two lists of parts read the same.
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

    /// The key of an operation's record, beside the cells of that tag.
    pub(super) fn record(&self, tag: &str, id: &str) -> String {
        format!("{}{{{tag}}}:op:{id}", self.prefix)
    }
}

/// The hash tag of a key.
pub(super) fn tag_of(key: &str) -> &str {
    key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(tag, _)| tag)
}
