//! Callers stored in Redis: known to all gateways, changed at run time.
//!
//! Each caller is `{prefix}:caller:{id}`, its id in the set `{prefix}:callers`. A change sets
//! `{prefix}:callers:version` to a new value; a gateway that sees an unknown version reads all
//! callers again. Requests only use this cache. Redis holds the SHA-256 of each key, no secrets.
//! With `redis.hmac_key` callers are signed, and one without a valid signature is ignored.
//!
//! **Failure mode.** While Redis does not answer, cached callers stay valid and none can change.
//!
//! **Trade-off.** A change takes about a second to reach other gateways, and a reload reads the
//! whole list: this suits thousands of callers that change a few times a minute, not millions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::try_join_all;
use redis::cmd;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::link::{RedisLink, RedisLoss};
use super::odd::{self, Members};
use super::signing::Signing;
use crate::hex;
use crate::limit::own_limits::WrittenLimit;
use crate::metrics::RedisOp;
use crate::request::{AllowedModels, CallerRights, Class, KeyOwner, OwnLimits};

/// How often the version is polled.
const LOOK: Duration = Duration::from_secs(1);
/// Poll interval before the first read: until then no stored caller is known.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// Callers read concurrently.
const PAGE: usize = 256;
/// Highest weight of a caller, as in the configuration.
const HEAVIEST: u32 = 1000;
const LONGEST_ID: usize = 64;
/// Most patterns for models of a caller, and the longest one in bytes, as in the configuration.
const MOST_MODELS: usize = 64;
const LONGEST_PATTERN: usize = 256;

/// Stored caller without its key: JSON in the admin API and in Redis.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct WrittenCaller {
    /// Its class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Its weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Its team.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// Its own limits, by the names of the rules.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, WrittenLimit>,
    /// Patterns for the models that it may use; absent for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// `true` if it may use external workers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
}

/// Stored caller with the digest of its key.
#[derive(Debug, Deserialize, Serialize)]
struct CallerRecord {
    sha256: String,
    #[serde(flatten)]
    written: WrittenCaller,
}

/// Why a key is refused whose SHA-256 is [`of_no_key`].
pub(crate) const NO_KEY: &str =
    "is the SHA-256 of an empty text: the key was empty when it was hashed (an unset variable?)";

/// Returns `true` for the SHA-256 of an empty text, which `printf %s "$KEY" | sha256sum` prints
/// without a `KEY`.
#[must_use]
pub(crate) fn of_no_key(sha256: &[u8; 32]) -> bool {
    sha256[..] == Sha256::digest(b"")[..]
}

/// Returns `true` if the text is a valid name of a caller or a team, as in the configuration.
#[must_use]
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(plain)
}

impl WrittenCaller {
    /// Returns the caller of this name whose key has the SHA-256 `sha256`, in hexadecimal digits.
    ///
    /// # Errors
    /// Returns which part is invalid, and what is expected.
    pub(crate) fn read(&self, id: &str, sha256: &str) -> Result<KeyOwner, String> {
        let Self { class, weight, team, limits, models, external } = self;
        const NAME: &str = "1 to 64 letters, digits, `.`, `_` or `-`";
        if !is_name(id) {
            return Err(format!("the id must be {NAME}; found \"{id}\""));
        }
        if let Some(team) = team.as_ref().filter(|team| !is_name(team)) {
            return Err(format!("`team` must be {NAME}; found \"{team}\""));
        }
        let is_pattern = |text: &String| {
            (1..=LONGEST_PATTERN).contains(&text.len()) && !text.chars().any(char::is_control)
        };
        if models.iter().flatten().count() > MOST_MODELS {
            return Err(format!("`models` must have at most {MOST_MODELS} patterns"));
        }
        if let Some(wrong) = models.iter().flatten().find(|text| !is_pattern(text)) {
            return Err(format!(
                "`models` must be patterns of 1 to {LONGEST_PATTERN} bytes; found \"{wrong}\""
            ));
        }
        let weight = weight.unwrap_or(1);
        if !(1..=HEAVIEST).contains(&weight) {
            return Err(format!("`weight` must be from 1 to {HEAVIEST}; found {weight}"));
        }
        let known = |class: &String| {
            let fault = || format!("`class` must be `critical`, `interactive` or `batch`; found \"{class}\"");
            Class::parse(class).ok_or_else(fault)
        };
        let own = limits.iter().map(|(rule, limit)| {
            let limit = limit.read().map_err(|fault| format!("`limits`: '{rule}': {fault}"))?;
            Ok((rule.as_str().into(), limit))
        });
        let limits = own.collect::<Result<OwnLimits, String>>()?;
        let sha256 = hex::read(sha256.as_bytes()).ok_or("`sha256` must be 64 hexadecimal digits")?;
        if of_no_key(&sha256) {
            return Err(format!("`sha256` {NO_KEY}"));
        }
        let rights = CallerRights {
            class: class.as_ref().map(known).transpose()?,
            weight,
            team: team.as_deref().map(Into::into),
            limits: (!limits.is_empty()).then(|| Arc::new(limits)),
            models: models
                .as_ref()
                .map(|models| AllowedModels::new(models.iter().map(|text| text.as_str().into())))
                .map(Arc::new),
            answer_headers: None,
            external: *external,
        };
        Ok(KeyOwner { id: id.into(), sha256, rights })
    }
}

