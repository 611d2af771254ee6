//! A gateway and its workers in one process.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use traffic_dam::app::{App, BoundListeners};
use traffic_dam::clock::Clock;
use traffic_dam::config::{self, LoadContext, Overrides, Settings};
use traffic_dam::server::admin::AdminSource;
use traffic_dam::sim::worker::{self, WorkerOptions};

use super::client::{Answer, PATIENCE, ask, get, request};

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Returns the options of a fast worker.
fn fast(slots: u32) -> WorkerOptions {
    WorkerOptions {
        slots,
        prefill_base: Duration::from_millis(1),
        token_time: Duration::from_millis(1),
        token_time_per_seq: Duration::ZERO,
        kv_tokens: 10_000_000,
        ..WorkerOptions::default()
    }
}

/// A fast simulated worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Worker {
    pub(crate) fn start(slots: u32) -> Self {
        Self::start_at(loopback(), slots)
    }

    /// Returns a worker that reports this model.
    pub(crate) fn serving(model: &str, slots: u32) -> Self {
        Self::serving_at(loopback(), model, slots)
    }

    /// Returns a worker at this address that reports this model.
    pub(crate) fn serving_at(addr: SocketAddr, model: &str, slots: u32) -> Self {
        Self::start_with(addr, WorkerOptions { model: model.to_owned(), ..fast(slots) })
    }

    /// Returns a worker with a prefix cache.
    pub(crate) fn caching(slots: u32) -> Self {
        Self::start_with(loopback(), WorkerOptions { prefix_cache: true, ..fast(slots) })
    }

    /// Returns a worker of visible speed, whose times are longer by this factor.
    pub(crate) fn paced(slots: u32, factor: f64) -> Self {
        let [base, token] = [10, 4].map(|millis| Duration::from_millis(millis).mul_f64(factor));
        let options = WorkerOptions { prefill_base: base, token_time: token, ..fast(slots) };
        Self::start_with(loopback(), options)
    }

    pub(crate) fn start_at(addr: SocketAddr, slots: u32) -> Self {
        Self::start_with(addr, fast(slots))
    }

    fn start_with(addr: SocketAddr, options: WorkerOptions) -> Self {
        let listener = traffic_dam::net::bind(addr).unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(worker::serve(listener, options, async {
            stopped.await.unwrap_or_default();
        }));
        Self { addr, stop: Some(stop), task }
    }

    /// Returns its entry in `workers.static`.
    pub(crate) fn entry(&self, id: &str, slots: u32) -> String {
        format!("{{ id: {id}, url: \"http://{}\", slots: {slots} }}", self.addr)
    }

    /// Ends as a killed process does.
    pub(crate) async fn kill(mut self) {
        drop(self.stop.take());
        self.task.await.unwrap();
    }

    pub(crate) async fn fault(&self, fault: &str, count: u32) {
        let body = format!("{{\"fault\":\"{fault}\",\"count\":{count}}}");
        assert_eq!(ask(self.addr, request("POST /debug/fault", &[], body)).await.status, 200);
    }

    pub(crate) async fn last(&self) -> Value {
        ask(self.addr, get("/debug/last")).await.json()
    }

    pub(crate) async fn tally(&self, what: &str) -> u64 {
        ask(self.addr, get("/debug/requests")).await.json()[what].as_u64().unwrap()
    }

    /// Waits until it has `count` requests in flight.
    pub(crate) async fn busy_with(&self, count: u64) {
        eventually("the worker's requests in flight", async || self.tally("in_flight").await == count).await;
    }
}

/// Parses settings.
pub(crate) fn settings(text: &str) -> Settings {
    let surroundings =
        LoadContext { variable: &|_| None, obstacle: &|_| None, overrides: Overrides::default() };
    config::from_str(text, Path::new("dam.yaml"), surroundings)
        .unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

/// Returns settings with these workers.
pub(crate) fn before(workers: &[String], more: &str) -> String {
    format!("workers:\n  static: [{}]\n{more}", workers.join(", "))
}

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Dam {
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) app: App,
    served: JoinHandle<()>,
}

impl Dam {
    pub(crate) fn start(text: &str) -> Self {
        let app = App::new(settings(text), Clock::system()).unwrap();
        let bind = || traffic_dam::net::bind(loopback()).unwrap();
        let listeners = BoundListeners::bound(bind(), bind());
        let (addr, admin) = listeners.addresses().unwrap();
        let serving = app.clone();
        let served = tokio::spawn(async move { serving.serve(listeners).await });
        Self { addr, admin, app, served }
    }

    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        ask(self.addr, request).await
    }

    /// Waits until it no longer serves.
    pub(crate) async fn ended(&mut self) {
        tokio::time::timeout(PATIENCE, &mut self.served).await.expect("it ends").unwrap();
    }

    /// Returns the sum of all series of a metric whose labels contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        sum(&self.app.metrics(), name, label)
    }

    /// Returns the permits in use at all workers plus the waiting requests.
    pub(crate) fn held(&self) -> u64 {
        let state = self.app.state();
        let pools = state["pools"].as_array().unwrap().iter();
        pools
            .map(|pool| {
                let waiting: u64 =
                    pool["queue"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
                let workers = pool["workers"].as_array().unwrap().iter();
                // A queue's workers are part of their side.
                let sides = workers.filter(|worker| worker["member_of"].is_null());
                let permits: u64 = sides.map(|side| side["in_flight"].as_u64().unwrap()).sum();
                assert_eq!(Some(permits), pool["in_flight"].as_u64());
                permits + waiting
            })
            .sum()
    }

    /// Waits until it holds nothing of any request.
    pub(crate) async fn idle(&self) {
        eventually("an idle gateway", async || self.held() == 0 && self.metric("in_flight", "") == 0.0).await;
        assert_eq!(self.app.state()["buffered_bytes"], 0);
    }
}

impl Drop for Dam {
    #[expect(clippy::print_stderr, reason = "the output of a failed test")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the gateway when the test failed: {}", self.app.state());
        }
        self.app.close();
        self.served.abort();
    }
}

/// Sums all series of a metric whose labels contain `label`, in the text of `/metrics`.
pub(crate) fn sum(metrics: &str, name: &str, label: &str) -> f64 {
    let name = format!("traffic_dam_{name}");
    let series = metrics.lines().filter_map(|line| line.strip_prefix(&name));
    series
        .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        .map(|rest| rest.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// Waits until `holds` is true.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never came: {what}"));
}
