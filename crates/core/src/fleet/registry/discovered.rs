//! Workers that discovery sources report.
//!
//! * **Trust.** `workers.allow` holds for every address, whichever source names it. A worker that
//!   is configured, or sends heartbeats, is never replaced by one at the same address.
//! * **Failure mode.** A source goes away: its last set stays, and the workers of it are
//!   *unverified*, because an address may since belong to somebody else. A source that suddenly
//!   knows no workers, or none that is ready, is more often wrong than right: its last set stays
//!   too, for the grace in the settings, or until one is ready again.
//! * **Trade-off.** Times are on the process clock, which leaves out pauses of this gateway. The
//!   grace counts only while the source answers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::{RegistrySettings, WorkerRegistry};
use crate::clock::Nanos;
use crate::fleet::address::permits_address;
use crate::fleet::discovery::{
    DiscoveredWorker, DiscoveryRefusal, DiscoverySource, LONGEST_ID, MOST_DISCOVERED, Presence, TargetId,
    TargetSettings,
};
use crate::fleet::spec::WorkerSpec;

/// Model names that a worker lists.
pub type ModelNames = Arc<[Arc<str>]>;

/// What one target reported last.
#[derive(Debug)]
struct TargetState {
    settings: TargetSettings,
    workers: Vec<DiscoveredWorker>,
    /// Addresses that must be listed themselves.
    excluded: Vec<IpAddr>,
    /// When it was configured, and its last sign of life.
    since: Duration,
    heard: Option<Duration>,
    /// `true` if it was configured at the start: the gateway is not ready before its first answer.
    awaited: bool,
    /// Since when it has answered that there are no workers, if it does.
    empty_since: Option<Duration>,
}

impl TargetState {
    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard.unwrap_or(self.since))
    }

    fn is_away(&self, now: Duration) -> bool {
        self.heard.is_none() || self.age(now) > self.settings.silence
    }

    /// Records a sign of life. Returns `true` if workers are dropped because the source has reported an
    /// empty set for the time `grace`.
    fn record_contact(&mut self, now: Duration, grace: Duration) -> bool {
        if self.is_away(now) {
            // An empty set from before the outage counts from now: it may have changed meanwhile.
            self.empty_since = self.empty_since.map(|_| now);
        }
        self.heard = Some(now);
        let over = self.empty_since.is_some_and(|since| now.saturating_sub(since) >= grace);
        over && !std::mem::take(&mut self.workers).is_empty()
    }

    /// Takes a new set. Returns `true` if anything changed.
    fn take(&mut self, mut set: Vec<DiscoveredWorker>, now: Duration, grace: Duration) -> bool {
        if set.is_empty() {
            self.empty_since = self.empty_since.or(Some(now));
            return self.record_contact(now, grace);
        }
        self.empty_since = None;
        self.record_contact(now, grace);
        if set.iter().all(|worker| worker.presence == Presence::NotReady) {
            let was_ready: HashSet<&Arc<str>> = self
                .workers
                .iter()
                .filter(|worker| worker.presence == Presence::Ready)
                .map(|worker| &worker.id)
                .collect();
            for worker in set.iter_mut().filter(|worker| was_ready.contains(&worker.id)) {
                worker.presence = Presence::Ready;
            }
        }
        let changed = self.workers != set;
        self.workers = set;
        changed
    }
}

/// What all targets reported last.
#[derive(Debug, Default)]
pub(super) struct DiscoveredWorkers {
    targets: Vec<TargetState>,
    /// The models that workers list, by worker.
    names: HashMap<Arc<str>, ModelNames>,
}

/// A discovered worker that is used.
struct UsedWorker<'a> {
    spec: WorkerSpec,
    seen: &'a DiscoveredWorker,
    scrape: bool,
}

