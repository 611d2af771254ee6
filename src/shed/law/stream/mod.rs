//! The law for workers that stream.
//!
//! It watches what the promise is about, the time to the first token, and compares it with what an idle worker would
//! need for the same prompt. As long as first tokens come in time there is no queue inside the worker; a queue there
//! is waste, for it can be neither reordered nor cancelled. In windows of at least a second and ten first tokens:
//!
//! s = max(p90 of TTFT / (E + 0.15·slo), mean ITL / (0.8·itl_slo), reported waiting / 5)
//!
//! where the p90 must exceed 1 by more than chance explains in so few answers for a cut.
//!
//! * s > 1: L is multiplied by max(0.7, 0.95 − 0.2·(s − 1)), though late first tokens do not bring it below what was just
//!   seen to decode at once. The next window shows whether that helped; if not, it is taken back (see `trial`).
//! * s < 0.85 and the limit was used: L grows, by √L up to where the worker was last seen to be full, its knee. Above
//!   the knee it is tried by 1, then 2, then 4; each failure doubles the time to the next try, from 2 s to 30 s.
//! * otherwise, and without samples, L stays.
//!
//! Three things make it quicker than its windows. *The knee shows itself*: when a first token is overdue although the
//! prompts ahead do not explain it, while other streams flow, the worker decodes just as many as flow, and that is the
//! limit. *Slow start*: until the first cut two first tokens in time make room for one more, so that a large
//! worker is found in a few round trips. *Changes count once*: only requests sent after the last one are judged, for
//! those before it suffer from what was already mended, or have not met what is new.
//!
//! Answers that are not streamed say less: only whether they came, with all their tokens, within what the two promises
//! allow together. They are judged by that, so a worker that streams nothing keeps its promise too, but has more of a
//! queue inside than one that shows its first tokens.
//!
//! * **Failure mode.** A worker whose answers have no tokens (embeddings) is judged by its prompts alone.

mod trial;
mod window;

#[cfg(test)]
mod tests;

use std::time::Duration;

use self::trial::{Evidence, HELPS, LATE, LATE_BESIDE_OTHERS, LimitCut, NO_UNDO};
use self::window::{Measure, MeasuredRatios, Window};
use super::{Law, Sample, Told};
use crate::clock::Nanos;

/// The limit of a worker nothing is known of, over all gateways: no worker of today is harmed by so many for long.
const START: u32 = 32;
/// Below this a limit only starves the law of samples.
const FLOOR: u32 = 4;
/// Far above every batch there is; keeps the arithmetic finite.
const CEILING: f64 = 1e6;
/// The shortest window, and the fewest answers in it.
const WINDOW: Duration = Duration::from_secs(1);
const ANSWERS: u32 = 10;
/// Share of the promise that a first token may come later than from an idle worker. Simulated from 0.1 to 0.25: less
/// throws capacity away on large batches, more lets a queue grow inside the worker.
pub(in crate::shed) const SLACK: f64 = 0.15;
/// Share of the ITL promise at which a worker counts as full.
const ITL_SHARE: f64 = 0.8;
/// Requests waiting inside the worker that count as too many.
const QUEUED: f64 = 5.0;
/// Signals below this let the limit grow.
const CALM: f64 = 0.85;
const CALM_FIRST: f64 = 0.95;
/// The limit was used if so much of it was.
const USED: f64 = 0.9;
/// What a first token in time adds before the first cut: the limit doubles in two round trips, and overshoots by less
/// than one that doubled in each.
const SLOW_START: f64 = 0.5;
/// The shortest and the longest time between two tries above the knee. Each try that fails makes a few requests wait
/// inside the worker: at the longest these are less than one in a hundred even of a small worker's.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// A cut to less than this share of the knee says that the worker has changed.
const SAME_KNEE: f64 = 0.8;
/// The first try above the knee after a cut, as a share of the knee.
const FIRST_TRY: f64 = 0.1;

