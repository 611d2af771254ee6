//! What is kept of the objects in a cluster.
//!
//! Of a pod only the few labels that matter are kept, and neither its containers nor its environment.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;

/// Beginning of the labels and annotations that are read.
pub(super) const PREFIX: &str = "traffic-dam/";
/// Longest value of an annotation that is kept, in bytes; labels are shorter.
const LONGEST_VALUE: usize = 256;

/// News of one kind of objects, by their names.
#[derive(Debug)]
pub(super) enum RecordUpdate<R> {
    /// All that there are.
    All(BTreeMap<String, R>),
    /// One that is new or has changed.
    Set(String, R),
    /// One that is gone.
    Gone(String),
    /// Nothing has changed, and the API server answers.
    Alive,
}

impl<R: PartialEq> RecordUpdate<R> {
    /// Applies the news. Returns `true` if anything changed.
    pub(super) fn apply(self, known: &mut Option<BTreeMap<String, R>>) -> bool {
        match (self, known) {
            (Self::All(all), known) => {
                let changed = known.as_ref() != Some(&all);
                *known = Some(all);
                changed
            }
            (Self::Set(name, record), Some(known)) => {
                let changed = known.get(&name) != Some(&record);
                known.insert(name, record);
                changed
            }
            (Self::Gone(name), Some(known)) => known.remove(&name).is_some(),
            (Self::Set(..) | Self::Gone(_) | Self::Alive, _) => false,
        }
    }
}

/// An EndpointSlice: some of the endpoints of a service, all of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SliceRecord {
    /// Names and numbers of its TCP ports.
    pub(super) ports: Vec<(String, u16)>,
    pub(super) endpoints: Vec<EndpointRecord>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointRecord {
    pub(super) address: IpAddr,
    pub(super) ready: bool,
    pub(super) ending: bool,
    /// Name and UID of the pod behind it; `None` if that is something else, or in another namespace.
    pub(super) pod: Option<(String, String)>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodRecord {
    pub(super) uid: String,
    /// Labels and annotations of ours, without [`PREFIX`].
    pub(super) labels: Vec<(String, String)>,
    pub(super) annotations: Vec<(String, String)>,
    /// Its addresses; none if only its metadata were read.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ready: bool,
    pub(super) ending: bool,
}

/// An InferencePool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PoolRecord {
    /// Selects its pods.
    pub(super) selector: String,
    /// Its ports, which have no names.
    pub(super) ports: Vec<(String, u16)>,
}

impl SliceRecord {
    /// Reads a slice. Endpoints with host names instead of addresses have none that could be used.
    pub(super) fn read(slice: &EndpointSlice) -> Self {
        let ports = slice.ports.iter().flatten();
        let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
        let port = |name: &Option<String>, number: Option<i32>| {
            let number = u16::try_from(number?).ok().filter(|number| *number > 0)?;
            Some((name.clone().unwrap_or_default(), number))
        };
        let namespace = slice.metadata.namespace.as_deref();
        Self {
            ports: tcp.filter_map(|it| port(&it.name, it.port)).collect(),
            endpoints: slice.endpoints.iter().filter_map(|it| EndpointRecord::read(it, namespace)).collect(),
        }
    }
}

impl EndpointRecord {
    fn read(endpoint: &Endpoint, namespace: Option<&str>) -> Option<Self> {
        let conditions = endpoint.conditions.as_ref();
        let pod = endpoint.target_ref.as_ref().filter(|target| {
            target.kind.as_deref() == Some("Pod")
                && namespace.is_some()
                && target.namespace.as_deref().or(namespace) == namespace
        });
        Some(Self {
            // All addresses of an endpoint are the same process.
            address: endpoint.addresses.first()?.parse().ok()?,
            // The API says that an unknown state is to be taken for ready.
            ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
            ending: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
            pod: pod.and_then(|pod| Some((pod.name.clone()?, pod.uid.clone().unwrap_or_default()))),
        })
    }
}

impl PodRecord {
    /// Reads the metadata of a pod.
    pub(super) fn of_metadata(metadata: &ObjectMeta) -> Self {
        let ours = |all: &Option<BTreeMap<String, String>>| {
            let ours = all.iter().flatten().filter_map(|(key, value)| {
                let key = key.strip_prefix(PREFIX)?;
                (value.len() <= LONGEST_VALUE).then(|| (key.to_owned(), value.clone()))
            });
            ours.collect()
        };
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            labels: ours(&metadata.labels),
            annotations: ours(&metadata.annotations),
            ending: metadata.deletion_timestamp.is_some(),
            ..Self::default()
        }
    }

    /// Reads a pod.
    pub(super) fn read(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let over = matches!(phase, Some("Succeeded" | "Failed"));
        let listed = status
            .and_then(|status| status.pod_ips.as_ref())
            .into_iter()
            .flatten()
            .map(|address| address.ip.as_str());
        let addresses = listed
            .chain(status.and_then(|status| status.pod_ip.as_deref()))
            .filter_map(|address| address.parse().ok());
        let mut conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        Self {
            // The address of a pod that ran to its end may belong to another one.
            addresses: if over { Vec::new() } else { addresses.collect() },
            ready: conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            ..Self::of_metadata(&pod.metadata)
        }
    }
}

impl PoolRecord {
    /// Reads an InferencePool; `None` without a selector and ports.
    pub(super) fn read(pool: &DynamicObject) -> Option<Self> {
        let spec = pool.data.get("spec")?;
        let labels = spec.get("selector")?.get("matchLabels")?.as_object()?;
        let pairs: Option<Vec<String>> =
            labels.iter().map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
        let ports = spec.get("targetPorts")?.as_array()?.iter();
        let number = |port: &serde_json::Value| u16::try_from(port.get("number")?.as_u64()?).ok();
        let ports: Option<Vec<_>> = ports.map(|port| Some((String::new(), number(port)?))).collect();
        let pool = Self { selector: pairs?.join(","), ports: ports? };
        // An empty selector would match every pod of the namespace.
        (!pool.selector.is_empty() && !pool.ports.is_empty()).then_some(pool)
    }
}
