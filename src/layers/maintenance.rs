//! The maintenance switch: refuses requests while the gateway drains or is under maintenance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, Ready, ready};
use tower::{Layer, Service};

use crate::refusal::{Reason, Refusal, with_jitter};

/// Shortest `retry-after`: the time in which another gateway has usually taken over.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Maintenance switch of the gateway. It does not affect requests that are already admitted.
#[derive(Debug, Default)]
pub(crate) struct MaintenanceSwitch {
    draining: AtomicBool,
    maintenance: AtomicBool,
}

impl MaintenanceSwitch {
    /// Refuses new requests from now on: the process is shutting down.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Begins or ends maintenance.
    pub(crate) fn set_maintenance(&self, on: bool) {
        self.maintenance.store(on, Ordering::Release);
    }

    /// Returns `true` during maintenance.
    #[must_use]
    pub(crate) fn in_maintenance(&self) -> bool {
        self.maintenance.load(Ordering::Acquire)
    }

    /// Returns the refusal for new requests; `None` if they are admitted.
    #[must_use]
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        let (reason, why) = if self.draining.load(Ordering::Acquire) {
            (
                Reason::Draining,
                "This gateway is shutting down; retry, and another gateway will serve the request.",
            )
        } else if self.in_maintenance() {
            (Reason::Maintenance, "This gateway is closed for maintenance.")
        } else {
            return None;
        };
        Some(Refusal::new(reason, why).with_retry_after(with_jitter(RETRY_AFTER)))
    }
}

/// Layer for [`Maintenance`].
#[derive(Clone, Debug)]
pub(crate) struct MaintenanceLayer(Arc<MaintenanceSwitch>);

impl MaintenanceLayer {
    /// Creates a layer controlled by `maintenance`.
    #[must_use]
    pub(crate) const fn new(maintenance: Arc<MaintenanceSwitch>) -> Self {
        Self(maintenance)
    }
}

impl<S> Layer<S> for MaintenanceLayer {
    type Service = Maintenance<S>;

    fn layer(&self, inner: S) -> Maintenance<S> {
        Maintenance { maintenance: Arc::clone(&self.0), inner }
    }
}

/// Service that refuses all requests while the gateway drains or is under maintenance.
#[derive(Clone, Debug)]
pub(crate) struct Maintenance<S> {
    maintenance: Arc<MaintenanceSwitch>,
    inner: S,
}

impl<S, Q> Service<Q> for Maintenance<S>
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
        match self.maintenance.refusal() {
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
        let maintenance = MaintenanceSwitch::default();
        assert!(maintenance.refusal().is_none());
        maintenance.set_maintenance(true);
        assert_eq!(maintenance.refusal().map(|refusal| refusal.reason), Some(Reason::Maintenance));
        maintenance.drain();
        let refusal = maintenance.refusal().expect("shut");
        assert_eq!(refusal.reason, Reason::Draining);
        maintenance.set_maintenance(false);
        assert!(maintenance.refusal().is_some(), "a drain is not taken back");
    }

    #[test]
    fn a_crowd_at_a_shut_door_is_told_different_times() {
        let (closed, draining) = (MaintenanceSwitch::default(), MaintenanceSwitch::default());
        closed.set_maintenance(true);
        draining.drain();
        for maintenance in [closed, draining] {
            let told: HashSet<_> = (0..60).filter_map(|_| maintenance.refusal()?.retry_after).collect();
            assert_eq!(told.len(), 60);
            assert!(told.iter().all(|told| (RETRY_AFTER..=RETRY_AFTER * 3 / 2).contains(told)));
        }
    }
}
