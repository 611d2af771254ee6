//! Six workers at twice their capacity, one of which dies or hangs.

use std::error::Error;

use crate::parts::killed::{Course, LOAD, death};
use crate::parts::{ours, say};
use crate::plan::{WORKER, WorkerSize};
use crate::section::{Section, Table};
use crate::servers::Server;
use crate::stage::{FULL, Stage};

/// Size of each of the six workers: two cores can run them together with gateway and generator.
const SMALL: WorkerSize = WorkerSize { slots: 16, kv_tokens: 65_536, ..WORKER };
const WORKERS: u64 = 6;

const TEXT: &str = "\
Six workers of 16 slots at 2×. *Killed* shows at once, by connections that are refused; *stopped* by silence on all
streams, after 2 s and what it takes to look. Back: to the first half second from which on a mean of 3 s reaches 95 % of
five sixths of the goodput of the 8 s before. Lost: streams that had begun there. Failed: requests without a token yet
that met an error.";

/// A failure: name, seconds until goodput must be back (detection + 2 s), and the action.
type Blow = (&'static str, f64, fn(&mut Server) -> Result<(), Box<dyn Error>>);
const BLOWS: [Blow; 2] = [
    ("killed", 2.0, |worker| {
        worker.kill();
        Ok(())
    }),
    ("stopped", 4.5, |worker| worker.pause()),
];

pub(crate) async fn run(stage: &Stage<'_>) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("One of six workers fails", TEXT);
    let mut table = Table::new(Course::HEAD);
    let alone = stage.best(SMALL, &FULL[1..2], stage.options.measured().div_f64(2.0)).await?;
    let rate = alone.requests * WORKERS as f64 * LOAD;
    for arm in ours(stage.options) {
        for (name, allowed, blow) in BLOWS {
            let what = format!("{name}, {}", arm.plain_title());
            let run = death(stage, arm, (SMALL, WORKERS), rate, blow).await?;
            let (figures, samples) = (run.figures(alone), run.samples);
            section.fault(&what, &figures.faults);
            let course = Course::of(&samples, WORKERS);
            let (shown, lost, failed) = (course.shown(), course.lost, course.failed);
            say(format_args!("{what}: back after {shown}, {lost} lost, {failed} failed"));
            table.rows.push(course.row(&what));
            section.checks.extend(course.checks(
                (format!("back, {what}"), allowed),
                format!("requests without a token that failed, {what}"),
            ));
        }
    }
    section.tables.push((String::new(), table));
    Ok(section)
}
