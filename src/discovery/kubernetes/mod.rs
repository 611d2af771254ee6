//! Kubernetes: the endpoints of a service are workers, or the pods of a selector or an InferencePool.
//!
//! | file | content |
//! | --- | --- |
//! | `target` | what an entry of the settings names |
//! | `records` | what is kept of the objects in the cluster |
//! | `labels` | what the labels of a pod set |
//! | `set` | from records to the set of workers |
//! | `watch` | lists and watches objects |
//! | `cluster` | the API server: how it is reached, and what is watched there |
//! | `error` | why it gives no answer |
//!
//! **Failure mode.** After an error everything is listed anew: soon, then ever more rarely. Until then
//! the set stays as it was.

mod cluster;
mod error;
mod labels;
mod records;
mod set;
#[cfg(test)]
mod set_tests;
mod target;
mod watch;
#[cfg(test)]
mod watch_tests;

pub(crate) use target::{KubernetesEndpoints, KubernetesPort, KubernetesTarget, LabelChoices};

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use self::cluster::{Change, Cluster};
use self::error::KubernetesError;
use self::set::ClusterView;
use super::handle::TargetHandle;
use super::unused::UnusedWorkers;
use crate::fleet::lookup_schedule::LookupSchedule;

/// Longest time between two attempts while the API server fails.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Follows a target until dropped.
pub(super) async fn follow(target: KubernetesTarget, handle: TargetHandle) {
    let mut follower = Follower { target, handle, unused: UnusedWorkers::default(), answered: false };
    let mut schedule = LookupSchedule::new(LONGEST_WAIT);
    loop {
        follower.answered = false;
        let Err(error) = follower.session().await;
        follower.handle.failed(&error);
        if follower.answered {
            schedule = LookupSchedule::new(LONGEST_WAIT);
        }
        sleep(schedule.failed(fastrand::f64())).await;
    }
}

/// Follows one target.
struct Follower {
    target: KubernetesTarget,
    handle: TargetHandle,
    unused: UnusedWorkers,
    /// `true` once the API server has answered.
    answered: bool,
}

impl Follower {
    /// Reports sets until an error.
    async fn session(&mut self) -> Result<Infallible, KubernetesError> {
        let cluster = Cluster::find(&self.target).await?;
        let mut feeds = cluster.watch(&self.target);
        let mut view = ClusterView::default();
        loop {
            let changed = match feeds.next().await? {
                Change::Slices(update) => update.apply(&mut view.slices),
                Change::Pods(update) => update.apply(&mut view.pods),
                Change::Pool(update) => {
                    let changed = update.apply(&mut view.pool);
                    if changed {
                        view.pods = None;
                        cluster.watch_pods(&mut feeds, view.selector());
                    }
                    changed
                }
            };
            let Some(set) = view.workers(&self.target, &cluster.namespace) else { continue };
            self.answered = true;
            if changed {
                self.unused.report(&set.left_out);
                self.handle.publish(set.workers, &cluster.addresses);
            } else {
                self.handle.alive();
            }
        }
    }
}
