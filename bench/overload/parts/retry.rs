//! Checks that `Retry-After` is accurate.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::arrivals::{Arrival, Class, Source};
use crate::client::Client;
use crate::drive::Again;
use crate::gateways::DamFile;
use crate::parts::{ours, say};
use crate::plan::{Arm, WORKER};
use crate::sample::{Outcome, Sample};
use crate::section::{Check, Section, Table, percent};
use crate::stage::Stage;

/// An episode: this long at five times the capacity, then calm.
const STORM: Duration = Duration::from_millis(2000);
const CALM: Duration = Duration::from_millis(2500);
const STORM_LOAD: f64 = 5.0;
/// New load in the calm; returning clients add about as much, 0.8× in all.
const CALM_LOAD: f64 = 0.4;
/// Share of refused clients that return. The gateway spreads retry times so that about as many
/// return as can be served; with 0.4 they offer 0.4×.
const COMING_BACK: f64 = 0.4;

/// Rules for single callers: each is exhausted after one or two answers.
const RULES: [&str; 3] = [
    "{ name: bucket, algorithm: token_bucket, per: caller, unit: requests, rate: 60/m, burst: 1, match: { caller: '*c91*' } }",
    "{ name: window, algorithm: sliding_window, per: caller, unit: requests, limit: 2, window: 3s, match: { caller: '*c92*' } }",
    "{ name: tokens, algorithm: token_bucket, per: caller, unit: tokens, rate: 200/s, burst: 900, match: { caller: '*c93*' } }",
];
/// First callers of each rule, and their number; they share only the worker, which has room.
const LONERS: [u32; 3] = [910, 920, 930];
const EACH: u32 = 6;

const TEXT: &str = "\
Storms of 2 s at 5× are followed by a calm of 0.4×. Of the refused clients whose retry time is within the
calm, two in five come back exactly at that time, which makes 0.8× together. Admitted: the share of them
that is not refused again. In addition, callers that do not share their count with others (`per: caller`)
are refused by one of three rules, wait for `retry-after-ms`, and send again.";

pub(crate) async fn run(stage: &Stage<'_>) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("Whether Retry-After is true", TEXT);
    let mut table = Table::new(["", "came back", "admitted", "share", "mean wait told"]);
    for arm in ours(stage.options) {
        let (back, told) = storms(stage, arm, &mut section).await?;
        let admitted = back.iter().filter(|sample| !sample.is_refused()).count();
        let share = (!back.is_empty()).then(|| admitted as f64 / back.len() as f64);
        push(&mut table, format!("after a storm, {}", arm.title()), back.len(), admitted, told);
        let what = format!("admitted when told, once the load is ≤ 1×, {}", arm.plain_title());
        section.checks.push(Check::at_least(what, 0.90, share, percent));
    }
    let Some(arm) = ours(stage.options).first().copied() else { return Ok(section) };
    let (mut back, mut admitted, mut told) = (0, 0, Duration::ZERO);
    for lonely in alone(stage, arm).await? {
        back += lonely.back;
        admitted += lonely.admitted;
        told += lonely.told;
    }
    push(&mut table, "alone, after a 429".to_owned(), back, admitted, told);
    let share = (back > 0).then(|| admitted as f64 / back as f64);
    section.checks.push(Check::at_least(
        "admitted when told, a lone caller after a 429",
        1.0,
        share,
        percent,
    ));
    section.tables.push((String::new(), table));
    Ok(section)
}

fn push(table: &mut Table, title: String, back: usize, admitted: usize, told: Duration) {
    let of = back.max(1) as f64;
    let share = percent(admitted as f64 / of);
    say(format_args!("{title}: {admitted} of {back} admitted"));
    let mean = format!("{:.0} ms", told.as_secs_f64() * 1000.0 / of);
    table.rows.push(vec![title, back.to_string(), admitted.to_string(), share, mean]);
}

