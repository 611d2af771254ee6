//! The attempt loop: sends one request to workers until a response can be committed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::header::{HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, request, response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use smallvec::SmallVec;

use super::Inner;
use super::alarm::Alarm;
use super::body::{Limits, Open};
use super::connect::connect;
use super::deadline::Deadline;
use super::early::{Early, Lane};
use super::exchange::exchange;
use super::fault::{Fault, Trouble, Wait, is_repeatable, turns_away};
use super::form::Form;
use super::headers::{self, Outgoing};
use super::link::Link;
use super::location;
use super::pool::Site;
use super::queue::Errand;
use super::settings::{Timeouts, UpstreamSettings};
use super::source::{HttpSource, Source};
use super::tunnel::tunnel;
use super::upload::{self, Upload};
use super::vigil::Vigil;
use super::watch::{Reading, Watch};
use crate::clock::Nanos;
use crate::redis::jobs::Ticket;
use crate::refusal::{Reason, Refusal};
use crate::request::{
    Beside, BodyRoom, Caller, Demand, Ending, Flight, Forwarding, Kind, Payload, RouteTimeouts, UpgradeTo,
    UsageInjected,
};
use crate::shed::{Ask, Failure, Permit, Waiter};

/// A request being forwarded, with its state across attempts.
pub(crate) struct Journey<'a> {
    pub(super) upstream: &'a Inner,
    /// Slot for a response that starts before its content; `None` if that is not allowed.
    lane: Option<&'a Lane>,
    /// Start of the first attempt.
    began: Option<Nanos>,
    /// Memory reserved for the request body, released on drop.
    _room: Option<BodyRoom>,
    pub(super) settings: &'a UpstreamSettings,
    pub(super) timeouts: Timeouts,
    /// Deadline of `timeouts.total`.
    pub(super) over: Nanos,
    pub(super) head: request::Parts,
    /// Taken by the attempt that may be the last.
    pub(super) payload: Option<Payload>,
    /// State of a streamed request body; `None` if the body is empty or in memory.
    upload: Option<Upload>,
    /// `true` if a GET, HEAD or OPTIONS has a body, which a worker may take for the next request.
    uncalled: bool,
    pub(super) kind: Kind,
    pub(super) stream: bool,
    repeatable: bool,
    pub(super) injected: bool,
    /// Requested protocol upgrade: the protocol and the client's connection.
    switch: Option<(UpgradeTo, OnUpgrade)>,
    pub(super) flight: Arc<Flight>,
    pub(super) permit: Option<Permit>,
    /// Caller and request cost, for asking the gate again.
    pub(super) asker: Option<(Caller, Demand)>,
    /// Queue job assigned to the request before it came here.
    pub(super) ticket: Option<Ticket>,
    id: HeaderValue,
    retries: u32,
    /// Workers that failed the request, and how.
    failed_at: SmallVec<[(Arc<str>, Failure); 2]>,
    /// `true` if it was sent again after an idle connection had ended.
    resent: bool,
    /// Random first index among the workers, for a request without a permit.
    start: usize,
    /// Pool to choose a worker from, for a request without a permit; `None` for any pool.
    beside: Option<Beside>,
}

/// Transport of one attempt.
enum Way {
    /// HTTP connection.
    Site(Arc<Site>),
    /// Queue that the worker takes jobs from.
    Queue(Errand),
}

impl Way {
    fn worker(&self) -> &Arc<str> {
        match self {
            Self::Site(site) => &site.spec().id,
            Self::Queue(errand) => &errand.worker.spec.id,
        }
    }
}

/// Response whose head has arrived.
pub(crate) struct Answer {
    pub(super) head: response::Parts,
    pub(super) body: Open,
    /// Wait for the content that lets the response be committed.
    pub(super) vigil: Vigil,
}

