//! `traffic-dam agent`: publishes heartbeats for a worker that sends none itself.

use std::sync::Arc;

use http::Uri;
use traffic_dam::agent::{self, AgentOptions};
use traffic_dam::config::syntax::{Glob, RedisUrl, WorkerUrl};
use traffic_dam::redis::publisher::HeartbeatPublisher;
use traffic_dam::scrape::Rename;

use super::arguments::read;
use super::member::{HeartbeatLoop, word};
use super::{CommandError, runtime};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// URL at which the agent reaches the worker, such as http://127.0.0.1:8000
    #[arg(long, value_parser = url)]
    worker: Uri,
    /// URL of Redis, such as redis://127.0.0.1:6379
    #[arg(long, env = "TRAFFIC_DAM_REDIS_URL", hide_env_values = true, value_parser = read::<RedisUrl>)]
    redis: RedisUrl,
    /// URL at which gateways reach the worker [default: the URL of --worker]
    #[arg(long, value_parser = url)]
    advertise: Option<Uri>,
    #[command(flatten)]
    member: HeartbeatLoop,
    /// Model that the worker serves, or a pattern
    #[arg(long, value_parser = read::<Glob>)]
    model: Option<Glob>,
    /// Requests that the worker decodes at once (vLLM: --max-num-seqs)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    slots: Option<u32>,
    /// Tokens that the worker's KV cache holds, if its metrics do not report it
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    kv_tokens: Option<u64>,
    /// Path that answers 200 while the worker is healthy
    #[arg(long, default_value = "/health", value_parser = path)]
    health: String,
    /// Path of the worker's Prometheus metrics
    #[arg(long, default_value = "/metrics", value_parser = path)]
    metrics: String,
    /// Name of the worker's metric for a signal, such as waiting=my_queue_length; signals are
    /// running, waiting, kv_used, kv_tokens, ttft and itl
    #[arg(long = "metric")]
    renames: Vec<Rename>,
    /// Load per core from which the machine is overloaded (yellow from 0.7 of it); 0 for no check
    #[arg(long, default_value_t = 1.0)]
    max_load: f64,
}

fn url(text: &str) -> Result<Uri, String> {
    read::<WorkerUrl>(text).map(|url| url.0)
}

fn path(text: &str) -> Result<String, String> {
    let sound = text.starts_with('/') && text.parse::<http::uri::PathAndQuery>().is_ok();
    if sound { Ok(text.to_owned()) } else { Err("must be a path that begins with `/`".to_owned()) }
}

/// Makes a name from a worker's host and port: letters, digits, and hyphens for all else.
fn name(worker: &Uri) -> Arc<str> {
    let authority = worker.authority().map_or("", |authority| authority.as_str());
    let name = authority.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' });
    name.take(64).collect::<String>().trim_matches('-').into()
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let Arguments { worker, redis, member, advertise, .. } = arguments;
    if worker.scheme_str() != Some("http") {
        return Err(CommandError::Usage(
            "--worker: must be an `http://` URL: the agent runs beside its worker".to_owned(),
        ));
    }
    if !arguments.max_load.is_finite() || arguments.max_load < 0.0 {
        return Err(CommandError::Usage("--max-load: must be a number of at least 0".to_owned()));
    }
    let advertise = advertise.as_ref().unwrap_or(worker);
    let options = AgentOptions {
        worker: worker.clone(),
        advertise: advertise.clone(),
        id: word(&member.id).unwrap_or_else(|| name(advertise)),
        pool: word(&member.pool),
        model: arguments.model.as_ref().map(|model| Arc::clone(&model.0)),
        colour: word(&member.colour),
        version: word(&member.version),
        slots: arguments.slots,
        kv_tokens: arguments.kv_tokens,
        interval: member.interval,
        health: arguments.health.clone(),
        metrics: arguments.metrics.clone(),
        renames: arguments.renames.clone(),
        max_load: Some(arguments.max_load).filter(|load| *load > 0.0),
        drain: member.drain,
    };
    let publisher = HeartbeatPublisher::new(member.settings(redis), member.key());
    runtime()?.block_on(agent::run(options, publisher, super::serve::terminated()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_without_a_name_is_called_by_its_address() {
        for (worker, called) in [
            ("http://127.0.0.1:8000", "127-0-0-1-8000"),
            ("http://[::1]:8000/base", "1--8000"),
            ("http://gpu-7.example", "gpu-7-example"),
        ] {
            assert_eq!(&*name(&url(worker).unwrap()), called);
        }
        assert!(path("metrics").is_err() && path("/metrics").is_ok());
    }
}
