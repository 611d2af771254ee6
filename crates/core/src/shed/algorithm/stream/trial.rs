//! Tests whether a cut of the limit was right.
//!
//! A cut without effect was wrong: first tokens that are as late at the lower limit as at the
//! higher are late for another reason. The limit is restored, and this lateness counts as usual. A
//! cut whose evidence falls into a stall is undone as soon as the stall is known.

use std::time::Duration;

use super::window::{MeasureKind, MeasureWindow, MeasuredRatios};
use super::{ITL_SHARE, LimitSearch, StreamLimit};
use crate::clock::Nanos;

/// Minimum probability, for a cut that helped, that a first token from before is later than one
/// from after. One half is no difference; with ten of each, chance gives 0.63 or more in 1 of 6.
pub(super) const MIN_IMPROVEMENT: f64 = 0.62;
/// The late ones must also be at most this share as late as before.
const MAX_LATE_RATIO: f64 = 0.9;
/// Fewer samples give no verdict.
const FEW: u32 = 5;
/// Answers and time after which a cut is judged.
const TRIAL_ANSWERS: u32 = 20;
const TRIAL: Duration = Duration::from_secs(3);
/// Lateness that a lower limit does not change is not due to load: up to this factor above it,
/// first tokens do not count as late.
const TOLERANCE: f64 = 1.3;
/// Half-life of the usual lateness.
const FORGET: Duration = Duration::from_secs(300);
/// Share of the TTFT SLO that counts as late, however late first tokens usually are. One of several
/// gateways cannot tell what the others do, so its share is less.
pub(super) const LATE: f64 = 0.6;
pub(super) const LATE_BESIDE_OTHERS: f64 = 0.4;
/// The same for slow tokens, relative to the ITL SLO.
const SLOW: f64 = 1.6;
/// A stall that ends this long after a cut can still undo it.
const UNDO: Duration = Duration::from_secs(3);
/// After a cut that soon followed an undo, nothing is undone for this long.
pub(super) const NO_UNDO: Duration = Duration::from_secs(30);

/// A cut, and what is needed to undo it.
#[derive(Clone, Debug)]
pub(super) struct LimitCut {
    pub(super) at: Nanos,
    pub(super) before: LimitSearch,
    pub(super) evidence: CutEvidence,
}

#[derive(Clone, Debug)]
pub(super) struct CutEvidence {
    pub(super) since: Nanos,
    /// By how much first tokens were late.
    pub(super) late: Duration,
    /// `true` for one overdue first token, `false` for a window.
    pub(super) sudden: bool,
    /// The late quantity and its samples, if they can be compared with later ones.
    pub(super) trial: Option<(MeasureKind, MeasuredRatios)>,
}

impl StreamLimit {
    /// Returns `true` if there are too few samples since a cut to judge it.
    pub(super) fn is_trial_open(&self, now: Nanos) -> bool {
        let trial = self.cut.as_ref().and_then(|cut| cut.evidence.trial.as_ref());
        let Some((measure, _)) = trial else { return false };
        self.window.of(*measure).ratios.len() < TRIAL_ANSWERS && now.since(self.window.start) < TRIAL
    }

    /// Undoes the last cut if the lateness is unchanged, and so not due to load.
    pub(super) fn undo_if_ineffective(&mut self, window: &MeasureWindow, now: Nanos) {
        let Some(LimitCut { before, evidence, .. }) = self.cut.take() else { return };
        let CutEvidence { sudden, trial: Some((measure, earlier)), .. } = evidence else { return };
        let later = window.of(measure);
        let few = earlier.ratios.len() < FEW || later.ratios.len() < FEW;
        let better = later.ratios.exceeded_by(&earlier.ratios).is_none_or(|share| share >= self.helps);
        let less = sudden || later.late() <= earlier.late() * MAX_LATE_RATIO;
        if few || (better && less) {
            return;
        }
        self.accept(measure, window, Some(&earlier));
        self.restore(before, now);
    }

    /// Takes the current lateness as usual, up to where the SLO is in danger.
    pub(super) fn accept(
        &mut self,
        measure: MeasureKind,
        window: &MeasureWindow,
        earlier: Option<&MeasuredRatios>,
    ) {
        let late = window.of(measure).late().max(earlier.map_or(0.0, MeasuredRatios::late));
        let most = match measure {
            MeasureKind::FirstToken => self.late / self.reference_share.max(1e-6),
            MeasureKind::Token => SLOW / ITL_SHARE,
            MeasureKind::Whole => SLOW,
        };
        let usual = &mut self.usual[measure as usize];
        *usual = (late * TOLERANCE).min(most).max(*usual);
    }

    fn restore(&mut self, before: LimitSearch, now: Nanos) {
        let limit = before.limit.max(self.search.limit).clamp(self.floor, self.ceiling);
        self.search = LimitSearch { limit, ..before };
        self.changed_at = now;
        self.window = MeasureWindow::from(now);
        self.cut = None;
    }

    /// Lets the usual lateness decay over minutes, as the worker may have changed.
    pub(super) fn forget(&mut self, now: Nanos) {
        let kept = 0.5_f64.powf(now.since(self.usual_at).as_secs_f64() / FORGET.as_secs_f64());
        self.usual_at = now;
        self.usual.iter_mut().for_each(|usual| *usual = 1.0 + (*usual - 1.0) * kept);
    }

    /// Records a stall; undoes a cut at once and in full if the stall explains its evidence.
    pub(super) fn stalled(&mut self, from: Nanos, to: Nanos, now: Nanos) {
        let Some(cut) = self.cut.as_ref().filter(|cut| now.since(cut.at) <= UNDO) else { return };
        let overlap = to.min(cut.at).since(from.max(cut.evidence.since));
        if overlap.is_zero() || overlap < cut.evidence.late || now < self.no_undo_until {
            return;
        }
        let before = cut.before;
        self.undone_at = Some(now);
        self.restore(before, now);
    }
}
