//! Redis.

use std::sync::Arc;

use super::Files;
use crate::config::file::{File, State, Stored};
use crate::config::place::{At, Report};
use crate::config::settings::SharedState;
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
            urls: urls.iter().map(|url| Arc::clone(&url.0.0)).collect(),
            topology,
            authorities: None,
            prefix: Arc::clone(&redis.prefix.0.0),
            timeout: redis.timeout.0.get(),
        },
        ca: redis.ca.as_ref().map(|ca| files.readable(&ca.0, &at.key("ca"), report)),
        rules: file.state == State::Redis,
        callers: file.callers.stored == Stored::Redis,
    }
}
