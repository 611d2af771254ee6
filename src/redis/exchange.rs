//! What gateways charged to callers, told to each other through Redis.
//!
//! Each gateway writes `{prefix}:{exchange}:{id}` every second, with a lifetime of 3 s, and reads those
//! of the others. The braces keep all of them in one slot of a cluster, so that one command reads
//! them. A text has at most 128 KiB, and callers stand in it as digests. With `redis.hmac_key` it is
//! signed together with its key, and one without a valid signature says nothing.
//!
//! **Failure mode.** While Redis does not answer, each gateway is fair by itself.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;

use super::gateways::Gateways;
use super::link::{RedisLink, RedisLoss};
use super::signing::Signing;
use crate::fleet::exchange::{HeardGateways, PoolTokens, ToldTokens};
use crate::metrics::RedisOp;
use crate::redis::millis;

/// Lifetime of a text.
const LIVES: Duration = Duration::from_secs(3);
/// Gateways that are heard at most; what more of them charge is not known here.
const MOST: usize = 64;

/// Texts of gateways in Redis.
#[derive(Debug)]
pub(crate) struct TokenExchange {
    link: RedisLink,
    gateways: Arc<Gateways>,
    signing: Signing,
}

impl TokenExchange {
    /// Creates a handle; reads nothing yet.
    #[must_use]
    pub(crate) const fn new(link: RedisLink, gateways: Arc<Gateways>, signing: Signing) -> Self {
        Self { link, gateways, signing }
    }

    fn key(&self, gateway: &str) -> String {
        format!("{}:{{exchange}}:{gateway}", self.link.settings().prefix)
    }

    /// Tells the others what was charged here.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails; the others may hear of it all the same.
    pub(crate) async fn tell(&self, told: &ToldTokens) -> Result<(), RedisLoss> {
        let key = self.key(self.gateways.id());
        let text = told.write(&key, self.signing.key().as_deref());
        self.link.call(RedisOp::Exchange, cmd("SET").arg(key).arg(text).arg("PX").arg(millis(LIVES))).await
    }

    /// Returns what the others have told since the last call.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn hear(&self, heard: &mut HeardGateways) -> Result<Vec<PoolTokens>, RedisLoss> {
        let mut others = self.gateways.others();
        others.truncate(MOST);
        heard.retain(&others);
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<String> = others.iter().map(|other| self.key(other)).collect();
        let texts: Vec<Option<Vec<u8>>> = self.link.call(RedisOp::Exchange, cmd("MGET").arg(&keys)).await?;
        let signing_key = self.signing.key();
        let mut tokens = Vec::new();
        for ((other, key), text) in others.iter().zip(&keys).zip(texts) {
            let Some(text) = text else { continue };
            match heard.hear(other, &text, key, signing_key.as_deref()) {
                Some(told) => tokens.extend(told),
                None => tracing::debug!(gateway = &**other, "ignoring an invalid text about callers"),
            }
        }
        Ok(tokens)
    }
}
