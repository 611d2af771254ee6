//! A worker that dies at a load of twice its capacity.

use std::error::Error;
use std::time::Duration;

use tokio::time::sleep_until;

use crate::arrivals::{Source, draw};
use crate::drive::{drive, soon, watch};
use crate::figures::{Rate, Run};
use crate::gateways::DamFile;
use crate::parts::{ours, say};
use crate::picture;
use crate::plan::{Arm, WORKER, WorkerSize};
use crate::sample::{Outcome, Sample};
use crate::section::{Check, Section, Table, seconds};
use crate::servers::Server;
use crate::stage::{FULL, Stage};

/// Size of each of several workers: half as large, so that the machine can run them.
const SMALL: WorkerSize = WorkerSize { slots: 32, kv_tokens: 131_072, ..WORKER };
const WORKERS: u64 = 3;
pub(super) const LOAD: f64 = 2.0;
/// Time measured before and after the death.
const BEFORE: Duration = Duration::from_secs(8);
const AFTER: Duration = Duration::from_secs(12);
/// Step in which goodput is counted, by the time of first tokens.
const STEP: Duration = Duration::from_millis(500);
/// Goodput is back when its mean over this many steps is back; with fewer, chance decides.
const STEPS: usize = 6;
/// Share of the remaining workers' goodput that must be reached again.
const RETURNED: f64 = 0.95;
/// Allowed seconds: a refused connection shows the death at once; the contract allows two.
const ALLOWED: f64 = 2.0;

const TEXT: &str = "\
Three workers of 32 slots at 2×; one is killed. Remaining: two thirds of the goodput of the 8 s before.
Back: the time from the death to the first half second from which on a mean of 3 s reaches 95 % of that.
Lost: streams that had begun on the dead worker, which no gateway can save. Failed: requests without a token
that got an error.";

pub(crate) async fn run(stage: &Stage<'_>) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("A worker dies", TEXT);
    let mut table = Table::new(Course::HEAD);
    let alone = stage.best(SMALL, &FULL[1..2], stage.options.measured().div_f64(2.0)).await?;
    let rate = alone.requests * WORKERS as f64 * LOAD;
    let mut lines = Vec::new();
    for arm in ours(stage.options) {
        let blow = |victim: &mut Server| {
            victim.kill();
            Ok(())
        };
        let run = death(stage, arm, (SMALL, WORKERS), rate, blow).await?;
        let (figures, samples) = (run.figures(alone), run.samples);
        section.fault(&arm.plain_title(), &figures.faults);
        if figures.errors > 0 {
            section.notes.push(format!("Errors, {}: {}.", arm.plain_title(), figures.errors_by_kind));
        }
        let course = Course::of(&samples, WORKERS);
        let title = arm.plain_title();
        say(format_args!("killed, {title}: back after {}, {} failed", course.shown(), course.failed));
        table.rows.push(course.row(arm.title()));
        section.checks.extend(course.checks(
            (format!("back after a death at 2×, {title}"), ALLOWED),
            format!("requests without a token that failed at a death, {title}"),
        ));
        lines.push((arm, course.rates));
    }
    section.pictures = picture::killed(&stage.options.out, &lines, STEP, BEFORE)?;
    section.tables.push((String::new(), table));
    Ok(section)
}

/// Goodput around the failure of one of several workers.
pub(super) struct Course {
    /// Goodput per second in each step.
    rates: Vec<f64>,
    before: f64,
    /// Goodput per second that the other workers can give.
    remaining: f64,
    after: f64,
    /// Seconds until goodput was back.
    back: Option<f64>,
    pub(super) lost: usize,
    pub(super) failed: usize,
}

impl Course {
    /// Heads of a table of these.
    pub(super) const HEAD: [&str; 7] =
        ["", "goodput/s before", "remaining", "goodput/s after", "back after", "lost", "failed"];

    /// Computes it from the samples that [`death`] returns.
    pub(super) fn of(samples: &[Sample], workers: u64) -> Self {
        let rates = goodput(samples, BEFORE + AFTER);
        let at = steps(BEFORE);
        let before = mean(&rates[..at]);
        let remaining = before * (workers - 1) as f64 / workers as f64;
        Self {
            before,
            remaining,
            after: mean(&rates[rates.len() - STEPS..]),
            back: back_after(&rates[at..], remaining * RETURNED),
            lost: count(samples, |outcome| matches!(outcome, Outcome::Cut { first: Some(_) })),
            failed: count(samples, |outcome| {
                matches!(outcome, Outcome::Cut { first: None } | Outcome::Failed(_))
            }),
            rates,
        }
    }

