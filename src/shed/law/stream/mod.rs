//! The law for workers that stream.
//!
//! It watches what the promise is about, the time to the first token, and compares it with what an idle worker would
//! need for the same prompt. As long as first tokens come in time there is no queue inside the worker; a queue there
//! is waste, for it can be neither reordered nor cancelled. In windows of at least a second and ten first tokens:
//!
//! s = max(p90 of TTFT / (E + 0.15·slo), p90 of ITL / (0.8·itl_slo), reported waiting / 5)
//!
//! * s > 1: L is multiplied by max(0.7, 0.95 − 0.2·(s − 1)), and the next window only settles.
//! * s < 0.85 and the limit was used: L grows, by √L up to where the worker was last seen to be full, its knee. Above
//!   the knee it is tried by 1, then 2, then 4; each failure doubles the time to the next try, from 2 s to 30 s.
//! * otherwise, and without samples, L stays.
//!
//! Three things make it quicker than its windows. *The knee shows itself*: when a first token is overdue although the
//! prompts ahead do not explain it, while other streams flow, the worker decodes just as many as flow, and that is the
//! limit at once. *Slow start*: until the first cut two first tokens in time make room for one more, so that a large
//! worker is found in a few round trips. *Changes count once*: only requests sent after the last one are judged, for
//! those before it suffer from what was already mended, or have not met what is new.
//!
//! Answers that are not streamed say less: only whether they came, with all their tokens, within what the two promises
//! allow together. They are judged by that, so a worker that streams nothing keeps its promise too, but has more of a
//! queue inside than one that shows its first tokens.
//!
//! * **Failure mode.** A worker whose answers have no tokens (embeddings) is judged by its prompts alone.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::{Law, Sample, Told};
use crate::clock::Nanos;
use crate::shed::quantile::Ratios;

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

/// How much better first tokens must be after a cut for the cut to have helped: how likely one from before is later
/// than one from after. One half is no difference; with ten of each, chance alone gives 0.63 or more in one of six.
const HELPS: f64 = 0.62;
/// And how much of them the late ones must be at most.
const LESS: f64 = 0.9;
/// Less than that says nothing.
const FEW: u32 = 5;
/// Answers and time after which a cut is judged.
const TRIAL_ANSWERS: u32 = 20;
const TRIAL: Duration = Duration::from_secs(3);
/// What is as late at a lower limit is not late because of the load: so much later than that is not held against the
/// worker.
const TOLERANCE: f64 = 1.3;
/// Half of that is forgotten in this time.
const FORGET: Duration = Duration::from_secs(300);
/// Share of the promise that counts as late however late first tokens usually are; for one of several gateways, which
/// cannot tell what the others do, it is less.
const LATE: f64 = 0.6;
const LATE_BESIDE_OTHERS: f64 = 0.4;
/// The same of slow tokens, of the promise for them.
const SLOW: f64 = 1.6;
/// The first try above the knee after a cut, as a share of the knee.
const FIRST_TRY: f64 = 0.1;
/// A stall that ends so long after a cut can still undo it.
const UNDO: Duration = Duration::from_secs(3);
/// A cut that follows an undo within this stands, and nothing is undone for as long.
const NO_UNDO: Duration = Duration::from_secs(30);

/// The law for workers that stream.
#[derive(Clone, Debug)]
pub struct Stream {
    limit: f64,
    floor: f64,
    ceiling: f64,
    itl_slo: f64,
    /// How much better it must be after a cut.
    helps: f64,
    /// Share of the promise that counts as late.
    late: f64,
    phase: Phase,
    /// Where the worker was last seen to be full.
    knee: Option<f64>,
    /// When more than that is tried again, how long that was put off, and by how much it is.
    try_at: Nanos,
    put_off: Duration,
    step: f64,
    /// Requests sent before the limit last changed are not judged: they say nothing about it.
    changed_at: Nanos,
    window: Window,
    /// Sequences that were seen to flow at once of late: so many the worker decodes.
    flowing: f64,
    /// The last cut, as long as it may be taken back.
    cut: Option<Cut>,
    undone_at: Option<Nanos>,
    no_undo_until: Nanos,
    /// How late first tokens, tokens and answers are that are not late because of the load, as ratios above 1.
    usual: [f64; 3],
    usual_at: Nanos,
    /// A moving mean of what a first token may take, in seconds, and as a share of the promise.
    reference: f64,
    reference_share: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has been cut yet.
    SlowStart,
    /// The window after a cut: what was sent under the old limit drains.
    Settling,
    Steady,
}

