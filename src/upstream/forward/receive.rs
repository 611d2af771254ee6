//! From the head of a worker's response to the answer for the client.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, UPGRADE};
use http::{Response, StatusCode, Version, response};

use super::{Forward, WorkerAnswer};
use crate::clock::Nanos;
use crate::openai::kinds::{self, Output};
use crate::request::AnswerHeaders;
use crate::upstream::body::{AnswerObserver, AnswerReading, AnswerSource, AnswerTimeouts, OpenBody};
use crate::upstream::connections::{Endpoint, HttpSource, WorkerLink, tunnel};
use crate::upstream::deadline::{Deadline, TimedOutWait};
use crate::upstream::error::RepeatSafety;
use crate::upstream::first_token::FirstTokenWait;
use crate::upstream::form::BodyForm;
use crate::upstream::headers::{self, AnswerNames};
use crate::upstream::lazy_timer::LazyTimer;
use crate::upstream::location;
use crate::upstream::settings::UpstreamTimeouts;

impl Forward<'_> {
    /// Creates the wait for a request dispatched at `sent`; a movable one may leave early.
    pub(super) fn first_token_wait(&self, sent: Nanos, stream: bool) -> FirstTokenWait {
        let movable = stream && self.allows_retry(RepeatSafety::MaybeBegun);
        let permit = self.permit.clone().filter(|_| movable);
        FirstTokenWait::new(self.response_deadline(sent, stream), permit, self.upstream.clock.now())
    }

    /// Returns the deadline of a request dispatched at `sent`, and the timeout that sets it.
    pub(super) fn response_deadline(&self, sent: Nanos, stream: bool) -> (Deadline, TimedOutWait) {
        let UpstreamTimeouts { first_token, total, .. } = self.timeouts;
        let deadline = Deadline { since: sent, wait: first_token, total: (total, self.total_deadline) };
        if stream && sent + first_token < self.total_deadline {
            (deadline, TimedOutWait::FirstToken(first_token))
        } else {
            (Deadline { wait: self.total_deadline.since(sent), ..deadline }, TimedOutWait::Total(total))
        }
    }

    /// Builds the answer from a response head, or starts the tunnel after a protocol switch.
    pub(super) fn receive(
        &mut self,
        endpoint: &Arc<Endpoint>,
        link: WorkerLink,
        mut head: response::Parts,
        timer: LazyTimer,
        sent: Nanos,
    ) -> WorkerAnswer {
        let reusable = !self.unexpected_body && !headers::says_two_lengths(&head.headers);
        location::relocate(&mut head.headers, &endpoint.authority, endpoint.prefix());
        let observer = self.observer(&head, &endpoint.spec().id);
        let first_token_wait = self.first_token_wait(sent, observer.is_stream());
        if let Some(permit) = self.permit.as_ref().filter(|_| observer.is_stream() && !self.stream) {
            permit.answered_as_stream();
        }
        let (limits, clock) = (self.limits(), self.upstream.clock.clone());
        let body = if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if let (Some((_, client)), Some(worker)) = (self.switch.take(), link.into_stream()) {
                tokio::spawn(tunnel(client, worker, self.timeouts.idle, self.permit.clone(), clock.clone()));
            }
            OpenBody::new(None, observer, timer, clock, limits)
        } else {
            let source = AnswerSource::Http(HttpSource::new(link, Arc::clone(endpoint), reusable));
            OpenBody::new(Some(source), observer, timer, clock, limits)
        };
        WorkerAnswer { head, body, first_token_wait }
    }

    /// Creates the observer of a response with this head.
    pub(super) fn observer(&self, head: &response::Parts, worker: &Arc<str>) -> AnswerObserver {
        let reading = self.reading(head);
        let sequences = self.caller_and_cost.as_ref().map_or(1, |(_, request_cost)| request_cost.sequences);
        let closing = self.upstream.closing.clone();
        let caller = self.caller_and_cost.as_ref().map(|(caller, _)| caller);
        let shown = caller.and_then(|caller| caller.answer_headers).unwrap_or(self.settings.answer_headers);
        let observer = AnswerObserver::new(
            Arc::clone(&self.record),
            self.permit.clone(),
            worker,
            reading,
            sequences,
            closing,
        );
        if shown == AnswerHeaders::default() {
            return observer;
        }
        let asked = || self.record.asked().and_then(|asked| asked.model.clone());
        let model = self.record.served().or_else(asked);
        observer.with_names(AnswerNames::of(shown, model.as_deref(), worker))
    }

    /// Returns what a worker sent instead of an answer of a model, by its head.
    pub(super) fn no_answer(&self, head: &response::Parts) -> Option<&'static str> {
        if !self.kind.has_demand() {
            return None;
        }
        match (head.status, BodyForm::of(&head.headers)) {
            // A client would ask the other place with GET: for a login, say.
            (StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER, _) => {
                Some("a redirect to a page instead of an answer; check its `url`")
            }
            (StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED, _) => {
                Some("no answer: its status allows none")
            }
            (status, BodyForm::Page) if status.is_success() => {
                Some("a web page instead of an answer; check its `url`")
            }
            (status, BodyForm::Media)
                if status.is_success() && kinds::row(self.kind).output != Output::Nothing =>
            {
                Some("a picture, sound or video instead of an answer; check its `url`")
            }
            _ => None,
        }
    }

    fn reading(&self, head: &response::Parts) -> AnswerReading {
        let form = BodyForm::of(&head.headers);
        if !head.status.is_success() {
            return AnswerReading::Opaque;
        }
        let row = kinds::row(self.kind);
        match (self.kind.has_demand(), form) {
            (true, BodyForm::Events { encoded: false }) => {
                AnswerReading::Stream { filtered: self.injected, format: row.events }
            }
            (true, BodyForm::Lines { encoded: false }) => AnswerReading::Lines,
            (true, BodyForm::Events { encoded: true } | BodyForm::Lines { encoded: true }) => {
                AnswerReading::Unread
            }
            // The client asked for a stream; the worker sends one in a format of its own.
            (true, BodyForm::Other | BodyForm::Media) if self.stream || row.begins_with_first_byte => {
                AnswerReading::Unread
            }
            (
                true,
                BodyForm::Document { encoded: false } | BodyForm::Page | BodyForm::Media | BodyForm::Other,
            ) => AnswerReading::Json {
                // Without a type nothing says what it would be.
                object: row.answers_object && head.headers.contains_key(CONTENT_TYPE),
            },
            (false, BodyForm::Events { encoded }) => AnswerReading::OtherStream { events: !encoded },
            (false, BodyForm::Lines { .. }) => AnswerReading::OtherStream { events: false },
            (true, BodyForm::Document { encoded: true }) | (false, _) => AnswerReading::Opaque,
        }
    }

    pub(super) const fn limits(&self) -> AnswerTimeouts {
        AnswerTimeouts { idle: self.timeouts.idle, total: (self.timeouts.total, self.total_deadline) }
    }

    pub(super) fn commit(&mut self, answer: WorkerAnswer) -> Response<Box<OpenBody>> {
        let WorkerAnswer { mut head, mut body, .. } = answer;
        body.keep(self.place.take());
        // HTTP versions are per connection: the client's may stay open where the worker's closes.
        head.version = Version::HTTP_11;
        self.record.set_worker(body.worker());
        let switched = head.headers.get(UPGRADE).cloned();
        body.observer().prepare_head(&mut head.headers, &self.id);
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(protocol)) = (head.status, switched) {
            headers::switch_to(&mut head.headers, protocol);
        }
        body.commit();
        Response::from_parts(head, body)
    }
}
