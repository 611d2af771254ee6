//! Names: every address of a name is a worker (A, AAAA), or every host of a service (SRV).
//!
//! Answers are not cached here: the time that they hold decides when the name is looked up again.
//! One family is used per name, because the same worker often has an address of each.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::handle::TargetHandle;
use crate::fleet::discovery::{DiscoveredWorker, MOST_DISCOVERED, Presence, TargetSettings};
use crate::fleet::lookup_schedule::LookupSchedule;

/// Longest time of one question to one server.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Most hosts of a service, and how many are looked up at once.
const MOST_HOSTS: usize = 256;
const AT_ONCE: usize = 16;
/// Time that an answer holds which does not say so: the empty one.
const NO_TTL: Duration = Duration::MAX;

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AddressFamily {
    /// IPv4 addresses; if there are none, IPv6 addresses
    #[default]
    Auto,
    /// IPv4 addresses
    Ipv4,
    /// IPv6 addresses
    Ipv6,
}

/// A DNS name whose addresses are workers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DnsTarget {
    /// Settings of all of its workers.
    pub settings: TargetSettings,
    /// The name.
    pub name: Arc<str>,
    /// Port of the workers; `None` to look up the name as a service (SRV), which has ports.
    pub port: Option<u16>,
    /// `true` if ids contain the port: several targets have this name.
    pub ids_with_port: bool,
    /// `true` if the workers are reached over TLS.
    pub https: bool,
    /// Which addresses are used.
    pub family: AddressFamily,
    /// Requests that each worker decodes at once.
    pub slots: Option<u32>,
    /// Longest time between two lookups.
    pub refresh: Duration,
    /// Servers that are asked; those of the system if empty.
    pub servers: Vec<SocketAddr>,
}

/// Why a lookup gave no answer.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("the name servers of the system cannot be read: {0}")]
    System(#[source] NetError),
    #[error("looking up {name}: {source}")]
    Failed { name: String, source: NetError },
}

/// What a lookup found, and the time that this holds.
struct Found<T> {
    what: Vec<T>,
    ttl: Duration,
}

/// Follows a name until dropped.
pub(super) async fn follow(target: DnsTarget, handle: TargetHandle) {
    let mut schedule = LookupSchedule::new(target.refresh);
    let mut resolver = None;
    loop {
        let found = match &resolver {
            Some(resolver) => lookup(resolver, &target).await,
            None => match build(&target.servers) {
                Ok(built) => lookup(resolver.insert(built), &target).await,
                Err(error) => Err(error),
            },
        };
        let wait = match found {
            Ok(found) => {
                handle.publish(workers(&target, &found.what), &[]);
                schedule.answered(found.ttl, fastrand::f64())
            }
            Err(error) => {
                handle.failed(&error);
                schedule.failed(fastrand::f64())
            }
        };
        sleep(wait).await;
    }
}

fn build(servers: &[SocketAddr]) -> Result<TokioResolver, LookupError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio().map_err(LookupError::System)?
    } else {
        let server = |server: &SocketAddr| {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut config.connections {
                connection.port = server.port();
            }
            config
        };
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = TIMEOUT;
    builder.build().map_err(LookupError::System)
}

/// Returns the hosts and addresses of the target's workers, sorted.
async fn lookup(
    resolver: &TokioResolver,
    target: &DnsTarget,
) -> Result<Found<(Arc<str>, SocketAddr)>, LookupError> {
    let Some(port) = target.port else { return services(resolver, target).await };
    let found = addresses(resolver, &target.name, target.family).await?;
    let what = found.what.into_iter().map(|address| (Arc::clone(&target.name), (address, port).into()));
    Ok(Found { what: what.collect(), ttl: found.ttl })
}