/// What is measured of a worker, and may be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    FirstToken,
    Token,
    Whole,
}

/// A cut, and what it takes to take it back.
#[derive(Clone, Debug)]
struct Cut {
    at: Nanos,
    /// Since when its evidence was gathered.
    since: Nanos,
    /// By how much first tokens were late.
    late: Duration,
    before: Before,
    /// It was made at once when a first token was overdue, not at the end of a window.
    sudden: bool,
    /// What was late, and how late, where that can be compared with what comes afterwards.
    trial: Option<(Measure, Ratios)>,
}

/// What a cut changes.
#[derive(Clone, Copy, Debug)]
struct Before {
    limit: f64,
    phase: Phase,
    knee: Option<f64>,
    try_at: Nanos,
    put_off: Duration,
    step: f64,
}

#[derive(Clone, Debug, Default)]
struct Window {
    start: Nanos,
    /// Time to the first token, time from token to token, and time of what was not streamed; each relative to what it
    /// may take.
    measured: [Ratios; 3],
    peak: u32,
    /// The longest queue that the worker reported.
    waiting: u32,
    failed: bool,
}

impl Window {
    fn from(start: Nanos) -> Self {
        Self { start, ..Self::default() }
    }

    fn of(&self, measure: Measure) -> &Ratios {
        &self.measured[measure as usize]
    }

    fn add(&mut self, measure: Measure, ratio: f64) {
        self.measured[measure as usize].add(ratio);
    }

    fn answers(&self) -> u32 {
        self.of(Measure::FirstToken).len() + self.of(Measure::Whole).len()
    }
}

