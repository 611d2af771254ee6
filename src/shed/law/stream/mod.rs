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
//! limit at once. *Slow start*: until the first cut L grows with each first token in time, so that a large
//! worker is found in as many round trips as it has doublings. *Cuts count once*: only requests sent after the last cut are
//! judged, for those before it suffer from what was already mended.
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
/// The shortest and the longest time between two tries above the knee. Each try that fails makes a few requests wait
/// inside the worker: at the longest these are less than one in a hundred even of a small worker's.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// A cut to less than this share of the knee says that the worker has changed.
const SAME_KNEE: f64 = 0.8;

/// The law for workers that stream.
#[derive(Clone, Debug)]
pub struct Stream {
    limit: f64,
    floor: f64,
    ceiling: f64,
    itl_slo: f64,
    phase: Phase,
    /// Where the worker was last seen to be full.
    knee: Option<f64>,
    /// When more than that is tried again, how long that was put off, and by how much it is.
    try_at: Nanos,
    put_off: Duration,
    step: f64,
    /// Requests sent before this are not judged.
    cut_at: Nanos,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has been cut yet.
    SlowStart,
    /// The window after a cut: what was sent under the old limit drains.
    Settling,
    Steady,
}

#[derive(Clone, Debug, Default)]
struct Window {
    start: Nanos,
    ttft: Ratios,
    itl: Ratios,
    /// Of what was not streamed: its time, relative to what the two promises allow together.
    whole: Ratios,
    peak: u32,
    /// The longest queue that the worker reported.
    waiting: u32,
    failed: bool,
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
            phase: Phase::SlowStart,
            knee: None,
            try_at: Nanos::ZERO,
            put_off: RETRY,
            step: 1.0,
            cut_at: Nanos::ZERO,
            window: Window::default(),
        };
        law.retell(told);
        law
    }

    fn first_token(&mut self, ratio: f64, now: Nanos) {
        self.window.ttft.add(ratio);
        self.judge_when_due(ratio, now);
    }

    /// After an answer of this ratio: ends the window if it is long enough.
    fn judge_when_due(&mut self, ratio: f64, now: Nanos) {
        if self.phase == Phase::SlowStart && ratio < CALM && self.is_used(self.window.peak) {
            self.grow(1.0);
        }
        let answers = self.window.ttft.len() + self.window.whole.len();
        if now.since(self.window.start) >= WINDOW && answers >= ANSWERS {
            self.judge(now);
        }
    }

    /// Ends a window.
    fn judge(&mut self, now: Nanos) {
        let ttft = self.window.ttft.p90().unwrap_or(0.0);
        let itl = self.window.itl.p90().unwrap_or(0.0);
        let whole = self.window.whole.p90().unwrap_or(0.0);
        let signal = ttft.max(itl).max(whole).max(f64::from(self.window.waiting) / QUEUED);
        let (used, failed) = (self.is_used(self.window.peak), self.window.failed);
        self.window = Window { start: now, ..Window::default() };
        if signal > 1.0 {
            let factor = (0.95 - 0.2 * (signal - 1.0)).max(0.7);
            self.cut(self.limit * factor, now);
        } else if self.phase == Phase::Settling {
            self.phase = Phase::Steady;
        } else if signal < CALM && used && !failed && self.phase == Phase::Steady {
            self.widen(now);
        }
    }

    /// The limit was used and nothing spoke against it.
    fn widen(&mut self, now: Nanos) {
        let knee = self.knee.unwrap_or(f64::INFINITY);
        if self.limit < knee {
            self.limit = (self.limit + self.limit.sqrt()).min(knee).min(self.ceiling);
        } else if now >= self.try_at {
            if self.limit > knee {
                // More than the knee went well: it was none.
                (self.knee, self.put_off) = (Some(self.limit), RETRY);
                self.step = (self.step * 2.0).min(self.limit.sqrt());
            }
            self.grow(self.step);
        }
    }

    fn cut(&mut self, limit: f64, now: Nanos) {
        self.limit = limit.clamp(self.floor, self.limit);
        let same = self.knee.is_some_and(|knee| self.limit >= SAME_KNEE * knee);
        self.put_off = if same { (self.put_off * 2).min(LONGEST_RETRY) } else { RETRY };
        (self.knee, self.step) = (Some(self.limit), 1.0);
        self.try_at = now + self.put_off;
        self.cut_at = now;
        self.phase = Phase::Settling;
        self.window = Window { start: now, ..Window::default() };
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
            Sample::FirstToken { dispatched, ttft, expected, slo } if dispatched >= self.cut_at => {
                let reference = expected.as_secs_f64() + SLACK * slo.as_secs_f64();
                self.first_token(ttft.as_secs_f64() / reference.max(1e-6), now);
            }
            Sample::Whole { dispatched, elapsed, tokens, expected, slo } if dispatched >= self.cut_at => {
                let decoding = ITL_SHARE * self.itl_slo * tokens as f64;
                let reference = expected.as_secs_f64() + SLACK * slo.as_secs_f64() + decoding;
                let ratio = elapsed.as_secs_f64() / reference.max(1e-6);
                self.window.whole.add(ratio);
                self.judge_when_due(ratio, now);
            }
            Sample::Tokens { count, span } if now - span >= self.cut_at => {
                let itl = span.as_secs_f64() / count.max(1) as f64;
                self.window.itl.add(itl / (ITL_SHARE * self.itl_slo));
            }
            Sample::Overdue { dispatched, flowing }
                if dispatched >= self.cut_at && flowing > 0 && f64::from(flowing) < self.limit.floor() =>
            {
                self.cut(f64::from(flowing), now);
            }
            Sample::WorkerFailed { .. } => self.window.failed = true,
            Sample::FirstToken { .. }
            | Sample::Whole { .. }
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
        self.itl_slo = told.itl_slo.as_secs_f64().max(1e-3);
        self.limit = self.limit.clamp(self.floor, self.ceiling);
    }
}
