//! Makes jobs of requests, and answers repeated requests.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use http::{Extensions, Request, Response, StatusCode};
use smallvec::SmallVec;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;

use super::body::{ReplayedAnswer, is_stream, unreachable};
use super::get::PATIENCE;
use super::keep::is_final;
use super::{IDEMPOTENCY_KEY, JobBody, JobHandling, JobsSettings, NOT_BEFORE, PREFER, answer, named};
use crate::clock::unix_millis;
use crate::fleet::Pool;
use crate::layers::shed::no_such_model;
use crate::metrics::KeyUse;
use crate::models::ModelRoute;
use crate::redis::jobs::{
    self, EarlierRequest, Job, JobState, JobStatus, JobTicket, KeyClaim, KnownRequest, Pending, PieceKind,
    PiecePlace, SubmitRefused, caller_hash, for_worker, read_head,
};
use crate::refusal::{Reason, Refusal};
use crate::request::{Caller, Payload, RequestCost, RequestRecord};
/// The longest idempotency key, in bytes.
const LONGEST_KEY: usize = 255;

/// Handling that a request asks for by its headers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JobOptions {
    /// `true` for `Prefer: respond-async`: the answer may come later.
    respond_async: bool,
    /// The `Idempotency-Key`: the request runs once.
    idempotency_key: Option<Vec<u8>>,
    /// Time before which the job must not start, in ms since 1970.
    not_before_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct AllowedOptions {
    /// `true` if the answer may come later.
    pub(super) later: bool,
    /// `false` if idempotency keys are left to the worker.
    pub(super) repeatable: bool,
    /// `false` if a time to start is ignored.
    pub(super) delayable: bool,
}

impl JobOptions {
    /// Reads the headers.
    pub(super) fn read(headers: &HeaderMap, allowed: AllowedOptions) -> Result<Option<Self>, Refusal> {
        let AllowedOptions { later, repeatable, delayable } = allowed;
        let later = later
            && headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok()).any(|value| {
                let word =
                    |part: &str| part.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
                value.split(',').any(|part| word(part) == "respond-async")
            });
        let once = headers.get(IDEMPOTENCY_KEY).filter(|_| repeatable).map(|value| value.as_bytes().to_vec());
        if once.as_ref().is_some_and(|key| key.is_empty() || key.len() > LONGEST_KEY) {
            let problem = format!("The header `idempotency-key` must have 1 to {LONGEST_KEY} bytes.");
            return Err(Refusal::new(Reason::BadRequest, problem).with_param("idempotency-key"));
        }
        let not_before_ms = match headers.get(NOT_BEFORE).filter(|_| delayable) {
            None => None,
            Some(_) if !later => {
                let problem = "The header `x-traffic-dam-not-before` delays only jobs: send `Prefer: respond-async` too.";
                return Err(Refusal::new(Reason::BadRequest, problem).with_param("x-traffic-dam-not-before"));
            }
            Some(value) => Some(value.to_str().ok().and_then(time_to_start).ok_or_else(|| {
                let problem = "The header `x-traffic-dam-not-before` must be a time as in RFC 3339, such as \
                               `2026-12-01T08:00:00Z`.";
                Refusal::new(Reason::BadRequest, problem).with_param("x-traffic-dam-not-before")
            })?),
        };
        let idempotency_key = once;
        Ok((later || idempotency_key.is_some()).then_some(Self {
            respond_async: later,
            idempotency_key,
            not_before_ms,
        }))
    }

    /// Returns `true` if the request has an idempotency key.
    pub(super) const fn is_repeatable(&self) -> bool {
        self.idempotency_key.is_some()
    }

    /// Returns `true` if the request must not run now, whether there is room or not.
    pub(super) const fn is_delayed(&self) -> bool {
        self.not_before_ms.is_some()
    }
}

