//! Workers that are there, answer their health checks, and say nothing more.
//!
//! A stream may pause; all streams of a worker at once do not. So a request that has waited for its next token for a
//! while says so ([`Gate::awaits`]), and when nothing has come from the worker on any stream for longer than its own
//! pace explains, it is put aside as one that cannot be reached: nothing new is sent there, requests without a first
//! token go elsewhere, and after a cool-down it is tried with a few. Streams that hang there end when their own timeout
//! says so; a token on any of them ends the silence at once.
//!
//! * **Failure mode.** A worker whose streams are all read by clients that stall is not silent, for only who waits for
//!   the worker is asked. One that reads a long prompt and decodes nothing meanwhile is not silent for as long as that
//!   prompt may take.
//! * **Trade-off.** A worker with a single stream that pauses for seconds loses its turn for one; that stream goes on.

use std::time::Duration;

use crate::clock::{Nanos, saturating_nanos};

use super::gate::Gate;
use super::law::Sample;
use super::member::Worker;
use super::permit::REPORT_EVERY;
use super::quantile::Ratios;
use super::seat::SeatId;

/// Silence that is never held against a worker.
pub const SHORTEST_SILENCE: Duration = Duration::from_secs(2);
/// So many times what nearly all of a worker's tokens take is not held against it either.
const TOKENS: f64 = 5.0;
/// Nearly all.
const NEARLY_ALL: f64 = 0.99;
/// What the histogram counts in: it tells 5 ms to 2.4 s apart.
const UNIT: Duration = Duration::from_millis(100);
/// Spans of tokens after which the older ones weigh half: seconds of a busy worker, a minute of an idle one.
const MEMORY: u32 = 1000;

/// A stream whose last tokens are older does not flow: four tokens late at 100 ms each, and a report every 100 ms.
pub(super) const FLOWS: Duration = Duration::from_millis(500);
/// Streams are counted in periods of that length. The maximum of the last three is what a worker decodes at once now; the
/// maximum of all sixteen is what it has shown that it can.
const PERIODS: usize = 16;
const LAST: usize = 3;
/// A gap in everything is a stall when it exceeds the time between two reports by this, and by the time of so many tokens.
const GAP: Duration = Duration::from_millis(50);
const GAP_TOKENS: f64 = 3.0;

/// What came of one worker's streams.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// When anything last came on any of them.
    at: Nanos,
    /// When tokens last came on one that had begun before.
    tokens_at: Nanos,
    /// The number of the present period, the sequences that flowed in it and are still there, and those at the end of
    /// earlier ones.
    period: u64,
    flowing: u32,
    before: [u32; PERIODS],
    /// Times from one token to the next.
    gaps: Ratios,
    /// Sequences that were there when it fell silent, as long as it is.
    pub(super) hung: u32,
}

impl Flow {
    /// So many tokens of one stream came in so much time.
    pub(super) fn learn(&mut self, count: u64, span: Duration) {
        self.gaps.add(span.as_secs_f64() / count.max(1) as f64 / UNIT.as_secs_f64());
        if self.gaps.len() >= MEMORY {
            self.gaps.fade();
        }
    }

    /// The longest silence that is still none.
    fn patience(&self) -> Duration {
        SHORTEST_SILENCE.max(self.token_time().mul_f64(TOKENS))
    }

    /// Nearly all tokens come within this after the one before.
    fn token_time(&self) -> Duration {
        self.gaps.quantile(NEARLY_ALL).map_or(Duration::ZERO, |gap| UNIT.mul_f64(gap))
    }

    /// What half of its tokens do not exceed.
    pub(super) fn usual_token(&self) -> Option<Duration> {
        self.gaps.quantile(0.5).map(|gap| UNIT.mul_f64(gap))
    }

    /// Whether it is a stall when nothing comes for so long.
    fn is_stall(&self, quiet: Duration) -> bool {
        // The percentile is looked for only where it can matter: this is asked with every report of every stream.
        quiet >= REPORT_EVERY + GAP && quiet >= REPORT_EVERY + self.token_time().mul_f64(GAP_TOKENS)
    }

    /// Ends the periods that are over.
    fn turn(&mut self, now: Nanos) {
        let period = now.0 / saturating_nanos(FLOWS);
        let passed = period.saturating_sub(self.period);
        for _ in 0..passed.min(PERIODS as u64) {
            self.before.rotate_right(1);
            self.before[0] = std::mem::take(&mut self.flowing);
        }
        self.period = self.period.max(period);
    }

    /// Sequences of a stream flow. `counted` is the period in which they last did.
    pub(super) fn count(&mut self, sequences: u32, counted: &mut Option<u64>, now: Nanos) {
        self.turn(now);
        if counted.replace(self.period) != Some(self.period) {
            self.flowing = self.flowing.saturating_add(sequences);
        }
    }

