//! Checks the Redis settings, and those that use Redis.

use std::sync::Arc;

use super::Files;
use crate::config::file::{CallerStore, ConfigFile, DiscoveryName, Overflow, StateSection, WorkerMode};
use crate::config::settings::{Discovery, JobMode, SharedState};
use crate::config::source::{ErrorCollector, SettingPath};
use crate::fleet::heartbeat::SigningKey;
use crate::redis::settings::{RedisSettings, Topology};

pub(super) fn validate(
    file: &ConfigFile,
    root: &SettingPath<'_>,
    files: Files<'_>,
    report: &mut ErrorCollector,
) -> SharedState {
    let (redis, at) = (&file.redis, root.key("redis"));
    let urls = redis.url.as_slice();
    let topology = match &redis.sentinel {
        Some(_) if redis.cluster => {
            report
                .fault(&at.key("cluster"), "cannot be combined with `sentinel`: a cluster has no sentinels");
            Topology::Cluster
        }
        Some(master) => Topology::Sentinel(Arc::clone(&master.0.0)),
        None if redis.cluster => Topology::Cluster,
        None => {
            if urls.len() > 1 {
                report.fault(
                    &at.key("url"),
                    "must be one URL: several are allowed only with `sentinel` or `cluster`",
                );
            }
            Topology::Single
        }
    };
    if redis.timeout.0.is_zero() {
        report.fault(&at.key("timeout"), "must be greater than zero");
    }
    SharedState {
        redis: RedisSettings {
            urls: urls.iter().map(|url| Arc::clone(&url.0.0)).collect::<Vec<_>>().into(),
            topology,
            authorities: None,
            prefix: Arc::clone(&redis.prefix.0.0),
            timeout: redis.timeout.0,
        },
        ca: redis.ca.as_ref().map(|ca| files.readable(&ca.0, &at.key("ca"), report)),
        rules: file.state == StateSection::Redis,
        callers: file.callers.stored == CallerStore::Redis,
        jobs: jobs(file, root, report),
    }
}

fn jobs(file: &ConfigFile, root: &SettingPath<'_>, report: &mut ErrorCollector) -> JobMode {
    match (file.workers.mode, file.concurrency.overflow) {
        (WorkerMode::Http, Overflow::Refuse) => JobMode::Nothing,
        (WorkerMode::Http, Overflow::Jobs) => {
            // A job is stored in Redis, and reading it needs a key or token that the gateway knows.
            if file.callers.forwards_authorization() {
                let problem = "`jobs` needs `callers.forward_authorization: false`: client credentials are never stored in \
                               Redis";
                report.fault(&root.key("concurrency").key("overflow"), problem);
            }
            JobMode::Overflow
        }
        (WorkerMode::Queue, Overflow::Refuse) => JobMode::Workers,
        (WorkerMode::Queue, Overflow::Jobs) => {
            let problem = "`jobs` applies only to `workers.mode: http`; with `queue` every request with \
                           `Prefer: respond-async` becomes a job";
            report.fault(&root.key("concurrency").key("overflow"), problem);
            JobMode::Workers
        }
    }
}

/// Returns the key for signing.
pub(super) fn key(
    file: &ConfigFile,
    root: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> Option<SigningKey> {
    let key = SigningKey::read(file.redis.hmac_key.as_ref()?.0.expose());
    key.map_err(|fault| report.fault(&root.key("redis").key("hmac_key"), fault.to_string())).ok()
}

/// Returns the Redis that carries heartbeats, if they may add workers.
pub(super) fn discovery(file: &ConfigFile, redis: &RedisSettings) -> Option<Discovery> {
    let queue = file.workers.mode == WorkerMode::Queue;
    (queue || file.workers.discovers_by(DiscoveryName::Redis)).then(|| Discovery { redis: redis.clone() })
}
