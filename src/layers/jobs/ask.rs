//! Makes jobs of requests, and answers repeated requests.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use http::{Extensions, Request, Response, StatusCode};
use smallvec::SmallVec;
use tokio::time::timeout;

use super::body::{Answer, is_stream, unreachable};
use super::show::PATIENCE;
use super::{Counter, IDEMPOTENCY_KEY, JobBody, PREFER, answer, named};
use crate::clock::unix_millis;
use crate::redis::jobs::{
    self, Before, Job, Kind, Known, LIVES, Pending, Place, Refused, Standing, Ticket, Trial, for_worker,
    nameless, read_head,
};
use crate::refusal::{Reason, Refusal};
use crate::request::{Caller, Demand, Flight, Payload};
/// The longest idempotency key, in bytes.
const LONGEST_KEY: usize = 255;

/// Handling that a request asks for by its headers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// `true` for `Prefer: respond-async`: the answer may come later.
    later: bool,
    /// The `Idempotency-Key`: the request runs once.
    once: Option<Vec<u8>>,
}

impl Wish {
    /// Reads the headers. Without `repeatable`, idempotency keys are left to the worker.
    pub(super) fn read(headers: &HeaderMap, repeatable: bool) -> Result<Option<Self>, Refusal> {
        let later = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            let word = |part: &str| part.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            value.split(',').any(|part| word(part) == "respond-async")
        });
        let once = headers.get(IDEMPOTENCY_KEY).filter(|_| repeatable).map(|value| value.as_bytes().to_vec());
        if once.as_ref().is_some_and(|key| key.is_empty() || key.len() > LONGEST_KEY) {
            let problem = format!("The header `idempotency-key` must have 1 to {LONGEST_KEY} bytes.");
            return Err(Refusal::new(Reason::BadRequest, problem).with_param("idempotency-key"));
        }
        Ok((later || once.is_some()).then_some(Self { later, once }))
    }
}

pub(super) enum Asked<B> {
    /// The answer to the client.
    Answered(Response<JobBody<B>>),
    /// The request has to run now, as this job.
    Once(Arc<Trial>),
}

struct Asker {
    caller: Caller,
    demand: Demand,
    flight: Option<Arc<Flight>>,
}

impl Asker {
    fn of(extensions: &Extensions) -> Result<Self, Refusal> {
        let caller = named(extensions.get::<Caller>())?.clone();
        let flight = extensions.get::<Arc<Flight>>().cloned();
        let demand = extensions.get::<Demand>().cloned().unwrap_or_else(Demand::path);
        Ok(Self { caller, demand, flight })
    }
}

fn under_way() -> Refusal {
    Refusal::new(Reason::Conflict, "The request with this idempotency key is still under way.")
}

fn new_job() -> Result<Job, Refusal> {
    Job::random().ok_or_else(|| unreachable(&Refused::NoName))
}

/// A copy of a request, kept to make a job of it if the gate refuses it.
pub(super) struct Spare {
    asker: Asker,
    headers: HeaderMap,
    path: String,
    pieces: SmallVec<[Bytes; 3]>,
}

impl Counter {
    /// Copies the request if it may be answered later and its body is in memory.
    pub(super) fn spare(&self, request: &Request<Payload>, wish: &Wish) -> Option<Spare> {
        let asker = Asker::of(request.extensions()).ok().filter(|_| wish.later)?;
        let Payload::Buffered(pieces) = request.body() else { return None };
        let (headers, path) = (request.headers().clone(), request.uri().path().to_owned());
        Some(Spare { asker, headers, path, pieces: pieces.clone() })
    }

