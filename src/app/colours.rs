//! Switches a pool to its other colour.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::App;
use crate::fleet::colour::ColourSwitch;
use crate::fleet::side;
use crate::redis::RedisError;
use crate::redis::control::{Control, overtaken};
use crate::server::admin::Switched;

/// Time for the other gateways to follow before the operator is told that not all did. Longer than
/// a dead gateway still counts as present.
pub(super) const FOLLOWING: Duration = Duration::from_secs(4);
/// Poll interval for the gateways that follow.
const LOOK: Duration = Duration::from_millis(20);
/// Attempts when several operators switch the same pool at once: more than there are operators.
const TURNS: usize = 16;

impl App {
    /// Makes `colour` the active one of `pool`, on this gateway and on all that share its Redis.
    /// With a version, only its workers take the work.
    pub(super) async fn switch(&self, pool: &str, colour: &str, version: Option<&str>) -> Switched {
        // A side on the page may be one version of a colour.
        let (colour, version) = match side::parts(colour) {
            (colour, None) => (colour, version),
            (colour, named) => (colour, named),
        };
        let fleet = self.0.fleet.load();
        let Some(found) = fleet.pools().iter().find(|known| *known.name == *pool) else {
            return Switched::NoPool;
        };
        let has_colour = || found.workers.iter().any(|worker| side::parts(&worker.spec.colour).0 == colour);
        let is_known = match version {
            Some(version) => self.0.fleet_sync.registry.lock().has_version(pool, colour, version),
            None => has_colour(),
        };
        if !is_known {
            return Switched::NoWorkers;
        }
        drop(fleet);
        let deadline = Instant::now() + FOLLOWING;
        let wanted = ColourSwitch {
            pool: pool.into(),
            colour: colour.into(),
            // The colour that stands for a version has no other.
            version: version.filter(|version| *side::of_version(colour, version) != *colour).map(Into::into),
            chosen: false,
            epoch: 0,
        };
        let Some(settings) = self.redis() else {
            let epoch = self.0.fleet_sync.switches.lock().epoch(pool) + 1;
            return self.follow(ColourSwitch { epoch, ..wanted }, deadline).await;
        };
        let told = async {
            let mut control = Control::open(&settings).await?;
            let switch = self.tell(&mut control, &wanted).await?;
            Ok((control, switch))
        };
        let (mut control, switch) = match told.await {
            Ok(told) => told,
            Err(error) => {
                let error: RedisError = error;
                tracing::warn!(%error, "cannot publish the colour switch");
                return Switched::Unavailable;
            }
        };
        let (pool, epoch) = (Arc::clone(&switch.pool), switch.epoch);
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
        match timeout_at(deadline, everybody).await {
            Ok(()) => here,
            Err(_) => Switched::Partly { epoch },
        }
    }

    /// Publishes the switch to all gateways under the next epoch.
    async fn tell(&self, control: &mut Control, wanted: &ColourSwitch) -> Result<ColourSwitch, RedisError> {
        for _ in 0..TURNS {
            let followed = self.0.fleet_sync.switches.lock().epoch(&wanted.pool);
            let epoch = control.epoch(&wanted.pool).await?.max(followed) + 1;
            let switch = ColourSwitch { epoch, ..wanted.clone() };
            if self.publish(control, &switch).await? {
                return Ok(switch);
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
