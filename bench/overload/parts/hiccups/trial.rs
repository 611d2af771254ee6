//! One arm before one worker, and the disturbances during the run.

use std::error::Error;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep_until};

use super::course::STEP;
use super::shape::Shape;
use crate::arrivals::draw;
use crate::client::Client;
use crate::drive::{drive, soon, watch};
use crate::figures::{Rate, Run};
use crate::gateways::DamFile;
use crate::limit::{Point, readings};
use crate::plan::Arm;
use crate::stage::{Setting, Stage};

/// The process that is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    Worker,
    Gateway,
}

impl Process {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Gateway => "gateway",
        }
    }
}

/// A disturbance at a time since the measurement began.
#[derive(Clone, Copy, Debug)]
pub(super) enum Disturbance {
    /// SIGSTOP, and SIGCONT after `length`.
    Stall { process: Process, at: Duration, length: Duration },
    /// A change of the worker: JSON for its `/debug/worker`.
    Change { at: Duration, json: &'static str },
}

/// The load of each arm, and the disturbances.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) shape: Shape,
    /// Requests per second.
    pub(super) rate: f64,
    /// Measured time, after a warm-up at the same rate.
    pub(super) length: Duration,
    /// JSON for the worker's `/debug/worker`, sent between settling and the warm-up.
    pub(super) change_first: Option<&'static str>,
    pub(super) disturbances: Vec<Disturbance>,
    pub(super) seed: u64,
}

/// The run of one arm. Times are seconds since the measurement began.
#[derive(Clone, Debug)]
pub(super) struct TrialRun {
    pub(super) arm: Arm,
    pub(super) run: Run,
    pub(super) points: Vec<Point>,
    /// Start and end of each stall.
    pub(super) stalls: Vec<(f64, f64)>,
}

/// Runs all arms of all trials at the same time, each with its own worker, so that noise on this
/// machine affects them equally. Returns one list of runs per trial, in the order of `arms`.
pub(super) async fn side_by_side(
    stage: &Stage<'_>,
    trials: &[Trial],
    arms: &[Arm],
) -> Result<Vec<Vec<TrialRun>>, Box<dyn Error>> {
    let trial = |trial| try_join_all(arms.iter().map(move |arm| Trial::run(trial, stage, *arm)));
    try_join_all(trials.iter().map(trial)).await
}

impl Trial {
    async fn run(&self, stage: &Stage<'_>, arm: Arm) -> Result<TrialRun, Box<dyn Error>> {
        let file = DamFile::of(arm, self.shape.size).ok_or("not an arm of the dam")?;
        let setting = stage.dam(&file, self.shape.size, 1).await?;
        let settling = self.shape.retry_spread(self.shape.capacity, stage.options.settling());
        drive(&setting.client, draw(&settling, self.seed + 1000), soon(), None).await;
        if let Some(json) = self.change_first {
            change(&setting, json).await?;
        }

        let warm_up = stage.options.warm_up();
        let arrivals = draw(&self.shape.retry_spread(self.rate, warm_up + self.length), self.seed);
        let start = soon();
        let begin = start + warm_up;
        let end = begin + self.length;
        let ((spent, (), ()), mut samples, points, stalls) = tokio::join!(
            watch(setting.gateway.pid(), begin, end, async || ()),
            drive(&setting.client, arrivals, start, None),
            readings(&setting, begin, end, STEP),
            self.disturb(&setting, begin),
        );
        let good = Rate::of(&samples, warm_up, self.length);
        samples.retain(|sample| sample.arrival.due >= warm_up);
        samples.iter_mut().for_each(|sample| sample.arrival.due -= warm_up);
        let run = Run { samples, good, measured: self.length, spent, readings: None };
        Ok(TrialRun { arm, run, points, stalls: stalls? })
    }

    async fn disturb(&self, setting: &Setting, begin: Instant) -> Result<Vec<(f64, f64)>, Box<dyn Error>> {
        let mut stalls = Vec::new();
        for disturbance in &self.disturbances {
            match *disturbance {
                Disturbance::Change { at, json } => {
                    sleep_until(begin + at).await;
                    change(setting, json).await?;
                }
                Disturbance::Stall { process, at, length } => {
                    let server = match process {
                        Process::Worker => &setting.workers[0].0,
                        Process::Gateway => setting.gateway.server().ok_or("no gateway to stop")?,
                    };
                    sleep_until(begin + at).await;
                    server.pause()?;
                    let from = begin.elapsed();
                    sleep_until(begin + from + length).await;
                    server.resume()?;
                    stalls.push((from.as_secs_f64(), begin.elapsed().as_secs_f64()));
                }
            }
        }
        Ok(stalls)
    }
}

async fn change(setting: &Setting, json: &'static str) -> Result<(), Box<dyn Error>> {
    match Client::new(setting.workers[0].1).post("/debug/worker", json).await? {
        (200, _) => Ok(()),
        (status, text) => Err(format!("the worker answered {status} to {json}: {text}").into()),
    }
}
