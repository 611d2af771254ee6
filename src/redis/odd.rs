//! Values in Redis that are not what they should be.
//!
//! Anyone who can write to Redis may store a name that is not UTF-8, or a key of another type. Such a
//! value is skipped: it must not hide the others, nor look like a Redis that is away.

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
}