impl DiscoveredWorkers {
    /// Keeps what is known of the targets that are still configured. New ones are `awaited` or not.
    pub(super) fn configure(&mut self, targets: &[TargetSettings], awaited: bool, now: Duration) {
        let mut known: HashMap<TargetId, TargetState> =
            self.targets.drain(..).map(|state| (state.settings.id.clone(), state)).collect();
        let state = |settings: &TargetSettings| match known.remove(&settings.id) {
            Some(state) => TargetState { settings: settings.clone(), ..state },
            None => TargetState {
                settings: settings.clone(),
                workers: Vec::new(),
                excluded: Vec::new(),
                since: now,
                heard: None,
                awaited,
                empty_since: None,
            },
        };
        self.targets = targets.iter().map(state).collect();
    }

    fn target(&mut self, id: &TargetId) -> Option<&mut TargetState> {
        self.targets.iter_mut().find(|state| state.settings.id == *id)
    }

    /// Returns the workers that are used beside `others`, by target and then as the source sorts
    /// them; and those that are not, with the reasons.
    fn used(
        &self,
        settings: &RegistrySettings,
        others: &[WorkerSpec],
    ) -> (Vec<UsedWorker<'_>>, Vec<(Arc<str>, DiscoveryRefusal)>) {
        let (mut used, mut refused): (Vec<UsedWorker<'_>>, _) = (Vec::new(), Vec::new());
        let mut ids: HashSet<Arc<str>> = others.iter().map(|spec| Arc::clone(&spec.id)).collect();
        let mut places: HashSet<(Arc<str>, IpAddr, u16)> = others.iter().filter_map(place).collect();
        let mut models: HashMap<Arc<str>, Arc<str>> =
            others.iter().map(|spec| (Arc::clone(&spec.pool), Arc::clone(&spec.model))).collect();
        let all = self.targets.iter().flat_map(|state| state.workers.iter().map(move |seen| (state, seen)));
        for (target, seen) in all {
            if !permits_address(&settings.allow, &target.excluded, seen.address) {
                refused.push((Arc::clone(&seen.id), DiscoveryRefusal::NotAllowed));
                continue;
            }
            // Until it has said what it serves, nothing can be sent to it.
            let Some(spec) = self.spec(target, seen, settings) else { continue };
            let taken = place(&spec).is_some_and(|place| places.contains(&place));
            if taken || ids.contains(&spec.id) {
                continue;
            }
            let model = models.entry(Arc::clone(&spec.pool)).or_insert_with(|| Arc::clone(&spec.model));
            if *model != spec.model {
                refused.push((Arc::clone(&spec.id), DiscoveryRefusal::OtherModel));
                continue;
            }
            if used.len() >= MOST_DISCOVERED {
                refused.push((Arc::clone(&spec.id), DiscoveryRefusal::Full));
                continue;
            }
            ids.insert(Arc::clone(&spec.id));
            places.extend(place(&spec));
            used.push(UsedWorker { spec, seen, scrape: target.settings.scrape });
        }
        (used, refused)
    }

    fn spec(
        &self,
        target: &TargetState,
        seen: &DiscoveredWorker,
        settings: &RegistrySettings,
    ) -> Option<WorkerSpec> {
        let headers = headers(settings, seen.address);
        let settings = &target.settings;
        let reported = seen.model.as_ref().or(settings.model.as_ref());
        let model = reported.or_else(|| self.names.get(&seen.id)?.first())?;
        Some(WorkerSpec {
            id: Arc::clone(&seen.id),
            url: seen.url.clone(),
            address: Some(seen.address),
            pool: Arc::clone(seen.pool.as_ref().unwrap_or(&settings.pool)),
            model: Arc::clone(model),
            slots: seen.slots,
            kv_tokens: seen.kv_tokens,
            colour: Arc::clone(seen.colour.as_ref().unwrap_or(&settings.colour)),
            headers,
            external: None,
            http2: None,
        })
    }
}

/// Returns the headers that the settings name for workers at `address`.
fn headers(settings: &RegistrySettings, address: IpAddr) -> HeaderMap {
    let covers = |hosts| permits_address(from_ref(hosts), &[], address);
    let covering = settings.headers.iter().find(|(hosts, _)| covers(hosts));
    covering.map(|(_, headers)| headers.clone()).unwrap_or_default()
}

/// Returns the pool and address of a worker; `None` for a host name, whose address is not known.
fn place(spec: &WorkerSpec) -> Option<(Arc<str>, IpAddr, u16)> {
    let host = || spec.url.host()?.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let address: IpAddr = spec.address.or_else(host)?;
    let default = if spec.url.scheme_str() == Some("https") { 443 } else { 80 };
    Some((Arc::clone(&spec.pool), address.to_canonical(), spec.url.port_u16().unwrap_or(default)))
}

/// A discovered worker that may be asked which models it serves.
#[derive(Clone, Debug)]
pub struct UnnamedWorker {
    /// Its id.
    pub id: Arc<str>,
    /// Its URL and address.
    pub url: http::Uri,
    /// The address to connect to.
    pub address: IpAddr,
    /// Headers of the request. Sensitive.
    pub headers: HeaderMap,
}

impl WorkerRegistry {
    /// Takes the whole set of workers of `target`. `excluded`: addresses, such as the API server's, that
    /// need an entry of their own in `workers.allow`. Workers with ids that are too long are left out.
    pub fn discover(
        &mut self,
        target: &TargetId,
        mut set: Vec<DiscoveredWorker>,
        excluded: &[IpAddr],
        now: Nanos,
    ) {
        let (now, grace) = (self.tick(now), self.settings.empty_grace);
        set.retain(|worker| worker.id.len() <= LONGEST_ID);
        set.truncate(MOST_DISCOVERED);
        let Some(state) = self.discovered.target(target) else { return };
        let narrower = state.excluded != excluded;
        excluded.clone_into(&mut state.excluded);
        if state.take(set, now, grace) || narrower {
            self.revision += 1;
            let present: HashSet<Arc<str>> = self
                .discovered
                .targets
                .iter()
                .flat_map(|state| state.workers.iter().map(|worker| Arc::clone(&worker.id)))
                .collect();
            self.discovered.names.retain(|id, _| present.contains(id));
        }
    }

