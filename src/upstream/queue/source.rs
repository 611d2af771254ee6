//! A job's response as body frames.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;

use crate::redis::jobs::{self, AnswerPiece, AwaitedJob, PieceKind};

/// Rest of a job's response. Dropping it before its end cancels the job.
#[derive(Debug)]
pub(crate) struct JobSource {
    awaited: AwaitedJob,
    /// Entry read ahead.
    next: Option<AnswerPiece>,
    /// Run (attempt by a worker) that this response belongs to.
    epoch: u64,
    over: bool,
}

impl JobSource {
    /// Creates the rest of a response whose head was read, followed by `first`.
    pub(crate) fn new(awaited: AwaitedJob, first: AnswerPiece) -> Self {
        Self { awaited, epoch: first.place.epoch, over: first.kind == PieceKind::End, next: Some(first) }
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.over
    }

    pub(crate) fn expire(&mut self) {
        self.awaited.expire();
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, jobs::JobError>>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            let entry = match self.next.take() {
                Some(entry) => entry,
                None => ready!(self.awaited.poll_entry(cx)),
            };
            self.over = entry.kind.is_last();
            if self.awaited.remains() {
                // Nobody assembles these bytes: only the end of the job counts, in whichever run.
                self.epoch = entry.place.epoch;
                if entry.kind == PieceKind::Head {
                    continue;
                }
            }
            match entry.kind {
                PieceKind::Data if entry.place.epoch == self.epoch => {
                    if !entry.data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(entry.data))));
                    }
                }
                PieceKind::End if entry.place.epoch == self.epoch => return Poll::Ready(None),
                PieceKind::Error => return Poll::Ready(Some(Err(jobs::JobError::read(&entry.data)))),
                // Output of another run cannot be appended to that of this one.
                PieceKind::Head | PieceKind::Data | PieceKind::End => {
                    self.over = true;
                    return Poll::Ready(Some(Err(jobs::JobError::broke(
                        "the job was lost after part of its response was sent",
                    ))));
                }
            }
        }
    }
}
