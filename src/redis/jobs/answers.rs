//! What the scripts of jobs answer.

use redis::{FromRedisValue, ParsingError, Value};
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;
use serde::{Deserialize, Serialize};

/// State of a job, named in Redis and for clients as here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JobState {
    /// It waits for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// It has a complete answer.
    Done,
    /// Its worker failed.
    Failed,
    /// The client cancelled it or left.
    Cancelled,
    /// Its deadline has passed.
    Expired,
    /// It failed too often: a dead letter.
    Dead,
}

impl JobState {
    pub(super) fn parse(text: &str) -> Option<Self> {
        word(text).ok()
    }
}

/// What `cancel.lua` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum CancelOutcome {
    /// There is no such job.
    Gone,
    /// The job had ended before.
    Ended,
    /// Its deadline has not passed, by Redis' clock. It was left alone.
    Early,
    /// A worker runs it. It was left alone.
    Begun,
    /// It was ended; no worker had it.
    Queued,
    /// It was ended, and its worker was notified.
    Running,
}

/// What `pend.lua` did with an asynchronous job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum PendOutcome {
    /// It is pending.
    Ok,
    /// Too much is pending.
    Full,
    /// Too many jobs of the caller are pending.
    Many,
    /// Too many bytes of the caller are pending.
    Heavy,
    /// Its time to start lies in the past.
    Past,
    /// Its time to start is too far off.
    Far,
    /// Too many jobs have a time to start.
    Later,
}

/// What `promote.lua` did with a pending job.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum PromoteOutcome {
    /// It was removed, as asked.
    #[serde(rename = "OK")]
    Removed,
    /// It is not pending.
    Gone,
    /// It must not start yet, by Redis' clock.
    Early,
    /// The stream holds enough.
    Full,
    /// It was enqueued, as the entry of this id.
    #[serde(untagged)]
    Enqueued(String),
}

/// Whose turn it is, as `turn.lua` answers to `ask`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TurnAnswer {
    /// That of the one who asks; with the worker that had the turn before.
    Own(Option<String>),
    /// That of another one.
    Wait,
    /// Too many wait.
    Many,
}

/// What `recolour.lua` did with a job that is to go to another colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RecolourOutcome {
    /// It belongs to the other colour, now or by an earlier call.
    Moved,
    /// A worker has started it.
    Running,
    /// It has ended, or is not there.
    Ended,
    /// It was ended as a dead letter, with this error, and is kept for so many milliseconds.
    Dead { error: String, keep_ms: u64 },
}

/// Reads a word of Redis as a variant of `T`.
fn word<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ParsingError> {
    T::deserialize(text.into_deserializer()).map_err(|error: ValueError| error.to_string().into())
}

macro_rules! words {
    ($($answer:ty),*) => {$(
        impl FromRedisValue for $answer {
            fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
                word(&String::from_redis_value(value)?)
            }
        }
    )*};
}
words!(JobState, CancelOutcome, PendOutcome, PromoteOutcome);

impl FromRedisValue for TurnAnswer {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut parts = Vec::<String>::from_redis_value(value)?.into_iter();
        match (parts.next().as_deref(), parts.next()) {
            (Some("TURN"), worker) => Ok(Self::Own(worker.filter(|worker| !worker.is_empty()))),
            (Some("WAIT"), _) => Ok(Self::Wait),
            (Some("MANY"), _) => Ok(Self::Many),
            (other, _) => Err(format!("{other:?} is no answer about a turn").into()),
        }
    }
}

impl FromRedisValue for RecolourOutcome {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut parts = Vec::<String>::from_redis_value(value)?.into_iter();
        match (parts.next().as_deref(), parts.next(), parts.next()) {
            (Some("MOVED"), ..) => Ok(Self::Moved),
            (Some("RUNNING"), ..) => Ok(Self::Running),
            (Some("ENDED"), ..) => Ok(Self::Ended),
            (Some("DEAD"), Some(error), Some(keep)) if let Ok(keep_ms) = keep.parse() => {
                Ok(Self::Dead { error, keep_ms })
            }
            (other, ..) => Err(format!("{other:?} is no answer about a change of colour").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: FromRedisValue>(words: &[&str]) -> Result<T, ParsingError> {
        let text = |word: &&str| Value::BulkString(word.as_bytes().to_vec());
        match words {
            [word] => T::from_redis_value(text(word)),
            words => T::from_redis_value(Value::Array(words.iter().map(text).collect())),
        }
    }

    #[test]
    fn words_are_read_and_others_are_errors() {
        assert_eq!(read(&["queued"]), Ok(JobState::Queued));
        assert_eq!(read(&["EARLY"]), Ok(CancelOutcome::Early));
        assert_eq!(read(&["LATER"]), Ok(PendOutcome::Later));
        assert_eq!(read(&["FULL"]), Ok(PromoteOutcome::Full));
        assert_eq!(read(&["17-1"]), Ok(PromoteOutcome::Enqueued("17-1".into())));
        assert!(read::<JobState>(&["QUEUED"]).is_err());
        assert!(read::<CancelOutcome>(&["queued"]).is_err());
        assert!(read::<PendOutcome>(&["17-1"]).is_err());
    }

    #[test]
    fn lists_are_read_and_others_are_errors() {
        assert_eq!(read(&["TURN", "w1"]), Ok(TurnAnswer::Own(Some("w1".into()))));
        assert_eq!(read(&["TURN", ""]), Ok(TurnAnswer::Own(None)));
        assert!(read::<TurnAnswer>(&["MOVED", ""]).is_err());
        let dead = RecolourOutcome::Dead { error: "lost".into(), keep_ms: 5 };
        assert_eq!(read(&["DEAD", "lost", "5"]), Ok(dead));
        assert!(read::<RecolourOutcome>(&["DEAD", "lost"]).is_err());
    }
}
