//! The body of a worker's response: reads it, holds it until it can be committed, and ends it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::early::{EarlyAnswer, KeepAliveFilter};
use super::held::HeldFrames;
use super::observer::AnswerObserver;
use super::source::AnswerSource;
use crate::clock::{Clock, Nanos};
use crate::refusal::{Reason, Refusal};
use crate::request::Ending;
use crate::upstream::beside::BesidePlace;
use crate::upstream::closing::{self, CutOffListener};
use crate::upstream::connections::describe_break;
use crate::upstream::deadline::{Deadline, TimedOutWait};
use crate::upstream::error::{AnswerBreak, AttemptError};
use crate::upstream::first_token::{self, FirstTokenWait};
use crate::upstream::headers;
use crate::upstream::lazy_timer::LazyTimer;

/// Bytes of a stream held before its first content, bookkeeping included.
const HELD_MAX: usize = 64 * 1024;

/// Response broke off after its commit. The client's connection is reset: nothing else can say that
/// the response is incomplete.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(#[from] Refusal);

#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerTimeouts {
    /// Longest silence after the commit.
    pub(crate) idle: Duration,
    /// Timeout of the whole response, and its end.
    pub(crate) total: (Duration, Nanos),
}

/// Body of a worker's response.
#[derive(Debug)]
pub(crate) struct OpenBody {
    /// `None` once the response was read to its end, or failed.
    source: Option<AnswerSource>,
    held: HeldFrames,
    observer: AnswerObserver,
    timer: LazyTimer,
    clock: Clock,
    limits: AnswerTimeouts,
    /// Time of the last frame from the worker.
    last: Nanos,
    /// Time when the gate was last told that nothing comes.
    looked: Nanos,
    /// `true` if a stream that breaks off ends with an error event, as clients expect.
    error_events: bool,
    /// Fires when the gateway is about to cut off all requests.
    cut_off: CutOffListener,
    /// Set while content is held back but comments and pings are passed on.
    keep_alives: Option<Box<KeepAliveFilter>>,
    /// Place at the worker of a call without a permit.
    place: Option<Box<BesidePlace>>,
}

impl OpenBody {
    /// Creates the body of a response; without `source` it has no content of its own. Boxed: it passes
    /// through every layer, and each would move it.
    pub(crate) fn new(
        source: Option<AnswerSource>,
        observer: AnswerObserver,
        timer: LazyTimer,
        clock: Clock,
        limits: AnswerTimeouts,
    ) -> Box<Self> {
        let last = clock.now();
        let (held, cut_off) = (HeldFrames::default(), observer.cut_off_listener());
        Box::new(Self {
            source,
            held,
            observer,
            timer,
            clock,
            limits,
            last,
            looked: last,
            error_events: true,
            cut_off,
            keep_alives: None,
            place: None,
        })
    }

    /// Keeps the place of a call without a permit until all of the response has come.
    pub(crate) fn keep(&mut self, place: Option<Box<BesidePlace>>) {
        self.place = place;
    }

    /// Reports a broken stream as a body error instead of an event, for a reader that is not a client.
    pub(crate) const fn for_gateway(&mut self) {
        self.error_events = false;
    }