/// The law for workers that stream.
#[derive(Clone, Debug)]
pub struct Stream {
    floor: f64,
    ceiling: f64,
    itl_slo: f64,
    /// How much better it must be after a cut.
    helps: f64,
    /// Share of the promise that counts as late.
    late: f64,
    /// Other gateways use the worker too.
    shared: bool,
    search: Search,
    /// Requests sent before the limit last changed are not judged: they say nothing about it.
    changed_at: Nanos,
    window: Window,
    /// Sequences that were seen to flow at once of late: so many the worker decodes.
    flowing: f64,
    /// The last cut, as long as it may be taken back.
    cut: Option<LimitCut>,
    undone_at: Option<Nanos>,
    no_undo_until: Nanos,
    /// How late first tokens, tokens and answers are that are not late because of the load, as ratios above 1.
    usual: [f64; 3],
    usual_at: Nanos,
    /// A moving mean of what a first token may take, in seconds, and as a share of the promise.
    reference: f64,
    reference_share: f64,
}

/// The limit, and how it is looked for.
#[derive(Clone, Copy, Debug)]
struct Search {
    limit: f64,
    phase: Phase,
    /// Where the worker was last seen to be full.
    knee: Option<f64>,
    /// When more than that is tried again, how long that was put off, and by how much it is.
    try_at: Nanos,
    put_off: Duration,
    step: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has been cut yet.
    SlowStart,
    /// The window after a cut: what was sent under the old limit drains.
    Settling,
    Steady,
}

impl Stream {
    /// A law for a worker of which `told` is known.
    #[must_use]
    pub fn new(told: &Told) -> Self {
        let mut law = Self {
            floor: 1.0,
            ceiling: 1.0,
            itl_slo: 1.0,
            helps: HELPS,
            late: LATE,
            shared: false,
            search: Search {
                limit: f64::from(START / told.dams.max(1)),
                phase: Phase::SlowStart,
                knee: None,
                try_at: Nanos::ZERO,
                put_off: RETRY,
                step: 1.0,
            },
            changed_at: Nanos::ZERO,
            window: Window::default(),
            flowing: 0.0,
            cut: None,
            undone_at: None,
            no_undo_until: Nanos::ZERO,
            usual: [1.0; 3],
            usual_at: Nanos::ZERO,
            reference: SLACK,
            reference_share: SLACK,
        };
        law.retell(told);
        law
    }

    /// An answer of this ratio came: ends the window if it is long enough.
    fn answered(&mut self, measure: Measure, ratio: f64, now: Nanos) {
        self.window.add(measure, ratio);
        if self.search.phase == Phase::SlowStart && ratio < CALM && self.is_used(self.window.peak) {
            self.grow(SLOW_START);
        }
        if now.since(self.window.start) >= WINDOW && self.window.answers() >= ANSWERS {
            self.judge(now);
        }
    }

    /// How late most are, relative to what is usual at this worker.
    fn lateness(&self, late: impl Fn(&MeasuredRatios) -> f64) -> [f64; 3] {
        [Measure::FirstToken, Measure::Token, Measure::Whole]
            .map(|measure| late(self.window.of(measure)) / self.usual[measure as usize])
    }

