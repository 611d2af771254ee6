//! Job ids and Redis keys.

use std::fmt;
use std::sync::Arc;

use redis::{RedisWrite, ToRedisArgs};
use sha2::{Digest, Sha256};

/// A job's id: 128 random bits, so that it cannot be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Job(u128);

/// Bytes of a caller's hash: enough that no two callers collide.
const TAG_BYTES: usize = 16;
const DIGITS: usize = 32;

impl Job {
    /// Generates an id; `None` if the system provides no randomness.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        Some(Self(u128::from_ne_bytes(bytes)))
    }

    /// Parses 32 lower-case hexadecimal digits.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == DIGITS && text.bytes().all(plain))
            .then(|| u128::from_str_radix(text, 16).ok().map(Self))
            .flatten()
    }

    /// Parses 32 lower-case hexadecimal digits that anybody may have written.
    pub(super) fn from_bytes(text: &[u8]) -> Option<Self> {
        Self::parse(std::str::from_utf8(text).ok()?)
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl ToRedisArgs for Job {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

/// Returns the hash that stands for a caller in a job. It is stable and hides the name.
#[must_use]
pub(crate) fn caller_hash(caller: &str) -> String {
    let digest = Sha256::digest(caller.as_bytes());
    digest.iter().take(TAG_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// A colour of a pool; it has its own job stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Side {
    /// The pool.
    pub pool: Arc<str>,
    /// The colour.
    pub colour: Arc<str>,
}

/// Key and channel names with the configured prefix.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: Arc<str>,
    /// Channel prefix for replies; the gateway's id follows.
    pub(super) replies: String,
    /// Channel prefix for cancels; the worker's name follows.
    pub(super) cancels: String,
}

impl Keys {
    pub(super) fn new(prefix: &Arc<str>) -> Self {
        Self {
            prefix: Arc::clone(prefix),
            replies: format!("{prefix}:replies:"),
            cancels: format!("{prefix}:cancels:"),
        }
    }

    pub(super) fn job(&self, job: Job) -> String {
        format!("{}:job:{{{job}}}", self.prefix)
    }

    pub(super) fn reply(&self, job: Job) -> String {
        format!("{}:reply:{{{job}}}", self.prefix)
    }

    pub(super) fn stream(&self, side: &Side) -> String {
        format!("{}:jobs:{{{}}}:{}", self.prefix, side.pool, side.colour)
    }

    /// The hash of pending jobs, and the hash of counts by caller.
    pub(super) fn pending(&self, pool: &str) -> [String; 2] {
        let key = format!("{}:pending:{{{pool}}}", self.prefix);
        [key.clone(), key + ":callers"]
    }

    pub(super) fn dead(&self, pool: &str) -> String {
        format!("{}:dead:{{{pool}}}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written_and_nothing_else_is() {
        let job = Job::random().unwrap();
        assert_eq!(Job::parse(&job.to_string()), Some(job));
        assert_ne!(Job::random(), Some(job));
        assert_eq!(Job::parse(&"0".repeat(32)), Some(Job(0)));
        for wrong in
            ["", "1", &"0".repeat(31), &"0".repeat(33), &"F".repeat(32), &format!("+{}", "0".repeat(31))]
        {
            assert_eq!(Job::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn keys_are_as_the_protocol_has_them() {
        let keys = Keys::new(&"dam".into());
        let side = Side { pool: "chat".into(), colour: "blue".into() };
        assert_eq!(keys.stream(&side), "dam:jobs:{chat}:blue");
        assert_eq!(keys.dead("chat"), "dam:dead:{chat}");
        assert_eq!(keys.job(Job(0xf)), format!("dam:job:{{{}f}}", "0".repeat(31)));
        assert_eq!(keys.reply(Job(0xf)), format!("dam:reply:{{{}f}}", "0".repeat(31)));
    }
}
