//! Switches a pool to its other colour.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::App;
use crate::fleet::colour::ColourSwitch;
use crate::redis::RedisError;
use crate::redis::control::{Control, overtaken};
use crate::server::admin::Switched;

/// Time for the other gateways to follow before the operator is told that not all did. Longer than
/// a dead gateway still counts as present.
const FOLLOWING: Duration = Duration::from_secs(4);
/// Poll interval for the gateways that follow.
const LOOK: Duration = Duration::from_millis(20);
/// Attempts when several operators switch the same pool at once: more than there are operators.
const TURNS: usize = 16;

impl App {
    /// Makes `colour` the active one of `pool`, on this gateway and on all that share its Redis.
    pub(super) async fn switch(&self, pool: &str, colour: &str) -> Switched {
        let fleet = self.0.fleet.load();
        let Some(found) = fleet.pools().iter().find(|known| *known.name == *pool) else {
            return Switched::NoPool;
        };
        if !found.workers.iter().any(|worker| *worker.spec.colour == *colour) {
            return Switched::NoWorkers;
        }
        drop(fleet);
        let deadline = Instant::now() + FOLLOWING;
        let (pool, colour): (Arc<str>, Arc<str>) = (pool.into(), colour.into());
        let Some(settings) = self.redis() else {
            let epoch = self.0.fleet_sync.switches.lock().epoch(&pool) + 1;
            return self.follow(ColourSwitch { pool, colour, epoch }, deadline).await;
        };
        let told = async {
            let mut control = Control::open(&settings).await?;
            let switch = self.tell(&mut control, pool, colour).await?;
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
    async fn tell(
        &self,
        control: &mut Control,
        pool: Arc<str>,
        colour: Arc<str>,
    ) -> Result<ColourSwitch, RedisError> {
        for _ in 0..TURNS {
            let followed = self.0.fleet_sync.switches.lock().epoch(&pool);
            let epoch = control.epoch(&pool).await?.max(followed) + 1;
            let switch = ColourSwitch { pool: Arc::clone(&pool), colour: Arc::clone(&colour), epoch };
            let text = self.0.fleet_sync.switches.lock().write(&switch);
            if control.publish(&pool, epoch, &text).await? {
                return Ok(switch);
            }
        }
        Err(overtaken())
    }

    /// Follows a switch and returns once the snapshot contains it.
    async fn follow(&self, switch: ColourSwitch, deadline: Instant) -> Switched {
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
