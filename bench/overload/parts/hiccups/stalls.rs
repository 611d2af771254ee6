//! Single stalls, and slots that are lost for good.

use std::error::Error;
use std::time::Duration;

use super::course::{AFTER, After, BACK, steps};
use super::courses::Courses;
use super::shape::{ROOMY, STEADY, Shape};
use super::trial::{Disturbance, Process, Trial, TrialRun, side_by_side};
use crate::figures::Rate;
use crate::plan::Arm;
use crate::section::{Check, Section, Table, percent, ratio};
use crate::stage::Stage;

/// Load during a stall, relative to the capacity.
pub(super) const LOAD: f64 = 0.8;
/// Length of the stall in the pictures, and of the stall of the worker that loses slots.
const LONGEST: Duration = Duration::from_secs(1);
const STALLS: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), LONGEST];
/// Stalls of the large worker; at 800 requests/s one second would be long.
const ROOMY_STALLS: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(600)];
/// A trial runs a little longer than the evaluated time, so that the last step is complete.
const MARGIN: Duration = Duration::from_millis(300);
/// Start of the stall since the measurement began; the second before it is evaluated too.
const START: Duration = Duration::from_millis(1300);

/// Half of the slots, as JSON and as a number.
const HALVED: (&str, f64) = (r#"{"slots": 32}"#, 32.0);
/// Highest correct limit for the remaining slots, relative to their number.
const KNEE: f64 = 1.2;
/// Seconds until the limit must be that low, from the loss or from the end of its stall.
const FOUND_WITHIN: f64 = 3.0;
/// Seconds after which goodput is counted; it shows whether the limit was cut too far.
const LATER: f64 = 5.0;

/// Measures each stall once, of the worker and of the gateway.
pub(super) async fn once(
    stage: &Stage<'_>,
    arms: &[Arm],
    section: &mut Section,
    courses: &mut Courses,
) -> Result<Table, Box<dyn Error>> {
    let mut table = Table::new([
        "stopped once",
        "limit before",
        "1 s after",
        "least later",
        "of before",
        "offered meanwhile",
        "refused",
        "goodput of the next 10 s",
    ]);
    for (shape, rate, process, stalls) in [
        (STEADY, STEADY.capacity * LOAD, Process::Worker, &STALLS[..]),
        (STEADY, STEADY.capacity * LOAD, Process::Gateway, &STALLS[..]),
        (ROOMY, ROOMY.capacity, Process::Worker, &ROOMY_STALLS[..]),
        (ROOMY, ROOMY.capacity, Process::Gateway, &ROOMY_STALLS[1..]),
    ] {
        for &length in stalls {
            let at = START;
            let stall = Disturbance::Stall { process, at, length };
            let trial = around(stage, shape, rate, length, vec![stall]);
            for watched in side_by_side(stage, &[trial], &arms_of(&shape, arms)).await?.concat() {
                let what =
                    format!("{}, {} s, {}", process.name(), length.as_secs_f64(), of(&shape, watched.arm));
                row(&what, &watched, section, &mut table)?;
                let steps = steps(&watched, watched.stalls[0]);
                let told = if watched.arm == Arm::StreamUntold { "size not told" } else { "size told" };
                let name = (format!("{}, {told}", process.name()), process == Process::Worker);
                let pictured = shape.title == STEADY.title && length == LONGEST;
                courses.add(&what, pictured.then_some(name), &steps);
            }
        }
    }
    Ok(table)
}

/// Returns a trial that measures long enough around a stall of `length` at [`START`].
fn around(
    stage: &Stage<'_>,
    shape: Shape,
    rate: f64,
    length: Duration,
    disturbances: Vec<Disturbance>,
) -> Trial {
    let length = START + length + Duration::from_secs_f64(AFTER) + MARGIN;
    Trial { shape, rate, length, change_first: None, disturbances, seed: stage.options.seed }
}

/// Returns all arms for the default worker. The large worker fills the machine alone, so it gets
/// only the arm without configured slots: a configured limit of thousands shows nothing.
fn arms_of(shape: &Shape, arms: &[Arm]) -> Vec<Arm> {
    let usual = shape.title == STEADY.title;
    arms.iter().copied().filter(|arm| usual || *arm == Arm::StreamUntold).collect()
}

/// Returns the arm's name, with the worker's name unless it is the default one.
fn of(shape: &Shape, arm: Arm) -> String {
    if shape.title == STEADY.title {
        arm.plain_title()
    } else {
        format!("{}, {}", shape.title, arm.plain_title())
    }
}

fn row(
    what: &str,
    watched: &TrialRun,
    section: &mut Section,
    table: &mut Table,
) -> Result<(), Box<dyn Error>> {
    let stall = *watched.stalls.first().ok_or("nothing was stopped")?;
    let after = After::of(watched, stall);
    let mut faults = watched.run.figures(NO_PEAK).faults;
    if after.refused_before > 0 {
        faults.push(format!("{} requests were refused before anything was stopped", after.refused_before));
    }
    section.fault(what, &faults);
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.0}"));
    let share = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), percent);
    table.rows.push(vec![
        what.to_owned(),
        number(after.before),
        number(after.soon),
        number(after.least),
        share(after.of_before(after.least)),
        after.offered.to_string(),
        after.refused.to_string(),
        share(after.good),
    ]);
    let checks = &mut section.checks;
    let limit = after.of_before(after.least);
    checks.push(Check::at_least(format!("limit from 1 s after, of before: {what}"), BACK, limit, percent));
    let refused = Some(after.refused_of_offered());
    checks.push(Check::at_most(
        format!("refused, of what was offered meanwhile: {what}"),
        1.0,
        refused,
        ratio,
    ));
    checks.push(Check::at_least(format!("goodput of the next 10 s: {what}"), 0.98, after.good, percent));
    Ok(())
}

