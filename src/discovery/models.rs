//! Asks discovered workers which models they serve.
//!
//! A worker whose model nobody told is used only once it has answered. The others are asked too:
//! what they list is how a stranger at their address is told from them while the source is away.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use tokio::time::{MissedTickBehavior, interval};

use super::handle::DiscoveryContext;
use crate::clock::Nanos;
use crate::fleet::registry::UnnamedWorker;
use crate::net::fetch::Fetch;
use crate::openai::model_list::{LARGEST_LIST, MODELS_PATH, model_names};

/// How often new workers are looked for.
const LOOK: Duration = Duration::from_millis(200);
/// Longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Workers that are asked at once.
const AT_ONCE: usize = 16;
/// Time until a worker is asked again: after an answer, and after the first failure; that time
/// doubles with each further one, up to the other.
const AGAIN: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(500);

/// When a worker is asked next.
struct NextQuestion {
    at: Nanos,
    failures: u32,
    url: Uri,
    address: IpAddr,
}

/// Asks discovered workers for their models until dropped.
pub(crate) async fn ask_models(context: DiscoveryContext) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next: HashMap<Arc<str>, NextQuestion> = HashMap::new();
    loop {
        ticks.tick().await;
        let workers = context.registry.lock().workers_to_ask();
        let now = context.clock.now();
        let places: HashMap<_, _> =
            workers.iter().map(|worker| (&worker.id, (&worker.url, worker.address))).collect();
        // Another process may have come to the place of a worker, under its id.
        next.retain(|id, question| places.get(id) == Some(&(&question.url, question.address)));
        drop(places);
        let due = |worker: &UnnamedWorker| next.get(&worker.id).is_none_or(|question| question.at <= now);
        let mut due = workers.into_iter().filter(due);
        let mut asked: FuturesUnordered<_> =
            due.by_ref().take(AT_ONCE).map(|worker| ask(&context, worker)).collect();
        let due: Vec<_> = due.collect();
        let mut due = due.into_iter();
        while let Some((worker, names)) = asked.next().await {
            let failures = next.get(&worker.id).map_or(0, |question| question.failures);
            let now = context.clock.now();
            let (at, failures) = if names.is_empty() {
                (
                    now + SOON.saturating_mul(2_u32.saturating_pow(failures)).min(AGAIN),
                    failures.saturating_add(1),
                )
            } else {
                context.registry.lock().name_models(&worker.id, names);
                context.changed.notify_one();
                (now + AGAIN, 0)
            };
            let UnnamedWorker { id, url, address, .. } = worker;
            next.insert(id, NextQuestion { at, failures, url, address });
            asked.extend(due.next().map(|worker| ask(&context, worker)));
        }
    }
}

/// Returns the models that a worker lists; empty if it gives no list.
async fn ask(context: &DiscoveryContext, worker: UnnamedWorker) -> (UnnamedWorker, Vec<Arc<str>>) {
    let tls = (context.tls)();
    let path = format!("{}{MODELS_PATH}", worker.url.path().trim_end_matches('/'));
    let fetch = Fetch {
        server: &worker.url,
        address: Some(worker.address),
        path: &path,
        headers: &worker.headers,
        tls: tls.as_ref(),
        timeout: TIMEOUT,
        max_bytes: LARGEST_LIST,
    };
    let names = match fetch.get().await {
        Ok(page) => model_names(&page),
        Err(error) => {
            tracing::debug!(worker = &*worker.id, %error, "a discovered worker does not list its models");
            Vec::new()
        }
    };
    (worker, names)
}