/// Returns the samples that returned after storms, and the sum of their announced waits.
async fn storms(
    stage: &Stage<'_>,
    arm: Arm,
    section: &mut Section,
) -> Result<(Vec<Sample>, Duration), Box<dyn Error>> {
    let setting = stage.arm(arm).await?;
    stage.settle(&setting, stage.peak.requests, stage.options.settling()).await;
    let episodes = (stage.options.seconds * 2 / 3).max(2) as u32;
    let warm_up = stage.options.warm_up();
    let mut sources = Source::retry_spread(10, stage.peak.requests, warm_up);
    for episode in 0..episodes {
        let storm = warm_up + (STORM + CALM) * episode;
        let part = |load: f64, from: Duration, until: Duration| {
            let retry_spread = Source::retry_spread(10, load * stage.peak.requests, until);
            retry_spread.into_iter().map(move |source| Source { from, ..source })
        };
        sources.extend(part(STORM_LOAD, storm, storm + STORM));
        sources.extend(part(CALM_LOAD, storm + STORM, storm + STORM + CALM));
    }
    let coin = Mutex::new(fastrand::Rng::with_seed(stage.options.seed));
    let waits = Arc::new(Mutex::new(Duration::ZERO));
    let told = Arc::clone(&waits);
    let again: Arc<Again> = Arc::new(move |arrival, outcome, ended| {
        let Outcome::Refused { wait: Some(wait), .. } = outcome else { return None };
        let back = ended + *wait;
        let due = in_calm(arrival.due.checked_sub(warm_up)?, back.checked_sub(warm_up)?)
            .then_some(back)
            .filter(|_| coin.lock().f64() < COMING_BACK)?;
        *told.lock() += *wait;
        Some(due)
    });
    let run = stage.offer(&setting, &sources, (STORM + CALM) * episodes, Some(again)).await;
    section.fault(&arm.plain_title(), &run.figures(stage.peak).faults);
    let back = run.samples.into_iter().filter(|sample| sample.again).collect();
    let told = *waits.lock();
    Ok((back, told))
}

/// `true` if a client refused in a storm returns in its calm, early enough to be answered.
fn in_calm(asked: Duration, back: Duration) -> bool {
    let episode = (STORM + CALM).as_secs_f64();
    let number = (asked.as_secs_f64() / episode).floor();
    let into = |time: Duration| time.as_secs_f64() - number * episode;
    into(asked) < STORM.as_secs_f64() && (STORM.as_secs_f64()..episode - 0.5).contains(&into(back))
}

#[derive(Default)]
struct Lonely {
    back: usize,
    admitted: usize,
    told: Duration,
}

/// Measures callers that are limited only by their own rule.
async fn alone(stage: &Stage<'_>, arm: Arm) -> Result<Vec<Lonely>, Box<dyn Error>> {
    let mut file = DamFile::of(arm, WORKER).ok_or("not an arm of the dam")?;
    file.rules = RULES.map(str::to_owned).to_vec();
    let setting = stage.dam(&file, WORKER, 1).await?;
    let until = Instant::now() + stage.options.measured();
    let callers = LONERS.iter().flat_map(|first| *first..first + EACH).map(|caller| {
        let client = Arc::clone(&setting.client);
        tokio::spawn(async move { lonely(&client, caller, until).await })
    });
    let mut all = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        all.push(caller.await??);
    }
    Ok(all)
}

async fn lonely(client: &Client, caller: u32, until: Instant) -> Result<Lonely, String> {
    let (due, class) = (Duration::ZERO, Class::Interactive);
    let arrival = Arrival { due, caller, class, streamed: true, prompt_tokens: 100, max_tokens: None };
    let mut lonely = Lonely::default();
    let mut due = Instant::now();
    let mut told = false;
    while due < until {
        sleep_until(due).await;
        let outcome = client.ask(&arrival, due).await;
        let refused = matches!(outcome, Outcome::Refused { .. });
        if told {
            lonely.back += 1;
            lonely.admitted += usize::from(!refused);
        }
        due = Instant::now();
        match outcome {
            Outcome::Refused { wait: Some(wait), .. } => {
                told = true;
                lonely.told += wait;
                due += wait;
            }
            Outcome::Served { .. } => told = false,
            other => return Err(format!("a lone caller met {other:?}")),
        }
    }
    Ok(lonely)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_told_the_calm_comes_back() {
        let at = Duration::from_millis;
        assert!(in_calm(at(1500), at(2200)));
        assert!(!in_calm(at(1000), at(1800)), "the storm still blows");
        assert!(!in_calm(at(2100), at(2900)), "asked in the calm");
        assert!(!in_calm(at(1900), at(4200)), "too late to be answered before the next storm");
        let episode = STORM + CALM;
        assert!(in_calm(episode + at(1500), episode + at(2200)));
        assert!(!in_calm(episode + at(1500), episode * 2 + at(2200)), "the calm of another storm");
    }
}
