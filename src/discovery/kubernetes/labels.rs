//! What the labels and annotations of a pod set. Pure.

use std::fmt;
use std::sync::Arc;

use super::records::{PREFIX, PodRecord};
use super::target::LabelChoices;
use crate::fleet::discovery::DiscoveredWorker;
use crate::fleet::heartbeat::{MAX_KV_TOKENS, MAX_SLOTS, MAX_VERSION_LENGTH};
use crate::glob::Glob;

/// Why a pod is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LabelError {
    #[error("its {key} is `{value}`, but the settings list {listed}")]
    NotListed { key: LabelKey, value: String, listed: String },
    #[error("its {key} is `{value}`; it must be a whole number from 1 to {most}")]
    NotANumber { key: LabelKey, value: String, most: u64 },
    #[error("its {key} must be 1 to {MAX_VERSION_LENGTH} characters")]
    Version { key: LabelKey },
}

/// The name of a label or an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LabelKey {
    Label(&'static str),
    Annotation(&'static str),
}

impl fmt::Display for LabelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(name) => write!(f, "label `{PREFIX}{name}`"),
            Self::Annotation(name) => write!(f, "annotation `{PREFIX}{name}`"),
        }
    }
}

impl LabelKey {
    fn of(self, pod: &PodRecord) -> Option<&str> {
        let (all, name) = match self {
            Self::Label(name) => (&pod.labels, name),
            Self::Annotation(name) => (&pod.annotations, name),
        };
        all.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Takes over what the pod sets, as far as the settings let it choose.
///
/// # Errors
/// Returns the first value that it may not have.
pub(super) fn apply(
    choices: &LabelChoices,
    pod: &PodRecord,
    worker: &mut DiscoveredWorker,
) -> Result<(), LabelError> {
    worker.pool = chosen(LabelKey::Label("pool"), pod, &choices.pools, same)?;
    worker.colour = chosen(LabelKey::Label("colour"), pod, &choices.colours, same)?;
    worker.model = chosen(LabelKey::Annotation("model"), pod, &choices.models, within)?;
    let key = LabelKey::Annotation("version");
    worker.version = match key.of(pod) {
        Some(text)
            if text.is_empty() || text.len() > MAX_VERSION_LENGTH || text.contains(char::is_control) =>
        {
            return Err(LabelError::Version { key });
        }
        version => version.map(Into::into),
    };
    let slots = number(LabelKey::Label("slots"), pod, MAX_SLOTS.into())?;
    worker.slots = lower(worker.slots, slots.and_then(|slots| u32::try_from(slots).ok()));
    worker.kv_tokens = lower(worker.kv_tokens, number(LabelKey::Label("kv-tokens"), pod, MAX_KV_TOKENS)?);
    Ok(())
}

/// Returns the value of a label if the settings list it; `None` without the label.
fn chosen(
    key: LabelKey,
    pod: &PodRecord,
    listed: &[Arc<str>],
    accepts: fn(&Arc<str>, &str) -> bool,
) -> Result<Option<Arc<str>>, LabelError> {
    let Some(value) = key.of(pod) else { return Ok(None) };
    if listed.iter().any(|listed| accepts(listed, value)) {
        return Ok(Some(value.into()));
    }
    let listed: Vec<_> = listed.iter().map(|listed| format!("`{listed}`")).collect();
    let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
    Err(LabelError::NotListed { key, value: value.to_owned(), listed })
}

fn same(listed: &Arc<str>, value: &str) -> bool {
    **listed == *value
}

/// Returns `true` if a model is a pattern of the settings, or a name that such a pattern matches.
fn within(listed: &Arc<str>, value: &str) -> bool {
    same(listed, value)
        || (!value.is_empty() && !value.contains('*') && Glob::new(Arc::clone(listed)).matches(value))
}

fn number(key: LabelKey, pod: &PodRecord, most: u64) -> Result<Option<u64>, LabelError> {
    let Some(value) = key.of(pod) else { return Ok(None) };
    let number = value.parse().ok().filter(|number| (1..=most).contains(number));
    number.map(Some).ok_or_else(|| LabelError::NotANumber { key, value: value.to_owned(), most })
}

/// Returns the lower one of what the settings and the label say.
fn lower<T: Ord>(told: Option<T>, label: Option<T>) -> Option<T> {
    match (told, label) {
        (Some(told), Some(label)) => Some(told.min(label)),
        (told, label) => told.or(label),
    }
}
