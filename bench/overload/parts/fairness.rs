//! One greedy caller among light ones.

use std::error::Error;

use traffic_dam_lab::evidence::fairness::{Demand, fair_level, jain};

use crate::arrivals::Source;
use crate::figures::Run;
use crate::gateways::NginxLimits;
use crate::parts::{ours, say};
use crate::plan::{Arm, WORKER};
use crate::sample::Sample;
use crate::section::{Check, Section, Table, percent, ratio};
use crate::stage::{Setting, Stage};

/// Load of the first run, in multiples of the capacity, and the greedy caller's share of it.
const LOAD: f64 = 10.0;
const GREEDY_PART: f64 = 0.7;
/// Callers of the first run, the greedy one included.
const FEW: u32 = 10;
/// Callers of the second run, the greedy one included.
const MANY: u32 = 20;
/// In the second run each light caller asks for this multiple of its equal share: all queue.
const MODEST: f64 = 2.0;

const TEXT: &str = "\
Served: prompt tokens and twice the output tokens of good answers, by caller. Entitled: the max–min fair
share of each caller of all that was served, no more than it asked for. In the first run one key sends 70 %
of a load of 10×, and nine keys share the rest. In the second run one key alone sends 10×, and nineteen keys
send twice their equal share each.";

pub(crate) async fn run(stage: &Stage<'_>) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("Fairness", TEXT);
    let capacity = stage.peak.requests;
    let mut few = Table::new([
        "one of 70 % among 10",
        "light keys, share of entitled",
        "the least of them",
        "greedy key",
        "Jain",
        "goodput of peak",
    ]);
    let mut many = few.clone();
    many.head[0] = "one of 10× among 20".to_owned();
    let length = stage.options.measured();
    let until = stage.options.warm_up() + length;
    let first = greedy(FEW, LOAD * capacity * GREEDY_PART, LOAD * capacity * (1.0 - GREEDY_PART), until);

    for arm in ours(stage.options) {
        let title = arm.plain_title();
        let setting = settled(stage, arm).await?;
        let run = stage.offer(&setting, &first, length, None).await;
        let (row, shares) = judge(stage, arm.title(), &run, FEW, &mut section);
        few.rows.push(row);
        let what = format!("light keys' share of an equal one beside 70 % of 10×, {title}");
        section.checks.push(Check::at_least(what, 0.95, Some(shares.light), ratio));
        // A mean would hide starvation of single light keys.
        let what = format!("Jain index, one key of 70 % of 10× among {FEW}, {title}");
        section.checks.push(Check::at_least(what, 0.98, Some(shares.jain), ratio));

        // Twice as long: about forty answers per caller are too few for a stable share.
        let length = length * 2;
        let light = MODEST * capacity * f64::from(MANY - 1) / f64::from(MANY);
        let second = greedy(MANY, LOAD * capacity, light, stage.options.warm_up() + length);
        let run = stage.offer(&setting, &second, length, None).await;
        let (row, shares) = judge(stage, arm.title(), &run, MANY, &mut section);
        many.rows.push(row);
        let what = format!("Jain index, one caller at 10× among {MANY}, {title}");
        section.checks.push(Check::at_least(what, 0.98, Some(shares.jain), ratio));
    }
    if stage.options.nginx.is_some() && stage.options.arms.contains(&Arm::Nginx) {
        // If nginx's best setting was not searched for, the batch size is as good as any.
        let told = NginxLimits { under_way: Some(WORKER.slots), ..NginxLimits::default() };
        let limits = stage.nginx.clone().unwrap_or(told);
        let each = NginxLimits { per_caller: Some(WORKER.slots / FEW), ..NginxLimits::default() };
        for limits in [limits, each] {
            let setting = stage.nginx(&limits).await?;
            let run = stage.offer(&setting, &first, length, None).await;
            let title = format!("nginx, {}", limits.describe());
            few.rows.push(judge(stage, &title, &run, FEW, &mut section).0);
        }
    }
    section.tables = vec![(String::new(), few), (String::new(), many)];
    Ok(section)
}

