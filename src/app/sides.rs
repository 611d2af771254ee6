//! The sides of a queue's pools: which one takes the work if nobody says so, where the jobs of a
//! side without workers go, and who takes jobs that are not his.
//!
//! Every gateway looks and decides for itself; the epoch of the switch lets only one of them act,
//! and moving a job may be repeated. The decisions are in [`crate::fleet::turnover`] and
//! [`crate::fleet::strangers`].
//!
//! **Failure mode.** Without heartbeats nothing changes: a side whose workers are only unheard
//! keeps its work.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::App;
use super::colours::FOLLOWING;
use super::promote::{FORGET, forget};
use crate::clock::Nanos;
use crate::config::Settings;
use crate::fleet::Fleet;
use crate::fleet::colour::ColourSwitch;
use crate::fleet::side;
use crate::fleet::strangers::Strangeness;
use crate::fleet::turnover::Turnover;
use crate::redis::RedisError;
use crate::redis::control::Control;
use crate::redis::jobs::{JobQueue, OwnStream, Side, Started};

/// Poll interval for the sides.
const LOOK: Duration = Duration::from_millis(100);
/// Poll interval for jobs of deserted sides, and for the readers of each stream.
const SWEEP: Duration = Duration::from_secs(1);
/// A name that read or renewed within this time belongs to a running process. An idle worker reads
/// once a second.
const READS: Duration = Duration::from_secs(4);
/// Most names looked at per stream: more than a pool may have workers.
const NAMES: usize = 2048;
/// Most workers whose own streams are remembered.
const OWN: usize = 4096;
/// A worker that was not there for this long is lost. Its silence has been noticed before.
const LOST: Duration = Duration::from_millis(500);
/// Time for which jobs are moved from the own stream of a lost worker.
const MOVED: Duration = Duration::from_secs(120);
/// Time after which a lost worker is forgotten; its name has been removed from Redis by then.
const FORGOTTEN: Duration = Duration::from_secs(2 * 3600);

impl App {
    /// Returns the queue that workers take jobs from; `None` if they take none.
    pub(super) fn queue(&self) -> Option<&JobQueue> {
        self.0.redis_parts.as_ref().filter(|redis_parts| !redis_parts.overflow)?.jobs.as_ref()
    }

