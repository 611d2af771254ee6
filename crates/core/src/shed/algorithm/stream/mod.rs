//! The limit algorithm for workers that stream.
//!
//! It watches what the TTFT SLO is about, the time to the first token, and compares it with the
//! time an idle worker needs for the same prompt. If first tokens come in time, no queue is inside
//! the worker; such a queue is waste, as the gateway can neither reorder nor cancel it. In windows
//! of at least a second and ten first tokens:
//!
//! s = max(p90 of TTFT / (E + 0.15·slo), mean ITL / (0.8·itl_slo), reported waiting / 5)
//!
//! For a cut, the p90 must exceed 1 by more than chance explains with so few answers.
//!
//! * s > 1: the limit L is multiplied by max(0.7, 0.95 − 0.2·(s − 1)), but late first tokens do not
//!   cut it below the number just seen to decode at once. A cut that does not help in the next
//!   window is undone (see `trial`).
//! * s < 0.85 (first tokens: 0.95) and the limit was used: L grows, by √L up to the *knee*, where
//!   the worker was last seen to be full. Above the knee it grows by 1, then 2, then 4; each failed
//!   try doubles the delay before the next, from 2 s to 30 s.
//! * Otherwise, and without samples, L stays.
//!
//! Three things make it faster than its windows. *The knee shows itself*: if a first token is
//! overdue without enough prompts ahead, while other streams flow, the worker decodes only as many
//! as flow, and that becomes the limit. *Slow start*: until the first cut, two first tokens in time
//! raise L by one, which finds a large worker's limit in a few round trips. *Changes count once*:
//! only requests sent after the last change are judged. Earlier ones suffer from what is already
//! corrected, or have not met the new limit.
//!
//! Non-streamed answers are judged by less: whether they came whole within what both SLOs allow
//! together. A worker that streams nothing thus meets its SLO too, with a longer queue inside.
//!
//! * **Failure mode.** A worker whose answers have no tokens (embeddings) is judged by its prompts
//!   alone.

mod trial;
mod window;

#[cfg(test)]
mod tests;

use std::time::Duration;

use self::trial::{CutEvidence, LATE, LATE_BESIDE_OTHERS, LimitCut, MIN_IMPROVEMENT, NO_UNDO};
use self::window::{MeasureKind, MeasureWindow, MeasuredRatios};
use super::{LimitAlgorithm, WorkerHints, WorkerSample};
use crate::clock::Nanos;

/// Initial limit, over all gateways: no worker of today is harmed by this many for long.
const START: u32 = 32;
/// Below this, a limit only starves the algorithm of samples.
const FLOOR: u32 = 4;
/// Far above every real batch size; keeps the arithmetic finite.
const CEILING: f64 = 1e6;
/// The shortest window, and the fewest answers in it.
const WINDOW: Duration = Duration::from_secs(1);
const ANSWERS: u32 = 10;
/// Share of the TTFT SLO by which a first token may be later than at an idle worker. Simulated from
/// 0.1 to 0.25: less wastes capacity on large batches, more lets a queue grow inside the worker.
pub(in crate::shed) const SLACK: f64 = 0.15;
/// Share of the ITL SLO at which a worker counts as full.
const ITL_SHARE: f64 = 0.8;
/// Requests waiting inside the worker that count as too many.
const QUEUED: f64 = 5.0;
/// Signals below this let the limit grow; for first tokens, below `CALM_FIRST`.
const CALM: f64 = 0.85;
const CALM_FIRST: f64 = 0.95;
/// Share of the limit that must be in flight for the limit to count as used.
const USED: f64 = 0.9;
/// Growth per first token in time before the first cut: the limit doubles in two round trips, and
/// overshoots less than one that doubles in each.
const SLOW_START: f64 = 0.5;
/// Shortest and longest delay between two tries above the knee. A failed try makes a few requests
/// wait inside the worker: at the longest delay, under one in a hundred even at a small worker.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// A cut to less than this share of the knee means that the worker has changed.
const SAME_KNEE: f64 = 0.8;
/// Largest first step above the knee after a cut, as a share of the knee.
const FIRST_TRY: f64 = 0.1;

