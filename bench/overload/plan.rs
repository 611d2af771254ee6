//! What is run: the worker's size, the arms, the loads, and for how long.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;

/// The promise, as every gateway here is told it.
pub(crate) const TTFT_SLO: Duration = Duration::from_secs(1);
/// The promise between tokens.
pub(crate) const ITL_SLO: Duration = Duration::from_millis(100);
/// A client that has seen no content by then hangs up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A simulated worker's size and speed. The shape of a GPU server, made quick enough that some ten thousand answers
/// fit into a run, and small enough that two cores carry it, the gateway and the generator at ten times its capacity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerSize {
    pub(crate) slots: u32,
    pub(crate) kv_tokens: u32,
    /// Mean length of an answer, in tokens.
    pub(crate) mean_output: u32,
    /// How fast it is: options of `traffic-dam worker`, with their values.
    pub(crate) pace: &'static [(&'static str, &'static str)],
}

/// The shape of a GPU server: prompts are read in the steps of the batch, and a full batch is slower.
const GPU_PACE: &[(&str, &str)] = &[
    ("--prefill-rate", "40000"),
    ("--prefill-base", "10ms"),
    ("--token-time", "15ms"),
    ("--token-time-per-seq", "300us"),
    ("--step-tokens", "2048"),
];

/// The worker of all runs but those that say otherwise: 34 ms a token when full, answers of 1.4 s on average.
pub(crate) const WORKER: WorkerSize =
    WorkerSize { slots: 64, kv_tokens: 262_144, mean_output: 40, pace: GPU_PACE };

impl WorkerSize {
    /// The command that runs it.
    pub(crate) fn command(&self, options: &Options, listen: SocketAddr, seed: u64) -> Command {
        let mut command = Command::new(options.worker.as_ref().unwrap_or(&options.dam));
        let mut set = |name: &str, value: String| {
            command.arg(name).arg(value);
        };
        set("worker", format!("--listen={listen}"));
        set("--slots", self.slots.to_string());
        set("--kv-tokens", self.kv_tokens.to_string());
        set("--mean-output", self.mean_output.to_string());
        // The longest answers end soon enough that one run is over before the next begins.
        set("--default-max-tokens", "128".to_owned());
        set("--seed", seed.to_string());
        self.pace.iter().for_each(|(name, value)| set(name, (*value).to_owned()));
        command
    }
}

/// What stands before the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arm {
    /// Nothing.
    Direct,
    /// The gateway, adaptive, told the worker's slots.
    Stream,
    /// The gateway, adaptive, not told them.
    StreamUntold,
    /// The gateway with the worker's slots as its limit.
    Slots,
    /// The gateway under additive increase, multiplicative decrease.
    Aimd,
    /// The gateway under Netflix's Gradient2.
    Gradient2,
    /// The gateway under Vegas.
    Vegas,
    /// nginx at its best setting.
    Nginx,
}

impl Arm {
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Direct => "no gateway",
            Self::Stream => "**dam, adaptive**",
            Self::StreamUntold => "**dam, adaptive, size not told**",
            Self::Slots => "dam, `limit: slots`",
            Self::Aimd => "dam, `law: aimd`, not told",
            Self::Gradient2 => "dam, `law: gradient2`, not told",
            Self::Vegas => "dam, `law: vegas`, not told",
            Self::Nginx => "nginx, best setting",
        }
    }

    /// The same for a picture.
    pub(crate) fn plain_title(self) -> String {
        self.title().replace(['*', '`'], "")
    }

    /// The arms that are held to the figures.
    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Stream | Self::StreamUntold)
    }
}

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Every arm at every load.
    Loads,
    /// One greedy caller among modest ones.
    Fairness,
    /// Whether `Retry-After` is true.
    Retry,
    /// A worker that dies.
    Killed,
    /// Answers in one piece, alone and among streams.
    Mixed,
    /// Critical requests beside a flood of batch work.
    Critical,
    /// Stalls, jitter and spread of first tokens.
    Hiccups,
    /// Of six workers one dies, or hangs.
    Failover,
    /// One, two and four workers.
    Scale,
    /// A real engine.
    Engine,
}

impl Part {
    /// What docs/overload.md shows; the others are run by name.
    const SHOWN: [Self; 7] =
        [Self::Loads, Self::Fairness, Self::Retry, Self::Killed, Self::Mixed, Self::Critical, Self::Hiccups];

    /// Whether its loads are multiples of what the usual worker gives at its best.
    pub(crate) const fn needs_peak(self) -> bool {
        !matches!(self, Self::Hiccups | Self::Engine)
    }
}

/// What is measured, and with what.
#[derive(Debug, clap::Parser)]
pub(crate) struct Options {
    /// The gateway's binary
    #[arg(long)]
    pub(crate) dam: PathBuf,
    /// The binary of the simulated workers, where it is another than the gateway's
    #[arg(long)]
    pub(crate) worker: Option<PathBuf>,
    /// nginx, where there is one
    #[arg(long)]
    pub(crate) nginx: Option<PathBuf>,
    /// The folder that gets overload.md and its pictures
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Today, for the document
    #[arg(long)]
    pub(crate) date: String,
    /// What stands before the worker, one after the other
    #[arg(long, value_enum, value_delimiter = ' ', default_values_t = Arm::value_variants().to_vec())]
    pub(crate) arms: Vec<Arm>,
    /// Multiples of the worker's capacity
    #[arg(long, value_delimiter = ' ', default_values_t = [0.8, 1.0, 2.0, 5.0, 10.0])]
    pub(crate) loads: Vec<f64>,
    /// What is run
    #[arg(long, value_enum, value_delimiter = ' ', default_values_t = Part::SHOWN.to_vec())]
    pub(crate) parts: Vec<Part>,
    /// Seconds measured at each load, after a warm-up
    #[arg(long, default_value_t = 8)]
    pub(crate) seconds: u64,
    /// The engine of the part engine: where it listens
    #[arg(long)]
    pub(crate) engine: Option<SocketAddr>,
    /// What it is, for people
    #[arg(long, default_value = "an engine")]
    pub(crate) engine_title: String,
    /// Sequences it decodes at once
    #[arg(long, default_value_t = 8)]
    pub(crate) engine_slots: u32,
    /// Tokens its KV cache holds
    #[arg(long, default_value_t = 8192)]
    pub(crate) engine_kv_tokens: u32,
    /// How often each arm is run before it, in turns
    #[arg(long, default_value_t = 5)]
    pub(crate) pairs: u32,
    /// The seed of all arrivals
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Options {
    /// How long a run is measured.
    pub(crate) const fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// How long a run goes before it is measured: several answers long, so that no slot holds a beginner's luck.
    pub(crate) const fn warm_up(&self) -> Duration {
        Duration::from_millis(1000 + 200 * self.seconds)
    }

    /// How long an arm is given at its worker's capacity before its first load: an adaptive limit has to grow.
    pub(crate) const fn settling(&self) -> Duration {
        Duration::from_secs(5 + self.seconds / 2)
    }
}
