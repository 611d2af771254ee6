//! Reads stored heartbeats, which may have been published while no one was subscribed.

use std::time::Duration;

use redis::{RedisError, RedisResult, Value, cmd, pipe};

use super::super::connect::Connection;
use crate::fleet::heartbeat::LARGEST;
use crate::fleet::registry::MOST_WORKERS;

/// Keys per pipeline: few enough that the answer comes well within a command's timeout.
const BATCH: usize = 64;
/// Most names that are read. Some are stale (their key has expired), some may be made up.
const MOST_NAMES: usize = 4 * MOST_WORKERS;

#[derive(Debug)]
pub(super) struct KeptHeartbeat {
    pub(super) text: Vec<u8>,
    /// Remaining lifetime of the key.
    pub(super) left: Duration,
}

/// Reads the heartbeats of all workers in the set. Removes names without a key, so that the set
/// does not grow for ever; a live worker adds itself again with its next heartbeat.
pub(super) async fn read(connection: &mut Connection, prefix: &str) -> RedisResult<Vec<KeptHeartbeat>> {
    let set = format!("{prefix}:workers");
    let names = names(connection, &set).await?;
    let mut kept = Vec::new();
    let mut gone = Vec::new();
    let batch = if connection.is_spread() { 1 } else { BATCH };
    for batch in names.chunks(batch) {
        let mut ask = pipe();
        for name in batch {
            let key = [prefix.as_bytes(), b":worker:", name].concat();
            // One byte more than the limit, so that a text that is too long is recognized.
            ask.cmd("GETRANGE").arg(&key).arg(0).arg(LARGEST);
            ask.cmd("PTTL").arg(&key);
        }
        // A key of another type is an error in its place, and must not hide the other answers.
        let answers: Vec<Value> = ask.ignore_errors().query_async(connection).await?;
        for (name, answer) in batch.iter().zip(answers.chunks_exact(2)) {
            match answer {
                [Value::BulkString(text), Value::Int(left)] if !text.is_empty() && *left > 0 => {
                    let left = Duration::from_millis(left.unsigned_abs());
                    kept.push(KeptHeartbeat { text: text.clone(), left });
                }
                // A key without an expiry was not written by a worker, and its age is unknown.
                _ => gone.push(name),
            }
        }
    }
    if !gone.is_empty() {
        let removed = cmd("SREM").arg(&set).arg(&gone).query_async::<u64>(connection).await;
        if let Err(error) = removed {
            tracing::debug!(%error, "could not remove expired workers from the set of workers");
        }
    }
    Ok(kept)
}

/// Returns the names in the set, up to the limit.
async fn names(connection: &mut Connection, set: &str) -> RedisResult<Vec<Vec<u8>>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut cursor = 0_u64;
    loop {
        let mut scan = cmd("SSCAN");
        scan.arg(set).arg(cursor).arg("COUNT").arg(512);
        let page: Result<(u64, Vec<Vec<u8>>), RedisError> = scan.query_async(connection).await;
        let (next, page) = match page {
            Ok(page) => page,
            // The key has another type. Workers are still heard on the channel.
            Err(error) if !error.is_io_error() => {
                tracing::warn!(set, %error, "cannot read the set of workers");
                return Ok(names);
            }
            Err(error) => return Err(error),
        };
        names.extend(page.into_iter().take(MOST_NAMES - names.len()));
        cursor = next;
        if cursor == 0 || names.len() >= MOST_NAMES {
            return Ok(names);
        }
    }
}