/// Limit algorithm for workers that stream; judges them mainly by the time to the first token.
#[derive(Clone, Debug)]
pub struct StreamLimit {
    floor: f64,
    ceiling: f64,
    itl_slo: f64,
    /// Required improvement after a cut; see [`MIN_IMPROVEMENT`].
    helps: f64,
    /// Share of the TTFT SLO that counts as late.
    late: f64,
    /// `true` if other gateways use the worker too.
    shared: bool,
    search: LimitSearch,
    /// Requests sent before the limit last changed are not judged: they say nothing about it.
    changed_at: Nanos,
    window: MeasureWindow,
    /// Sequences that recently flowed at once: the worker decodes this many.
    flowing: f64,
    /// The last cut, as long as it may be undone.
    cut: Option<LimitCut>,
    undone_at: Option<Nanos>,
    no_undo_until: Nanos,
    /// Lateness of first tokens, tokens and answers that load does not cause; ratios from 1 on.
    usual: [f64; 3],
    usual_at: Nanos,
    /// Moving mean of the time a first token may take, in seconds and as a share of the SLO.
    reference: f64,
    reference_share: f64,
}

/// The limit, and the state of the search for it.
#[derive(Clone, Copy, Debug)]
struct LimitSearch {
    limit: f64,
    phase: SearchPhase,
    /// Limit at which the worker was last seen to be full.
    knee: Option<f64>,
    /// Time of the next try above the knee, the delay before it, and its step.
    try_at: Nanos,
    put_off: Duration,
    step: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchPhase {
    /// Nothing has been cut yet.
    SlowStart,
    /// The window after a cut: requests sent under the old limit drain.
    Settling,
    Steady,
}

impl StreamLimit {
    /// Creates the algorithm for a worker with these `hints`.
    #[must_use]
    pub fn new(hints: &WorkerHints) -> Self {
        let mut law = Self {
            floor: 1.0,
            ceiling: 1.0,
            itl_slo: 1.0,
            helps: MIN_IMPROVEMENT,
            late: LATE,
            shared: false,
            search: LimitSearch {
                limit: f64::from(START / hints.gateways.max(1)),
                phase: SearchPhase::SlowStart,
                knee: None,
                try_at: Nanos::ZERO,
                put_off: RETRY,
                step: 1.0,
            },
            changed_at: Nanos::ZERO,
            window: MeasureWindow::default(),
            flowing: 0.0,
            cut: None,
            undone_at: None,
            no_undo_until: Nanos::ZERO,
            usual: [1.0; 3],
            usual_at: Nanos::ZERO,
            reference: SLACK,
            reference_share: SLACK,
        };
        law.reconfigure(hints);
        law
    }

    /// Records an answer of this ratio; ends the window if it is long enough.
    fn answered(&mut self, measure: MeasureKind, ratio: f64, now: Nanos) {
        self.window.add(measure, ratio);
        if self.search.phase == SearchPhase::SlowStart && ratio < CALM && self.is_used(self.window.peak) {
            self.grow(SLOW_START);
        }
        if now.since(self.window.start) >= WINDOW && self.window.answers() >= ANSWERS {
            self.judge(now);
        }
    }

    /// Returns how late most samples are, relative to what is usual at this worker.
    fn lateness(&self, late: impl Fn(&MeasuredRatios) -> f64) -> [f64; 3] {
        [MeasureKind::FirstToken, MeasureKind::Token, MeasureKind::Whole]
            .map(|measure| late(self.window.of(measure)) / self.usual[measure as usize])
    }