    /// Accepts a request as a job if it was refused for lack of room. Returns the refusal if it has
    /// another reason or if the job cannot be kept.
    pub(super) async fn instead<B>(
        &self,
        refusal: Refusal,
        spare: Spare,
    ) -> Result<Response<JobBody<B>>, Refusal> {
        if !matches!(refusal.reason, Reason::Overloaded | Reason::QueueTimeout | Reason::NoWorker) {
            return Err(refusal);
        }
        let Spare { asker, headers, path, pieces } = spare;
        let Ok(job) = new_job() else { return Err(refusal) };
        match self.accept(job, &headers, &path, &pieces, &asker, None).await {
            Ok(response) => Ok(answer(response, asker.flight.as_ref())),
            Err(problem) => {
                tracing::debug!(%problem, "a request that could have been answered later was refused");
                Err(refusal)
            }
        }
    }

    /// Makes a job of a request, or finds the job of an earlier copy of it.
    pub(super) async fn ask<B>(
        &self,
        request: &mut Request<Payload>,
        wish: Wish,
    ) -> Result<Asked<B>, Refusal> {
        let asker = Asker::of(request.extensions())?;
        let Payload::Buffered(pieces) = request.body() else {
            return Err(Refusal::new(Reason::Unsupported, "This body cannot be kept for later."));
        };
        let pieces = pieces.clone();
        let new = new_job()?;
        let path = request.uri().path().to_owned();
        let trial = wish.once.map(|key| {
            let whose = (&*asker.caller.id, &*path, &*key);
            Arc::new(self.jobs.trial(new, whose, pieces.iter().map(|piece| &**piece)))
        });
        if let Some(trial) = &trial
            && let Some(response) = self.repeated(trial, wish.later, &asker).await?
        {
            return Ok(Asked::Answered(response));
        }
        if !wish.later {
            let Some(trial) = trial else {
                return Err(Refusal::new(
                    Reason::InternalError,
                    "A request that wished for nothing was kept.",
                ));
            };
            request.extensions_mut().insert(Ticket::Repeatable(Arc::clone(&trial)));
            // Once queued, the job's name is taken: the request must not be retried.
            request.extensions_mut().insert(Demand { retryable: false, ..asker.demand });
            return Ok(Asked::Once(trial));
        }
        let kept = self.accept(new, request.headers(), &path, &pieces, &asker, trial.clone()).await;
        if let (Err(_), Some(trial)) = (&kept, &trial) {
            trial.forget().await;
        }
        Ok(Asked::Answered(answer(kept?, asker.flight.as_ref())))
    }

    /// Answers a request that was sent before; `None` if it has to run.
    async fn repeated<B>(
        &self,
        trial: &Trial,
        later: bool,
        asker: &Asker,
    ) -> Result<Option<Response<JobBody<B>>>, Refusal> {
        let known = match trial.know().await.map_err(|loss| unreachable(&loss))? {
            Known::New => return Ok(None),
            Known::Same(known) => known,
            Known::Other => {
                return Err(Refusal::new(
                    Reason::KeyReused,
                    "Another body came with this idempotency key; take another key for another request.",
                ));
            }
        };
        let before = self.before(&known, later, asker).await?;
        // The earlier copy came to nothing: one repeat takes over its key.
        if before.is_none() && !trial.take_over(&known).await.map_err(|loss| unreachable(&loss))? {
            return Err(under_way());
        }
        Ok(before)
    }

    /// Stores a request as a job, and answers with its location.
    async fn accept(
        &self,
        job: Job,
        headers: &HeaderMap,
        path: &str,
        pieces: &[Bytes],
        asker: &Asker,
        trial: Option<Arc<Trial>>,
    ) -> Result<Response<Bytes>, Refusal> {
        let Asker { caller, demand, flight } = asker;
        let pool = {
            let fleet = self.fleet.load();
            let pool = fleet.route(demand.model.as_deref()).ok_or_else(|| {
                Refusal::new(Reason::NotFound, "No worker serves this model.").with_param("model")
            })?;
            Arc::clone(&pool.name)
        };
        if let Some(flight) = flight {
            flight.set_pool(&pool);
        }
        let kept = jobs::Request {
            path: path.to_owned(),
            headers: for_worker(headers),
            body: pieces.concat(),
            caller: nameless(&caller.id),
            class: caller.class.as_str(),
            stream: demand.stream,
            within: LIVES,
            trial,
            key: self.key.clone(),
        };
        let pending = Pending::new(caller, demand, path, unix_millis());
        self.jobs.accept(job, &pool, &kept, &pending).await.map_err(|refused| match refused {
            Refused::Full | Refused::Many(_) | Refused::Heavy(_) => {
                Refusal::new(Reason::Overloaded, format!("The job was not taken: {refused}."))
            }
            Refused::Taken => under_way(),
            other => unreachable(&other),
        })?;
        let standing = serde_json::json!({ "id": job.to_string(), "object": "job", "status": "queued" });
        Ok(accepted(job, standing.to_string()))
    }

