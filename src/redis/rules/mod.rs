//! Rules counted in Redis, with one quota for all gateways.
//!
//! A request waits for at most one round trip. All rules with the caller in their key are one
//! script call. Rules that many callers share are [leased](crate::limit::lease) ahead; a lease
//! needed at once is sent with that call. Refusals are [cached](crate::limit::denial_cache) until their
//! wait is over. The real usage of a request is settled [afterwards](Holding).
//!
//! **Failure mode.** If Redis is known to be away or does not answer within the timeout, this
//! gateway decides locally, by each rule's `on_loss`. A charge that Redis may have made is undone.
//!
//! **Trade-off.** Leases and cached refusals miss what other gateways did since. Over all gateways
//! a leased rule admits its quota plus units in leases; refunds of others are seen late.

pub mod cell;
mod decide;
mod explain;
mod holding;
mod plan;
mod round_trip;
pub mod script;
mod settlements;

pub use decide::{Admitted, RuleRefusal};
pub use holding::Holding;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use self::plan::{CellRequest, PlannedRule, Planner};
use self::script::RuleScripts;
use self::settlements::{Settlement, SettlementScript};
use super::gateways::Gateways;
use super::link::RedisLink;
use super::outbox::Outbox;
use crate::clock::Clock;
use crate::limit::denial_cache::Denials;
use crate::limit::lease::Leases;
use crate::limit::retry_queue::RetryQueues;
use crate::limit::{GatewayShare, RuleSet};

/// Longest time that a shutdown waits for Redis.
const LEAVE: Duration = Duration::from_secs(1);

/// Shared access of all rule sets to Redis. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    link: RedisLink,
    gateways: Arc<Gateways>,
    clock: Clock,
    scripts: Arc<RuleScripts>,
    outbox: Outbox<Settlement>,
    /// Count of operations, to give each a unique id.
    operations: Arc<AtomicU64>,
}

impl Store {
    /// Creates a store over `link`, and the settlement task, which must be spawned.
    pub fn new(
        link: RedisLink,
        gateways: Arc<Gateways>,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let scripts = Arc::new(RuleScripts::default());
        let (outbox, inbox) = Outbox::new();
        let work = settlements::send(link.clone(), Arc::clone(&scripts), clock.clone(), inbox);
        (Self { link, gateways, clock, scripts, outbox, operations: Arc::default() }, work)
    }

    /// Returns the registry of live gateways.
    #[must_use]
    pub(crate) fn gateways(&self) -> &Arc<Gateways> {
        &self.gateways
    }

    /// Flushes pending settlements to Redis, for at most 1 s, and reports that this gateway leaves.
    pub(crate) async fn leave(&self) {
        if !self.outbox.flush(LEAVE).await {
            tracing::warn!("shutdown: some settlements did not reach Redis");
        }
        self.gateways.leave(&self.link).await;
    }

    /// Returns the size of this gateway's share of the quotas. A gateway that started while Redis
    /// was away does not know what it admitted before its restart.
    fn share(&self) -> GatewayShare {
        GatewayShare { gateways: self.gateways.count(), fills_since: self.link.started_without_redis() }
    }

    /// Returns the connection.
    #[must_use]
    pub(crate) const fn link(&self) -> &RedisLink {
        &self.link
    }
}

/// A rule set, counted in Redis.
pub struct SharedRules {
    store: Store,
    rule_set: Arc<RuleSet>,
    counted: Vec<PlannedRule>,
    planner: Planner,
    denials: Denials,
    /// Retry queues: refused requests that were told when to retry.
    lines: RetryQueues,
    leases: Leases,
    /// Local share of the quotas, and its size.
    share: Mutex<(GatewayShare, Arc<RuleSet>)>,
}

impl fmt::Debug for SharedRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRules").field("counted", &self.counted).finish_non_exhaustive()
    }
}

impl SharedRules {
    /// Creates the rule set. Local counts, used while Redis is away, continue from `before`.
    #[must_use]
    pub fn new(store: Store, rule_set: Arc<RuleSet>, before: Option<&Self>) -> Self {
        let size = store.share();
        let share = {
            let before = before.map(|before| Arc::clone(&before.share.lock().1));
            rule_set.share(size, before.as_deref())
        };
        Self {
            counted: rule_set.rules().iter().map(PlannedRule::of).collect(),
            planner: Planner::new(&store.link.settings().prefix),
            store,
            rule_set,
            denials: Denials::default(),
            lines: RetryQueues::default(),
            leases: Leases::default(),
            share: Mutex::new((size, Arc::new(share))),
        }
    }

    /// Returns the rule set without its counts.
    #[must_use]
    pub(crate) const fn rule_set(&self) -> &Arc<RuleSet> {
        &self.rule_set
    }

    /// Drops leases and cached refusals, which are stale after a long pause.
    pub(crate) fn forget(&self) {
        self.leases.clear();
        self.denials.clear();
    }

    fn counted(&self, index: usize) -> Option<&PlannedRule> {
        self.counted.get(index)
    }

    const fn clock(&self) -> &Clock {
        &self.store.clock
    }

    fn gateways(&self) -> u32 {
        self.store.gateways.count()
    }

    fn timeout(&self) -> Duration {
        self.store.link.settings().timeout
    }

    /// Returns a globally unique operation id.
    fn id(&self) -> String {
        let count = self.store.operations.fetch_add(1, Ordering::Relaxed);
        format!("{}{count:x}", self.store.gateways.id())
    }

    fn record(&self, tag: &str, id: &str) -> String {
        self.planner.record(tag, id)
    }

    /// Queues a settlement or an undo: for each ask its mark and the corrected amount.
    fn task<'a>(
        &self,
        verb: SettlementScript,
        record: String,
        asks: impl Iterator<Item = (&'a CellRequest, u64, u64)>,
    ) {
        let (mut keys, mut cells) = (Vec::new(), Vec::new());
        for (ask, mark, actual) in asks {
            keys.push(Arc::clone(&ask.key));
            cells.push((ask.cell.kind(), ask.cell.correct(mark, ask.amount, actual)));
        }
        keys.dedup();
        let since = self.clock().now();
        if !self.store.outbox.add(Settlement { verb, record, keys, cells, since }) {
            tracing::debug!("settlement queue is full; dropped a settlement");
        }
    }

    /// Returns the local share of the quotas, used while Redis is away.
    fn share(&self) -> Arc<RuleSet> {
        let size = self.store.share();
        let mut share = self.share.lock();
        if share.0 != size {
            *share = (size, Arc::new(self.rule_set.share(size, Some(&share.1))));
        }
        Arc::clone(&share.1)
    }
}
