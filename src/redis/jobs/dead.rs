//! Dead letters: jobs that used up their attempts. An operator inspects and requeues them.

use std::sync::Arc;

use redis::cmd;
use serde::Deserialize;

use super::keys::Job;
use super::pending::Pending;
use super::sides::StreamedEntry;
use super::submit::SubmitRefused;
use super::{JobQueue, PATIENCE};
use crate::clock::unix_millis;
use crate::metrics::RedisOp;
use crate::redis::link::RedisLoss;
use crate::redis::millis;
use crate::redis::odd::lossy;
use crate::request::{Caller, RequestCost};

/// Dead letters listed at most: the latest.
const SHOWN: usize = 1000;
/// Dead letters whose jobs are looked up.
const DETAILED: usize = 100;
/// Bytes of a body per prompt token: an estimate, because the tokenizer of its model is unknown.
const BYTES_PER_TOKEN: u64 = 4;
/// How long, in ms, one gateway owns the requeueing of a dead letter: longer than it tries.
const ALONE_MS: u64 = 10_000;
/// Output tokens assumed, because nothing is known about the reply.
const EXPECTED: u64 = 256;

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// Its job.
    pub job: Job,
    /// Error of its last run.
    pub error: String,
    /// When it became a dead letter, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Details of the job that are still stored.
    pub details: DeadLetterDetails,
    entry: String,
}

/// Details of a dead letter's job. Empty once its record has expired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeadLetterDetails {
    /// The caller, as its [`caller_hash`](super::caller_hash) hash.
    pub caller: String,
    /// Priority class.
    pub class: String,
    /// The request path.
    pub path: String,
    /// The colour that it was written to.
    pub colour: String,
    /// The runs that failed, and why.
    pub errors: Vec<RunError>,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct RunError {
    /// `WORKER/COLOUR`.
    pub run: String,
    /// The worker's message, or that it was lost.
    pub error: String,
}

#[derive(Deserialize)]
struct DeadLetterBody {
    model: Option<Arc<str>>,
}

impl JobQueue {
    /// Returns the dead letters of `pool`, latest first, at most 1000.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn dead(&self, pool: &str) -> Result<Vec<DeadLetter>, RedisLoss> {
        let key = self.0.keys.dead(pool);
        let mut range = cmd("XREVRANGE");
        range.arg(&key).arg("+").arg("-").arg("COUNT").arg(SHOWN);
        let kept: Vec<StreamedEntry> = self.0.link.call_within(RedisOp::Jobs, PATIENCE, &range).await?;
        Ok(self.0.unreadable.skip(&key, kept, read))
    }

    /// Returns the latest dead letters of `pool`, at most 100, with what is known of their jobs.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if a command to Redis fails.
    pub(crate) async fn detailed_dead(&self, pool: &str) -> Result<Vec<DeadLetter>, RedisLoss> {
        let mut letters = self.dead(pool).await?;
        for letter in letters.iter_mut().take(DETAILED) {
            let mut look = cmd("HMGET");
            look.arg(self.0.keys.job(letter.job)).arg(&["caller", "class", "path", "colour", "errors"]);
            let fields: [Option<Vec<u8>>; 5] =
                match self.0.link.call_within(RedisOp::Jobs, PATIENCE, &look).await {
                    // Its key holds no hash: nothing is known of it.
                    Err(RedisLoss::Refused) => continue,
                    fields => fields?,
                };
            // A worker's message may be cut within a character.
            let [caller, class, path, colour, errors] = fields.map(|field| lossy(&field.unwrap_or_default()));
            let errors = serde_json::from_str(&errors).unwrap_or_default();
            letter.details = DeadLetterDetails { caller, class, path, colour, errors };
        }
        Ok(letters)
    }

    /// Requeues a dead letter of `pool` as a pending job. Returns `false` if there is none.
    ///
    /// # Errors
    /// Returns [`SubmitRefused`] if Redis fails or too many jobs are pending; the dead letter then stays.
    pub(crate) async fn requeue(&self, pool: &str, job: Job) -> Result<bool, SubmitRefused> {
        let Some(dead) = self.dead(pool).await?.into_iter().find(|dead| dead.job == job) else {
            return Ok(false);
        };
        let inner = &*self.0;
        let mut call = inner.scripts.requeue.key(inner.keys.job(job));
        call.key(inner.keys.reply(job)).arg(&inner.keys.replies).arg(job);
        call.arg(millis(self.limits().ttl)).arg(ALONE_MS);
        let found: Option<Vec<Vec<u8>>> = inner.link.run(RedisOp::Jobs, PATIENCE, &call).await?;
        let alive = found.is_some();
        if let Some(fields) = found {
            match <[Vec<u8>; 5]>::try_from(fields) {
                Ok(fields) => self.wait_again(pool, job, fields).await?,
                // Another gateway has requeued it, or is about to.
                Err(_) if !self.waits(pool, job).await? => return Err(SubmitRefused::Taken),
                Err(_) => {}
            }
        }
        let forget = cmd("XDEL").arg(inner.keys.dead(pool)).arg(&dead.entry).take();
        inner.link.call_within::<i64>(RedisOp::Jobs, PATIENCE, &forget).await?;
        Ok(alive)
    }

    /// Adds a former dead letter to the pending jobs; if there is no room, buries it again.
    async fn wait_again(&self, pool: &str, job: Job, fields: [Vec<u8>; 5]) -> Result<(), SubmitRefused> {
        let [caller, path, body, stream, requeued] = fields;
        let request_cost = RequestCost {
            model: serde_json::from_slice::<DeadLetterBody>(&body).ok().and_then(|body| body.model),
            prompt_tokens: body.len() as u64 / BYTES_PER_TOKEN,
            expected_output: EXPECTED,
            stream: stream == b"1",
            body_bytes: body.len() as u64,
            ..RequestCost::path()
        };
        // The record holds only a hash of the caller. Fair queueing still works with it.
        let caller = Caller::new(format!("dead:{}", lossy(&caller)));
        let pending = Pending::new(&caller, &request_cost, &lossy(&path), unix_millis());
        let kept = self.keep(pool, job, &pending).await;
        if kept.is_err() {
            let inner = &*self.0;
            let mut call = inner.scripts.bury.key(inner.keys.job(job));
            call.key(inner.keys.reply(job)).arg(&inner.keys.replies).arg(job).arg(requeued);
            // If Redis fails here, an operator can requeue the job once Redis is back.
            if inner.link.run(RedisOp::Jobs, PATIENCE, &call).await? {
                self.drop_pending(pool, job, &pending).await?;
            }
        }
        kept
    }
}

fn read((entry, fields): StreamedEntry) -> Option<DeadLetter> {
    let (mut job, mut error) = (None, String::new());
    for (field, value) in fields {
        match &field[..] {
            b"job" => job = Job::from_bytes(&value),
            b"error" => error = lossy(&value),
            _ => {}
        }
    }
    let at_ms = entry.split_once('-')?.0.parse().ok()?;
    Some(DeadLetter { job: job?, error, at_ms, details: DeadLetterDetails::default(), entry })
}
