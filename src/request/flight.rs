//! The course of one request, from its first byte to its last.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::clock::Nanos;
use crate::refusal::{Reason, Refusal};
use crate::request::{Caller, Demand, Kind, Trace};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ending {
    /// Not yet, or the client went away before anything else was known.
    ClientGone = 0,
    /// The whole answer was handed over.
    Complete = 1,
    /// Refused by the gateway.
    Refused = 2,
    /// The worker could not be reached, or it failed.
    WorkerFailed = 3,
    /// The worker was silent, or took longer than the total limit.
    TimedOut = 4,
}

impl From<Reason> for Ending {
    /// How a request ends that is answered with a refusal, or that breaks off, for this reason.
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

    /// The value of the metric label `outcome`.
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

/// Whose fault an error is that a worker's answer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Blame {
    /// What was asked for cannot be done.
    Client = 1,
    /// The worker could not do it.
    Worker = 2,
}

/// The longest name of a model that is kept for logs and spans: the client chose it.
const LONGEST_MODEL: usize = 128;

/// What a request asked for, as far as people want to read it. Nothing of the prompt but its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The kind of call.
    pub kind: Kind,
    /// The model, its name cut short when it is very long.
    pub model: Option<Arc<str>>,
    /// Estimated prompt tokens.
    pub prompt_tokens: u64,
    /// The client's bound on output tokens per sequence.
    pub max_tokens: Option<u64>,
    /// Whether a stream was asked for.
    pub stream: bool,
}

impl From<&Demand> for Asked {
    fn from(demand: &Demand) -> Self {
        let short = |model: &Arc<str>| match model.get(..model.floor_char_boundary(LONGEST_MODEL)) {
            Some(start) if start.len() < model.len() => start.into(),
            _ => Arc::clone(model),
        };
        Self {
            kind: demand.kind,
            model: demand.model.as_ref().map(short),
            prompt_tokens: demand.prompt_tokens,
            max_tokens: demand.max_tokens,
            stream: demand.stream,
        }
    }
}

