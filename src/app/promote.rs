//! Asynchronous jobs get their turn.
//!
//! They wait in Redis, for any gateway that has room. Each gateway asks its gates for the oldest job of each caller as it
//! would for a request of theirs, so one order holds for both: strict by class, fair by caller. Whoever gets a seat
//! brings the job to the workers, and holds the seat until its answer is complete. Where no worker takes from a queue, the
//! gateway runs it itself (`own`).
//!
//! **Failure mode.** A gateway that dies while its jobs run loses nothing but the count of its seats: the jobs are the
//! workers' by then. One that dies before leaves them waiting for the others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::App;
use super::own::{Errand, Own};
use crate::fleet::Fleet;
use crate::redis::consumer::{Entry as Held, Runs};
use crate::redis::jobs::{Job, Jobs, Pending, Ticket};
use crate::refusal::{Reason, Refusal};
use crate::request::{Demand, Flight, Payload};
use crate::shed::{Ask, Entry, GateHandle, Permit};

/// How often is looked whether jobs wait.
const LOOK: Duration = Duration::from_millis(100);
/// How long a list of them is taken for true: others take from it too, and add to it.
const FRESH: Duration = Duration::from_secs(1);
/// How often names of consumers that are not used any more are forgotten, and after how long without a word.
const FORGET: Duration = Duration::from_secs(600);
const UNHEARD: Duration = Duration::from_secs(3600);
/// Callers asked for at once in each pool: their places are taken from requests that wait.
const ASKED: usize = 8;

/// What is known of the jobs that wait in one pool.
#[derive(Debug)]
struct PoolJobs {
    read: Instant,
    jobs: Vec<(Job, Pending)>,
}

/// What this gateway is busy with.
#[derive(Debug, Default)]
struct Busy {
    /// Callers that it asks for, by pool.
    asked: HashSet<(Arc<str>, Arc<str>)>,
    /// Jobs that it brings to the workers, or has brought.
    jobs: HashSet<Job>,
}

/// One job on its way.
struct Turn {
    app: App,
    busy: Arc<Mutex<Busy>>,
    pool: Arc<str>,
    gate: GateHandle,
    job: Job,
    pending: Pending,
    /// Where the gateway runs it itself.
    own: Option<(Jobs, Arc<Runs>)>,
}

