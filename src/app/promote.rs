//! Obtains permits for asynchronous jobs.
//!
//! Jobs wait in Redis for any gateway with room. Each gateway asks its gates for the oldest job of
//! each caller as for a live request: one order holds for both, strict by class, fair by caller.
//! The gateway with a permit dispatches the job and keeps the permit until the answer is complete.
//! If no worker takes from a queue, it runs the job itself (`own`).
//!
//! **Failure mode.** A gateway that dies loses only its count of permits: dispatched jobs belong to
//! the workers, the others wait for other gateways.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::App;
use super::embedded::{EmbeddedConsumers, QueuedRequest};
use crate::clock::unix_millis;
use crate::fleet::Fleet;
use crate::redis::consumer::{Runs, StreamEntry as Held};
use crate::redis::jobs::{Job, JobQueue, JobTicket, Pending};
use crate::refusal::{Reason, Refusal};
use crate::request::{Payload, RequestCost, RequestRecord};
use crate::shed::{GateEntry, GateHandle, Permit, PermitRequest};

/// Poll interval for waiting jobs.
const LOOK: Duration = Duration::from_millis(100);
/// Maximum age of the job list: other gateways take from it and add to it.
const FRESH: Duration = Duration::from_secs(1);
/// Interval for removing unused consumer names, and how long they must have been idle.
pub(super) const FORGET: Duration = Duration::from_secs(600);
const UNHEARD: Duration = Duration::from_secs(3600);
/// Maximum concurrent asks per pool: they compete for queue places with live requests.
const ASKED: usize = 8;

/// Known waiting jobs of one pool.
#[derive(Debug)]
struct PoolJobs {
    read: Instant,
    jobs: Vec<(Job, Pending)>,
}

/// Waiting jobs of one pool, as read from Redis: every gateway reads the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backlog {
    pub(super) waiting: u64,
    /// Those that may start now.
    pub(super) due: u64,
    /// When the oldest of those began to wait, in ms since 1970; `None` if none may start.
    pub(super) since_ms: Option<u64>,
}

impl Backlog {
    fn of(jobs: &[(Job, Pending)], now_ms: u64) -> Self {
        let due = || jobs.iter().filter(|(_, pending)| pending.is_due(now_ms));
        Self {
            waiting: jobs.len() as u64,
            due: due().count() as u64,
            since_ms: due().map(|(_, pending)| pending.waits_since()).min(),
        }
    }
}

/// Work in progress of this gateway.
#[derive(Debug, Default)]
struct Busy {
    /// Pools and callers with an ask in progress.
    asked: HashSet<(Arc<str>, Arc<str>)>,
    /// Jobs being dispatched or running.
    jobs: HashSet<Job>,
}

struct PromotedJob {
    app: App,
    busy: Arc<Mutex<Busy>>,
    pool: Arc<str>,
    gate: GateHandle,
    job: Job,
    pending: Pending,
    /// Set if the gateway runs the job itself.
    own: Option<(JobQueue, Arc<Runs>)>,
}

impl App {
    /// Dispatches waiting jobs as permits become free.
    pub(super) async fn promote(self) {
        let Some(redis_parts) = &self.0.redis_parts else { return };
        let Some(jobs) = redis_parts.jobs.clone() else { return };
        let mut own = redis_parts.overflow.then(|| {
            let settings = &self.0.live.load().settings;
            EmbeddedConsumers::new(
                jobs.clone(),
                self.0.clock.clone(),
                settings.shared.redis.clone(),
                redis_parts.signing.clone(),
            )
        });
        let busy = Arc::<Mutex<Busy>>::default();
        let mut waiting: HashMap<Arc<str>, PoolJobs> = HashMap::new();
        let mut turns = JoinSet::new();
        let mut forgotten: Option<Instant> = None;
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            while turns.try_join_next().is_some() {}
            if self.0.maintenance.refusal().is_some() {
                continue;
            }
            let fleet = self.0.fleet.load_full();
            let is_there = |name: &str| fleet.pools().iter().any(|pool| *pool.name == *name);
            waiting.retain(|name, _| is_there(name));
            self.0.backlog.lock().retain(|name, _| is_there(name));
            if let Some(own) = &mut own {
                own.retain(is_there);
            }
            if forgotten.is_none_or(|at| at.elapsed() >= FORGET) {
                forgotten = Some(Instant::now());
                forget_consumers(&jobs, &fleet).await;
            }
            for pool in fleet.pools() {
                let known = waiting.remove(&pool.name);
                // Reading also expires jobs, so it is done even without workers.
                let Some((mut known, backlog)) = refreshed(&jobs, &pool.name, known).await else { continue };
                if let Some(backlog) = backlog {
                    self.0.backlog.lock().insert(Arc::clone(&pool.name), backlog);
                }
                if !pool.workers.iter().any(|worker| worker.eligible) {
                    waiting.insert(Arc::clone(&pool.name), known);
                    continue;
                }
                let own = own.as_mut().map(|own| (jobs.clone(), own.of(&pool.name)));
                for (job, pending) in known.next(&pool.name, &busy) {
                    let turn = PromotedJob {
                        app: self.clone(),
                        busy: Arc::clone(&busy),
                        pool: Arc::clone(&pool.name),
                        gate: pool.gate.clone(),
                        job,
                        pending,
                        own: own.clone(),
                    };
                    turns.spawn(turn.take());
                }
                waiting.insert(Arc::clone(&pool.name), known);
            }
        }
    }
}

