//! Redis, and what is learned from it.

use crate::config::file::{Discovery as DiscoveryName, File};
use crate::config::place::{At, Report};
use crate::config::settings::Discovery;
use crate::fleet::heartbeat::Key;
use crate::fleet::roster::RosterSettings;
use crate::redis::feed::health_channel;
use crate::redis::settings::RedisSettings;

pub(super) fn settings(file: &File) -> Option<RedisSettings> {
    let redis = file.redis.as_ref()?;
    Some(RedisSettings { url: redis.url.0.0.clone(), prefix: redis.prefix.0.0.clone() })
}

/// How workers are found, when heartbeats may add them.
pub(super) fn discovery(file: &File, root: &At<'_>, report: &mut Report) -> Option<Discovery> {
    if file.workers.discovery == DiscoveryName::None {
        return None;
    }
    if file.workers.allow.is_empty() {
        let problem = "is missing; which hosts or networks may a heartbeat name? Such as `[10.0.0.0/8]`";
        report.fault(&root.key("workers").key("allow"), problem);
    }
    let Some(redis) = settings(file) else {
        report.fault(&root.key("redis"), "is missing; `workers.discovery: redis` needs its `url`");
        return None;
    };
    let key = file.redis.as_ref().and_then(|redis| redis.hmac_key.as_ref());
    Some(Discovery {
        roster: RosterSettings {
            channel: health_channel(&redis.prefix),
            key: key.map(|key| Key::new(key.0.expose())),
            allow: file.workers.allow.iter().map(|allowed| allowed.0.0.clone()).collect(),
        },
        redis,
    })
}
