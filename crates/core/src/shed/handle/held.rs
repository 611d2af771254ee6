//! The permit that a request holds, whichever pool it is of.

use std::sync::Arc;

use parking_lot::Mutex;

use super::permit::Permit;

/// The permit that a request holds until the body of its answer ends. Falling back to another pool
/// replaces it, which frees the place in the first one.
#[derive(Clone, Debug)]
pub struct HeldPermit(Arc<Mutex<Permit>>);

impl HeldPermit {
    /// Holds `permit`.
    #[must_use]
    pub fn new(permit: Permit) -> Self {
        Self(Arc::new(Mutex::new(permit)))
    }

    /// Holds `permit` instead of the present one, of which other clones may be left.
    pub fn replace(&self, permit: Permit) {
        // The former is dropped after the lock is released: freeing a place takes the pool's lock.
        let _former = std::mem::replace(&mut *self.0.lock(), permit);
    }
}