async fn settled(stage: &Stage<'_>, arm: Arm) -> Result<Setting, Box<dyn Error>> {
    let setting = stage.arm(arm).await?;
    stage.settle(&setting, stage.peak.requests, stage.options.settling()).await;
    Ok(setting)
}

/// Caller 0 sends at the rate `greedy`; the others share `light`.
fn greedy(callers: u32, greedy: f64, light: f64, until: std::time::Duration) -> Vec<Source> {
    let light = light / f64::from(callers - 1);
    (0..callers).map(|caller| Source::new(caller, if caller == 0 { greedy } else { light }, until)).collect()
}

/// Service that callers received, divided by their max–min fair share.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shares {
    /// Mean of the light callers.
    light: f64,
    least: f64,
    greedy: f64,
    /// Jain's index over all callers' shares.
    jain: f64,
}

fn judge(
    stage: &Stage<'_>,
    title: &str,
    run: &Run,
    callers: u32,
    section: &mut Section,
) -> (Vec<String>, Shares) {
    let figures = run.figures(stage.peak);
    let shares = shares(&run.samples, callers);
    section.fault(title, &figures.faults);
    say(format_args!("fairness, {title}: light {}, Jain {}", ratio(shares.light), ratio(shares.jain)));
    let row = vec![
        title.to_owned(),
        ratio(shares.light),
        ratio(shares.least),
        ratio(shares.greedy),
        ratio(shares.jain),
        percent(figures.of_peak),
    ];
    (row, shares)
}

/// Computes the shares. Caller 0 is the greedy one.
fn shares(samples: &[Sample], callers: u32) -> Shares {
    let mut asked = vec![0.0; callers as usize];
    let mut served = asked.clone();
    let mut answers = 0.0;
    for sample in samples {
        let caller = sample.arrival.caller as usize;
        asked[caller] += 1.0;
        if sample.is_good() {
            served[caller] += f64::from(sample.arrival.prompt_tokens) + 2.0 * f64::from(sample.good_tokens());
            answers += 1.0;
        }
    }
    let total: f64 = served.iter().sum();
    // The mean answer turns requests into tokens: the length of missing answers is unknown.
    let demand = |asked: &f64| Demand { asked: asked * total / f64::max(answers, 1.0), weight: 1.0 };
    let demands: Vec<Demand> = asked.iter().map(demand).collect();
    let level = fair_level(total, &demands);
    let due = demands.iter().map(|demand| demand.asked.min(level).max(1e-9));
    let got: Vec<f64> = served.iter().zip(due).map(|(served, due)| served / due).collect();
    let light = &got[1..];
    Shares {
        light: light.iter().sum::<f64>() / light.len() as f64,
        least: light.iter().copied().fold(f64::INFINITY, f64::min),
        greedy: got[0],
        jain: jain(&got),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::{sample, served};

    fn of(caller: u32, good: usize, all: usize) -> Vec<Sample> {
        let mut samples = vec![sample(true, served(1)); good];
        samples.resize(all, sample(true, served(2000)));
        samples.iter_mut().for_each(|sample| sample.arrival.caller = caller);
        samples
    }

    #[test]
    fn an_equal_share_is_one_whatever_was_asked_beyond_it() {
        let samples = [of(0, 10, 1000), of(1, 10, 20), of(2, 10, 20)].concat();
        let shares = shares(&samples, 3);
        assert!((shares.light - 1.0).abs() < 1e-9 && (shares.greedy - 1.0).abs() < 1e-9, "{shares:?}");
        assert!((shares.jain - 1.0).abs() < 1e-9);
    }

    #[test]
    fn who_asks_for_less_is_entitled_to_what_it_asks() {
        // 30 served in all: caller 1 asked for 4 and got them; 26 remain for two.
        let samples = [of(0, 13, 1000), of(1, 4, 4), of(2, 13, 20)].concat();
        assert!((shares(&samples, 3).light - 1.0).abs() < 1e-9);
        // The greedy caller takes all.
        let samples = [of(0, 30, 1000), of(1, 0, 20), of(2, 0, 20)].concat();
        let shares = shares(&samples, 3);
        assert!(shares.light < 1e-9 && (shares.greedy - 3.0).abs() < 1e-9, "{shares:?}");
    }
}
