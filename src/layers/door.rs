//! The maintenance switch: refuses requests while the gateway drains or is under maintenance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, Ready, ready};
use tower::{Layer, Service};

use crate::refusal::{Reason, Refusal, spread};

/// Shortest `retry-after`: the time in which another gateway has usually taken over.
const COME_BACK: Duration = Duration::from_secs(5);

/// Maintenance switch of the gateway. It does not affect requests that are already admitted.
#[derive(Debug, Default)]
pub struct Door {
    draining: AtomicBool,
    maintenance: AtomicBool,
}

impl Door {
    /// Refuses new requests from now on: the process is shutting down.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Begins or ends maintenance.
    pub fn set_maintenance(&self, on: bool) {
        self.maintenance.store(on, Ordering::Release);
    }

    /// Returns `true` during maintenance.
    #[must_use]
    pub fn in_maintenance(&self) -> bool {
        self.maintenance.load(Ordering::Acquire)
    }

    /// Returns the refusal for new requests; `None` if they are admitted.
    #[must_use]
    pub fn shut(&self) -> Option<Refusal> {
        let (reason, why) = if self.draining.load(Ordering::Acquire) {
            (Reason::Draining, "This gateway is going down; another one will serve the next try.")
        } else if self.in_maintenance() {
            (Reason::Maintenance, "This gateway is closed for maintenance.")
        } else {
            return None;
        };
        Some(Refusal::new(reason, why).with_retry_after(spread(COME_BACK)))
    }
}

/// Layer for [`Guarding`].
#[derive(Clone, Debug)]
pub struct DoorLayer(Arc<Door>);

impl DoorLayer {
    /// Creates a layer controlled by `door`.
    #[must_use]
    pub const fn new(door: Arc<Door>) -> Self {
        Self(door)
    }
}

impl<S> Layer<S> for DoorLayer {
    type Service = Guarding<S>;

    fn layer(&self, inner: S) -> Guarding<S> {
        Guarding { door: Arc::clone(&self.0), inner }
    }
}

/// Service that refuses all requests while the gateway drains or is under maintenance.
#[derive(Clone, Debug)]
pub struct Guarding<S> {
    door: Arc<Door>,
    inner: S,
}

impl<S, Q> Service<Q> for Guarding<S>
where
    S: Service<Q>,
    S::Error: From<Refusal>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        match self.door.shut() {
            None => Either::Left(self.inner.call(request)),
            Some(refusal) => Either::Right(ready(Err(refusal.into()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn draining_is_said_before_maintenance_and_both_say_when_to_come_back() {
        let door = Door::default();
        assert!(door.shut().is_none());
        door.set_maintenance(true);
        assert_eq!(door.shut().map(|refusal| refusal.reason), Some(Reason::Maintenance));
        door.drain();
        let refusal = door.shut().expect("shut");
        assert_eq!(refusal.reason, Reason::Draining);
        door.set_maintenance(false);
        assert!(door.shut().is_some(), "a drain is not taken back");
    }

    #[test]
    fn a_crowd_at_a_shut_door_is_told_different_times() {
        let (closed, draining) = (Door::default(), Door::default());
        closed.set_maintenance(true);
        draining.drain();
        for door in [closed, draining] {
            let told: HashSet<_> = (0..60).filter_map(|_| door.shut()?.retry_after).collect();
            assert_eq!(told.len(), 60);
            assert!(told.iter().all(|told| (COME_BACK..=COME_BACK * 3 / 2).contains(told)));
        }
    }
}
