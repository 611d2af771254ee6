//! Dead letters of queues: `/api/v1/dead`.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::AdminBody;
use super::answer::{AdminError, json_answer};
use crate::redis::jobs::{DeadLetter, Job, JobQueue, RunError};

/// Dead letter to retry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Requeue {
    pool: String,
    job: String,
}

fn unavailable(why: &dyn std::fmt::Display) -> AdminError {
    let message = format!("Redis command failed: {why}; retry");
    AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "redis_unavailable", message)
}

pub(super) async fn show(jobs: &JobQueue, pools: Vec<Arc<str>>) -> Result<Response<AdminBody>, AdminError> {
    let mut shown = Map::new();
    for pool in pools {
        let dead = jobs.detailed_dead(&pool).await.map_err(|loss| unavailable(&loss))?;
        let letters = dead.iter().map(|DeadLetter { job, error, at_ms, details, .. }| {
            let errors =
                details.errors.iter().map(|RunError { run, error }| json!({ "run": run, "error": error }));
            json!({
                "job": job.to_string(),
                "error": error,
                "at_ms": at_ms,
                "caller": details.caller,
                "class": details.class,
                "path": details.path,
                "colour": details.colour,
                "errors": errors.collect::<Vec<_>>(),
            })
        });
        shown.insert(pool.to_string(), Value::Array(letters.collect()));
    }
    Ok(json_answer(StatusCode::OK, &json!({ "dead": shown })))
}

pub(super) async fn requeue(jobs: &JobQueue, asked: Requeue) -> Result<Response<AdminBody>, AdminError> {
    let Requeue { pool, job } = asked;
    let none = || {
        AdminError::new(
            StatusCode::NOT_FOUND,
            "no_such_job",
            "there is no dead letter of this job in this pool",
        )
    };
    let named = Job::parse(&job).ok_or_else(none)?;
    let found = jobs.requeue(&pool, named).await.map_err(|refused| unavailable(&refused))?;
    tracing::info!(pool, job, found, "dead letter requeued through the admin port");
    if !found {
        return Err(none());
    }
    Ok(json_answer(StatusCode::ACCEPTED, &json!({ "job": job, "status": "queued" })))
}