/// Looks up a service: the hosts that have the best (lowest) priority.
async fn services(
    resolver: &TokioResolver,
    target: &DnsTarget,
) -> Result<Found<(Arc<str>, SocketAddr)>, LookupError> {
    let records = records(resolver, &target.name, RecordType::SRV).await?;
    let services = records.what.iter().filter_map(|data| match data {
        // The root as target means that the service does not exist.
        RData::SRV(service) if !service.target.is_root() => Some(service),
        _ => None,
    });
    let services: Vec<_> = services.collect();
    let best = services.iter().map(|service| service.priority).min();
    let hosts: BTreeSet<(String, u16)> = services
        .iter()
        .filter(|service| Some(service.priority) == best)
        .map(|service| (service.target.to_utf8(), service.port))
        .collect();
    // The first by name: the same ones at each lookup, whatever the order of the answer.
    let found: Vec<_> = stream::iter(hosts.into_iter().take(MOST_HOSTS))
        .map(|(host, port)| async move {
            let found = addresses(resolver, &host, target.family).await?;
            Ok::<_, LookupError>((Arc::<str>::from(host.trim_end_matches('.')), port, found))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let ttl = found.iter().map(|(.., found)| found.ttl).fold(records.ttl, Duration::min);
    let what = found.into_iter().flat_map(|(host, port, found)| {
        found.what.into_iter().map(move |address| (Arc::clone(&host), (address, port).into()))
    });
    Ok(Found { what: what.take(MOST_DISCOVERED).collect(), ttl })
}

/// Looks up the addresses of one family.
async fn addresses(
    resolver: &TokioResolver,
    name: &str,
    family: AddressFamily,
) -> Result<Found<IpAddr>, LookupError> {
    if family != AddressFamily::Ipv6 {
        let found = records(resolver, name, RecordType::A).await?;
        if !found.what.is_empty() || family == AddressFamily::Ipv4 {
            return Ok(found.addresses());
        }
    }
    Ok(records(resolver, name, RecordType::AAAA).await?.addresses())
}

impl Found<RData> {
    fn addresses(self) -> Found<IpAddr> {
        let address = |data: &RData| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        };
        // Servers turn the order with each answer; it means nothing.
        let sorted: BTreeSet<IpAddr> = self.what.iter().filter_map(address).collect();
        Found { what: sorted.into_iter().take(MOST_DISCOVERED).collect(), ttl: self.ttl }
    }
}

/// Asks for records of one type. No such name, and no such records, are answers too.
async fn records(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<Found<RData>, LookupError> {
    match resolver.lookup(name, kind).await {
        Ok(answer) => {
            // Names that lead to the records (CNAME) end too.
            let ttl = answer.answers().iter().map(|record| record.ttl).min().map(u64::from);
            let wanted = answer.answers().iter().filter(|record| record.record_type() == kind);
            Ok(Found {
                what: wanted.map(|record| record.data.clone()).collect(),
                ttl: ttl.map_or(NO_TTL, Duration::from_secs),
            })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
        {
            Ok(Found { what: Vec::new(), ttl: NO_TTL })
        }
        Err(source) => Err(LookupError::Failed { name: name.to_owned(), source }),
    }
}

fn workers(target: &DnsTarget, found: &[(Arc<str>, SocketAddr)]) -> Vec<DiscoveredWorker> {
    let worker = |(host, place): &(Arc<str>, SocketAddr)| {
        let id = if target.port.is_none() || target.ids_with_port {
            format!("{}/{place}", target.name)
        } else {
            format!("{}/{}", target.name, place.ip())
        };
        Some(DiscoveredWorker {
            id: id.into(),
            url: url(target.https, host, place.port())?,
            address: place.ip(),
            pool: None,
            model: None,
            colour: None,
            version: None,
            slots: target.slots,
            kv_tokens: None,
            presence: Presence::Ready,
        })
    };
    found.iter().filter_map(worker).collect()
}

/// Returns the URL of a host; `None` if the name of a service's host is none in URLs.
fn url(https: bool, host: &str, port: u16) -> Option<Uri> {
    let scheme = if https { "https" } else { "http" };
    let authority = format!("{}:{port}", host.trim_end_matches('.'));
    Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::discovery::{DiscoverySource, TargetId};

    fn target(port: Option<u16>, ids_with_port: bool) -> DnsTarget {
        DnsTarget {
            settings: TargetSettings {
                id: TargetId { source: DiscoverySource::Dns, name: "vllm.example".into() },
                pool: "chat".into(),
                model: None,
                colour: "blue".into(),
                silence: Duration::from_secs(15),
                scrape: true,
            },
            name: "vllm.example".into(),
            port,
            ids_with_port,
            https: true,
            family: AddressFamily::Auto,
            slots: Some(8),
            refresh: Duration::from_secs(5),
            servers: Vec::new(),
        }
    }

    #[test]
    fn an_address_is_a_worker_under_the_name_of_its_host() {
        let found: [(Arc<str>, SocketAddr); 2] = [
            ("vllm.example".into(), "10.0.0.1:8000".parse().unwrap()),
            ("pod-1.example.".into(), "[fd00::7]:8000".parse().unwrap()),
        ];
        for (target, ids) in [
            (target(Some(8000), false), ["vllm.example/10.0.0.1", "vllm.example/fd00::7"]),
            (target(Some(8000), true), ["vllm.example/10.0.0.1:8000", "vllm.example/[fd00::7]:8000"]),
            (target(None, false), ["vllm.example/10.0.0.1:8000", "vllm.example/[fd00::7]:8000"]),
        ] {
            let workers = workers(&target, &found);
            assert_eq!(workers.iter().map(|worker| &*worker.id).collect::<Vec<_>>(), ids);
            assert_eq!(workers[1].url, "https://pod-1.example:8000/");
            assert_eq!((workers[1].address, workers[1].slots), ("fd00::7".parse().unwrap(), Some(8)));
        }
    }
}
