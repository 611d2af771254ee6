//! One attempt over HTTP: the message for a worker, and its dispatch on a new or a reused connection.

use std::sync::Arc;

use http::header::{HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Request};
use http_body::Body as _;

use super::{Forward, WorkerAnswer};
use crate::clock::Nanos;
use crate::request::Payload;
use crate::shed::Permit;
use crate::upstream::connections::{Endpoint, Linker, WorkerLink, exchange};
use crate::upstream::error::AttemptError;
use crate::upstream::lazy_timer::LazyTimer;
use crate::upstream::provider;

/// Closing connections on which one request is tried in vain, before it goes to another worker.
const UNSENT_MAX: u32 = 3;

impl Forward<'_> {
    /// Sends the request to one worker and waits for the response head.
    pub(super) async fn send_http(&mut self, endpoint: &Arc<Endpoint>) -> Result<WorkerAnswer, AttemptError> {
        let clock = &self.upstream.clock;
        let (mut link, mut reused) = self.linker().link(endpoint, true).await?;
        if !self.is_active(endpoint) {
            return Err(AttemptError::ColourSwitched);
        }
        let mut request = self.message(endpoint);
        let mut spare =
            if reused || link.is_shared() { self.clone_request(&request, link.is_shared()) } else { None };
        // A shared connection may be closing, and so may the next.
        let mut unsent_left = UNSENT_MAX;
        loop {
            let sent = clock.now();
            self.record.set_dispatched(sent);
            if let Some(permit) = &self.permit {
                permit.dispatched();
            }
            let mut first_token_wait = self.first_token_wait(sent, self.stream);
            let mut timer = LazyTimer::default();
            if self.switch.is_some() {
                link.allow_switch();
            }
            let (fault, unsent) =
                match exchange(&mut link, request, &mut timer, &mut first_token_wait, clock).await {
                    Ok(answer) => return Ok(self.receive(endpoint, link, answer, timer, sent)),
                    Err((fault, unsent)) => (AttemptError::from(fault), unsent),
                };
            request = match (unsent, &fault) {
                (Some(unsent), _) if link.is_shared() && unsent_left > 0 => {
                    unsent_left -= 1;
                    link.retire();
                    *unsent
                }
                (Some(unsent), _) if reused => {
                    endpoint.count_stale();
                    *unsent
                }
                (Some(unsent), _) => {
                    self.restore_unsent(*unsent, endpoint);
                    return Err(fault);
                }
                (None, AttemptError::Unprocessed) => match self.resend(endpoint, &mut spare, true) {
                    Some(request) => request,
                    None => {
                        if let Some(spare) = spare.take() {
                            self.restore_unsent(spare, endpoint);
                        }
                        return Err(fault);
                    }
                },
                // The client's body failed, which ends its stream and no connection.
                (None, _) if self.upload.as_ref().is_some_and(|upload| upload.fault().is_some()) => {
                    return Err(fault);
                }
                (None, _) if reused && self.ended_idle(&fault, &link, sent) => {
                    // The worker closed the idle connection while the request was being written.
                    link.retire();
                    if !link.is_shared() {
                        endpoint.count_stale();
                    }
                    self.resend(endpoint, &mut spare, false).ok_or_else(|| fault.stale())?
                }
                (None, _) => return Err(fault),
            };
            tracing::debug!(
                worker = %endpoint.spec().id,
                request = %self.record.id,
                "the worker closed the connection or refused the stream; sending the request again"
            );
            drop(link);
            (link, reused) = match self.linker().link(endpoint, false).await {
                Ok(linked) => linked,
                Err(error) => {
                    self.restore_unsent(request, endpoint);
                    return Err(error.into());
                }
            };
            if !self.is_active(endpoint) {
                self.restore_unsent(request, endpoint);
                return Err(AttemptError::ColourSwitched);
            }
        }
    }

    fn linker(&self) -> Linker<'_> {
        Linker {
            clock: &self.upstream.clock,
            settings: self.settings,
            wait: self.timeouts.connect,
            total: (self.timeouts.total, self.total_deadline),
            upgrade: self.switch.is_some(),
        }
    }

    /// Returns `true` if a reused connection ended for having been idle: before any byte came back
    /// and within the connect timeout. One that ends later was working on the request.
    fn ended_idle(&self, fault: &AttemptError, link: &WorkerLink, sent: Nanos) -> bool {
        let clock = &self.upstream.clock;
        let now = clock.now();
        let late = now.since(sent).saturating_sub(clock.lag().overlap(sent, now));
        matches!(fault, AttemptError::Broke(_)) && link.is_unheard() && late < self.timeouts.connect
    }

    /// Copies a request that may be sent again, unless [`Forward::message`] can build it again. On a
    /// `shared` connection the worker may refuse any request before it begins.
    fn clone_request(&self, request: &Request<Payload>, shared: bool) -> Option<Request<Payload>> {
        if !(self.repeatable || shared) || self.resent || self.payload.is_some() {
            return None;
        }
        let mut spare = Request::new(request.body().try_clone()?);
        spare.method_mut().clone_from(request.method());
        spare.uri_mut().clone_from(request.uri());
        spare.headers_mut().clone_from(request.headers());
        Some(spare)
    }

    /// Returns the request again for the same worker: once, and only if it is repeatable or the
    /// worker did not begin it (`unbegun`). No worker failed, so this is no retry and needs no budget.
    fn resend(
        &mut self,
        endpoint: &Endpoint,
        spare: &mut Option<Request<Payload>>,
        unbegun: bool,
    ) -> Option<Request<Payload>> {
        if !(self.repeatable || unbegun) || std::mem::replace(&mut self.resent, true) {
            return None;
        }
        spare.take().or_else(|| self.payload.is_some().then(|| self.message(endpoint)))
    }

    /// Builds the request for this worker. Keeps what another attempt needs, if there can be one.
    fn message(&mut self, endpoint: &Endpoint) -> Request<Payload> {
        let elsewhere =
            self.retries < self.settings.retry.max && self.upstream.fleet.load().workers().len() > 1;
        let later = self.permit.as_ref().is_some_and(Permit::yields);
        let falls_back = self.route.as_ref().is_some_and(|route| route.has_fallback());
        let external = endpoint.quota().is_some();
        let another = (self.repeatable || endpoint.may_refuse()) && (elsewhere || later || falls_back);
        let copy = if another { self.payload.as_ref().and_then(Payload::try_clone) } else { None };
        let (mut fields, payload) = match copy {
            Some(payload) => (self.head.headers.clone(), payload),
            None => {
                // A provider gets only some of the fields; another worker would get all.
                let fields =
                    if external { self.head.headers.clone() } else { std::mem::take(&mut self.head.headers) };
                (fields, self.payload.take().unwrap_or_else(Payload::empty))
            }
        };
        if external {
            provider::keep_allowed(&mut fields);
            if let Some(upload) = &self.upload {
                upload.drop_trailers();
            }
        }
        fields.insert(HOST, endpoint.authority.clone());
        if !payload.is_end_stream() && payload.size_hint().exact().is_none() {
            // Without this field a GET has no body for the HTTP client.
            fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        for (name, value) in &endpoint.spec().headers {
            fields.insert(name, value.clone());
        }
        let mut request = Request::new(payload);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = endpoint.target_of(&self.head.uri);
        *request.headers_mut() = fields;
        request
    }

    /// Restores headers and body from a message that was never written, for another worker. A
    /// client's field that the worker's own replaced is lost. If a copy was kept, nothing changes.
    fn restore_unsent(&mut self, unsent: Request<Payload>, endpoint: &Endpoint) {
        if self.payload.is_some() {
            return;
        }
        let (mut head, payload) = unsent.into_parts();
        for name in endpoint.spec().headers.keys() {
            head.headers.remove(name);
        }
        if endpoint.quota().is_none() {
            self.head.headers = head.headers;
        }
        self.payload = Some(payload);
    }
}
