//! Eligibility: which of the known workers may take work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::registry::ModelNames;
use super::spec::WorkerSpec;
use crate::shed::CanaryShare;

/// A side of a pool that is on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanarySide {
    /// The side: a colour, or in a queue maybe one version of it.
    pub side: Arc<str>,
    /// The share of the requests that it gets.
    pub share: CanaryShare,
}

/// The blue/green colours that receive work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Colours {
    /// Colour in pools that were not switched; `None` for all colours.
    pub default_colour: Option<Arc<str>>,
    /// Colours of the pools that were switched.
    pub switched: BTreeMap<Arc<str>, Arc<str>>,
    /// Canaries under way, by pool.
    pub canaries: BTreeMap<Arc<str>, CanarySide>,
    /// `true` if a pool without a colour here gives its work to none of its workers.
    pub exclusive: bool,
}

impl Colours {
    /// Returns the colour that receives work in `pool`; `None` for all colours, or for none if
    /// `exclusive`.
    #[must_use]
    pub fn of(&self, pool: &str) -> Option<&Arc<str>> {
        self.switched.get(pool).or(self.default_colour.as_ref())
    }
}

/// Conditions under which workers take work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eligibility {
    /// Only these colours take work.
    pub colours: Colours,
    /// These workers take no work.
    pub held: BTreeSet<Arc<str>>,
    /// A new connection to these workers is used only after it answered for one of the models.
    pub unverified: BTreeMap<Arc<str>, ModelNames>,
    /// `true` if workers may join by themselves: then requests wait for a pool without workers.
    pub workers_may_join: bool,
}

impl Eligibility {
    /// Returns `true` if the worker's colour is on trial.
    pub(super) fn is_canary(&self, spec: &WorkerSpec) -> bool {
        self.colours.canaries.get(&spec.pool).is_some_and(|canary| canary.side == spec.colour)
    }

    /// Returns `true` if the worker's colour receives the work of its pool, or a share of it.
    pub(super) fn has_active_colour(&self, spec: &WorkerSpec) -> bool {
        self.is_canary(spec)
            || self.colours.of(&spec.pool).map_or(!self.colours.exclusive, |colour| *colour == spec.colour)
    }

    pub(super) fn allows(&self, spec: &WorkerSpec) -> bool {
        self.has_active_colour(spec) && !self.held.contains(&spec.id)
    }
}

impl From<Option<Arc<str>>> for Eligibility {
    fn from(default_colour: Option<Arc<str>>) -> Self {
        Self { colours: Colours { default_colour, ..Colours::default() }, ..Self::default() }
    }
}
