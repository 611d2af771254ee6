//! What an operator can say about a simulated worker.

use std::time::Duration;

use crate::sim::physics::Spec;

/// The size, the speed and the habits of a simulated worker; the arguments of `traffic-dam worker`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct Options {
    /// The model it says it serves; requests for other models are answered too
    #[arg(long, default_value = "sim")]
    pub model: String,
    /// Sequences it decodes at once
    #[arg(long, default_value_t = Spec::default().slots)]
    pub slots: u32,
    /// Tokens its KV cache holds
    #[arg(long, default_value_t = Spec::default().kv_tokens)]
    pub kv_tokens: u64,
    /// Prompt tokens it prefills per second
    #[arg(long, default_value_t = Spec::default().prefill_rate)]
    pub prefill_rate: u32,
    /// What each request takes before it reaches the line
    #[arg(long, default_value = "30ms", value_parser = parse_duration)]
    pub prefill_base: Duration,
    /// What a step, and so a token, takes in an idle worker
    #[arg(long, default_value = "20ms", value_parser = parse_duration)]
    pub token_time: Duration,
    /// What each sequence in the batch adds to a step
    #[arg(long, default_value = "500us", value_parser = parse_duration)]
    pub token_time_per_seq: Duration,
    /// Tokens a step handles at the most, decoded and prefilled
    #[arg(long, default_value_t = Spec::default().step_tokens)]
    pub step_tokens: u32,
    /// Mean length of answers, in tokens, where `max_tokens` does not cut them
    #[arg(long, default_value_t = 150)]
    pub mean_output: u32,
    /// The bound on an answer's tokens when the request names none
    #[arg(long, default_value_t = 256)]
    pub default_max_tokens: u32,
    /// Seed of the output lengths
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        let spec = Spec::default();
        Self {
            model: "sim".to_owned(),
            slots: spec.slots,
            kv_tokens: spec.kv_tokens,
            prefill_rate: spec.prefill_rate,
            prefill_base: spec.prefill_base,
            token_time: spec.token_time,
            token_time_per_seq: spec.token_time_per_seq,
            step_tokens: spec.step_tokens,
            mean_output: 150,
            default_max_tokens: 256,
            seed: 1,
        }
    }
}

impl Options {
    /// The physics of this worker.
    #[must_use]
    pub fn spec(&self) -> Spec {
        Spec {
            slots: self.slots,
            kv_tokens: self.kv_tokens,
            prefill_rate: self.prefill_rate,
            prefill_base: self.prefill_base,
            token_time: self.token_time,
            token_time_per_seq: self.token_time_per_seq,
            step_tokens: self.step_tokens,
        }
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "want a whole number and a unit, as in 20ms".to_owned())?;
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(format!("unknown unit {unit:?}: want us, ms or s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn no_arguments_mean_the_defaults() {
        assert_eq!(Command::parse_from(["worker"]).options, Options::default());
        assert_eq!(Options::default().spec(), Spec::default());
    }

    #[test]
    fn durations_have_units() {
        let parsed = Command::parse_from(["worker", "--token-time", "1500us"]).options;
        assert_eq!(parsed.token_time, Duration::from_micros(1500));
        for wrong in ["20", "ms", "20m", "-1ms", "1.5s", ""] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?} passed");
        }
    }
}
