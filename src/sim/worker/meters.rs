//! The worker's metrics, with vLLM's names.

use std::fmt::Write as _;
use std::time::Duration;

/// Upper bounds in seconds, as in vLLM.
const TTFT_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const ITL_BOUNDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];

/// Current state of the engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gauges {
    pub(super) running: usize,
    pub(super) waiting: usize,
    /// Share of the KV cache in use, 0…1.
    pub(super) kv_usage: f64,
}

/// Counters since the start. The station's lock protects them, so they need no atomics.
#[derive(Debug)]
pub(super) struct Meters {
    ttft: Histogram,
    itl: Histogram,
    pub(super) preemptions: u64,
    pub(super) prompt_tokens: u64,
    generation_tokens: u64,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            ttft: Histogram::new(TTFT_BOUNDS),
            itl: Histogram::new(ITL_BOUNDS),
            preemptions: 0,
            prompt_tokens: 0,
            generation_tokens: 0,
        }
    }
}

impl Meters {
    /// Counts a token and its time since the previous token, or since the submission.
    pub(super) fn token(&mut self, index: u32, after: Duration) {
        self.generation_tokens += 1;
        let histogram = if index == 0 { &mut self.ttft } else { &mut self.itl };
        histogram.observe(after.as_secs_f64());
    }

    /// Renders all metrics as Prometheus text, the inter-token latency under its old and new name.
    pub(super) fn render(&self, model: &str, gauges: &Gauges) -> String {
        let label = format!("model_name=\"{}\"", escape(model));
        let mut out = String::with_capacity(8192);
        for (name, kind, value) in [
            ("num_requests_running", "gauge", gauges.running as f64),
            ("num_requests_waiting", "gauge", gauges.waiting as f64),
            ("kv_cache_usage_perc", "gauge", gauges.kv_usage),
            ("num_preemptions_total", "counter", self.preemptions as f64),
            ("prompt_tokens_total", "counter", self.prompt_tokens as f64),
            ("generation_tokens_total", "counter", self.generation_tokens as f64),
        ] {
            line(&mut out, format_args!("# TYPE vllm:{name} {kind}"));
            line(&mut out, format_args!("vllm:{name}{{{label}}} {value}"));
        }
        self.ttft.render(&mut out, "time_to_first_token_seconds", &label);
        self.itl.render(&mut out, "time_per_output_token_seconds", &label);
        self.itl.render(&mut out, "inter_token_latency_seconds", &label);
        out
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    writeln!(out, "{text}").unwrap_or_default();
}

/// Escapes a label value for the text format.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[derive(Debug)]
struct Histogram {
    bounds: &'static [f64],
    /// One count more than bounds: the last counts values above all bounds.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
    }

    fn render(&self, out: &mut String, name: &str, label: &str) {
        line(out, format_args!("# TYPE vllm:{name} histogram"));
        let mut total = 0;
        for (place, count) in self.counts.iter().enumerate() {
            total += count;
            let bound = self.bounds.get(place).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            line(out, format_args!("vllm:{name}_bucket{{{label},le=\"{bound}\"}} {total}"));
        }
        line(out, format_args!("vllm:{name}_sum{{{label}}} {}", self.sum));
        line(out, format_args!("vllm:{name}_count{{{label}}} {total}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_labels_are_escaped() {
        let mut meters = Meters::default();
        for (index, millis) in [(0, 60), (1, 25), (2, 26), (3, 100_000)] {
            meters.token(index, Duration::from_millis(millis));
        }
        let text = meters.render("a\"b", &Gauges { running: 3, waiting: 0, kv_usage: 0.25 });
        for line in [
            "vllm:num_requests_running{model_name=\"a\\\"b\"} 3",
            "vllm:kv_cache_usage_perc{model_name=\"a\\\"b\"} 0.25",
            "vllm:generation_tokens_total{model_name=\"a\\\"b\"} 4",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"a\\\"b\",le=\"0.04\"} 0",
            "vllm:time_to_first_token_seconds_bucket{model_name=\"a\\\"b\",le=\"0.06\"} 1",
            "vllm:inter_token_latency_seconds_bucket{model_name=\"a\\\"b\",le=\"0.025\"} 1",
            "vllm:inter_token_latency_seconds_bucket{model_name=\"a\\\"b\",le=\"80\"} 2",
            "vllm:inter_token_latency_seconds_bucket{model_name=\"a\\\"b\",le=\"+Inf\"} 3",
            "vllm:time_per_output_token_seconds_count{model_name=\"a\\\"b\"} 3",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
    }
}
