//! From what a cluster has to a set of workers. Pure.
//!
//! * **Trust.** Whoever may write EndpointSlices may name any address; so an endpoint counts only if
//!   it is a pod of the same namespace, unless the settings say otherwise, and the registry checks
//!   each address against `workers.allow`. Whoever may label a pod chooses only what the settings
//!   list; a pod that chooses something else is not used at all, because the place that it would
//!   take instead may be a wrong one.
//! * **Trade-off.** One address family is used per target, because a pod has an address of each.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::slice::from_ref;
use std::sync::Arc;

use http::Uri;

use super::labels::{LabelError, apply};
use super::records::{EndpointRecord, PodRecord, PoolRecord, SliceRecord};
use super::target::{KubernetesEndpoints, KubernetesPort, KubernetesTarget};
use crate::discovery::dns::AddressFamily;
use crate::fleet::discovery::{DiscoveredWorker, Presence};

/// Objects by their names.
type ByName<R> = BTreeMap<String, R>;

/// What is known of a target.
#[derive(Debug, Default)]
pub(super) struct ClusterView {
    /// The slices of the service.
    pub(super) slices: Option<ByName<SliceRecord>>,
    /// Its pods, or those that a selector matches.
    pub(super) pods: Option<ByName<PodRecord>>,
    /// The InferencePool; empty if there is none of this name.
    pub(super) pool: Option<ByName<PoolRecord>>,
}

/// The workers of a target, and the endpoints that are none.
#[derive(Debug, Default)]
pub(super) struct WorkerSet {
    pub(super) workers: Vec<DiscoveredWorker>,
    pub(super) left_out: Vec<(Arc<str>, EndpointError)>,
}

/// Why an endpoint is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EndpointError {
    #[error("{0}")]
    Label(#[from] LabelError),
    #[error("it has the ports {0}: name one of them as `port`")]
    ManyPorts(String),
    #[error("it has no port `{wanted}`, but these: {found}")]
    NoPort { wanted: Arc<str>, found: String },
    #[error("its service lists no ports: give the number as `port`")]
    NoPorts,
}

/// An endpoint of a slice, or a pod.
struct ListedEndpoint<'a> {
    /// Name and UID of its pod.
    pod: Option<(&'a str, &'a str)>,
    addresses: &'a [IpAddr],
    ports: &'a [(String, u16)],
    presence: Presence,
}

impl ClusterView {
    /// Returns the label selector of the InferencePool.
    pub(super) fn selector(&self) -> Option<&str> {
        self.pool.as_ref()?.values().next().map(|pool| pool.selector.as_str())
    }

    /// Returns the set of workers of `target` in `namespace`; `None` while a list is missing.
    pub(super) fn workers(&self, target: &KubernetesTarget, namespace: &str) -> Option<WorkerSet> {
        let endpoints = match &target.endpoints {
            KubernetesEndpoints::Service(_) => slice_endpoints(target, self.slices.as_ref()?),
            KubernetesEndpoints::Selector(_) => pod_endpoints(self.pods.as_ref()?, &[]),
            KubernetesEndpoints::InferencePool(_) => match self.pool.as_ref()?.values().next() {
                Some(pool) => pod_endpoints(self.pods.as_ref()?, &pool.ports),
                None => Vec::new(),
            },
        };
        let pods = match &target.labels {
            Some(_) if !endpoints.is_empty() => Some(self.pods.as_ref()?),
            _ => None,
        };
        Some(set(target, namespace, &endpoints, pods))
    }
}

fn slice_endpoints<'a>(
    target: &KubernetesTarget,
    slices: &'a ByName<SliceRecord>,
) -> Vec<ListedEndpoint<'a>> {
    let all = slices.values().flat_map(|slice| slice.endpoints.iter().map(move |it| (slice, it)));
    let counted = all.filter(|(_, it)| target.any_target || it.pod.is_some());
    let endpoint = |(slice, it): (&'a SliceRecord, &'a EndpointRecord)| ListedEndpoint {
        pod: it.pod.as_ref().map(|(name, uid)| (name.as_str(), uid.as_str())),
        addresses: from_ref(&it.address),
        ports: &slice.ports,
        presence: presence(it.ready, it.ending),
    };
    counted.map(endpoint).collect()
}

fn pod_endpoints<'a>(pods: &'a ByName<PodRecord>, ports: &'a [(String, u16)]) -> Vec<ListedEndpoint<'a>> {
    let endpoint = |(name, pod): (&'a String, &'a PodRecord)| ListedEndpoint {
        pod: Some((name, &pod.uid)),
        addresses: &pod.addresses,
        ports,
        presence: presence(pod.ready, pod.ending),
    };
    pods.iter().map(endpoint).collect()
}

const fn presence(ready: bool, ending: bool) -> Presence {
    match (ready, ending) {
        (_, true) => Presence::Draining,
        (true, false) => Presence::Ready,
        (false, false) => Presence::NotReady,
    }
}