    /// Ends a window.
    fn judge(&mut self, now: Nanos) {
        self.forget(now);
        if self.search.phase == Phase::Settling && self.is_trial_open(now) {
            return;
        }
        let waiting = f64::from(self.window.waiting) / QUEUED;
        let [late, itl, whole] = self.lateness(MeasuredRatios::late);
        let most = late.max(itl).max(whole).max(waiting);
        // A search that still doubles has overshot, if anything; several gateways see one another's doing.
        let doubles = self.search.phase == Phase::SlowStart && self.search.limit < self.ceiling;
        let ttft = if doubles || self.shared {
            late
        } else {
            self.lateness(MeasuredRatios::surely_late)[Measure::FirstToken as usize]
        };
        let signal = ttft.max(itl).max(whole).max(waiting);
        let calm = ttft < CALM_FIRST && itl.max(whole).max(waiting) < CALM;
        let (used, failed) = (self.is_used(self.window.peak), self.window.failed);
        let window = std::mem::replace(&mut self.window, Window::from(now));
        if self.search.phase == Phase::Settling {
            self.search.phase = Phase::Steady;
            if most > 1.0 {
                self.take_back_in_vain(&window, now);
            }
        } else if signal > 1.0 {
            let factor = (0.95 - 0.2 * (signal - 1.0)).max(0.7);
            let measure = match signal {
                _ if signal <= ttft => Some(Measure::FirstToken),
                _ if signal <= itl => Some(Measure::Token),
                _ if signal <= whole => Some(Measure::Whole),
                _ => None,
            };
            // What was just seen to be decoded at once is not too much, unless the promise itself is in danger.
            let least = match measure {
                Some(Measure::FirstToken) if ttft * self.reference_share * self.usual[0] < self.late => {
                    self.flowing
                }
                _ => 0.0,
            };
            let limit = (self.search.limit * factor).max(least);
            if limit >= self.search.limit {
                // All that is in flight is decoded, so nothing waits for a place: it is late for another reason.
                self.accept(Measure::FirstToken, &window, None);
            } else {
                let late = Duration::try_from_secs_f64((ttft - 1.0).max(0.0) * self.reference);
                let evidence = Evidence {
                    since: window.start,
                    late: late.unwrap_or_default(),
                    sudden: false,
                    trial: measure.map(|measure| (measure, window.of(measure).clone())),
                };
                self.cut(limit, evidence, now);
            }
        } else if calm && used && !failed && self.search.phase == Phase::Steady {
            self.widen(now);
        }
    }

    /// The limit was used and nothing spoke against it.
    fn widen(&mut self, now: Nanos) {
        let knee = self.search.knee.unwrap_or(f64::INFINITY);
        if self.search.limit < knee {
            self.raise((self.search.limit + self.search.limit.sqrt()).min(knee), now);
        } else if now >= self.search.try_at {
            if self.search.limit > knee {
                // More than the knee went well: it was none.
                (self.search.knee, self.search.put_off) = (Some(self.search.limit), RETRY);
                self.search.step = (self.search.step * 2.0).min(self.search.limit.sqrt());
            }
            self.raise(self.search.limit + self.search.step, now);
        }
    }

    fn cut(&mut self, limit: f64, evidence: Evidence, now: Nanos) {
        let before = self.search;
        if self.undone_at.is_some_and(|undone| now.since(undone) < 2 * WINDOW) {
            self.no_undo_until = now + NO_UNDO;
        }
        self.cut = Some(LimitCut { at: now, before, evidence });
        let limit = limit.clamp(self.floor, self.search.limit);
        self.search.step = 1.0;
        match self.search.knee {
            // A try that failed: back to what was well before, and more patience with the next.
            Some(knee) if self.search.limit > knee && limit >= SAME_KNEE * knee => {
                self.search.limit = knee.max(self.floor);
                self.search.put_off = (self.search.put_off * 2).min(LONGEST_RETRY);
            }
            // A little less than before: it may be the luck of the last lengths. What is between is soon tried again.
            Some(knee) if limit >= SAME_KNEE * knee => {
                (self.search.limit, self.search.knee, self.search.put_off) =
                    (limit, Some(f64::midpoint(limit, knee)), RETRY);
            }
            _ => {
                self.search.step = ((before.limit - limit) / 2.0).clamp(1.0, (FIRST_TRY * limit).max(1.0));
                (self.search.limit, self.search.knee, self.search.put_off) = (limit, Some(limit), RETRY);
            }
        }
        self.search.try_at = now + self.search.put_off;
        self.changed_at = now;
        self.search.phase = Phase::Settling;
        self.window = Window::from(now);
    }

