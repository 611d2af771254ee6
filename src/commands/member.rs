//! What whoever speaks for a worker over Redis is told: the agent beside it, or the simulated worker itself.

use std::sync::Arc;
use std::time::Duration;

use traffic_dam::config::syntax::{Id, Millis, RedisUrl, Syntax};
use traffic_dam::fleet::heartbeat::{INTERVAL, Key};
use traffic_dam::redis::settings::RedisSettings;

#[derive(Debug, clap::Args)]
pub(crate) struct Member {
    /// What keys and channels begin with, as `redis.prefix` in the gateway's settings
    #[arg(long, default_value = "dam", value_parser = read::<Id>)]
    prefix: Id,
    /// The key to sign with, as `redis.hmac_key` in the gateway's settings
    #[arg(long, env = "TRAFFIC_DAM_REDIS_KEY", hide_env_values = true)]
    hmac_key: Option<String>,
    /// What the worker is called [default: made from its host and port]
    #[arg(long, value_parser = read::<Id>)]
    pub(crate) id: Option<Id>,
    /// The pool it belongs to
    #[arg(long, value_parser = read::<Id>)]
    pub(crate) pool: Option<Id>,
    /// The blue/green side it is on
    #[arg(long, value_parser = read::<Id>)]
    pub(crate) colour: Option<Id>,
    /// What it runs, for people
    #[arg(long, value_parser = read::<Id>)]
    pub(crate) version: Option<Id>,
    /// How often a heartbeat is said: 100ms to 1m
    #[arg(long, default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// After SIGTERM, how long the worker may take to finish what it has
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(crate) drain: Duration,
}

impl Member {
    pub(crate) fn settings(&self, redis: &RedisUrl) -> RedisSettings {
        RedisSettings::single(Arc::clone(&redis.0), Arc::clone(&self.prefix.0))
    }

    pub(crate) fn key(&self) -> Option<Key> {
        self.hmac_key.as_deref().map(Key::new)
    }
}

pub(crate) fn word(word: &Option<Id>) -> Option<Arc<str>> {
    word.as_ref().map(|word| Arc::clone(&word.0))
}

pub(crate) fn read<T: Syntax>(text: &str) -> Result<T, String> {
    T::read(text).ok_or_else(|| format!("must be {}", T::EXPECTED))
}

fn duration(text: &str) -> Result<Duration, String> {
    read::<Millis>(text).map(Millis::get)
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
