//! The worker registry: workers from the settings, from heartbeats and from discovery sources.
//!
//! Configured workers are always present; others join with their first heartbeat and are removed
//! after a long silence, or come and go with the sets of discovery sources (`discovered`). The registry is pure: it takes texts and times, and returns the workers
//! for the next fleet snapshot and a report on each.
//!
//! * **Trust.** A heartbeat may add a worker on an allowed host, and may lower the load of any
//!   worker. It never changes where a configured worker is, what is sent to it, or its pool and
//!   colour. A rejected heartbeat changes nothing at all.
//! * **Failure mode.** The feed dies: ages stand still (`feed_clock`), so the fleet stays as it was.
//!   When it is back, each worker has one interval to send a heartbeat before its weight falls.
//! * **Trade-off.** Order is by `seq` within a `boot`; between boots the last received wins, and
//!   earlier ones are rejected. A replayed text of a boot never seen here looks new.

mod discovered;
#[cfg(test)]
mod discovered_tests;
mod feed_clock;
mod heartbeat_refusal;
mod members;
mod queue_workers;
mod report;
mod scraped;
#[cfg(test)]
mod tests;

pub use discovered::{ModelNames, UnnamedWorker};
pub use feed_clock::GAP;
pub use heartbeat_refusal::HeartbeatRefusal;
pub use members::QueueMember;
pub use report::WorkerReport;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Uri};

use self::discovered::DiscoveredWorkers;
use self::feed_clock::FeedClock;
use self::scraped::Scraped;
use super::address::{AllowedHosts, permits};
use super::discovery::TargetSettings;
use super::heartbeat::{DesiredState, Heartbeat, SigningKey, without_signature};
use super::side;
use super::spec::WorkerSpec;
use crate::clock::{Lag, Nanos};

/// Most workers that heartbeats can add: as many as the settings can name.
pub const MOST_WORKERS: usize = 1024;
/// Number of replaced boots that are remembered per worker.
const BOOTS: usize = 8;
/// How far ahead a worker's clock may be. It decides nothing, but a text from further ahead is
/// forged, or its worker's clock is so wrong that people would be misled.
const AHEAD: Duration = Duration::from_secs(60);
/// Silence until a worker is removed, at least ten intervals. Until then it is shown as red.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The operator's settings for workers that are not configured one by one.
#[derive(Clone, Debug, Default)]
pub struct RegistrySettings {
    /// The Redis channel that they come on; part of the signed text.
    pub channel: Arc<str>,
    /// The key they must be signed with, if any.
    pub key: Option<SigningKey>,
    /// The hosts that they, and discovery sources, may name.
    pub allow: Vec<AllowedHosts>,
    /// Headers for workers that are not configured, by their hosts; the first entry that covers a
    /// worker holds. Sensitive.
    pub headers: Vec<(AllowedHosts, HeaderMap)>,
    /// `true` if workers take their work from a queue. Then the gateway does not connect to them,
    /// and treats all workers of one colour of a pool as one.
    pub queue: bool,
    /// What discovery sources follow.
    pub targets: Vec<TargetSettings>,
    /// How long a source may answer that there are no workers before the last ones are removed.
    pub empty_grace: Duration,
    /// Configured workers whose health and metrics the gateway reads.
    pub scraped: BTreeSet<Arc<str>>,
}

/// How a heartbeat was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatSource {
    /// Just published on the channel.
    Channel,
    /// Read from a Redis key with this remaining time to live; three intervals when it was written.
    Key(Duration),
}

/// Registry revision and held workers. On a change, the fleet's snapshot must be rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryRevision {
    /// Changes with [`WorkerRegistry::specs`].
    pub revision: u64,
    /// Workers that get no new requests.
    pub held: BTreeSet<Arc<str>>,
    /// Workers whose discovery source is away: a new connection is used only after it answered for
    /// one of these models.
    pub unverified: BTreeMap<Arc<str>, ModelNames>,
}

/// A worker that sent a heartbeat.
#[derive(Debug)]
struct HeardWorker {
    beat: Arc<Heartbeat>,
    /// Time of the heartbeat, on the feed clock.
    at: Duration,
    replaced: VecDeque<Arc<str>>,
    /// Its description; `None` if it is configured.
    spec: Option<WorkerSpec>,
}

/// The only version of a colour that takes work, by pool and colour.
pub type NamedVersions = BTreeMap<(Arc<str>, Arc<str>), Arc<str>>;