    /// A larger limit that is judged by what is sent from now on.
    fn raise(&mut self, limit: f64, now: Nanos) {
        self.search.limit = limit.min(self.ceiling);
        self.changed_at = now;
    }

    fn grow(&mut self, step: f64) {
        self.search.limit = (self.search.limit + step).min(self.ceiling);
    }

    fn is_used(&self, peak: u32) -> bool {
        f64::from(peak) >= USED * self.search.limit.floor()
    }
}

/// What a first token may take, in seconds: the time of an idle worker, and the slack.
fn reference(expected: Duration, slo: Duration) -> f64 {
    (expected.as_secs_f64() + SLACK * slo.as_secs_f64()).max(1e-6)
}

impl Law for Stream {
    fn limit(&self) -> u32 {
        (self.search.limit as u32).max(1)
    }

    fn observe(&mut self, sample: Sample, now: Nanos) {
        match sample {
            Sample::Dispatch { in_flight } => self.window.peak = self.window.peak.max(in_flight),
            Sample::FirstToken { dispatched, ttft, expected, slo, flowing }
                if dispatched >= self.changed_at =>
            {
                self.flowing = f64::from(flowing);
                let reference = reference(expected, slo);
                let share = reference / slo.as_secs_f64().max(1e-6);
                self.reference += (reference - self.reference) / f64::from(ANSWERS);
                self.reference_share += (share - self.reference_share) / f64::from(ANSWERS);
                self.answered(Measure::FirstToken, ttft.as_secs_f64() / reference, now);
            }
            Sample::FirstToken { dispatched, ttft, expected, slo, .. } => {
                // It was sent before the limit last changed: it shows what the former one was like.
                if let Some(LimitCut { evidence, .. }) = &mut self.cut
                    && let Some((Measure::FirstToken, earlier)) = &mut evidence.trial
                    && dispatched >= evidence.since
                {
                    earlier.add(ttft.as_secs_f64() / reference(expected, slo));
                }
            }
            Sample::Whole { dispatched, elapsed, tokens, expected, slo } if dispatched >= self.changed_at => {
                let decoding = ITL_SHARE * self.itl_slo * tokens as f64;
                let reference = reference(expected, slo) + decoding;
                self.answered(Measure::Whole, elapsed.as_secs_f64() / reference, now);
            }
            Sample::Tokens { count, span } if now - span >= self.changed_at => {
                let itl = span.as_secs_f64() / count.max(1) as f64;
                self.window.add_tokens(count, itl / (ITL_SHARE * self.itl_slo));
            }
            Sample::Overdue { dispatched, flowing }
                if dispatched >= self.changed_at
                    && flowing > 0
                    && f64::from(flowing) < self.search.limit.floor() =>
            {
                let evidence = Evidence {
                    since: dispatched,
                    late: Duration::ZERO,
                    sudden: true,
                    trial: Some((Measure::FirstToken, self.window.of(Measure::FirstToken).clone())),
                };
                self.cut(f64::from(flowing), evidence, now);
            }
            Sample::Stalled { from, to } => self.stalled(from, to, now),
            Sample::WorkerFailed { .. } => self.window.failed = true,
            Sample::Whole { .. }
            | Sample::Tokens { .. }
            | Sample::Overdue { .. }
            | Sample::End { .. }
            | Sample::ClientGone => {}
            Sample::Report { waiting } => self.window.waiting = self.window.waiting.max(waiting),
        }
    }

    fn retell(&mut self, told: &Told) {
        self.ceiling = told.slots.map_or(CEILING, f64::from);
        self.floor = f64::from(FLOOR).min(self.ceiling);
        // What one of several gateways gives up the others may take: that it is no better proves less.
        self.shared = told.dams > 1;
        (self.helps, self.late) = if self.shared { (0.5, LATE_BESIDE_OTHERS) } else { (HELPS, LATE) };
        self.itl_slo = told.itl_slo.as_secs_f64().max(1e-3);
        self.search.limit = self.search.limit.clamp(self.floor, self.ceiling);
    }
}
