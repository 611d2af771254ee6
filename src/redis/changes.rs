//! Changes of rules, stored in Redis for all gateways until they are reverted or expire.
//!
//! Each change is `{prefix}:{limits}:RULE`, with a Redis expiry. The braces keep all of them in one
//! slot of a cluster, so that a gateway reads them with one command. With `redis.hmac_key` each is
//! signed, and one without a valid signature is ignored.
//!
//! **Failure mode.** While Redis does not answer, the last known changes stay, even expired ones.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;

use super::link::{RedisLink, RedisLoss};
use super::signing::Signing;
use crate::limit::change::Change;
use crate::metrics::RedisOp;
use crate::redis::millis;

/// Changes of rules in Redis.
#[derive(Debug)]
pub(crate) struct StoredChanges {
    link: RedisLink,
    signing: Signing,
}

impl StoredChanges {
    /// Creates a handle; reads nothing yet.
    #[must_use]
    pub(crate) const fn new(link: RedisLink, signing: Signing) -> Self {
        Self { link, signing }
    }

    fn key(&self, rule: &str) -> String {
        format!("{}:{{limits}}:{rule}", self.link.settings().prefix)
    }

    /// Writes a change, which lasts for `lasts`, or until it is reverted.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails; the change may be written all the same.
    pub(crate) async fn put(
        &self,
        rule: &str,
        change: &Change,
        lasts: Option<Duration>,
    ) -> Result<(), RedisLoss> {
        let key = self.key(rule);
        let text = self.signing.sign(&key, change.write());
        let mut set = cmd("SET").arg(key).arg(text).take();
        if let Some(lasts) = lasts {
            set.arg("PX").arg(millis(lasts));
        }
        self.link.call(RedisOp::Callers, &set).await
    }

    /// Deletes a change. Returns `false` if there was none.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails. The change may be deleted all the same.
    pub(crate) async fn delete(&self, rule: &str) -> Result<bool, RedisLoss> {
        self.link.call(RedisOp::Callers, cmd("DEL").arg(self.key(rule))).await
    }

    /// Returns the changes of these rules.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn read(&self, rules: &[Arc<str>]) -> Result<Vec<(Arc<str>, Change)>, RedisLoss> {
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
            let opened = self.signing.verify(&self.key(rule), &text).map_err(|fault| fault.to_string());
            let change = opened.and_then(Change::read);
            if let Err(fault) = &change {
                tracing::warn!(rule = &**rule, fault, "ignoring an invalid rule change in Redis");
            }
            Some((Arc::clone(rule), change.ok()?))
        });
        Ok(read.collect())
    }
}
