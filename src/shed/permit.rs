//! The right to occupy a worker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;

use crate::refusal::Refusal;
use crate::request::Ending;

use super::ask::{Ask, Failure};
use super::gate::Grant;
use super::handle::GateHandle;
use super::seat::SeatId;
use super::waiter::{Desk, Waiter};

/// Tokens of one stream are reported to the gate at most this often, so that a stream takes the pool's lock ten
/// times a second and not once per token.
pub const REPORT_EVERY: Duration = Duration::from_millis(100);

/// The number of a seat that no gate gives.
const NO_SEAT: u64 = u64::MAX;

/// A seat at a worker. Clones share it; the last drop frees it, exactly once. Where the client left a whole answer before it
/// came, the worker may work on: then the seat is free when that should be over.
///
/// What happens to the request is told through it. A permit whose ending nobody told was left by its client.
#[derive(Clone)]
pub struct Permit(Arc<Hold>);

struct Hold {
    gate: GateHandle,
    seat: AtomicU64,
    yields: bool,
    sequences: u32,
    waited: Duration,
    told: Mutex<Told>,
    seen: AtomicU64,
    report_at: AtomicU64,
}

struct Told {
    worker: Arc<str>,
    ending: Ending,
    /// The answer has begun to come.
    begun: bool,
}

impl Permit {
    pub(super) fn new(gate: GateHandle, grant: Grant) -> Self {
        Self(Arc::new(Hold {
            gate,
            seat: AtomicU64::new(grant.seat.0),
            yields: grant.yields,
            sequences: grant.sequences,
            waited: grant.waited,
            told: Mutex::new(Told { worker: grant.worker, ending: Ending::ClientGone, begun: false }),
            seen: AtomicU64::new(0),
            report_at: AtomicU64::new(0),
        }))
    }

    /// The id of the worker this permit is for, now.
    #[must_use]
    pub fn worker(&self) -> Arc<str> {
        Arc::clone(&self.0.told.lock().worker)
    }

