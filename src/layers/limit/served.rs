//! Under which name a request's model counts.

use std::sync::Arc;

use crate::fleet::{Fleet, Pool};
use crate::limit::Served;
use crate::models::ModelRoute;

/// Returns the name under which a model counts, and the pool that serves it. An alias counts as its
/// entry, which may have several names. What the caller may not use counts like an unknown name.
#[must_use]
pub(crate) fn served_by(
    fleet: &Fleet,
    asked: Option<&str>,
    route: Option<&ModelRoute>,
) -> (Arc<str>, Option<Arc<Pool>>) {
    let Some(route) = route else { return fleet.served(asked) };
    if !route.is_allowed() {
        return Fleet::unserved();
    }
    let (counted, pool) = fleet.served(route.served().map_or(asked, |served| Some(&**served)));
    (route.alias().cloned().unwrap_or(counted), pool)
}

/// The name under which a request's model counts, and the pool that serves it.
pub(super) struct ServedBy {
    pub(super) by: Option<(Arc<str>, Option<Arc<Pool>>)>,
    pub(super) route: Option<Arc<ModelRoute>>,
}

impl ServedBy {
    pub(super) fn served(&self) -> Served<'_> {
        let Some((counted, pool)) = &self.by else { return Served::AS_ASKED };
        let unnamed = pool.as_ref().map_or(&[][..], |pool| &pool.models);
        let names = self.route.as_ref().map_or(&[][..], |route| route.names());
        Served { counted_as: Some(counted), default_models: unnamed, names }
    }
}
