//! Calls that take no permit: how many of them each worker has at once.
//!
//! A gate protects a worker from what it decodes. These calls decode nothing, but each costs some
//! time of a processor, so a worker gets few of them at once; the others are refused at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::refusal::{Reason, Refusal, with_jitter};

/// `Retry-After` when no worker has a place: such a call takes milliseconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Calls without a permit, by worker. It has an entry only for workers that have some.
#[derive(Clone, Debug, Default)]
pub(crate) struct BesideCounts(Arc<Mutex<HashMap<Arc<str>, u32>>>);

/// Place of a call at a worker; dropping it frees the place.
#[derive(Debug)]
pub(crate) struct BesidePlace {
    counts: BesideCounts,
    worker: Arc<str>,
}

impl BesideCounts {
    /// Takes a place at the first of `workers` that has less than `most` such calls. Returns `None`
    /// if there is no worker.
    ///
    /// # Errors
    /// `overloaded` if all have as many.
    pub(crate) fn enter<'w>(
        &self,
        workers: impl Iterator<Item = &'w Arc<str>>,
        most: u32,
    ) -> Result<Option<BesidePlace>, Refusal> {
        let mut counts = self.0.lock();
        let mut any = false;
        for worker in workers {
            any = true;
            let count = counts.get(worker).copied().unwrap_or(0);
            if count < most {
                counts.insert(Arc::clone(worker), count + 1);
                return Ok(Some(BesidePlace { counts: self.clone(), worker: Arc::clone(worker) }));
            }
        }
        if !any {
            return Ok(None);
        }
        let message = format!("Each worker has {most} calls of this kind already.");
        Err(Refusal::new(Reason::Overloaded, message).with_retry_after(with_jitter(RETRY_AFTER)))
    }
}

impl BesidePlace {
    pub(crate) const fn worker(&self) -> &Arc<str> {
        &self.worker
    }
}

impl Drop for BesidePlace {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        if let Some(count) = counts.get_mut(&self.worker) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.worker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_few_and_a_place_is_free_again_when_its_call_ends() {
        let counts = BesideCounts::default();
        let workers: [Arc<str>; 2] = ["w1".into(), "w2".into()];
        let enter = || counts.enter(workers.iter(), 2).map(|place| place.expect("there are workers"));
        let mut held: Vec<_> = (0..4).map(|_| enter().unwrap()).collect();
        let at: Vec<&str> = held.iter().map(|place| &**place.worker()).collect();
        assert_eq!(at, ["w1", "w1", "w2", "w2"]);
        let refusal = enter().unwrap_err();
        assert!(refusal.reason == Reason::Overloaded && refusal.retry_after >= Some(RETRY_AFTER));
        held.remove(1);
        assert_eq!(&**enter().unwrap().worker(), "w1");
        drop(held);
        assert!(counts.0.lock().is_empty());
        assert!(counts.enter([].iter(), 2).unwrap().is_none());
    }
}