/// The course of one request, shared by the layers and the response body's guards.
///
/// Every field has one writer. Reading while the request is under way gives a momentary picture; the guards read it
/// when the body is dropped, which is after the last write.
#[derive(Debug)]
pub struct Flight {
    /// The request id, as sent to the worker and back to the client.
    pub id: Arc<str>,
    /// When the head of the request had been read.
    pub started: Nanos,
    /// Its place in a distributed trace, if it has one.
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
    route: OnceLock<Arc<str>>,
    caller: OnceLock<Caller>,
    asked: OnceLock<Asked>,
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

impl Flight {
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
            route: OnceLock::new(),
            caller: OnceLock::new(),
            asked: OnceLock::new(),
            reason: OnceLock::new(),
            cause: OnceLock::new(),
        }
    }

    /// The same record, of a request at this place in a trace.
    #[must_use]
    pub fn in_trace(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
    }

    /// The last byte of the request's body arrived (written by `demand`). TTFT runs from here.
    pub fn set_received(&self, now: Nanos) {
        self.received.store(now.0, Ordering::Release);
    }

    /// When the body was complete, or the head's time if there is no body.
    #[must_use]
    pub fn received(&self) -> Nanos {
        known(&self.received).map_or(self.started, Nanos)
    }

    /// The request waited this long for a permit (written by `shed`).
    pub fn set_queued(&self, wait: Duration) {
        self.queued.store(crate::clock::saturating_nanos(wait), Ordering::Release);
    }

    /// How long it waited for a permit.
    #[must_use]
    pub fn queued(&self) -> Duration {
        Duration::from_nanos(self.queued.load(Ordering::Acquire))
    }

    /// The request was sent to a worker (written by `upstream`; a retry writes again).
    pub fn set_dispatched(&self, now: Nanos) {
        self.dispatched.store(now.0, Ordering::Release);
    }

    /// When it was last sent to a worker.
    #[must_use]
    pub fn dispatched(&self) -> Option<Nanos> {
        known(&self.dispatched).map(Nanos)
    }

    /// The worker that has it (written by `upstream` at the commit), or that failed it at last.
    pub fn set_worker(&self, id: &Arc<str>) {
        // The first commit is the only one; a second write would be a defect of the caller and changes nothing.
        self.worker.get_or_init(|| Arc::clone(id));
    }

    /// The worker that answered, or whose failure ended the request.
    #[must_use]
    pub fn worker(&self) -> Option<&Arc<str>> {
        self.worker.get()
    }

    /// The pool that serves it (written by `shed`).
    pub fn set_pool(&self, pool: &Arc<str>) {
        self.pool.get_or_init(|| Arc::clone(pool));
    }

    /// The pool that serves it.
    #[must_use]
    pub fn pool(&self) -> Option<&Arc<str>> {
        self.pool.get()
    }

    /// The route it matched, as a bounded label (written by `demand`).
    pub fn set_route(&self, route: &Arc<str>) {
        self.route.get_or_init(|| Arc::clone(route));
    }

    /// The route it matched.
    #[must_use]
    pub fn route(&self) -> Option<&Arc<str>> {
        self.route.get()
    }

    /// Who asks (written by `identify`).
    pub fn set_caller(&self, caller: &Caller) {
        self.caller.get_or_init(|| caller.clone());
    }

    /// Who asks.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.get()
    }

    /// What it asks for (written by `demand`).
    pub fn set_asked(&self, demand: &Demand) {
        self.asked.get_or_init(|| demand.into());
    }

    /// What it asks for.
    #[must_use]
    pub fn asked(&self) -> Option<&Asked> {
        self.asked.get()
    }

    /// Why it was refused, or broke off (written by `rescue` before the commit, by the innermost body after it).
    pub fn set_reason(&self, reason: Reason) {
        self.reason.get_or_init(|| reason);
    }

    /// Why it was refused, or broke off.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason.get().copied()
    }

    /// What a worker did wrong, in a sentence (written where the reason is).
    pub fn set_cause(&self, refusal: &Refusal) {
        if Ending::from(refusal.reason) != Ending::Refused {
            self.cause.get_or_init(|| refusal.message.clone());
        }
    }

    /// What a worker did wrong, if it ended the request.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.get().map(Cow::as_ref)
    }

    /// The answer comes piece by piece as a model writes it (written by `upstream`).
    pub fn set_streamed(&self) {
        self.streamed.store(true, Ordering::Release);
    }

    /// Whether the answer comes piece by piece: only those give TTFT and ITL samples.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        self.streamed.load(Ordering::Acquire)
    }

    /// The tokens of the answer are counted as they come (written by `upstream`).
    pub fn set_counted(&self) {
        self.counted.store(true, Ordering::Release);
    }

    /// Whether the tokens of the answer are counted as they come, so that what was not seen was not sent.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.counted.load(Ordering::Acquire)
    }

    /// The stream said that it is over (written by the tap).
    pub fn set_over(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Whether the stream said that it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The answer says that it is an error, or that it ends in one (written by the tap). Of several the last counts.
    pub fn set_erred(&self, blame: Blame) {
        self.erred.store(blame as u8, Ordering::Release);
    }

    /// Whose fault the error is that the answer tells, if it tells one.
    #[must_use]
    pub fn erred(&self) -> Option<Blame> {
        match self.erred.load(Ordering::Acquire) {
            1 => Some(Blame::Client),
            2 => Some(Blame::Worker),
            _ => None,
        }
    }

    /// The first content arrived from the worker (written by the tap). Later calls change nothing.
    pub fn set_first_token(&self, now: Nanos) {
        if self.first_token.load(Ordering::Acquire) == UNKNOWN {
            self.first_token.store(now.0, Ordering::Release);
        }
    }

    /// When the first content arrived.
    #[must_use]
    pub fn first_token(&self) -> Option<Nanos> {
        known(&self.first_token).map(Nanos)
    }

    /// Time to first token: from the last byte of the request's body to the first content, waiting included.
    #[must_use]
    pub fn ttft(&self) -> Option<Duration> {
        self.first_token().map(|first| first.since(self.received()))
    }

    /// Output tokens seen so far, counted from the stream (written by the tap).
    pub fn set_output_tokens(&self, seen: u64) {
        self.output_tokens.store(seen, Ordering::Release);
    }

    /// Output tokens: what the worker reported, or what was seen.
    #[must_use]
    pub fn output_tokens(&self) -> u64 {
        known(&self.usage_output).unwrap_or_else(|| self.output_tokens.load(Ordering::Acquire))
    }

    /// The worker reported its usage (written by the tap).
    pub fn set_usage(&self, prompt: u64, output: u64) {
        self.usage_prompt.store(prompt.min(UNKNOWN - 1), Ordering::Release);
        self.usage_output.store(output.min(UNKNOWN - 1), Ordering::Release);
    }

    /// Prompt and output tokens that were used, for people who sum them up: as the worker reported, else as estimated
    /// and as seen. None of what no worker answered, or answered with an error before anything else.
    #[must_use]
    pub fn tokens(&self) -> (u64, u64) {
        let (prompt, output) = self.usage().unwrap_or((0, self.output_tokens()));
        let began = self.first_token().is_some();
        let whole = self.ending() == Ending::Complete && self.erred().is_none();
        let estimated = self.asked().map_or(0, |asked| asked.prompt_tokens);
        if prompt > 0 || !(began || whole) { (prompt, output) } else { (estimated, output) }
    }

    /// Prompt and output tokens as the worker reported them.
    #[must_use]
    pub fn usage(&self) -> Option<(u64, u64)> {
        known(&self.usage_prompt).zip(known(&self.usage_output))
    }

    /// Says how the request ended (written by the innermost body, or by `rescue`).
    pub fn set_ending(&self, ending: Ending) {
        self.ending.store(ending as u8, Ordering::Release);
    }

    /// How the request ended; [`Ending::ClientGone`] while nobody has said otherwise.
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
        let flight = Flight::new("r1", Nanos::from_millis(100));
        assert_eq!(flight.ttft(), None);
        flight.set_received(Nanos::from_millis(400));
        flight.set_first_token(Nanos::from_millis(450));
        flight.set_first_token(Nanos::from_millis(900));
        assert_eq!(flight.ttft(), Some(Duration::from_millis(50)));
    }

    #[test]
    fn reported_usage_overrules_the_count() {
        let flight = Flight::new("r1", Nanos::ZERO);
        flight.set_output_tokens(7);
        assert_eq!(flight.output_tokens(), 7);
        flight.set_usage(11, 9);
        assert_eq!((flight.output_tokens(), flight.usage()), (9, Some((11, 9))));
    }

    #[test]
    fn a_long_name_of_a_model_is_cut_short() {
        for (model, kept) in [("qwen", 4), (&*"é".repeat(100), 128), (&*"€".repeat(100), 126)] {
            let demand = Demand { model: Some(model.into()), ..Demand::path() };
            assert_eq!(Asked::from(&demand).model.map(|model| model.len()), Some(kept));
        }
    }

    #[test]
    fn a_request_nobody_ended_was_left_by_its_client() {
        let flight = Flight::new("r1", Nanos::ZERO);
        assert_eq!(flight.ending(), Ending::ClientGone);
        for (index, ending) in Ending::ALL.into_iter().enumerate() {
            flight.set_ending(ending);
            assert_eq!((flight.ending(), ending as usize), (ending, index));
        }
    }
}
