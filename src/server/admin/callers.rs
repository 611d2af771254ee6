//! Callers stored in Redis: one is read, written or deleted per request.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::answer::{AdminError, json_answer};
use super::body::AdminBody;
use crate::hex;
use crate::limit::own_limits::{WrittenLimit, quota};
use crate::limit::rule::Rule;
use crate::redis::callers::{StoredCallers, WrittenCaller as Rest, is_name};
use crate::redis::link::RedisLoss;
use crate::request::KeyOwner;

/// A caller as written by an administrator.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallerBody {
    /// SHA-256 of its key in hex; give this or `key`.
    sha256: Option<String>,
    /// The key itself; only its SHA-256 is stored.
    key: Option<String>,
    class: Option<String>,
    weight: Option<u32>,
    team: Option<String>,
    #[serde(default)]
    limits: BTreeMap<String, WrittenLimit>,
    models: Option<Vec<String>>,
    #[serde(default)]
    external: bool,
}

fn lost(loss: RedisLoss) -> AdminError {
    AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "redis_unavailable", loss.to_string())
}

fn bad(message: impl Into<String>) -> AdminError {
    AdminError::new(StatusCode::BAD_REQUEST, "bad_request", message)
}

fn unknown(id: &str) -> AdminError {
    AdminError::new(StatusCode::NOT_FOUND, "not_found", format!("Redis has no caller \"{id}\""))
}

/// Returns the JSON of a caller. Leaves out the digest, from which a weak key could be guessed.
fn shown(caller: &KeyOwner) -> Value {
    let Rest { class, weight, team, limits, models, external } = Rest::from(&caller.rights);
    let id = &caller.id;
    let mut shown = json!({
        "id": id,
        "class": class,
        "weight": weight,
        "team": team,
        "limits": limits,
        "external": external,
    });
    if let (Some(models), Some(fields)) = (models, shown.as_object_mut()) {
        fields.insert("models".to_owned(), json!(models));
    }
    shown
}

pub(super) fn check_id(id: &str) -> Result<(), AdminError> {
    if is_name(id) {
        return Ok(());
    }
    Err(bad("a caller's id is 1 to 64 letters, digits, `.`, `_` or `-`"))
}

/// Reads or deletes a caller.
pub(super) async fn look(
    callers: &StoredCallers,
    method: &Method,
    id: &str,
) -> Result<Response<AdminBody>, AdminError> {
    check_id(id)?;
    if method == Method::DELETE {
        if !callers.delete(id).await.map_err(lost)? {
            return Err(unknown(id));
        }
        tracing::info!(id, "caller deleted through the admin port");
        return Ok(json_answer(StatusCode::OK, &json!({ "deleted": id })));
    }
    let caller = callers.get(id).await.map_err(lost)?.ok_or_else(|| unknown(id))?;
    Ok(json_answer(StatusCode::OK, &shown(&caller)))
}

pub(super) async fn write(
    callers: &StoredCallers,
    rules: &[Arc<Rule>],
    id: &str,
    written: CallerBody,
) -> Result<Response<AdminBody>, AdminError> {
    let CallerBody { sha256, key, class, weight, team, limits, models, external } = written;
    let rest = Rest { class, weight, team, limits, models, external };
    let sha256 = match (sha256, key) {
        (Some(sha256), None) => sha256,
        (None, Some(key)) if !key.is_empty() => hex::write(&Sha256::digest(key)),
        _ => return Err(bad("give `sha256`, the SHA-256 of the caller's key, or `key`, the key itself")),
    };
    let caller = rest.read(id, &sha256).map_err(bad)?;
    for (name, limit) in caller.rights.limits.iter().flat_map(|limits| limits.iter()) {
        let Some(rule) = rules.iter().find(|rule| rule.name == *name) else {
            return Err(bad(format!("`limits` names the rule '{name}', which does not exist")));
        };
        quota(rule, limit).map_err(|fault| bad(format!("`limits`: '{name}': {fault}")))?;
    }
    if callers.find(&caller.sha256).is_some_and(|other| other.id != caller.id) {
        let message = "another caller has this key already";
        return Err(AdminError::new(StatusCode::CONFLICT, "conflict", message));
    }
    callers.put(&caller).await.map_err(lost)?;
    tracing::info!(id, "caller set through the admin port");
    Ok(json_answer(StatusCode::OK, &shown(&caller)))
}
