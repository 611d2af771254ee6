//! What an entry of the settings names in a Kubernetes cluster.

use std::fmt;
use std::sync::Arc;

use crate::discovery::dns::AddressFamily;
use crate::fleet::discovery::TargetSettings;

/// An entry of the settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KubernetesTarget {
    /// What holds for all of its workers.
    pub settings: TargetSettings,
    /// The namespace; `None` for the gateway's own.
    pub namespace: Option<Arc<str>>,
    /// Whose endpoints the workers are.
    pub endpoints: KubernetesEndpoints,
    /// Port of the workers; `None` if there is only one.
    pub port: Option<KubernetesPort>,
    /// `true` if ids contain the port: several targets have these endpoints.
    pub ids_with_port: bool,
    /// `true` if the workers are reached over TLS.
    pub https: bool,
    /// Which addresses are used.
    pub family: AddressFamily,
    /// Requests that each worker decodes at once.
    pub slots: Option<u32>,
    /// Tokens that the KV cache of each worker holds.
    pub kv_tokens: Option<u64>,
    /// `true` if endpoints count that are not pods of the same namespace.
    pub any_target: bool,
    /// What the labels of pods may choose; `None` if they are not read.
    pub labels: Option<LabelChoices>,
}

/// Whose endpoints the workers are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KubernetesEndpoints {
    /// Those of a service, from its EndpointSlices.
    Service(Arc<str>),
    /// The pods that a label selector matches.
    Selector(Arc<str>),
    /// The pods of an InferencePool of the Gateway API.
    InferencePool(Arc<str>),
}

/// A port of workers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KubernetesPort {
    /// Its number.
    Number(u16),
    /// Its name in the service.
    Name(Arc<str>),
}

impl fmt::Display for KubernetesPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What the labels and annotations of a pod may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LabelChoices {
    /// Pools.
    pub pools: Vec<Arc<str>>,
    /// Patterns for models.
    pub models: Vec<Arc<str>>,
    /// Colours.
    pub colours: Vec<Arc<str>>,
}