impl<'a> Journey<'a> {
    /// Takes the extensions that earlier layers set on the request, and rewrites its headers.
    pub(crate) fn begin(
        upstream: &'a Inner,
        settings: &'a UpstreamSettings,
        request: Request<Payload>,
        lane: Option<&'a Lane>,
    ) -> Result<Self, Refusal> {
        let (mut head, payload) = request.into_parts();
        let mut facts = std::mem::take(&mut head.extensions);
        let flight = facts.remove::<Arc<Flight>>().ok_or_else(|| {
            Refusal::new(Reason::InternalError, "The request came to `upstream` without its record.")
        })?;
        let id = HeaderValue::from_str(&flight.id)
            .map_err(|_error| Refusal::new(Reason::InternalError, "The request's id is no header value."))?;
        let demand = facts.get::<Demand>();
        let (kind, stream, retryable) = demand
            .map_or((Kind::Path, false, false), |demand| (demand.kind, demand.stream, demand.retryable));
        Outgoing {
            kind,
            forwarding: facts.get::<Forwarding>(),
            forward_authorization: settings.forward_authorization,
            id: &id,
            trace: flight.trace,
        }
        .apply(&mut head);
        let strip = facts.get::<Forwarding>().map_or(&[][..], |forwarding| &forwarding.strip);
        let uncalled =
            !payload.is_end_stream() && matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let (payload, upload) = upload::follow(payload, strip);
        let switch = facts.remove::<UpgradeTo>().zip(facts.remove::<OnUpgrade>());
        if let Some((UpgradeTo(protocol), _)) = &switch {
            headers::switch_to(&mut head.headers, protocol.clone());
        }
        let timeouts = settings.timeouts.for_route(facts.get::<RouteTimeouts>());
        let now = upstream.clock.now();
        upstream.budget.request(now);
        Ok(Self {
            upstream,
            lane,
            began: None,
            _room: facts.remove::<BodyRoom>(),
            settings,
            timeouts,
            over: now + timeouts.total,
            repeatable: is_repeatable(&head.method, retryable),
            head,
            payload: Some(payload),
            upload,
            uncalled,
            kind,
            stream,
            injected: facts.get::<UsageInjected>().is_some(),
            switch,
            flight,
            asker: facts.remove::<Caller>().zip(facts.remove::<Demand>()),
            permit: facts.remove::<Permit>(),
            ticket: facts.remove::<Ticket>(),
            id,
            retries: 0,
            failed_at: SmallVec::new(),
            resent: false,
            start: fastrand::usize(..),
            beside: facts.remove::<Beside>(),
        })
    }

    /// Makes attempts until a response can be committed or no further attempt is allowed.
    pub(crate) async fn run(mut self) -> Result<Response<Open>, Refusal> {
        let answer = self.find_answer().await;
        self.tell_failures(answer.as_ref().ok());
        Ok(self.commit(answer?))
    }

    /// Reports failed workers. A request that fails at two would fail at any: it blames neither.
    fn tell_failures(&self, answer: Option<&Answer>) {
        let Some(permit) = &self.permit else { return };
        let well = answer.is_some_and(|answer| answer.head.status.is_success());
        if answer.is_some() && !well {
            permit.answered_with_error();
        }
        if self.fails_anywhere() {
            return;
        }
        for (worker, failure) in &self.failed_at {
            if well {
                permit.convict(worker, *failure);
            } else {
                permit.suspect(worker, *failure);
            }
        }
    }

    /// Returns `true` if at least two workers failed the request.
    fn fails_anywhere(&self) -> bool {
        self.failed_at.iter().filter(|(_, failure)| failure.counts()).count() > 1
    }

    async fn find_answer(&mut self) -> Result<Answer, Refusal> {
        loop {
            let way = self.way()?;
            let fault = match self.race(&way).await {
                Some(Ok(Some(answer))) => {
                    if self.permit.as_ref().is_none_or(Permit::keep) {
                        return Ok(answer);
                    }
                    self.wait_again().await?;
                    continue;
                }
                Some(Ok(None)) => continue,
                Some(Err(Fault::Superseded)) => {
                    self.change_sides(way.worker()).await?;
                    continue;
                }
                Some(Err(fault)) => fault.unless_owed(self.upload.as_ref()),
                None => {
                    self.wait_again().await?;
                    continue;
                }
            };
            let worker = way.worker();
            tracing::debug!(%worker, request = %self.flight.id, fault = fault.as_str(), "an attempt failed");
            if let Some(failure) = fault.blame() {
                self.blame(worker, failure);
            }
            if self.may_ask_another(fault.trouble()) {
                continue;
            }
            if let Some(waiter) = self.resubmit(fault.trouble())? {
                self.wait(waiter).await?;
                continue;
            }
            if let Some(permit) = &self.permit {
                permit.end(Ending::Refused);
            }
            self.flight.set_worker(worker);
            return Err(fault.into_refusal(worker));
        }
    }

