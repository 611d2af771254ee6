//! Changes of rules, stored in Redis for all gateways until they are reverted or expire.
//!
//! Each change is `{prefix}:{limits}:RULE`, with a Redis expiry. The braces keep all of them in one
//! slot of a cluster, so that a gateway reads them with one command. With `redis.hmac_key` each is
//! signed, and one without a valid signature is ignored. A signed change also says when it ends, by the
//! clock of Redis: whoever recorded its text cannot bring it back then.
//!
//! **Failure mode.** While Redis does not answer, the last known changes stay, even expired ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::cmd;
use serde::{Deserialize, Serialize};

use super::link::{RedisLink, RedisLoss};
use super::odd;
use super::signing::Signing;
use crate::limit::change::{Change, WrittenChange};
use crate::metrics::RedisOp;
use crate::redis::millis;

/// How long a signed text holds after its key has expired: the key is set a little later than the
/// end is computed.
const LATE: Duration = Duration::from_secs(1);

/// Text of a change.
#[derive(Deserialize, Serialize)]
struct StoredChange {
    #[serde(flatten)]
    change: WrittenChange,
    /// Its end by the clock of Redis, in milliseconds since 1970; `None` if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
}

/// Reads a change; `now` is the time by the clock of Redis, if ends count.
fn read(text: &str, now: Option<Duration>) -> Result<Change, String> {
    let StoredChange { change, until_ms } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match (now, until_ms) {
        (Some(now), Some(until)) if millis(now) >= until => Err("its time is over".to_owned()),
        _ => Change::of(&change),
    }
}

/// Changes of rules in Redis.
#[derive(Debug)]
pub(crate) struct StoredChanges {
    link: RedisLink,
    signing: Signing,
    /// What the log says of the texts that are ignored, by rule.
    ignored: Mutex<BTreeMap<Arc<str>, String>>,
}

impl StoredChanges {
    /// Creates a handle; reads nothing yet.
    #[must_use]
    pub(crate) const fn new(link: RedisLink, signing: Signing) -> Self {
        Self { link, signing, ignored: Mutex::new(BTreeMap::new()) }
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
        let until_ms = match lasts {
            Some(lasts) if self.signing.key().is_some() => {
                Some(millis(self.link.time(RedisOp::Callers).await? + lasts + LATE))
            }
            _ => None,
        };
        // Serializing strings and numbers to memory cannot fail.
        let text =
            serde_json::to_string(&StoredChange { change: change.into(), until_ms }).unwrap_or_default();
        let text = self.signing.sign(&key, text);
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
        let texts: Vec<Option<Vec<u8>>> = self.link.call(RedisOp::Callers, &get).await?;
        let ends_count = self.signing.key().is_some() && texts.iter().any(Option::is_some);
        let now = if ends_count { Some(self.link.time(RedisOp::Callers).await?) } else { None };
        let found = rules.iter().zip(texts).filter_map(|(rule, text)| Some((rule, text?)));
        let (mut changes, mut ignored) = (Vec::new(), BTreeMap::new());
        for (rule, text) in found {
            match self.opened(rule, &text, now) {
                Ok(change) => changes.push((Arc::clone(rule), change)),
                Err(fault) => {
                    ignored.insert(Arc::clone(rule), fault);
                }
            }
        }
        self.log(ignored);
        Ok(changes)
    }

    fn opened(&self, rule: &str, kept: &[u8], now: Option<Duration>) -> Result<Change, String> {
        let text =
            self.signing.verify(&self.key(rule), odd::text(kept)?).map_err(|fault| fault.to_string())?;
        read(text, now)
    }

    /// Logs what is newly ignored: the texts are read each second.
    fn log(&self, ignored: BTreeMap<Arc<str>, String>) {
        let mut before = self.ignored.lock();
        for (rule, fault) in ignored.iter().filter(|(rule, fault)| before.get(*rule) != Some(fault)) {
            tracing::warn!(rule = &**rule, fault, "ignoring an invalid rule change in Redis");
        }
        *before = ignored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_over_when_it_says_so() {
        let change = Change { mode: Some(crate::limit::rule::Mode::Observe), ..Change::default() };
        for (until_ms, now, holds) in [
            (None, Some(u64::MAX), true),
            (Some(5000), None, true),
            (Some(5000), Some(4999), true),
            (Some(5000), Some(5000), false),
        ] {
            let text = serde_json::to_string(&StoredChange { change: (&change).into(), until_ms }).unwrap();
            let read = read(&text, now.map(Duration::from_millis));
            assert_eq!(read.is_ok(), holds, "{text}, read at {now:?}");
            assert!(!holds || read == Ok(change));
        }
    }
}