impl App {
    /// Brings jobs that wait to the workers, as there is room.
    pub(super) async fn promote(self) {
        let Some(together) = &self.0.together else { return };
        let Some(jobs) = together.jobs.clone() else { return };
        let mut own = together.overflow.then(|| {
            let settings = &self.0.live.load().settings;
            Own::new(
                jobs.clone(),
                self.0.clock.clone(),
                settings.shared.redis.clone(),
                together.sealing.clone(),
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
            if self.0.door.shut().is_some() {
                continue;
            }
            let fleet = self.0.fleet.load_full();
            let is_there = |name: &str| fleet.pools().iter().any(|pool| *pool.name == *name);
            waiting.retain(|name, _| is_there(name));
            if let Some(own) = &mut own {
                own.retain(is_there);
            }
            if forgotten.is_none_or(|at| at.elapsed() >= FORGET) {
                forgotten = Some(Instant::now());
                forget_consumers(&jobs, &fleet).await;
            }
            for pool in fleet.pools() {
                let known = waiting.remove(&pool.name);
                // Reading them ends those whose time is over, whether there are workers or not.
                let Some(mut known) = refreshed(&jobs, &pool.name, known).await else { continue };
                if !pool.workers.iter().any(|worker| worker.eligible) {
                    waiting.insert(Arc::clone(&pool.name), known);
                    continue;
                }
                let own = own.as_mut().map(|own| (jobs.clone(), own.of(&pool.name)));
                for (job, pending) in known.next(&pool.name, &busy) {
                    let turn = Turn {
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

/// Forgets the names of workers and gateways that took jobs once, and left.
async fn forget_consumers(jobs: &Jobs, fleet: &Fleet) {
    for pool in fleet.pools() {
        let mut colours: Vec<&str> = pool.workers.iter().map(|worker| &*worker.spec.colour).collect();
        colours.push("");
        colours.sort_unstable();
        colours.dedup();
        for colour in colours {
            match jobs.forget_consumers(&pool.name, colour, UNHEARD).await {
                Ok(0) => {}
                Ok(count) => {
                    tracing::debug!(pool = &*pool.name, colour, count, "names of consumers forgotten")
                }
                // The next time will do.
                Err(loss) => tracing::debug!(%loss, "names of consumers are not forgotten"),
            }
        }
    }
}

/// The jobs that wait in `pool`, read anew if what is known is old or nothing. Nothing when Redis does not say.
async fn refreshed(jobs: &Jobs, pool: &str, known: Option<PoolJobs>) -> Option<PoolJobs> {
    let now = Instant::now();
    if let Some(known) = known
        && !known.jobs.is_empty()
        && now.duration_since(known.read) < FRESH
    {
        return Some(known);
    }
    let mut jobs = jobs.pending(pool).await.ok()?;
    jobs.sort_by_key(|(job, pending)| (pending.at_ms, *job));
    Some(PoolJobs { read: now, jobs })
}

impl PoolJobs {
    /// The oldest job of each caller that is not asked for yet.
    fn next(&mut self, pool: &Arc<str>, busy: &Mutex<Busy>) -> Vec<(Job, Pending)> {
        let mut busy = busy.lock();
        let mut room = ASKED.saturating_sub(busy.asked.iter().filter(|(of, _)| of == pool).count());
        let mut next = Vec::new();
        self.jobs.retain(|(job, pending)| {
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

impl Turn {
    async fn take(self) {
        let seat = self.seat().await;
        self.busy.lock().asked.remove(&(Arc::clone(&self.pool), self.pending.caller().id));
        if let Ok(permit) = seat
            && let Err(refusal) = self.run(permit).await
        {
            tracing::debug!(job = %self.job, %refusal, "a job was not brought to the workers, or its answer was not read to the end");
        }
        self.busy.lock().jobs.remove(&self.job);
    }

    async fn seat(&self) -> Result<Permit, Refusal> {
        match self.gate.ask(Ask::of(&self.pending.caller(), &self.pending.demand()))? {
            Entry::Admitted(permit) => Ok(permit),
            Entry::Waiting(mut waiter) => {
                let budget = waiter.expires_at().since(self.app.0.clock.now());
                match timeout(budget, &mut waiter).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(waiter.give_up()),
                }
            }
        }
    }

    /// Brings the job to the workers, and holds the seat as long as they work on it.
    async fn run(&self, permit: Permit) -> Result<(), Refusal> {
        if let Some((jobs, runs)) = &self.own {
            return self.run_here(jobs, runs, permit).await;
        }
        let mut request = self.request();
        let extensions = request.extensions_mut();
        extensions.insert(permit);
        extensions.insert(Ticket::Pending(self.job));
        let mut body = self.app.0.upstream.forward(request).await?.into_body();
        // Nobody here wants the answer: it is read for what it says of the workers, and to know when it ends.
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| Refusal::new(Reason::UpstreamBroke, error.to_string()))?;
        }
        Ok(())
    }

    /// Takes the job out, if it still waits, and answers it.
    async fn run_here(&self, jobs: &Jobs, runs: &Runs, permit: Permit) -> Result<(), Refusal> {
        let _awaited = self.app.0.drain.hold_work();
        // Held before it is asked: who goes down either waits for this, or it does not begin.
        if self.app.0.drain.is_refusing() {
            return Ok(());
        }
        let lost = |loss| Refusal::new(Reason::UpstreamUnreachable, format!("{loss}"));
        if let Some(id) = jobs.own(&self.pool, self.job, &self.pending).await.map_err(lost)? {
            let mut request = self.request();
            // Nobody else has it: where the worker fails before it answers, another may.
            request.extensions_mut().insert(Demand { retryable: true, ..self.pending.demand() });
            let paths = Arc::clone(&self.app.0.live.load().paths);
            let engine = Errand::new(self.app.0.upstream.clone(), paths, request, permit);
            runs.work(&Held { id, job: self.job.to_string(), given: 1 }, &engine).await;
            jobs.tally(&self.pool, self.job).await;
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
        extensions.insert(Arc::new(Flight::new(self.job.to_string(), clock.now())));
        extensions.insert(self.pending.caller());
        extensions.insert(self.pending.demand());
        request
    }
}