/// All configured workers, and those that sent a heartbeat.
#[derive(Debug)]
pub struct WorkerRegistry {
    settings: RegistrySettings,
    configured: Vec<WorkerSpec>,
    known: HashMap<Arc<str>, HeardWorker>,
    /// Colours of which only one version takes work.
    named: NamedVersions,
    pulse: FeedClock,
    /// Time without pauses of this gateway.
    process: FeedClock,
    discovered: DiscoveredWorkers,
    scraped: Scraped,
    /// When the last complete read of the stored heartbeats was requested.
    read: Option<Nanos>,
    revision: u64,
}

impl WorkerRegistry {
    /// Creates a registry of the configured workers.
    #[must_use]
    pub fn new(settings: RegistrySettings, configured: Vec<WorkerSpec>) -> Self {
        let (process, mut discovered) = (FeedClock::default(), DiscoveredWorkers::default());
        discovered.configure(&settings.targets, true, process.time());
        Self {
            settings,
            configured,
            known: HashMap::new(),
            named: NamedVersions::new(),
            pulse: FeedClock::default(),
            process,
            discovered,
            scraped: Scraped::default(),
            read: None,
            revision: 0,
        }
    }

    /// Excludes the time in which the gateway itself was late.
    #[must_use]
    pub fn with_lag(self, lag: Lag) -> Self {
        Self { pulse: FeedClock::with_lag(lag.clone()), process: FeedClock::with_lag(lag), ..self }
    }

    /// Applies new settings. Workers that they no longer allow are removed.
    pub fn apply_settings(&mut self, settings: RegistrySettings, fixed: Vec<WorkerSpec>) {
        let before: HashSet<Arc<str>> = self.configured.drain(..).map(|spec| spec.id).collect();
        let now: HashSet<&Arc<str>> = fixed.iter().map(|spec| &spec.id).collect();
        self.known.retain(|id, heard| match &heard.spec {
            Some(spec) => {
                settings.queue == self.settings.queue
                    && !now.contains(id)
                    && (settings.queue || permits(&settings.allow, &spec.url))
            }
            None => now.contains(id) && before.contains(id),
        });
        self.discovered.configure(&settings.targets, false, self.process.time());
        (self.settings, self.configured) = (settings, fixed);
        self.revision += 1;
    }

    /// Forgets all heartbeats: they are no longer read.
    pub fn forget_heartbeats(&mut self) {
        self.known.clear();
        self.revision += 1;
    }

    /// Lets only the named versions of these colours take work: other versions of them are held.
    pub fn name_versions(&mut self, named: NamedVersions) {
        if self.named != named {
            self.named = named;
            self.revision += 1;
        }
    }

    /// Records that the feed worked at `at`. After an outage, well workers get an interval to send.
    pub fn feed_worked(&mut self, at: Nanos) {
        if self.pulse.beat(at) {
            let now = self.pulse.time();
            let well = |heard: &&mut HeardWorker| now.saturating_sub(heard.at) <= heard.beat.interval * 2;
            for heard in self.known.values_mut().filter(well) {
                heard.at = heard.at.max(now.saturating_sub(heard.beat.interval));
            }
        }
    }

    /// Returns `true` if the heartbeat feed works at `now`.
    #[must_use]
    pub fn feed_works(&self, now: Nanos) -> bool {
        self.pulse.works(now)
    }

    /// Returns the time since the heartbeat feed last gave a sign of life; `None` before the first.
    #[must_use]
    pub fn feed_age(&self, now: Nanos) -> Option<Duration> {
        self.pulse.age(now)
    }

    /// Records that all stored heartbeats were read; the read was requested at `at`.
    pub fn caught_up(&mut self, at: Nanos) {
        self.feed_worked(at);
        self.read = Some(at);
    }

    /// Returns `true` if all stored heartbeats were read after `time`. A working feed does not
    /// imply it: on a connection that outlived a pause, messages published meanwhile may be lost.
    #[must_use]
    pub fn caught_up_since(&self, time: Nanos) -> bool {
        self.read.is_some_and(|read| read >= time)
    }