/// Measures a worker that loses half of its slots for good, without a stall and in one.
pub(super) async fn halved(
    stage: &Stage<'_>,
    arms: &[Arm],
    section: &mut Section,
    courses: &mut Courses,
) -> Result<Table, Box<dyn Error>> {
    let mut table = Table::new([
        "half of the slots lost, at 0.8×",
        "limit before",
        "1 s after",
        "3 s after",
        "10 s after",
        "goodput/s, 5 to 10 s after",
    ]);
    for stall in [None, Some(LONGEST)] {
        let (at, length) = (START, stall.unwrap_or_default());
        let mut disturbances = vec![Disturbance::Change { at, json: HALVED.0 }];
        disturbances.extend(stall.map(|length| Disturbance::Stall { process: Process::Worker, at, length }));
        let trial = around(stage, STEADY, STEADY.capacity * LOAD, length, disturbances);
        for watched in side_by_side(stage, &[trial], arms).await?.concat() {
            let begun = at.as_secs_f64();
            let (from, to) = watched.stalls.first().copied().unwrap_or((begun, begun));
            let without = if stall.is_some() { "in a stall of 1 s" } else { "without a stall" };
            let what = format!("{without}, {}", watched.arm.plain_title());
            section.fault(&what, &watched.run.figures(NO_PEAK).faults);
            let limit = |after: f64| {
                watched.points.iter().rev().find(|point| point.at <= to + after).map(|point| point.limit)
            };
            let shown =
                |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.0}"));
            let (begin, span) = (Duration::from_secs_f64(to + LATER), Duration::from_secs_f64(AFTER - LATER));
            let later = Rate::of(&watched.run.samples, begin, span);
            table.rows.push(vec![
                what.clone(),
                shown(After::of(&watched, (from, to)).before),
                shown(limit(1.0)),
                shown(limit(FOUND_WITHIN)),
                shown(limit(AFTER)),
                format!("{:.1}", later.requests),
            ]);
            let knees = limit(FOUND_WITHIN).map(|limit| limit / HALVED.1);
            let what = format!("half of the slots lost {what}");
            section.checks.push(Check::at_most(
                format!("limit of the knee, 3 s after: {what}"),
                KNEE,
                knees,
                ratio,
            ));
            courses.add(&what, None, &steps(&watched, (from, to)));
        }
    }
    Ok(table)
}

/// Stand-in peak: the check whether a run counts does not use it.
pub(super) const NO_PEAK: Rate = Rate { requests: 1.0, tokens: 1.0 };