    /// Sequences of a stream that last flowed in the period `counted` are there no more.
    pub(super) fn uncount(&mut self, sequences: u32, counted: Option<u64>, now: Nanos) {
        self.turn(now);
        if counted == Some(self.period) {
            self.flowing = self.flowing.saturating_sub(sequences);
        }
    }

    /// The most sequences that flowed at once in the last second and a half.
    pub(super) fn most(&self) -> u32 {
        self.before.iter().take(LAST).fold(self.flowing, |most, count| most.max(*count))
    }

    /// The most sequences that flowed at once in the last eight seconds.
    pub(super) fn shown(&self) -> u32 {
        self.before.iter().fold(self.flowing, |most, count| most.max(*count))
    }

    /// What hung there, if it did, is there no more.
    pub(super) fn hang_less(&mut self, hung: bool, sequences: u32) {
        if hung {
            self.hung = self.hung.saturating_sub(sequences);
        }
    }
}

impl Worker {
    /// It answered a request.
    pub(super) fn answers(&mut self, now: Nanos) {
        self.look_for_stall(now);
        self.health.answered(now);
        self.flow.at = now;
        self.flow.hung = 0;
    }

    /// Tokens came of a request; of a `stream` they come one by one, of another all at once.
    pub(super) fn flows(&mut self, stream: bool, now: Nanos) {
        self.look_for_stall(now);
        self.flow.at = now;
        if stream {
            self.flow.tokens_at = now;
        }
        if self.health.silent_since().is_some() {
            self.health.flowed(now);
            self.flow.hung = 0;
        }
    }

    /// Something came: whether nothing did for too long before it. While a prompt is read nothing need come.
    fn look_for_stall(&mut self, now: Nanos) {
        let since = self.flow.at;
        let flowed = self.flow.tokens_at > Nanos::ZERO && since.since(self.flow.tokens_at) <= FLOWS;
        let begins = self.reads_until().map_or(since, |read| read.max(since));
        if flowed && self.ledger.in_flight() > 0 && self.flow.is_stall(now.since(begins)) {
            self.stalled(since, now);
        }
        self.stalls.advance(self.oldest_unread(), now);
    }

    /// Nothing flowed from `from` to `to`, which says nothing of the worker's size.
    pub(super) fn stalled(&mut self, from: Nanos, to: Nanos) {
        if self.stalls.add(from, to) {
            self.suspicion = None;
            self.law.observe(Sample::Stalled { from, to }, to);
        }
    }

    /// Whether it has said nothing for so long that it is supposed to say nothing more.
    fn is_silent(&self, now: Nanos) -> bool {
        now.since(self.flow.at) >= self.flow.patience() && !self.may_be_reading(now)
    }
}

impl Gate {
    /// A streamed request waits for its worker, which has sent it nothing for a while. True when it should go to
    /// another: the worker fell silent after it was sent there, nothing of its answer has come, and there is another.
    pub fn awaits(&mut self, id: SeatId, now: Nanos) -> bool {
        let Some((seat, worker)) = self.seat_and_worker(id) else { return false };
        let Some(sent) = seat.dispatched_at().filter(|_| seat.stream) else { return false };
        let (begun, place) = (seat.has_begun(), seat.worker);
        let telling = match worker.health.silent_since() {
            // Where no stream has begun, only a first token shows that is long overdue by what is known of the worker.
            None => begun || worker.is_overdue_for(worker.flow.patience(), now),
            // What hangs there since then says nothing new; what was sent to try it does, after a time of its own.
            Some(since) => since < sent && now.since(sent) >= worker.flow.patience(),
        };
        if telling && worker.health.reachable(now) && worker.is_silent(now) {
            self.fall_silent(place, now);
        }
        let Some((_, worker)) = self.seat_and_worker(id) else { return false };
        let abandoned = !begun && worker.health.silent_since().is_some_and(|since| sent <= since);
        abandoned && self.has_alternative(id, now)
    }

    /// The gateway itself was late from `from` to `to`: what its workers did meanwhile it learns only afterwards, and
    /// holds nothing of that time against them.
    pub fn lagged(&mut self, from: Nanos, to: Nanos) {
        for worker in self.workers.iter_mut().flatten() {
            if worker.ledger.in_flight() > 0 {
                worker.stalled(from, to);
            }
            worker.unread.values_mut().for_each(|patience| patience.extend(to.since(from)));
            worker.flow.at = worker.flow.at.max(to);
        }
    }

    fn fall_silent(&mut self, place: usize, now: Nanos) {
        let Self { workers, seats, .. } = self;
        let Some(worker) = workers.get_mut(place).and_then(Option::as_mut) else { return };
        worker.health.fell_silent(now);
        worker.flow.hung = worker.ledger.in_flight();
        // What it has not begun to answer says nothing about what is sent from now on.
        worker.answered = now;
        seats.values_mut().filter(|seat| seat.worker == place).for_each(|seat| seat.hung = true);
        self.recount(place, now);
        self.advance(now);
        self.serve(now);
    }
}
