//! Dead letters of queues: `/api/v1/dead`.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::AdminBody;
use super::answer::{Fault, json_answer};
use crate::redis::jobs::{Dead, Job, Jobs};

/// Dead letter to retry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Requeue {
    pool: String,
    job: String,
}

fn unavailable(why: &dyn std::fmt::Display) -> Fault {
    let message = format!("Redis does not do it: {why}; ask again");
    Fault::new(StatusCode::SERVICE_UNAVAILABLE, "redis_unavailable", message)
}

/// Returns the dead letters of all pools.
pub(super) async fn show(jobs: &Jobs, pools: Vec<Arc<str>>) -> Result<Response<AdminBody>, Fault> {
    let mut shown = Map::new();
    for pool in pools {
        let dead = jobs.dead(&pool).await.map_err(|loss| unavailable(&loss))?;
        let letters = dead.iter().map(|Dead { job, error, at_ms, .. }| {
            json!({ "job": job.to_string(), "error": error, "at_ms": at_ms })
        });
        shown.insert(pool.to_string(), Value::Array(letters.collect()));
    }
    Ok(json_answer(StatusCode::OK, &json!({ "dead": shown })))
}

/// Requeues a dead letter.
pub(super) async fn requeue(jobs: &Jobs, asked: Requeue) -> Result<Response<AdminBody>, Fault> {
    let Requeue { pool, job } = asked;
    let none = || {
        Fault::new(StatusCode::NOT_FOUND, "no_such_job", "there is no dead letter of this job in this pool")
    };
    let named = Job::parse(&job).ok_or_else(none)?;
    let found = jobs.requeue(&pool, named).await.map_err(|refused| unavailable(&refused))?;
    tracing::info!(pool, job, found, "a dead letter is tried again, through the admin port");
    if !found {
        return Err(none());
    }
    Ok(json_answer(StatusCode::ACCEPTED, &json!({ "job": job, "status": "queued" })))
}
