//! Command-line options of a simulated worker.

use std::time::Duration;

use traffic_dam_lab::engine::{EngineSpec, FirstTokenSpread};
use traffic_dam_lab::simulate::scenario::ScenarioDuration;

/// Options of a simulated worker: the arguments of `traffic-dam worker`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct WorkerOptions {
    /// Model name that the worker reports; it also answers requests for other models
    #[arg(long, default_value = "sim")]
    pub model: String,
    /// Number of sequences decoded at once
    #[arg(long, default_value_t = EngineSpec::default().slots, value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: u32,
    /// Size of the KV cache, in tokens
    #[arg(long, default_value_t = EngineSpec::default().kv_tokens)]
    pub kv_tokens: u64,
    /// Prompt tokens prefilled per second
    #[arg(long, default_value_t = EngineSpec::default().prefill_rate)]
    pub prefill_rate: u32,
    /// Time each request takes before it reaches the queue
    #[arg(long, default_value = "30ms", value_parser = parse_duration)]
    pub prefill_base: Duration,
    /// Time of a step, and so of a token, in an idle worker
    #[arg(long, default_value = "20ms", value_parser = parse_duration)]
    pub token_time: Duration,
    /// Time that each sequence in the batch adds to a step
    #[arg(long, default_value = "500us", value_parser = parse_duration)]
    pub token_time_per_seq: Duration,
    /// Maximum tokens of a step, decoded and prefilled
    #[arg(long, default_value_t = EngineSpec::default().step_tokens)]
    pub step_tokens: u32,
    /// Keep the beginnings of prompts in a prefix cache, of as many tokens as the KV cache, and report cached tokens
    #[arg(long)]
    pub prefix_cache: bool,
    /// Median time from slot to first token, with prompts read outside the batch, as with separate
    /// prefill machines. 0ms: the steps of the batch read the prompts at --prefill-rate
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    pub first_token: Duration,
    /// Standard deviation of the logarithm of that time: 0 for a constant, 0.5 for jitter
    #[arg(long, default_value_t = 0.0, value_parser = parse_sigma)]
    pub first_token_sigma: f64,
    /// Minimum of that time
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    pub first_token_least: Duration,
    /// Maximum of that time before spikes; no bound if absent
    #[arg(long, value_parser = parse_duration)]
    pub first_token_most: Option<Duration>,
    /// Share of requests with a cached prompt, 0 to 1, drawn at random
    #[arg(long, default_value_t = 0.0, value_parser = parse_share)]
    pub cached_share: f64,
    /// Time from slot to first token for a cached prompt
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    pub cached_first_token: Duration,
    /// Share of requests whose first token takes --spike-factor times as long, 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = parse_share)]
    pub spike_share: f64,
    /// Factor by which a spike multiplies the time to first token
    #[arg(long, default_value_t = 10.0, value_parser = parse_factor)]
    pub spike_factor: f64,
    /// Mean answer length in tokens, before `max_tokens` cuts it
    #[arg(long, default_value_t = 150)]
    pub mean_output: u32,
    /// Limit on an answer's tokens if the request sets none
    #[arg(long, default_value_t = 256)]
    pub default_max_tokens: u32,
    /// Seed of output lengths and of times to first token
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        let spec = EngineSpec::default();
        Self {
            model: "sim".to_owned(),
            slots: spec.slots,
            kv_tokens: spec.kv_tokens,
            prefill_rate: spec.prefill_rate,
            prefill_base: spec.prefill_base,
            token_time: spec.token_time,
            token_time_per_seq: spec.token_time_per_seq,
            step_tokens: spec.step_tokens,
            prefix_cache: spec.prefix_cache,
            first_token: Duration::ZERO,
            first_token_sigma: 0.0,
            first_token_least: Duration::ZERO,
            first_token_most: None,
            cached_share: 0.0,
            cached_first_token: Duration::ZERO,
            spike_share: 0.0,
            spike_factor: 10.0,
            mean_output: 150,
            default_max_tokens: 256,
            seed: 1,
        }
    }
}

impl WorkerOptions {
    /// Returns the size and speed of this worker.
    #[must_use]
    pub(crate) fn spec(&self) -> EngineSpec {
        EngineSpec {
            slots: self.slots,
            kv_tokens: self.kv_tokens,
            prefill_rate: self.prefill_rate,
            prefill_base: self.prefill_base,
            token_time: self.token_time,
            token_time_per_seq: self.token_time_per_seq,
            step_tokens: self.step_tokens,
            prefix_cache: self.prefix_cache,
        }
    }

    /// Returns the distribution of times to first token.
    #[must_use]
    pub(super) fn first_tokens(&self) -> FirstTokenSpread {
        FirstTokenSpread {
            median: self.first_token,
            sigma: self.first_token_sigma,
            least: self.first_token_least,
            most: self.first_token_most.unwrap_or(Duration::MAX),
            cached_share: self.cached_share,
            cached: self.cached_first_token,
            spike_share: self.spike_share,
            spike_factor: self.spike_factor,
        }
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    text.parse::<ScenarioDuration>().map(|span| span.0)
}

fn parse_within(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| (least..=most).contains(value));
    value.ok_or_else(|| format!("must be a number from {least} to {most}"))
}

fn parse_share(text: &str) -> Result<f64, String> {
    parse_within(text, 0.0, 1.0)
}

fn parse_sigma(text: &str) -> Result<f64, String> {
    parse_within(text, 0.0, 5.0)
}

fn parse_factor(text: &str) -> Result<f64, String> {
    parse_within(text, 0.0, 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        options: WorkerOptions,
    }

    #[test]
    fn no_arguments_mean_the_defaults() {
        assert_eq!(Command::parse_from(["worker"]).options, WorkerOptions::default());
        assert_eq!(WorkerOptions::default().spec(), EngineSpec::default());
    }

    #[test]
    fn durations_have_units() {
        let parsed = Command::parse_from(["worker", "--token-time", "1500us"]).options;
        assert_eq!(parsed.token_time, Duration::from_micros(1500));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        for wrong in ["20", "ms", "20x", "-1ms", "1.5.1s", "99999999999h", ""] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?} passed");
        }
    }

    #[test]
    fn first_tokens_are_spread_as_the_arguments_say() {
        assert_eq!(WorkerOptions::default().first_tokens().median, Duration::ZERO);
        let arguments = [
            "worker",
            "--first-token=127ms",
            "--first-token-sigma=0.71",
            "--first-token-most=600ms",
            "--cached-share=0.5",
            "--cached-first-token=20ms",
        ];
        let spread = Command::parse_from(arguments).options.first_tokens();
        assert_eq!((spread.median, spread.cached), (Duration::from_millis(127), Duration::from_millis(20)));
        assert_eq!((spread.most, spread.cached_share), (Duration::from_millis(600), 0.5));
        for wrong in ["--cached-share=1.1", "--spike-share=-1", "--first-token-sigma=NaN"] {
            assert!(Command::try_parse_from(["worker", wrong]).is_err(), "{wrong} passed");
        }
    }
}