    /// How long the request waited for its seat.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.0.waited
    }

    /// The request was sent to the worker; again after [`Permit::reassign`].
    pub fn dispatched(&self) {
        self.0.gate.with(|state, now| state.gate.dispatched(self.0.seat(), now));
    }

    /// The first content arrived. Told for event streams only: other answers say nothing about TTFT.
    pub fn first_token(&self) {
        self.0.gate.with(|state, now| state.gate.first_token(self.0.seat(), now));
    }

    /// `seen_total` output tokens have arrived in all. Cheap enough to be told for every chunk.
    pub fn tokens(&self, seen_total: u64) {
        let hold = &*self.0;
        hold.seen.fetch_max(seen_total, Ordering::Relaxed);
        let now = hold.gate.now();
        if now.0 >= hold.report_at.load(Ordering::Relaxed) {
            hold.report_at.store((now + REPORT_EVERY).0, Ordering::Relaxed);
            hold.gate.with(|state, now| state.gate.tokens(hold.seat(), seen_total, now));
        }
    }

    /// Nothing has come from the worker for a while, and the request still waits for it. True when the worker has fallen
    /// silent and the request, which has got nothing yet, should go elsewhere.
    #[must_use]
    pub fn awaits(&self) -> bool {
        self.0.gate.with(|state, now| state.gate.awaits(self.0.seat(), now))
    }

    /// So many of the request's sequences have ended: their places are free, except the last one's, which is when the
    /// permit is dropped.
    pub fn finished(&self, ended: u32) {
        if self.0.sequences > 1 {
            self.0.gate.with(|state, now| state.gate.finished(self.0.seat(), ended, now));
        }
    }

    /// How the request ended. The seat is free when the last clone is dropped.
    pub fn end(&self, ending: Ending) {
        self.0.told.lock().ending = ending;
    }

    /// The worker failed the request; the seat stays until it is moved or dropped.
    pub fn worker_failed(&self, kind: Failure) {
        self.0.gate.with(|state, now| state.gate.worker_failed(self.0.seat(), kind, now));
    }

    /// The request, which failed at `worker`, succeeded at another.
    pub fn convict(&self, worker: &str, failure: Failure) {
        self.0.gate.with(|state, now| state.gate.convict(worker, failure, now));
    }

    /// The request failed at `worker` and nowhere else, and will not be sent again.
    pub fn suspect(&self, worker: &str, failure: Failure) {
        self.0.gate.with(|state, now| state.gate.suspect(self.0.seat(), worker, failure, now));
    }

    /// The answer is an error, whoever's: how fast it came says nothing of the worker.
    pub fn answered_with_error(&self) {
        self.0.gate.with(|state, _| state.gate.answered_with_error(self.0.seat()));
    }

    /// Whether the seat may be taken away before the answer begins.
    #[must_use]
    pub fn yields(&self) -> bool {
        self.0.yields
    }

    /// The answer is about to be handed to the client: the seat will not be taken away any more. False when it just
    /// was; then see [`Permit::waiter`].
    #[must_use]
    pub fn keep(&self) -> bool {
        self.0.told.lock().begun = true;
        !self.0.yields || self.0.gate.with(|state, _| state.gate.keep(self.0.seat()))
    }

    /// Ready when the seat was taken away: the request must leave its worker at once. Only a permit that
    /// [yields](Permit::yields) can lose its seat, and only before the answer begins.
    pub fn poll_displaced(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.0.yields {
            return Poll::Pending;
        }
        let waker = cx.waker().clone();
        let (gone, _replaced) = self.0.gate.with(|state, _| {
            let seat = self.0.seat();
            if state.displaced.contains_key(&seat) {
                (true, None)
            } else {
                (false, state.watchers.insert(seat, waker))
            }
        });
        if gone { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The place in the queue that the request has instead of a seat that was taken away.
    ///
    /// # Errors
    /// `overloaded` when there was no place for it either.
    pub fn waiter(&self) -> Result<Option<Waiter>, Refusal> {
        let event = self.0.gate.with(|state, _| state.displaced.remove(&self.0.seat()));
        let Some(event) = event else { return Ok(None) };
        let (id, expires_at) = event.next?;
        Ok(Some(Waiter::new(self.0.gate.clone(), id, expires_at)))
    }

    /// Gives the seat up and waits for another, after a failure of the worker that left no other with room. `None`:
    /// there is no other worker, and the seat stays.
    ///
    /// # Errors
    /// As [`GateHandle::ask`]: there is no hope of another in time.
    pub fn resubmit(&self, ask: &Ask) -> Result<Option<Waiter>, Refusal> {
        let next = self.0.gate.with(|state, now| {
            let next = state.gate.resubmit(self.0.seat(), ask, now);
            if let Some(Ok((id, _))) = next {
                state.desks.insert(id, Desk::default());
            }
            next
        });
        let Some(place) = next else { return Ok(None) };
        let (id, expires_at) = place?;
        Ok(Some(Waiter::new(self.0.gate.clone(), id, expires_at)))
    }

    /// Takes over the seat of `other`, after its own was taken away.
    pub fn take_over(&self, other: &Permit) {
        let seat = other.0.seat.swap(NO_SEAT, Ordering::Relaxed);
        self.0.seat.store(seat, Ordering::Relaxed);
        let worker = other.worker();
        self.0.told.lock().worker = worker;
    }

    /// Moves the seat to another worker that has not had it yet and has room, now or never: its id, or `None`, and
    /// the seat stays where it is.
    #[must_use]
    pub fn reassign(&self) -> Option<Arc<str>> {
        let worker = self.0.gate.with(|state, now| state.gate.reassign(self.0.seat(), now))?;
        self.0.told.lock().worker = Arc::clone(&worker);
        Some(worker)
    }
}

impl Hold {
    fn seat(&self) -> SeatId {
        SeatId(self.seat.load(Ordering::Relaxed))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let seat = self.seat();
        let Told { ending, begun, .. } = *self.told.get_mut();
        let seen = *self.seen.get_mut();
        let displaced = self.gate.with(|state, now| {
            match ending {
                Ending::ClientGone if !begun => state.gate.abandon(seat, seen, now),
                _ => state.gate.release(seat, ending, seen, now),
            }
            state.watchers.remove(&seat);
            state.displaced.remove(&seat)
        });
        // It was sent to the queue and never knew.
        if let Some(Ok((id, expires_at))) = displaced.map(|event| event.next) {
            drop(Waiter::new(self.gate.clone(), id, expires_at));
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("seat", &self.0.seat()).field("worker", &self.worker()).finish()
    }
}