    /// Reads and holds frames up to a stream's first content or another response's first frame.
    /// Then the response can be committed; one whose content may take any time is ready at once.
    ///
    /// Once `early` is due, or another worker's response was started through it, a stream passes
    /// comments and pings on.
    pub(crate) fn poll_open(
        &mut self,
        first_token_wait: &mut FirstTokenWait,
        early: Option<&EarlyAnswer<'_>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), AttemptError>> {
        let early = early.filter(|_| self.observer.is_counted());
        if self.source.as_ref().is_some_and(AnswerSource::is_over) {
            self.read_to_end();
        }
        while self.source.is_some() && !self.observer.begins_with_head() {
            match self.poll_source(cx) {
                Poll::Ready(Ok(())) => {
                    let kept = self.keep_alives.as_ref().map_or(0, |keep_alives| keep_alives.cost());
                    if self.observer.may_commit() || self.held.cost() + kept > HELD_MAX {
                        break;
                    }
                    if let Some(early) = early {
                        self.pass_keep_alives(early);
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {
                    if let Some(early) = early.filter(|early| !early.has_begun()) {
                        ready!(self.timer.poll_due(
                            early.at.min(first_token_wait.fires_at(&self.timer)),
                            &self.clock,
                            cx
                        ));
                        if self.clock.now() >= early.at {
                            early.begin(&self.observer);
                            self.pass_keep_alives(early);
                        }
                    }
                    let wait = ready!(first_token_wait.poll_give_up(&mut self.timer, &self.clock, cx));
                    self.expire();
                    return Poll::Ready(Err(AttemptError::Silent(wait)));
                }
            }
        }
        let empty = self.held.bytes() == 0;
        if let Some(lack) = self.observer.lack(empty).filter(|_| self.source.is_none()) {
            return Poll::Ready(Err(AttemptError::Unusable(lack)));
        }
        if let Some(keep_alives) = self.keep_alives.take() {
            self.held = keep_alives.with(std::mem::take(&mut self.held));
        }
        Poll::Ready(Ok(()))
    }

    /// Passes on the comments and pings of the frames read, if the response has started.
    fn pass_keep_alives(&mut self, early: &EarlyAnswer<'_>) {
        if early.has_begun() {
            let keep_alives = self.keep_alives.get_or_insert_default();
            early.hand_on(keep_alives.split(std::mem::take(&mut self.held)), self.observer.stream_format());
        }
    }

    pub(crate) const fn worker(&self) -> &Arc<str> {
        self.observer.worker()
    }

    pub(crate) const fn observer(&self) -> &AnswerObserver {
        &self.observer
    }

    /// Commits the response. One without a body is complete now: its frames may never be polled.
    pub(crate) fn commit(&mut self) {
        self.note_end();
    }

    /// Reads one frame or the end into `held`.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AnswerBreak>> {
        let Some(source) = &mut self.source else {
            return Poll::Ready(Ok(()));
        };
        match ready!(source.poll_frame(cx)) {
            Some(Ok(frame)) => {
                // Nothing follows trailers, and nobody polls after them.
                let over = source.is_over() || frame.is_trailers();
                self.last = self.clock.now();
                self.take(frame);
                if over {
                    self.read_to_end();
                }
                Poll::Ready(Ok(()))
            }
            Some(Err(error)) => {
                self.source = None;
                Poll::Ready(Err(error))
            }
            None => {
                self.read_to_end();
                Poll::Ready(Ok(()))
            }
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => self.observer.pass(data, self.last, &mut self.held),
            Err(frame) => {
                if let Ok(mut fields) = frame.into_trailers() {
                    self.observer.flush(&mut self.held);
                    headers::trailers(&mut fields);
                    self.held.push(Frame::trailers(fields));
                }
            }
        }
    }

    fn read_to_end(&mut self) {
        self.place = None;
        if let Some(source) = self.source.take() {
            source.give_back();
            self.observer.flush(&mut self.held);
        }
    }

    /// Completes the request if the last frame was sent. Nobody polls for trailers after that.
    fn note_end(&mut self) {
        if self.is_at_end() && self.held.bytes() == 0 {
            self.observer.complete();
        }
    }

    /// Returns `true` if the response was read to its end, or broke off.
    fn is_at_end(&self) -> bool {
        self.source.is_none() && !self.observer.is_cut_short()
    }

    fn note_handed(&mut self) {
        self.note_end();
        if self.held.is_empty() {
            self.observer.mark_flushed();
        }
    }

    /// Breaks the response off: with an error event if the client can read one, else by a reset.
    fn break_off(&mut self, ending: Ending, refusal: Refusal) -> Option<BodyError> {
        self.source = None;
        self.observer.flush(&mut self.held);
        if self.observer.is_whole() {
            return None;
        }
        self.observer.blame(&refusal);
        self.observer.end(ending, Some(refusal.reason));
        if self.observer.takes_events() && self.error_events {
            let event = self.observer.event(&refusal);
            self.held.push(Frame::data(event));
            return None;
        }
        Some(BodyError(refusal))
    }

    /// Ready when the worker was silent for too long or the total timeout has expired. Meanwhile a
    /// stream tells the gate that nothing comes.
    fn poll_vain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let silence = self.silence();
        let due = self.timer.due(&silence);
        while self.observer.is_stream() {
            let look_at = first_token::next_look(self.last, self.looked);
            if look_at >= due {
                break;
            }
            ready!(self.timer.poll_due(look_at, &self.clock, cx));
            self.looked = self.clock.now();
            if self.looked >= due {
                break;
            }
            self.observer.report_waiting();
        }
        self.timer.poll_overdue(&silence, &self.clock, cx)
    }

