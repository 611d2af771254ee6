//! Whole answers whose clients have left, and what else works at a worker that this gateway did not send there.
//!
//! A stream ends with its reader: the engine notices at the next token that it writes. An answer that is written when it is
//! whole has nothing to write before that, and some engines (llama.cpp) decode it to its end for nobody. So its seat stays
//! counted until the answer is expected to be whole, or until the worker reports less in flight than that. What it reports
//! beyond all that is known here was sent by others, and leaves so much less of its slots.
//!
//! * **Failure mode.** Without a single answer to learn from, the expected end is a guess. It is never later than a minute
//!   after the request was sent.
//! * **Trade-off.** An engine that does stop at once, and does not report, idles at these places meanwhile.

use std::time::Duration;

use crate::clock::Nanos;
use crate::request::Ending;

use super::gate::Gate;
use super::law::Sample;
use super::report::Report;
use super::roll;
use super::seat::SeatId;

/// A seat whose client has left is free after this at the latest, counted from its dispatch.
const LONGEST: Duration = Duration::from_secs(60);
/// What a token is taken to need where nothing was measured: a full batch of a large model.
const TOKEN: Duration = Duration::from_millis(30);
/// Whole answers after which the older ones weigh a third.
const MEMORY: f64 = 32.0;

/// How long the whole answers of one worker take: moving sums.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    seconds: f64,
    tokens: f64,
}

impl Pace {
    /// A whole answer of so many tokens took so long.
    pub(super) fn learn(&mut self, elapsed: Duration, tokens: u64) {
        if tokens > 0 {
            let keep = 1.0 - 1.0 / MEMORY;
            self.seconds = self.seconds * keep + elapsed.as_secs_f64();
            self.tokens = self.tokens * keep + tokens as f64;
        }
    }

    /// How long an answer of so many tokens takes, the reading of its prompt included.
    fn whole(&self, tokens: u64) -> Option<Duration> {
        let seconds = (self.tokens > 0.0).then(|| self.seconds / self.tokens * tokens as f64)?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

/// What is known of a worker's load, to be held against its reports. A report is late: what it counted may have ended, and
/// what it lacks may have been sent meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KnownLoad {
    /// Sequences in flight whose clients have left.
    left: u32,
    /// The most in flight since the last report, and between the two before.
    most: u32,
    most_before: u32,
    /// The fewest in flight since the last report whose clients wait.
    least: u32,
    /// Sequences that this gateway may have in flight beside what others sent, by the last report; `None` when it shows
    /// nothing of others.
    pub(super) room: Option<u32>,
    /// When that report says nothing any more.
    pub(super) until: Nanos,
}

impl KnownLoad {
    /// So many sequences are in flight now.
    pub(super) fn note(&mut self, in_flight: u32) {
        self.most = self.most.max(in_flight);
        self.least = self.least.min(in_flight.saturating_sub(self.left));
    }

    /// Of so many sequences that a worker reports these were sent by nobody known here.
    fn beyond(&self, running: u32) -> u32 {
        running.saturating_sub(self.most.max(self.most_before))
    }

    /// So many of those have ended whose clients left, when the worker has `all` in flight.
    fn ended(&self, all: u32) -> u32 {
        self.least.saturating_add(self.left).saturating_sub(all)
    }

    /// Begins the time up to the next report, with so many sequences in flight.
    fn turn(&mut self, in_flight: u32) {
        (self.most_before, self.most) = (self.most, in_flight);
        self.least = in_flight.saturating_sub(self.left);
    }
}

impl Gate {
    /// The client of a request left before anything came of its answer. `seen` output tokens have arrived in all.
    pub fn abandon(&mut self, id: SeatId, seen: u64, now: Nanos) {
        let Some(until) = self.expected_end(id).filter(|until| *until > now) else {
            return self.release(id, Ending::ClientGone, seen, now);
        };
        // No critical request may have it: leaving the worker again ends nothing.
        self.keep(id);
        let Some((seat, worker)) = self.seat_and_worker(id) else { return };
        worker.law.observe(Sample::ClientGone, now);
        worker.known.left = worker.known.left.saturating_add(seat.load.sequences);
        let place = seat.worker;
        self.abandoned.insert((until, id));
        self.recount(place, now);
        self.advance(now);
    }

    /// When a whole answer is expected to be so, if its worker was sent the request.
    fn expected_end(&self, id: SeatId) -> Option<Nanos> {
        let seat = self.seats.get(&id)?;
        let worker = self.workers.get(seat.worker)?.as_ref()?;
        let sent = seat.dispatched_at().filter(|_| !seat.stream)?;
        let (prompt, tokens) = (seat.load.prompt, seat.load.output / u64::from(seat.load.sequences.max(1)));
        if (prompt, tokens) == (0, 0) {
            // No call of a model, or one that says nothing of what it costs.
            return None;
        }
        let whole = worker.pace.whole(tokens).filter(|_| tokens > 0).unwrap_or_else(|| {
            let reading = worker.prefill.reading(0, prompt).unwrap_or(self.settings.slo(prompt) / 2);
            let token = worker.flow.usual_token().unwrap_or(TOKEN);
            reading.saturating_add(token.saturating_mul(u32::try_from(tokens).unwrap_or(u32::MAX)))
        });
        Some(sent + whole.min(LONGEST))
    }

    /// Frees the seats of answers that should be whole by now. True when there were any.
    pub(super) fn end_abandoned(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while let Some((until, id)) = self.abandoned.first().copied().filter(|(until, _)| *until <= now) {
            self.abandoned.remove(&(until, id));
            self.let_go(id, now);
            any = true;
        }
        any
    }

    fn let_go(&mut self, id: SeatId, now: Nanos) {
        if let Some((seat, worker)) = self.seat_and_worker(id) {
            worker.known.left = worker.known.left.saturating_sub(seat.load.sequences);
            let used = seat.load;
            self.free(id, Some(used), now);
        }
    }

    /// Holds a report of the worker at `place` against what is known of its load. The report before came at `before`.
    pub(super) fn compare(&mut self, place: usize, report: &Report, before: Option<Nanos>, now: Nanos) {
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
        worker.known.room = None;
        let Some(running) = report.running else { return };
        if let Some(told) = roll::base(&worker.member, &self.settings) {
            // What other gateways may have sent is theirs.
            let dams = self.settings.dams.max(1);
            let beyond = worker.known.beyond(running).saturating_sub(told - told / dams);
            worker.known.room = (beyond > 0).then(|| told.saturating_sub(beyond) / dams);
        }
        worker.known.until = now + report.valid_for;
        if worker.known.room.is_some() {
            self.roll.until = self.roll.until.min(worker.known.until);
        }
        let mut ended = worker.known.ended(running.saturating_add(report.waiting.unwrap_or(0)));
        worker.known.turn(worker.ledger.in_flight());
        // The report may be older than what was sent since the last one.
        let Some(before) = before else { return };
        let there = |id: &SeatId| self.seats.get(id).filter(|seat| seat.worker == place);
        let mut over = Vec::new();
        for (until, id) in &self.abandoned {
            let Some(seat) = there(id).filter(|seat| seat.dispatched_at().is_some_and(|sent| sent < before))
            else {
                continue;
            };
            if ended < seat.load.sequences {
                break;
            }
            ended -= seat.load.sequences;
            over.push((*until, *id));
        }
        for place in over {
            self.abandoned.remove(&place);
            self.let_go(place.1, now);
        }
    }
}