impl From<&CallerRights> for WrittenCaller {
    fn from(rights: &CallerRights) -> Self {
        let limits = rights.limits.iter().flat_map(|limits| limits.iter());
        Self {
            class: rights.class.map(|class| class.as_str().to_owned()),
            weight: Some(rights.weight),
            team: rights.team.as_deref().map(ToOwned::to_owned),
            limits: limits.map(|(rule, limit)| (rule.to_string(), limit.into())).collect(),
            models: rights
                .models
                .as_ref()
                .map(|models| models.patterns().map(|pattern| pattern.to_string()).collect()),
            external: rights.external,
        }
    }
}

fn read(id: &str, text: &str) -> Result<KeyOwner, String> {
    let CallerRecord { sha256, written } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    written.read(id, &sha256)
}

fn write(caller: &KeyOwner) -> String {
    let record = CallerRecord { sha256: hex::write(&caller.sha256), written: (&caller.rights).into() };
    // Serializing strings and numbers to memory cannot fail.
    serde_json::to_string(&record).unwrap_or_default()
}

#[derive(Debug, Default)]
struct CallerList {
    /// `None` until the callers have been read.
    version: Option<Vec<u8>>,
    by_digest: HashMap<[u8; 32], Arc<KeyOwner>>,
}

/// Callers in Redis, with a cached copy.
#[derive(Debug)]
pub struct StoredCallers {
    link: RedisLink,
    signing: Signing,
    registry: ArcSwap<CallerList>,
}

impl StoredCallers {
    /// Creates an empty cache.
    #[must_use]
    pub(crate) fn new(link: RedisLink, signing: Signing) -> Self {
        Self { link, signing, registry: ArcSwap::default() }
    }

    /// Forces a reload at the next poll, because the signature key has changed.
    pub(crate) fn look_again(&self) {
        let by_digest = self.registry.load().by_digest.clone();
        self.registry.store(Arc::new(CallerList { version: None, by_digest }));
    }

    fn opened(&self, id: &str, kept: &[u8]) -> Result<KeyOwner, String> {
        let text = self.signing.verify(&self.key(id), odd::text(kept)?).map_err(|fault| fault.to_string())?;
        read(id, text)
    }

    fn key(&self, id: &str) -> String {
        format!("{}:caller:{id}", self.link.settings().prefix)
    }

    fn index(&self) -> String {
        format!("{}:callers", self.link.settings().prefix)
    }

    /// Returns the caller whose key has this digest.
    #[must_use]
    pub(crate) fn find(&self, digest: &[u8; 32]) -> Option<Arc<KeyOwner>> {
        self.registry.load().by_digest.get(digest).cloned()
    }

    /// Returns the caller of that id from the cache.
    #[must_use]
    pub(crate) fn known(&self, id: &str) -> Option<Arc<KeyOwner>> {
        self.registry.load().by_digest.values().find(|caller| *caller.id == *id).cloned()
    }

    /// Returns `true` once the callers have been read.
    #[must_use]
    pub(crate) fn is_read(&self) -> bool {
        self.registry.load().version.is_some()
    }

    /// Returns the caller of that id from Redis; `None` if absent or invalid.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails, or the key holds another type.
    pub(crate) async fn get(&self, id: &str) -> Result<Option<KeyOwner>, RedisLoss> {
        let text: Option<Vec<u8>> = self.link.call(RedisOp::Callers, cmd("GET").arg(self.key(id))).await?;
        Ok(text.and_then(|text| self.opened(id, &text).ok()))
    }

    /// Writes a caller. Each step may be repeated; the last one makes it visible to all gateways.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if a command to Redis fails. The caller may have been written all the same.
    pub(crate) async fn put(&self, caller: &KeyOwner) -> Result<(), RedisLoss> {
        let key = self.key(&caller.id);
        let text = self.signing.sign(&key, write(caller));
        let set = cmd("SET").arg(key).arg(text).take();
        self.link.call::<()>(RedisOp::Callers, &set).await?;
        self.link.call::<i64>(RedisOp::Callers, cmd("SADD").arg(self.index()).arg(&*caller.id)).await?;
        self.changed().await
    }

