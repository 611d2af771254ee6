//! The simulated worker as one that takes jobs from a queue.
//!
//! The same service answers jobs and HTTP calls, including faults. A job with the fault `die` is
//! left as if the process had died; a job whose stream breaks is handed back.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use super::WorkerOptions;
use super::body::WorkerBody;
use super::driver::EngineDriver;
use super::service::WorkerService;
use crate::redis::consumer::{AnswerEngine, NoAnswer};
use crate::redis::drainer::{Drainer, EngineReport, Membership};

/// Returns the worker that takes jobs for this service.
pub(super) fn drainer(
    service: Arc<WorkerService>,
    driver: Arc<EngineDriver>,
    options: &WorkerOptions,
    membership: Membership,
) -> Drainer<WorkerService> {
    let (model, kv_tokens) = (Arc::from(options.model.as_str()), options.kv_tokens);
    let report = move || {
        let gauges = driver.gauges();
        let count = |count: usize| u32::try_from(count).ok();
        EngineReport {
            model: Some(Arc::clone(&model)),
            running: count(gauges.running),
            waiting: count(gauges.waiting),
            kv_used: Some(gauges.kv_usage),
            kv_tokens: Some(kv_tokens),
        }
    };
    Drainer::new(service, membership, options.slots, report)
}

impl AnswerEngine for WorkerService {
    type Body = WorkerBody;

    async fn answer(&self, head: Parts, body: Bytes) -> Result<Response<WorkerBody>, NoAnswer> {
        self.call(head, body).await.map_err(|_| NoAnswer::Silence)
    }
}
