//! Whether a cut was right.
//!
//! A cut that changes nothing was not called for: when first tokens are as late at the lower limit as at the higher, they
//! are late for another reason, and the limit returns. How late they are then counts as usual. And a cut whose evidence
//! falls into a stall is taken back as soon as the stall is known.

use std::time::Duration;

use super::window::{Measure, MeasuredRatios, Window};
use super::{ITL_SHARE, Search, Stream};
use crate::clock::Nanos;

/// How much better first tokens must be after a cut for the cut to have helped: how likely one from before is later
/// than one from after. One half is no difference; with ten of each, chance alone gives 0.63 or more in one of six.
pub(super) const HELPS: f64 = 0.62;
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
pub(super) const LATE: f64 = 0.6;
pub(super) const LATE_BESIDE_OTHERS: f64 = 0.4;
/// The same of slow tokens, of the promise for them.
const SLOW: f64 = 1.6;
/// A stall that ends so long after a cut can still undo it.
const UNDO: Duration = Duration::from_secs(3);
/// After a cut that soon followed an undo nothing is undone for so long.
pub(super) const NO_UNDO: Duration = Duration::from_secs(30);

/// A cut, and what it takes to take it back.
#[derive(Clone, Debug)]
pub(super) struct LimitCut {
    pub(super) at: Nanos,
    pub(super) before: Search,
    pub(super) evidence: Evidence,
}

/// What a cut was made for.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    /// Since when it was gathered.
    pub(super) since: Nanos,
    /// By how much first tokens were late.
    pub(super) late: Duration,
    /// It is one overdue first token, not a window.
    pub(super) sudden: bool,
    /// What was late, and how late, where that can be compared with what comes afterwards.
    pub(super) trial: Option<(Measure, MeasuredRatios)>,
}

impl Stream {
    /// Whether what came since a cut is too little to judge it.
    pub(super) fn is_trial_open(&self, now: Nanos) -> bool {
        let trial = self.cut.as_ref().and_then(|cut| cut.evidence.trial.as_ref());
        let Some((measure, _)) = trial else { return false };
        self.window.of(*measure).ratios.len() < TRIAL_ANSWERS && now.since(self.window.start) < TRIAL
    }

    /// Takes the last cut back if what was late is as late as before: it is not late because of the load.
    pub(super) fn take_back_in_vain(&mut self, window: &Window, now: Nanos) {
        let Some(LimitCut { before, evidence, .. }) = self.cut.take() else { return };
        let Evidence { sudden, trial: Some((measure, earlier)), .. } = evidence else { return };
        let later = window.of(measure);
        let few = earlier.ratios.len() < FEW || later.ratios.len() < FEW;
        let better = later.ratios.exceeded_by(&earlier.ratios).is_none_or(|share| share >= self.helps);
        let less = sudden || later.late() <= earlier.late() * LESS;
        if few || (better && less) {
            return;
        }
        self.accept(measure, window, Some(&earlier));
        self.restore(before, now);
    }

    /// What is late now is usual, up to where the promise is in danger.
    pub(super) fn accept(&mut self, measure: Measure, window: &Window, earlier: Option<&MeasuredRatios>) {
        let late = window.of(measure).late().max(earlier.map_or(0.0, MeasuredRatios::late));
        let most = match measure {
            Measure::FirstToken => self.late / self.reference_share.max(1e-6),
            Measure::Token => SLOW / ITL_SHARE,
            Measure::Whole => SLOW,
        };
        let usual = &mut self.usual[measure as usize];
        *usual = (late * TOLERANCE).min(most).max(*usual);
    }

    fn restore(&mut self, before: Search, now: Nanos) {
        let limit = before.limit.max(self.search.limit).clamp(self.floor, self.ceiling);
        self.search = Search { limit, ..before };
        self.changed_at = now;
        self.window = Window::from(now);
        self.cut = None;
    }

    /// What is usual is forgotten over minutes, for the worker may have changed.
    pub(super) fn forget(&mut self, now: Nanos) {
        let kept = 0.5_f64.powf(now.since(self.usual_at).as_secs_f64() / FORGET.as_secs_f64());
        self.usual_at = now;
        self.usual.iter_mut().for_each(|usual| *usual = 1.0 + (*usual - 1.0) * kept);
    }

    /// A stall was noticed. A cut whose evidence it explains is taken back at once and in full.
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