    /// Deletes a caller. Returns `false` if there was none.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if a command to Redis fails. The caller may be deleted all the same.
    pub(crate) async fn delete(&self, id: &str) -> Result<bool, RedisLoss> {
        let gone: bool = self.link.call(RedisOp::Callers, cmd("DEL").arg(self.key(id))).await?;
        self.link.call::<i64>(RedisOp::Callers, cmd("SREM").arg(self.index()).arg(id)).await?;
        self.changed().await?;
        Ok(gone)
    }

    async fn changed(&self) -> Result<(), RedisLoss> {
        let version = format!("{}:version", self.index());
        // Random, not a counter, which after a data loss could reach a value that a gateway knows.
        let change = cmd("SET").arg(version).arg(fastrand::i64(1..)).take();
        self.link.call::<()>(RedisOp::Callers, &change).await?;
        self.refresh().await
    }

    /// Reads all callers if the version has changed.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if a command to Redis fails. The cache then stays as it was.
    pub(crate) async fn refresh(&self) -> Result<(), RedisLoss> {
        let key = format!("{}:version", self.index());
        let version = self.link.call_answered(RedisOp::Callers, cmd("GET").arg(key)).await?;
        // A key of another type stays until a caller changes. The callers can be read all the same.
        let version: Option<Vec<u8>> = Some(version.unwrap_or(None).unwrap_or_default());
        if self.registry.load().version == version {
            return Ok(());
        }
        let index = self.index();
        let ids: Members = self.link.call(RedisOp::Callers, cmd("SMEMBERS").arg(&index)).await?;
        let ids = ids.names_of(&index);
        let mut by_digest = HashMap::with_capacity(ids.len());
        for page in ids.chunks(PAGE) {
            let read = page.iter().map(|id| async move {
                let get = cmd("GET").arg(self.key(id)).take();
                self.link
                    .call_answered::<Option<Vec<u8>>>(RedisOp::Callers, &get)
                    .await
                    .map(|text| (id, text))
            });
            for (id, text) in try_join_all(read).await? {
                let opened = match text {
                    Ok(None) => continue,
                    Ok(Some(text)) => self.opened(id, &text),
                    Err(refusal) => Err(refusal.to_string()),
                };
                match opened {
                    Ok(caller) => {
                        by_digest.insert(caller.sha256, Arc::new(caller));
                    }
                    Err(fault) => {
                        tracing::warn!(id, fault, "ignoring an invalid caller in Redis")
                    }
                }
            }
        }
        self.registry.store(Arc::new(CallerList { version, by_digest }));
        Ok(())
    }

    /// Follows changes of other gateways, for as long as it is polled.
    pub(crate) async fn follow(&self) {
        let mut refused_before = false;
        loop {
            let refused = self.refresh().await == Err(RedisLoss::Refused);
            if refused && !refused_before {
                tracing::warn!("the callers in Redis cannot be read");
            }
            refused_before = refused;
            sleep(if self.is_read() { LOOK } else { FIRST_LOOK }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(id: &str, sha256: &str, written: &str) -> Result<KeyOwner, String> {
        serde_json::from_str::<WrittenCaller>(written).unwrap().read(id, sha256)
    }

    #[test]
    fn a_caller_reads_back_as_it_was_written() {
        let hex = "0fF0".repeat(16);
        for written in [
            "{}",
            r#"{"class":"batch","weight":7,"team":"red","limits":{"a":{"rate":"5/m","burst":9},"b":{"limit":3}},"external":true}"#,
            r#"{"models":["qwen*","assistant"]}"#,
            r#"{"models":[]}"#,
        ] {
            let caller = caller("a.b-c", &hex, written).unwrap();
            assert_eq!(read("a.b-c", &write(&caller)), Ok(caller));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let hex = "00".repeat(32);
        for (id, sha256, written, words) in [
            ("a b", &*hex, "{}", "the id must be"),
            ("a", "+0", "{}", "64 hexadecimal digits"),
            ("a", &*"+0".repeat(32), "{}", "64 hexadecimal digits"),
            ("a", &*hex::write(&Sha256::digest("")), "{}", "`sha256` is the SHA-256 of an empty text"),
            ("a", &*hex, r#"{"class":"high"}"#, "`critical`, `interactive` or `batch`; found \"high\""),
            ("a", &*hex, r#"{"weight":0}"#, "from 1 to 1000; found 0"),
            ("a", &*hex, r#"{"team":""}"#, "`team` must be"),
            (
                "a",
                &*hex,
                r#"{"models":["qwen*",""]}"#,
                "`models` must be patterns of 1 to 256 bytes; found \"\"",
            ),
            ("a", &*hex, r#"{"limits":{"r":{"rate":"5"}}}"#, "'r': `rate` must be"),
        ] {
            let fault = caller(id, sha256, written).unwrap_err();
            assert!(fault.contains(words), "{fault}");
        }
    }
}
