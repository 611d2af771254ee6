//! The record of one request, from its first byte to its last.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Nanos;
use crate::refusal::{Reason, Refusal};
use crate::request::{Caller, Kind, RequestCost, Trace};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ending {
    /// The request has not ended, or the client left before any other ending.
    ClientGone = 0,
    /// The whole answer was sent.
    Complete = 1,
    /// The gateway refused the request.
    Refused = 2,
    /// The worker could not be reached, or it failed.
    WorkerFailed = 3,
    /// The worker was silent for too long, or exceeded the total timeout.
    TimedOut = 4,
}

impl From<Reason> for Ending {
    /// Returns the ending of a request that is refused or breaks off for this reason.
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::UpstreamTimeout => Self::TimedOut,
            Reason::UpstreamBroke | Reason::UpstreamUnreachable => Self::WorkerFailed,
            _ => Self::Refused,
        }
    }
}

impl Ending {
    /// Every ending; `ending as usize` is the index.
    pub const ALL: [Self; 5] =
        [Self::ClientGone, Self::Complete, Self::Refused, Self::WorkerFailed, Self::TimedOut];

    /// Returns the value of the metric label `outcome`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientGone => "client_gone",
            Self::Complete => "complete",
            Self::Refused => "refused",
            Self::WorkerFailed => "worker_failed",
            Self::TimedOut => "timed_out",
        }
    }
}

/// The side that caused an error reported in a worker's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Blame {
    /// The client: its request cannot be fulfilled.
    Client = 1,
    /// The worker: it failed on the request.
    Worker = 2,
}

/// Bytes of a model's name kept for logs and spans; the client chooses the name.
const LONGEST_MODEL: usize = 128;

/// Summary of a request for logs and spans. Of the prompt it has only the length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedFields {
    /// The kind of call.
    pub kind: Kind,
    /// The model; its name is cut after 128 bytes.
    pub model: Option<Arc<str>>,
    /// Estimated prompt tokens.
    pub prompt_tokens: u64,
    /// The client's bound on output tokens per sequence.
    pub max_tokens: Option<u64>,
    /// `true` if a stream was asked for.
    pub stream: bool,
}

impl From<&RequestCost> for LoggedFields {
    fn from(request_cost: &RequestCost) -> Self {
        let short = |model: &Arc<str>| match model.get(..model.floor_char_boundary(LONGEST_MODEL)) {
            Some(start) if start.len() < model.len() => start.into(),
            _ => Arc::clone(model),
        };
        Self {
            kind: request_cost.kind,
            model: request_cost.model.as_ref().map(short),
            prompt_tokens: request_cost.prompt_tokens,
            max_tokens: request_cost.max_tokens,
            stream: request_cost.stream,
        }
    }
}

/// A fallback that took a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FallbackTaken {
    /// Pattern of the settings' entry that the requested model matches.
    pub entry: Arc<str>,
    /// The model that took over, as the settings name it.
    pub to: Arc<str>,
    /// Why: `overloaded`, `no_worker` or `failed`.
    pub reason: &'static str,
    /// The pool that took the request.
    pub pool: Arc<str>,
    /// The name under which that pool serves the model.
    pub served: Arc<str>,
}

/// The record of one request, shared by the layers and the response body's guards.
///
/// Every field has one writer. A read during the request gives a snapshot. The guards read it when
/// the body is dropped, which is after the last write.
#[derive(Debug)]
pub struct RequestRecord {
    /// The request id, as sent to the worker and back to the client.
    pub id: Arc<str>,
    /// When the request's head was read.
    pub started: Nanos,
    /// The trace context, if the request has one.
    pub trace: Option<Trace>,
    received: AtomicU64,
    dispatched: AtomicU64,
    first_token: AtomicU64,
    queued: AtomicU64,
    output_tokens: AtomicU64,
    usage_prompt: AtomicU64,
    usage_output: AtomicU64,
    streamed: AtomicBool,
    counted: AtomicBool,
    over: AtomicBool,
    erred: AtomicU8,
    ending: AtomicU8,
    worker: OnceLock<Arc<str>>,
    pool: OnceLock<Arc<str>>,
    served: OnceLock<Arc<str>>,
    /// At most one for each fallback of the longest chain.
    fallbacks: Mutex<Vec<FallbackTaken>>,
    route: OnceLock<Arc<str>>,
    caller: OnceLock<Caller>,
    asked: OnceLock<LoggedFields>,
    reason: OnceLock<Reason>,
    cause: OnceLock<Cow<'static, str>>,
}

