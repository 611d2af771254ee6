//! Which workers may take work, of those that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::spec::WorkerSpec;

/// The blue/green side that receives work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Colours {
    /// In pools that were not switched; nothing for any.
    pub everywhere: Option<Arc<str>>,
    /// In pools that were.
    pub switched: BTreeMap<Arc<str>, Arc<str>>,
}

impl Colours {
    /// The colour that receives work in `pool`; nothing for any.
    #[must_use]
    pub fn of(&self, pool: &str) -> Option<&Arc<str>> {
        self.switched.get(pool).or(self.everywhere.as_ref())
    }
}

/// What keeps workers from taking work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Only these colours take work.
    pub colours: Colours,
    /// These workers take none.
    pub held: BTreeSet<Arc<str>>,
    /// Whether more workers may come by themselves: then a pool without any is waited for, not unknown.
    pub open: bool,
}

impl Standing {
    /// Whether the colour of the worker has the work of its pool.
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
