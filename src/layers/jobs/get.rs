//! `GET` and `DELETE` of jobs.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, request};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::body::{ReplayedAnswer, unreachable};
use super::marks::EventId;
use super::{JobBody, JobsSettings, answer, named, text};
use crate::openai::error;
use crate::redis::jobs::{Job, JobError, JobStatus, PieceKind, PiecePlace, caller_hash, read_head};
use crate::refusal::{Reason, Refusal};
use crate::request::{Caller, Ending, RequestRecord};

/// Header with the id of the last event that the client received.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The largest answer shown with its job, in bytes; a larger one can be read as a stream.
const LARGEST: usize = 8 << 20;

/// Timeout for reading a complete answer from Redis.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Formats a job's status for its caller.
pub(super) fn status_json(job: Job, status: &JobStatus) -> Value {
    json!({
        "id": job.to_string(),
        "object": "job",
        "status": status.state,
        "stream": status.stream,
        "attempt": status.attempt,
        "created_ms": status.created_ms,
        "ended_ms": status.ended_ms,
        "last_error": status.last_error,
    })
}

/// Builds the refusal to resume the output of an earlier run.
fn another_run() -> Refusal {
    Refusal::new(Reason::UpstreamBroke, "The job was restarted; read it from the beginning.")
}

fn unknown() -> Refusal {
    Refusal::new(Reason::NotFound, "There is no such job.").with_param("job")
}

impl JobsSettings {
    pub(super) async fn look<B>(&self, head: request::Parts) -> Result<Response<JobBody<B>>, Refusal> {
        let extensions = &head.extensions;
        let caller = caller_hash(&named(extensions.get::<Caller>())?.id);
        let record = extensions.get::<Arc<RequestRecord>>();
        let job = head.uri.path().rsplit('/').next().and_then(Job::parse).ok_or_else(unknown)?;
        let found = self.jobs.look(job).await.map_err(|loss| unreachable(&loss))?;
        // Jobs of other callers are reported as unknown, so that their existence is not revealed.
        let found = found.filter(|status| status.caller == caller).ok_or_else(unknown)?;
        if head.method == Method::DELETE {
            if !found.has_ended() {
                self.jobs.cancel_job(job, &found).await.map_err(|loss| unreachable(&loss))?;
            }
            let now = self.jobs.look(job).await.map_err(|loss| unreachable(&loss))?.unwrap_or(found);
            return Ok(answer(json_answer(&status_json(job, &now)), record));
        }
        if found.has_ended() && !self.jobs.has_answer(job).await.map_err(|loss| unreachable(&loss))? {
            return Err(Refusal::new(
                Reason::Expired,
                "The job has ended, and its answer is no longer stored.",
            ));
        }
        let accept = text(&head.headers, &ACCEPT).unwrap_or_default();
        if found.stream && accept.to_ascii_lowercase().contains("text/event-stream") {
            return self.stream(job, &found, &head.headers, record).await;
        }
        let mut shown = status_json(job, &found);
        if found.has_ended()
            && let Some(map) = shown.as_object_mut()
        {
            let read = self.add_answer(job, found.stream, map);
            timeout(PATIENCE, read).await.map_err(|late| unreachable(&late))?;
        }
        Ok(answer(json_answer(&shown), record))
    }

    /// Answers with a stream, resumed after the last event that the client has.
    async fn stream<B>(
        &self,
        job: Job,
        found: &JobStatus,
        headers: &HeaderMap,
        record: Option<&Arc<RequestRecord>>,
    ) -> Result<Response<JobBody<B>>, Refusal> {
        let from = match text(headers, &LAST_EVENT_ID) {
            None => None,
            Some(id) => Some(EventId::parse(id).ok_or_else(|| {
                let problem = "The header `last-event-id` must be the id of an event of this job.";
                Refusal::new(Reason::BadRequest, problem).with_param("last-event-id")
            })?),
        };
        if from.is_some_and(|mark| {
            mark.place.epoch == found.epoch && found.has_ended() && mark.place.n > found.n
        }) {
            return Err(Refusal::new(Reason::BadRequest, "The job has no event with this id.")
                .with_param("last-event-id"));
        }
        // Reads the entry of the last event again, for the bytes after that event.
        let at = from.map(|mark| PiecePlace { n: mark.place.n - 1, ..mark.place }).unwrap_or_default();
        let body = if at.epoch == 0 || at.epoch == found.epoch {
            let reader = self.jobs.read(job, at).stream_first();
            // If this fails, the reader polls the stream each second.
            self.jobs.attach(job).await.ok();
            JobBody::answer(ReplayedAnswer::events(reader, from, &self.jobs).with_record(record.cloned()))
        } else {
            if let Some(record) = record {
                record.set_ending(Ending::WorkerFailed);
            }
            JobBody::text(error::event(&another_run(), error::StreamFormat::Named, ""))
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Ok(response)
    }

    /// Adds the job's answer, or its error, to `credentials`.
    async fn add_answer(&self, job: Job, stream: bool, shown: &mut serde_json::Map<String, Value>) {
        let mut reader = self.jobs.read(job, PiecePlace::default()).stream_first();
        let mut body = Vec::new();
        loop {
            let entry = poll_fn(|cx| reader.poll_entry(cx)).await;
            match entry.kind {
                PieceKind::Head => {
                    let status = read_head(&entry.data).map(|(head, _)| head.status.as_u16());
                    shown.insert("response_status".to_owned(), status.into());
                }
                PieceKind::Data if stream || body.len() + entry.data.len() > LARGEST => {}
                PieceKind::Data => body.extend_from_slice(&entry.data),
                PieceKind::End => break,
                PieceKind::Error => {
                    let JobError { reason, message } = JobError::read(&entry.data);
                    shown.insert("error".to_owned(), json!({ "code": reason.as_str(), "message": message }));
                    break;
                }
            }
        }
        if let Ok(body) = serde_json::from_slice::<Value>(&body) {
            shown.insert("response".to_owned(), body);
        }
    }
}

fn json_answer(value: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(value.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