    /// Ends a window and adjusts the limit.
    fn judge(&mut self, now: Nanos) {
        self.forget(now);
        if self.search.phase == SearchPhase::Settling && self.is_trial_open(now) {
            return;
        }
        let waiting = f64::from(self.window.waiting) / QUEUED;
        let [late, itl, whole] = self.lateness(MeasuredRatios::late);
        let most = late.max(itl).max(whole).max(waiting);
        // No test for chance: slow start may have overshot, and other gateways add load here.
        let doubles = self.search.phase == SearchPhase::SlowStart && self.search.limit < self.ceiling;
        let ttft = if doubles || self.shared {
            late
        } else {
            self.lateness(MeasuredRatios::surely_late)[MeasureKind::FirstToken as usize]
        };
        let signal = ttft.max(itl).max(whole).max(waiting);
        let calm = ttft < CALM_FIRST && itl.max(whole).max(waiting) < CALM;
        let (used, failed) = (self.is_used(self.window.peak), self.window.failed);
        let window = std::mem::replace(&mut self.window, MeasureWindow::from(now));
        if self.search.phase == SearchPhase::Settling {
            self.search.phase = SearchPhase::Steady;
            if most > 1.0 {
                self.undo_if_ineffective(&window, now);
            }
        } else if signal > 1.0 {
            let factor = (0.95 - 0.2 * (signal - 1.0)).max(0.7);
            let measure = match signal {
                _ if signal <= ttft => Some(MeasureKind::FirstToken),
                _ if signal <= itl => Some(MeasureKind::Token),
                _ if signal <= whole => Some(MeasureKind::Whole),
                _ => None,
            };
            // As many as just decoded at once are not too many, unless the SLO is in danger.
            let least = match measure {
                Some(MeasureKind::FirstToken) if ttft * self.reference_share * self.usual[0] < self.late => {
                    self.flowing
                }
                _ => 0.0,
            };
            let limit = (self.search.limit * factor).max(least);
            if limit >= self.search.limit {
                // All in flight are decoded, so none waits for a place: the reason is another.
                self.accept(MeasureKind::FirstToken, &window, None);
            } else {
                let late = Duration::try_from_secs_f64((ttft - 1.0).max(0.0) * self.reference);
                let evidence = CutEvidence {
                    since: window.start,
                    late: late.unwrap_or_default(),
                    sudden: false,
                    trial: measure.map(|measure| (measure, window.of(measure).clone())),
                };
                self.cut(limit, evidence, now);
            }
        } else if calm && used && !failed && self.search.phase == SearchPhase::Steady {
            self.widen(now);
        }
    }

    /// Raises the limit: it was used and nothing spoke against it.
    fn widen(&mut self, now: Nanos) {
        let knee = self.search.knee.unwrap_or(f64::INFINITY);
        if self.search.limit < knee {
            self.raise((self.search.limit + self.search.limit.sqrt()).min(knee), now);
        } else if now >= self.search.try_at {
            if self.search.limit > knee {
                // A limit above the knee went well, so that was no knee.
                (self.search.knee, self.search.put_off) = (Some(self.search.limit), RETRY);
                self.search.step = (self.search.step * 2.0).min(self.search.limit.sqrt());
            }
            self.raise(self.search.limit + self.search.step, now);
        }
    }