    const fn silence(&self) -> Deadline {
        let AnswerTimeouts { idle, total } = self.limits;
        Deadline { since: self.last, wait: idle, total }
    }

    fn expire(&mut self) {
        if let Some(source) = &mut self.source {
            source.expire();
        }
    }

    fn silent(&mut self) -> Option<BodyError> {
        let wait = self.silence().ended(TimedOutWait::Idle(self.limits.idle), self.clock.now());
        self.expire();
        let message = format!("Worker {} {}.", self.observer.worker(), wait.describe());
        self.break_off(Ending::TimedOut, Refusal::new(Reason::UpstreamTimeout, message))
    }

    fn cut_short(&mut self) -> Option<BodyError> {
        let message = format!("Worker {} ended its answer before it was complete.", self.observer.worker());
        self.break_off(Ending::WorkerFailed, Refusal::new(Reason::UpstreamBroke, message))
    }

    fn failed(&mut self, error: AnswerBreak) -> Option<BodyError> {
        let refusal = match error {
            AnswerBreak::Http(error) => {
                let message = format!(
                    "Worker {} failed during its answer: {}.",
                    self.observer.worker(),
                    describe_break(&error)
                );
                Refusal::new(Reason::UpstreamBroke, message)
            }
            AnswerBreak::Job(fault) => fault.into_refusal(&format!("Worker {}", self.observer.worker())),
        };
        let late = refusal.reason == Reason::UpstreamTimeout;
        self.break_off(if late { Ending::TimedOut } else { Ending::WorkerFailed }, refusal)
    }
}

impl Body for OpenBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if let Some(frame) = this.held.pop() {
                this.note_handed();
                return Poll::Ready(Some(Ok(frame)));
            }
            if this.is_at_end() {
                this.note_end();
                return Poll::Ready(None);
            }
            if this.source.is_none() {
                if let Some(error) = this.cut_short() {
                    return Poll::Ready(Some(Err(error)));
                }
                continue;
            }
            if this.error_events && this.observer.takes_events() && this.cut_off.has_begun(cx) {
                // The event reports the error, so the body returns none.
                let _said = this.break_off(Ending::Refused, closing::refusal());
                continue;
            }
            let fatal = match this.poll_source(cx) {
                Poll::Ready(Ok(())) => None,
                Poll::Ready(Err(error)) => this.failed(error),
                Poll::Pending => {
                    ready!(this.poll_vain(cx));
                    this.silent()
                }
            };
            if let Some(error) = fatal {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_at_end() && self.held.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.bytes() as u64;
        match &self.source {
            // Trailers alone: a length of 0 would say that nothing follows.
            None if self.is_at_end() && (self.held.is_empty() || held > 0) => SizeHint::with_exact(held),
            None => SizeHint::default(),
            Some(_) if self.observer.takes_events() => SizeHint::default(),
            Some(source) => {
                let rest = source.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + held);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + held);
                }
                hint
            }
        }
    }
}
