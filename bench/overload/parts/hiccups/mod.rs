//! Stalls, jitter and spread of first tokens: no signs of overload, so the limit must not fall.

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
The worker has 64 slots, 100 ms to the first token and 15 ms between tokens; answers have 100 tokens, so it
gives 40 answers per second. Another worker has room for thousands, and gives 800 answers of 8 tokens per
second. *Stopped*: the process of the worker or of the gateway gets SIGSTOP, and SIGCONT after the given
time. Limit: the value in `/metrics`, read every 100 ms; *least later*: the lowest from one second to ten
seconds after the stall. Refused: of the requests that were due from the start of the stall to ten seconds
after its end. Arms that are compared with `limit: slots` run in parallel at the same moments, each with its
own worker. *Half of the slots lost*: 32 of 64, without informing the gateway; in the case with a stall,
during it. *Cached and new prompts*: 20 ms or 400 ms to the first token; at first all prompts are cached,
then half of them. *Spread as a vLLM's*: log-normal with a median of 127 ms, sigma 0.71, from 42 ms to 600
ms. In both cases a token takes 20 ms, and answers have 40. Every step of 100 ms around each stall is in
[hiccups.csv](overload/hiccups.csv).";

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
