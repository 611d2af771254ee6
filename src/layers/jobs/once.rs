//! Requests with an `Idempotency-Key` over HTTP.
//!
//! **Failure mode.** Without Redis they are served, and repeats run again.

use std::sync::Arc;

use http::{Request, Response};
use tower::Service;

use super::ask::{JobDecision, JobOptions, SpareRequest};
use super::keep::{AnswerKeeper, is_final};
use super::{JobBody, JobsSettings, named};
use crate::redis::jobs::KeyClaim;
use crate::refusal::Refusal;
use crate::request::{Caller, Payload, RequestCost, RequestRecord};

impl JobsSettings {
    /// Answers a request with an idempotency key over HTTP: from the store, from a worker, or later.
    pub(super) async fn answer_once<S, R>(
        self: Arc<Self>,
        mut request: Request<Payload>,
        wish: JobOptions,
        spare: Option<SpareRequest>,
        mut inner: S,
    ) -> Result<Response<JobBody<R>>, Refusal>
    where
        S: Service<Request<Payload>, Response = Response<R>, Error = Refusal>,
    {
        let is_delayed = wish.is_delayed();
        let caller = named(request.extensions().get::<Caller>())?.clone();
        let record = request.extensions().get::<Arc<RequestRecord>>().cloned();
        let stream = request.extensions().get::<RequestCost>().is_some_and(|cost| cost.stream);
        let trial = match self.ask(&mut request, wish).await? {
            JobDecision::Answered(response) => return Ok(response),
            JobDecision::Run(trial) => trial,
        };
        let later = match spare {
            Some(spare) if is_delayed => self.accept_spare(spare, Some(Arc::clone(&trial))).await,
            spare => match (inner.call(request).await, spare) {
                (Ok(response), _) => {
                    return Ok(self.keep_answer(response, trial, record, (&caller, stream)).await);
                }
                (Err(refusal), Some(spare)) => {
                    self.accept_refused(refusal, spare, Some(Arc::clone(&trial))).await
                }
                (Err(refusal), None) => Err(refusal),
            },
        };
        if later.is_err() {
            trial.forget().await;
        }
        later
    }

    /// Passes an answer on, and keeps it for repeats of its request. An answer after which clients try
    /// again frees the key.
    async fn keep_answer<B>(
        &self,
        response: Response<B>,
        trial: Arc<KeyClaim>,
        record: Option<Arc<RequestRecord>>,
        asked: (&Caller, bool),
    ) -> Response<JobBody<B>> {
        let (head, body) = response.into_parts();
        match record.filter(|_| is_final(head.status)) {
            Some(record) => {
                let keeper = AnswerKeeper::new(&head, trial, record, asked, &self.buffers);
                Response::from_parts(head, JobBody::kept(body, keeper))
            }
            None => {
                trial.forget().await;
                Response::from_parts(head, JobBody::inner(body))
            }
        }
    }
}