    /// Records that the source of `target` answers and nothing changed.
    pub fn source_works(&mut self, target: &TargetId, now: Nanos) {
        let (now, grace) = (self.tick(now), self.settings.empty_grace);
        if self.discovered.target(target).is_some_and(|state| state.record_contact(now, grace)) {
            self.revision += 1;
        }
    }

    /// Takes the names that a discovered worker lists at `/v1/models`. While its source is away it may
    /// be somebody else who answers, so the names from before stay.
    pub fn name_models(&mut self, id: &Arc<str>, names: Vec<Arc<str>>) {
        let known = self.discovered.names.get(id).is_some_and(|known| **known == *names);
        let now = self.process.time();
        let known_by = |state: &&TargetState| !state.is_away(now);
        let mut present = self.discovered.targets.iter().filter(known_by).flat_map(|state| &state.workers);
        let present = present.any(|seen| seen.id == *id);
        if !known && !names.is_empty() && present {
            self.discovered.names.insert(Arc::clone(id), names.into());
            self.revision += 1;
        }
    }

    /// Returns the discovered workers at allowed addresses, except those that end: each may be asked
    /// for its models.
    #[must_use]
    pub fn workers_to_ask(&self) -> Vec<UnnamedWorker> {
        let targets = self.discovered.targets.iter();
        let seen = targets.flat_map(|state| state.workers.iter().map(move |seen| (state, seen)));
        seen.filter(|(state, seen)| {
            seen.presence != Presence::Draining
                && permits_address(&self.settings.allow, &state.excluded, seen.address)
        })
        .take(MOST_DISCOVERED)
        .map(|(_, seen)| UnnamedWorker {
            id: Arc::clone(&seen.id),
            url: seen.url.clone(),
            address: seen.address,
            headers: headers(&self.settings, seen.address),
        })
        .collect()
    }

