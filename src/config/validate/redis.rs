//! Checks the Redis settings, and those that use Redis.

use std::sync::Arc;

use super::Files;
use crate::config::file::{Discovery as DiscoveryName, File, Overflow, State, Stored, WorkerMode};
use crate::config::place::{At, Report};
use crate::config::settings::{Discovery, JobsFor, SharedState};
use crate::fleet::heartbeat::Key;
use crate::fleet::roster::RosterSettings;
use crate::redis::feed::health_channel;
use crate::redis::settings::{RedisSettings, Topology};

pub(super) fn validate(file: &File, root: &At<'_>, files: Files<'_>, report: &mut Report) -> SharedState {
    let (redis, at) = (&file.redis, root.key("redis"));
    let urls = redis.url.as_slice();
    let topology = match &redis.sentinel {
        Some(_) if redis.cluster => {
            report.fault(&at.key("cluster"), "and `sentinel` exclude each other: a cluster has no sentinels");
            Topology::Cluster
        }
        Some(master) => Topology::Sentinel(Arc::clone(&master.0.0)),
        None if redis.cluster => Topology::Cluster,
        None => {
            if urls.len() > 1 {
                report.fault(
                    &at.key("url"),
                    "must be one, unless `sentinel` or `cluster` says what several are",
                );
            }
            Topology::Single
        }
    };
    if redis.timeout.0.is_zero() {
        report.fault(&at.key("timeout"), "must be longer than no time at all");
    }
    SharedState {
        redis: RedisSettings {
            urls: urls.iter().map(|url| Arc::clone(&url.0.0)).collect::<Vec<_>>().into(),
            topology,
            authorities: None,
            prefix: Arc::clone(&redis.prefix.0.0),
            timeout: redis.timeout.0.get(),
        },
        ca: redis.ca.as_ref().map(|ca| files.readable(&ca.0, &at.key("ca"), report)),
        rules: file.state == State::Redis,
        callers: file.callers.stored == Stored::Redis,
        jobs: jobs(file, root, report),
    }
}

fn jobs(file: &File, root: &At<'_>, report: &mut Report) -> JobsFor {
    match (file.workers.mode, file.concurrency.overflow) {
        (WorkerMode::Http, Overflow::Refuse) => JobsFor::Nothing,
        (WorkerMode::Http, Overflow::Jobs) => {
            // A job is stored in Redis, and reading it needs a key or token that the gateway knows.
            if file.callers.forwards_authorization() {
                let problem = "needs `callers.forward_authorization: false`: what a client is known by to the workers is not \
                               written to Redis";
                report.fault(&root.key("concurrency").key("overflow"), problem);
            }
            JobsFor::Overflow
        }
        (WorkerMode::Queue, Overflow::Refuse) => JobsFor::Workers,
        (WorkerMode::Queue, Overflow::Jobs) => {
            let problem =
                "is for `workers.mode: http`; with `queue` every request that prefers it is answered later";
            report.fault(&root.key("concurrency").key("overflow"), problem);
            JobsFor::Workers
        }
    }
}

/// Returns the key for signing.
pub(super) fn key(file: &File) -> Option<Key> {
    file.redis.hmac_key.as_ref().map(|key| Key::new(key.0.expose()))
}

/// Returns the discovery settings, if heartbeats may add workers.
pub(super) fn discovery(
    file: &File,
    redis: &RedisSettings,
    root: &At<'_>,
    report: &mut Report,
) -> Option<Discovery> {
    let queue = file.workers.mode == WorkerMode::Queue;
    if file.workers.discovery == DiscoveryName::None && !queue {
        return None;
    }
    if file.workers.allow.is_empty() && !queue {
        let problem = "is missing; which hosts or networks may a heartbeat name? Such as `[10.0.0.0/8]`";
        report.fault(&root.key("workers").key("allow"), problem);
    }
    Some(Discovery {
        roster: RosterSettings {
            channel: health_channel(&redis.prefix),
            key: key(file),
            allow: file.workers.allow.iter().map(|allowed| allowed.0.0.clone()).collect(),
            queue,
        },
        redis: redis.clone(),
    })
}
