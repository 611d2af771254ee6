//! Falling back to the pool of another model.

use std::sync::Arc;

use crate::clock::Nanos;
use crate::models::{FallbackReason, ModelRoute};
use crate::refusal::Refusal;
use crate::request::FallbackTaken;
use crate::shed::{GateEntry, Permit, PermitRequest, Waiter};

use super::pool::Pool;
use super::snapshot::Fleet;

impl Fleet {
    /// Asks the pools of a route's fallbacks, in order, after the model before them failed for
    /// `reason`. Returns the first permit; `None` if no fallback takes the request.
    ///
    /// The whole chain has one wait, that of a queue, of which `since` is the start. `wait` waits at
    /// one gate. If the future is dropped, the fallback it waits for counts as used.
    pub async fn fall_back<W>(
        &self,
        route: &ModelRoute,
        mut reason: FallbackReason,
        ask: &PermitRequest,
        since: Nanos,
        wait: impl Fn(Waiter) -> W,
    ) -> Option<(Permit, FallbackTaken)>
    where
        W: Future<Output = Result<Permit, Refusal>>,
    {
        let (now, queue_wait) = self.gate_wait();
        let end = since + queue_wait;
        let deadline = Some(ask.deadline.map_or(end, |deadline| deadline.min(end)));
        while let Some(next) = route.next(reason, now) {
            let may_take = |pool: &&Arc<Pool>| ask.external || !pool.is_external();
            let Some(pool) = self.route(Some(next.served())).filter(may_take) else {
                next.undo();
                reason = FallbackReason::NoWorker;
                continue;
            };
            if !route.enter(&pool.name) {
                next.undo();
                continue;
            }
            let outcome = match pool.gate.ask(PermitRequest { deadline, ..ask.clone() }) {
                Ok(GateEntry::Admitted(permit)) => Ok(permit),
                Ok(GateEntry::Waiting(waiter)) => wait(waiter).await,
                Err(refusal) => Err(refusal),
            };
            match outcome {
                Ok(permit) => return Some((permit, next.taken_by(Arc::clone(&pool.name)))),
                Err(refusal) => {
                    next.undo();
                    reason = FallbackReason::of(refusal.reason).unwrap_or(reason);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::fleet::Eligibility;
    use crate::fleet::spec::WorkerSpec;
    use crate::models::{FallbackSpec, ModelSpec, ModelTable};
    use crate::request::{Caller, RequestCost};
    use crate::shed::settings::{GateSettings, LimitSource};

    fn fleet(pools: &[&str], clock: &Clock) -> Fleet {
        let worker = |name: &&str| WorkerSpec {
            id: (*name).into(),
            url: "http://localhost:1".parse().unwrap(),
            pool: (*name).into(),
            model: (*name).into(),
            slots: Some(1),
            kv_tokens: None,
            colour: "blue".into(),
            headers: http::HeaderMap::new(),
            external: None,
            address: None,
            http2: None,
        };
        let settings = GateSettings {
            limit: LimitSource::Slots,
            queue_length: 8,
            queue_wait: Duration::from_millis(250),
            ..GateSettings::default()
        };
        Fleet::new(pools.iter().map(worker).collect(), settings, Eligibility::default(), clock.clone())
    }

    fn route(fallbacks: &[&str]) -> ModelRoute {
        let fallback = fallbacks.iter().map(|model| FallbackSpec {
            model: (*model).into(),
            on: FallbackReason::ALL.to_vec(),
            share: 1.0,
        });
        let spec = ModelSpec { model: "a".into(), serve: Vec::new(), fallback: fallback.collect() };
        let route = ModelTable::new(&[spec]).route(Some("a"), None, 0, true).unwrap();
        assert!(route.enter(&"a".into()));
        route
    }

    fn ask() -> PermitRequest {
        PermitRequest::of(&Caller::new("key:a"), &RequestCost::path())
    }

    /// Returns the result of a future that waits for nobody.
    fn done<T>(future: impl Future<Output = T>) -> T {
        match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(result) => result,
            std::task::Poll::Pending => panic!("somebody waits"),
        }
    }

    /// Waits in vain.
    async fn give_up(waiter: Waiter) -> Result<Permit, Refusal> {
        Err(waiter.give_up())
    }

    #[test]
    fn the_first_pool_with_room_takes_the_request() {
        let clock = Clock::manual(Nanos::from_secs(1));
        let fleet = fleet(&["a", "b", "c"], &clock);
        let fall_back = |fallbacks: &[&str]| {
            let (route, ask) = (route(fallbacks), ask());
            let moved = fleet.fall_back(&route, FallbackReason::Overloaded, &ask, clock.now(), give_up);
            done(moved)
        };
        let (first, taken) = fall_back(&["elsewhere", "b", "c"]).unwrap();
        assert_eq!((&*first.worker(), &*taken.pool, &*taken.to), ("b", "b", "b"));
        assert_eq!((&*taken.entry, taken.reason), ("a", "no_worker"), "nobody serves `elsewhere`");
        let (second, taken) = fall_back(&["b", "c"]).unwrap();
        assert_eq!((&*second.worker(), taken.reason), ("c", "overloaded"));
        assert!(fall_back(&["b", "c"]).is_none());
        drop(first);
        assert_eq!(&*fall_back(&["b", "c"]).unwrap().0.worker(), "b");
    }

    #[test]
    fn what_was_waited_before_counts() {
        let clock = Clock::manual(Nanos::from_secs(1));
        let fleet = fleet(&["a", "b"], &clock);
        let arrived = clock.now();
        let fall_back = |since| {
            let (route, ask) = (route(&["b"]), ask());
            let seen = std::cell::Cell::new(None);
            let wait = |waiter: Waiter| {
                seen.set(Some(waiter.expires_at()));
                give_up(waiter)
            };
            let moved = fleet.fall_back(&route, FallbackReason::Overloaded, &ask, since, wait);
            (done(moved), seen.get())
        };
        let (held, _) = fall_back(arrived);
        assert!(held.is_some());
        clock.advance(Duration::from_millis(100));
        assert_eq!(fall_back(arrived).1, Some(arrived + Duration::from_millis(250)));
        clock.advance(Duration::from_millis(150));
        assert_eq!(fall_back(arrived).1, None, "there is nothing left to wait");
        drop(held);
        let (at_once, _) = fall_back(arrived);
        assert!(at_once.is_some(), "room is used all the same");
        assert!(Arc::ptr_eq(&at_once.unwrap().1.pool, &fleet.pools()[1].name));
    }
}
