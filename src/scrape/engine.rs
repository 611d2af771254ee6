//! Names of the worker's metrics in each engine.

use std::str::FromStr;

use serde::Deserialize;

use super::text::Scrape;
use super::window::HistogramWindow;
use crate::fleet::heartbeat::MAX_SLOTS;

/// Value that is read from a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Running,
    Waiting,
    KvUsed,
    KvTokens,
    Ttft,
    Itl,
}

/// Overrides the metric name of a signal, as in `waiting=my_queue_length`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    signal: Signal,
    name: String,
}

impl FromStr for Rename {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "want SIGNAL=METRIC, with SIGNAL one of `running`, `waiting`, `kv_used`, `kv_tokens`, `ttft`, `itl`".to_owned()
        };
        let (signal, name) = text.split_once('=').ok_or_else(wrong)?;
        let signal = match signal {
            "running" => Signal::Running,
            "waiting" => Signal::Waiting,
            "kv_used" => Signal::KvUsed,
            "kv_tokens" => Signal::KvTokens,
            "ttft" => Signal::Ttft,
            "itl" => Signal::Itl,
            _ => return Err(wrong()),
        };
        if name.is_empty() { Err(wrong()) } else { Ok(Self { signal, name: name.to_owned() }) }
    }
}

/// Metric names of a signal in vLLM, SGLang, llama.cpp and TGI, newer ones first. The first one in
/// a scrape is used; no engine publishes another's.
const fn names(signal: Signal) -> &'static [&'static str] {
    match signal {
        Signal::Running => &[
            "vllm:num_requests_running",
            "sglang:num_running_reqs",
            "llamacpp:requests_processing",
            "tgi_batch_current_size",
        ],
        Signal::Waiting => &[
            "vllm:num_requests_waiting",
            "sglang:num_queue_reqs",
            "llamacpp:requests_deferred",
            "tgi_queue_size",
        ],
        Signal::KvUsed => &[
            "vllm:kv_cache_usage_perc",
            "vllm:gpu_cache_usage_perc",
            "sglang:token_usage",
            "llamacpp:kv_cache_usage_ratio",
        ],
        Signal::KvTokens => &["sglang:max_total_num_tokens"],
        Signal::Ttft => &["vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds"],
        Signal::Itl => &[
            "vllm:inter_token_latency_seconds",
            "vllm:time_per_output_token_seconds",
            "sglang:inter_token_latency_seconds",
            "sglang:time_per_output_token_seconds",
            "tgi_request_mean_time_per_token_duration",
        ],
    }
}

/// vLLM publishes the size of its KV cache in the labels of this metric.
const VLLM_CACHE: &str = "vllm:cache_config_info";

/// Values of one scrape. Latencies are in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct EngineSignals {
    /// Requests it decodes now.
    pub running: Option<u32>,
    /// Requests it has queued.
    pub waiting: Option<u32>,
    /// Share of its KV cache in use, 0…1.
    pub kv_used: Option<f64>,
    /// Tokens its KV cache holds.
    pub kv_tokens: Option<u64>,
    /// 90th percentile of its recent times to first token, in seconds.
    pub ttft: Option<f64>,
    /// 90th percentile of its recent times between tokens, in seconds.
    pub itl: Option<f64>,
}

impl EngineSignals {
    /// Returns `true` if no signal was found.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Default)]
pub(super) struct ScrapeReader {
    renames: Vec<Rename>,
    ttft: HistogramWindow,
    itl: HistogramWindow,
}

impl ScrapeReader {
    pub(super) fn new(renames: Vec<Rename>) -> Self {
        Self { renames, ..Self::default() }
    }

    pub(super) fn read(&mut self, text: &str) -> EngineSignals {
        let scrape = Scrape::read(text);
        let ttft = self.name(Signal::Ttft, &scrape, "_bucket").to_owned();
        let itl = self.name(Signal::Itl, &scrape, "_bucket").to_owned();
        // Engines of several parts have a series each: sum requests, take the fullest cache.
        let sum = |signal| {
            let samples = scrape.get(self.name(signal, &scrape, ""));
            let sum: f64 = samples.iter().map(|sample| sample.value).filter(|value| value.is_finite()).sum();
            (!samples.is_empty()).then_some(sum.max(0.0))
        };
        let used = scrape.get(self.name(Signal::KvUsed, &scrape, ""));
        let used = used.iter().map(|sample| sample.value).filter(|value| value.is_finite()).reduce(f64::max);
        EngineSignals {
            running: sum(Signal::Running).map(|count| count as u32),
            waiting: sum(Signal::Waiting).map(|count| count as u32),
            kv_used: used.map(|used| used.clamp(0.0, 1.0)),
            kv_tokens: sum(Signal::KvTokens)
                .map(|tokens| tokens as u64)
                .or_else(|| blocks(&scrape))
                .filter(|it| *it > 0),
            ttft: self.ttft.p90(&scrape, &ttft),
            itl: self.itl.p90(&scrape, &itl),
        }
    }

