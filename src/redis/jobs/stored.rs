//! Answers over HTTP that are stored for repeats of their requests.
//!
//! Such an answer is stored as that of a job that has ended. So a repeat gets it in the same way as
//! that of a queue, from any gateway.

use bytes::Bytes;

use super::allowance::StoredBytes;
use super::keys::Job;
use super::repeatable::Repeatable;
use super::{JobQueue, PATIENCE, PieceKind, PiecePlace};
use crate::metrics::{KeyUse, RedisOp};
use crate::redis::link::RedisLoss;
use crate::redis::millis;
use crate::redis::reply;

/// Bytes of the longest answer that is stored: a hundred times a usual one.
pub(crate) const LONGEST_ANSWER: usize = 1 << 20;

/// A complete answer over HTTP.
#[derive(Clone, Debug)]
pub(crate) struct StoredAnswer {
    /// The caller, as its [`caller_hash`](super::caller_hash) hash.
    pub caller: String,
    /// `true` if the client asked for a stream.
    pub stream: bool,
    /// Status and headers, as written by [`write_head`](super::write_head).
    pub head: Bytes,
    /// The body; `None` if it is too long to be stored.
    pub body: Option<Bytes>,
}

impl StoredAnswer {
    /// Drops the body if there is no room for it.
    pub(super) fn fit(&mut self, stored: &mut StoredBytes, jobs: &JobQueue) {
        let (limits, now) = (jobs.limits(), jobs.0.link.clock().now());
        self.body = self.body.take().filter(|body| {
            let bytes = (body.len() + self.head.len()) as u64;
            let most = limits.idempotency / u64::from(jobs.0.gateways.count().max(1));
            stored.take((&self.caller, bytes), (most, limits.keep), now)
        });
        if self.body.is_none() {
            jobs.count_key(KeyUse::NotStored);
        }
    }
}

impl JobQueue {
    /// Writes the answer, and makes the key of its request name it. If the key belongs to another
    /// request by now, the answer is deleted again.
    pub(super) async fn store(
        &self,
        request: &Repeatable,
        job: Job,
        answer: &StoredAnswer,
    ) -> Result<(), RedisLoss> {
        let inner = &*self.0;
        let (name, keep) = (job.to_string(), self.limits().keep);
        let mut call = inner.scripts.store.key(inner.keys.job(job));
        call.key(inner.keys.reply(job)).arg(&inner.keys.replies).arg(&name).arg(millis(keep));
        call.arg(&answer.caller).arg(u8::from(answer.stream));
        if let Some(body) = &answer.body {
            let pieces =
                [(PieceKind::Head, &answer.head), (PieceKind::Data, body), (PieceKind::End, &Bytes::new())];
            for (n, (kind, data)) in (1..).zip(pieces) {
                let place = PiecePlace { epoch: 1, n };
                let signed = reply::signed(&inner.signing, self.prefix(), &name, place, kind, data);
                call.arg(kind.as_str()).arg(&signed[..]);
            }
        }
        inner.link.run::<i64>(RedisOp::Jobs, PATIENCE, &call).await?;
        if !self.set_key(request, (&request.accepted(job), keep), &request.forms(job)).await? {
            tracing::debug!(%job, "an idempotency key was taken over; the answer is not kept for it");
            self.unlink(inner.keys.reply(job)).await?;
            self.unlink(inner.keys.job(job)).await?;
        }
        Ok(())
    }

    /// Counts a request with an `Idempotency-Key`.
    pub(crate) fn count_key(&self, with: KeyUse) {
        self.0.link.metrics().idempotency_key(with);
    }
}
