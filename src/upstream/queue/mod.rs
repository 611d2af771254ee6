//! Workers that take requests from a queue: an admitted request becomes a job, the job's output the
//! response.
//!
//! From the response head on all is as over HTTP: holding until the first content, observing,
//! freeing the permit, ending a failed stream. Dropping the request's future or body cancels the
//! job.
//!
//! **Failure mode.** If a worker dies, another claims its unanswered jobs after three missed
//! renewals. The client gets the new response if it has seen nothing of the first.

mod source;

pub(crate) use source::JobSource;

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response;

use super::settings::QueueSettings;
use crate::clock::Nanos;
use crate::fleet::FleetWorker;
use crate::fleet::side;
use crate::fleet::strangers::Strangeness;
use crate::redis::jobs::{self, AnswerPiece, AnsweredBy, AwaitedJob, JobQueue, PieceKind, read_head};

/// A request about to enter a queue.
pub(crate) struct QueueExchange {
    /// Pool and colour, as the gate knows them.
    pub(super) worker: Arc<FleetWorker>,
    pub(super) settings: QueueSettings,
    pub(super) jobs: JobQueue,
    /// The body of the request.
    pub(super) pieces: Vec<Bytes>,
}

/// The head of an answer, and who sent it.
pub(super) type AnswerStart = (response::Parts, AnsweredBy);

impl QueueExchange {
    /// Notes a worker that answered a job of another side than its own.
    pub(super) fn note_answer(&self, by: &AnsweredBy, now: Nanos) {
        let spec = &self.worker.spec;
        let (Some(worker), Some(colour)) = (&by.worker, &by.colour) else { return };
        // Workers of the first protocol name no side; the stream's readers tell of those.
        let colour: Arc<str> = side::parts(side::without_worker(colour)).0.into();
        let takes = side::taken_by(&colour, by.version.as_deref());
        if takes.contains(&spec.colour) {
            return;
        }
        let (pool, own) = (&*spec.pool, &*spec.colour);
        tracing::warn!(
            worker = &**worker,
            colour = &*colour,
            pool,
            job_colour = own,
            "a worker of another colour answered a job"
        );
        self.jobs.strangers().lock().saw(&spec.pool, worker, &spec.colour, Strangeness::Answered, now);
    }
}

/// Reads the head and the entry after it. The head of a later run replaces that of an earlier one,
/// of which nothing was sent yet.
pub(super) fn poll_begin(
    awaited: &mut AwaitedJob,
    head: &mut Option<AnswerStart>,
    cx: &mut Context<'_>,
) -> Poll<Result<(AnswerStart, AnswerPiece), jobs::JobError>> {
    loop {
        let entry = ready!(awaited.poll_entry(cx));
        match entry.kind {
            PieceKind::Head => match read_head(&entry.data) {
                Some(read) => *head = Some(read),
                None => {
                    return Poll::Ready(Err(jobs::JobError::broke(
                        "its answer has no valid head (status and headers)",
                    )));
                }
            },
            PieceKind::Error => return Poll::Ready(Err(jobs::JobError::read(&entry.data))),
            PieceKind::Data | PieceKind::End => {
                let begun = head
                    .take()
                    .ok_or_else(|| jobs::JobError::broke("its answer has no head (status and headers)"));
                return Poll::Ready(begun.map(|head| (head, entry)));
            }
        }
    }
}
