//! Rules counted in Redis, one quota for all gateways.
//!
//! A request makes at most one trip: all rules with the caller in their key are one script call; rules that many callers
//! share are [leased](crate::limit::purse) ahead, and a lease that is needed at once travels beside that call. Refusals
//! are [remembered](crate::limit::denied) until their wait is over. What a request really used is told
//! [afterwards](Holding).
//!
//! **Failure mode.** A request that hears nothing within the timeout, or comes while Redis is known to be away, is decided
//! here, each rule as its `on_loss` says; what it may have been charged in Redis is taken back.
//!
//! **Trade-off.** Leases and remembered refusals may each be wrong by what happened elsewhere since: over all gateways a
//! leased rule admits its quota and what they hold in leases, and a refund made by another gateway is seen late.

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

/// How long a gateway that goes down waits for Redis.
const LEAVE: Duration = Duration::from_secs(1);

/// What rules need of Redis, whatever the rules are. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    link: Link,
    dams: Arc<Dams>,
    clock: Clock,
    scripts: Arc<Scripts>,
    afterwards: Afterwards,
    /// Operations so far: each has a name of its own.
    operations: Arc<AtomicU64>,
}

impl Store {
    /// A store over `link`, and the work that it leaves for afterwards, to be run as a task.
    pub fn new(
        link: Link,
        dams: Arc<Dams>,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let scripts = Arc::new(Scripts::default());
        let (afterwards, work) = Afterwards::new(link.clone(), Arc::clone(&scripts), clock.clone());
        (Self { link, dams, clock, scripts, afterwards, operations: Arc::default() }, work)
    }

    /// The gateways at work.
    #[must_use]
    pub fn dams(&self) -> &Arc<Dams> {
        &self.dams
    }

    /// Tells Redis what it has not heard yet, as far as it listens, and that this gateway goes.
    pub async fn leave(&self) {
        self.afterwards.done(LEAVE).await;
        self.dams.leave(&self.link).await;
    }

    /// The size of this gateway's share of the quotas. One that started while Redis was away does not know what it gave
    /// before it was restarted.
    fn share(&self) -> Share {
        Share { dams: self.dams.count(), fills_since: self.link.began_alone() }
    }

    /// The connection.
    #[must_use]
    pub const fn link(&self) -> &Link {
        &self.link
    }
}

/// The rules of one ladder, counted in Redis.
pub struct SharedRules {
    store: Store,
    ladder: Arc<Ladder>,
    /// By the rules' indexes.
    counted: Vec<Counted>,
    planner: Planner,
    denials: Denials,
    /// Who was refused and told to come back.
    lines: Lines,
    purses: Purses,
    /// This gateway's share of the quotas, and its size.
    share: Mutex<(Share, Arc<Ladder>)>,
}

impl fmt::Debug for SharedRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRules").field("counted", &self.counted).finish_non_exhaustive()
    }
}

impl SharedRules {
    /// The rules of `ladder`. What is counted here while Redis is away goes on from `before`.
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

    /// The rules as such.
    #[must_use]
    pub const fn ladder(&self) -> &Arc<Ladder> {
        &self.ladder
    }

    /// Forgets what was leased, and what Redis refused: after a long pause both are old.
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

    /// A name for an operation that no other has.
    fn id(&self) -> String {
        let count = self.store.operations.fetch_add(1, Ordering::Relaxed);
        format!("{}{count:x}", self.store.dams.id())
    }

    fn record(&self, tag: &str, id: &str) -> String {
        self.planner.record(tag, id)
    }

    /// Sends for later: each ask with its mark and what its amount is to become.
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

    /// This gateway's share of the quotas while nobody can be asked.
    fn share(&self) -> Arc<Ladder> {
        let size = self.store.share();
        let mut share = self.share.lock();
        if share.0 != size {
            *share = (size, Arc::new(self.ladder.share(size, Some(&share.1))));
        }
        Arc::clone(&share.1)
    }
}
