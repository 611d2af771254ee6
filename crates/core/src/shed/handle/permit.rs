//! Permits: the right of a request to use a worker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;

use crate::request::Ending;
use crate::shed::ask::WorkerFailure;
use crate::shed::gate::GrantedPermit;
use crate::shed::permit_record::PermitId;
use crate::shed::stream_activity::REPORT_EVERY;

use super::shared::SharedGate;

/// Permit id that no gate assigns.
const NO_SEAT: u64 = u64::MAX;

/// A place at a worker. Clones share it; the last drop frees it, exactly once. If the client left
/// before a non-streamed answer came, the worker may work on: then it is freed when that should be
/// over. The request's progress is reported through it; without a reported ending, the client left.
#[derive(Clone)]
pub struct Permit(Arc<PermitInner>);

struct PermitInner {
    gate: Arc<SharedGate>,
    permit: AtomicU64,
    yields: bool,
    sequences: u32,
    waited: Duration,
    state: Mutex<PermitState>,
    seen: AtomicU64,
    /// Prompt tokens that the worker counted; 0 until it tells.
    prompt: AtomicU64,
    report_at: AtomicU64,
}

struct PermitState {
    worker: Arc<str>,
    ending: Ending,
    begun: bool,
}

impl Permit {
    pub(super) fn new(gate: Arc<SharedGate>, grant: GrantedPermit) -> Self {
        Self(Arc::new(PermitInner {
            gate,
            permit: AtomicU64::new(grant.permit.0),
            yields: grant.yields,
            sequences: grant.sequences,
            waited: grant.waited,
            state: Mutex::new(PermitState { worker: grant.worker, ending: Ending::ClientGone, begun: false }),
            seen: AtomicU64::new(0),
            prompt: AtomicU64::new(0),
            report_at: AtomicU64::new(0),
        }))
    }

    /// Returns the gate that granted it.
    pub(super) fn gate(&self) -> &Arc<SharedGate> {
        &self.0.gate
    }

    /// Returns the permit's id at its gate.
    pub(super) fn id(&self) -> PermitId {
        self.0.permit()
    }

    /// Returns the id of the current worker.
    #[must_use]
    pub fn worker(&self) -> Arc<str> {
        Arc::clone(&self.0.state.lock().worker)
    }

