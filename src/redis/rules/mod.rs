//! Rules counted in Redis, with one quota for all gateways.
//!
//! A request waits for at most one round trip. All rules with the caller in their key are one
//! script call. Rules that many callers share are [leased](crate::limit::purse) ahead; a lease
//! needed at once is sent with that call. Refusals are [cached](crate::limit::denied) until their
//! wait is over. The real usage of a request is settled [afterwards](Holding).
//!
//! **Failure mode.** If Redis is known to be away or does not answer within the timeout, this
//! gateway decides locally, by each rule's `on_loss`. A charge that Redis may have made is undone.
//!
//! **Trade-off.** Leases and cached refusals miss what other gateways did since. Over all gateways
//! a leased rule admits its quota plus units in leases; refunds of others are seen late.

mod afterwards;
pub mod cell;
mod decide;
mod explain;
mod holding;
mod plan;
pub mod script;
mod trip;

pub use decide::{Admitted, Refused};
pub use holding::Holding;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use self::afterwards::{Afterwards, Errand, Verb};
use self::plan::{Ask, Counted, Planner};
use self::script::Scripts;
use super::dams::Dams;
use super::link::Link;
use crate::clock::Clock;
use crate::limit::denied::Denials;
use crate::limit::line::Lines;
use crate::limit::purse::Purses;
use crate::limit::{Ladder, Share};

/// How long a shutdown waits for Redis.
const LEAVE: Duration = Duration::from_secs(1);

/// Shared access of all rule sets to Redis. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    link: Link,
    dams: Arc<Dams>,
    clock: Clock,
    scripts: Arc<Scripts>,
    afterwards: Afterwards,
    /// Count of operations, to give each a unique id.
    operations: Arc<AtomicU64>,
}

impl Store {
    /// Creates a store over `link`, and the settlement task, which must be spawned.
    pub fn new(
        link: Link,
        dams: Arc<Dams>,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let scripts = Arc::new(Scripts::default());
        let (afterwards, work) = Afterwards::new(link.clone(), Arc::clone(&scripts), clock.clone());
        (Self { link, dams, clock, scripts, afterwards, operations: Arc::default() }, work)
    }

    /// Returns the registry of live gateways.
    #[must_use]
    pub fn dams(&self) -> &Arc<Dams> {
        &self.dams
    }

    /// Flushes pending settlements to Redis, for at most 1 s, and reports that this gateway leaves.
    pub async fn leave(&self) {
        self.afterwards.done(LEAVE).await;
        self.dams.leave(&self.link).await;
    }

    /// Returns the size of this gateway's share of the quotas. A gateway that started while Redis
    /// was away does not know what it admitted before its restart.
    fn share(&self) -> Share {
        Share { dams: self.dams.count(), fills_since: self.link.began_alone() }
    }

    /// Returns the connection.
    #[must_use]
    pub const fn link(&self) -> &Link {
        &self.link
    }
}

/// A rule set, counted in Redis.
pub struct SharedRules {
    store: Store,
    ladder: Arc<Ladder>,
    /// Indexed like the rules.
    counted: Vec<Counted>,
    planner: Planner,
    denials: Denials,
    /// Retry queues: refused requests that were told when to retry.
    lines: Lines,
    purses: Purses,
    /// Local share of the quotas, and its size.
    share: Mutex<(Share, Arc<Ladder>)>,
}

impl fmt::Debug for SharedRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRules").field("counted", &self.counted).finish_non_exhaustive()
    }
}

impl SharedRules {
    /// Creates the rule set. Local counts, used while Redis is away, continue from `before`.
    #[must_use]
    pub fn new(store: Store, ladder: Arc<Ladder>, before: Option<&Self>) -> Self {
        let size = store.share();
        let share = {
            let before = before.map(|before| Arc::clone(&before.share.lock().1));
            ladder.share(size, before.as_deref())
        };
        Self {
            counted: ladder.rules().iter().map(Counted::of).collect(),
            planner: Planner::new(&store.link.settings().prefix),
            store,
            ladder,
            denials: Denials::default(),
            lines: Lines::default(),
            purses: Purses::default(),
            share: Mutex::new((size, Arc::new(share))),
        }
    }

    /// Returns the rule set without its counts.
    #[must_use]
    pub const fn ladder(&self) -> &Arc<Ladder> {
        &self.ladder
    }

    /// Drops leases and cached refusals, which are stale after a long pause.
    pub fn forget(&self) {
        self.purses.clear();
        self.denials.clear();
    }

    fn counted(&self, index: usize) -> Option<&Counted> {
        self.counted.get(index)
    }

    const fn clock(&self) -> &Clock {
        &self.store.clock
    }

    fn dams(&self) -> u32 {
        self.store.dams.count()
    }

    fn timeout(&self) -> Duration {
        self.store.link.settings().timeout
    }

    /// Returns a globally unique operation id.
    fn id(&self) -> String {
        let count = self.store.operations.fetch_add(1, Ordering::Relaxed);
        format!("{}{count:x}", self.store.dams.id())
    }

    fn record(&self, tag: &str, id: &str) -> String {
        self.planner.record(tag, id)
    }

    /// Queues a settlement or an undo: for each ask its mark and the corrected amount.
    fn errand<'a>(&self, verb: Verb, record: String, asks: impl Iterator<Item = (&'a Ask, u64, u64)>) {
        let (mut keys, mut cells) = (Vec::new(), Vec::new());
        for (ask, mark, actual) in asks {
            keys.push(Arc::clone(&ask.key));
            cells.push((ask.cell.kind(), ask.cell.correct(mark, ask.amount, actual)));
        }
        keys.dedup();
        let since = self.clock().now();
        self.store.afterwards.add(Errand { verb, record, keys, cells, since });
    }

    /// Returns the local share of the quotas, used while Redis is away.
    fn share(&self) -> Arc<Ladder> {
        let size = self.store.share();
        let mut share = self.share.lock();
        if share.0 != size {
            *share = (size, Arc::new(self.ladder.share(size, Some(&share.1))));
        }
        Arc::clone(&share.1)
    }
}