    /// Keeps one side of each pool active, and watches who takes its jobs.
    pub(super) async fn keep_sides(self) {
        let Some(jobs) = self.queue() else { return };
        let mut turnover = Turnover::default();
        let mut own = BTreeMap::new();
        let (mut swept, mut forgotten): (Option<Instant>, Option<Instant>) = (None, None);
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.feed_works() != Some(true) {
                continue;
            }
            let live = self.0.live.load_full();
            let (settings, now) = (&live.settings, self.0.clock.now());
            let fleet = self.0.fleet.load_full();
            self.look_at_members(jobs, &mut own, now);
            let pools = self.look_at_sides(&mut turnover, &fleet, settings, now);
            for pool in &pools {
                self.choose_side(&mut turnover, pool, settings, now).await;
            }
            if swept.is_some_and(|at| at.elapsed() < SWEEP) {
                continue;
            }
            swept = Some(Instant::now());
            for pool in &pools {
                self.move_deserted(jobs, &turnover, pool, settings, now).await;
            }
            self.watch_readers(jobs, &fleet).await;
            move_lost(jobs, &mut own, now).await;
            if forgotten.is_none_or(|at| at.elapsed() >= FORGET) {
                forgotten = Some(Instant::now());
                for pool in &pools {
                    for side in turnover.sides(pool) {
                        forget(jobs, pool, side).await;
                    }
                }
                for (pool, alone) in own.keys() {
                    forget(jobs, pool, alone).await;
                }
            }
        }
    }

    /// Takes note of the workers that have a stream of their own.
    fn look_at_members(&self, jobs: &JobQueue, own: &mut OwnSeen, now: Nanos) {
        let members = self.0.fleet_sync.registry.lock().queue_members();
        let mut streams = HashMap::new();
        for member in members {
            let beat = &member.report.beat;
            let version = beat.version.as_deref();
            let takes = side::taken_by(&member.colour, version);
            let alone = side::of_worker(&member.colour, version, &beat.worker);
            let key = (Arc::clone(&member.pool), Arc::clone(&alone));
            if !member.is_lost()
                && let Some(everybodys) = takes.first()
                && (own.len() < OWN || own.contains_key(&key))
            {
                let seen =
                    OwnState { everybodys: Arc::clone(everybodys), last: now, wait: beat.interval * 3 };
                own.insert(key, seen);
            }
            if member.ready {
                let (pool, slots) = (member.pool, beat.slots.unwrap_or(1));
                streams.insert(Arc::clone(&beat.worker), OwnStream { pool, takes, side: alone, slots });
            }
        }
        jobs.set_own_streams(streams);
    }

    /// Takes note of all sides. Returns the pools.
    fn look_at_sides(
        &self,
        turnover: &mut Turnover,
        fleet: &Fleet,
        settings: &Settings,
        now: Nanos,
    ) -> BTreeSet<Arc<str>> {
        let sides = self.0.fleet_sync.registry.lock().queue_sides();
        let empty = fleet.pools().iter().map(|pool| Arc::clone(&pool.name));
        let pools: BTreeSet<_> = sides.keys().map(Arc::clone).chain(empty).collect();
        for pool in &pools {
            let sides = sides.get(pool).map_or(&[][..], |sides| sides);
            turnover.look(pool, sides, settings.version_wait, now);
        }
        pools
    }

    /// Returns the active side of `pool`, if the gateways may choose it.
    fn chosen_side(&self, pool: &str, settings: &Settings) -> ChosenSide {
        if settings.active_colour.is_some() {
            return ChosenSide::Fixed;
        }
        match self.0.fleet_sync.switches.lock().last(pool) {
            Some(switch) if switch.chosen => ChosenSide::Now(switch.side()),
            Some(_) => ChosenSide::Fixed,
            None => ChosenSide::None,
        }
    }

    /// Makes another side of `pool` active if that is due.
    async fn choose_side(&self, turnover: &mut Turnover, pool: &Arc<str>, settings: &Settings, now: Nanos) {
        let before = match self.chosen_side(pool, settings) {
            ChosenSide::Fixed => return,
            ChosenSide::None => None,
            ChosenSide::Now(side) => Some(side),
        };
        let Some(side) = turnover.choose(pool, before.as_ref(), settings.version_wait, now) else { return };
        let Some(redis) = self.redis() else { return };
        // Exactly the next epoch: whoever has seen less than the others cannot overrule them.
        let epoch = self.0.fleet_sync.switches.lock().epoch(pool).saturating_add(1);
        let switch = ColourSwitch {
            pool: Arc::clone(pool),
            colour: Arc::clone(&side),
            version: None,
            chosen: true,
            canary: None,
            epoch,
        };
        let published = async {
            let mut control = Control::open(&redis).await?;
            self.publish(&mut control, &switch).await
        };
        match published.await {
            Ok(true) => {
                let deadline = Instant::now() + FOLLOWING;
                self.follow(switch, deadline).await;
                let (pool, side) = (&**pool, &*side);
                match before {
                    None => {
                        tracing::info!(pool, side, "the first workers: their colour or version is active")
                    }
                    Some(before) => {
                        self.0.metrics.redis().side_change(pool);
                        let before = &*before;
                        tracing::warn!(pool, before, side, "no worker is left: another version takes over");
                    }
                }
            }
            // Another gateway was faster; its switch comes over the feed.
            Ok(false) => {}
            Err(error) => {
                let error: RedisError = error;
                tracing::debug!(%error, "cannot publish the choice of an active side");
            }
        }
    }

    /// Gives the jobs of sides without workers to the active side of `pool`.
    async fn move_deserted(
        &self,
        jobs: &JobQueue,
        turnover: &Turnover,
        pool: &Arc<str>,
        settings: &Settings,
        now: Nanos,
    ) {
        let ChosenSide::Now(active) = self.chosen_side(pool, settings) else { return };
        let wait = settings.version_wait;
        let to = Side { pool: Arc::clone(pool), colour: Arc::clone(&active) };
        for from in turnover.deserted(pool, &active, wait, now) {
            let from = Side { pool: Arc::clone(pool), colour: from };
            match jobs.move_jobs(&from, &to, wait, Started::End).await {
                Ok(done) if done.moved + done.ended > 0 => tracing::warn!(
                    pool = &**pool,
                    from = &*from.colour,
                    to = &*active,
                    moved = done.moved,
                    ended = done.ended,
                    "moved the jobs of a version without workers"
                ),
                Ok(_) => {}
                // Tried again in a second.
                Err(loss) => tracing::debug!(%loss, "cannot move the jobs of a version without workers"),
            }
        }
    }

    /// Notes the processes that read a side's jobs and are none of its workers.
    async fn watch_readers(&self, jobs: &JobQueue, fleet: &Fleet) {
        for worker in fleet.workers() {
            let side = Side { pool: Arc::clone(&worker.spec.pool), colour: Arc::clone(&worker.spec.colour) };
            let Ok(names) = jobs.readers(&side, READS).await else { return };
            let now = self.0.clock.now();
            let registry = self.0.fleet_sync.registry.lock();
            let mut strangers = jobs.strangers().lock();
            for name in names.iter().take(NAMES) {
                match registry.takes(name, &side.pool, &side.colour) {
                    Some(true) => strangers.knows(&side.pool, name),
                    Some(false) => {
                        strangers.saw(&side.pool, name, &side.colour, Strangeness::OtherSide, now);
                    }
                    None => strangers.saw(&side.pool, name, &side.colour, Strangeness::Unknown, now),
                }
            }
        }
    }
}

/// Gives the jobs in the own streams of lost workers to the others of their side.
async fn move_lost(jobs: &JobQueue, own: &mut OwnSeen, now: Nanos) {
    own.retain(|_, state| now.since(state.last) < FORGOTTEN);
    for ((pool, alone), state) in
        own.iter().filter(|(_, state)| (LOST..MOVED).contains(&now.since(state.last)))
    {
        let from = Side { pool: Arc::clone(pool), colour: Arc::clone(alone) };
        let to = Side { pool: Arc::clone(pool), colour: Arc::clone(&state.everybodys) };
        match jobs.move_jobs(&from, &to, state.wait, Started::Move).await {
            Ok(done) if done.moved > 0 => {
                tracing::info!(
                    pool = &**pool,
                    from = &**alone,
                    moved = done.moved,
                    "moved the jobs of a lost worker"
                );
            }
            Ok(_) => {}
            // Tried again in a second.
            Err(loss) => return tracing::debug!(%loss, "cannot move the jobs of a lost worker"),
        }
    }
}

/// Own streams of workers, by pool and side.
type OwnSeen = BTreeMap<(Arc<str>, Arc<str>), OwnState>;

/// The own stream of one worker.
struct OwnState {
    /// The side whose workers take its jobs if it is lost.
    everybodys: Arc<str>,
    /// When the worker was last there.
    last: Nanos,
    /// Time without a renewal after which a job of it is abandoned.
    wait: Duration,
}

/// The active side of a pool, as the gateways may change it.
enum ChosenSide {
    /// The settings or an operator have named it.
    Fixed,
    /// The gateways have chosen it.
    Now(Arc<str>),
    /// There is none yet.
    None,
}
