//! The memory budget of buffered request bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;

/// The memory budget that all buffered request bodies share.
///
/// Bytes count when they arrive, not when they are announced. A caller with one body may use all
/// free memory. A caller with several may hold no more than it leaves free: half of all if alone, a
/// third beside another such caller, and so on. So many bodies of one caller never fill the memory.
#[derive(Debug)]
pub(crate) struct Buffers {
    capacity: AtomicU64,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    bytes: u64,
    callers: HashMap<Arc<str>, CallerBytes>,
}

#[derive(Debug, Default)]
struct CallerBytes {
    bodies: u64,
    bytes: u64,
}

impl Buffers {
    /// Creates a budget of `capacity` bytes.
    #[must_use]
    pub(crate) fn new(capacity: u64) -> Self {
        Self { capacity: AtomicU64::new(capacity), used: Mutex::default() }
    }

    /// Changes the budget to `capacity` bytes. Memory in use stays in use.
    pub(crate) fn resize(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    /// Returns the bytes in use.
    #[must_use]
    pub(crate) fn used(&self) -> u64 {
        self.used.lock().bytes
    }

    /// Registers a body of `caller`, which uses no bytes yet.
    #[must_use]
    pub(crate) fn enter(self: &Arc<Self>, caller: &Arc<str>) -> BufferHold {
        self.used.lock().callers.entry(Arc::clone(caller)).or_default().bodies += 1;
        BufferHold { buffers: Arc::clone(self), caller: Arc::clone(caller), bytes: 0 }
    }
}

/// Memory taken from [`Buffers`] for one body; released when dropped.
#[derive(Debug)]
pub(crate) struct BufferHold {
    buffers: Arc<Buffers>,
    caller: Arc<str>,
    bytes: u64,
}

impl BufferHold {
    /// Takes `more` bytes; returns `false` if there is no room.
    pub(super) fn grow(&mut self, more: u64) -> bool {
        let capacity = self.buffers.capacity.load(Ordering::Relaxed);
        let mut used = self.buffers.used.lock();
        let Some(left) = used.bytes.checked_add(more).and_then(|sum| capacity.checked_sub(sum)) else {
            return false;
        };
        let Some(share) = used.callers.get_mut(&self.caller) else { return false };
        if share.bodies > 1 && share.bytes + more > left {
            return false;
        }
        share.bytes += more;
        used.bytes += more;
        self.bytes += more;
        true
    }
}

impl Drop for BufferHold {
    fn drop(&mut self) {
        let mut used = self.buffers.used.lock();
        used.bytes = used.bytes.saturating_sub(self.bytes);
        if let Some(share) = used.callers.get_mut(&self.caller) {
            share.bodies = share.bodies.saturating_sub(1);
            share.bytes = share.bytes.saturating_sub(self.bytes);
            if share.bodies == 0 {
                used.callers.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_takes_no_room_and_a_caller_with_many_bodies_leaves_some() {
        const ROOM: u64 = 100;
        let buffers = Arc::new(Buffers::new(ROOM));
        let (greedy, other): (Arc<str>, Arc<str>) = ("key:a".into(), "key:b".into());
        let entered: Vec<_> = (0..50).map(|_| buffers.enter(&greedy)).collect();
        assert_eq!(buffers.used(), 0);
        let mut held: Vec<_> = Vec::new();
        for mut hold in entered {
            if hold.grow(10) {
                held.push(hold);
            }
        }
        assert_eq!(buffers.used(), ROOM / 2, "of all that there is, one caller gets half");
        // A new caller still has room for a whole body.
        let mut hold = buffers.enter(&other);
        assert!(hold.grow(50));
        assert_eq!(buffers.used(), ROOM);
        drop((held, hold));
        assert_eq!((buffers.used(), buffers.used.lock().callers.len()), (0, 0));
    }
}
