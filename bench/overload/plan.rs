//! The parameters of a run: worker sizes, arms, loads and durations.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;

/// The TTFT SLO, configured in every gateway here.
pub(crate) const TTFT_SLO: Duration = Duration::from_secs(1);
/// The SLO for the time between tokens.
pub(crate) const ITL_SLO: Duration = Duration::from_millis(100);
/// A client that has seen no content after this time hangs up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Size and speed of a simulated worker: a GPU server, but so fast that a run has some 10 000
/// answers. Two cores can run it, the gateway and the generator at ten times its capacity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerSize {
    pub(crate) slots: u32,
    pub(crate) kv_tokens: u32,
    /// Mean length of an answer, in tokens.
    pub(crate) mean_output: u32,
    /// Speed: options of `traffic-dam worker`, with their values.
    pub(crate) pace: &'static [(&'static str, &'static str)],
}

/// Models a GPU server: prompts are read in the steps of the batch, and a full batch is slower.
const GPU_PACE: &[(&str, &str)] = &[
    ("--prefill-rate", "40000"),
    ("--prefill-base", "10ms"),
    ("--token-time", "15ms"),
    ("--token-time-per-seq", "300us"),
    ("--step-tokens", "2048"),
];

/// The default worker: 34 ms per token when full, answers of 1.4 s on average.
pub(crate) const WORKER: WorkerSize =
    WorkerSize { slots: 64, kv_tokens: 262_144, mean_output: 40, pace: GPU_PACE };

impl WorkerSize {
    /// Returns the command that runs it.
    pub(crate) fn command(&self, options: &Options, listen: SocketAddr, seed: u64) -> Command {
        let mut command = Command::new(options.worker.as_ref().unwrap_or(&options.dam));
        let mut set = |name: &str, value: String| {
            command.arg(name).arg(value);
        };
        set("worker", format!("--listen={listen}"));
        set("--slots", self.slots.to_string());
        set("--kv-tokens", self.kv_tokens.to_string());
        set("--mean-output", self.mean_output.to_string());
        // The longest answers are short enough that one run is over before the next begins.
        set("--default-max-tokens", "128".to_owned());
        set("--seed", seed.to_string());
        self.pace.iter().for_each(|(name, value)| set(name, (*value).to_owned()));
        command
    }
}

/// The gateway before the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arm {
    /// No gateway.
    Direct,
    /// Traffic Dam, adaptive limit, slots configured.
    Stream,
    /// Traffic Dam, adaptive limit, slots not configured.
    StreamUntold,
    /// Traffic Dam with the worker's slots as its limit.
    Slots,
    /// Traffic Dam with AIMD (additive increase, multiplicative decrease).
    Aimd,
    /// Traffic Dam with Netflix's Gradient2.
    Gradient2,
    /// Traffic Dam with Vegas.
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

    /// Returns the title for a picture.
    pub(crate) fn plain_title(self) -> String {
        self.title().replace(['*', '`'], "")
    }

    /// `true` for the arms that must reach the targets.
    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Stream | Self::StreamUntold)
    }
}

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Every arm at every load.
    Loads,
    /// One greedy caller among light ones.
    Fairness,
    /// Accuracy of `Retry-After`.
    Retry,
    /// A worker that dies.
    Killed,
    /// Non-streamed answers, alone and among streams.
    Mixed,
    /// Critical requests beside an overload of batch requests.
    Critical,
    /// Stalls, jitter and spread of first tokens.
    Hiccups,
    /// One of six workers dies or hangs.
    Failover,
    /// One, two and four workers.
    Scale,
    /// A real engine.
    Engine,
}

impl Part {
    /// The parts that docs/overload.md shows; the others run only by name.
    const SHOWN: [Self; 7] =
        [Self::Loads, Self::Fairness, Self::Retry, Self::Killed, Self::Mixed, Self::Critical, Self::Hiccups];

    /// `true` if its loads are multiples of the default worker's peak.
    pub(crate) const fn needs_peak(self) -> bool {
        !matches!(self, Self::Hiccups | Self::Engine)
    }
}

/// What is measured, and with which programs.
#[derive(Debug, clap::Parser)]
pub(crate) struct Options {
    /// The gateway's binary
    #[arg(long)]
    pub(crate) dam: PathBuf,
    /// The binary of the simulated workers; default: the gateway's
    #[arg(long)]
    pub(crate) worker: Option<PathBuf>,
    /// The nginx binary, if there is one
    #[arg(long)]
    pub(crate) nginx: Option<PathBuf>,
    /// The folder for overload.md and its pictures
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Today's date, for the document
    #[arg(long)]
    pub(crate) date: String,
    /// What runs before the worker, one after the other
    #[arg(long, value_enum, value_delimiter = ' ', default_values_t = Arm::value_variants().to_vec())]
    pub(crate) arms: Vec<Arm>,
    /// Multiples of the worker's capacity
    #[arg(long, value_delimiter = ' ', default_values_t = [0.8, 1.0, 2.0, 5.0, 10.0])]
    pub(crate) loads: Vec<f64>,
    /// The parts to run
    #[arg(long, value_enum, value_delimiter = ' ', default_values_t = Part::SHOWN.to_vec())]
    pub(crate) parts: Vec<Part>,
    /// Seconds measured at each load, after a warm-up
    #[arg(long, default_value_t = 8)]
    pub(crate) seconds: u64,
    /// The address of the engine, for the part engine
    #[arg(long)]
    pub(crate) engine: Option<SocketAddr>,
    /// The name of the engine, for the document
    #[arg(long, default_value = "an engine")]
    pub(crate) engine_title: String,
    /// Sequences that the engine decodes at once
    #[arg(long, default_value_t = 8)]
    pub(crate) engine_slots: u32,
    /// Tokens that the engine's KV cache holds
    #[arg(long, default_value_t = 8192)]
    pub(crate) engine_kv_tokens: u32,
    /// Runs of each arm before the engine, in turns
    #[arg(long, default_value_t = 5)]
    pub(crate) pairs: u32,
    /// The seed of all arrivals
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Options {
    /// Returns how long a run is measured.
    pub(crate) const fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Returns the warm-up time: several answers long, so that the slots are in a steady state.
    pub(crate) const fn warm_up(&self) -> Duration {
        Duration::from_millis(1000 + 200 * self.seconds)
    }

    /// Returns an arm's time at capacity before its first load: an adaptive limit has to grow.
    pub(crate) const fn settling(&self) -> Duration {
        Duration::from_secs(5 + self.seconds / 2)
    }
}
