//! Changes of rules that all gateways follow, kept in Redis until they are taken back or their time is over.
//!
//! Each is `{prefix}:{limits}:RULE`, which expires by itself; the braces keep all of them in one slot of a cluster, so that
//! a gateway reads them with one command. With `redis.hmac_key` each is signed, and one that is not changes nothing.
//!
//! **Failure mode.** While Redis does not answer, what was last read goes on, also beyond its time.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;

use super::link::{Link, Loss};
use super::sealing::Sealing;
use crate::limit::change::Change;
use crate::metrics::RedisOp;

/// The changes in Redis.
#[derive(Debug)]
pub struct StoredChanges {
    link: Link,
    sealing: Sealing,
}

impl StoredChanges {
    /// Those that are kept there.
    #[must_use]
    pub const fn new(link: Link, sealing: Sealing) -> Self {
        Self { link, sealing }
    }

    fn key(&self, rule: &str) -> String {
        format!("{}:{{limits}}:{rule}", self.link.settings().prefix)
    }

    /// Writes a change, for so long or until it is taken back.
    ///
    /// # Errors
    /// When Redis cannot be asked; it may have been written all the same.
    pub async fn put(&self, rule: &str, change: &Change, lasts: Option<Duration>) -> Result<(), Loss> {
        let key = self.key(rule);
        let text = self.sealing.seal(&key, change.write());
        let mut set = cmd("SET").arg(key).arg(text).take();
        if let Some(lasts) = lasts {
            set.arg("PX").arg(u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
        }
        self.link.call(RedisOp::Callers, &set).await
    }

    /// Takes a change back. Says whether there was one.
    ///
    /// # Errors
    /// When Redis cannot be asked; it may be gone all the same.
    pub async fn delete(&self, rule: &str) -> Result<bool, Loss> {
        self.link.call(RedisOp::Callers, cmd("DEL").arg(self.key(rule))).await
    }

    /// The changes of these rules.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn read(&self, rules: &[Arc<str>]) -> Result<Vec<(Arc<str>, Change)>, Loss> {
        if rules.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = cmd("MGET");
        for rule in rules {
            get.arg(self.key(rule));
        }
        let texts: Vec<Option<String>> = self.link.call(RedisOp::Callers, &get).await?;
        let read = rules.iter().zip(texts).filter_map(|(rule, text)| {
            let text = text?;
            let opened = self.sealing.open(&self.key(rule), &text).map_err(|fault| fault.to_string());
            let change = opened.and_then(Change::read);
            if let Err(fault) = &change {
                tracing::warn!(rule = &**rule, fault, "a change of a rule in Redis is left out");
            }
            Some((Arc::clone(rule), change.ok()?))
        });
        Ok(read.collect())
    }
}