/// Removes the names of gateways that ran jobs once and left. Those of workers: `sides`.
async fn forget_consumers(jobs: &JobQueue, fleet: &Fleet) {
    for pool in fleet.pools() {
        forget(jobs, &pool.name, "").await;
    }
}

/// Removes the unused consumer names of one side, and its stream if nobody reads it.
pub(super) async fn forget(jobs: &JobQueue, pool: &str, side: &str) {
    match jobs.forget_consumers(pool, side, UNHEARD).await {
        Ok(0) => {}
        Ok(count) => tracing::debug!(pool, side, count, "removed unused consumer names"),
        // Retried next time.
        Err(loss) => tracing::debug!(%loss, "cannot remove unused consumer names"),
    }
}

/// Waiting jobs of `pool`, read again if old or empty, and then the backlog; `None` if Redis fails.
async fn refreshed(
    jobs: &JobQueue,
    pool: &str,
    known: Option<PoolJobs>,
) -> Option<(PoolJobs, Option<Backlog>)> {
    let now = Instant::now();
    if let Some(known) = known
        && !known.jobs.is_empty()
        && now.duration_since(known.read) < FRESH
    {
        return Some((known, None));
    }
    let mut jobs = jobs.pending(pool).await.ok()?;
    jobs.sort_by_key(|(job, pending)| (pending.at_ms, *job));
    let backlog = Backlog::of(&jobs, unix_millis());
    Some((PoolJobs { read: now, jobs }, Some(backlog)))
}

impl PoolJobs {
    /// The oldest job of each caller without an ask in progress.
    fn next(&mut self, pool: &Arc<str>, busy: &Mutex<Busy>) -> Vec<(Job, Pending)> {
        let mut busy = busy.lock();
        let mut room = ASKED.saturating_sub(busy.asked.iter().filter(|(of, _)| of == pool).count());
        let mut next = Vec::new();
        let now_ms = unix_millis();
        self.jobs.retain(|(job, pending)| {
            if !pending.is_due(now_ms) {
                return true;
            }
            if busy.jobs.contains(job) {
                return false;
            }
            if room == 0 || !busy.asked.insert((Arc::clone(pool), pending.caller().id)) {
                return true;
            }
            room -= 1;
            busy.jobs.insert(*job);
            next.push((*job, pending.clone()));
            false
        });
        next
    }
}

impl PromotedJob {
    async fn take(self) {
        let permit = self.permit().await;
        self.busy.lock().asked.remove(&(Arc::clone(&self.pool), self.pending.caller().id));
        if let Ok(permit) = permit
            && let Err(refusal) = Box::pin(self.run(permit)).await
        {
            tracing::debug!(
                job = %self.job,
                %refusal,
                "a job was not forwarded, or its answer was not read completely"
            );
        }
        self.busy.lock().jobs.remove(&self.job);
    }

    async fn permit(&self) -> Result<Permit, Refusal> {
        match self.gate.ask(PermitRequest::of(&self.pending.caller(), &self.pending.request_cost()))? {
            GateEntry::Admitted(permit) => Ok(permit),
            GateEntry::Waiting(mut waiter) => {
                let budget = waiter.expires_at().since(self.app.0.clock.now());
                match timeout(budget, &mut waiter).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(waiter.give_up()),
                }
            }
        }
    }

    /// Dispatches the job and keeps the permit until it ends.
    async fn run(&self, permit: Permit) -> Result<(), Refusal> {
        if let Some((jobs, runs)) = &self.own {
            return self.run_here(jobs, runs, permit).await;
        }
        let mut request = self.request();
        let extensions = request.extensions_mut();
        extensions.insert(permit);
        extensions.insert(JobTicket::Pending(self.job));
        let mut body = self.app.0.upstream.forward(request).await?.into_body();
        // The answer itself is not needed: it feeds the worker's statistics and shows the end.
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| Refusal::new(Reason::UpstreamBroke, error.to_string()))?;
        }
        Ok(())
    }

    /// Takes the job out, if it still waits, and runs it.
    async fn run_here(&self, jobs: &JobQueue, runs: &Runs, permit: Permit) -> Result<(), Refusal> {
        let _awaited = self.app.0.drain.track_work();
        // The guard comes before the check: a drain either waits for this job or prevents it.
        if self.app.0.drain.is_refusing() {
            return Ok(());
        }
        let lost = |loss| Refusal::new(Reason::UpstreamUnreachable, format!("{loss}"));
        if let Some(id) = jobs.take_pending(&self.pool, self.job, &self.pending).await.map_err(lost)? {
            let mut request = self.request();
            // No other consumer has the job: if a worker fails before it answers, another may try.
            request.extensions_mut().insert(RequestCost { retryable: true, ..self.pending.request_cost() });
            let paths = Arc::clone(&self.app.0.live.load().paths);
            let engine = QueuedRequest::new(self.app.0.upstream.clone(), paths, request, permit);
            let held = Held { id, side: "".into(), job: self.job.to_string(), given: 1 };
            runs.work(&held, &engine).await;
            jobs.count_end(&self.pool, self.job).await;
        }
        Ok(())
    }

    fn request(&self) -> Request<Payload> {
        let clock = &self.app.0.clock;
        let mut request = Request::new(Payload::empty());
        *request.method_mut() = Method::POST;
        if let Ok(uri) = self.pending.path().parse() {
            *request.uri_mut() = uri;
        }
        let extensions = request.extensions_mut();
        extensions.insert(Arc::new(RequestRecord::new(self.job.to_string(), clock.now())));
        extensions.insert(self.pending.caller());
        extensions.insert(self.pending.request_cost());
        request
    }
}
