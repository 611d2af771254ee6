//! Switches a pool to its other colour, at once or after a canary.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::App;
use crate::fleet::colour::{CanaryTrial, ColourSwitch};
use crate::fleet::side;
use crate::redis::RedisError;
use crate::redis::control::{Control, overtaken};
use crate::server::admin::{CanaryRequest, SwitchRequest, Switched};

/// Time for the other gateways to follow before the operator is told that not all did. Longer than
/// a dead gateway still counts as present.
pub(super) const FOLLOWING: Duration = Duration::from_secs(4);
/// Poll interval for the gateways that follow.
const LOOK: Duration = Duration::from_millis(20);
/// Attempts when several operators switch the same pool at once: more than there are operators.
const TURNS: usize = 16;

impl App {
    /// Makes a colour the active one of a pool, on this gateway and on all that share its Redis: at
    /// once, or after a canary. With a version, only its workers take the work.
    pub(super) async fn switch(&self, request: &SwitchRequest) -> Switched {
        // A side on the page may be one version of a colour.
        let (colour, version) = match side::parts(&request.colour) {
            (colour, None) => (colour, request.version.as_deref()),
            (colour, named) => (colour, named),
        };
        let pool = &*request.pool;
        if let Some(refused) = self.cannot_switch(pool, colour, version, request.force) {
            return refused;
        }
        let deadline = Instant::now() + FOLLOWING;
        let wanted = ColourSwitch {
            pool: pool.into(),
            colour: colour.into(),
            // The colour that stands for a version has no other.
            version: version.filter(|version| *side::of_version(colour, version) != *colour).map(Into::into),
            chosen: false,
            canary: None,
            epoch: 0,
        };
        let wanted = match &request.canary {
            None => wanted,
            Some(canary) => match self.beside(wanted, canary) {
                Some(wanted) => wanted,
                None => return Switched::NotBeside,
            },
        };
        let Some(settings) = self.redis() else {
            let epoch = self.0.fleet_sync.switches.lock().epoch(pool).saturating_add(1);
            let switch = ColourSwitch { epoch, ..wanted };
            self.begin_canary(&switch, request);
            let followed = self.follow(switch, deadline).await;
            return if request.canary.is_some() { Switched::Canary { epoch } } else { followed };
        };
        let published = async {
            let mut control = Control::open(&settings).await?;
            let switch = self.tell(&mut control, &wanted, request.force).await?;
            Ok((control, switch))
        };
        let (mut control, switch) = match published.await {
            Ok((control, Some(switch))) => (control, switch),
            Ok((_, None)) => return Switched::UnderWay,
            Err(error) => {
                let error: RedisError = error;
                tracing::warn!(%error, "cannot publish the colour switch");
                return Switched::Unavailable;
            }
        };
        let (pool, epoch) = (Arc::clone(&switch.pool), switch.epoch);
        self.begin_canary(&switch, request);
        let here = self.follow(switch, deadline).await;
        let everybody = async {
            loop {
                match control.count_lagging(&pool, epoch).await {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, "cannot read which gateways follow the switch"),
                }
                sleep(LOOK).await;
            }
        };
        match (timeout_at(deadline, everybody).await, &request.canary) {
            (_, Some(_)) => Switched::Canary { epoch },
            (Ok(()), None) => here,
            (Err(_), None) => Switched::Partly { epoch },
        }
    }

    /// Returns why the pool cannot be switched to this colour now.
    fn cannot_switch(
        &self,
        pool: &str,
        colour: &str,
        version: Option<&str>,
        force: bool,
    ) -> Option<Switched> {
        let fleet = self.0.fleet.load();
        let Some(found) = fleet.pools().iter().find(|known| *known.name == *pool) else {
            return Some(Switched::NoPool);
        };
        let has_colour = || found.workers.iter().any(|worker| side::parts(&worker.spec.colour).0 == colour);
        let is_known = match version {
            Some(version) => self.0.fleet_sync.registry.lock().has_version(pool, colour, version),
            None => has_colour(),
        };
        if !is_known {
            return Some(Switched::NoWorkers);
        }
        if force {
            return None;
        }
        if self.has_canary(pool) {
            return Some(Switched::UnderWay);
        }
        (!self.has_ready(pool, colour, version)).then_some(Switched::NotReady)
    }

    fn has_canary(&self, pool: &str) -> bool {
        self.0.fleet_sync.switches.lock().last(pool).is_some_and(|last| last.canary.is_some())
    }

    /// Returns `true` if a worker of this colour, and version if one is named, could take work.
    pub(super) fn has_ready(&self, pool: &str, colour: &str, version: Option<&str>) -> bool {
        let fleet = self.0.fleet.load();
        let Some(found) = fleet.pools().iter().find(|known| *known.name == *pool) else { return false };
        let workers = found.gate.snapshot().workers;
        let answers = |id: &str| workers.iter().any(|worker| *worker.id == *id && worker.reachable);
        self.0.fleet_sync.registry.lock().has_ready(pool, colour, version, answers)
    }

    /// Returns the switch that tries the side `wanted` beside the active one; `None` if no other
    /// colour is active.
    fn beside(&self, wanted: ColourSwitch, canary: &CanaryRequest) -> Option<ColourSwitch> {
        let live = self.0.live.load();
        let default_colour = live.settings.active_colour.clone();
        let switches = self.0.fleet_sync.switches.lock();
        let last = switches.last(&wanted.pool);
        // The settings overrule the choice of a gateway.
        let last = last.filter(|last| default_colour.is_none() || !last.chosen);
        let (colour, version, chosen) = match last {
            Some(last) => (Arc::clone(&last.colour), last.version.clone(), last.chosen),
            None => (default_colour?, None, false),
        };
        (colour != wanted.colour).then(|| ColourSwitch {
            canary: Some(CanaryTrial {
                colour: wanted.colour,
                version: wanted.version,
                per_million: canary.per_million,
                old_epoch: switches.epoch(&wanted.pool),
            }),
            pool: wanted.pool,
            colour,
            version,
            chosen,
            epoch: 0,
        })
    }

    fn begin_canary(&self, switch: &ColourSwitch, request: &SwitchRequest) {
        if let Some(canary) = &request.canary {
            self.judge_canary(switch, canary);
        }
    }

    /// Publishes the switch to all gateways under the next epoch. Returns `None` if a canary began
    /// meanwhile, unless the switch is forced.
    async fn tell(
        &self,
        control: &mut Control,
        wanted: &ColourSwitch,
        force: bool,
    ) -> Result<Option<ColourSwitch>, RedisError> {
        for turn in 0..TURNS {
            if !force && self.has_canary(&wanted.pool) {
                return Ok(None);
            }
            let followed = self.0.fleet_sync.switches.lock().epoch(&wanted.pool);
            let stored = control.epoch(&wanted.pool).await?;
            // A switch that this gateway has not followed yet may have begun a canary. One that it
            // never follows, such as a text with a wrong signature, is overruled in the end.
            if stored > followed && !force && turn < TURNS / 2 {
                sleep(LOOK).await;
                continue;
            }
            let switch = ColourSwitch { epoch: stored.max(followed).saturating_add(1), ..wanted.clone() };
            if self.publish(control, &switch).await? {
                return Ok(Some(switch));
            }
        }
        Err(overtaken())
    }

    /// Publishes a switch; `false` if another one of its epoch, or a later one, came first.
    pub(super) async fn publish(
        &self,
        control: &mut Control,
        switch: &ColourSwitch,
    ) -> Result<bool, RedisError> {
        let text = self.0.fleet_sync.switches.lock().write(switch);
        control.publish(&switch.pool, switch.epoch, &text).await
    }

    /// Follows a switch and returns once the snapshot contains it.
    pub(super) async fn follow(&self, switch: ColourSwitch, deadline: Instant) -> Switched {
        let (pool, epoch) = (Arc::clone(&switch.pool), switch.epoch);
        if self.0.fleet_sync.switches.lock().follow(switch).is_err() {
            return Switched::Unavailable;
        }
        self.0.fleet_sync.tell();
        let followed = async {
            while self.0.fleet_sync.applied_epoch(&pool) < epoch {
                sleep(LOOK / 4).await;
            }
        };
        match timeout_at(deadline, followed).await {
            Ok(()) => Switched::Everywhere { epoch },
            Err(_) => Switched::Partly { epoch },
        }
    }
}