    fn cut(&mut self, limit: f64, evidence: CutEvidence, now: Nanos) {
        let before = self.search;
        if self.undone_at.is_some_and(|undone| now.since(undone) < 2 * WINDOW) {
            self.no_undo_until = now + NO_UNDO;
        }
        self.cut = Some(LimitCut { at: now, before, evidence });
        let limit = limit.clamp(self.floor, self.search.limit);
        self.search.step = 1.0;
        match self.search.knee {
            // A failed try: back to the last good limit, and a longer delay before the next try.
            Some(knee) if self.search.limit > knee && limit >= SAME_KNEE * knee => {
                self.search.limit = knee.max(self.floor);
                self.search.put_off = (self.search.put_off * 2).min(LONGEST_RETRY);
            }
            // Just below the knee, maybe by chance of lengths. The range between is soon retried.
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
        self.search.phase = SearchPhase::Settling;
        self.window = MeasureWindow::from(now);
    }

    /// Sets a larger limit, judged by requests sent from now on.
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

/// Returns the time a first token may take, in seconds: that of an idle worker plus slack.
fn reference(expected: Duration, slo: Duration) -> f64 {
    (expected.as_secs_f64() + SLACK * slo.as_secs_f64()).max(1e-6)
}

impl LimitAlgorithm for StreamLimit {
    fn limit(&self) -> u32 {
        (self.search.limit as u32).max(1)
    }

    fn observe(&mut self, sample: WorkerSample, now: Nanos) {
        match sample {
            WorkerSample::Dispatch { in_flight } => self.window.peak = self.window.peak.max(in_flight),
            WorkerSample::FirstToken { dispatched, ttft, expected, slo, flowing }
                if dispatched >= self.changed_at =>
            {
                self.flowing = f64::from(flowing);
                let reference = reference(expected, slo);
                let share = reference / slo.as_secs_f64().max(1e-6);
                self.reference += (reference - self.reference) / f64::from(ANSWERS);
                self.reference_share += (share - self.reference_share) / f64::from(ANSWERS);
                self.answered(MeasureKind::FirstToken, ttft.as_secs_f64() / reference, now);
            }
            WorkerSample::FirstToken { dispatched, ttft, expected, slo, .. } => {
                // Sent before the limit last changed: it shows the effect of the former one.
                if let Some(LimitCut { evidence, .. }) = &mut self.cut
                    && let Some((MeasureKind::FirstToken, earlier)) = &mut evidence.trial
                    && dispatched >= evidence.since
                {
                    earlier.add(ttft.as_secs_f64() / reference(expected, slo));
                }
            }
            WorkerSample::Whole { dispatched, elapsed, tokens, expected, slo }
                if dispatched >= self.changed_at =>
            {
                let decoding = ITL_SHARE * self.itl_slo * tokens as f64;
                let reference = reference(expected, slo) + decoding;
                self.answered(MeasureKind::Whole, elapsed.as_secs_f64() / reference, now);
            }
            WorkerSample::Tokens { count, span } if now - span >= self.changed_at => {
                let itl = span.as_secs_f64() / count.max(1) as f64;
                self.window.add_tokens(count, itl / (ITL_SHARE * self.itl_slo));
            }
            WorkerSample::Overdue { dispatched, flowing }
                if dispatched >= self.changed_at
                    && flowing > 0
                    && f64::from(flowing) < self.search.limit.floor() =>
            {
                let evidence = CutEvidence {
                    since: dispatched,
                    late: Duration::ZERO,
                    sudden: true,
                    trial: Some((MeasureKind::FirstToken, self.window.of(MeasureKind::FirstToken).clone())),
                };
                self.cut(f64::from(flowing), evidence, now);
            }
            WorkerSample::Stalled { from, to } => self.stalled(from, to, now),
            WorkerSample::WorkerFailed { .. } => self.window.failed = true,
            WorkerSample::Whole { .. }
            | WorkerSample::Tokens { .. }
            | WorkerSample::Overdue { .. }
            | WorkerSample::End { .. }
            | WorkerSample::ClientGone => {}
            WorkerSample::Report { waiting } => self.window.waiting = self.window.waiting.max(waiting),
        }
    }

    fn reconfigure(&mut self, hints: &WorkerHints) {
        self.ceiling = hints.slots.map_or(CEILING, f64::from);
        self.floor = f64::from(FLOOR).min(self.ceiling);
        // Other gateways may take what this one gives up, so a lack of improvement proves less.
        self.shared = hints.gateways > 1;
        (self.helps, self.late) =
            if self.shared { (0.5, LATE_BESIDE_OTHERS) } else { (MIN_IMPROVEMENT, LATE) };
        self.itl_slo = hints.itl_slo.as_secs_f64().max(1e-3);
        self.search.limit = self.search.limit.clamp(self.floor, self.ceiling);
    }
}
