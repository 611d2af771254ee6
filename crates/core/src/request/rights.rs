//! Rights of a caller, as its key, its token or the settings give them.

use std::fmt;
use std::sync::Arc;

use super::{AllowedModels, AnswerHeaders, Class, OwnLimits};

/// Rights of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerRights {
    /// Class of its requests, and the highest one that they may ask for; `None` for the default class.
    pub class: Option<Class>,
    /// Its team.
    pub team: Option<Arc<str>>,
    /// Its share of a contended pool relative to others; at least 1.
    pub weight: u32,
    /// Limits that replace those of the rules for this caller.
    pub limits: Option<Arc<OwnLimits>>,
    /// The models that it may ask for; `None` for all.
    pub models: Option<Arc<AllowedModels>>,
    /// Headers of its answers; `None` for the general setting.
    pub answer_headers: Option<AnswerHeaders>,
    /// `true` if it may use external workers, such as a paid API.
    pub external: bool,
}

impl Default for CallerRights {
    fn default() -> Self {
        Self {
            class: None,
            team: None,
            weight: 1,
            limits: None,
            models: None,
            answer_headers: None,
            external: false,
        }
    }
}

/// A caller known by its key, from the settings or from Redis.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyOwner {
    /// Name of the caller, without its namespace (`key:`).
    pub id: Arc<str>,
    /// SHA-256 of its key. `Debug` does not print it, because a weak key can be guessed from it.
    pub sha256: [u8; 32],
    /// Its rights.
    pub rights: CallerRights,
}

impl fmt::Debug for KeyOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyOwner").field("id", &self.id).field("rights", &self.rights).finish_non_exhaustive()
    }
}
