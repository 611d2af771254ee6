//! Which worker made a response, known to all gateways.
//!
//! For each response `{prefix}:response:{digest of its id}` holds the worker, and the digest of its
//! caller. It expires after [`KEPT`]: so there are at most as many keys as responses in that time, of
//! some 150 bytes each. Keys and values have a bounded length and no text of clients. With
//! `redis.hmac_key` the value is signed, and one without a valid signature counts as absent.
//!
//! **Failure mode.** A response that Redis was not told of is known only to the gateway that passed
//! it on.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;

use super::link::{RedisLink, RedisLoss};
use super::signing::Signing;
use crate::metrics::RedisOp;

/// How long a response is known.
pub(crate) const KEPT: Duration = Duration::from_secs(3600);

/// Workers of responses, in Redis.
#[derive(Clone, Debug)]
pub(crate) struct StoredResponses {
    link: RedisLink,
    signing: Signing,
}

impl StoredResponses {
    /// Creates a store on `link`.
    #[must_use]
    pub(crate) const fn new(link: RedisLink, signing: Signing) -> Self {
        Self { link, signing }
    }

    fn key(&self, response: &str) -> String {
        format!("{}:response:{response}", self.link.settings().prefix)
    }

    /// Records that `worker` made a response for the caller; `response` and `caller` are digests.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command fails. It may have been carried out all the same.
    pub(crate) async fn put(&self, response: &str, caller: &str, worker: &str) -> Result<(), RedisLoss> {
        let key = self.key(response);
        let value = self.signing.sign(&key, format!("{caller} {worker}"));
        let set = cmd("SET").arg(key).arg(value).arg("EX").arg(KEPT.as_secs()).take();
        self.link.call(RedisOp::Responses, &set).await
    }

    /// Returns the digest of the caller and the worker of a response; `None` if it is not known.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command fails.
    pub(crate) async fn get(&self, response: &str) -> Result<Option<(Arc<str>, Arc<str>)>, RedisLoss> {
        let key = self.key(response);
        let value: Option<String> = self.link.call(RedisOp::Responses, cmd("GET").arg(&key)).await?;
        let text = value.as_deref().and_then(|value| self.signing.verify(&key, value).ok());
        let parts = text.and_then(|text| text.split_once(' '));
        Ok(parts.map(|(caller, worker)| (caller.into(), worker.into())))
    }
}