const UNKNOWN: u64 = u64::MAX;

fn known(cell: &AtomicU64) -> Option<u64> {
    match cell.load(Ordering::Acquire) {
        UNKNOWN => None,
        value => Some(value),
    }
}

impl RequestRecord {
    /// Opens the record of a request whose head was read at `started`.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>, started: Nanos) -> Self {
        Self {
            id: id.into(),
            started,
            trace: None,
            received: AtomicU64::new(UNKNOWN),
            dispatched: AtomicU64::new(UNKNOWN),
            first_token: AtomicU64::new(UNKNOWN),
            queued: AtomicU64::new(0),
            output_tokens: AtomicU64::new(0),
            usage_prompt: AtomicU64::new(UNKNOWN),
            usage_output: AtomicU64::new(UNKNOWN),
            streamed: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            over: AtomicBool::new(false),
            erred: AtomicU8::new(0),
            ending: AtomicU8::new(Ending::ClientGone as u8),
            worker: OnceLock::new(),
            pool: OnceLock::new(),
            served: OnceLock::new(),
            fallbacks: Mutex::default(),
            route: OnceLock::new(),
            caller: OnceLock::new(),
            asked: OnceLock::new(),
            reason: OnceLock::new(),
            cause: OnceLock::new(),
        }
    }

    /// Sets the trace context.
    #[must_use]
    pub fn in_trace(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
    }

    /// Records the arrival of the body's last byte (by `request_cost`). TTFT starts here.
    pub fn set_received(&self, now: Nanos) {
        self.received.store(now.0, Ordering::Release);
    }

    /// Returns when the body was complete; before that, when the head was read.
    #[must_use]
    pub fn received(&self) -> Nanos {
        known(&self.received).map_or(self.started, Nanos)
    }

    /// Records the wait for a permit (by `shed`).
    pub fn set_queued(&self, wait: Duration) {
        self.queued.store(crate::clock::saturating_nanos(wait), Ordering::Release);
    }

    /// Returns the wait for a permit.
    #[must_use]
    pub fn queued(&self) -> Duration {
        Duration::from_nanos(self.queued.load(Ordering::Acquire))
    }

    /// Records the dispatch to a worker (by `upstream`, again at each retry).
    pub fn set_dispatched(&self, now: Nanos) {
        self.dispatched.store(now.0, Ordering::Release);
    }

    /// Returns the time of the last dispatch to a worker.
    #[must_use]
    pub fn dispatched(&self) -> Option<Nanos> {
        known(&self.dispatched).map(Nanos)
    }

    /// Records the worker of the committed answer, or the last one that failed (by `upstream`).
    pub fn set_worker(&self, id: &Arc<str>) {
        // There is one commit; a second write would be a caller's bug, and changes nothing.
        self.worker.get_or_init(|| Arc::clone(id));
    }

    /// Returns the worker that answered, or whose failure ended the request.
    #[must_use]
    pub fn worker(&self) -> Option<&Arc<str>> {
        self.worker.get()
    }

    /// Records the pool (by `shed`).
    pub fn set_pool(&self, pool: &Arc<str>) {
        self.pool.get_or_init(|| Arc::clone(pool));
    }

    /// Returns the pool that serves the request: after a fallback, that of the last one.
    #[must_use]
    pub fn pool(&self) -> Option<Arc<str>> {
        let taken = self.fallbacks.lock().last().map(|taken| Arc::clone(&taken.pool));
        taken.or_else(|| self.pool.get().cloned())
    }

    /// Records the name under which the model is served, if it is not the requested one (by
    /// `request_cost`).
    pub fn set_served(&self, model: &Arc<str>) {
        self.served.get_or_init(|| Arc::clone(model));
    }

    /// Returns the name under which the model is served, if it is not the requested one.
    #[must_use]
    pub fn served(&self) -> Option<Arc<str>> {
        let taken = self.fallbacks.lock().last().map(|taken| Arc::clone(&taken.served));
        taken.or_else(|| self.served.get().cloned())
    }

    /// Records that a fallback took the request (by `shed` and `upstream`).
    pub fn add_fallback(&self, taken: FallbackTaken) {
        self.fallbacks.lock().push(taken);
    }

    /// Returns the fallbacks that took the request, one after the other.
    #[must_use]
    pub fn fallbacks(&self) -> Vec<FallbackTaken> {
        self.fallbacks.lock().clone()
    }

    /// Records the matched route (by `request_cost`): a label from a bounded set.
    pub fn set_route(&self, route: &Arc<str>) {
        self.route.get_or_init(|| Arc::clone(route));
    }

    /// Returns the matched route.
    #[must_use]
    pub fn route(&self) -> Option<&Arc<str>> {
        self.route.get()
    }

    /// Records the caller (by `identify`).
    pub fn set_caller(&self, caller: &Caller) {
        self.caller.get_or_init(|| caller.clone());
    }

    /// Returns the caller.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.get()
    }

    /// Records a summary of the request (by `request_cost`).
    pub fn set_asked(&self, request_cost: &RequestCost) {
        self.asked.get_or_init(|| request_cost.into());
    }

    /// Returns the summary of the request.
    #[must_use]
    pub fn asked(&self) -> Option<&LoggedFields> {
        self.asked.get()
    }

    /// Records the reason of the end (by `rescue` before the commit, then by the innermost body).
    pub fn set_reason(&self, reason: Reason) {
        self.reason.get_or_init(|| reason);
    }

    /// Returns why the request was refused or broke off.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason.get().copied()
    }

    /// Records what a worker did wrong, in one sentence (by the writers of the reason).
    pub fn set_cause(&self, refusal: &Refusal) {
        if Ending::from(refusal.reason) != Ending::Refused {
            self.cause.get_or_init(|| refusal.message.clone());
        }
    }

    /// Returns what a worker did wrong, if that ended the request.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.get().map(Cow::as_ref)
    }

    /// Records that the answer is a stream (by `upstream`).
    pub fn set_streamed(&self) {
        self.streamed.store(true, Ordering::Release);
    }

    /// Returns `true` if the answer is a stream. Only streams give TTFT and ITL samples.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        self.streamed.load(Ordering::Acquire)
    }

    /// Records that the tokens of the answer are counted as they arrive (by `upstream`).
    pub fn set_tokens_counted(&self) {
        self.counted.store(true, Ordering::Release);
    }

    /// Returns `true` if tokens are counted as they arrive: then all tokens sent are counted.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.counted.load(Ordering::Acquire)
    }

    /// Records that the stream sent its end mark (by the response observer).
    pub fn set_end_mark(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Returns `true` if the stream sent its end mark.
    #[must_use]
    pub fn has_end_mark(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Records an error in the answer (by the response observer). The last call counts.
    pub fn set_error(&self, blame: Blame) {
        self.erred.store(blame as u8, Ordering::Release);
    }

    /// Forgets the error of an answer in whose place another is sent.
    pub fn forget_error(&self) {
        self.erred.store(0, Ordering::Release);
    }

    /// Returns the side that caused the error in the answer, if there is one.
    #[must_use]
    pub fn error(&self) -> Option<Blame> {
        match self.erred.load(Ordering::Acquire) {
            1 => Some(Blame::Client),
            2 => Some(Blame::Worker),
            _ => None,
        }
    }

    /// Records the first content (by the response observer). Later calls change nothing.
    pub fn set_first_token(&self, now: Nanos) {
        if self.first_token.load(Ordering::Acquire) == UNKNOWN {
            self.first_token.store(now.0, Ordering::Release);
        }
    }

    /// Returns when the first content arrived.
    #[must_use]
    pub fn first_token(&self) -> Option<Nanos> {
        known(&self.first_token).map(Nanos)
    }

    /// Returns the TTFT: from the body's last byte to the first content, with all waits.
    #[must_use]
    pub fn ttft(&self) -> Option<Duration> {
        self.first_token().map(|first| first.since(self.received()))
    }

    /// Records the output tokens counted in the stream so far (by the response observer).
    pub fn set_output_tokens(&self, seen: u64) {
        self.output_tokens.store(seen, Ordering::Release);
    }

    /// Returns the output tokens: as the worker reported, or else as counted.
    #[must_use]
    pub fn output_tokens(&self) -> u64 {
        known(&self.usage_output).unwrap_or_else(|| self.output_tokens.load(Ordering::Acquire))
    }

    /// Records the usage that the worker reported, in tokens (by the response observer).
    pub fn set_usage(&self, prompt: u64, output: u64) {
        self.usage_prompt.store(prompt.min(UNKNOWN - 1), Ordering::Release);
        self.usage_output.store(output.min(UNKNOWN - 1), Ordering::Release);
    }

    /// Returns prompt and output tokens for usage totals: as reported, or else as estimated and as
    /// counted. The estimate counts only after content or a whole answer without an error.
    #[must_use]
    pub fn tokens(&self) -> (u64, u64) {
        let (prompt, output) = self.usage().unwrap_or((0, self.output_tokens()));
        let began = self.first_token().is_some();
        let whole = self.ending() == Ending::Complete && self.error().is_none();
        let estimated = self.asked().map_or(0, |asked| asked.prompt_tokens);
        if prompt > 0 || !(began || whole) { (prompt, output) } else { (estimated, output) }
    }

    /// Returns prompt and output tokens as the worker reported them.
    #[must_use]
    pub fn usage(&self) -> Option<(u64, u64)> {
        known(&self.usage_prompt).zip(known(&self.usage_output))
    }

    /// Records how the request ended (by the innermost body, or by `rescue`).
    pub fn set_ending(&self, ending: Ending) {
        self.ending.store(ending as u8, Ordering::Release);
    }

    /// Returns how the request ended; [`Ending::ClientGone`] by default.
    #[must_use]
    pub fn ending(&self) -> Ending {
        let index = usize::from(self.ending.load(Ordering::Acquire));
        Ending::ALL.get(index).copied().unwrap_or(Ending::ClientGone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttft_runs_from_the_last_byte_of_the_body() {
        let record = RequestRecord::new("r1", Nanos::from_millis(100));
        assert_eq!(record.ttft(), None);
        record.set_received(Nanos::from_millis(400));
        record.set_first_token(Nanos::from_millis(450));
        record.set_first_token(Nanos::from_millis(900));
        assert_eq!(record.ttft(), Some(Duration::from_millis(50)));
    }

    #[test]
    fn reported_usage_overrules_the_count() {
        let record = RequestRecord::new("r1", Nanos::ZERO);
        record.set_output_tokens(7);
        assert_eq!(record.output_tokens(), 7);
        record.set_usage(11, 9);
        assert_eq!((record.output_tokens(), record.usage()), (9, Some((11, 9))));
    }

    #[test]
    fn the_last_fallback_is_what_serves() {
        let record = RequestRecord::new("r1", Nanos::ZERO);
        assert_eq!((record.pool(), record.served()), (None, None));
        record.set_pool(&"own".into());
        record.set_served(&"qwen3".into());
        for pool in ["second", "third"] {
            let served = format!("model of {pool}").into();
            let (entry, to) = ("a".into(), "b".into());
            record.add_fallback(FallbackTaken { entry, to, reason: "failed", pool: pool.into(), served });
        }
        assert_eq!(record.pool().as_deref(), Some("third"));
        assert_eq!(record.served().as_deref(), Some("model of third"));
        assert_eq!(record.fallbacks().len(), 2);
    }

    #[test]
    fn a_long_name_of_a_model_is_cut_short() {
        for (model, kept) in [("qwen", 4), (&*"é".repeat(100), 128), (&*"€".repeat(100), 126)] {
            let request_cost = RequestCost { model: Some(model.into()), ..RequestCost::path() };
            assert_eq!(LoggedFields::from(&request_cost).model.map(|model| model.len()), Some(kept));
        }
    }

    #[test]
    fn a_request_nobody_ended_was_left_by_its_client() {
        let record = RequestRecord::new("r1", Nanos::ZERO);
        assert_eq!(record.ending(), Ending::ClientGone);
        for (index, ending) in Ending::ALL.into_iter().enumerate() {
            record.set_ending(ending);
            assert_eq!((record.ending(), ending as usize), (ending, index));
        }
    }
}
