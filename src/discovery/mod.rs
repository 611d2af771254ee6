//! Discovery sources: who the workers are, read from where they are run.
//!
//! | file | content |
//! | --- | --- |
//! | `handle` | through which a source hands its sets to the worker registry |
//! | `dns` | names: every address is a worker |
//! | `kubernetes` | the endpoints of a service in a cluster, or its pods |
//! | `models` | asks workers which models they serve |
//! | `reading` | reads the health and metrics of workers |
//! | `unused` | logs which discovered workers are not used |
//!
//! One task follows each target of the settings; `app` starts and ends them. Sources only report.
//! The registry (`fleet::registry`) decides what follows: which addresses are allowed, what an empty
//! answer means, and what holds while a source is away.

mod dns;
mod handle;
mod kubernetes;
mod models;
mod reading;
mod unused;

pub(crate) use dns::{AddressFamily, DnsTarget};
pub(crate) use handle::{DiscoveryContext, TargetHandle};
pub(crate) use kubernetes::{KubernetesEndpoints, KubernetesPort, KubernetesTarget, LabelChoices};
pub(crate) use models::ask_models;
pub(crate) use reading::{ScrapeSettings, read_workers};
pub(crate) use unused::UnusedWorkers;

use crate::fleet::discovery::TargetSettings;

/// A target with the settings of its source.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SourceTarget {
    /// Addresses of a name.
    Dns(DnsTarget),
    /// Endpoints in a Kubernetes cluster.
    Kubernetes(KubernetesTarget),
}

impl SourceTarget {
    /// Returns the settings that the registry needs.
    #[must_use]
    pub(crate) const fn settings(&self) -> &TargetSettings {
        match self {
            Self::Dns(target) => &target.settings,
            Self::Kubernetes(target) => &target.settings,
        }
    }

    /// Returns `true` if its workers are reached over TLS.
    #[must_use]
    pub(crate) const fn is_https(&self) -> bool {
        match self {
            Self::Dns(target) => target.https,
            Self::Kubernetes(target) => target.https,
        }
    }

    /// Follows the target until dropped.
    pub(crate) async fn follow(self, context: DiscoveryContext) {
        let handle = TargetHandle::new(self.settings().id.clone(), context);
        match self {
            Self::Dns(target) => dns::follow(target, handle).await,
            Self::Kubernetes(target) => kubernetes::follow(target, handle).await,
        }
    }
}