    /// Returns the time until goodput was back, as text.
    pub(super) fn shown(&self) -> String {
        self.back.map_or_else(|| "never".to_owned(), seconds)
    }

    pub(super) fn row(&self, title: &str) -> Vec<String> {
        let number = |value: f64| format!("{value:.1}");
        vec![
            title.to_owned(),
            number(self.before),
            number(self.remaining),
            number(self.after),
            self.shown(),
            self.lost.to_string(),
            self.failed.to_string(),
        ]
    }

    /// Checks that goodput was back in time, and that no retryable request failed.
    pub(super) fn checks(&self, (back, allowed): (String, f64), failed: String) -> [Check; 2] {
        [
            Check::at_most(back, allowed, self.back, seconds),
            Check::at_most(failed, 0.0, Some(self.failed as f64), |n| format!("{n:.0}")),
        ]
    }
}

/// Returns all requests from `BEFORE` before `blow` on, with times counted from there.
pub(super) async fn death(
    stage: &Stage<'_>,
    arm: Arm,
    (size, workers): (WorkerSize, u64),
    rate: f64,
    blow: impl Fn(&mut Server) -> Result<(), Box<dyn Error>>,
) -> Result<Run, Box<dyn Error>> {
    let file = DamFile::of(arm, size).ok_or("not an arm of the dam")?;
    let mut setting = stage.dam(&file, size, workers).await?;
    stage.settle(&setting, rate / LOAD, stage.options.settling()).await;
    let warm_up = stage.options.warm_up();
    // Arrivals are drawn for a longer time: the first tokens of the last ones come later.
    let arrivals = draw(&Source::retry_spread(20, rate, warm_up + BEFORE + AFTER + STEP), stage.options.seed);
    let start = soon();
    let client = std::sync::Arc::clone(&setting.client);
    let victim = async {
        sleep_until(start + warm_up + BEFORE).await;
        blow(&mut setting.workers[0].0)
    };
    let pid = setting.gateway.pid();
    let ((spent, (), ()), mut samples, dealt) = tokio::join!(
        watch(pid, start + warm_up, start + warm_up + BEFORE + AFTER, async || ()),
        drive(&client, arrivals, start, None),
        victim
    );
    dealt?;
    let good = Rate::of(&samples, warm_up, BEFORE + AFTER);
    samples.retain(|sample| sample.arrival.due >= warm_up);
    for sample in &mut samples {
        sample.arrival.due -= warm_up;
    }
    Ok(Run { samples, good, measured: BEFORE + AFTER, spent, readings: None })
}

fn steps(time: Duration) -> usize {
    time.as_millis().div_euclid(STEP.as_millis()) as usize
}

/// Returns goodput per second in each step, by the time of the first token.
fn goodput(samples: &[Sample], length: Duration) -> Vec<f64> {
    let mut rates = vec![0.0; steps(length)];
    for sample in samples.iter().filter(|sample| sample.is_good()) {
        let Some(first) = sample.first() else { continue };
        if let Some(rate) = rates.get_mut(steps(sample.arrival.due + first)) {
            *rate += 1.0 / STEP.as_secs_f64();
        }
    }
    rates
}

fn mean(rates: &[f64]) -> f64 {
    rates.iter().sum::<f64>() / rates.len().max(1) as f64
}

/// Returns the seconds until the mean of [`STEPS`] rates from the first on reaches `wanted`.
fn back_after(rates: &[f64], wanted: f64) -> Option<f64> {
    let step = rates.windows(STEPS).position(|window| mean(window) >= wanted)?;
    Some(step as f64 * STEP.as_secs_f64())
}

fn count(samples: &[Sample], is: fn(&Outcome) -> bool) -> usize {
    samples.iter().filter(|sample| is(&sample.outcome)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::{sample, served};

    #[test]
    fn goodput_returns_when_it_stays() {
        let dip = [0.0, 0.0, 40.0, 0.0, 90.0, 90.0, 90.0, 90.0, 90.0, 90.0, 90.0];
        assert_eq!(back_after(&dip, 90.0), Some(2.0));
        assert_eq!(back_after(&[90.0; 8], 90.0), Some(0.0));
        assert_eq!(back_after(&[10.0; 8], 90.0), None);
    }

    #[test]
    fn goodput_is_counted_where_its_first_token_came() {
        // Due at 1 s, first tokens after 400 ms and after 600 ms.
        let samples = [sample(true, served(400)), sample(true, served(600)), sample(true, served(1500))];
        assert_eq!(goodput(&samples, Duration::from_secs(2)), [0.0, 0.0, 2.0, 2.0]);
    }
}