fn set(
    target: &KubernetesTarget,
    namespace: &str,
    endpoints: &[ListedEndpoint<'_>],
    pods: Option<&ByName<PodRecord>>,
) -> WorkerSet {
    let four = endpoints.iter().flat_map(|it| it.addresses).any(IpAddr::is_ipv4);
    let fits = |address: &&IpAddr| match target.family {
        AddressFamily::Auto => address.is_ipv4() == four,
        AddressFamily::Ipv4 => address.is_ipv4(),
        AddressFamily::Ipv6 => address.is_ipv6(),
    };
    // While the controller moves an endpoint to another slice, it is in both.
    let mut once: BTreeMap<String, (&ListedEndpoint<'_>, IpAddr, Presence)> = BTreeMap::new();
    for endpoint in endpoints {
        let Some(address) = endpoint.addresses.iter().find(fits) else { continue };
        let uid = endpoint.pod.map(|(_, uid)| uid).filter(|uid| !uid.is_empty());
        let key = uid.map_or_else(|| address.to_string(), str::to_owned);
        let seen = once.entry(key).or_insert((endpoint, *address, endpoint.presence));
        seen.2 = latest(seen.2, endpoint.presence);
    }
    let (mut workers, mut left_out) = (BTreeMap::<Arc<str>, DiscoveredWorker>::new(), BTreeMap::new());
    for (endpoint, address, presence) in once.into_values() {
        let name = endpoint.pod.map_or_else(|| address.to_string(), |(name, _)| name.to_owned());
        let port = match port(target.port.as_ref(), endpoint.ports) {
            Ok(port) => port,
            Err(error) => {
                left_out.insert(format!("{namespace}/{name}").into(), error);
                continue;
            }
        };
        let id: Arc<str> = if target.ids_with_port {
            format!("{namespace}/{name}:{port}").into()
        } else {
            format!("{namespace}/{name}").into()
        };
        let Some(url) = url(target, namespace, SocketAddr::new(address, port)) else { continue };
        let mut worker = DiscoveredWorker {
            id: Arc::clone(&id),
            url,
            address,
            pool: None,
            model: None,
            colour: None,
            version: None,
            slots: target.slots,
            kv_tokens: target.kv_tokens,
            presence,
        };
        if let (Some(choices), Some((name, uid)), Some(pods)) = (&target.labels, endpoint.pod, pods) {
            // Slices and pods arrive by separate watches; until its labels are known, it waits.
            let Some(pod) = pods.get(name).filter(|pod| uid.is_empty() || pod.uid == uid) else { continue };
            if let Err(error) = apply(choices, pod, &mut worker) {
                left_out.insert(id, error.into());
                continue;
            }
        }
        // A StatefulSet's new pod has the name of the one that ends.
        let better = |known: &DiscoveredWorker| rank(worker.presence) < rank(known.presence);
        if workers.get(&id).is_none_or(better) {
            workers.insert(id, worker);
        }
    }
    WorkerSet { workers: workers.into_values().collect(), left_out: left_out.into_iter().collect() }
}

/// Returns the state of an endpoint that is listed twice: it never comes back once it ends.
const fn latest(one: Presence, other: Presence) -> Presence {
    match (one, other) {
        (Presence::Draining, _) | (_, Presence::Draining) => Presence::Draining,
        (Presence::Ready, _) | (_, Presence::Ready) => Presence::Ready,
        (Presence::NotReady, Presence::NotReady) => Presence::NotReady,
    }
}

const fn rank(presence: Presence) -> u8 {
    match presence {
        Presence::Ready => 0,
        Presence::NotReady => 1,
        Presence::Draining => 2,
    }
}

fn port(wanted: Option<&KubernetesPort>, ports: &[(String, u16)]) -> Result<u16, EndpointError> {
    let written = || {
        let one = |(name, number): &(String, u16)| {
            if name.is_empty() { number.to_string() } else { format!("`{name}` ({number})") }
        };
        ports.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    match (wanted, ports) {
        (Some(KubernetesPort::Number(number)), _) | (None, [(_, number)]) => Ok(*number),
        (Some(KubernetesPort::Name(wanted)), _) => {
            let named = ports.iter().find(|(name, _)| **wanted == **name);
            let missing = || EndpointError::NoPort { wanted: Arc::clone(wanted), found: written() };
            named.map(|(_, number)| *number).ok_or_else(missing)
        }
        (None, []) => Err(EndpointError::NoPorts),
        (None, _) => Err(EndpointError::ManyPorts(written())),
    }
}

/// Returns the URL of an endpoint. Certificates are for the name of the service, if there is one.
fn url(target: &KubernetesTarget, namespace: &str, place: SocketAddr) -> Option<Uri> {
    let scheme = if target.https { "https" } else { "http" };
    let authority = match &target.endpoints {
        KubernetesEndpoints::Service(name) if target.https => {
            format!("{name}.{namespace}.svc:{}", place.port())
        }
        _ => place.to_string(),
    };
    Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build().ok()
}
