//! Stalls, jitter and spread of first tokens: what is no sign of too much load, and must not be taken for one.

mod course;
mod courses;
mod paired;
mod shape;
mod stalls;
mod trial;

use std::error::Error;

use crate::parts::ours;
use crate::picture;
use crate::plan::Arm;
use crate::section::Section;
use crate::stage::Stage;
use courses::Courses;

const TEXT: &str = "\
The worker has 64 slots, 100 ms to the first token and 15 ms between tokens; answers have 100 tokens, which makes 40 per
second. Another has room for thousands, and gives 800 answers of 8 tokens per second. *Stopped*: the process of the worker
or of the gateway gets SIGSTOP, and SIGCONT after so long. Limit: as `/metrics` says, read every 100 ms; *least later*:
from a second after the stall to ten. Refused: of what was due from the start of the stall to ten seconds after its end.
Arms that are compared with `limit: slots` run beside it at the same moments, each before a worker of its own.
*Half of the slots lost*: 32 of 64, and nobody is told; with a stall, while it lasts. *Cached and new prompts*: 20 ms
or 400 ms to the first token, at first all are cached, then half of them; *spread as a vLLM's*: log-normal, 127 ms in the
median, sigma 0.71, from 42 ms to 600 ms; in both a token takes 20 ms, and answers have 40. Every step of 100 ms around
each stall is in [hiccups.csv](overload/hiccups.csv).";

pub(crate) async fn run(stage: &Stage<'_>) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("Hiccups", TEXT);
    let arms: Vec<Arm> = ours(stage.options).into_iter().filter(|arm| arm.is_ours()).collect();
    if arms.is_empty() {
        return Err("it needs an adaptive arm".into());
    }
    let mut courses = Courses::default();
    let mut tables = vec![
        stalls::once(stage, &arms, &mut section, &mut courses).await?,
        stalls::halved(stage, &arms, &mut section, &mut courses).await?,
        paired::repeated(stage, &arms, &mut section).await?,
        paired::mixes(stage, &arms, &mut section).await?,
        paired::jitter(stage, &arms, &mut section).await?,
    ];
    section.tables = tables.drain(..).map(|table| (String::new(), table)).collect();
    section.pictures = picture::hiccups(&stage.options.out, &courses.limits, &courses.goodput)?;
    picture::hiccups_csv(&stage.options.out, &courses.rows)?;
    Ok(section)
}