    /// Returns how long the request waited for its permit.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.0.waited
    }

    /// Records that the request was sent to the worker; call it again after [`Permit::reassign`].
    pub fn dispatched(&self) {
        self.0.gate.with(|state, now| state.gate.dispatched(self.0.permit(), now));
    }

    /// Records that the request, just dispatched, waits for the one process of its worker that has its
    /// session, for at most `wait`. This is no sign of load: the others may be free.
    pub fn waits_for_session(&self, wait: Duration) {
        self.0.gate.with(|state, _| state.gate.waits_for_session(self.0.permit(), wait));
    }

    /// Records that this wait took `waited`. Its time to the first token counts from then on.
    pub fn session_begun_after(&self, waited: Duration) {
        self.0.gate.with(|state, now| state.gate.session_begun_after(self.0.permit(), waited, now));
    }

    /// Records that the answer is a stream, though the request did not say so: large bodies may say
    /// it after they were sent.
    pub fn answered_as_stream(&self) {
        self.0.gate.with(|state, _| state.gate.answered_as_stream(self.0.permit()));
    }

    /// Records the first content. For event streams only: other answers say nothing about TTFT.
    pub fn first_token(&self) {
        self.0.gate.with(|state, now| state.gate.first_token(self.0.permit(), now));
    }

    /// Records `seen_total` output tokens so far. Cheap enough to call for every chunk.
    pub fn tokens(&self, seen_total: u64) {
        let hold = &*self.0;
        hold.seen.fetch_max(seen_total, Ordering::Relaxed);
        let now = hold.gate.now();
        if now.0 >= hold.report_at.load(Ordering::Relaxed) {
            hold.report_at.store((now + REPORT_EVERY).0, Ordering::Relaxed);
            hold.gate.with(|state, now| state.gate.tokens(hold.permit(), seen_total, now));
        }
    }

    /// Records that the worker had `tokens` tokens of the prompt cached, as it reports.
    pub fn cached(&self, tokens: u64) {
        self.0.gate.with(|state, _| state.gate.report_cached(self.0.permit(), tokens));
    }

    /// Records the number of prompt tokens that the worker counted.
    pub fn prompt_counted(&self, prompt: u64) {
        self.0.prompt.store(prompt, Ordering::Relaxed);
    }

    /// Reports that nothing has come from the worker for a while. Returns `true` if the worker is
    /// silent and the request, which has got nothing yet, should go elsewhere.
    #[must_use]
    pub fn report_waiting(&self) -> bool {
        self.0.gate.with(|state, now| state.gate.awaits(self.0.permit(), now))
    }

    /// Records that `ended` sequences of the request have ended. Their places are free, except the
    /// last one's: it is freed when the permit is dropped.
    pub fn finished(&self, ended: u32) {
        if self.0.sequences > 1 {
            self.0.gate.with(|state, now| state.gate.finished(self.0.permit(), ended, now));
        }
    }

    /// Records how the request ended. The last drop frees the place.
    pub fn end(&self, ending: Ending) {
        self.0.state.lock().ending = ending;
    }

    /// Records that the worker failed the request; the permit stays until it is moved or dropped.
    pub fn worker_failed(&self, kind: WorkerFailure) {
        self.0.gate.with(|state, now| state.gate.worker_failed(self.0.permit(), kind, now));
    }

    /// Records that the request failed at `worker` and succeeded at another.
    pub fn convict(&self, worker: &str, failure: WorkerFailure) {
        self.0.gate.with(|state, now| state.gate.convict(worker, failure, now));
    }

    /// Records that the request failed only at `worker` and will not be sent again.
    pub fn suspect(&self, worker: &str, failure: WorkerFailure) {
        self.0.gate.with(|state, now| state.gate.suspect(self.0.permit(), worker, failure, now));
    }

    /// Records an error answer, of worker or caller: its speed says nothing about the worker.
    pub fn answered_with_error(&self) {
        self.0.gate.with(|state, _| state.gate.answered_with_error(self.0.permit()));
    }

    /// Returns `true` if the permit may be revoked before the answer begins.
    #[must_use]
    pub fn yields(&self) -> bool {
        self.0.yields
    }

    /// Makes the permit irrevocable before the answer goes to the client. Returns `false` if it was
    /// just revoked; then see [`Permit::waiter`].
    #[must_use]
    pub fn make_irrevocable(&self) -> bool {
        self.0.state.lock().begun = true;
        !self.0.yields || self.0.gate.with(|state, _| state.gate.keep(self.0.permit()))
    }

    /// Is ready when the permit was revoked: the request must leave its worker at once. Only a
    /// permit that [yields](Permit::yields) can be revoked, and only before the answer begins.
    pub fn poll_displaced(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.0.yields {
            return Poll::Pending;
        }
        let gone = self.0.gate.poll_displaced(self.0.permit(), cx.waker());
        if gone { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes over the permit of `other`, after its own was revoked.
    pub fn take_over(&self, other: &Permit) {
        let permit = other.0.permit.swap(NO_SEAT, Ordering::Relaxed);
        self.0.permit.store(permit, Ordering::Relaxed);
        let worker = other.worker();
        self.0.state.lock().worker = worker;
    }

    /// Moves the permit to another worker that has not had the request and has room now. Returns
    /// the worker's id; `None` if there is none, and the permit stays where it is.
    #[must_use]
    pub fn reassign(&self) -> Option<Arc<str>> {
        let worker = self.0.gate.with(|state, now| state.gate.reassign(self.0.permit(), now))?;
        self.0.state.lock().worker = Arc::clone(&worker);
        Some(worker)
    }
}

impl PermitInner {
    fn permit(&self) -> PermitId {
        PermitId(self.permit.load(Ordering::Relaxed))
    }
}

impl Drop for PermitInner {
    fn drop(&mut self) {
        let permit = self.permit();
        let PermitState { ending, begun, .. } = *self.state.get_mut();
        let (seen, prompt) = (*self.seen.get_mut(), *self.prompt.get_mut());
        let displaced = self.gate.with(|state, now| {
            state.gate.prompt_counted(permit, prompt);
            match ending {
                Ending::ClientGone if !begun => state.gate.abandon(permit, seen, now),
                _ => state.gate.release(permit, ending, seen, now),
            }
            state.forget_permit(permit)
        });
        // The permit was revoked and its request queued, but the holder never learned of it.
        if let Some(Ok((id, _))) = displaced.map(|event| event.next) {
            self.gate.leave(id);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("id", &self.0.permit()).field("worker", &self.worker()).finish()
    }
}