    fn name(&self, signal: Signal, scrape: &Scrape<'_>, suffix: &str) -> &str {
        if let Some(rename) = self.renames.iter().find(|rename| rename.signal == signal) {
            return &rename.name;
        }
        let held = |name: &&&str| !scrape.get(&format!("{name}{suffix}")).is_empty();
        names(signal).iter().find(held).copied().unwrap_or_default()
    }
}

pub(super) fn slots(properties: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Properties {
        total_slots: u32,
    }
    let slots = serde_json::from_slice::<Properties>(properties).ok()?.total_slots;
    (1..=MAX_SLOTS).contains(&slots).then_some(slots)
}

/// Returns the KV cache size of vLLM in tokens, summed over its engines.
fn blocks(scrape: &Scrape<'_>) -> Option<u64> {
    let tokens = scrape.get(VLLM_CACHE).iter().map(|sample| {
        let number = |label| sample.label(label)?.parse::<u64>().ok();
        number("num_gpu_blocks")?.checked_mul(number("block_size")?)
    });
    tokens.sum::<Option<u64>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_is_understood() {
        for (text, running, waiting, kv_used, kv_tokens) in [
            (
                "vllm:num_requests_running{engine=\"0\"} 2\nvllm:num_requests_running{engine=\"1\"} 3\n\
                 vllm:num_requests_waiting{engine=\"0\"} 1\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n\
                 vllm:kv_cache_usage_perc{engine=\"1\"} 0.5\n\
                 vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"4096\"} 1\n",
                5,
                1,
                Some(0.5),
                Some(65536),
            ),
            (
                "vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nvllm:gpu_cache_usage_perc 0.1\n",
                1,
                0,
                Some(0.1),
                None,
            ),
            (
                "sglang:num_running_reqs{m=\"a\"} 4\nsglang:num_queue_reqs{m=\"a\"} 2\nsglang:token_usage{m=\"a\"} 0.28\n\
                 sglang:max_total_num_tokens{m=\"a\"} 1000\n",
                4,
                2,
                Some(0.28),
                Some(1000),
            ),
            ("llamacpp:requests_processing 1\nllamacpp:requests_deferred 7\n", 1, 7, None, None),
            ("tgi_batch_current_size 9\ntgi_queue_size 3\n", 9, 3, None, None),
        ] {
            let signals = ScrapeReader::default().read(text);
            assert_eq!((signals.running, signals.waiting), (Some(running), Some(waiting)), "{text}");
            assert_eq!((signals.kv_used, signals.kv_tokens), (kv_used, kv_tokens), "{text}");
        }
        assert!(ScrapeReader::default().read("something_else 1\n").is_empty());
    }

    #[test]
    fn llama_cpp_names_its_slots() {
        for (text, told) in [
            (
                r#"{"default_generation_settings":{"n_ctx":1024},"total_slots":8,"model_path":"m.gguf"}"#,
                Some(8),
            ),
            (r#"{"total_slots":0}"#, None),
            (r#"{"total_slots":-1}"#, None),
            (r#"{"total_slots":2000000}"#, None),
            ("{}", None),
            ("<html>", None),
        ] {
            assert_eq!(slots(text.as_bytes()), told, "{text}");
        }
    }

    #[test]
    fn names_can_be_given() {
        let renames =
            ["waiting=my_queue", "kv_used=my_cache", "itl=my_itl"].map(|text| text.parse().unwrap());
        let mut reader = ScrapeReader::new(renames.to_vec());
        let text = |count: u32| {
            format!(
                "my_queue 4\nmy_cache 1.5\nmy_itl_bucket{{le=\"0.1\"}} {count}\nvllm:num_requests_waiting 9\n"
            )
        };
        assert_eq!(reader.read(&text(0)).waiting, Some(4));
        let signals = reader.read(&text(10));
        assert_eq!((signals.kv_used, signals.itl.map(|itl| (itl * 1000.0).round())), (Some(1.0), Some(90.0)));
        for wrong in ["waiting", "waiting=", "queue=a", ""] {
            assert!(wrong.parse::<Rename>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn strange_values_stay_within_what_a_heartbeat_may_say() {
        let signals = ScrapeReader::default().read(
            "vllm:num_requests_running NaN\nvllm:num_requests_waiting -3\nvllm:kv_cache_usage_perc +Inf\n",
        );
        assert_eq!((signals.running, signals.waiting, signals.kv_used), (Some(0), Some(0), None));
    }
}
