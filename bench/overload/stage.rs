//! Common setup of every part of a run: workers, gateways, and callers before them.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::arrivals::{Arrival, Class, Output, Source, draw, prompt_tokens};
use crate::client::Client;
use crate::drive::{Again, drive, soon, watch};
use crate::figures::{Rate, Reading, Run};
use crate::gateways::{DamFile, Gateway, NginxLimits};
use crate::plan::{Arm, Options, WORKER, WorkerSize};
use crate::sample::{Outcome, Sample};
use crate::servers::{Server, free_address};

/// Clients per slot while the worker's peak is searched. With as many clients as slots, one is
/// always between two requests; with more, some wait; with still more, they keep waiting past the
/// SLO.
pub(crate) const FULL: [f64; 3] = [1.0, 1.125, 1.25];
/// Pause between two runs, in which the requests of the last one end.
const REST: Duration = Duration::from_millis(500);
/// A worker that starts full ends short answers first; after this time its slots are mixed.
pub(crate) const MIXING: Duration = Duration::from_secs(4);
/// Shortest measurement of the peak, so that it does not depend on chance.
const LEAST_LOOK: Duration = Duration::from_secs(8);
/// Number of callers if they do not matter.
const CROWD: u32 = 20;

/// Workers as processes, with their addresses.
pub(crate) type Worker = (Server, std::net::SocketAddr);

#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) options: &'a Options,
    /// Folder for the output of servers.
    pub(crate) folder: &'a Path,
    /// Peak of a worker of the default size.
    pub(crate) peak: Rate,
    /// nginx's best limits, if they were searched for.
    pub(crate) nginx: Option<NginxLimits>,
}

/// A gateway with its workers behind it.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) gateway: Gateway,
    pub(crate) workers: Vec<Worker>,
    pub(crate) client: Arc<Client>,
}

impl Stage<'_> {
    pub(crate) async fn worker(&self, size: WorkerSize, seed: u64) -> Result<Worker, Box<dyn Error>> {
        let address = free_address()?;
        let command = size.command(self.options, address, seed);
        Ok((Server::start(command, address, "/health", self.folder).await?, address))
    }

    /// Starts an arm before one worker of the default size.
    pub(crate) async fn arm(&self, arm: Arm) -> Result<Setting, Box<dyn Error>> {
        match (DamFile::of(arm, WORKER), arm) {
            (Some(file), _) => self.dam(&file, WORKER, 1).await,
            (None, Arm::Nginx) => {
                let limits = self.nginx.as_ref().ok_or("nginx has no setting yet")?;
                self.nginx(limits).await
            }
            (None, _) => {
                let worker = self.worker(WORKER, self.options.seed).await?;
                Ok(Setting::new(Gateway::none(worker.1), vec![worker]))
            }
        }
    }

    /// Starts Traffic Dam before this many workers.
    pub(crate) async fn dam(
        &self,
        file: &DamFile,
        size: WorkerSize,
        workers: u64,
    ) -> Result<Setting, Box<dyn Error>> {
        let mut running = Vec::new();
        for index in 0..workers {
            running.push(self.worker(size, self.options.seed + index).await?);
        }
        let addresses: Vec<_> = running.iter().map(|(_, address)| *address).collect();
        let gateway = file.start(self.options, &addresses, self.folder).await?;
        Ok(Setting::new(gateway, running))
    }

    /// Starts nginx before one worker of the default size.
    pub(crate) async fn nginx(&self, limits: &NginxLimits) -> Result<Setting, Box<dyn Error>> {
        let worker = self.worker(WORKER, self.options.seed).await?;
        let gateway = Gateway::nginx(limits, self.options, worker.1, self.folder).await?;
        Ok(Setting::new(gateway, vec![worker]))
    }

    /// Offers `rate` requests per second for `length`, without measuring.
    pub(crate) async fn settle(&self, setting: &Setting, rate: f64, length: Duration) {
        let arrivals = draw(&Source::retry_spread(CROWD, rate, length), self.options.seed + 1000);
        drive(&setting.client, arrivals, soon(), None).await;
    }

    /// Offers `rate` requests per second from [`CROWD`] callers, and measures.
    pub(crate) async fn retry_spread(&self, setting: &Setting, rate: f64, measured: Duration) -> Run {
        let until = self.options.warm_up() + measured;
        self.offer(setting, &Source::retry_spread(CROWD, rate, until), measured, None).await
    }

    /// Runs `sources`, and measures for `measured` after the warm-up.
    pub(crate) async fn offer(
        &self,
        setting: &Setting,
        sources: &[Source],
        measured: Duration,
        again: Option<Arc<Again>>,
    ) -> Run {
        sleep(REST).await;
        let warm_up = self.options.warm_up();
        let arrivals = draw(sources, self.options.seed);
        let start = soon();
        let admin = setting.gateway.admin.map(Client::new);
        let reading = async || match &admin {
            Some(admin) => admin.get("/metrics").await.ok().map(|(_, text)| Reading::of(&text)),
            None => None,
        };
        let ((spent, before, after), mut samples) = tokio::join!(
            watch(setting.gateway.pid(), start + warm_up, start + warm_up + measured, reading),
            drive(&setting.client, arrivals, start, again),
        );
        let good = Rate::of(&samples, warm_up, measured);
        samples.retain(|sample| sample.arrival.due >= warm_up);
        Run { samples, good, measured, spent, readings: before.zip(after) }
    }

    /// Returns a worker's peak: the best result of closed loops, one per entry of `full` (clients
    /// per slot), whose clients send again as soon as they are answered.
    pub(crate) async fn best(
        &self,
        size: WorkerSize,
        full: &[f64],
        length: Duration,
    ) -> Result<Rate, Box<dyn Error>> {
        let mut best = Rate { requests: 0.0, tokens: 0.0 };
        let length = length.max(LEAST_LOOK);
        for full in full {
            let worker = self.worker(size, self.options.seed).await?;
            let client = Arc::new(Client::new(worker.1));
            let clients = (f64::from(size.slots) * full) as u64;
            let samples = closed_loop(&client, clients, MIXING + length, Output::Drawn).await;
            let found = Rate::of(&samples, MIXING, length);
            if found.tokens > best.tokens {
                best = found;
            }
        }
        if best.tokens == 0.0 {
            return Err("the worker alone kept no promise at all".into());
        }
        Ok(best)
    }
}

impl Setting {
    pub(crate) fn new(gateway: Gateway, workers: Vec<Worker>) -> Self {
        let client = Arc::new(Client::new(gateway.address));
        Self { gateway, workers, client }
    }
}

/// Runs `clients` clients, each sending again when it has its answer, until `length` is over.
pub(crate) async fn closed_loop(
    client: &Arc<Client>,
    clients: u64,
    length: Duration,
    output: Output,
) -> Vec<Sample> {
    let start = Instant::now();
    let tasks = (0..clients).map(|number| {
        let client = Arc::clone(client);
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(number);
            let mut samples = Vec::new();
            while start.elapsed() < length {
                let prompt_tokens = prompt_tokens(&mut random);
                let (due, class) = (start.elapsed(), Class::Interactive);
                let max_tokens = output.draw(&mut random);
                let caller = number as u32;
                let arrival = Arrival { due, caller, class, streamed: true, prompt_tokens, max_tokens };
                let outcome = client.ask(&arrival, Instant::now()).await;
                let failed = !matches!(outcome, Outcome::Served { .. });
                samples.push(Sample { arrival, late: Duration::ZERO, outcome, again: false });
                if failed {
                    break;
                }
            }
            samples
        })
    });
    let mut all = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        all.extend(task.await.unwrap_or_default());
    }
    all
}
