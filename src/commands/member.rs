//! Options for publishing a worker's heartbeats, shared by the agent and the simulated worker.

use std::sync::Arc;
use std::time::Duration;

use traffic_dam::config::syntax::{Id, RedisUrl};
use traffic_dam::fleet::heartbeat::{INTERVAL, SigningKey};
use traffic_dam::redis::settings::RedisSettings;

use super::arguments::read;

#[derive(Debug, clap::Args)]
pub(crate) struct HeartbeatLoop {
    /// Prefix of keys and channels, as `redis.prefix` in the gateway's settings
    #[arg(long, default_value = "dam", value_parser = read::<Id>)]
    prefix: Id,
    /// Key for signing messages, as `redis.hmac_key` in the gateway's settings
    #[arg(long, env = "TRAFFIC_DAM_REDIS_KEY", hide_env_values = true, value_parser = SigningKey::read)]
    hmac_key: Option<SigningKey>,
    /// Name of the worker [default: made from its host and port]
    #[arg(long, value_parser = read::<Id>)]
    pub(crate) id: Option<Id>,
    /// Pool of the worker
    #[arg(long, value_parser = read::<Id>)]
    pub(crate) pool: Option<Id>,
    /// Blue/green side of the worker. Queue workers without one share jobs only with workers of the
    /// same version
    #[arg(long, value_parser = read::<Id>)]
    pub(crate) colour: Option<Id>,
    /// Version that the worker runs [default for queue workers: that of this program, with a hash of it]
    #[arg(long, value_parser = read::<Id>)]
    pub(crate) version: Option<Id>,
    /// Interval between heartbeats: 100ms to 1m
    #[arg(long, default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// Maximum time after SIGTERM for the worker to finish its requests
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(crate) drain: Duration,
}

impl HeartbeatLoop {
    pub(crate) fn settings(&self, redis: &RedisUrl) -> RedisSettings {
        RedisSettings::single(Arc::clone(&redis.0), Arc::clone(&self.prefix.0))
    }

    pub(crate) fn key(&self) -> Option<SigningKey> {
        self.hmac_key.clone()
    }
}

pub(crate) fn word(word: &Option<Id>) -> Option<Arc<str>> {
    word.as_ref().map(|word| Arc::clone(&word.0))
}

fn duration(text: &str) -> Result<Duration, String> {
    read(text)
}

fn interval(text: &str) -> Result<Duration, String> {
    let (shortest, longest) = INTERVAL;
    duration(text).and_then(|length| {
        if (shortest..=longest).contains(&length) {
            Ok(length)
        } else {
            Err(format!("must be from {shortest:?} to {longest:?}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_heartbeats_has_bounds() {
        assert!(interval("99ms").is_err() && interval("61s").is_err());
        assert!(interval("100ms").is_ok() && interval("1m").is_ok());
    }
}