    /// Answers from the job of the earlier copy; `None` if that came to nothing.
    async fn before<B>(
        &self,
        known: &Before,
        later: bool,
        asker: &Asker,
    ) -> Result<Option<Response<JobBody<B>>>, Refusal> {
        let (job, flight) = (known.job, &asker.flight);
        let lost = |loss| unreachable(&loss);
        let standing = self.jobs.look(job).await.map_err(lost)?;
        let Some(standing) = standing else {
            if known.accepted {
                // The job was withdrawn or has been forgotten.
                return Ok(None);
            }
            // The earlier copy waits for a permit while its gateway is alive.
            let waits = match &known.gateway {
                Some(gateway) => self.jobs.is_at_work(gateway).await.map_err(lost)?,
                None => true,
            };
            return if waits { Err(under_way()) } else { Ok(None) };
        };
        if self.jobs.give_up_orphan(job, &standing).await.map_err(lost)? {
            tracing::debug!(%job, "a job whose gateway is gone is given up for a repeat of its request");
            return Ok(None);
        }
        match &standing.state[..] {
            "failed" | "cancelled" | "expired" | "dead" if !later => return Ok(None),
            _ if later => {
                let text = super::show::standing(job, &standing).to_string();
                return Ok(Some(answer(accepted(job, text), flight.as_ref())));
            }
            "done" => {}
            _ => return Err(under_way()),
        }
        self.replay(job, &standing, flight.as_ref()).await.map(Some)
    }

    /// Replays the stored answer of a finished job.
    async fn replay<B>(
        &self,
        job: Job,
        standing: &Standing,
        flight: Option<&Arc<Flight>>,
    ) -> Result<Response<JobBody<B>>, Refusal> {
        let gone = || Refusal::new(Reason::Expired, "The answer is not kept any more.");
        if !self.jobs.has_answer(job).await.map_err(|loss| unreachable(&loss))? {
            return Err(gone());
        }
        let mut reader = self.jobs.read(job, Place::default()).from_stream();
        let mut head = None;
        let begin = async {
            loop {
                let entry = poll_fn(|cx| reader.poll_entry(cx)).await;
                match entry.kind {
                    Kind::Head => head = read_head(&entry.data),
                    _ => return entry,
                }
            }
        };
        let next = timeout(PATIENCE, begin).await.map_err(|late| unreachable(&late))?;
        let Some(head) = head else { return Err(gone()) };
        tracing::debug!(%job, stream = is_stream(&head), attempt = standing.attempt, "answered as before");
        let body = Answer::bytes(reader, next, &self.jobs).told(flight.cloned());
        Ok(Response::from_parts(head, JobBody::answer(body)))
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
            let wish =
                wish.map(|(later, once): (_, Option<&str>)| Wish { later, once: once.map(|key| key.into()) });
            assert_eq!(Wish::read(&headers, true).unwrap(), wish, "{headers:?}");
        }
        for wrong in [String::new(), "k".repeat(256)] {
            let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, HeaderValue::from_str(&wrong).unwrap())]);
            assert_eq!(Wish::read(&headers, true).unwrap_err().reason, Reason::BadRequest);
            assert_eq!(Wish::read(&headers, false).unwrap(), None);
        }
    }
}
