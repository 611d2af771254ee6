//! Values in Redis that are not what they should be.
//!
//! Anyone who can write to Redis may store a name that is not UTF-8, or a key of another type. Such a
//! value is skipped: it must not hide the others, nor look like a Redis that is away.

use std::collections::HashSet;

use parking_lot::Mutex;
use redis::{ErrorKind, FromRedisValue, ParsingError, RedisError, RedisResult, ServerErrorKind, Value};

/// Members of a set of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    pub(super) names: Vec<String>,
    /// Members that are not UTF-8, so no names.
    pub(super) odd: Vec<Vec<u8>>,
}

impl FromRedisValue for Members {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut members = Self::default();
        for member in Vec::<Vec<u8>>::from_redis_value(value)? {
            match String::from_utf8(member) {
                Ok(name) => members.names.push(name),
                Err(error) => members.odd.push(error.into_bytes()),
            }
        }
        Ok(members)
    }
}

impl Members {
    /// Returns the names, and warns of members that are none.
    pub(super) fn names_of(self, set: &str) -> Vec<String> {
        if !self.odd.is_empty() {
            tracing::warn!(
                set,
                members = self.odd.len(),
                "skipped members of a Redis set that are not UTF-8"
            );
        }
        self.names
    }
}

/// Returns a stored value as text.
pub(super) fn text(stored: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(stored).map_err(|_| "the text is not UTF-8".to_owned())
}

/// Reads a text whose exact bytes do not matter.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Keys that hold values which cannot be read, so that each is named once.
#[derive(Debug, Default)]
pub(super) struct UnreadableKeys(Mutex<HashSet<String>>);

impl UnreadableKeys {
    /// Returns what `read` makes of the values of `key`, without those that it cannot read.
    pub(super) fn skip<T, U>(
        &self,
        key: &str,
        values: impl IntoIterator<Item = T>,
        read: impl Fn(T) -> Option<U>,
    ) -> Vec<U> {
        let mut skipped = 0_usize;
        let kept = values.into_iter().filter_map(|value| {
            let value = read(value);
            skipped += usize::from(value.is_none());
            value
        });
        let kept = kept.collect();
        self.note(key, skipped);
        kept
    }

    /// Warns of a key with values that were skipped, unless the read before had some too.
    fn note(&self, key: &str, skipped: usize) {
        let mut known = self.0.lock();
        if skipped == 0 {
            known.remove(key);
        } else if known.insert(key.to_owned()) {
            tracing::warn!(key, skipped, "skipped values in Redis that cannot be read");
        }
    }
}

/// Returns `true` if the error concerns only this command, or its key; others may succeed.
pub(super) fn is_refused(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError)
            | ErrorKind::UnexpectedReturnType
            | ErrorKind::Parse
    ) || error.code() == Some("WRONGTYPE")
}

/// Separates a refusal of this command alone from the error of a server that cannot be used.
pub(super) fn answered<T>(answer: RedisResult<T>) -> RedisResult<Result<T, RedisError>> {
    match answer {
        Err(error) if is_refused(&error) => Ok(Err(error)),
        answer => answer.map(Ok),
    }
}

/// Returns the answer, or the default if Redis refused the command.
pub(super) fn or_default<T: Default>(answer: RedisResult<T>) -> RedisResult<T> {
    Ok(answered(answer)?.unwrap_or_default())
}

/// Like [`or_default`], and warns of a refusal, which is about `key`.
pub(super) fn or_warn<T: Default>(key: &str, answer: RedisResult<T>) -> RedisResult<T> {
    Ok(answered(answer)?.unwrap_or_else(|error| {
        tracing::warn!(key, %error, "ignoring a Redis key that is not as it should be");
        T::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_no_text_hide_no_names() {
        let bytes = |text: &[u8]| Value::BulkString(text.to_vec());
        for all in [Value::Array, Value::Set] {
            let members = Members::from_redis_value(all(vec![bytes(b"a"), bytes(b"\xff\xfe"), bytes(b"b")]));
            let (names, odd) = (vec!["a".to_owned(), "b".to_owned()], vec![b"\xff\xfe".to_vec()]);
            assert_eq!(members.unwrap(), Members { names, odd });
        }
    }

    #[test]
    fn only_what_concerns_one_key_is_ignored() {
        for (kind, ignored) in [
            (ErrorKind::UnexpectedReturnType, true),
            (ErrorKind::Server(ServerErrorKind::ResponseError), true),
            (ErrorKind::Server(ServerErrorKind::ReadOnly), false),
            (ErrorKind::Server(ServerErrorKind::NoPerm), false),
            (ErrorKind::Io, false),
        ] {
            let answer = Err::<u64, _>(RedisError::from((kind, "no")));
            assert_eq!(or_warn("dam:key", answer).is_ok(), ignored, "{kind:?}");
        }
    }

    #[test]
    fn what_is_unreadable_is_skipped_and_its_key_known_until_it_is_gone() {
        let keys = UnreadableKeys::default();
        let read = |values: &[&str]| keys.skip("k", values.iter(), |value| value.parse::<u8>().ok());
        assert_eq!(read(&["1", "x", "2"]), [1, 2]);
        assert!(keys.0.lock().contains("k"));
        assert_eq!(read(&["1"]), [1]);
        assert!(keys.0.lock().is_empty());
    }
}
