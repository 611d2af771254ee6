//! Eligibility: which of the known workers may take work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::spec::WorkerSpec;

/// The blue/green colours that receive work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Colours {
    /// Colour in pools that were not switched; `None` for all colours.
    pub everywhere: Option<Arc<str>>,
    /// Colours of the pools that were switched.
    pub switched: BTreeMap<Arc<str>, Arc<str>>,
}

impl Colours {
    /// Returns the colour that receives work in `pool`; `None` for all colours.
    #[must_use]
    pub fn of(&self, pool: &str) -> Option<&Arc<str>> {
        self.switched.get(pool).or(self.everywhere.as_ref())
    }
}

/// Conditions under which workers take work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Only these colours take work.
    pub colours: Colours,
    /// These workers take no work.
    pub held: BTreeSet<Arc<str>>,
    /// `true` if workers may join by themselves: then requests wait for a pool without workers.
    pub open: bool,
}

impl Standing {
    /// Returns `true` if the worker's colour receives the work of its pool.
    pub(super) fn prefers(&self, spec: &WorkerSpec) -> bool {
        self.colours.of(&spec.pool).is_none_or(|colour| *colour == spec.colour)
    }

    pub(super) fn lets(&self, spec: &WorkerSpec) -> bool {
        self.prefers(spec) && !self.held.contains(&spec.id)
    }
}

impl From<Option<Arc<str>>> for Standing {
    fn from(everywhere: Option<Arc<str>>) -> Self {
        Self { colours: Colours { everywhere, ..Colours::default() }, ..Self::default() }
    }
}