impl Stream {
    /// A law for a worker of which `told` is known.
    #[must_use]
    pub fn new(told: &Told) -> Self {
        let mut law = Self {
            limit: f64::from(START / told.dams.max(1)),
            floor: 1.0,
            ceiling: 1.0,
            itl_slo: 1.0,
            helps: HELPS,
            late: LATE,
            phase: Phase::SlowStart,
            knee: None,
            try_at: Nanos::ZERO,
            put_off: RETRY,
            step: 1.0,
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
        if self.phase == Phase::SlowStart && ratio < CALM && self.is_used(self.window.peak) {
            self.grow(SLOW_START);
        }
        if now.since(self.window.start) >= WINDOW && self.window.answers() >= ANSWERS {
            self.judge(now);
        }
    }

    /// How late most are, relative to what is usual at this worker.
    fn lateness(&self, measure: Measure) -> f64 {
        self.window.of(measure).p90().unwrap_or(0.0) / self.usual[measure as usize]
    }

    /// Ends a window.
    fn judge(&mut self, now: Nanos) {
        self.forget(now);
        if self.phase == Phase::Settling && self.is_trial_open(now) {
            return;
        }
        let [ttft, itl, whole] =
            [Measure::FirstToken, Measure::Token, Measure::Whole].map(|measure| self.lateness(measure));
        let signal = ttft.max(itl).max(whole).max(f64::from(self.window.waiting) / QUEUED);
        let (used, failed) = (self.is_used(self.window.peak), self.window.failed);
        let window = std::mem::replace(&mut self.window, Window::from(now));
        if self.phase == Phase::Settling {
            self.phase = Phase::Steady;
            if signal > 1.0 && self.was_in_vain(&window, now) {
                return;
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
            let limit = (self.limit * factor).max(least);
            if limit >= self.limit {
                // All that is in flight is decoded, so nothing waits for a place: it is late for another reason.
                self.accept(Measure::FirstToken, &window, None);
            } else {
                let late = Duration::try_from_secs_f64((ttft - 1.0).max(0.0) * self.reference);
                let trial = measure.map(|measure| (measure, window.of(measure).clone()));
                self.cut(limit, (window.start, late.unwrap_or_default(), false), trial, now);
            }
        } else if signal < CALM && used && !failed && self.phase == Phase::Steady {
            self.widen(now);
        }
    }

    /// Whether what came since a cut is too little to judge it.
    fn is_trial_open(&self, now: Nanos) -> bool {
        let trial = self.cut.as_ref().and_then(|cut| cut.trial.as_ref());
        let Some((measure, _)) = trial else { return false };
        self.window.of(*measure).len() < TRIAL_ANSWERS && now.since(self.window.start) < TRIAL
    }

    /// Takes the last cut back if what was late is as late as before: it is not late because of the load.
    fn was_in_vain(&mut self, window: &Window, now: Nanos) -> bool {
        let Some(Cut { before, sudden, trial: Some((measure, earlier)), .. }) = self.cut.take() else {
            return false;
        };
        let later = window.of(measure);
        let few = earlier.len() < FEW || later.len() < FEW;
        let better = later.exceeded_by(&earlier).is_none_or(|share| share >= self.helps);
        let less = sudden || later.p90() <= earlier.p90().map(|p90| p90 * LESS);
        let helped = few || better && less;
        if helped {
            return false;
        }
        self.accept(measure, window, Some(&earlier));
        self.restore(before, now);
        true
    }

    /// What is late now is usual, up to where the promise is in danger.
    fn accept(&mut self, measure: Measure, window: &Window, earlier: Option<&Ratios>) {
        let p90 = |ratios: &Ratios| ratios.p90().unwrap_or(0.0);
        let p90 = p90(window.of(measure)).max(earlier.map_or(0.0, p90));
        let most = match measure {
            Measure::FirstToken => self.late / self.reference_share.max(1e-6),
            Measure::Token => SLOW / ITL_SHARE,
            Measure::Whole => SLOW,
        };
        let usual = &mut self.usual[measure as usize];
        *usual = (p90 * TOLERANCE).min(most).max(*usual);
    }

    fn restore(&mut self, before: Before, now: Nanos) {
        let Before { limit, phase, knee, try_at, put_off, step } = before;
        self.limit = limit.max(self.limit).clamp(self.floor, self.ceiling);
        (self.phase, self.knee, self.try_at, self.put_off, self.step) = (phase, knee, try_at, put_off, step);
        self.changed_at = now;
        self.window = Window::from(now);
        self.cut = None;
    }

    /// What is usual is forgotten over minutes, for the worker may have changed.
    fn forget(&mut self, now: Nanos) {
        let kept = 0.5_f64.powf(now.since(self.usual_at).as_secs_f64() / FORGET.as_secs_f64());
        self.usual_at = now;
        self.usual.iter_mut().for_each(|usual| *usual = 1.0 + (*usual - 1.0) * kept);
    }

    /// The limit was used and nothing spoke against it.
    fn widen(&mut self, now: Nanos) {
        let knee = self.knee.unwrap_or(f64::INFINITY);
        if self.limit < knee {
            self.raise((self.limit + self.limit.sqrt()).min(knee), now);
        } else if now >= self.try_at {
            if self.limit > knee {
                // More than the knee went well: it was none.
                (self.knee, self.put_off) = (Some(self.limit), RETRY);
                self.step = (self.step * 2.0).min(self.limit.sqrt());
            }
            self.raise(self.limit + self.step, now);
        }
    }

    fn cut(
        &mut self,
        limit: f64,
        (since, late, sudden): (Nanos, Duration, bool),
        trial: Option<(Measure, Ratios)>,
        now: Nanos,
    ) {
        let Self { limit: from, phase, knee, try_at, put_off, step, .. } = *self;
        let before = Before { limit: from, phase, knee, try_at, put_off, step };
        if self.undone_at.is_some_and(|undone| now.since(undone) < 2 * WINDOW) {
            self.no_undo_until = now + NO_UNDO;
        }
        self.cut = Some(Cut { at: now, since, late, before, sudden, trial });
        let limit = limit.clamp(self.floor, self.limit);
        self.step = 1.0;
        match self.knee {
            // A try that failed: back to what was well before, and more patience with the next.
            Some(knee) if self.limit > knee && limit >= SAME_KNEE * knee => {
                self.limit = knee.max(self.floor);
                self.put_off = (self.put_off * 2).min(LONGEST_RETRY);
            }
            // A little less than before: it may be the luck of the last lengths. What is between is soon tried again.
            Some(knee) if limit >= SAME_KNEE * knee => {
                (self.limit, self.knee, self.put_off) = (limit, Some(f64::midpoint(limit, knee)), RETRY);
            }
            _ => {
                self.step = ((from - limit) / 2.0).clamp(1.0, (FIRST_TRY * limit).max(1.0));
                (self.limit, self.knee, self.put_off) = (limit, Some(limit), RETRY);
            }
        }
        self.try_at = now + self.put_off;
        self.changed_at = now;
        self.phase = Phase::Settling;
        self.window = Window::from(now);
    }

    /// A stall was noticed. A cut whose evidence it explains is taken back at once and in full.
    fn stalled(&mut self, from: Nanos, to: Nanos, now: Nanos) {
        let Some(cut) = self.cut.as_ref().filter(|cut| now.since(cut.at) <= UNDO) else { return };
        let overlap = to.min(cut.at).since(from.max(cut.since));
        if overlap.is_zero() || overlap < cut.late || now < self.no_undo_until {
            return;
        }
        let before = cut.before;
        self.undone_at = Some(now);
        self.restore(before, now);
    }

    /// A larger limit that is judged by what is sent from now on.
    fn raise(&mut self, limit: f64, now: Nanos) {
        self.limit = limit.min(self.ceiling);
        self.changed_at = now;
    }

    fn grow(&mut self, step: f64) {
        self.limit = (self.limit + step).min(self.ceiling);
    }

    fn is_used(&self, peak: u32) -> bool {
        f64::from(peak) >= USED * self.limit.floor()
    }
}

impl Law for Stream {
    fn limit(&self) -> u32 {
        (self.limit as u32).max(1)
    }

    fn observe(&mut self, sample: Sample, now: Nanos) {
        match sample {
            Sample::Dispatch { in_flight } => self.window.peak = self.window.peak.max(in_flight),
            Sample::FirstToken { dispatched, ttft, expected, slo, flowing }
                if dispatched >= self.changed_at =>
            {
                self.flowing = f64::from(flowing);
                let reference = expected.as_secs_f64() + SLACK * slo.as_secs_f64();
                let share = reference / slo.as_secs_f64().max(1e-6);
                self.reference += (reference - self.reference) / f64::from(ANSWERS);
                self.reference_share += (share - self.reference_share) / f64::from(ANSWERS);
                self.answered(Measure::FirstToken, ttft.as_secs_f64() / reference.max(1e-6), now);
            }
            Sample::FirstToken { dispatched, ttft, expected, slo, .. } => {
                // It was sent before the limit last changed: it shows what the former one was like.
                if let Some(Cut { since, trial: Some((Measure::FirstToken, earlier)), .. }) = &mut self.cut
                    && dispatched >= *since
                {
                    let reference = expected.as_secs_f64() + SLACK * slo.as_secs_f64();
                    earlier.add(ttft.as_secs_f64() / reference.max(1e-6));
                }
            }
            Sample::Whole { dispatched, elapsed, tokens, expected, slo } if dispatched >= self.changed_at => {
                let decoding = ITL_SHARE * self.itl_slo * tokens as f64;
                let reference = expected.as_secs_f64() + SLACK * slo.as_secs_f64() + decoding;
                self.answered(Measure::Whole, elapsed.as_secs_f64() / reference.max(1e-6), now);
            }
            Sample::Tokens { count, span } if now - span >= self.changed_at => {
                let itl = span.as_secs_f64() / count.max(1) as f64;
                self.window.add(Measure::Token, itl / (ITL_SHARE * self.itl_slo));
            }
            Sample::Overdue { dispatched, flowing }
                if dispatched >= self.changed_at
                    && flowing > 0
                    && f64::from(flowing) < self.limit.floor() =>
            {
                let trial = Some((Measure::FirstToken, self.window.of(Measure::FirstToken).clone()));
                self.cut(f64::from(flowing), (dispatched, Duration::ZERO, true), trial, now);
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
        (self.helps, self.late) = if told.dams > 1 { (0.5, LATE_BESIDE_OTHERS) } else { (HELPS, LATE) };
        self.itl_slo = told.itl_slo.as_secs_f64().max(1e-3);
        self.limit = self.limit.clamp(self.floor, self.ceiling);
    }
}