    /// Returns the workers whose health and metrics the gateway reads: those that send no heartbeats
    /// and for which the settings say so.
    #[must_use]
    pub fn workers_to_read(&self) -> Vec<WorkerSpec> {
        let specs = self.configured_and_heard_specs();
        let discovered = self.discovered.used(&self.settings, &specs).0;
        let discovered = discovered.into_iter().filter(|used| used.scrape).map(|used| used.spec);
        let configured = specs.iter().filter(|spec| self.settings.scraped.contains(&spec.id)).cloned();
        configured.chain(discovered).filter(|spec| !self.known.contains_key(&spec.id)).collect()
    }

    /// Returns the discovered workers that are not used, with the reasons.
    #[must_use]
    pub fn discovery_refusals(&self) -> Vec<(Arc<str>, DiscoveryRefusal)> {
        self.discovered.used(&self.settings, &self.configured_and_heard_specs()).1
    }

    /// Returns the targets whose source has not answered since the start of this gateway.
    #[must_use]
    pub fn awaited_targets(&self) -> Vec<TargetId> {
        let awaited = self.discovered.targets.iter().filter(|state| state.awaited && state.heard.is_none());
        awaited.map(|state| state.settings.id.clone()).collect()
    }

    /// Returns the time since the last sign of life of each source: that of the target for which it
    /// is longest, at the last [`WorkerRegistry::tick`].
    #[must_use]
    pub fn source_ages(&self) -> BTreeMap<DiscoverySource, Duration> {
        let (now, mut ages) = (self.process.time(), BTreeMap::new());
        for state in &self.discovered.targets {
            let age: &mut Duration = ages.entry(state.settings.id.source).or_default();
            *age = (*age).max(state.age(now));
        }
        ages
    }

    /// Returns the targets whose source is away.
    #[must_use]
    pub fn targets_away(&self) -> Vec<TargetId> {
        let now = self.process.time();
        let away = self.discovered.targets.iter().filter(|state| state.is_away(now));
        away.map(|state| state.settings.id.clone()).collect()
    }

    /// Advances the process clock to `now`, to be called several times a second. Returns its time.
    pub fn tick(&mut self, now: Nanos) -> Duration {
        self.process.beat(now);
        self.process.time()
    }

    /// Returns the discovered workers that are used.
    pub(super) fn discovered_specs(&self, others: &[WorkerSpec]) -> Vec<WorkerSpec> {
        let used = self.discovered.used(&self.settings, others).0;
        used.into_iter().map(|used| used.spec).collect()
    }

    /// Returns the discovered workers that take no new requests.
    pub(super) fn discovered_held(&self) -> Vec<Arc<str>> {
        // Several times a second, of up to thousands of other workers.
        if self.discovered.targets.is_empty() {
            return Vec::new();
        }
        let used = self.discovered.used(&self.settings, &self.configured_and_heard_specs()).0;
        let held = used.into_iter().filter(|used| {
            used.seen.presence != Presence::Ready
                || self.is_other_version(&used.spec, used.seen.version.as_ref())
        });
        held.map(|used| used.spec.id).collect()
    }

    /// Returns the workers whose source is away, with the models that they listed before. A worker
    /// that never listed any cannot be told from another.
    pub(super) fn unverified(&self) -> BTreeMap<Arc<str>, ModelNames> {
        let now = self.process.time();
        let away = self.discovered.targets.iter().filter(|state| state.is_away(now));
        away.flat_map(|state| &state.workers)
            .filter_map(|seen| Some((Arc::clone(&seen.id), Arc::clone(self.discovered.names.get(&seen.id)?))))
            .collect()
    }
}