    /// Processes a text that may be a heartbeat; `wall_ms` is the wall time in milliseconds since
    /// 1970. Returns `true` if it is new: a text from a Redis key was often received before.
    ///
    /// # Errors
    /// Reason why it changes nothing.
    pub fn receive(
        &mut self,
        text: &[u8],
        source: HeartbeatSource,
        now: Nanos,
        wall_ms: u64,
    ) -> Result<bool, HeartbeatRefusal> {
        if matches!(source, HeartbeatSource::Channel) {
            self.feed_worked(now);
        }
        let text = match &self.settings.key {
            // The length is checked first (by `read`): signing a megabyte takes a millisecond.
            Some(_) if text.len() > super::heartbeat::LARGEST => text,
            Some(key) => key.verify(&self.settings.channel, text)?,
            None => without_signature(text),
        };
        let beat = Heartbeat::read(text)?;
        let ahead = beat.at_ms.map_or(0, |at| at.saturating_sub(wall_ms));
        if u128::from(ahead) > AHEAD.as_millis() {
            return Err(HeartbeatRefusal::Future(ahead));
        }
        match self.check_order(&beat) {
            Err(HeartbeatRefusal::Replayed { .. } | HeartbeatRefusal::Replaced)
                if source != HeartbeatSource::Channel =>
            {
                return Ok(false);
            }
            order => order?,
        }
        let spec = self.describe(&beat)?;
        self.take(beat, spec, source);
        Ok(true)
    }

    /// Returns the workers: configured ones first, then those that send heartbeats by id, then
    /// those that discovery sources report.
    #[must_use]
    pub fn specs(&self) -> Vec<WorkerSpec> {
        let mut specs = self.configured_and_heard_specs();
        if !self.settings.queue {
            specs.extend(self.discovered_specs(&specs));
            for spec in &mut specs {
                self.scraped.complete(spec);
            }
        }
        specs
    }

    /// Returns the workers that are configured or send heartbeats.
    fn configured_and_heard_specs(&self) -> Vec<WorkerSpec> {
        let fixed = self.configured.iter().map(|spec| {
            let said = self.known.get(&spec.id).map(|heard| &heard.beat);
            WorkerSpec {
                slots: spec.slots.or_else(|| said?.slots),
                kv_tokens: spec.kv_tokens.or_else(|| said?.kv_tokens),
                ..spec.clone()
            }
        });
        if self.settings.queue {
            let workers = self.known.values().filter_map(|heard| Some((heard.spec.as_ref()?, &*heard.beat)));
            return queue_workers::specs(workers, &self.named);
        }
        let mut others: Vec<_> = self.known.values().filter_map(|heard| heard.spec.clone()).collect();
        others.sort_by(|one, other| one.id.cmp(&other.id));
        fixed.chain(others).collect()
    }

    /// Removes workers after a long silence. Returns the revision and the held workers.
    pub fn expire_and_revise(&mut self) -> RegistryRevision {
        let now = self.pulse.time();
        let before = self.known.len();
        self.known.retain(|_, heard| {
            let age = now.saturating_sub(heard.at);
            let leaves = heard.beat.state == DesiredState::Draining && age > heard.beat.interval * 3;
            age <= FORGOTTEN.max(heard.beat.interval * 10) && !(leaves && heard.spec.is_some())
        });
        if self.known.len() < before {
            self.revision += 1;
        }
        let held = self.reports().into_iter().filter(|report| report.held);
        // What never says its version is not of the named one.
        let silent = self
            .configured
            .iter()
            .filter(|spec| !self.known.contains_key(&spec.id) && self.is_other_version(spec, None))
            .map(|spec| Arc::clone(&spec.id));
        let held = held.map(|report| Arc::clone(&report.beat.worker)).chain(silent);
        RegistryRevision {
            revision: self.revision,
            held: held.chain(self.discovered_held()).collect(),
            unverified: self.unverified(),
        }
    }

    /// Returns the reports of the workers, in no particular order.
    ///
    /// A red check takes a worker out, but not the last of its pool that could serve: a check that
    /// fails everywhere is probably wrong, and a fleet that serves badly is better than none.
    #[must_use]
    pub fn reports(&self) -> Vec<WorkerReport> {
        let reports = self.worker_reports();
        if !self.settings.queue {
            return reports;
        }
        let described = |report: WorkerReport| {
            let spec = self.known.get(&report.beat.worker)?.spec.as_ref()?;
            Some((report, spec))
        };
        queue_workers::reports(reports.into_iter().filter_map(described).collect(), &self.named)
    }

    /// Returns `true` if `spec` has the colour of which only another version takes work.
    fn is_other_version(&self, spec: &WorkerSpec, version: Option<&Arc<str>>) -> bool {
        let named = self.named.get(&(Arc::clone(&spec.pool), Arc::clone(&spec.colour)));
        named.is_some_and(|named| version != Some(named))
    }