/// Parses a time as in RFC 3339, in ms since 1970; not earlier.
fn time_to_start(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

pub(super) enum JobDecision<B> {
    Answered(Response<JobBody<B>>),
    /// The request has to run now, as this job.
    Run(Arc<KeyClaim>),
}

struct RequestContext {
    caller: Caller,
    request_cost: RequestCost,
    route: Option<Arc<ModelRoute>>,
    record: Option<Arc<RequestRecord>>,
}

impl RequestContext {
    fn of(extensions: &Extensions) -> Result<Self, Refusal> {
        let caller = named(extensions.get::<Caller>())?.clone();
        let record = extensions.get::<Arc<RequestRecord>>().cloned();
        let request_cost = extensions.get::<RequestCost>().cloned().unwrap_or_else(RequestCost::path);
        let route = extensions.get::<Arc<ModelRoute>>().cloned();
        Ok(Self { caller, request_cost, route, record })
    }
}

fn key_use<B>(found: &Result<Option<Response<B>>, Refusal>) -> KeyUse {
    match found {
        Ok(None) => KeyUse::First,
        Ok(Some(_)) => KeyUse::Repeated,
        Err(refusal) => match refusal.reason {
            Reason::Conflict => KeyUse::Running,
            Reason::KeyReused => KeyUse::Reused,
            Reason::Expired => KeyUse::Expired,
            _ => KeyUse::Unchecked,
        },
    }
}

fn conflict() -> Refusal {
    Refusal::new(Reason::Conflict, "An earlier request with this idempotency key is still running.")
}

fn new_job() -> Result<Job, Refusal> {
    Job::random().ok_or_else(|| unreachable(&SubmitRefused::NoName))
}

/// A copy of a request, kept to make a job of it if the gate refuses it.
pub(super) struct SpareRequest {
    context: RequestContext,
    headers: HeaderMap,
    path: String,
    pieces: SmallVec<[Bytes; 3]>,
    not_before_ms: Option<u64>,
}

impl JobsSettings {
    /// Copies the request if it may be answered later and its body is in memory.
    pub(super) fn keep(&self, request: &Request<Payload>, wish: &JobOptions) -> Option<SpareRequest> {
        let context = RequestContext::of(request.extensions()).ok().filter(|_| wish.respond_async)?;
        let pieces = request.body().pieces()?.clone();
        let (headers, path) = (request.headers().clone(), request.uri().path().to_owned());
        let not_before_ms = wish.not_before_ms;
        Some(SpareRequest { context, headers, path, pieces, not_before_ms })
    }

    /// Accepts a request as a job if it was refused for lack of room. Returns the refusal if it has
    /// another reason or if the job cannot be kept.
    pub(super) async fn accept_refused<B>(
        &self,
        refusal: Refusal,
        spare: SpareRequest,
        trial: Option<Arc<KeyClaim>>,
    ) -> Result<Response<JobBody<B>>, Refusal> {
        if !matches!(refusal.reason, Reason::Overloaded | Reason::QueueTimeout | Reason::NoWorker) {
            return Err(refusal);
        }
        self.accept_spare(spare, trial).await.map_err(|problem| {
            tracing::debug!(%problem, "a refused request could not be stored as a job");
            refusal
        })
    }

    pub(super) async fn accept_spare<B>(
        &self,
        spare: SpareRequest,
        trial: Option<Arc<KeyClaim>>,
    ) -> Result<Response<JobBody<B>>, Refusal> {
        let SpareRequest { context, headers, path, pieces, not_before_ms } = spare;
        let job = trial.as_ref().map_or_else(new_job, |trial| Ok(trial.job()))?;
        let accepted = self.accept(job, (&headers, &path, &pieces), &context, not_before_ms, trial);
        Ok(answer(accepted.await?, context.record.as_ref()))
    }

    /// Makes a job of a request, or finds the job of an earlier copy of it.
    pub(super) async fn ask<B>(
        &self,
        request: &mut Request<Payload>,
        wish: JobOptions,
    ) -> Result<JobDecision<B>, Refusal> {
        let context = RequestContext::of(request.extensions())?;
        let Some(pieces) = request.body().pieces() else {
            return Err(Refusal::new(
                Reason::Unsupported,
                "This body is not buffered, so the request cannot become a job.",
            ));
        };
        let pieces = pieces.clone();
        let new = new_job()?;
        let path = request.uri().path().to_owned();
        let trial = wish.idempotency_key.map(|key| {
            let whose = (&*context.caller.id, &*path, &*key);
            // With a queue, only the wait for a permit counts: then the request is a job.
            let within = if self.handling == JobHandling::All { Duration::ZERO } else { self.longest };
            Arc::new(self.jobs.trial(new, whose, pieces.iter().map(|piece| &**piece), within))
        });
        if let Some(trial) = &trial {
            let repeated = self.repeated(trial, wish.respond_async, &context).await;
            self.jobs.count_key(key_use(&repeated));
            match repeated {
                Ok(Some(response)) => return Ok(JobDecision::Answered(response)),
                Ok(None) => {}
                // The worker can be asked without the store.
                Err(refusal)
                    if refusal.reason == Reason::UpstreamUnreachable && self.handling != JobHandling::All => {
                }
                Err(refusal) => return Err(refusal),
            }
        }
        if let Some(trial) = trial.as_ref().filter(|_| self.handling != JobHandling::All) {
            return Ok(JobDecision::Run(Arc::clone(trial)));
        }
        if !wish.respond_async {
            let Some(trial) = trial else {
                return Err(Refusal::new(
                    Reason::InternalError,
                    "Internal error: a request without job options reached the job store.",
                ));
            };
            request.extensions_mut().insert(JobTicket::Repeatable(Arc::clone(&trial)));
            // Once queued, the job's name is taken: the request must not be retried.
            request.extensions_mut().insert(RequestCost { retryable: false, ..context.request_cost });
            return Ok(JobDecision::Run(trial));
        }
        let (whole, starts) = ((request.headers(), &*path, &pieces[..]), wish.not_before_ms);
        let kept = self.accept(new, whole, &context, starts, trial.clone()).await;
        if let (Err(_), Some(trial)) = (&kept, &trial) {
            trial.forget().await;
        }
        Ok(JobDecision::Answered(answer(kept?, context.record.as_ref())))
    }

    /// Answers a request that was sent before; `None` if it has to run.
    async fn repeated<B>(
        &self,
        trial: &KeyClaim,
        later: bool,
        context: &RequestContext,
    ) -> Result<Option<Response<JobBody<B>>>, Refusal> {
        let known = match trial.claim().await.map_err(|loss| unreachable(&loss))? {
            KnownRequest::New => return Ok(None),
            known @ (KnownRequest::Same(_) | KnownRequest::Unsigned(_)) => known,
            KnownRequest::Other => {
                return Err(Refusal::new(
                    Reason::KeyReused,
                    "This idempotency key was used with another body; use a new key for a new request.",
                ));
            }
        };
        let before = match &known {
            KnownRequest::Same(known) => self.before(known, later, context).await?,
            _ => None,
        };
        // The earlier copy came to nothing: one repeat takes over its key.
        if before.is_none() && !trial.take_over(&known).await.map_err(|loss| unreachable(&loss))? {
            return Err(conflict());
        }
        Ok(before)
    }

    /// Stores a request as a job, and answers with its location.
    async fn accept(
        &self,
        job: Job,
        (headers, path, pieces): (&HeaderMap, &str, &[Bytes]),
        context: &RequestContext,
        not_before_ms: Option<u64>,
        trial: Option<Arc<KeyClaim>>,
    ) -> Result<Response<Bytes>, Refusal> {
        let RequestContext { caller, request_cost, route, record } = context;
        if route.as_ref().is_some_and(|route| !route.is_allowed()) {
            return Err(no_such_model());
        }
        // A job waits for its own pool, whose model its body names: it has no fallback.
        let served = route.as_ref().and_then(|route| route.served()).or(request_cost.model.as_ref());
        let pool = {
            let fleet = self.fleet.load();
            let serves = |pool: &&Arc<Pool>| caller.may_use_external() || !pool.is_external();
            let pool =
                fleet.route(served.map(|served| &**served)).filter(serves).ok_or_else(no_such_model)?;
            Arc::clone(&pool.name)
        };
        if let Some(record) = record {
            record.set_pool(&pool);
        }
        let kept = jobs::JobRequest {
            path: path.to_owned(),
            headers: for_worker(headers),
            body: pieces.concat(),
            caller: caller_hash(&caller.id),
            class: caller.class.as_str(),
            stream: request_cost.stream,
            within: self.jobs.limits().ttl,
            trial,
            key: self.key.clone(),
        };
        let pending = Pending::new(caller, request_cost, path, unix_millis()).starting(not_before_ms);
        self.jobs.accept(job, &pool, &kept, &pending).await.map_err(|refused| match refused {
            SubmitRefused::Full | SubmitRefused::Many(_) | SubmitRefused::Heavy(_) => {
                Refusal::new(Reason::Overloaded, format!("The job was not accepted: {refused}."))
            }
            SubmitRefused::Delayed => {
                Refusal::new(Reason::Overloaded, format!("The job was not accepted: {refused}."))
            }
            SubmitRefused::Past | SubmitRefused::Far(_) => {
                let problem = format!("The job was not accepted: {refused}.");
                Refusal::new(Reason::BadRequest, problem).with_param("x-traffic-dam-not-before")
            }
            SubmitRefused::Taken => conflict(),
            other => unreachable(&other),
        })?;
        let status = serde_json::json!({ "id": job.to_string(), "object": "job", "status": "queued" });
        Ok(accepted(job, status.to_string()))
    }

    /// Answers from the job of the earlier copy; `None` if that came to nothing.
    async fn before<B>(
        &self,
        known: &EarlierRequest,
        later: bool,
        context: &RequestContext,
    ) -> Result<Option<Response<JobBody<B>>>, Refusal> {
        let (job, record) = (known.job, &context.record);
        let lost = |loss| unreachable(&loss);
        let status = self.jobs.look(job).await.map_err(lost)?;
        let Some(status) = status else {
            if known.accepted {
                // The job was withdrawn or has been forgotten.
                return Ok(None);
            }
            // The earlier copy waits for a permit while its gateway is alive.
            let waits = match &known.gateway {
                Some(gateway) => self.jobs.is_alive(gateway).await.map_err(lost)?,
                None => true,
            };
            return if waits { Err(conflict()) } else { Ok(None) };
        };
        if self.jobs.give_up_orphan(job, &status).await.map_err(lost)? {
            tracing::debug!(%job, "the gateway of a job is gone; the repeated request replaces the job");
            return Ok(None);
        }
        match status.state {
            JobState::Failed | JobState::Cancelled | JobState::Expired | JobState::Dead => return Ok(None),
            _ if later => {
                let text = super::get::status_json(job, &status).to_string();
                return Ok(Some(answer(accepted(job, text), record.as_ref())));
            }
            JobState::Done => {}
            _ => return Err(conflict()),
        }
        self.replay(job, &status, record.as_ref()).await
    }

    /// Replays the stored answer of a finished job; `None` if it is one after which clients try again.
    async fn replay<B>(
        &self,
        job: Job,
        status: &JobStatus,
        record: Option<&Arc<RequestRecord>>,
    ) -> Result<Option<Response<JobBody<B>>>, Refusal> {
        let gone = || Refusal::new(Reason::Expired, "The answer is no longer stored.");
        if !self.jobs.has_answer(job).await.map_err(|loss| unreachable(&loss))? {
            return Err(gone());
        }
        let mut reader = self.jobs.read(job, PiecePlace::default()).stream_first();
        let mut head = None;
        let begin = async {
            loop {
                let entry = poll_fn(|cx| reader.poll_entry(cx)).await;
                match entry.kind {
                    PieceKind::Head => head = read_head(&entry.data).map(|(head, _)| head),
                    _ => return entry,
                }
            }
        };
        let next = timeout(PATIENCE, begin).await.map_err(|late| unreachable(&late))?;
        let Some(head) = head else { return Err(gone()) };
        if !is_final(head.status) {
            return Ok(None);
        }
        let stream = is_stream(&head);
        tracing::debug!(%job, stream, attempt = status.attempt, "repeated request: sent the stored answer");
        let body = ReplayedAnswer::bytes(reader, next, &self.jobs).with_record(record.cloned());
        Ok(Some(Response::from_parts(head, JobBody::answer(body))))
    }
}

/// Builds the answer 202 to a request that became a job.
fn accepted(job: Job, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("preference-applied", HeaderValue::from_static("respond-async"));
    // Never fails: a job's id is hexadecimal digits.
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/jobs/{job}")) {
        headers.insert(LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: AllowedOptions = AllowedOptions { later: true, repeatable: true, delayable: true };

    #[test]
    fn wishes_are_read_from_the_headers() {
        for (fields, wish) in [
            (vec![], None),
            (vec![("prefer", "return=minimal")], None),
            (vec![("prefer", "wait=10, Respond-Async; a=b")], Some((true, None))),
            (vec![("prefer", "x"), ("prefer", "respond-async")], Some((true, None))),
            (vec![("idempotency-key", "k")], Some((false, Some("k")))),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, HeaderValue::from_static(value));
            }
            let wish = wish.map(|(later, once): (_, Option<&str>)| JobOptions {
                respond_async: later,
                idempotency_key: once.map(|key| key.into()),
                not_before_ms: None,
            });
            assert_eq!(JobOptions::read(&headers, ALL).unwrap(), wish, "{headers:?}");
        }
        for wrong in [String::new(), "k".repeat(256)] {
            let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, HeaderValue::from_str(&wrong).unwrap())]);
            assert_eq!(JobOptions::read(&headers, ALL).unwrap_err().reason, Reason::BadRequest);
            let left = AllowedOptions { repeatable: false, ..ALL };
            assert_eq!(JobOptions::read(&headers, left).unwrap(), None);
        }
    }

    #[test]
    fn a_time_to_start_is_for_jobs_only() {
        let read = |time: &str, later: bool, delayable| {
            let mut headers = HeaderMap::from_iter([(NOT_BEFORE, HeaderValue::from_str(time).unwrap())]);
            if later {
                headers.insert(PREFER, HeaderValue::from_static("respond-async"));
            }
            JobOptions::read(&headers, AllowedOptions { delayable, ..ALL })
        };
        let starts = |time| read(time, true, true).unwrap().unwrap().not_before_ms;
        assert_eq!(starts("1970-01-01T00:00:01Z"), Some(1000));
        assert_eq!(starts("2026-12-01T09:00:00.5+09:00"), Some(1_796_083_200_500));
        for wrong in ["", "soon", "2026-12-01", "2026-12-01T09:00:00", "1960-01-01T00:00:00Z"] {
            assert_eq!(read(wrong, true, true).unwrap_err().reason, Reason::BadRequest, "{wrong}");
        }
        assert_eq!(read("2026-12-01T09:00:00Z", false, true).unwrap_err().reason, Reason::BadRequest);
        assert_eq!(read("soon", false, false).unwrap(), None);
        assert_eq!(read("soon", true, false).unwrap().unwrap().not_before_ms, None);
    }
}