    /// Makes one attempt, until its response can be committed. `None` if the permit was taken away
    /// meanwhile: dropping the attempt closes its connection, which tells the worker.
    async fn race(&mut self, way: &Way) -> Option<Result<Option<Answer>, Fault>> {
        let yielding = self.permit.as_ref().filter(|permit| permit.yields()).cloned();
        let mut step = pin!(self.step(way));
        poll_fn(|cx| {
            if let Some(permit) = &yielding
                && permit.poll_displaced(cx).is_ready()
            {
                return Poll::Ready(None);
            }
            step.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Makes one attempt, until its response can be committed. Returns `None` if the worker refused
    /// the request and the permit was moved to another worker.
    async fn step(&mut self, way: &Way) -> Result<Option<Answer>, Fault> {
        let began = *self.began.get_or_insert(self.upstream.clock.now());
        let mut answer = match way {
            Way::Site(site) => self.attempt(site).await?,
            Way::Queue(errand) => self.queue(errand).await?,
        };
        let owed = self.upload.as_ref().is_some_and(Upload::is_owed);
        if matches!(way, Way::Site(_))
            && let Some(failure) = turns_away(&answer.head).filter(|_| !owed)
        {
            self.blame(way.worker(), failure);
            if self.may_ask_another(Trouble::MaybeBegun) {
                return Ok(None);
            }
        }
        if self.kind.has_demand()
            && answer.head.status.is_success()
            && Form::of(&answer.head.headers) == Form::Page
        {
            return Err(Fault::Strange("a page instead of an answer"));
        }
        if headers::is_coded(&answer.head.headers) {
            return Err(Fault::Strange("a transfer coding that was not asked for"));
        }
        let Answer { head, body, vigil } = &mut answer;
        let (at, id) = (began + self.timeouts.hold, &self.id);
        let early = self.lane.map(|lane| Early { at, lane, head, id });
        poll_fn(|cx| body.poll_open(vigil, early.as_ref(), cx)).await?;
        Ok(Some(answer))
    }

    /// Waits for another permit after a critical request took this one's.
    async fn wait_again(&mut self) -> Result<(), Refusal> {
        let lost = || Refusal::new(Reason::InternalError, "A request lost its seat and what it had to say.");
        let permit = self.permit.as_ref().filter(|_| self.payload.is_some()).ok_or_else(lost)?;
        let waiter = permit.waiter()?.ok_or_else(lost)?;
        self.wait(waiter).await
    }

    /// Queues the request at the gate again if it may be retried but all other workers are full.
    fn resubmit(&mut self, trouble: Trouble) -> Result<Option<Waiter>, Refusal> {
        let Some((permit, (caller, demand))) = self.permit.as_ref().zip(self.asker.as_ref()) else {
            return Ok(None);
        };
        let now = self.upstream.clock.now();
        if !self.may_retry(trouble, now) {
            return Ok(None);
        }
        let waiter = permit.resubmit(&Ask::of(caller, demand))?;
        match waiter {
            Some(_) => self.retries += 1,
            None => self.upstream.budget.give_back(now),
        }
        Ok(waiter)
    }

    /// Moves to a worker of the newly active colour. Nothing was sent, so this is no retry.
    async fn change_sides(&mut self, from: &str) -> Result<(), Refusal> {
        let Some(permit) = &self.permit else { return Ok(()) };
        if permit.reassign().is_some() {
            return Ok(());
        }
        let waiter = match &self.asker {
            Some((caller, demand)) => permit.resubmit(&Ask::of(caller, demand))?,
            None => None,
        };
        let Some(waiter) = waiter else {
            permit.end(Ending::Refused);
            return Err(Fault::Superseded.into_refusal(from));
        };
        self.wait(waiter).await
    }

    /// Returns `true` if the worker's colour is still active: the pool may have been switched while
    /// the connection was being made.
    fn is_active(&self, site: &Site) -> bool {
        let fleet = self.upstream.fleet.load();
        fleet.worker(&site.spec().id).is_none_or(|worker| worker.active)
    }

    /// Waits for a permit and takes it over.
    async fn wait(&mut self, mut waiter: Waiter) -> Result<(), Refusal> {
        let since = self.upstream.clock.now();
        let budget = waiter.expires_at().since(since);
        let outcome = match tokio::time::timeout(budget, &mut waiter).await {
            Ok(outcome) => outcome,
            Err(_) => Err(waiter.give_up()),
        };
        if let Some(permit) = &self.permit {
            self.flight.set_queued(permit.waited() + self.upstream.clock.now().since(since));
            permit.take_over(&outcome?);
        }
        Ok(())
    }

    /// Returns the transport to the worker of the next attempt.
    fn way(&self) -> Result<Way, Refusal> {
        let fleet = self.upstream.fleet.load();
        let worker = match &self.permit {
            Some(permit) => fleet.worker(&permit.worker()),
            // No permit (HEAD, OPTIONS), no load: any worker will do, and the next one if it fails.
            None => {
                let meant = |pool: &str| self.beside.as_ref().is_none_or(|Beside(meant)| **meant == *pool);
                let eligible =
                    || fleet.workers().iter().filter(|worker| worker.eligible && meant(&worker.spec.pool));
                eligible().nth(self.start.wrapping_add(self.retries as usize) % eligible().count().max(1))
            }
        };
        let worker =
            worker.ok_or_else(|| Refusal::new(Reason::NoWorker, "No worker is there to serve this."))?;
        if let Some(settings) = &self.settings.queue {
            return self.errand(settings, worker).map(Way::Queue);
        }
        self.upstream.sites.of(worker, &fleet, &self.upstream.clock).map(Way::Site).map_err(|error| {
            tracing::error!(%error, "a worker cannot be used");
            Refusal::new(Reason::UpstreamUnreachable, format!("Worker {} is misconfigured.", worker.spec.id))
        })
    }

    fn blame(&mut self, worker: &Arc<str>, failure: Failure) {
        if let Some(permit) = &self.permit {
            permit.worker_failed(failure);
            self.failed_at.push((Arc::clone(worker), failure));
        }
    }

    /// Returns `true` if one more attempt makes sense after `trouble`.
    fn allows_retry(&self, trouble: Trouble) -> bool {
        trouble.allows_another(self.repeatable)
            && self.payload.is_some()
            && self.retries < self.settings.retry.max
            && !self.fails_anywhere()
    }

    /// Returns `true` if one more attempt is allowed after `trouble`, and charges the retry budget.
    fn may_retry(&self, trouble: Trouble, now: Nanos) -> bool {
        self.allows_retry(trouble) && self.upstream.budget.spend(self.settings.retry.budget, now)
    }

    /// Returns `true` if the request goes to another worker; its permit has then moved there.
    fn may_ask_another(&mut self, trouble: Trouble) -> bool {
        let now = self.upstream.clock.now();
        if !self.may_retry(trouble, now) {
            return false;
        }
        let there_is_one = match &self.permit {
            Some(permit) => permit.reassign().is_some(),
            None => self.upstream.fleet.load().workers().len() > 1,
        };
        if !there_is_one {
            self.upstream.budget.give_back(now);
            return false;
        }
        self.retries += 1;
        true
    }

    /// Sends the request to one worker and waits for the response head.
    async fn attempt(&mut self, site: &Arc<Site>) -> Result<Answer, Fault> {
        let clock = &self.upstream.clock;
        let tls = self.settings.tls.as_ref();
        let (Timeouts { connect: wait, total, .. }, over) = (self.timeouts, self.over);
        let connect =
            |since| connect(&site.target, tls, Deadline { since, wait, total: (total, over) }, clock);
        let (mut link, mut reused) = match site.take() {
            Some(link) => (link, true),
            None => (connect(clock.now()).await?, false),
        };
        if !self.is_active(site) {
            return Err(Fault::Superseded);
        }
        let mut request = self.message(site);
        let mut spare = if reused { self.spare(&request) } else { None };
        loop {
            let sent = clock.now();
            self.flight.set_dispatched(sent);
            if let Some(permit) = &self.permit {
                permit.dispatched();
            }
            let mut vigil = self.vigil(sent, self.stream);
            let mut alarm = vigil.alarm(sent);
            if self.switch.is_some() {
                link.allow_switch();
            }
            let (fault, unsent) = match exchange(&mut link, request, &mut alarm, &mut vigil, clock).await {
                Ok(answer) => return Ok(self.receive(site, link, answer, alarm, sent)),
                Err(failed) => failed,
            };
            if !reused || (unsent.is_none() && !self.is_stale(&fault, &link, sent)) {
                return Err(fault);
            }
            // The worker closed the idle connection while the request was being written.
            site.died();
            request = match unsent {
                Some(unsent) => *unsent,
                None => self.once_more(site, spare.take()).ok_or_else(|| fault.stale())?,
            };
            tracing::debug!(worker = %site.spec().id, request = %self.flight.id, "an idle connection had ended");
            reused = false;
            link = match connect(clock.now()).await {
                Ok(link) => link,
                Err(error) => {
                    self.take_back(request, site);
                    return Err(error.into());
                }
            };
            if !self.is_active(site) {
                self.take_back(request, site);
                return Err(Fault::Superseded);
            }
        }
    }

    /// Returns `true` if a reused connection ended for having been idle: before any byte came back
    /// and within the connect timeout. One that ends later was working on the request.
    fn is_stale(&self, fault: &Fault, link: &Link, sent: Nanos) -> bool {
        let clock = &self.upstream.clock;
        let now = clock.now();
        let late = now.since(sent).saturating_sub(clock.lag().overlap(sent, now));
        matches!(fault, Fault::Broke(_)) && link.is_unheard() && late < self.timeouts.connect
    }

    /// Copies a repeatable request, unless [`Journey::message`] can build it again.
    fn spare(&self, request: &Request<Payload>) -> Option<Request<Payload>> {
        if !self.repeatable || self.resent || self.payload.is_some() {
            return None;
        }
        let mut spare = Request::new(request.body().try_clone()?);
        spare.method_mut().clone_from(request.method());
        spare.uri_mut().clone_from(request.uri());
        spare.headers_mut().clone_from(request.headers());
        Some(spare)
    }

    /// Returns the request again for the same worker after an idle connection ended: once, and only
    /// if it is repeatable. No worker failed, so this is no retry and needs no budget.
    fn once_more(&mut self, site: &Site, spare: Option<Request<Payload>>) -> Option<Request<Payload>> {
        if !self.repeatable || std::mem::replace(&mut self.resent, true) {
            return None;
        }
        spare.or_else(|| self.payload.is_some().then(|| self.message(site)))
    }

    /// Builds the request for this worker. Keeps what another attempt needs, if there can be one.
    fn message(&mut self, site: &Site) -> Request<Payload> {
        let elsewhere =
            self.retries < self.settings.retry.max && self.upstream.fleet.load().workers().len() > 1;
        let later = self.permit.as_ref().is_some_and(Permit::yields);
        let another = self.repeatable && (elsewhere || later);
        let copy = if another { self.payload.as_ref().and_then(Payload::try_clone) } else { None };
        let (mut fields, payload) = match copy {
            Some(payload) => (self.head.headers.clone(), payload),
            None => {
                (std::mem::take(&mut self.head.headers), self.payload.take().unwrap_or_else(Payload::empty))
            }
        };
        fields.insert(HOST, site.authority.clone());
        if !payload.is_end_stream() && payload.size_hint().exact().is_none() {
            // Without this field hyper assumes that a GET has no body.
            fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        for (name, value) in &site.spec().headers {
            fields.insert(name, value.clone());
        }
        let mut request = Request::new(payload);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = site.target_of(&self.head.uri);
        *request.headers_mut() = fields;
        request
    }

    /// Restores headers and body from a message that was never written, for another worker. A
    /// client's field that the worker's own replaced is lost. If a copy was kept, nothing changes.
    fn take_back(&mut self, unsent: Request<Payload>, site: &Site) {
        if self.payload.is_some() {
            return;
        }
        let (mut head, payload) = unsent.into_parts();
        for name in site.spec().headers.keys() {
            head.headers.remove(name);
        }
        self.head.headers = head.headers;
        self.payload = Some(payload);
    }

    /// Creates the wait for a request dispatched at `sent`; a movable one may leave early.
    fn vigil(&self, sent: Nanos, stream: bool) -> Vigil {
        let movable = stream && self.allows_retry(Trouble::MaybeBegun);
        let permit = self.permit.clone().filter(|_| movable);
        Vigil::new(self.until(sent, stream), permit, self.upstream.clock.now())
    }

    /// Returns the deadline of a request dispatched at `sent`, and the timeout that sets it.
    pub(super) fn until(&self, sent: Nanos, stream: bool) -> (Deadline, Wait) {
        let Timeouts { first_token, total, .. } = self.timeouts;
        let deadline = Deadline { since: sent, wait: first_token, total: (total, self.over) };
        if stream && sent + first_token < self.over {
            (deadline, Wait::FirstToken(first_token))
        } else {
            (Deadline { wait: self.over.since(sent), ..deadline }, Wait::Total(total))
        }
    }

    /// Builds the answer from a response head, or starts the tunnel after a protocol switch.
    fn receive(
        &mut self,
        site: &Arc<Site>,
        link: Box<Link>,
        answer: Response<Incoming>,
        alarm: Alarm,
        sent: Nanos,
    ) -> Answer {
        let (mut head, body) = answer.into_parts();
        let reusable = !self.uncalled && !headers::says_two_lengths(&head.headers);
        location::relocate(&mut head.headers, &site.authority, site.prefix());
        let watch = self.watch(&head, &site.spec().id);
        let vigil = self.vigil(sent, watch.is_stream());
        let (limits, clock) = (self.limits(), self.upstream.clock.clone());
        let body = if head.status == StatusCode::SWITCHING_PROTOCOLS {
            drop(body);
            if let (Some((_, client)), Some(worker)) = (self.switch.take(), link.into_stream()) {
                tokio::spawn(tunnel(client, worker, self.timeouts.idle, self.permit.clone(), clock.clone()));
            }
            Open::new(None, watch, alarm, clock, limits)
        } else {
            let source = Source::Http(HttpSource::new(link, body, Arc::clone(site), reusable));
            Open::new(Some(source), watch, alarm, clock, limits)
        };
        Answer { head, body, vigil }
    }

    /// Creates the observer of a response with this head.
    pub(super) fn watch(&self, head: &response::Parts, worker: &Arc<str>) -> Watch {
        let reading = self.reading(head.status, Form::of(&head.headers));
        let sequences = self.asker.as_ref().map_or(1, |(_, demand)| demand.sequences);
        let closing = self.upstream.closing.clone();
        Watch::new(Arc::clone(&self.flight), self.permit.clone(), worker, reading, sequences, closing)
    }

    fn reading(&self, status: StatusCode, form: Form) -> Reading {
        if !status.is_success() {
            return Reading::Blind;
        }
        match (self.kind.has_demand(), form) {
            (true, Form::Events { encoded: false }) => Reading::Stream { filtered: self.injected },
            (true, Form::Lines { encoded: false }) => Reading::Lines,
            (true, Form::Events { encoded: true } | Form::Lines { encoded: true }) => Reading::Unread,
            // The client asked for a stream; the worker sends one in a format of its own.
            (true, Form::Other) if self.stream => Reading::Unread,
            (true, Form::Document { encoded: false } | Form::Page | Form::Other) => Reading::Json,
            (false, Form::Events { encoded }) => Reading::Feed { events: !encoded },
            (false, Form::Lines { .. }) => Reading::Feed { events: false },
            (true, Form::Document { encoded: true }) | (false, _) => Reading::Blind,
        }
    }

    pub(super) const fn limits(&self) -> Limits {
        Limits { idle: self.timeouts.idle, total: (self.timeouts.total, self.over) }
    }

    fn commit(self, answer: Answer) -> Response<Open> {
        let Answer { mut head, mut body, .. } = answer;
        // HTTP versions are per connection: the client's may stay open where the worker's closes.
        head.version = Version::HTTP_11;
        self.flight.set_worker(body.worker());
        let switched = head.headers.get(UPGRADE).cloned();
        body.watch().announce(&mut head.headers, &self.id);
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(protocol)) = (head.status, switched) {
            headers::switch_to(&mut head.headers, protocol);
        }
        body.commit();
        Response::from_parts(head, body)
    }
}