    fn worker_reports(&self) -> Vec<WorkerReport> {
        let now = self.pulse.time();
        let reported = |heard: &HeardWorker| WorkerReport::new(&heard.beat, now.saturating_sub(heard.at));
        let mut reports: Vec<WorkerReport> = self.known.values().map(reported).collect();
        reports.extend(self.scraped.reports(self.process.time(), |id| self.known.contains_key(id)));
        // In a queue each version has its own jobs, so the others need not be held.
        if !self.settings.queue && !self.named.is_empty() {
            for report in &mut reports {
                if self
                    .spec_of(&report.beat.worker)
                    .is_some_and(|spec| self.is_other_version(spec, report.beat.version.as_ref()))
                {
                    report.hold();
                }
            }
        }
        if !reports.iter().any(WorkerReport::is_unfit_by_check) {
            return reports;
        }
        let specs: Vec<WorkerSpec> = if self.settings.queue {
            self.known.values().filter_map(|heard| heard.spec.clone()).collect()
        } else {
            self.specs()
        };
        let pools: HashMap<&Arc<str>, &Arc<str>> = specs.iter().map(|spec| (&spec.id, &spec.pool)).collect();
        // Workers without a report can serve as well, unless their discovery source says otherwise.
        let gone: HashSet<Arc<str>> = self.discovered_held().into_iter().collect();
        let reported: HashSet<&Arc<str>> = reports.iter().map(|report| &report.beat.worker).collect();
        let mut able: HashSet<&Arc<str>> = specs
            .iter()
            .filter(|spec| !reported.contains(&spec.id) && !gone.contains(&spec.id))
            .map(|spec| &spec.pool)
            .collect();
        able.extend(
            reports
                .iter()
                .filter(|report| report.is_able() && !gone.contains(&report.beat.worker))
                .filter_map(|report| pools.get(&report.beat.worker)),
        );
        for report in &mut reports {
            let replaceable = pools.get(&report.beat.worker).is_some_and(|pool| able.contains(pool));
            if report.is_unfit_by_check() && replaceable {
                report.hold();
            }
        }
        reports
    }

    /// Returns the description of a worker that sent a heartbeat.
    fn spec_of(&self, id: &str) -> Option<&WorkerSpec> {
        let heard = self.known.get(id)?;
        heard.spec.as_ref().or_else(|| self.configured.iter().find(|spec| *spec.id == *id))
    }

    fn check_order(&self, beat: &Heartbeat) -> Result<(), HeartbeatRefusal> {
        let Some(heard) = self.known.get(&beat.worker) else { return Ok(()) };
        if heard.beat.boot == beat.boot {
            let (seq, seen) = (beat.seq, heard.beat.seq);
            return if seq > seen { Ok(()) } else { Err(HeartbeatRefusal::Replayed { seq, seen }) };
        }
        if heard.replaced.contains(&beat.boot) { Err(HeartbeatRefusal::Replaced) } else { Ok(()) }
    }

    /// Returns the description of the worker that sent `beat`; `None` for a configured one.
    fn describe(&mut self, beat: &Heartbeat) -> Result<Option<WorkerSpec>, HeartbeatRefusal> {
        if let Some(spec) = self.configured.iter().find(|spec| spec.id == beat.worker) {
            return contradiction(spec, beat)
                .map_or(Ok(None), |field| Err(HeartbeatRefusal::Contradicts(field)));
        }
        let known = self.known.get(&beat.worker).and_then(|heard| heard.spec.as_ref());
        let nowhere = self.settings.queue.then(|| queue_workers::nowhere(&beat.worker));
        let url = nowhere.as_ref().or(beat.url.as_ref()).or(known.map(|spec| &spec.url));
        let url = url.ok_or(HeartbeatRefusal::NoAddress)?;
        let colour = if self.settings.queue {
            side::colour_of(beat.colour.as_ref(), beat.version.as_deref())
                .ok_or_else(|| HeartbeatRefusal::NoColour(beat.version.as_deref().unwrap_or("").to_owned()))?
        } else {
            beat.colour.clone().unwrap_or_else(|| "blue".into())
        };
        let spec = self.described(beat, url, colour);
        if known == Some(&spec) {
            return Ok(Some(spec));
        }
        if nowhere.is_none() && !permits(&self.settings.allow, url) {
            return Err(HeartbeatRefusal::NotAllowed);
        }
        if known.is_none() && self.known.values().filter(|heard| heard.spec.is_some()).count() >= MOST_WORKERS
        {
            return Err(HeartbeatRefusal::Full);
        }
        self.check_neighbours(&spec)?;
        Ok(Some(spec))
    }

    /// Builds the description of a worker that is not configured. A heartbeat never sets headers: the
    /// settings may name some for its host.
    fn described(&self, beat: &Heartbeat, url: &Uri, colour: Arc<str>) -> WorkerSpec {
        let word = |said: &Option<Arc<str>>, default: &str| said.clone().unwrap_or_else(|| default.into());
        let pool = word(&beat.pool, "default");
        // A worker that joins a configured pool serves the pool's model, unless it names another.
        let models = self.configured.iter().filter(|spec| spec.pool == pool).map(|spec| &*spec.model);
        let covering = self.settings.headers.iter().find(|(hosts, _)| permits(from_ref(hosts), url));
        WorkerSpec {
            id: Arc::clone(&beat.worker),
            url: url.clone(),
            address: None,
            model: word(&beat.model, models.last().unwrap_or("*")),
            pool,
            slots: beat.slots,
            kv_tokens: beat.kv_tokens,
            colour,
            headers: covering.map(|(_, headers)| headers.clone()).unwrap_or_default(),
            external: None,
            http2: None,
        }
    }

    /// Checks that no other worker conflicts with `spec`. A worker that was restarted under another
    /// id at the same address replaces the one that fell silent.
    fn check_neighbours(&mut self, spec: &WorkerSpec) -> Result<(), HeartbeatRefusal> {
        let now = self.pulse.time();
        let gone = |heard: &HeardWorker| now.saturating_sub(heard.at) > heard.beat.interval * 2;
        let others = self.known.values().filter(|heard| !gone(heard)).filter_map(|heard| heard.spec.as_ref());
        for other in self.configured.iter().chain(others) {
            if other.id == spec.id || other.pool != spec.pool {
                continue;
            }
            if other.url == spec.url {
                return Err(HeartbeatRefusal::AddressTaken);
            }
            if other.model != spec.model {
                return Err(HeartbeatRefusal::OtherModel);
            }
        }
        let same_place = |other: &WorkerSpec| {
            other.id != spec.id
                && other.pool == spec.pool
                && (other.url == spec.url || other.model != spec.model)
        };
        self.known.retain(|_, heard| !heard.spec.as_ref().is_some_and(same_place));
        Ok(())
    }

    fn take(&mut self, beat: Heartbeat, spec: Option<WorkerSpec>, source: HeartbeatSource) {
        let age = match source {
            HeartbeatSource::Channel => Duration::ZERO,
            HeartbeatSource::Key(left) => (beat.interval * 3).saturating_sub(left),
        };
        let at = self.pulse.time().saturating_sub(age);
        let id = Arc::clone(&beat.worker);
        let mut replaced = VecDeque::new();
        let mut same = false;
        if let Some(before) = self.known.remove(&id) {
            replaced = before.replaced;
            if before.beat.boot != beat.boot {
                replaced.push_back(Arc::clone(&before.beat.boot));
                replaced.drain(..replaced.len().saturating_sub(BOOTS));
            }
            let sizes = |beat: &Heartbeat| (beat.slots, beat.kv_tokens);
            same = before.spec == spec
                && sizes(&before.beat) == sizes(&beat)
                && before.beat.version == beat.version;
        } else if spec.is_none() {
            // A configured worker is listed already; only values that the settings omit can change.
            same = beat.slots.is_none() && beat.kv_tokens.is_none();
        }
        if !same {
            self.revision += 1;
        }
        self.known.insert(id, HeardWorker { beat: Arc::new(beat), at, replaced, spec });
    }
}

/// Returns the field in which `beat` contradicts a configured worker, if any.
fn contradiction(spec: &WorkerSpec, beat: &Heartbeat) -> Option<&'static str> {
    let other = |said: &Option<Arc<str>>, set: &Arc<str>| said.as_ref().is_some_and(|said| said != set);
    if beat.url.as_ref().is_some_and(|url| *url != spec.url) {
        Some("url")
    } else if other(&beat.pool, &spec.pool) {
        Some("pool")
    } else if other(&beat.colour, &spec.colour) {
        Some("colour")
    } else {
        None
    }
}
